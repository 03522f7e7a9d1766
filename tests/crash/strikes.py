"""Kills and power cuts, round after round."""

import random
from collections.abc import Iterator
from pathlib import Path

from tests.crash.lab import Lab, Round
from tests.crash.moments import MOMENTS, SHARES

# Rounds in one directory, unless it was lost before.
_SAME_DIRECTORY = 20
_MOST_EVIDENCE = 5


def run(lab: Lab, rounds: int, seed: int, evidence: list[Path]) -> Iterator[Round]:
    """Yields each round when it is over. evidence: gets the directories with what the first violations left behind."""
    usable = 0
    plan = _plan(rounds, seed)
    for number, moment in enumerate(plan):
        chance = random.Random(f"{seed} round {number}")
        if not usable:
            lab.renew({})
            usable = _SAME_DIRECTORY
        usable -= 1
        record = Round(number, moment)
        _round(lab, record, chance)
        if record.findings:
            usable = 0
            if len(evidence) < _MOST_EVIDENCE:
                evidence.append(lab.keep_evidence(record))
        yield record


def _round(lab: Lab, record: Round, chance: random.Random) -> None:
    large = frozenset({"large"} if record.moment in ("persist", "recovery", "warm-up") else ())
    lab.write(f"round {record.number}", large)
    met = MOMENTS[record.moment](lab, chance)
    record.hit, record.detail = met.hit, met.detail
    lab.finish_writing(record)
    record.findings.refused += lab.refusals()
    record.torn = lab.torn()
    lab.preserve()
    if lab.revive(record):
        lab.compare(record)


def _plan(rounds: int, seed: int) -> list[str]:
    """Every moment in its share, in an order of its own for each ten rounds."""
    plan: list[str] = []
    chance = random.Random(f"{seed} plan")
    while len(plan) < rounds:
        ten = [name for name, share in SHARES.items() for _ in range(share)]
        chance.shuffle(ten)
        plan += ten
    return plan[:rounds]
