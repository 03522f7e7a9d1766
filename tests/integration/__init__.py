"""The real daemon, the real engine, the official client."""
