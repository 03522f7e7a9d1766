"""Which versions are installed."""

from importlib.metadata import PackageNotFoundError, version

from chromad.errors import ConfigurationError

_DIGITS = 9


def engine() -> str:
    """The version of the installed chromadb package. Raises ConfigurationError when there is none."""
    return _installed("chromadb")


def chromad() -> str:
    """The version of this package."""
    return _installed("chromad")


def numbers(version_text: str) -> tuple[int, ...]:
    """A version as numbers that compare: '1.5.9' -> (1, 5, 9). What is no number, or an unlikely one, counts as 0."""
    parts = version_text.split(".")
    return tuple(int(part) if part.isascii() and part.isdigit() and len(part) <= _DIGITS else 0 for part in parts)


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        raise ConfigurationError(
            f"the Python package {package} is not installed", "install the locked requirements again"
        ) from None
