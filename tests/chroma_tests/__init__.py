"""Chroma's own tests of its clients, which its package brings along, against the service and through the gateway."""
