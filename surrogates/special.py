"""Gaussian processes for data that the plain one does not fit: few columns that matter, outliers, noise that varies."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from zoopt.errors import ConfigError
from zoopt.strategy import Task
from zoopt.surrogates.gp import GP, Posterior

if TYPE_CHECKING:
    from botorch.models.model import Model

    from zoopt.space import Space
    from zoopt.surrogates.base import TrainingData

_log = logging.getLogger("zoopt.surrogates.special")

# The logarithm of a squared standard normal variable: minus its mean, and its standard deviation.
_LOG_SQUARE = 1.270363
_LOG_SQUARE_SD = math.pi / math.sqrt(2.0)


@dataclass(frozen=True)
class SAAS(GP):
    """Gaussian process in which few variables matter: their inverse lengthscales are pulled to zero by half-Cauchy priors.

    The maximum a posteriori for each of some scales of these priors; of them the one whose leave-one-out predictions are the most
    probable. For tens to hundreds of variables. Eriksson & Jankowiak, High-dimensional Bayesian optimization with sparse axis-aligned
    subspaces, UAI 2021, whose posterior is sampled instead.
    """

    scales: tuple[float, ...] = (0.001, 0.01, 0.1, 1.0)  # of the priors of squared inverse lengthscales, the smaller the sparser

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "scales", tuple(float(scale) for scale in self.scales))
        if not self.scales or not all(0 < scale < math.inf for scale in self.scales):
            raise ConfigError(f"SAAS needs scales above 0, one at least; got {self.scales!r}.")

    def hyperparameters(self, likelihood: Posterior, start: Tensor | None) -> Tensor:
        plain = likelihood.maximise(None, self.iterations)  # from which the columns that matter little are let go
        best, chosen, scale_of = -math.inf, plain, None
        for scale in self.scales:
            likelihood.sparsity = scale
            theta = likelihood.maximise(plain, self.iterations)
            found = likelihood.left_out(theta)
            if found is None:
                continue
            residual, variance = found
            score = float((-0.5 * residual.square() / variance - 0.5 * variance.log()).sum())
            if score > best:
                best, chosen, scale_of = score, theta, scale
        likelihood.sparsity = scale_of
        return chosen


@dataclass(frozen=True)
class RobustGP(GP):
    """Gaussian process that learns which outcomes are outliers, and gives each of them a noise of its own.

    Relevance pursuit: the outcome that the others predict worst is given the noise that makes it most probable, the hyperparameters are
    fitted anew, and so on while that gains more than chance would. Ament, Santorella, Eriksson, Letham, Balandat, Bakshy, Robust Gaussian
    processes via relevance pursuit, NeurIPS 2024. For measurements that now and then go wrong; a deterministic task has none.
    """

    most: float = 0.2  # largest part of the outcomes that are outliers

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.most < 1:
            raise ConfigError(f"RobustGP needs 0 <= most < 1; got {self.most!r}.")

    def memory(self, model: Model) -> Tensor | None:
        """As for ``GP``; fitted anew each time, since a new outcome may be an outlier."""
        found = super().memory(model)
        assert found is not None
        found[:, -1] = 0.0
        return found

    def evidence(self, model: Model) -> float | None:
        """Nothing: the noise of outliers was made from the outcomes."""
        return None

    def hyperparameters(self, likelihood: Posterior, start: Tensor | None) -> Tensor:
        theta = likelihood.maximise(start, self.iterations)
        n = likelihood.y.numel()
        if likelihood.fixed is not None or n < 4:
            return theta
        for _ in range(int(self.most * n)):
            found = likelihood.left_out(theta)
            if found is None:
                break
            residual, variance = found
            ratio = residual.square() / variance
            # Of the log density of this outcome given the others, were its noise what makes it most probable.
            gain = torch.where((ratio > 1) & (likelihood.extra == 0), 0.5 * (ratio - 1.0 - ratio.log()), -torch.inf)
            worst = int(gain.argmax())
            if float(gain[worst]) < math.log(n) + 1.0:
                break
            likelihood.extra[worst] = residual[worst].square() - variance[worst]
            theta = likelihood.maximise(theta, self.iterations)
            # What the others say of an outlier known so far, now that they are trusted more.
            again = likelihood.left_out(theta)
            if again is not None:
                known = likelihood.extra > 0
                own = again[1] - likelihood.extra
                likelihood.extra[known] = (again[0].square() - own)[known].clamp_min(1e-6)
        if bool((likelihood.extra > 0).any()):
            _log.info("%d of %d outcomes are taken for outliers.", int((likelihood.extra > 0).sum()), n)
        return theta


@dataclass(frozen=True)
class HeteroscedasticGP(GP):
    """Gaussian process whose noise varies over the space: a second one describes the logarithm of its variance.

    The squares of leave-one-out residuals, as far as the noise makes them, are smoothed by the second process, whose predictions then
    are the noise of the first. Kersting, Plagemann, Pfaff, Burgard, Most likely heteroscedastic Gaussian process regression, ICML 2007.
    For objectives that are much noisier in some places; a deterministic task, and told noise, need it not.
    """

    rounds: int = 2  # how often noise and process are fitted in turn

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rounds < 1:
            raise ConfigError(f"HeteroscedasticGP needs rounds >= 1; got {self.rounds!r}.")

    def fit(self, data: TrainingData, task: Task, start: Tensor | None = None) -> Model:
        """Fit one independent pair of processes to each outcome, see ``GP.fit``."""
        from botorch.models import ModelListGP

        from zoopt.surrogates.base import TrainingData as Data

        if (
            len(data.x) > self.largest
            or task.deterministic
            or (data.noise is not None and bool(torch.isfinite(data.noise).any()))
            or len(data.x) < 5
        ):
            return super().fit(data, task, start)
        models = []
        data = Data(data.x, data.y, data.noise)  # what noise derivatives have is not known
        plain = GP(self.noise_floor, self.fixed_noise, self.iterations, self.largest, self.inducing)
        for k, part in enumerate(data.columns):
            model: Any = plain.fit(part, task, None if start is None else start[k : k + 1])
            unit = float(part.y.std()) or 1.0
            log_noise: Any = None
            for _ in range(self.rounds):
                residual, variance = left_out(model)
                noise = model.likelihood.noise.detach().expand(len(part.x))
                squares = (residual.square() * noise / variance).clamp_min(1e-12).log() + _LOG_SQUARE
                log_noise = plain.fit(Data(part.x, squares.unsqueeze(-1), torch.full_like(part.y, _LOG_SQUARE_SD)), task)
                with torch.no_grad():
                    smooth = log_noise.posterior(part.x.unsqueeze(-2)).mean.reshape(-1, 1)
                sd = (0.5 * smooth).exp() * unit
                model = plain.fit(Data(part.x, part.y, sd), task)
            model.log_noise = (log_noise,)
            models.append(model)
        return cast("Model", models[0] if len(models) == 1 else ModelListGP(*models))

    def memory(self, model: Model) -> Tensor | None:
        """Nothing: with its noise known, a process has other hyperparameters than where a fit begins."""
        return None

    def evidence(self, model: Model) -> float | None:
        """Nothing: the noise was made from the outcomes."""
        return None


@dataclass(frozen=True)
class WarpedGP(GP):
    """Gaussian process over columns that are bent, each by two parameters, where that predicts better.

    For objectives that change fast at one end of a variable and slowly at the other, such as one that should have been searched by its
    logarithm. With and without warps the process is fitted, and of both kept whose leave-one-out predictions are the more probable. Snoek,
    Swersky, Zemel, Adams, Input warping for Bayesian optimization of non-stationary functions, ICML 2014.
    """

    @property
    def warps(self) -> bool:
        return True

    def hyperparameters(self, likelihood: Posterior, start: Tensor | None) -> Tensor:
        bounds = likelihood.bounds
        found: list[tuple[float, Tensor]] = []
        for bends in (False, True):
            if not bends:
                held = range(likelihood.warps.start, likelihood.warps.stop)
                likelihood.bounds = [(0.0, 0.0) if i in held else bound for i, bound in enumerate(bounds)]
                theta = likelihood.maximise(None, self.iterations)
            else:
                likelihood.bounds = bounds
                theta = likelihood.maximise(found[0][1] if start is None else start, self.iterations)
            left = likelihood.left_out(theta)
            score = -math.inf if left is None else float((-0.5 * left[0].square() / left[1] - 0.5 * left[1].log()).sum())
            found.append((score, theta))
        return found[1][1] if found[1][0] > found[0][0] else found[0][1]


@dataclass(frozen=True)
class MultiTaskGP(GP):
    """Gaussian process of several tasks that share their lengthscales: each choice of one variable is a function of its own.

    The functions have scales and offsets of their own and are more or less like each other, also with the sign turned; take it where a
    ``Context`` says whose problem it is, so that what is learned in one helps in the others. Sources that are a ``Fidelity`` are taken so
    by ``gp`` too. Bonilla, Chai, Williams, Multi-task Gaussian process prediction, NIPS 2007.
    """

    tasks: str = ""  # name of the variable whose choices are the tasks; left out: the only context or fidelity that is a choice

    def check(self, task: Task) -> None:
        """Refuses a space in which it cannot tell the tasks."""
        self.tasks_of(task.space)

    def tasks_of(self, space: Space) -> int | None:
        kinds = [(j, column) for j, column in enumerate(space.columns) if column.kind == "choice" and not column.ordered]
        if self.tasks:
            named = [j for j, column in kinds if column.name == self.tasks]
            if len(named) != 1:
                raise ConfigError(f"MultiTaskGP: tasks = {self.tasks!r} is no single unordered choice of this space.")
            return named[0]
        found = [j for j, column in kinds if column.role in ("context", "fidelity")]
        if len(found) != 1:
            raise ConfigError("MultiTaskGP needs to know which choice says whose problem it is; name it by tasks.")
        return found[0]


def left_out(model: Any) -> tuple[Tensor, Tensor]:
    """Standardised residual and variance of each outcome as the others predict it, of a fitted ``ExactGP``, ``(n,)`` each."""
    settled = model._settled
    inverse = torch.cholesky_inverse(settled["factor"])
    precision = inverse.diagonal()
    return settled["alpha"].squeeze(-1) / precision, 1.0 / precision
