"""Acquisition functions for several objectives: how much an evaluation may add to the front of the best trade-offs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from zoopt.errors import ConfigError
from zoopt.strategies.bo.acquisitions import Function, Sampled

if TYPE_CHECKING:
    from zoopt.strategies.bo.models import Fitted
    from zoopt.strategy import Task


@dataclass(frozen=True)
class HypervolumeImprovement(Sampled):
    """Noisy log expected hypervolume improvement: over the front in each of many joint posterior samples, pending points among them.

    What is worse than the reference point in some objective does not count. Its cost grows steeply with the number of objectives: take
    ``scalarised`` for more than four. Daulton, Balandat, Bakshy, Parallel Bayesian optimization of multiple noisy
    objectives with expected hypervolume improvement, NeurIPS 2021.
    """

    samples: int = 64  # joint posterior samples, each with a front of its own
    reference: Mapping[str, float] | None = None  # worst values of interest, by objective; others: a tenth of the front's range beyond it

    several: ClassVar[bool | None] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reference is not None:
            if not isinstance(self.reference, Mapping):
                raise ConfigError(
                    f"reference gives the worst value of interest by objective, as in {{'loss': 0.5}}; got {self.reference!r}."
                )
            object.__setattr__(self, "reference", {str(name): float(value) for name, value in self.reference.items()})

    def check(self, task: Task) -> None:
        """Refuses one objective, and a reference for what is none."""
        super().check(task)
        unknown = [name for name in self.reference or {} if name not in task.objectives]
        if unknown:
            raise ConfigError(f"reference names {unknown[0]!r}, but the objectives are {', '.join(task.objectives)}.")

    def gain(self, fitted: Fitted, awaited: Tensor | None, sampler: Any) -> Function:
        from zoopt.strategies.bo.sampled import LogHypervolumeImprovement

        ideal, usual = fitted.corners
        reference, size = usual.clone(), usual - ideal
        task = fitted.task
        for name, value in (self.reference or {}).items():
            k = task.objectives.index(name)
            reference[k] = (-value if name in task.maximised else value) / fitted.units[k]
        size = torch.where(reference > ideal, reference - ideal, size)  # where none is that good yet, the front's own range
        made: Function = LogHypervolumeImprovement(
            reference, size, fitted.joint, fitted.baseline, sampler, awaited, fitted.scaled_limits or None
        )
        return made

    def name(self, fitted: Fitted) -> str:
        return "noisy log expected hypervolume improvement"


@dataclass(frozen=True)
class Scalarised(Sampled):
    """Noisy log expected improvement of the worst objective under random weights, drawn anew for each proposal.

    An augmented Chebyshev sum of the objectives, each in units of the front's range: cheap for any number of them. Knowles, ParEGO, IEEE
    Trans. Evolutionary Computation 10(1), 2006; over joint samples as in Daulton, Balandat, Bakshy, NeurIPS 2020.
    """

    augmentation: float = 0.05  # weight of the plain sum beside the worst objective

    several: ClassVar[bool | None] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.augmentation < 1:
            raise ConfigError(f"augmentation must be 0 or more and less than 1; got {self.augmentation!r}.")

    def gain(self, fitted: Fitted, awaited: Tensor | None, sampler: Any) -> Function:
        from zoopt.strategies.bo.sampled import LogImprovement

        ideal, reference = fitted.corners
        m = ideal.numel()
        key = fitted.random.child("weights", 0 if awaited is None else len(awaited))
        spacings = -key.uniform(m).clamp_min(1e-12).log()  # exponential: their shares are uniform on the simplex
        weights = spacings / spacings.sum()

        def loss(samples: Tensor) -> Tensor:
            shares = weights * (samples[..., :m] - ideal) / (reference - ideal)
            return shares.amax(-1) + self.augmentation * shares.sum(-1)

        worse = 1.0 + 2.0 * float(loss(fitted.values).max() - loss(ideal))
        made: Function = LogImprovement(loss, worse, fitted.joint, fitted.baseline, sampler, awaited, fitted.scaled_limits or None)
        return made

    def name(self, fitted: Fitted) -> str:
        return "noisy log expected improvement of random weights"
