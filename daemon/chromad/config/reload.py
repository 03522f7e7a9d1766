"""What a running daemon takes over, and what needs a restart."""

from typing import Any, Literal

from chromad.config.schema import Config

# Keys that a running daemon takes over on SIGHUP, with all of the section backup; all others need a restart.
RUNTIME_KEYS = frozenset(
    {
        "log_level",
        "checkpoint.interval",
        "checkpoint.after_log",
        "disk.warn_percent",
        "disk.fence_percent",
        "disk.release_percent",
        "disk.command",
    }
)


def is_runtime(key: str) -> bool:
    """Whether a running daemon takes a dotted key over."""
    return key in RUNTIME_KEYS or key.startswith("backup.")


def differences(old: Config, new: Config) -> list[str]:
    """The dotted keys whose values differ, sorted."""
    before, after = flatten(old.model_dump()), flatten(new.model_dump())
    return sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))


def pending(loaded: Config, wanted: Config) -> tuple[Literal["none", "reload", "restart"], list[str]]:
    """What it takes for a daemon with one configuration to have another, and the dotted keys that differ."""
    keys = differences(loaded, wanted)
    if not keys:
        return "none", []
    return "reload" if all(map(is_runtime, keys)) else "restart", keys


def flatten(document: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in document.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
