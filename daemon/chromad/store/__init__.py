"""The only package that knows Chroma's files and tables."""
