"""The contract of a surrogate: a recipe that fits a BoTorch model to data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from zoopt import registry
from zoopt.errors import ConfigError
from zoopt.strategy import Task

if TYPE_CHECKING:
    from botorch.models.model import Model


@dataclass(frozen=True, slots=True)
class TrainingData:
    """What a surrogate is fitted to.

    Attributes:
        x: Encoded points, ``(n, d)``, float64.
        y: Observed outcomes in their own units, ``(n, m)``, finite.
        noise: Standard deviations of the outcomes, ``(n, m)``, NaN where not told; None where none was.
        gradients: Derivatives of the outcomes by encoded columns, ``(n, m, d)``, NaN where not told; None where none was.
    """

    x: Tensor
    y: Tensor
    noise: Tensor | None = None
    gradients: Tensor | None = None

    @property
    def columns(self) -> list[TrainingData]:
        """Each outcome by itself; ``noise`` and ``gradients`` only where some of them was told."""
        parts = []
        for k in range(self.y.shape[1]):
            noise = None if self.noise is None else self.noise[:, k : k + 1]
            slopes = None if self.gradients is None else self.gradients[:, k : k + 1]
            parts.append(TrainingData(self.x, self.y[:, k : k + 1], _told(noise), _told(slopes)))
        return parts


def _told(part: Tensor | None) -> Tensor | None:
    """None where nothing of it is a number."""
    return part if part is not None and bool(part.isfinite().any()) else None


@dataclass(frozen=True)
class Surrogate:
    """Base class of every surrogate: a frozen dataclass of hyper-parameters."""

    def check(self, task: Task) -> None:
        """Refuses, with a ConfigError, a task that it cannot describe."""

    def fit(self, data: TrainingData, task: Task, start: Tensor | None = None) -> Model:
        """A model of the outcomes over encoded points, with m outputs in the units of ``data.y``.

        Args:
            data: Points and outcomes.
            task: What is being solved: its space tells which columns are choices, ``deterministic`` whether to interpolate.
            start: What ``memory`` gave for an earlier fit to similar data, for a warm start.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define fit().")

    def memory(self, model: Model) -> Tensor | None:
        """Numbers from which a later fit may start, or None."""
        return None

    def evidence(self, model: Model) -> float | None:
        """Logarithm of how probable the model makes what one outcome was fitted to, hyperparameters' priors included; None: not known."""
        return None

    def importance(self, model: Model) -> Tensor | None:
        """How much each encoded column matters, ``(d,)``: minus the logarithm of the correlation between its ends; None: not known."""
        return None

    def lengthscales(self, model: Model) -> Tensor | None:
        """How far each encoded column reaches, ``(d,)``, the shorter the more it matters; NaN where it has none, None: not known."""
        return None


def make_surrogate(surrogate: Surrogate | str) -> Surrogate:
    """The recipe itself, or that of a registered name with its defaults.

    Raises:
        UnknownName: No surrogate of this name.
        ConfigError: Neither a name nor a recipe.
    """
    made: Any = registry.load(surrogate, "surrogates")() if isinstance(surrogate, str) else surrogate
    if not isinstance(made, Surrogate):
        raise ConfigError(
            "surrogate is the name of a registered one or a recipe, an instance of a class derived from zoopt.surrogates.base.Surrogate; "
            f"got {surrogate!r}."
        )
    return made
