"""What Chroma defines: its database, log, segments and their files, and all that changes with a new Chroma."""
