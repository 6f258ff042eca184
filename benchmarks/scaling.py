"""A million trials: time a trial against the first ten thousand, and memory against the raw size of the numbers.

Settings: random proposals, d = 10, one value, in memory with history="all", one thread. Time: CPU a trial over the last 10,000
of 1,000,000 against the first 10,000 (after 1,000 to warm up). Memory: growth of the resident set of the process from just
before the study to the end, over 8 bytes for each of the 11 numbers of a trial.
"""

from __future__ import annotations

import gc
import sys
import time
from pathlib import Path

from common import Figures, collect, machine, main_case, parser, spread, write
from overhead import study

SCRIPT = Path(__file__)
WINDOW = 10_000


def resident() -> int:
    """Resident bytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def grow(n: int, batch: int | None) -> Figures:
    """Fill a study; seconds a trial early and late, bytes a trial."""
    warm = study()
    for _ in range(200):
        b = warm.ask(100)
        warm.tell(b, b.x.square().sum(-1))
    del warm, b
    gc.collect()
    before = resident()
    s = study()

    def trials(count: int) -> float:
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

    trials(1_000)
    early = trials(WINDOW)
    trials(n - 2 * WINDOW - 1_000)
    late = trials(WINDOW)
    gc.collect()
    held = resident() - before
    return {"early": early, "late": late, "slowdown": late / early, "memory": held / (n * 11 * 8)}


CASES = {"one by one": lambda n: grow(n, None), "batches of 1000": lambda n: grow(n, 1000)}


def main() -> None:
    """Run the cases and print the table."""
    options = parser(__doc__ or "")
    given = options.parse_args()
    if given.case:
        main_case(CASES, given.case, given.n)
        return
    n = 100_000 if given.quick else 1_000_000
    write(__doc__ or "")
    write(machine())
    found = collect([(SCRIPT, name, n, sys.executable) for name in CASES], given.repeats)
    write(f"\n{n:,} trials{'':<22}        min     median        max")
    for name, goal in (("one by one", "slowdown <= 1.5, memory <= 4"), ("batches of 1000", "slowdown <= 1.5, memory <= 2")):
        for figure in ("early", "late", "slowdown", "memory"):
            write(f"{name + ', ' + figure:<36} {spread([f[figure] for f in found[name]])}   {goal if figure in goal else 'us a trial'}")


if __name__ == "__main__":
    main()
