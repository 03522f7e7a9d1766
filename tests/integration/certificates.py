"""Certificates that vouch for themselves."""

import os
import subprocess
from pathlib import Path

from tests import packages


def make_certificate(path: Path, *options: str, names: str = "DNS:localhost,IP:127.0.0.1") -> None:
    """A certificate with its key, in one file, that vouches for itself."""
    packages.need({"openssl": "openssl"})
    key, certificate = path.with_suffix(".key"), path.with_suffix(".crt")
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-subj",
        "/CN=tests",
    ]
    command += [
        "-addext",
        f"subjectAltName={names}",
        "-keyout",
        str(key),
        "-out",
        str(certificate),
        *(options or ("-days", "2")),
    ]
    subprocess.run(command, check=True, capture_output=True)
    path.write_bytes(certificate.read_bytes() + key.read_bytes())
    os.chmod(path, 0o600)
