"""The functions on which regret is compared, for every environment alike: numpy and COCO alone."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

Point = list[float]


@dataclass(frozen=True)
class Function:
    """One function to minimise.

    Attributes:
        bounds: Lowest and highest value of each variable.
        integers: Which variables are whole numbers.
        truth: Its value without noise.
        best: The least feasible value of ``truth``.
        constraint: Feasible where it is 0 or less; None where everything is.
        noise: Standard deviation of what is added to ``truth`` when it is told.
    """

    bounds: list[tuple[float, float]]
    integers: list[bool]
    truth: Callable[[Point], float]
    best: float
    constraint: Callable[[Point], float] | None = None
    noise: float = 0.0

    @property
    def dim(self) -> int:
        """Number of variables."""
        return len(self.bounds)

    def teller(self, seed: int) -> Callable[[Point], float]:
        """What is told at a point; the noise is drawn from the seed, call by call."""
        generator = np.random.default_rng(seed)
        return lambda x: float(self.truth(x) + (self.noise * generator.normal() if self.noise else 0.0))

    def regret(self, x: Point) -> float:
        """How much worse than the best a point is without noise; infinite where it breaks the constraint."""
        if self.constraint is not None and self.constraint(x) > 0:
            return float("inf")
        return float(self.truth(x)) - self.best


def branin(x: Point) -> float:
    """On [-5, 10] x [0, 15]."""
    a, b = x
    return float((b - 5.1 / (4 * np.pi**2) * a**2 + 5 / np.pi * a - 6) ** 2 + 10 * (1 - 1 / (8 * np.pi)) * np.cos(a) + 10)


_A = np.array([[10, 3, 17, 3.5, 1.7, 8], [0.05, 10, 17, 0.1, 8, 14], [3, 3.5, 1.7, 10, 17, 8], [17, 8, 0.05, 10, 0.1, 14]])
_P = 1e-4 * np.array(
    [
        [1312, 1696, 5569, 124, 8283, 5886],
        [2329, 4135, 8307, 3736, 1004, 9991],
        [2348, 1451, 3522, 2883, 3047, 6650],
        [4047, 8828, 8732, 5743, 1091, 381],
    ]
)


def hartmann6(x: Point) -> float:
    """On the unit cube."""
    return float(-np.array([1.0, 1.2, 3.0, 3.2]) @ np.exp(-(_A * (np.array(x[:6]) - _P) ** 2).sum(1)))


def ackley(x: Point) -> float:
    """Of any number of variables."""
    z = np.array(x)
    return float(20 + np.e - 20 * np.exp(-0.2 * np.sqrt((z**2).mean())) - np.exp(np.cos(2 * np.pi * z).mean()))


def _coco(suite: str, function: int, seed: int) -> Function:
    import cocoex

    found = cocoex.Suite(suite, "", f"dimensions:5 function_indices:{function} instance_indices:{seed % 5 + 1}")
    problem = found.get_problem(0)
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            problem._best_parameter("print")
            best = np.loadtxt(next(path for path in Path(folder).iterdir()))
        finally:
            os.chdir(here)
    integers = [j < problem.number_of_integer_variables for j in range(5)]
    evaluate = partial(_evaluate, found, problem)  # the suite owns the problem's memory
    bounds = list(zip(problem.lower_bounds.tolist(), problem.upper_bounds.tolist(), strict=True))
    return Function(bounds, integers, evaluate, evaluate(best.tolist()))


def _evaluate(_: object, problem: Callable[[Point], float], x: Point) -> float:
    return float(problem(x))


def _plain(truth: Callable[[Point], float], bounds: list[tuple[float, float]], best: float, noise: float = 0.0) -> Function:
    return Function(bounds, [False] * len(bounds), truth, best, noise=noise)


NAMES = ("branin", "hartmann6", "ackley10", "bbob-f8", "bbob-f15", "bbob-f21", "hartmann6-noisy", "mixint-f8", "mixint-f15", "gardner")


def make(name: str, seed: int) -> Function:
    """A function by name; of COCO's the instance ``seed % 5 + 1``."""
    if name == "branin":
        return _plain(branin, [(-5, 10), (0, 15)], 0.39788735772973816)
    if name in ("hartmann6", "hartmann6-noisy"):
        return _plain(hartmann6, [(0, 1)] * 6, -3.322368011415515, 0.2 if name.endswith("noisy") else 0.0)
    if name.startswith("ackley"):
        return _plain(ackley, [(-5, 10)] * int(name.removeprefix("ackley")), 0.0)
    if name == "hartmann6-in-100":
        return _plain(hartmann6, [(0, 1)] * 100, -3.322368011415515)
    if name == "gardner":  # the second simulation of Gardner et al., ICML 2014: two discs of 1.7 % of the square are feasible
        # On the border of the lower disc: the least of sin(x) + y where sin(x) sin(y) = -0.95.
        return Function(
            [(0, 6)] * 2,
            [False] * 2,
            lambda x: float(np.sin(x[0]) + x[1]),
            float(np.arcsin(0.95)) - 1.0,
            lambda x: float(np.sin(x[0]) * np.sin(x[1]) + 0.95),
        )
    suite, _, number = name.partition("-f")
    return _coco({"bbob": "bbob", "mixint": "bbob-mixint"}[suite], int(number), seed)
