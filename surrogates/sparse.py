"""A Gaussian process of many observations, through some hundred inducing points. Imported when it is needed, since it loads BoTorch."""

from __future__ import annotations

from typing import Any

import torch
from botorch.models.model import Model
from botorch.posteriors import GPyTorchPosterior
from gpytorch.distributions import MultivariateNormal
from linear_operator import to_linear_operator
from linear_operator.utils.cholesky import psd_safe_cholesky
from torch import Tensor

from zoopt.surrogates.exact_gp import ExactGP

_NUGGET = 1e-6  # added to the covariance of the inducing points, in units of the outputscale


class SparseGP(Model):
    """Posterior of a Gaussian process given all observations, as far as inducing points carry it.

    Titsias, Variational learning of inducing variables in sparse Gaussian processes, AISTATS 2009, eq. (6), at given hyperparameters.

    Args:
        kernel: A process fitted to a part of the observations, whose hyperparameters are kept.
        inducing: Inducing points, ``(k, d)``.
        x: All points, ``(n, d)``.
        y: Their outcomes, ``(n, 1)``.
        noise: Noise variances of the outcomes, ``(n,)``, in their own units squared; None: the one of ``kernel``.
    """

    def __init__(self, kernel: ExactGP, inducing: Tensor, x: Tensor, y: Tensor, noise: Tensor | None = None) -> None:
        super().__init__()
        self.kernel = kernel
        self.likelihood = kernel.likelihood
        standardise: Any = kernel.outcome_transform
        self.outcome = (standardise.means.squeeze(), standardise.stdvs.squeeze())
        own = kernel.likelihood.noise.detach().mean()
        self.data = (x, y, (own * self.outcome[1].square()).expand(len(x)) if noise is None else noise)
        self.inducing = inducing
        self._at = kernel._split(inducing)
        settled: Any = kernel._settled
        outputscale = settled["outputscale"]
        self._root = psd_safe_cholesky(
            kernel._covariance(self._at, self._at) + _NUGGET * outputscale * torch.eye(len(inducing), dtype=x.dtype), max_tries=6
        )
        self._inner = torch.eye(len(inducing), dtype=x.dtype)
        weighed = torch.zeros((len(inducing), 1), dtype=x.dtype)
        for rows in torch.arange(len(x)).split(4096):
            sd = (self.data[2][rows].sqrt() / self.outcome[1]).unsqueeze(0)
            half = torch.linalg.solve_triangular(self._root, kernel._covariance(self._at, kernel._split(x[rows])), upper=False) / sd
            self._inner += half @ half.mT
            weighed += half @ (((y[rows] - self.outcome[0]) / self.outcome[1] - kernel.mean_module.constant) / sd.mT)
        self._inner_root = psd_safe_cholesky(self._inner, max_tries=6)
        self._weights = torch.linalg.solve_triangular(self._inner_root, weighed, upper=False)

    @property
    def num_outputs(self) -> int:
        """One."""
        return 1

    @property
    def batch_shape(self) -> torch.Size:
        """None."""
        return torch.Size([])

    @property
    def outcome_transform(self) -> Any:
        """That of the process it stands on."""
        return self.kernel.outcome_transform

    def posterior(
        self, X: Tensor, output_indices: list[int] | None = None, observation_noise: Any = False, posterior_transform: Any = None
    ) -> Any:
        """Joint posterior at ``X: (..., q, d)``, as in BoTorch."""
        kernel, (shift, scale) = self.kernel, self.outcome
        at = kernel._split(X)
        cross = kernel._covariance(self._at, at)  # (..., k, q)
        columns = cross.movedim(-2, 0)
        half = torch.linalg.solve_triangular(self._root, columns.flatten(1), upper=False)
        inner = torch.linalg.solve_triangular(self._inner_root, half, upper=False)
        half, inner = (part.view_as(columns).movedim(0, -2) for part in (half, inner))
        mean = (inner.mT @ self._weights).squeeze(-1) + kernel.mean_module.constant
        covariance = kernel._covariance(at, at) - half.mT @ half + inner.mT @ inner
        settled: Any = kernel._settled
        added = 1e-9 * settled["outputscale"] + (kernel.likelihood.noise.detach().mean() if observation_noise else 0.0)
        covariance = covariance + added * torch.eye(covariance.shape[-1], dtype=covariance.dtype)
        posterior = GPyTorchPosterior(MultivariateNormal(shift + scale * mean, to_linear_operator(scale.square() * covariance)))
        return posterior if posterior_transform is None else posterior_transform(posterior=posterior, X=X)

    def condition_on_observations(self, X: Tensor, Y: Tensor, noise: Tensor | None = None, **kwargs: Any) -> SparseGP:
        """The model given more observations ``X: (p, d)``, ``Y: (p, 1)``, whose points become inducing ones too."""
        x, y, before = self.data
        more = before.mean().expand(len(X)) if noise is None else noise.reshape(-1)
        return SparseGP(self.kernel, torch.cat([self.inducing, X]), torch.cat([x, X]), torch.cat([y, Y]), torch.cat([before, more]))


def inducing_points(kernel: ExactGP, x: Tensor, first: Tensor, count: int) -> Tensor:
    """Rows of ``x: (n, d)`` that leave the least variance, greedily, beginning with those at ``first``: ``(count,)`` numbers.

    Partial pivoted Cholesky factorisation: Burt, Rasmussen, van der Wilk, Convergence of sparse variational inference in Gaussian
    processes regression, JMLR 21, 2020, section 4.2.
    """
    at = kernel._split(x)
    settled: Any = kernel._settled
    left = kernel._variance(at).clone()
    rows = torch.zeros((count, len(x)), dtype=x.dtype)
    chosen: list[int] = []
    for k in range(min(count, len(x))):
        pivot = int(first[k]) if k < len(first) else int(left.argmax())
        if float(left[pivot]) <= 1e-9 * float(settled["outputscale"]):
            if k < len(first):
                continue
            break
        column = kernel._covariance((at[0][pivot : pivot + 1], at[1][pivot : pivot + 1]), at).squeeze(0)
        done = len(chosen)
        rows[done] = (column - rows[:done, pivot] @ rows[:done]) / left[pivot].sqrt()
        left = (left - rows[done].square()).clamp_min(0.0)
        chosen.append(pivot)
    return torch.tensor(chosen)
