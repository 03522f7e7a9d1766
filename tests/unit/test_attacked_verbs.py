"""The attack suite knows every verb and playbook that there is, and what it crafts is for verbs that it knows."""

from pathlib import Path

from chromad import cli

from tests.attacks.inside import crafted, forged
from tests.attacks.inside.verbs import CHROMACTL, PLAYBOOK, VERBS

_PLAYBOOKS = Path(__file__).parents[2] / "ansible/playbooks"
# On hosts of Prometheus, where there is no service user
_ELSEWHERE = {"monitoring"}
# It takes away the host that the suite lives on; the scenario default looks at what it leaves.
_LAST = {"remove"}


def test_every_verb_is_attacked() -> None:
    words = {word for each in VERBS if each.program != PLAYBOOK for word in each.words}
    assert set(cli.VERBS) <= words
    assert {"--undo", "--fix", "--target", "--collection", "--at", "init", "show", "forget", "validate"} <= words
    assert any(each.program == CHROMACTL for each in VERBS)


def test_every_playbook_is_attacked() -> None:
    known = {each.words[0] for each in VERBS if each.program == PLAYBOOK}
    assert {path.stem for path in _PLAYBOOKS.glob("*.yml")} - _ELSEWHERE - _LAST == known


def test_what_is_crafted_is_for_verbs_that_are_known() -> None:
    names = {each.name for each in VERBS}
    crafts = [*crafted.crafts(), *forged.backups("key")]
    asked = {name for each in crafts for name in each.verbs} | {name for *_, some in forged.liars() for name in some}
    assert asked <= names
    assert len({each.name for each in crafts}) == len(crafts) > 150
    assert {each.like for each in VERBS if each.like} <= names
