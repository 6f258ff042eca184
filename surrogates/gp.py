"""Gaussian process with maximum-a-posteriori hyperparameters, handed to BoTorch as a ``SingleTaskGP``.

The hyperparameters are found here, with the closed-form gradient of the marginal likelihood (Rasmussen & Williams 2006,
eq. 5.9), which needs a small part of the time of a fit by automatic differentiation and reaches the same optimum.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from zoopt.errors import ConfigError
from zoopt.strategy import Task
from zoopt.surrogates.base import Surrogate, TrainingData
from zoopt.surrogates.tasks import Tasks

if TYPE_CHECKING:
    from botorch.models.model import Model

    from zoopt.space import Space

__all__ = ["GP", "TrainingData"]
_log = logging.getLogger("zoopt.surrogates.gp")

_LEAST_LENGTHSCALE = 0.025
_LEAST_NOISE = 1e-6
_QUIET = 1e-5  # noise variance from which a fit begins again, as a part of the variance of the outcomes
_SETTLED = 1e-7  # a search ends where the log posterior, over n, rises by less
_HELD = 200  # from so many points on hyperparameters are held until there are a tenth more
_WARP = (0.0, math.sqrt(0.75))  # log-normal prior of either parameter of a warp, as BoTorch has it
_EDGE = 1e-7  # warped columns are brought this far inside [0, 1], as BoTorch does
_FIDELITY = (math.log(3.0), 0.75)  # log-normal prior of a fidelity's lengthscale: its ends are correlated by .9, more or less
_SQRT5 = math.sqrt(5.0)
_Vector = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class GP(Surrogate):
    """Exact Gaussian process: Matern-5/2 with a lengthscale for each variable, times a Hamming kernel over unordered choices.

    Derivatives that were told count as observations too. A fidelity that is a choice, a source of information, has a scale and an offset
    of its own, and is more or less like the others.

    Lengthscales carry the dimension-scaled log-normal prior of Hvarfner, Hellsten & Nardi (2024). With a deterministic task
    the model interpolates (a small fixed noise, without which the last digits of an optimum are out of reach); otherwise the
    noise is learned, unless its standard deviations were told. Cost: a few Cholesky factorisations of the n x n covariance; with more
    than ``largest`` points hyperparameters are fitted to that many of them, and the rest counts through inducing points.
    """

    noise_floor: float = 1e-6  # least learned noise variance, as a part of the variance of the outcomes
    fixed_noise: float = 1e-6  # noise variance of a deterministic task, as a part of the variance of the outcomes
    iterations: int = 100  # most L-BFGS-B iterations of one fit
    largest: int = 2000  # most points of an exact process
    inducing: int = 500  # inducing points of an approximate one

    def __post_init__(self) -> None:
        for name in ("noise_floor", "fixed_noise"):
            if not _LEAST_NOISE <= getattr(self, name) < 1:  # GPyTorch takes no smaller one
                raise ConfigError(f"GP needs 1e-6 <= {name} < 1, a part of the variance of the outcomes; got {getattr(self, name)!r}.")
        for name, least in (("iterations", 1), ("largest", 10), ("inducing", 10)):
            if getattr(self, name) < least:
                raise ConfigError(f"GP needs {name} >= {least}; got {getattr(self, name)!r}.")

    def fit(self, data: TrainingData, task: Task, start: Tensor | None = None) -> Model:
        """Fit one independent Gaussian process to each outcome.

        Args:
            data: Points and outcomes.
            task: What is being solved.
            start: Hyperparameters of an earlier fit, ``(m, p)``, where the search begins; a cold start otherwise.

        Returns:
            A ``SingleTaskGP``, or a ``ModelListGP`` for several outcomes, in the units of ``data.y``.
        """
        from botorch.models import ModelListGP

        models = []
        for k, part in enumerate(data.columns):
            noise = None if part.noise is None else part.noise[:, 0]
            slopes = None if part.gradients is None else part.gradients[:, 0]
            own = None if start is None else start[k]
            if slopes is not None and self.tasks_of(task.space) is None:
                models.append(self._with_slopes(part.x, part.y[:, 0], noise, slopes, task, own))
            else:
                models.append(self._fit_one(part.x, part.y[:, 0], noise, task, own))
        return models[0] if len(models) == 1 else ModelListGP(*models)

    def memory(self, model: Model) -> Tensor | None:
        """Logarithms of lengthscales (numbers, then choices), outputscale and learned noise, then how many points they fit: ``(m, p)``."""
        parts: Any = getattr(model, "models", [model])
        return torch.stack([torch.cat([part.zoopt_hyperparameters, torch.tensor([float(part.zoopt_fitted)])]) for part in parts])

    def evidence(self, model: Model) -> float | None:
        """Log posterior of the hyperparameters, up to what does not depend on the outcomes."""
        fitted: Any = model
        given: Callable[[], float] | None = getattr(fitted, "zoopt_evidence", None)
        return None if given is None else given()

    def lengthscales(self, model: Model) -> Tensor:
        """Lengthscales in encoded units, ``(d,)``; NaN for unordered choices."""
        fitted: Any = model
        found: Tensor = fitted.zoopt_lengthscales
        return found

    def importance(self, model: Model) -> Tensor | None:
        """Minus the logarithm of the correlation between the ends of each column, ``(d,)``; of tasks, between all pairs on average."""
        fitted: Any = model
        found: Tensor | None = getattr(fitted, "zoopt_importance", None)
        return found

    def _fit_one(self, x: Tensor, y: Tensor, noise: Tensor | None, task: Task, start: Tensor | None) -> Any:
        if len(x) > self.largest:
            return self._approximated(x, y, noise, task, start)
        frame = Frame.of(task.space, x, self.tasks_of(task.space), self.warps)
        sd = _spread(y)
        fixed = self._fixed_noise(noise, sd, y, task.deterministic)
        likelihood = Posterior(frame, x, (y - y.mean()) / sd, fixed, self.noise_floor)
        theta, fitted = (None, 0) if start is None else (start[:-1], int(start[-1]))
        if theta is None or not (max(fitted, _HELD) <= len(y) < 1.1 * fitted and likelihood.takes(theta)):
            theta, fitted = self.hyperparameters(likelihood, theta), len(y)
        model = build(frame, x, y, theta, likelihood, self.noise_floor)
        model.zoopt_fitted = fitted
        # It costs a factorisation, and is only asked for where scales are compared.
        model.zoopt_evidence = lambda: -len(y) * (likelihood.negative(theta.numpy())[0] + float(sd.log()))
        return model

    def _with_slopes(self, x: Tensor, y: Tensor, noise: Tensor | None, slopes: Tensor, task: Task, start: Tensor | None) -> Any:
        """A process of values and derivatives ``slopes: (n, d)``, NaN where not told; of the best points first where they are too many."""
        from zoopt.surrogates.gradients import Density, Points, fitted

        space, most = task.space, self.largest
        if len(x) > most // 2:
            return self._fit_one(x, y, noise, task, start)
        frame = Frame.of(space, x)
        sd = _spread(y)
        real = torch.tensor([space.columns[j].kind == "real" for j in frame.numbers])
        by_number = slopes[:, frame.numbers] * (frame.upper - frame.lower)[frame.numbers] / sd
        told = torch.isfinite(by_number) & real
        order = torch.argsort(y, stable=True)
        spent = told[order].sum(-1).cumsum(0) + len(x)
        told[order[spent > most // 2]] = False
        points = Points(frame.scaled(x), x[:, frame.choices], told)
        observed = torch.cat([(y - y.mean()) / sd, by_number[told]])
        fixed = self._fixed_noise(noise, sd, y, task.deterministic)
        centre, width = prior(len(frame.numbers), len(frame.choices))
        density = Density(points, observed, self.fixed_noise if task.deterministic else None, fixed, centre, width)
        theta = None if start is None else start[:-1]
        model = fitted(
            density, lambda at: (frame.scaled(at), at[..., frame.choices]), (y.mean(), sd), theta, self.iterations, _LEAST_LENGTHSCALE
        )
        found: Any = model
        found.zoopt_hyperparameters, found.zoopt_fitted = model.theta, len(y)
        lengths = torch.full_like(frame.lower, torch.nan)
        lengths[frame.numbers] = model.at.lengths * (frame.upper - frame.lower)[frame.numbers]
        found.zoopt_lengthscales = lengths
        return model.eval()

    def _approximated(self, x: Tensor, y: Tensor, noise: Tensor | None, task: Task, start: Tensor | None) -> Any:
        """A process of all points through inducing points: the best ones, and those that leave the least variance."""
        from zoopt.surrogates.sparse import SparseGP, inducing_points

        count = self.largest // 2
        best = torch.argsort(y, stable=True)[: count // 2]
        others = torch.ones(len(y), dtype=torch.bool)
        others[best] = False
        spread = torch.nonzero(others).flatten()
        part = torch.cat([best, spread[torch.linspace(0, len(spread) - 1, count - len(best)).round().long()]])
        kernel = self._fit_one(x[part], y[part], None if noise is None else noise[part], task, start)
        at = inducing_points(kernel, x, best[: self.inducing // 4], self.inducing)
        told = None
        if noise is not None and not task.deterministic and bool(torch.isfinite(noise).any()):
            told = torch.where(torch.isfinite(noise), noise, noise[torch.isfinite(noise)].median()).square().clamp_min(1e-12)
        model = SparseGP(kernel, x[at], x, y.unsqueeze(-1), told)
        for name in ("hyperparameters", "lengthscales", "fitted"):
            setattr(model, f"zoopt_{name}", getattr(kernel, f"zoopt_{name}"))
        return model.requires_grad_(False).eval()

    def hyperparameters(self, likelihood: Posterior, start: Tensor | None) -> Tensor:
        """The best hyperparameters found, from those of an earlier fit or cold; a recipe of its own may change the likelihood's terms."""
        return likelihood.maximise(start, self.iterations)

    @property
    def warps(self) -> bool:
        """Whether columns are bent before their distances are taken."""
        return False

    def tasks_of(self, space: Space) -> int | None:
        """The column whose choices are tasks, or sources of information, or None."""
        return next((j for j, column in enumerate(space.columns) if column.role == "fidelity" and column.kind == "choice"), None)

    def _fixed_noise(self, noise: Tensor | None, sd: Tensor, y: Tensor, deterministic: bool) -> Tensor | None:
        """Noise variances in units of the variance of the outcomes, ``(n,)``, or None where they must be learned."""
        if deterministic:
            return torch.full_like(y, self.fixed_noise)
        if noise is None or not bool(torch.isfinite(noise).any()):
            return None
        told = noise.square() / sd.square()
        # Rows without a told noise count as noisy as the others typically are.
        typical = told[torch.isfinite(told)].median()
        return torch.where(torch.isfinite(told), told, typical).clamp_min(self.noise_floor)


def _least_spread(y: Tensor) -> float:
    """A standard deviation of ``y: (n,)`` below this is no more than rounding."""
    return max(1e-14 * float(y.abs().max()), float(torch.finfo(y.dtype).tiny))


def _spread(y: Tensor) -> Tensor:
    """Sample standard deviation of ``y: (n,)``; 1 where it is no more than rounding, as BoTorch's ``Standardize`` has it."""
    sd = y.std() if y.numel() > 1 else torch.zeros((), dtype=y.dtype)
    return sd if float(sd) >= _least_spread(y) else torch.ones_like(sd)


@dataclass(frozen=True)
class Frame:
    """Which columns are numbers, which unordered choices and which tasks, and the box to which unbounded numbers are scaled."""

    dim: int
    numbers: list[int]
    choices: list[int]
    unbounded: list[int]
    lower: Tensor  # (d,)
    upper: Tensor  # (d,)
    fidelities: list[int]  # places of fidelities among the numbers
    tasks: int | None  # column of the tasks
    between: Tasks | None  # how they vary together
    warped: list[int]  # places of numbers that are bent

    @classmethod
    def of(cls, space: Space, x: Tensor, tasks: int | None = None, warps: bool = False) -> Frame:
        """The frame of a space, for points ``x: (n, d)`` whose column ``tasks`` says to which task they belong."""
        numbers = [j for j, column in enumerate(space.columns) if j != tasks and (column.kind != "choice" or column.ordered)]
        choices = [j for j in range(space.dim) if j not in set(numbers) and j != tasks]
        lower, upper = torch.tensor(space.lower, dtype=x.dtype), torch.tensor(space.upper, dtype=x.dtype)
        unbounded = torch.nonzero(~torch.isfinite(lower) | ~torch.isfinite(upper)).flatten().tolist()
        # Unbounded columns are scaled to where the data lie; ordered choices from their indices to [0, 1] like everything else.
        for j in unbounded:
            low, high = float(x[:, j].min()), float(x[:, j].max())
            margin = max(1.0 - (high - low), 0.0) / 2
            lower[j], upper[j] = low - margin, high + margin
        fidelities = [k for k, j in enumerate(numbers) if space.columns[j].role == "fidelity"]
        between = None
        if tasks is not None:
            between = Tasks(space.columns[tasks].cardinality or 1, int(space.targets.get(tasks, 0.0)))
        warped = [k for k, j in enumerate(numbers) if j not in unbounded] if warps else []
        return cls(space.dim, numbers, choices, unbounded, lower, upper, fidelities, tasks, between, warped)

    def scaled(self, x: Tensor) -> Tensor:
        """The columns of numbers in [0, 1], ``(..., numbers)``."""
        return ((x - self.lower) / (self.upper - self.lower))[..., self.numbers]

    @property
    def rescaled(self) -> list[int]:
        """Columns whose encoding is not already [0, 1] or an index of an unordered choice."""
        return [j for j in self.numbers if self.lower[j] != 0.0 or self.upper[j] != 1.0]


class Posterior:
    """Log posterior density of the hyperparameters, with its gradient; the constant mean is profiled out.

    ``theta`` holds logarithms: lengthscales of numbers, lengthscales of choices, outputscale, and noise where it is learned; before the
    noise what ``Tasks`` has of tasks, and both parameters of each warp. Priors are densities of the values themselves, without the Jacobian
    of the logarithm, as BoTorch has them, those of tasks densities of the parameters.

    Attributes:
        y: Standardised outcomes, ``(n,)``.
        fixed: Noise variances that are known, ``(n,)``, or None where one for all is learned.
        extra: Noise variances beside those, ``(n,)``.
        sparsity: Where given, squared inverse lengthscales carry a half-Cauchy prior of this scale instead of the log-normal one.
    """

    def __init__(self, frame: Frame, x: Tensor, y: Tensor, fixed: Tensor | None, floor: float) -> None:
        self.y = y
        self.fixed = fixed
        self.extra = torch.zeros_like(y)
        self.sparsity: float | None = None
        self.z = frame.scaled(x)
        self.differs = (x[:, None, frame.choices] != x[None, :, frame.choices]).to(x.dtype)  # (n, n, choices)
        p, c = len(frame.numbers), len(frame.choices)
        self.numbers, self.choices = p, c
        self.between = frame.between
        self.task = torch.zeros(len(x), dtype=torch.int64) if frame.tasks is None else x[:, frame.tasks].round().long()
        self.same_task = (self.task[:, None] == self.task[None, :]).to(x.dtype)
        learned = 0 if fixed is not None else 1
        centre, width = prior(p - len(frame.fidelities), c)
        for k in frame.fidelities:
            centre, width = np.insert(centre, k, _FIDELITY[0]), np.insert(width, k, _FIDELITY[1])
        own: Any = self.between
        tasks = slice(p + c + 1, p + c + 1 + (own.size if own else 0))
        self.tasks = tasks
        w = len(frame.warped)
        self.warped = torch.tensor(frame.warped, dtype=torch.int64)
        self.warps = slice(tasks.stop, tasks.stop + 2 * w)
        self.centre = np.concatenate([centre, own.centre if own else [], [_WARP[0]] * 2 * w, [-4.0] * learned])
        self.width = np.concatenate([width, own.width if own else [], [_WARP[1]] * 2 * w, [1.0] * learned])
        self.bounds = [(math.log(_LEAST_LENGTHSCALE), 10.0)] * p + [(-6.0, 8.0)] * c + [(-8.0, 8.0)]
        self.bounds += (own.bounds if own else []) + [(-3.0, 3.0)] * 2 * w + [(math.log(floor), 2.0)] * learned
        self.log_normal = np.ones(len(self.centre))
        self.log_normal[tasks] = 0.0
        self.mode = np.clip(self.centre - self.log_normal * self.width**2, *np.array(self.bounds).T)
        self.mode[p + c] = 0.0  # an outputscale of 1, the variance of the standardised outcomes
        self.mode[self.warps] = 0.0  # no warp

    def takes(self, theta: Tensor) -> bool:
        """Whether these can be its hyperparameters."""
        return theta.numel() == self.mode.size and bool(torch.isfinite(theta).all())

    def maximise(self, start: Tensor | None, iterations: int) -> Tensor:
        """The best hyperparameters found from ``start``, else from the prior's mode; those of the prior where the search fails."""
        if start is not None and self.takes(start):
            low, high = np.array(self.bounds).T
            warm = self._climbed(np.clip(start.numpy(), low, high), iterations)
            if warm is not None:
                return torch.from_numpy(warm[1])
        starts = [self.mode]
        if self.fixed is None:
            # What is small beside the whole range may at first look like noise; from little noise the search sees it.
            starts.append(np.append(self.mode[:-1], max(math.log(_QUIET), self.bounds[-1][0])))
        found = [result for first in starts if (result := self._climbed(first, iterations)) is not None]
        if not found:
            _log.warning("no fit of the Gaussian process succeeded; it uses the hyperparameters of the prior.")
            return torch.from_numpy(self.mode.copy())
        return torch.from_numpy(min(found, key=lambda result: result[0])[1])

    def _climbed(self, first: _Vector, iterations: int) -> tuple[float, _Vector] | None:
        """Negative log posterior and place of the local optimum reached from ``first``; None where the search fails."""
        from scipy.optimize import minimize

        try:
            found = minimize(
                self.negative, first, jac=True, method="L-BFGS-B", bounds=self.bounds, options={"maxiter": iterations, "ftol": _SETTLED}
            )
        except (ArithmeticError, ValueError, torch.linalg.LinAlgError) as error:
            _log.warning("a fit of the Gaussian process failed (%s); trying the next start.", error)
            return None
        return (float(found.fun), found.x.copy()) if np.isfinite(found.fun) and found.fun < 1e10 else None

    def settled(self, theta: Tensor) -> tuple[float, Tensor | None]:
        """The constant mean and the Cholesky factor of the noisy covariance at ``theta``, in standardised units."""
        _, kernel, _ = self._covariance(theta.numpy())
        tasks = self._over_tasks(theta)
        kernel = kernel if tasks is None else kernel * tasks[0] + tasks[1]
        factor = _cholesky(kernel + torch.diag(self.noise(theta.numpy())))
        if factor is None:
            return 0.0, None
        weights = torch.cholesky_solve(torch.ones_like(self.y)[:, None], factor)[:, 0]
        return float((weights @ self.y) / weights.sum()), factor

    def _over_tasks(self, theta: Tensor) -> tuple[Tensor, Tensor] | None:
        """What a covariance is multiplied by, and what is added to it, ``(n, n)`` each; None where there is one task."""
        if self.between is None:
            return None
        parameters = theta[self.tasks]
        return self.between.covariance(parameters)[self.task][:, self.task], self.between.offset(parameters) * self.same_task

    def noise(self, theta: _Vector) -> Tensor:
        """Noise variances ``(n,)`` at ``theta``."""
        return (self.fixed if self.fixed is not None else torch.full_like(self.y, math.exp(theta[-1]))) + self.extra

    def left_out(self, theta: Tensor) -> tuple[Tensor, Tensor] | None:
        """Residual and variance of each outcome as the others predict it, ``(n,)`` each; None where the numerics fail.

        Rasmussen & Williams 2006, eq. 5.12, with the constant mean held.
        """
        mean, factor = self.settled(theta)
        if factor is None:
            return None
        inverse = torch.cholesky_inverse(factor)
        precision = inverse.diagonal()
        return (inverse @ (self.y - mean)) / precision, 1.0 / precision

    def _covariance(self, theta: _Vector) -> tuple[Tensor, Tensor, Tensor]:
        """Scaled numbers ``(n, numbers)``, covariance ``(n, n)``, and what times the squared scaled distance is its derivative.

        All of it within one task.
        """
        p, c = self.numbers, self.choices
        values = torch.from_numpy(np.exp(theta))
        z = (self.z if not len(self.warped) else bent(self.z, self.warped, values[self.warps])) / values[:p]
        square = z.square().sum(-1)
        r = (square[:, None] + square[None, :] - 2.0 * z @ z.T).clamp_min_(0.0).sqrt_()
        r.fill_diagonal_(0.0)
        decay = torch.exp(-_SQRT5 * r) * values[p + c]
        if c:
            decay = decay * torch.exp(-(self.differs / values[p : p + c]).mean(-1))
        slope = (5.0 / 3.0) * (1.0 + _SQRT5 * r) * decay
        return z, (1.0 + _SQRT5 * r + (5.0 / 3.0) * r.square()) * decay, slope

    def negative(self, theta: _Vector) -> tuple[float, _Vector]:
        """Negative log posterior and its gradient at ``theta``, both divided by n."""
        p, c, n = self.numbers, self.choices, self.y.numel()
        z, kernel, slope = self._covariance(theta)
        noise = self.noise(theta)
        parameters = torch.from_numpy(theta)
        tasks = self._over_tasks(parameters)
        factor = _cholesky((kernel if tasks is None else kernel * tasks[0] + tasks[1]) + torch.diag(noise))
        if factor is None:
            return 1e12, np.zeros_like(theta)
        inverse = torch.cholesky_inverse(factor)
        ones = inverse.sum(-1)
        residual = self.y - (ones @ self.y) / ones.sum()
        alpha = inverse @ residual
        log_density = -0.5 * (residual @ alpha) - factor.diagonal().log().sum() - 0.5 * n * math.log(2.0 * math.pi)
        weight = torch.outer(alpha, alpha) - inverse
        by_noise = 0.5 * float(weight.diagonal().sum()) * math.exp(theta[-1])

        gradient = np.empty_like(theta)
        if self.between is not None and tasks is not None:
            # By the entries of the tasks' covariance: what they multiply, added up over pairs of points of these tasks.
            one_hot = torch.nn.functional.one_hot(self.task, self.between.count).to(kernel.dtype)
            by_entry = 0.5 * one_hot.mT @ (weight * kernel) @ one_hot
            by_offset = 0.5 * float((weight * self.same_task).sum())
            gradient[self.tasks] = self.between.slopes(parameters[self.tasks], by_entry, by_offset)
            weight = weight * tasks[0]
        g = weight * slope
        gradient[:p] = ((g.sum(-1)[:, None] * z.square()).sum(0) - (z * (g @ z)).sum(0)).numpy()
        if len(self.warped):
            # By each bent coordinate, then by what bends it.
            pull = -(g.sum(-1)[:, None] * z - g @ z)[:, self.warped] / torch.from_numpy(np.exp(theta[:p]))[self.warped]
            first, second = bends(self.z[:, self.warped], parameters[self.warps].exp())
            gradient[self.warps] = torch.cat([(pull * first).sum(0), (pull * second).sum(0)]).numpy()
        shared = weight * kernel
        if c:
            gradient[p : p + c] = 0.5 * (shared[..., None] * self.differs).sum((0, 1)).numpy() / (c * np.exp(theta[p : p + c]))
        gradient[p + c] = 0.5 * float(shared.sum())
        if self.fixed is None:
            gradient[-1] = by_noise

        away = (theta - self.centre) / self.width
        prior, slopes = -self.log_normal * theta - 0.5 * away**2, -self.log_normal - away / self.width
        if self.sparsity is not None:
            ratio = np.exp(-2.0 * theta[:p]) / self.sparsity
            prior[:p], slopes[:p] = -np.log1p(ratio**2), 4.0 * ratio**2 / (1.0 + ratio**2)
        total = float(log_density) + float(prior.sum())
        gradient += slopes
        if not np.isfinite(total):
            return 1e12, np.zeros_like(theta)
        return -total / n, -gradient / n


def bent(z: Tensor, columns: Tensor, parameters: Tensor) -> Tensor:
    """Points ``z: (..., p)`` in [0, 1] with some columns bent by Kumaraswamy's distribution, ``1 - (1 - x^a)^b``.

    Snoek, Swersky, Zemel, Adams, Input warping for Bayesian optimization of non-stationary functions, ICML 2014, whose beta distribution
    has no such simple form.

    Args:
        z: Points.
        columns: Which are bent, ``(w,)``.
        parameters: ``a`` of each, then ``b`` of each, ``(2 w,)``.
    """
    a, b = parameters.chunk(2)
    x = z[..., columns].clamp(0.0, 1.0) * (1.0 - 2.0 * _EDGE) + _EDGE
    return z.index_copy(-1, columns, 1.0 - (1.0 - x**a) ** b)


def bends(x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
    """Derivatives of bent columns ``x: (n, w)`` by the logarithms of both parameters, ``(n, w)`` each."""
    a, b = parameters.chunk(2)
    x = x.clamp(0.0, 1.0) * (1.0 - 2.0 * _EDGE) + _EDGE
    power = x**a
    rest = 1.0 - power
    return a * b * rest ** (b - 1.0) * power * x.log(), -b * rest**b * rest.log()


def prior(numbers: int, choices: int) -> tuple[_Vector, _Vector]:
    """Centres and widths of the log-normal priors of lengthscales of numbers, lengthscales of choices and the outputscale."""
    # Hvarfner et al. scale by the dimension; a typical choice costs a correlation of exp(-1/2), however many there are.
    centre = [math.sqrt(2.0) + 0.5 * math.log(max(numbers, 1))] * numbers + [math.log(2.0 / max(choices, 1)) + 1.0] * choices + [0.0]
    width = [math.sqrt(3.0)] * numbers + [1.0] * choices + [1.5]
    return np.array(centre), np.array(width)


def _cholesky(matrix: Tensor) -> Tensor | None:
    """Lower Cholesky factor, with growing jitter where the matrix is not positive definite to rounding; None where nothing helps."""
    scale = matrix.diagonal().mean()
    for jitter in (0.0, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4):
        factor: Tensor
        factor, failed = torch.linalg.cholesky_ex(
            matrix if jitter == 0.0 else matrix + torch.diag(torch.full_like(matrix[0], jitter) * scale)
        )
        if not bool(failed) and bool(torch.isfinite(factor).all()):
            return factor
    return None


def build(frame: Frame, x: Tensor, y: Tensor, theta: Tensor, likelihood_of: Posterior, floor: float) -> Any:
    """The BoTorch model with these hyperparameters."""
    from botorch.models.kernels.categorical import CategoricalKernel
    from botorch.models.transforms.input import ChainedInputTransform, Normalize, Warp
    from botorch.models.transforms.outcome import Standardize
    from gpytorch.constraints import GreaterThan, Positive
    from gpytorch.kernels import Kernel, MaternKernel, ScaleKernel
    from gpytorch.likelihoods import GaussianLikelihood

    from zoopt.surrogates.exact_gp import ExactGP, TableKernel

    mean, factor = likelihood_of.settled(theta)
    own = likelihood_of.fixed is not None or bool((likelihood_of.extra > 0).any())
    fixed = likelihood_of.noise(theta.numpy()) if own else None
    p, c = len(frame.numbers), len(frame.choices)
    values = theta.exp()
    kernel: Kernel | None = None
    if p:
        kernel = MaternKernel(nu=2.5, ard_num_dims=p, active_dims=frame.numbers, lengthscale_constraint=Positive())
        kernel.lengthscale = values[:p]
    if c:
        matching = CategoricalKernel(ard_num_dims=c, active_dims=frame.choices, lengthscale_constraint=Positive())
        matching.lengthscale = values[p : p + c]
        kernel = matching if kernel is None else kernel * matching
    between, offset = None, 0.0
    if frame.between is not None and frame.tasks is not None:
        between = frame.between.covariance(theta[likelihood_of.tasks])
        offset = frame.between.offset(theta[likelihood_of.tasks])
        alike = TableKernel(between, frame.tasks)
        kernel = alike if kernel is None else kernel * alike
    scale = ScaleKernel(kernel, outputscale_constraint=Positive())
    scale.outputscale = values[p + c]
    whole: Kernel = scale
    if between is not None and frame.tasks is not None:
        whole = scale + TableKernel(offset * torch.eye(len(between), dtype=x.dtype), frame.tasks)

    likelihood = None
    if fixed is None:
        likelihood = GaussianLikelihood(noise_constraint=GreaterThan(0.5 * floor))  # half: the value itself must lie strictly inside
        likelihood.noise = values[-1:]
    transform: Any = None
    if frame.rescaled:
        bounds = torch.stack([frame.lower, frame.upper])[:, frame.rescaled]
        transform = Normalize(frame.dim, indices=frame.rescaled, bounds=bounds, learn_bounds=False)
    warp = None
    if frame.warped:
        warp = (likelihood_of.warped, values[likelihood_of.warps])
        a, b = warp[1].chunk(2)
        columns = [frame.numbers[k] for k in frame.warped]
        box = torch.stack([torch.zeros(frame.dim), torch.ones(frame.dim)]).to(x)
        bend = Warp(frame.dim, columns, eps=_EDGE, bounds=box)
        bend.concentration1.data, bend.concentration0.data = a.clone(), b.clone()
        transform = bend if transform is None else ChainedInputTransform(scaled=transform, bent=bend)
    model = ExactGP(
        x,
        y.unsqueeze(-1),
        # A little more, since rounding must not bring it below GPyTorch's least noise.
        train_Yvar=None if fixed is None else ((1.0 + 1e-9) * fixed * _spread(y).square()).unsqueeze(-1),
        likelihood=likelihood,
        covar_module=whole,
        outcome_transform=Standardize(m=1, min_stdv=_least_spread(y)),
        input_transform=transform,
    ).to(x)
    model.mean_module.constant.data.fill_(mean)
    model.zoopt_hyperparameters = theta
    lengths = torch.full_like(frame.lower, torch.nan)
    lengths[frame.numbers] = values[:p] * (frame.upper - frame.lower)[frame.numbers]
    model.zoopt_lengthscales = lengths
    importance = torch.zeros_like(lengths)
    reach = _SQRT5 / values[:p]
    importance[frame.numbers] = reach - torch.log1p(reach + reach.square() / 3.0)
    importance[frame.choices] = 1.0 / (values[p : p + c] * max(c, 1))
    if between is not None and frame.tasks is not None:
        correlations = between / torch.outer(between.diagonal(), between.diagonal()).sqrt()
        pairs = correlations[~torch.eye(len(correlations), dtype=torch.bool)]
        importance[frame.tasks] = -pairs.mean().clamp_min(1e-3).log()
    model.zoopt_importance = importance
    model.requires_grad_(False)  # nothing is fitted any more; an acquisition function differentiates by its points only
    model.eval()
    if factor is not None:
        apart = None if between is None or frame.tasks is None else (frame.tasks, between, offset)
        model.settle(theta, x, frame.numbers, frame.choices, frame.lower, frame.upper, factor, apart, warp)
    return model
