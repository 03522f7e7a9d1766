"""Whatever a configuration file holds, loading it gives a Config or a ConfigurationError."""

import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from chromad import config
from chromad.config.reload import flatten
from chromad.errors import ConfigurationError
from hypothesis import given, settings
from hypothesis import strategies as st

SECTIONS = ["backup.options.x", "backup.copy_to.repository", "backup.copy_to.password_file"]
DOTTED = sorted({*flatten(config.Config().model_dump()), *SECTIONS})
KEYS = sorted({part for key in DOTTED for part in key.split(".")} | {"other"})

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**400, -(10**400)])
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(
        [
            "all",
            "none",
            "/data",
            "/d\0",
            "sftp:a:/b",
            "rest:https://a:b@c/",
            "127.0.0.1",
            "::1",
            "10m",
            "9" * 400 + "s",
            "9" * 5000 + "M",
        ]
    )
    | st.dates()
)
DOCUMENTS = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | SCALARS, inner, max_size=4),
    max_leaves=12,
)
TAGS = ["map", "seq", "int", "float", "bool", "null", "timestamp", "binary", "set", "omap", "pairs", "str", "none"]


def outcome(text: str) -> config.Config | ConfigurationError:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "chromad.yml")
        path.write_text(text, encoding="utf-8")
        try:
            return config.load(path)
        except ConfigurationError as error:
            return error


def assert_told(found: config.Config | ConfigurationError) -> None:
    if isinstance(found, ConfigurationError):
        assert found.message
        assert found.hint


@settings(deadline=None, max_examples=300)
@given(DOCUMENTS)
def test_any_document(document: Any) -> None:
    assert_told(outcome(yaml.safe_dump(document)))


@settings(deadline=None, max_examples=300)
@given(st.dictionaries(st.sampled_from(DOTTED), SCALARS, min_size=1, max_size=3))
def test_any_values_of_known_keys(values: dict[str, Any]) -> None:
    document: dict[str, Any] = {}
    for dotted, value in values.items():
        *sections, key = dotted.split(".")
        place = document
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                break
        else:
            place[key] = value
    assert_told(outcome(yaml.safe_dump(document)))


@settings(deadline=None, max_examples=300)
@given(st.text(st.characters(codec="utf-8"), max_size=200))
def test_any_text(text: str) -> None:
    assert_told(outcome(text))


@settings(deadline=None, max_examples=300)
@given(st.text(st.sampled_from("ab:{}[]!&*<>|-?'\"#,\n %0_.~"), max_size=60))
def test_any_yaml_like_text(text: str) -> None:
    assert_told(outcome(text))


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize("value", ["", "x", "'_'", "[a]", "{a: b}", "2026-99-99"])
def test_any_tag(tag: str, value: str) -> None:
    assert_told(outcome(f"data_dir: !!{tag} {value}"))
