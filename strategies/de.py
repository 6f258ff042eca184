"""Differential evolution on pymoo (Storn & Price, Journal of Global Optimization 11, 1997)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from zoopt.errors import ConfigError
from zoopt.strategies.evolution import Evolution
from zoopt.strategy import Capabilities, Task


@dataclass(frozen=True)
class DE(Evolution):
    """Differential evolution: new points from differences of members of a population.

    For rugged, multimodal or non-smooth objectives with thousands of cheap evaluations; needs bounds. CMA-ES converges
    faster where variables interact.

    Reference: Storn & Price, Differential Evolution, Journal of Global Optimization 11 (1997); defaults are pymoo's.
    """

    variant: str = "DE/best/1/bin"  # DE/<rand, best or target-to-best>/<1 or 2 differences>/<bin, exp, line or hypercube>
    F: float = 0.5  # weight of a difference
    CR: float = 0.2  # probability that a column is taken from the mutant
    jitter: bool = False  # vary F a little from point to point

    capabilities: ClassVar[Capabilities] = Capabilities(unbounded=False)
    smallest: ClassVar[int] = 7

    def __post_init__(self) -> None:
        super().__post_init__()
        parts = self.variant.split("/")
        names = {"rand", "best", "target-to-best"}, {"1", "2"}, {"bin", "exp", "line", "hypercube"}
        if parts[0] != "DE" or len(parts) != 4 or any(part not in known for part, known in zip(parts[1:], names, strict=True)):
            raise ConfigError(
                'variant must be like "DE/best/1/bin" (rand, best or target-to-best; 1 or 2; bin, exp, line or hypercube); '
                f"got {self.variant!r}."
            )
        if not self.F > 0.0 or not 0.0 <= self.CR <= 1.0:
            raise ConfigError(f"F must be positive and CR between 0 and 1; got F={self.F!r} and CR={self.CR!r}.")

    def algorithm(self, task: Task) -> Any:
        from pymoo.algorithms.soo.nonconvex.de import DE as Algorithm

        return Algorithm(pop_size=self.popsize, variant=self.variant, F=self.F, CR=self.CR, jitter=self.jitter)
