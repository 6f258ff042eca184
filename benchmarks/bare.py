"""Bare ask-tell loops around cma and pymoo: no engine, the strategies' own encoding.

Each draws either the numbers that the strategy draws (``native=False``), so that its best value is equal to the bit, or those the library
makes for itself, which is what a user of the library has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoopt import Random

Objective = Callable[[Tensor], Tensor]


def cma_loop(objective: Objective, low: Tensor, width: Tensor, evaluations: int, seed: int, native: bool) -> float:
    """cma in the unit cube with bounds; gives the best value."""
    import cma

    class Normals:
        """The numbers that the strategy draws for each generation."""

        generation = 0

        def __call__(self, *shape: int) -> np.ndarray[Any, Any]:
            return Random(seed, self.generation, ("propose",)).normal(shape).numpy()

    randn, d = Normals(), len(low)
    options: dict[str, Any] = {"bounds": [[0.0] * d, [1.0] * d], "verbose": -9}
    options |= {"seed": seed + 1} if native else {"seed": np.nan, "randn": randn}  # to cma, seed 0 is the time of day
    es = cma.CMAEvolutionStrategy(np.full(d, 0.5), 0.3, options)
    used, best = 0, np.inf
    while used < evaluations:
        points = es.ask()
        randn.generation += 1
        encoded = torch.from_numpy(np.array(points))[: evaluations - used]
        values = objective(torch.addcmul(low, encoded, width)).tolist()
        best = min(best, *values)
        used += len(values)
        if len(values) == len(points):
            es.tell(points, values)
    return float(best)


def de_loop(objective: Objective, low: Tensor, width: Tensor, evaluations: int, seed: int, native: bool) -> float:
    """pymoo's DE in the unit cube, asked and told; gives the best value."""
    from pymoo.algorithms.soo.nonconvex.de import DE
    from pymoo.core.problem import Problem
    from pymoo.core.termination import NoTermination

    d = len(low)
    algorithm = DE()
    algorithm.setup(Problem(n_var=d, n_obj=1, xl=np.zeros(d), xu=np.ones(d)), termination=NoTermination(), seed=seed)
    used, generation, best = 0, 0, np.inf
    while used < evaluations:
        if not native:
            algorithm.random_state = Random(seed, generation, ("propose",)).numpy()
        population = algorithm.ask()
        encoded = torch.from_numpy(population.get("X"))[: evaluations - used]
        values = objective(torch.addcmul(low, encoded, width)).numpy()
        best = min(best, float(values.min()))
        used += len(values)
        if len(values) == len(population):
            population.set("F", values[:, None])
            if not native:
                algorithm.random_state = Random(seed, generation, ("update",)).numpy()
            algorithm.tell(infills=population)
        generation += 1
    return best
