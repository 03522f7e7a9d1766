"""`chromactl`: hears of signals before the command line is imported, which takes most of a start."""

from chromad import signals


def main() -> None:
    """Runs a verb, see `cli.main`."""
    signals.raise_on_end()
    with signals.ending():
        from chromad import streams

        streams.prepare()
        from chromad import cli

        cli.main()
