"""Speed of consensus-based optimization a step: ours, a bare loop, and CBXpy, in one process and in turn.

Settings: Rastrigin (shifted) in d dimensions on a box, N particles, M runs; anisotropic noise, dt = 0.01, sigma = 10.1, one thread, CPU
time. The bare loop is what any implementation must do: normal numbers, lerp, fold, bmm, softmax, the objective. "strategy" calls ask, the
objective and tell; "minimize" is the whole of zoopt.minimize (best tracking, checks); "study" a Study with history="best", one run.
"table" reads the noise from a table; "compiled" besides compiles the objective with torch (--compiled yes; needs a C++ compiler).
CBXpy 1.0.4 with f_dim="3D" and tracking off, on numpy float64 and on torch float32; it does not keep the particles in the box. Every
round runs all cases for about the same time; ratios are the median over the rounds.
"""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from common import begin, write
from torch import Tensor

import zoopt
from zoopt import Random
from zoopt.feedback import Observations
from zoopt.problems import Rastrigin
from zoopt.strategies import CBO
from zoopt.strategy import Request, Task

SIZES = [(20, 1000, 10), (100, 1000, 10), (1000, 1000, 1), (20, 100, 1), (20, 10_000, 1)]  # (d, N, M)
CELLS = [(d, n, m) for d in (2, 20, 100, 1000) for n in (100, 1000, 10_000) for m in (1, 10, 100) if d * n * m <= 10_000_000]
Steps = Callable[[int], None]


def bare(d: int, n: int, m: int, dtype: torch.dtype) -> Steps:
    """The loop that cannot be left out, in the unit cube."""
    problem = Rastrigin(dim=d)
    low, high = (torch.as_tensor(b, dtype=dtype) for b in (problem.space.low, problem.space.high))
    width = high - low
    x = torch.rand(m, n, d, dtype=dtype)
    z, half = torch.empty(m, n, d, dtype=torch.float32), torch.empty_like(x)
    generator = torch.Generator()

    def steps(count: int) -> None:
        alpha = 1.0
        for _ in range(count):
            f = problem(torch.addcmul(low, x, width))
            weights = torch.softmax((f - f.amin(-1, keepdim=True)).mul_(-alpha), -1)
            c = torch.bmm(weights.to(dtype).unsqueeze(1), x)
            z.normal_(0.99, 1.01, generator=generator)
            torch.lerp(c, x, z.to(dtype), out=x)
            torch.mul(x, 0.5, out=half).round_()
            x.sub_(half, alpha=2.0).abs_()
            alpha = min(alpha * 1.05, 1e15)

    return steps


def strategy(d: int, n: int, m: int, dtype: torch.dtype, objective: Callable[[Tensor], Tensor] | None = None, **options: Any) -> Steps:
    """ask, evaluate, tell; an objective of its own takes points of the unit cube."""
    problem, recipe = Rastrigin(dim=d), CBO(particles=n, **options)
    task = Task(problem.space, runs=(m,), dtype=dtype)
    low, width = problem.space.affine(dtype, torch.device("cpu")) or (torch.zeros(()), torch.ones(()))
    key = Random(0)
    state = recipe.begin(task, key.child("begin"))
    call = 0

    def steps(count: int) -> None:
        nonlocal state, call
        for _ in range(count):
            state, out = recipe.ask(task, state, Request(), key.at(call))
            values = problem(torch.addcmul(low, out.x, width)) if objective is None else objective(out.x)
            told = Observations(range(n), out.x, values.unsqueeze(-1), columns=out.columns, dtype=dtype)
            state = recipe.tell(task, state, told, key.at(call + 1))
            call += 2

    return steps


def compiled(d: int, n: int, m: int, dtype: torch.dtype) -> Steps:
    """The quickest way: numbers from a table, and the objective, with the way from the unit cube, compiled by torch."""
    problem = Rastrigin(dim=d)
    low, width = problem.space.affine(dtype, torch.device("cpu")) or (torch.zeros(()), torch.ones(()))
    optimum = torch.tensor(problem.optimum.x[0], dtype=dtype)

    def objective(x: Tensor) -> Tensor:
        z = torch.addcmul(low, x, width) - optimum
        wave = torch.sin(math.pi * z)
        return (20.0 * wave * wave + z * z).sum(-1)

    return strategy(d, n, m, dtype, torch.compile(objective, dynamic=False), numbers="table")


def minimize(d: int, n: int, m: int, dtype: torch.dtype) -> Steps:
    """The whole of minimize()."""
    problem, recipe = Rastrigin(dim=d), CBO(particles=n, tolerance=1e-300)

    def steps(count: int) -> None:
        zoopt.minimize(problem, recipe, evaluations=n * count, runs=m, dtype=dtype, device="cpu")

    return steps


def study(d: int, n: int, m: int, dtype: torch.dtype) -> Steps:
    """A study without a journal; of one run."""
    problem = Rastrigin(dim=d)
    s = zoopt.Study(problem.space, CBO(particles=n), seed=0, history="best", dtype=dtype)

    def steps(count: int) -> None:
        for _ in range(count):
            batch = s.ask(n)
            s.tell(batch, problem(batch.x))

    return steps


def cbx(d: int, n: int, m: int, backend: str) -> Steps:
    """CBXpy's own loop."""
    from cbx.dynamics import CBO as Theirs
    from cbx.utils.torch_utils import to_torch_dynamic

    problem = Rastrigin(dim=d)
    optimum = problem.optimum.x[0]
    shift = np.asarray(optimum)

    def on_numpy(x: Any) -> Any:
        z = x - shift
        return (z**2 - 10 * np.cos(2 * np.pi * z) + 10).sum(-1)

    shift32 = torch.as_tensor(shift, dtype=torch.float32)

    def on_torch(x: Tensor) -> Tensor:
        z = x - shift32
        return (z.square() - 10 * torch.cos(2 * math.pi * z) + 10).sum(-1)

    options = {"f_dim": "3D", "noise": "anisotropic", "sigma": 10.1, "dt": 0.01, "alpha": 30.0, "track_args": {"names": []}, "verbosity": 0}
    low, high = problem.space.low, problem.space.high
    start = np.random.default_rng(0).uniform(low, high, (m, n, d))
    if backend == "numpy":
        dynamic: Any = Theirs(on_numpy, x=start, **options)
    else:
        dynamic = to_torch_dynamic(Theirs)(on_torch, x=torch.as_tensor(start, dtype=torch.float32), **options)

    def steps(count: int) -> None:
        for _ in range(count):
            dynamic.step()
            dynamic.alpha = np.minimum(dynamic.alpha * 1.05, 1e5) if backend == "numpy" else (dynamic.alpha * 1.05).clip(max=1e5)

    return steps


F32, F64 = torch.float32, torch.float64
CASES: dict[str, Callable[[int, int, int], Steps]] = {
    "bare loop, float32": lambda d, n, m: bare(d, n, m, F32),
    "bare loop, float64": lambda d, n, m: bare(d, n, m, F64),
    "strategy, float32": lambda d, n, m: strategy(d, n, m, F32),
    "strategy, table, float32": lambda d, n, m: strategy(d, n, m, F32, numbers="table"),
    "strategy, float64": lambda d, n, m: strategy(d, n, m, F64),
    "minimize, float32": lambda d, n, m: minimize(d, n, m, F32),
    "minimize, float64": lambda d, n, m: minimize(d, n, m, F64),
    "study, float64": lambda d, n, m: study(d, n, m, F64),
    "CBXpy numpy": lambda d, n, m: cbx(d, n, m, "numpy"),
    "CBXpy torch float32": lambda d, n, m: cbx(d, n, m, "torch"),
}
RATIOS = [
    ("CBXpy numpy", "strategy, float32", ">= 5.5"),
    ("CBXpy torch float32", "strategy, float32", ">= 1.9"),
    ("CBXpy numpy", "strategy, table, float32", ">= 11"),
    ("CBXpy torch float32", "strategy, table, float32", ">= 4"),
    ("CBXpy numpy", "strategy, float64", ">= 4"),
    ("bare loop, float32", "strategy, float32", ">= 0.6"),
    ("bare loop, float64", "strategy, float64", ">= 0.6"),
    ("strategy, float32", "minimize, float32", ">= 0.95"),
    ("strategy, float64", "minimize, float64", ">= 0.95"),
    ("strategy, float64", "study, float64", ">= 0.8 at (20, 10000, 1)"),
    ("CBXpy torch float32", "strategy, float64", "ahead"),
]


def cpu(steps: Steps, count: int) -> float:
    began = time.process_time()
    steps(count)
    return (time.process_time() - began) / count * 1e6


def main() -> None:
    """Run all sizes and print a table for each."""
    given = begin(
        __doc__ or "", {}, {"sizes": "'cells' for all cells of the table of sizes, with fewer cases", "compiled": "'yes' to compile, too"}
    )
    torch.set_num_threads(1)
    if given.compiled:
        CASES["strategy, table, compiled, float32"] = lambda d, n, m: compiled(d, n, m, F32)
        RATIOS.insert(4, ("CBXpy numpy", "strategy, table, compiled, float32", ">= 11"))
        RATIOS.insert(5, ("CBXpy torch float32", "strategy, table, compiled, float32", ">= 4"))
    some = ("strategy, float32", "strategy, float64", "CBXpy numpy", "CBXpy torch float32")
    for d, n, m in CELLS if given.sizes == "cells" else SIZES[:1] if given.quick else SIZES:
        fitting = {name: make for name, make in CASES.items() if given.sizes != "cells" or name in some}
        cases = {name: make(d, n, m) for name, make in fitting.items() if m == 1 or not name.startswith("study")}
        counts = {}
        for name, steps in cases.items():
            cpu(steps, 3)
            counts[name] = max(3, min(2000, int((0.05 if given.quick else 0.4) * 1e6 / cpu(steps, 3))))
        found: dict[str, list[float]] = {name: [] for name in cases}
        for _ in range(given.repeats):
            for name, steps in cases.items():
                found[name].append(cpu(steps, counts[name]))
        write(f"\nd = {d}, N = {n}, M = {m}{'':<16} us a step, median   Mparticles/s")
        for name, times in found.items():
            middle = statistics.median(times)
            write(f"  {name:<34} {middle:>14.1f}   {n * m / middle:>12.2f}")
        write(f"  {'ratio, min / median / max':<50}")
        for slow, fast, goal in RATIOS:
            if slow in found and fast in found:
                ratios = sorted(a / b for a, b in zip(found[slow], found[fast], strict=True))
                middle = statistics.median(ratios)
                write(f"  {slow + ' / ' + fast:<44} {ratios[0]:6.2f} {middle:6.2f} {ratios[-1]:6.2f}   goal {goal}")


if __name__ == "__main__":
    sys.exit(main())
