"""Which attacks there are on a verb, and which of them are tried."""

import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from . import crafted, forged, places, racer
from .attack import Attacker, Make
from .crafted import Craft
from .layout import BACKUPS
from .racer import Target
from .traces import Touched
from .verbs import PLAYBOOK, VERBS, Verb

# Static ones of a playbook, which takes the better part of a minute
_PLAYED = 2


def look(attacker: Attacker, verb: Verb) -> Iterator[Make]:
    """Without an attack."""
    if verb.program != PLAYBOOK:
        yield partial(attacker.look, verb)


def static(attacker: Attacker, verb: Verb, rng: random.Random, limit: int, only: str) -> Iterator[Make]:
    """Everything in the place of everything, or so many of these, what root's part touches first. only: where a path has that."""
    found = attacker.trace(verb)
    if verb.program == PLAYBOOK and limit:
        limit = _PLAYED
    cases = [(each, kind) for each in found for kind in places.kinds(each.path) if only in str(each.path)]
    rng.shuffle(cases)
    cases.sort(key=lambda case: not case[0].by_root)
    if limit:
        # Restic is restic's; of what it touches a few are enough.
        restics = [case for case in cases if BACKUPS in case[0].path.parents]
        others = [case for case in cases if case not in restics]
        cases = [*restics[: max(limit // 4, limit - len(others))], *others][:limit]
    for each, kind in cases:
        yield partial(attacker.put, verb, each.path, kind)


def races(attacker: Attacker, verb: Verb, rng: random.Random, runs: int, wanted: int, only: str) -> Iterator[Make]:
    """So many rounds of a verb: each is a place that is exchanged from some moment on until the verb has ended. runs: in which
    they are done together, more where there are few places."""
    found = [each for each in attacker.trace(verb) if only in str(each.path)]
    runs = min(runs, verb.runs)
    rounds = number = 0
    while rounds < wanted and (found or verb.busy):
        # Half of them leave alone what the service user's part reads first, or it would be refused before root does anything.
        gently = number % 2 == 0
        chosen = [_target(found, verb, rng, of_root=gently) for _ in range(max(wanted // runs, 1))]
        targets = list({each.place: each for each in chosen}.values())
        rounds, number = rounds + len(targets), number + 1
        yield partial(
            attacker.race,
            verb,
            targets,
            gently=gently,
            part=rng.choice((0.0, rng.random())),
            seed=rng.randrange(1 << 30),
            rounds=len(targets),
        )


def _target(found: list[Touched], verb: Verb, rng: random.Random, *, of_root: bool) -> Target:
    near = [each for each in found if each.by_root] if of_root else []
    if verb.busy and (not found or rng.random() < (0.5 if near else 0.3)):
        kind = rng.choice(("link-closed", "link-readable", "link-absent", "pipe"))
        return Target(rng.choice(list(verb.busy)), kind, new=True)
    place: Path = rng.choice(near or found).path
    return Target(place, rng.choice(racer.kinds(place)))


def crafts(
    attacker: Attacker, verbs: list[Verb], rng: random.Random, key: str, only: str, *, all_of_them: bool
) -> Iterator[Make]:
    """Each crafted thing on one of the verbs that read it, or on all of these. only: those with that in their names."""
    known = {each.name: each for each in VERBS}
    wanted = {each.name for each in verbs}
    every: list[Craft] = [*crafted.crafts(), *forged.backups(key)]
    for craft in (each for each in every if only in each.name):
        for name in _some(craft.verbs, wanted, rng, all_of_them):
            yield partial(attacker.craft, known[name], craft)
    for what, answer, names in (each for each in forged.liars() if only in each[0]):
        for name in _some(names, wanted, rng, all_of_them):
            yield partial(attacker.lie, known[name], what, answer)


def _some(names: tuple[str, ...], wanted: set[str], rng: random.Random, all_of_them: bool) -> list[str]:
    found = [name for name in names if name in wanted]
    return found if all_of_them or not found else [rng.choice(found)]
