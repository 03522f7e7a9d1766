"""python3 -m inside prepare | run: the host's side; prints a line of JSON for each attack."""

import argparse
import random
import re
import subprocess
import sys
from collections.abc import Iterator

from . import canaries, layout, places, plan, scenes
from .attack import Attacker, Make, Useless
from .controller import tell
from .verbs import VERBS, Verb

_VICTIMS = tuple(f"outside: {each}" for each in canaries.VICTIMS)


def main() -> int:
    """0 when all was tried; what came of it is for the controller to judge."""
    parser = argparse.ArgumentParser(prog="python3 -m inside", description=__doc__)
    parser.add_argument("what", choices=("prepare", "run"))
    parser.add_argument("--moment", default="", help="between two backups")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--part", default="1/1")
    parser.add_argument("--verb", default="", help="a regular expression")
    parser.add_argument("--kind", default="", help="static, race, crafted or trace")
    parser.add_argument("--only", default="", help="paths and names that have this in them")
    parser.add_argument("--cases", type=int, default=16, help="static ones of a verb; 0 for all")
    parser.add_argument("--runs", type=int, default=20, help="of a verb, for all rounds of the racer")
    parser.add_argument("--rounds", type=int, default=100, help="of the racer, for each verb")
    arguments = parser.parse_args()
    if arguments.what == "prepare":
        scenes.prepare(arguments.moment)
        return 0
    if arguments.part.startswith("1/"):
        for name, problem in places.refused_by_the_kernel().items():
            tell({"refused_by_the_kernel": name, "problem": problem})
    attacker = Attacker(scenes.facts())
    before = canaries.look(whole=True)
    number, count = map(int, arguments.part.split("/"))
    verbs = [each for each in VERBS if re.search(arguments.verb, each.name)]
    mine = verbs[number - 1 :: count]
    for verb in (*mine, None):
        name = verb.name if verb else "crafted"
        try:
            for make in _all(attacker, verb, mine, arguments):
                _try(make, name)
        except (Useless, OSError, RuntimeError, subprocess.SubprocessError) as why:
            tell({"verb": name, "kind": "trace", "problems": [f"its scene or its trace: {why!r}"]})
    for name, touched in attacker.known.items():
        tell({"touched": name, "paths": len(touched), "by_root": sum(each.by_root for each in touched)})
    layout.stop()
    # What attacks point at is made anew now and then; each attack has looked at it.
    for line in canaries.changes(before, canaries.look(whole=True)):
        if not line.startswith(_VICTIMS):
            tell({"verb": "all of them", "kind": "end", "problems": [line]})
    return 0


def _try(make: Make, name: str) -> None:
    """One attack; what goes wrong with the suite itself is told of as well, and the others are tried."""
    try:
        tell(make().document())
    except (Useless, OSError, RuntimeError, subprocess.SubprocessError) as error:
        tell({"verb": name, "kind": "trace", "problems": [f"{make}: {error!r}"]})


def _all(attacker: Attacker, verb: Verb | None, mine: list[Verb], arguments: argparse.Namespace) -> Iterator[Make]:
    """Those on one verb; those that are crafted, for all of them, where there is none."""
    kinds = [arguments.kind] if arguments.kind else ["static", "race", "crafted"]
    if verb:
        rng = random.Random(f"{arguments.seed} {verb.name}")
        if "crafted" not in kinds or len(kinds) > 1:
            yield from plan.look(attacker, verb)
        if "static" in kinds:
            yield from plan.static(attacker, verb, rng, arguments.cases, arguments.only)
        if "race" in kinds:
            yield from plan.races(attacker, verb, rng, arguments.runs, arguments.rounds, arguments.only)
    elif "crafted" in kinds:
        rng = random.Random(arguments.seed)
        yield from plan.crafts(attacker, mine, rng, scenes.key(), arguments.only, all_of_them=not arguments.cases)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as error:
        sys.exit(f"{error}: {error.stderr}")
