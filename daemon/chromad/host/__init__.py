"""The host: files, users and privileges, with nothing of Chroma in it."""
