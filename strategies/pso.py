"""Particle swarm optimization on pymoo (Kennedy & Eberhart 1995; adaptive: Zhan et al. 2009)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from zoopt.errors import ConfigError
from zoopt.strategies.evolution import Evolution
from zoopt.strategy import Capabilities, Task


@dataclass(frozen=True)
class PSO(Evolution):
    """Particle swarm: points fly towards their own best and the best of all.

    Quick progress on smooth and mildly multimodal objectives with hundreds to thousands of cheap evaluations; needs bounds.

    Reference: Kennedy & Eberhart, Particle Swarm Optimization, ICNN 1995; Zhan et al., Adaptive Particle Swarm Optimization,
    IEEE Trans. SMC-B 39 (2009); defaults are pymoo's.
    """

    popsize: int = 25  # particles
    w: float = 0.9  # inertia at the start
    c1: float = 2.0  # pull of a particle's own best
    c2: float = 2.0  # pull of the best of all
    adaptive: bool = True  # let inertia and pulls follow the spread of the swarm

    capabilities: ClassVar[Capabilities] = Capabilities(unbounded=False)
    smallest: ClassVar[int] = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.w, self.c1, self.c2) < 0.0:
            raise ConfigError(f"w, c1 and c2 must not be negative; got {self.w!r}, {self.c1!r} and {self.c2!r}.")

    def algorithm(self, task: Task) -> Any:
        from pymoo.algorithms.soo.nonconvex.pso import PSO as Algorithm

        return Algorithm(pop_size=self.popsize, w=self.w, c1=self.c1, c2=self.c2, adaptive=self.adaptive)
