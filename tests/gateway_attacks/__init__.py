"""Attacks on a booted host with a gateway: on its port, from another host and from a user of the host itself, and around it."""
