"""Benchmarks against stock Chroma, interleaved and side by side: python -m tests.bench."""
