"""Long runs that tests leave out: python -m tests.soak.<module>."""
