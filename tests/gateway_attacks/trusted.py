"""An identity provider and an authority of clients' certificates, and what they give to a gateway that trusts them.

python -m tests.gateway_attacks.trusted DIRECTORY writes that, and forgets the keys that belong to it.
"""

import argparse
import sys
import tempfile
from datetime import timedelta
from pathlib import Path

from tests.integration import jwt_cases
from tests.integration.authority import Authority

# Where converge.yml of the scenario puts it
ON_HOST = Path("/etc/ssl/trusted")


class Trusted:
    """The provider's keys are those of jwt_cases. revoked: a certificate's file whose authority has revoked it."""

    def __init__(self) -> None:
        # It goes with this object.
        self._directory = tempfile.TemporaryDirectory(prefix="chromad-trusted-")
        self.authority = Authority(Path(self._directory.name))
        self.revoked = self.authority.sign("c-rw")

    def write(self, directory: Path) -> None:
        """Nothing of it is a secret."""
        directory.mkdir(parents=True)
        for name, key in jwt_cases.FILES.items():
            (directory / name.replace("jwt", "key")).write_bytes(key)
        (directory / "clients.pem").write_bytes(self.authority.pem)
        (directory / "revoked.pem").write_bytes(self.list_of(self.revoked))

    def list_of(self, *revoked: Path) -> bytes:
        return self.authority.revoked(*revoked, ends=timedelta(days=30))


def main() -> int:
    """0 when it is written."""
    parser = argparse.ArgumentParser(prog="python -m tests.gateway_attacks.trusted", description=__doc__)
    parser.add_argument("directory", type=Path)
    Trusted().write(parser.parse_args().directory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
