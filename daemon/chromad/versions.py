"""Which versions are installed."""

from importlib.metadata import PackageNotFoundError, version

from chromad.errors import ConfigurationError


def engine() -> str:
    """The version of the installed chromadb package. Raises ConfigurationError when there is none."""
    return _installed("chromadb")


def chromad() -> str:
    """The version of this package."""
    return _installed("chromad")


def numbers(version_text: str) -> tuple[int, ...]:
    """A version as numbers that compare: '1.5.9' -> (1, 5, 9)."""
    return tuple(int(part) if part.isascii() and part.isdigit() else 0 for part in version_text.split("."))


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        raise ConfigurationError(
            f"the Python package {package} is not installed", "install the locked requirements again"
        ) from None
