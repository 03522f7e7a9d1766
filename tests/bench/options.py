"""What a run of the benchmarks is told."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Options:
    """rounds: runs of each side. percent: of the full sizes. directory: where the servers' data go. output: where pictures go."""

    rounds: int
    percent: int
    directory: Path
    output: Path

    def part(self, count: int) -> int:
        """How many of a full count are to be used."""
        return max(count * self.percent // 100, 1)
