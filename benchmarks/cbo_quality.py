"""How often consensus-based optimization finds the minimum: ours, CBXpy, CMA-ES, DE and PSO, with one budget and the same objectives.

Settings: d = 20 (rotated Rastrigin: 10), box [-L, L]^d with the optimum at L/3 in every coordinate (L = 3; Levy and Salomon 10, Griewank
60), 200,000 evaluations a run, float64; a run counts where its best value is below 1e-6 (in brackets: 1e-2). Ours through zoopt.minimize
with CBO() as it is, the covariance mode with 500 and with 1,000 particles, and cbo-auto. CBXpy 1.0.4 with its own defaults for the
schedule (alpha grows by 5 % a step to 1e5) and sigma = 10.1, alpha = 30, dt = 0.01, 40 particles (5,000 steps), anisotropic; and the same
with a cap of 1e15. CMA-ES (cma, bipop restarts, sigma0 = 0.3), DE and PSO (pymoo, 100 points) through zoopt's strategies, which give the
packages' own numbers; they have fewer runs, since each takes 5 to 40 s. Seconds are CPU time a run, one thread.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from common import begin, write
from torch import Tensor

import zoopt
from zoopt import Real, Space
from zoopt.strategies import CBO

BUDGET = 200_000
Objective = Callable[[Tensor], Tensor]


def sphere(z: Tensor) -> Tensor:
    return z.square().sum(-1)


def rastrigin(z: Tensor) -> Tensor:
    return (z.square() + 20.0 * torch.sin(math.pi * z).square()).sum(-1)


def ackley(z: Tensor) -> Tensor:
    radius, ripple = z.square().mean(-1).sqrt(), -2.0 * torch.sin(math.pi * z).square().mean(-1)
    return -20.0 * torch.expm1(-0.2 * radius) - math.e * torch.expm1(ripple)


def levy(z: Tensor) -> Tensor:
    w = z / 4.0
    first, last = torch.sin(math.pi * w[..., 0]).square(), w[..., -1].square() * (1.0 + torch.sin(2.0 * math.pi * w[..., -1]).square())
    return first + (w[..., :-1].square() * (1.0 + 10.0 * torch.sin(math.pi * (w[..., :-1] + 1.0) + 1.0).square())).sum(-1) + last


def griewank(z: Tensor) -> Tensor:
    roots = torch.arange(1, z.shape[-1] + 1, dtype=z.dtype).sqrt()
    return z.square().sum(-1) / 4000.0 + 1.0 - torch.cos(z / roots).prod(-1)


def rosenbrock(z: Tensor) -> Tensor:
    head, tail = z[..., :-1], z[..., 1:]
    return (100.0 * (tail - head * (2.0 + head)).square() + head.square()).sum(-1)


def salomon(z: Tensor) -> Tensor:
    radius = z.square().sum(-1).sqrt()
    return 1.0 - torch.cos(2.0 * math.pi * radius) + 0.1 * radius


def rotated_rastrigin(z: Tensor) -> Tensor:
    return rastrigin(z @ _ROTATION.to(z.dtype))


_ROTATION = torch.linalg.qr(torch.randn(10, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).Q.mT
FUNCTIONS: dict[str, tuple[Objective, int, float]] = {
    "sphere": (sphere, 20, 3.0),
    "Rastrigin": (rastrigin, 20, 3.0),
    "Ackley": (ackley, 20, 3.0),
    "Levy": (levy, 20, 10.0),
    "Griewank": (griewank, 20, 60.0),
    "Rosenbrock": (rosenbrock, 20, 3.0),
    "Salomon": (salomon, 20, 10.0),
    "rotated Rastrigin": (rotated_rastrigin, 10, 3.0),
}


def ours(strategy: Any) -> Callable[[str, int, int], Tensor]:
    def run(name: str, budget: int, runs: int) -> Tensor:
        formula, dim, half = FUNCTIONS[name]
        space = Space({"x": Real(-half, half, shape=(dim,))})
        return zoopt.minimize(lambda x: formula(x - half / 3), strategy, space=space, evaluations=budget, runs=runs, device="cpu").values

    return run


def cbx(cap: float) -> Callable[[str, int, int], Tensor]:
    def run(name: str, budget: int, runs: int) -> Tensor:
        from cbx.dynamics import CBO as Theirs

        formula, dim, half = FUNCTIONS[name]

        def objective(x: Any) -> Any:
            return formula(torch.from_numpy(np.ascontiguousarray(x)) - half / 3).numpy()

        start = np.random.default_rng(0).uniform(-half, half, (runs, 40, dim))
        options = {"f_dim": "3D", "noise": "anisotropic", "sigma": 10.1, "dt": 0.01, "alpha": 30.0, "track_args": {"names": []}}
        dynamic: Any = Theirs(objective, x=start, verbosity=0, **options)
        best = np.full(runs, np.inf)
        for _ in range(budget // 40):
            dynamic.step()
            dynamic.alpha = np.minimum(dynamic.alpha * 1.05, cap)
            best = np.minimum(best, dynamic.best_energy)
        return torch.from_numpy(best)

    return run


METHODS: dict[str, tuple[Callable[[str, int, int], Tensor], int]] = {  # and runs
    "CBO()": (ours(CBO()), 40),
    "CBO covariance, N = 500": (ours(CBO(noise="covariance", particles=500)), 40),
    "CBO covariance, N = 1000": (ours(CBO(noise="covariance", particles=1000)), 40),
    "cbo-auto": (ours("cbo-auto"), 40),
    "CBXpy, cap 1e5": (cbx(1e5), 40),
    "CBXpy, cap 1e15": (cbx(1e15), 40),
    "cma-es": (ours("cma-es"), 10),
    "de": (ours("de"), 5),
    "pso": (ours("pso"), 5),
}


def main() -> None:
    """Run all methods on all functions, or those that are named, and print a row for each pair."""
    given = begin(__doc__ or "", {}, {"methods": "some of them, with ; between", "functions": "likewise"})
    torch.set_num_threads(1)
    budget = BUDGET // 10 if given.quick else BUDGET
    write(f"{'method':<26} {'function':<18} {'runs':>4}  below 1e-6 (1e-2)   median value   CPU s a run")
    for method, (run, runs) in METHODS.items():
        for function in FUNCTIONS:
            if any(chosen and name not in chosen.split(";") for chosen, name in ((given.methods, method), (given.functions, function))):
                continue
            runs_now = 2 if given.quick else runs
            began = time.process_time()
            values = run(function, budget, runs_now)
            seconds = (time.process_time() - began) / runs_now
            share, near = (values < 1e-6).double().mean(), (values < 1e-2).double().mean()
            write(f"{method:<26} {function:<18} {runs_now:>4}  {share:.3f} ({near:.3f})      {values.median():>10.2e}   {seconds:>8.2f}")


if __name__ == "__main__":
    sys.exit(main())
