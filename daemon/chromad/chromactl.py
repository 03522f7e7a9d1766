"""`chromactl`: hears of signals before the command line is imported, which takes most of a start."""

import os

from chromad.errors import starve, starved
from chromad.host import signals


def main() -> None:
    """Runs a verb, see `cli.main`."""
    signals.raise_on_end()
    # Each of numpy's takes memory, and none is for what it does here.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    with signals.ending():
        try:
            from chromad.host import streams

            streams.prepare()
            from chromad import cli

            cli.main()
        # Of what is imported
        except Exception as error:
            if starved(error):
                starve()
            raise
