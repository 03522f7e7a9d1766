"""The next release of Chromad, made of this one, with the same Chroma. python -m tests.upgrade.newer DIRECTORY"""

import sys
from pathlib import Path

from tests.upgrade.older import copy

if __name__ == "__main__":
    copy(Path(sys.argv[1]), {"daemon/pyproject.toml": {'version = "0.1.0"': 'version = "0.1.1"'}})
