"""`chromad`: the daemon."""

import argparse
import os
import sqlite3
import sys
from pathlib import Path

from chromad.errors import ChromadError, from_system, starve, starved
from chromad.host import signals


def parser() -> argparse.ArgumentParser:
    """The options of the daemon."""
    made = argparse.ArgumentParser(prog="chromad", description="Runs ChromaDB as a service on one data directory.")
    made.add_argument(
        "--config", type=Path, metavar="FILE", help="The configuration; default: /etc/chromadb/chromad.yml."
    )
    made.add_argument(
        "--accept-empty",
        action="store_true",
        help="Serve the data directory though checkpoints or backups beside it belong to other data; needed once.",
    )
    return made


def main() -> None:
    """Runs the daemon; exits 0 after a clean stop, else with the code of the error's class."""
    signals.install()
    # Only ever tighter than what the unit says.
    os.umask(os.umask(0) | 0o027)
    options = parser().parse_args()
    try:
        _run(options.config, options.accept_empty)
    # Of what is imported
    except Exception as error:
        if starved(error):
            starve()
        raise


def _run(path: Path | None, accept_empty: bool) -> None:
    # Here, not above: signals are to be caught before these take their time.
    from chromad import config
    from chromad.host import memory
    from chromad.logs import lines

    memory.stay_small()
    lines.setup()
    try:
        settings = config.load(path or config.DEFAULT_PATH)
        lines.set_level(settings.log_level)
        from chromad.daemon.lifecycle import Daemon

        Daemon(settings, path or config.DEFAULT_PATH, accept_empty=accept_empty).run()
    except ChromadError as error:
        lines.report(error)
        sys.exit(error.exit_code)
    except (OSError, sqlite3.Error) as error:
        told = from_system(error)
        lines.report(told)
        sys.exit(told.exit_code)


if __name__ == "__main__":
    main()
