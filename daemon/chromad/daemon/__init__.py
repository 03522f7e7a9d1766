"""The daemon: its cycle, and what runs beside the engine."""
