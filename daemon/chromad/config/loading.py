"""Loading the configuration file, with every problem named at once."""

import copy
import errno
import os
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from chromad.config.schema import Config
from chromad.errors import ConfigurationError, PermissionProblem, passes

# Bytes; more than any real one has, and little enough to be parsed while the watchdog waits.
_LARGEST = 128 << 10
# So many problems are named at a time.
_MOST_PROBLEMS = 50


class _Loader(yaml.SafeLoader):
    """Refuses what YAML lets pass silently: a key given twice, and keys merged from elsewhere, which can grow without end."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = key_node.value
            if key_node.tag == "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(
                    None, None, "keys cannot be merged (<<) here", key_node.start_mark
                )
            if isinstance(key, str) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is given twice", key_node.start_mark
                )
            if isinstance(key, str):
                seen.add(key)
        return super().construct_mapping(node, deep)


def load(path: Path) -> Config:
    """Reads and validates a configuration file.

    Raises ConfigurationError, naming every problem as `At 'listen.port': …`, and PermissionProblem when
    the file cannot be read.
    """
    try:
        text = _read(path).decode()
    except FileNotFoundError:
        raise ConfigurationError(
            f"{path}: the configuration file does not exist", "give one with --config FILE"
        ) from None
    except PermissionError:
        raise PermissionProblem(
            f"{path}: not readable for this user", "run as root, or as a member of the service's group"
        ) from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{path}: not UTF-8 text", "a configuration file is YAML") from None
    except OSError as error:
        if passes(error):
            raise
        raise ConfigurationError(f"{path}: {error.strerror}", "give a readable file with --config FILE") from None
    document = _parse(path, text)
    try:
        return Config.model_validate(document)
    except ValidationError as error:
        raise ConfigurationError(
            _problems(path, error, document), "chromactl config show prints every key with its value"
        ) from None


def _parse(path: Path, text: str) -> dict[Any, Any]:
    """The keys and values in the text of a file, which is named in errors."""
    try:
        document = yaml.load(text, _Loader)  # noqa: S506 (_Loader is a SafeLoader)
    except yaml.YAMLError as error:
        raise ConfigurationError(
            f"{path}: not valid YAML: {_one_line(error)}", "check indentation and colons"
        ) from None
    except RecursionError:
        raise ConfigurationError(f"{path}: not valid YAML: nested too deeply", "write plain keys and values") from None
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # PyYAML lets these out of its constructors when a tag and its value do not go together.
        raise ConfigurationError(f"{path}: not valid YAML: {error!r}", "write plain keys and values") from None
    if document is None:
        document = {}
    if not isinstance(document, dict):
        raise ConfigurationError(
            f"{path}: holds a {type(document).__name__}, not keys and values", "start with `data_dir: …`"
        )
    return document


def _read(path: Path) -> bytes:
    """The content of a file, and of nothing that has no end or never begins (devices, pipes). Raises OSError."""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK | os.O_NOCTTY)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        content = file.read(_LARGEST + 1)
    if len(content) > _LARGEST:
        raise OSError(errno.EFBIG, f"larger than {_LARGEST >> 10} KiB")
    return content


def _one_line(error: yaml.YAMLError) -> str:
    return " ".join(str(error).split())


def _problems(path: Path, error: ValidationError, document: dict[Any, Any]) -> str:
    lines = sorted({*_lines(error), *_hidden(error, document)})
    count = f"{len(lines)} problems" if len(lines) > 1 else "1 problem"
    shown = lines[:_MOST_PROBLEMS]
    if len(lines) > len(shown):
        shown.append(f"and {len(lines) - len(shown)} more")
    return "\n".join([f"{path}: {count}", *(f"  {line}" for line in shown)])


def _lines(error: ValidationError) -> Iterator[str]:
    for problem in error.errors(include_url=False):
        where = ".".join(_keys(problem["loc"]))
        what = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            what = "unknown key"
        yield from (f"At '{where}': {line}" if where else line for line in what.splitlines())


def _hidden(error: ValidationError, document: dict[Any, Any]) -> list[str]:
    """The contradictions among the keys that are valid each for itself, which are not looked at while others are not."""
    wrong = [_keys(problem["loc"]) for problem in error.errors(include_url=False)]
    if [] in wrong:
        return []
    rest = copy.deepcopy(document)
    for keys in wrong:
        _drop(rest, keys)
    names = {".".join(keys) for keys in wrong}
    if "data_dir" in names:
        # They lie beside it.
        names |= {"checkpoint_dir", "the quarantine"}
    try:
        Config.model_validate(rest)
    except ValidationError as more:
        # What was dropped has its default now, and contradicts nothing.
        return [line for line in _lines(more) if not any(re.search(rf"\b{re.escape(name)}\b", line) for name in names)]
    return []


def _drop(document: Any, keys: Sequence[str]) -> None:
    """Removes the deepest key of a path that is there."""
    *sections, last = keys
    for number, key in enumerate(sections):
        if not isinstance(document, dict) or not isinstance(document.get(key), dict):
            last = sections[number]
            break
        document = document[key]
    if isinstance(document, dict):
        document.pop(last, None)


def _keys(place: tuple[int | str, ...]) -> list[str]:
    return [str(part) for part in place if not str(part).startswith(("literal[", "list["))]
