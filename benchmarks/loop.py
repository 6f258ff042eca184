"""minimize() against bare loops around cma and pymoo.

Settings: a free objective (shifted sphere on a numpy array), d = 20, bounds [-5, 5]^20, 20,000 evaluations, one thread. The bare
loop gets the same random numbers, the same encoded coordinates and the same objective code, so its best value must be equal
to the bit. CPU time from before the strategy is made to the end, imports excluded; a fresh process a case and repetition,
interleaved.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from common import Figures, collect, machine, main_case, parser, ratio_line, spread, write

SCRIPT = Path(__file__)
DIM = 20
SHIFT = np.linspace(-3.0, 3.0, DIM)


def sphere(x: np.ndarray) -> np.ndarray:
    """Shifted sphere on problem units ``(n, d)``."""
    return np.square(x - SHIFT).sum(-1)


def timed(run: Callable[[], float]) -> Figures:
    """CPU microseconds an evaluation, and the best value."""
    run()  # imports, caches
    began = time.process_time()
    best = run()
    return {"cpu": time.process_time() - began, "best": best}


def zoopt_case(n: int, name: str) -> Figures:
    """minimize() with a registered strategy."""
    import torch
    import zoopt
    from zoopt import Real, Space

    torch.set_num_threads(1)
    space = Space({"x": Real(-5.0, 5.0, shape=(DIM,))})
    from zoopt.strategies import CMAES, DE

    recipe = CMAES(restarts="none") if name == "cma-es" else DE()
    return timed(lambda: zoopt.minimize(sphere, recipe, evaluations=n, space=space, seed=0, array="numpy").value)


def bare_cma(n: int) -> Figures:
    """cma's own ask and tell in the unit cube, drawing the numbers that the strategy draws."""
    from bare import cma_loop

    return timed(lambda: cma_loop(sphere, DIM, n, seed=0))


def bare_de(n: int) -> Figures:
    """pymoo's DE, asked and told."""
    from bare import de_loop

    return timed(lambda: de_loop(sphere, DIM, n, seed=0))


CASES = {
    "minimize, cma-es": lambda n: zoopt_case(n, "cma-es"),
    "bare cma": bare_cma,
    "minimize, de": lambda n: zoopt_case(n, "de"),
    "bare pymoo DE": bare_de,
}


def main() -> None:
    """Run the cases and print the table."""
    options = parser(__doc__ or "")
    given = options.parse_args()
    if given.case:
        main_case(CASES, given.case, given.n)
        return
    n = 2_000 if given.quick else 20_000
    write(__doc__ or "")
    write(machine())
    found = collect([(SCRIPT, name, n, sys.executable) for name in CASES], given.repeats)
    write(f"\n{'CPU seconds':<24}        min     median        max   best value")
    for name in CASES:
        write(f"{name:<24} {spread([f['cpu'] for f in found[name]])}   {found[name][0]['best']!r}")
    write()
    write(ratio_line(found, "minimize, cma-es", "bare cma", "cpu", "<= 1.15"))
    write(ratio_line(found, "minimize, de", "bare pymoo DE", "cpu", "<= 1.15"))
    for ours, bare_name in (("minimize, cma-es", "bare cma"), ("minimize, de", "bare pymoo DE")):
        write(f"{ours}: best value equal to the bit: {found[ours][0]['best'] == found[bare_name][0]['best']}")


if __name__ == "__main__":
    main()
