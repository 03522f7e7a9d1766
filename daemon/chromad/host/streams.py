"""The standard streams of a program: closed ones are opened, and output that cannot be written does not end the work."""

import io
import os
import sys

# A descriptor that the shell has closed would be given to the next file that is opened, which would then be printed into.
_INSTEAD = (os.devnull, "/dev/full", os.devnull)
_STDOUT = 1


class _Output(io.FileIO):
    """Standard output. lost: the first error of a write; what comes after it is dropped."""

    lost: OSError | None = None

    def write(self, data: object, /) -> int:
        """As of any file, but raises nothing."""
        if self.lost is None:
            try:
                return super().write(data)  # type: ignore[arg-type]
            except OSError as error:
                self.lost = error
        return memoryview(data).nbytes  # type: ignore[arg-type]


class _State:
    output: _Output | None = None


def prepare() -> None:
    """Opens what is closed, and watches over standard output."""
    for number, path in enumerate(_INSTEAD):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(path, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)
    raw = _State.output = _Output(_STDOUT, "w", closefd=False)
    encoding = sys.stdout.encoding if sys.stdout else "utf-8"
    sys.stdout = io.TextIOWrapper(io.BufferedWriter(raw), encoding, "backslashreplace", line_buffering=raw.isatty())
    if not sys.stderr:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (as long as the program)


def lost() -> OSError | None:
    """Why some of what was printed could not be written; None when all of it was."""
    if _State.output is None:
        return None
    sys.stdout.flush()
    return _State.output.lost
