"""Upgrades between real releases of Chroma on booted hosts: an older release, and failures forced at each step."""
