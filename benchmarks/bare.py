"""Bare ask-tell loops around cma and pymoo: no engine, the strategies' own random numbers and encoding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoopt import Random

Objective = Callable[[Tensor], Tensor]


def cma_loop(objective: Objective, low: Tensor, width: Tensor, evaluations: int, seed: int) -> float:
    """cma in the unit cube with bounds; gives the best value."""
    import cma

    class Normals:
        """The numbers that the strategy draws for each generation."""

        generation = 0

        def __call__(self, *shape: int) -> np.ndarray[Any, Any]:
            return Random(seed, self.generation, ("propose",)).normal(shape).numpy()

    randn, d = Normals(), len(low)
    options = {"bounds": [[0.0] * d, [1.0] * d], "seed": np.nan, "randn": randn, "verbose": -9}
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


def de_loop(objective: Objective, low: Tensor, width: Tensor, evaluations: int, seed: int) -> float:
    """pymoo's DE in the unit cube, asked and told; gives the best value."""
    from pymoo.algorithms.soo.nonconvex.de import DE
    from pymoo.core.problem import Problem
    from pymoo.core.termination import NoTermination

    d = len(low)
    algorithm = DE()
    algorithm.setup(Problem(n_var=d, n_obj=1, xl=np.zeros(d), xu=np.ones(d)), termination=NoTermination(), seed=0)
    used, generation, best = 0, 0, np.inf
    while used < evaluations:
        algorithm.random_state = Random(seed, generation, ("propose",)).numpy()
        population = algorithm.ask()
        encoded = torch.from_numpy(population.get("X"))[: evaluations - used]
        values = objective(torch.addcmul(low, encoded, width)).numpy()
        best = min(best, float(values.min()))
        used += len(values)
        if len(values) == len(population):
            population.set("F", values[:, None])
            algorithm.random_state = Random(seed, generation, ("update",)).numpy()
            algorithm.tell(infills=population)
        generation += 1
    return best
