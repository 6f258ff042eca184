"""minimize() against bare loops around cma and pymoo.

Settings: a free objective (different powers, |z_i - 1.234|^(2 + 10 i/(d-1)), not converged when the budget ends), d = 20, bounds
[-5, 5]^20, 20,000 evaluations, one thread. The bare loops get the same encoded coordinates and the same objective code. One draws the
library's own random numbers, as its users do: the goal is a ratio to that one. The other draws the strategy's numbers, which cost more,
so that its best value must be equal to the bit. CPU time of a whole run, imports excluded; a fresh process a repetition, in which the two
bare loops and minimize() take turns three times.
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
    """The bare loops and minimize() in turn."""
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

    def bare(budget: int, native: bool) -> float:
        return loop(different_powers, LOW, WIDTH, budget, 0, native)

    def turn(budget: int) -> tuple[tuple[float, float], ...]:
        return timed(lambda: bare(budget, True)), timed(lambda: bare(budget, False)), timed(lambda: ours(budget))

    turn(500)  # imports and caches
    rounds = [turn(n) for _ in range(3)]
    return {
        "bare, own numbers": statistics.median(own[0] for own, _, _ in rounds),
        "bare, our numbers": statistics.median(same[0] for _, same, _ in rounds),
        "minimize": statistics.median(found[0] for _, _, found in rounds),
        "minimize / bare, own numbers": statistics.median(found[0] / own[0] for own, _, found in rounds),
        "minimize / bare, our numbers": statistics.median(found[0] / same[0] for _, same, found in rounds),
        "equal": float(all(same[1] == found[1] for _, same, found in rounds)),
    }


CASES = {"cma-es": lambda n, _: paired(n, "cma-es"), "de": lambda n, _: paired(n, "de")}
GOALS = {"minimize / bare, own numbers": "goal <= 1.15", "minimize / bare, our numbers": "goal none"}


def main() -> None:
    """Run the cases and print the table."""
    given = begin(__doc__ or "", CASES)
    n = 2_000 if given.quick else 20_000
    found = collect([(SCRIPT, name, n, sys.executable) for name in CASES], given)
    write(f"\n{f'{n:,} evaluations':<40}        min     median        max")
    for name in CASES:
        for figure in (figure for figure in found[name][0] if figure != "equal"):
            write(f"{f'{name}, {figure}':<40} {spread([f[figure] for f in found[name]])}   {GOALS.get(figure, 'CPU s')}")
        write(f"{name}, best value equal to the bit: {all(f['equal'] == 1.0 for f in found[name])}")


if __name__ == "__main__":
    main()
