"""The sandbox of the engines that verbs of root's start, on a booted host: what their processes have and may do, and that they end."""
