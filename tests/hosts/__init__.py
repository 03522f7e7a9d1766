"""Throwaway Debian hosts for the tests: a booted systemd in systemd-nspawn, reached over ssh.

`python -m tests.hosts --help`, from the root of the repository, as root.
"""
