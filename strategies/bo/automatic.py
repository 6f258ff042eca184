"""The acquisition function that fits the task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from zoopt.strategies.bo.acquisitions import Acquisition, Function, Improvement, KnowledgeGradient, NoisyImprovement, at_least
from zoopt.strategies.bo.several import HypervolumeImprovement, Scalarised

if TYPE_CHECKING:
    from zoopt.strategies.bo.models import Fitted

_MOST_OBJECTIVES = 4  # beyond, the boxes that make up a hypervolume are too many


@dataclass(frozen=True)
class Automatic(Acquisition):
    """What fits the task: log expected improvement where values are exact, noisy log expected improvement where they are noisy.

    Where fidelities or a random environment are to be chosen it is the knowledge gradient. With several objectives it is noisy log
    expected hypervolume improvement, from five on ``scalarised``. While nothing feasible is known it is the probability of feasibility.
    """

    samples: int | None = None  # joint posterior samples; None: 128, of fronts 64

    several: ClassVar[bool | None] = None
    any_scale: ClassVar[bool] = True
    looks_beyond: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.samples is not None:
            at_least(self, samples=2)

    def function(self, fitted: Fitted, awaited: Tensor | None) -> Function:
        return self._chosen(fitted).function(fitted, awaited)

    def _chosen(self, fitted: Fitted) -> Acquisition:
        m = len(fitted.objectives)
        given: Any = {} if self.samples is None else {"samples": self.samples}
        if m > 1:
            return HypervolumeImprovement(**given) if m <= _MOST_OBJECTIVES else Scalarised(**given)
        if fitted.goal is not None:
            return KnowledgeGradient()
        return Improvement() if fitted.deterministic else NoisyImprovement(**given)

    def title(self, fitted: Fitted) -> str:
        return self._chosen(fitted).title(fitted)
