"""minimize() against bare loops around cma and pymoo.

Settings: a free objective (different powers, |z_i - 1.234|^(2 + 10 i/(d-1)), not converged when the budget ends), d = 20, bounds
[-5, 5]^20, 20,000 evaluations, one thread. The bare loop gets the same random numbers, the same encoded coordinates and the same
objective code, so its best value must be equal to the bit. CPU time of a whole run, imports excluded; a fresh process a repetition,
in which the bare loop and minimize() take turns three times.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from common import Figures, begin, collect, spread, write
from torch import Tensor

SCRIPT = Path(__file__)
DIM = 20
POWERS = 2.0 + 10.0 * torch.arange(DIM, dtype=torch.float64) / (DIM - 1)
LOW = torch.full((DIM,), -5.0, dtype=torch.float64)
WIDTH = torch.full((DIM,), 10.0, dtype=torch.float64)


def different_powers(z: Tensor) -> Tensor:
    """Different powers on problem units ``(n, d)``."""
    return (z - 1.234).abs().pow(POWERS).sum(-1)


def timed(run: Callable[[], float]) -> tuple[float, float]:
    """CPU seconds and the best value."""
    began = time.process_time()
    best = run()
    return time.process_time() - began, best


def paired(n: int, name: str) -> Figures:
    """A bare loop and minimize() in turn."""
    from bare import cma_loop, de_loop

    import zoopt
    from zoopt import Real, Space
    from zoopt.strategies import CMAES, DE

    torch.set_num_threads(1)
    space = Space({"x": Real(-5.0, 5.0, shape=(DIM,))})
    recipe = CMAES() if name == "cma-es" else DE()
    loop = cma_loop if name == "cma-es" else de_loop

    def ours(budget: int) -> float:
        return zoopt.minimize(different_powers, recipe, evaluations=budget, space=space, seed=0).value

    def bare(budget: int) -> float:
        return loop(different_powers, LOW, WIDTH, budget, 0)

    ours(500)
    bare(500)  # imports and caches
    rounds = [(timed(lambda: bare(n)), timed(lambda: ours(n))) for _ in range(3)]
    equal = all(a[1] == b[1] for a, b in rounds)
    return {
        "bare": statistics.median(a[0] for a, _ in rounds),
        "minimize": statistics.median(b[0] for _, b in rounds),
        "ratio": statistics.median(b[0] / a[0] for a, b in rounds),
        "equal": float(equal),
    }


CASES = {"cma-es": lambda n: paired(n, "cma-es"), "de": lambda n: paired(n, "de")}


def main() -> None:
    """Run the cases and print the table."""
    given = begin(__doc__ or "", CASES)
    n = 2_000 if given.quick else 20_000
    found = collect([(SCRIPT, name, n, sys.executable) for name in CASES], given.repeats)
    write(f"\n{n:,} evaluations{'':<20}        min     median        max")
    for name in CASES:
        for figure in ("bare", "minimize", "ratio"):
            label = f"{name}, {figure}" + (", CPU s" if figure != "ratio" else "")
            write(f"{label:<36} {spread([f[figure] for f in found[name]])}   {'goal <= 1.15' if figure == 'ratio' else ''}")
        write(f"{name}, best value equal to the bit: {all(f['equal'] == 1.0 for f in found[name])}")


if __name__ == "__main__":
    main()
