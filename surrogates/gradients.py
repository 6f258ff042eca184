"""A Gaussian process of values and their derivatives. Imported when it is needed, since it loads BoTorch."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from botorch.models.model import Model
from botorch.models.transforms.outcome import Standardize
from botorch.posteriors import GPyTorchPosterior
from gpytorch.constraints import GreaterThan
from gpytorch.distributions import MultivariateNormal
from gpytorch.likelihoods import GaussianLikelihood
from linear_operator import to_linear_operator
from linear_operator.utils.cholesky import psd_safe_cholesky
from torch import Tensor

_SQRT5 = math.sqrt(5.0)
_NUGGET = 1e-9  # added to the posterior variance, in units of the outputscale
_QUIETEST = 1e-6  # least noise variance, as a part of the prior variance of what is observed

_Vector = np.ndarray[Any, np.dtype[np.float64]]


class Hyperparameters:
    """Lengthscales, outputscale and noise of a process, from the logarithms ``theta`` in which they are searched.

    Attributes:
        lengths: Of numbers, ``(p,)``.
        apart: Lengthscales of choices, ``(c,)``.
        outputscale: Variance of values.
        noise: Variance of the noise of values, and that of derivatives as a part of their prior variance, ``(2,)``.
    """

    def __init__(self, theta: Tensor, p: int, c: int, fixed: float | None) -> None:
        values = theta.exp()
        self.lengths, self.apart, self.outputscale = values[:p], values[p : p + c], values[p + c]
        self.noise = values[p + c + 1 :] if fixed is None else torch.full((2,), fixed, dtype=theta.dtype)


class Points:
    """Where values and derivatives are known: points that were split into numbers ``(n, p)`` in [0, 1] and choices ``(n, c)``.

    Args:
        numbers: Columns of numbers.
        choices: Columns of choices.
        told: Which derivatives by the numbers are known, ``(n, p)`` bool.
    """

    def __init__(self, numbers: Tensor, choices: Tensor, told: Tensor) -> None:
        self.numbers, self.choices = numbers, choices
        n, p = told.shape
        rows, columns = torch.nonzero(told, as_tuple=True)
        self.observed = torch.cat([torch.arange(n), n + rows * p + columns])  # of n values and then all derivatives, row by row
        self.columns = columns
        self.n, self.p = n, p


def with_observed(x: Tensor, choices: Tensor, points: Points, at: Hyperparameters) -> Tensor:
    """Prior covariance between values at ``x: (..., q, p)`` and what is observed, ``(..., q, N)``."""
    u, r, shared = _apart(x, choices, points, at)
    decay = torch.exp(-_SQRT5 * r) * shared
    values = (1.0 + _SQRT5 * r + (5.0 / 3.0) * r.square()) * decay
    # A Matern-5/2 kernel has one derivative by either argument: (5/3) (1 + sqrt5 r) exp(-sqrt5 r) (x - x')_j / l_j^2.
    slopes = ((5.0 / 3.0) * (1.0 + _SQRT5 * r) * decay).unsqueeze(-1) * u / at.lengths
    return torch.cat([values, slopes.flatten(-2)], -1)[..., points.observed]


def of_observed(points: Points, at: Hyperparameters) -> Tensor:
    """Prior covariance of what is observed, without noise, ``(N, N)``."""
    n, p = points.n, points.p
    u, r, shared = _apart(points.numbers, points.choices, points, at)
    decay = torch.exp(-_SQRT5 * r) * shared
    values = (1.0 + _SQRT5 * r + (5.0 / 3.0) * r.square()) * decay
    first = (5.0 / 3.0) * (1.0 + _SQRT5 * r) * decay
    scaled = u / at.lengths  # (n, n, p)
    slopes = first.unsqueeze(-1) * scaled
    own = torch.diag_embed((1.0 / at.lengths.square()).expand(n, n, p)) * first[..., None, None]
    curved = own - (25.0 / 3.0) * decay[..., None, None] * scaled.unsqueeze(-1) * scaled.unsqueeze(-2)  # (n, n, p, p)
    beside = slopes.reshape(n, n * p)
    whole = torch.cat([torch.cat([values, beside], 1), torch.cat([beside.mT, curved.permute(0, 2, 1, 3).reshape(n * p, n * p)], 1)])
    return whole[points.observed][:, points.observed]


def noise_of(points: Points, at: Hyperparameters, own: Tensor | None) -> Tensor:
    """Noise variances of what is observed, ``(N,)``; ``own: (n,)`` are those of values where they are told."""
    values = at.noise[0].expand(points.n) if own is None else own
    slopes = at.noise[1] * (5.0 / 3.0) * at.outputscale / at.lengths.square()[points.columns]
    return torch.cat([values, slopes])


def _apart(x: Tensor, choices: Tensor, points: Points, at: Hyperparameters) -> tuple[Tensor, Tensor, Tensor]:
    """Scaled differences ``(..., q, n, p)``, their lengths ``(..., q, n)``, and what all covariances are multiplied by."""
    u = (x.unsqueeze(-2) - points.numbers) / at.lengths
    r = u.square().sum(-1).clamp_min(1e-20).sqrt()
    shared = at.outputscale.expand(r.shape)
    if points.choices.shape[-1]:
        differs = (choices.unsqueeze(-2) != points.choices).to(r)
        shared = shared * torch.exp(-(differs / at.apart).mean(-1))
    return u, r, shared


class Density:
    """Negative log posterior density of the logarithms of hyperparameters, over n, with its gradient.

    Args:
        points: Where what was observed was.
        observed: Standardised values and then derivatives, ``(N,)``.
        fixed: Noise variance of both where it is known.
        own: Noise variances of values where they were told, ``(n,)``.
        centre: Of the log-normal priors, ``(k,)``.
        width: Of the log-normal priors, ``(k,)``.
    """

    def __init__(self, points: Points, observed: Tensor, fixed: float | None, own: Tensor | None, centre: _Vector, width: _Vector) -> None:
        self.points, self.observed, self.fixed, self.own = points, observed, fixed, own
        learned = [] if fixed is not None else [-4.0, -4.0]
        self.centre = torch.from_numpy(np.concatenate([centre, learned]))
        self.width = torch.from_numpy(np.concatenate([width, [1.0] * len(learned)]))
        self.p, self.c = points.p, points.choices.shape[-1]
        self.ones = torch.cat([torch.ones(points.n), torch.zeros(len(observed) - points.n)]).to(observed)

    def factor(self, at: Hyperparameters) -> tuple[Tensor, Tensor]:
        """Cholesky factor of the noisy covariance, ``(N, N)``, and the constant mean."""
        covariance = of_observed(self.points, at) + torch.diag(noise_of(self.points, at, self.own))
        root = psd_safe_cholesky(covariance, jitter=1e-8 * float(at.outputscale.detach()), max_tries=6)
        both = torch.linalg.solve_triangular(root, torch.stack([self.observed, self.ones], -1), upper=False)
        return root, (both[:, 0] @ both[:, 1]) / both[:, 1].square().sum()

    def __call__(self, theta: _Vector) -> tuple[float, _Vector]:
        leaf = torch.from_numpy(theta).requires_grad_()
        with torch.enable_grad():
            try:
                root, mean = self.factor(Hyperparameters(leaf, self.p, self.c, self.fixed))
            except (ArithmeticError, RuntimeError):
                return 1e12, np.zeros_like(theta)
            whitened = torch.linalg.solve_triangular(root, (self.observed - mean * self.ones).unsqueeze(-1), upper=False)
            fit = -0.5 * whitened.square().sum() - root.diagonal().log().sum()
            prior = (-leaf - 0.5 * ((leaf - self.centre) / self.width).square()).sum()
            value = -(fit + prior) / self.points.n
            (gradient,) = torch.autograd.grad(value, leaf)
        found = float(value.detach())
        return (found, gradient.numpy()) if math.isfinite(found) else (1e12, np.zeros_like(theta))


class GradientGP(Model):
    """Posterior of values given values and derivatives, at given hyperparameters.

    Args:
        density: What was observed.
        theta: Logarithms of the hyperparameters.
        split: Encoded points ``(..., d)`` as numbers and choices.
        standard: Mean and standard deviation of the outcomes.
    """

    def __init__(self, density: Density, theta: Tensor, split: Any, standard: tuple[Tensor, Tensor]) -> None:
        super().__init__()
        self.density, self.theta, self.split, self.standard = density, theta, split, standard
        self.at = Hyperparameters(theta, density.p, density.c, density.fixed)
        root, mean = density.factor(self.at)
        self.root, self.mean = root.detach(), mean.detach()
        self.weights = torch.cholesky_solve((density.observed - self.mean * density.ones).unsqueeze(-1), self.root)
        noise = self.at.noise[0] if density.own is None else density.own.mean()
        self.likelihood = GaussianLikelihood(noise_constraint=GreaterThan(0.1 * _QUIETEST))
        self.likelihood.noise = noise
        self.likelihood.requires_grad_(False)
        standardise = Standardize(m=1)  # as one that was fitted, so that this is a model like others
        standardise.means, standardise.stdvs = standard[0].view(1, 1), standard[1].view(1, 1)
        standardise._stdvs_sq, standardise._is_trained = standardise.stdvs.square(), torch.tensor(True)
        self.outcome_transform = standardise.eval()

    @property
    def num_outputs(self) -> int:
        """One."""
        return 1

    @property
    def batch_shape(self) -> torch.Size:
        """None."""
        return torch.Size([])

    def posterior(
        self, X: Tensor, output_indices: list[int] | None = None, observation_noise: Any = False, posterior_transform: Any = None
    ) -> Any:
        """Joint posterior at ``X: (..., q, d)``, as in BoTorch."""
        numbers, choices = self.split(X)
        cross = with_observed(numbers, choices, self.density.points, self.at).mT  # (..., N, q)
        columns = cross.movedim(-2, 0)
        half = torch.linalg.solve_triangular(self.root, columns.flatten(1), upper=False).view_as(columns).movedim(0, -2)
        there = Points(numbers, choices, torch.zeros((numbers.shape[-2], self.density.p), dtype=torch.bool))
        covariance = self._between(numbers, choices) - half.mT @ half
        added = _NUGGET * self.at.outputscale + (self.at.noise[0] if observation_noise else 0.0)
        covariance = covariance + added * torch.eye(there.n, dtype=covariance.dtype)
        mean = self.mean + (cross.mT @ self.weights).squeeze(-1)
        shift, scale = self.standard
        posterior = GPyTorchPosterior(MultivariateNormal(shift + scale * mean, to_linear_operator(scale.square() * covariance)))
        return posterior if posterior_transform is None else posterior_transform(posterior=posterior, X=X)

    def _between(self, numbers: Tensor, choices: Tensor) -> Tensor:
        """Prior covariance of values at points ``(..., q)`` that were split, ``(..., q, q)``."""
        u = (numbers.unsqueeze(-2) - numbers.unsqueeze(-3)) / self.at.lengths
        r = u.square().sum(-1).clamp_min(1e-20).sqrt()
        covariance: Tensor = self.at.outputscale * (1.0 + _SQRT5 * r + (5.0 / 3.0) * r.square()) * torch.exp(-_SQRT5 * r)
        if choices.shape[-1]:
            covariance = covariance * torch.exp(-((choices.unsqueeze(-2) != choices.unsqueeze(-3)).to(r) / self.at.apart).mean(-1))
        return covariance

    def condition_on_observations(self, X: Tensor, Y: Tensor, noise: Tensor | None = None, **kwargs: Any) -> GradientGP:
        """The model given more values, ``X: (p, d)``, ``Y: (p, 1)``."""
        from copy import copy

        density, (shift, scale) = self.density, self.standard
        numbers, choices = self.split(X)
        points, n, q = density.points, density.points.n, len(X)
        more = copy(density)
        told = torch.zeros((n + q, points.p), dtype=torch.bool)
        derivatives = points.observed[n:] - n
        told.view(-1)[derivatives] = True
        more.points = Points(torch.cat([points.numbers, numbers]), torch.cat([points.choices, choices]), told)
        y = (Y.reshape(-1) - shift) / scale
        more.observed = torch.cat([density.observed[:n], y, density.observed[n:]])
        more.ones = torch.cat([density.ones[:n], torch.ones_like(y), density.ones[n:]])
        if density.own is not None:
            own = density.own.mean().expand(q) if noise is None else noise.reshape(-1) / scale.square()
            more.own = torch.cat([density.own, own])
        model = GradientGP(more, self.theta, self.split, self.standard)
        model.mean = self.mean
        model.weights = torch.cholesky_solve((more.observed - self.mean * more.ones).unsqueeze(-1), model.root)
        return model


def fitted(
    density: Density, split: Any, standard: tuple[Tensor, Tensor], start: Tensor | None, iterations: int, least_lengthscale: float
) -> GradientGP:
    """The model of the best hyperparameters found from ``start``, else from the prior's mode."""
    from scipy.optimize import minimize

    p, c = density.p, density.c
    bounds = [(math.log(least_lengthscale), 10.0)] * p + [(-6.0, 8.0)] * c + [(-8.0, 8.0)]
    bounds += [(math.log(_QUIETEST), 2.0)] * (0 if density.fixed is not None else 2)
    low, high = np.array(bounds).T
    mode = np.clip((density.centre - density.width.square()).numpy(), low, high)
    mode[p + c] = 0.0
    starts = [mode]
    if density.fixed is None:
        quiet = mode.copy()
        quiet[-2:] = math.log(1e-5)
        starts.append(np.clip(quiet, low, high))
    if start is not None and start.numel() == mode.size and bool(torch.isfinite(start).all()):
        starts = [np.clip(start.numpy(), low, high)]
    found = [
        minimize(density, first, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": iterations, "ftol": 1e-7})
        for first in starts
    ]
    best = min(found, key=lambda result: float(result.fun))
    return GradientGP(density, torch.from_numpy(np.array(best.x)), split, standard)
