"""A million trials: time a trial beside a study of ten thousand, and memory against the raw size of the numbers.

Settings: random proposals, d = 10, one value, in memory with history="all", one thread. Time: CPU a trial of 2,000 more trials
in a study of 1,000,000 and in one of 10,000 (60,000 in the end), in turn, 25 times; the slowdown is the median of the 25
ratios, so that a machine that changes its pace does not count. Memory: growth of the resident set of the process while the
study was filled, over 8 bytes for each of the 11 numbers of a trial.
"""

from __future__ import annotations

import gc
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from common import Figures, begin, collect, spread, write
from overhead import study

if TYPE_CHECKING:
    from zoopt import Study

SCRIPT = Path(__file__)
FEW = 10_000
WINDOW, ROUNDS = 2_000, 25


def resident() -> int:
    """Resident bytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def grow(n: int, batch: int | None) -> Figures:
    """Fill a study; microseconds a trial beside a small one, bytes a trial."""

    def trials(s: Study, count: int) -> float:
        began = time.process_time()
        done = 0
        while done < count:
            if batch is None:
                trial = s.ask()
                s.tell(trial, 1.0 + trial.id)
                done += 1
            else:
                some = s.ask(batch)
                s.tell(some, some.x.square().sum(-1))
                done += len(some)
        return (time.process_time() - began) / count * 1e6

    few = study()
    trials(few, FEW)
    gc.collect()
    before = resident()
    many = study()
    trials(many, n)
    gc.collect()
    held = resident() - before
    rounds = [(trials(few, WINDOW), trials(many, WINDOW)) for _ in range(ROUNDS)]
    early, late = (statistics.median(times) for times in zip(*rounds, strict=True))
    return {"early": early, "late": late, "slowdown": statistics.median(b / a for a, b in rounds), "memory": held / (n * 11 * 8)}


CASES = {"one by one": lambda n, _: grow(n, None), "batches of 1000": lambda n, _: grow(n, 1000)}


def main() -> None:
    """Run the cases and print the table."""
    given = begin(__doc__ or "", CASES)
    n = 100_000 if given.quick else 1_000_000
    found = collect([(SCRIPT, name, n, sys.executable) for name in CASES], given)
    write(f"\n{n:,} trials{'':<22}        min     median        max")
    for name, goal in (("one by one", "slowdown <= 1.5, memory <= 4"), ("batches of 1000", "slowdown <= 1.5, memory <= 2")):
        for figure in ("early", "late", "slowdown", "memory"):
            write(f"{name + ', ' + figure:<36} {spread([f[figure] for f in found[name]])}   {goal if figure in goal else 'us a trial'}")


if __name__ == "__main__":
    main()
