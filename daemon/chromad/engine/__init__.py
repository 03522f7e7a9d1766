"""Processes of Chroma's engine, and requests to them."""
