"""NSGA-II on pymoo (Deb et al., IEEE Transactions on Evolutionary Computation 6, 2002)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from zoopt.errors import ConfigError
from zoopt.strategies.evolution import Evolution
from zoopt.strategy import Capabilities, Task


@dataclass(frozen=True)
class NSGA2(Evolution):
    """NSGA-II: a population spread over the Pareto front of several objectives, with constraints.

    The usual first choice for two or three objectives with thousands of cheap evaluations; needs bounds. With few
    evaluations use ``bo``.

    Reference: Deb, Pratap, Agarwal & Meyarivan, A fast and elitist multiobjective genetic algorithm: NSGA-II, IEEE Trans.
    Evolutionary Computation 6 (2002); defaults are pymoo's.
    """

    crossover: float = 0.9  # probability that two parents are crossed (simulated binary crossover)
    crossover_eta: float = 15.0  # larger: children closer to their parents
    mutation_eta: float = 20.0  # larger: smaller mutations (polynomial mutation)

    capabilities: ClassVar[Capabilities] = Capabilities(objectives=None, unbounded=False)
    smallest: ClassVar[int] = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.crossover <= 1.0 or min(self.crossover_eta, self.mutation_eta) <= 0.0:
            raise ConfigError(
                "crossover must be between 0 and 1 and both etas positive; "
                f"got {self.crossover!r}, {self.crossover_eta!r} and {self.mutation_eta!r}."
            )

    def algorithm(self, task: Task) -> Any:
        from pymoo.algorithms.moo.nsga2 import NSGA2 as Algorithm
        from pymoo.operators.crossover.sbx import SBX
        from pymoo.operators.mutation.pm import PM

        return Algorithm(
            pop_size=self.popsize, crossover=SBX(eta=self.crossover_eta, prob=self.crossover), mutation=PM(eta=self.mutation_eta)
        )
