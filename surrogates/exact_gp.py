"""A BoTorch Gaussian process that answers quickly. Imported when a model is fitted, since it loads BoTorch."""

from __future__ import annotations

import math
from copy import copy
from typing import Any

import torch
from botorch.models import SingleTaskGP
from botorch.posteriors import GPyTorchPosterior
from gpytorch.distributions import MultivariateNormal
from gpytorch.kernels import Kernel
from linear_operator import to_linear_operator
from linear_operator.utils.cholesky import psd_safe_cholesky
from torch import Tensor

from zoopt.random import Random

_SQRT5 = math.sqrt(5.0)
_NUGGET = 1e-9  # added to the posterior variance, in units of the outputscale: a small part of the least noise


class TableKernel(Kernel):  # type: ignore[misc]  # GPyTorch is untyped
    """Covariance of levels by a table ``(c, c)``, in one column."""

    def __init__(self, table: Tensor, column: int) -> None:
        super().__init__(active_dims=[column])
        self.register_buffer("table", table.detach())

    def forward(self, x1: Tensor, x2: Tensor, diag: bool = False, last_dim_is_batch: bool = False, **params: Any) -> Tensor:
        """Covariances ``(..., n, m)`` of points ``(..., n, 1)`` and ``(..., m, 1)``."""
        one, other = x1[..., 0].round().long(), x2[..., 0].round().long()
        table: Any = self.table
        found: Tensor = table[one, other] if diag else table[one.unsqueeze(-1), other.unsqueeze(-2)]
        return found


class ExactGP(SingleTaskGP):
    """A ``SingleTaskGP`` with constant mean, Matern-5/2 times Hamming kernel and settled hyperparameters.

    Its posterior is computed by a dozen tensor operations instead of GPyTorch's lazy algebra, which takes several times
    as long on some hundred points. It stays a ``SingleTaskGP`` in every other respect; conditioned on more observations
    it answers as one.
    """

    _settled: dict[str, Any] | None = None
    # Model of the logarithm of the noise variance, in standardised units, where it varies; no module of this one.
    log_noise: tuple[Any, ...] = ()

    def settle(
        self,
        theta: Tensor,
        z: Tensor,
        numbers: list[int],
        choices: list[int],
        lower: Tensor,
        upper: Tensor,
        factor: Tensor,
        tasks: tuple[int, Tensor, float] | None = None,
        warp: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        """Prepare quick answers.

        Args:
            theta: Logarithms of lengthscales (numbers, choices) and outputscale.
            z: Encoded training points, ``(n, d)``.
            numbers: Columns under the Matern kernel.
            choices: Columns under the Hamming kernel.
            lower: Encoded values that are scaled to 0, ``(d,)``.
            upper: Encoded values that are scaled to 1, ``(d,)``.
            factor: Lower Cholesky factor of the noisy covariance of the standardised outcomes, ``(n, n)``.
            tasks: The column of tasks, what their functions' covariances are multiplied by ``(c, c)``, and the variance of their offsets.
            warp: Which of the numbers are bent, and by what, see ``zoopt.surrogates.gp.bent``.
        """
        p, c = len(numbers), len(choices)
        values = theta.exp()
        residual = (self.train_targets - self.mean_module.constant).unsqueeze(-1)
        self._settled = {
            "numbers": numbers,
            "choices": choices,
            "tasks": tasks,
            "warp": warp,
            "widths": (upper - lower)[numbers],
            "lower": lower[numbers],
            "unit": (upper - lower)[numbers] * values[:p],
            "lengthscales": values[p : p + c],
            "outputscale": values[p + c],
            "factor": factor,
            "residual": residual,
            "added": 0,
            "alpha": torch.cholesky_solve(residual, factor),
            "inputs": self.train_inputs[0],
        }
        self._settled["points"] = self._split(z)

    def posterior(  # type: ignore[override]  # BoTorch's own classes differ in this signature
        self, X: Tensor, output_indices: list[int] | None = None, observation_noise: Any = False, posterior_transform: Any = None
    ) -> Any:
        """Joint posterior at ``X: (..., q, d)``, as in BoTorch."""
        settled = self._settled
        # Conditioned by GPyTorch, the model has other training inputs than those it was settled for.
        given = isinstance(observation_noise, Tensor)
        if settled is None or given or self.train_inputs is None or self.train_inputs[0] is not settled["inputs"]:
            return super().posterior(X, output_indices, observation_noise, posterior_transform)
        x = self._split(X)
        cross = self._covariance(settled["points"], x)  # (..., n, q)
        mean = (cross.transpose(-1, -2) @ settled["alpha"]).squeeze(-1) + self.mean_module.constant
        # One solve for all columns: broadcast over the batch, the factor would be copied for each.
        columns = cross.movedim(-2, 0)
        root = torch.linalg.solve_triangular(settled["factor"], columns.flatten(1), upper=False).view_as(columns).movedim(0, -2)
        covariance = self._covariance(x, x) - root.transpose(-1, -2) @ root
        # Where points repeat, or nothing is left to learn, rounding must not make it indefinite.
        added = (_NUGGET * settled["outputscale"]).expand(covariance.shape[:-1])
        if observation_noise:
            added = added + self._noise_at(X)
        covariance = covariance + torch.diag_embed(added)
        standardise: Any = self.outcome_transform
        shift, scale = standardise.means.squeeze(), standardise.stdvs.squeeze()
        posterior = GPyTorchPosterior(MultivariateNormal(shift + scale * mean, to_linear_operator(scale.square() * covariance)))
        return posterior if posterior_transform is None else posterior_transform(posterior=posterior, X=X)

    @property
    def draws_quickly(self) -> bool:
        """Whether ``draw`` can be called: settled, and no unordered choices."""
        settled = self._settled
        return settled is not None and len(settled["choices"]) == 0 and settled["tasks"] is None and settled["added"] == 0

    def draw(self, x: Tensor, n: int, random: Random, features: int = 1024) -> Tensor:
        """``n`` functions drawn from the posterior, at ``x: (m, d)``, ``(n, m)``, in a time that is linear in m.

        Prior functions from random Fourier features of the Matern kernel, corrected to go through what was observed (Wilson, Borovitskiy,
        Terenin, Mostowsky, Deisenroth, Efficiently sampling functions from Gaussian process posteriors, ICML 2020).
        """
        settled = self._settled
        assert settled is not None
        points, (at, _) = settled["points"], self._split(x)
        p = at.shape[-1]
        # The spectral density of a Matern kernel is a multivariate t, of twice nu = 5 degrees of freedom.
        spread = (5.0 / random.child("spread").normal((features, 5)).square().sum(-1)).sqrt()
        frequencies = random.child("frequencies").normal((features, p)) * spread.unsqueeze(-1)
        phases = 2.0 * math.pi * random.child("phases").uniform(features)
        weights = random.child("weights").normal((n, features)) * (2.0 * settled["outputscale"] / features).sqrt()

        def prior(z: Tensor) -> Tensor:
            value: Tensor = weights @ torch.cos(frequencies @ z.mT + phases.unsqueeze(-1))
            return value

        there = prior(points[0])
        noise = self.likelihood.noise.detach().expand(there.shape[-1]).sqrt()
        seen = self.train_targets - self.mean_module.constant - there - noise * random.child("noise").normal(there.shape)
        update = torch.cholesky_solve(seen.mT, settled["factor"]).mT
        standardise: Any = self.outcome_transform
        value = self.mean_module.constant + prior(at) + update @ self._covariance(points, (at, x[..., settled["choices"]]))
        drawn: Tensor = standardise.means.squeeze() + standardise.stdvs.squeeze() * value
        return drawn

    @property
    def settled(self) -> bool:
        """Whether ``moments`` and what else is quick can be called."""
        return self._settled is not None and self.train_inputs is not None and self.train_inputs[0] is self._settled["inputs"]

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior mean and standard deviation at ``x: (m, d)``, ``(m,)`` each, with a closed-form gradient."""
        if self._settled is not None and self._settled["warp"] is not None:
            posterior = self.posterior(x.unsqueeze(-2))
            return posterior.mean.reshape(-1), posterior.variance.reshape(-1).clamp_min(1e-20).sqrt()
        apply: Any = _Moments.apply  # which PyTorch leaves untyped
        mean, sd = apply(x, self)
        standardise: Any = self.outcome_transform
        scale = standardise.stdvs.squeeze()
        return standardise.means.squeeze() + scale * mean, scale * sd

    def condition_on_observations(self, X: Tensor, Y: Tensor, noise: Tensor | None = None, **kwargs: Any) -> Any:
        """The model given more observations, as in BoTorch; where they are no batches, by adding rows to the factor."""
        settled = self._settled
        if settled is None or X.dim() != 2 or kwargs:
            super().posterior(X[..., :1, :])  # GPyTorch updates what it computed for an earlier prediction
            return super().condition_on_observations(X, Y, noise=noise, **kwargs)
        standardise: Any = self.outcome_transform
        shift, scale = standardise.means.squeeze(), standardise.stdvs.squeeze()
        own = self.likelihood.noise.detach().mean().expand(len(X)) if noise is None else noise.reshape(-1) / scale.square()
        factor, points, more = settled["factor"], settled["points"], self._split(X)
        cross = torch.linalg.solve_triangular(factor, self._covariance(points, more), upper=False)
        rest = self._covariance(more, more) + torch.diag(own) - cross.mT @ cross
        corner = psd_safe_cholesky(rest, jitter=_NUGGET * float(settled["outputscale"]), max_tries=6)
        grown = torch.cat([torch.cat([factor, torch.zeros_like(cross)], 1), torch.cat([cross.mT, corner], 1)])
        residual = torch.cat([settled["residual"], (Y.reshape(-1, 1) - shift) / scale - self.mean_module.constant])
        model = copy(self)
        model._settled = {
            **settled,
            "factor": grown,
            "residual": residual,
            "alpha": torch.cholesky_solve(residual, grown),
            "points": (torch.cat([points[0], more[0]]), torch.cat([points[1], more[1]])),
            "added": settled["added"] + len(X),
        }
        return model

    def _noise_at(self, x: Tensor) -> Tensor:
        """Noise variance of an outcome, in standardised units: ``(..., q)`` at ``x: (..., q, d)``, or one for all."""
        if not self.log_noise:
            own: Tensor = self.likelihood.noise.detach().mean()
            return own
        varying: Tensor = self.log_noise[0].posterior(x.unsqueeze(-2)).mean.squeeze(-1).squeeze(-1).exp()
        return varying

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        settled = self._settled
        assert settled is not None
        columns = settled["choices"] if settled["tasks"] is None else [*settled["choices"], settled["tasks"][0]]
        away = x[..., settled["numbers"]] - settled["lower"]
        if settled["warp"] is None:
            return away / settled["unit"], x[..., columns]
        from zoopt.surrogates.gp import bent

        widths = settled["widths"]
        return bent(away / widths, *settled["warp"]) * widths / settled["unit"], x[..., columns]

    def _variance(self, a: tuple[Tensor, Tensor]) -> Tensor:
        """Variance before anything was observed of points that were split, ``(...)``."""
        settled = self._settled
        assert settled is not None
        own: Tensor = settled["outputscale"].expand(a[0].shape[:-1])
        if settled["tasks"] is None:
            return own
        _, between, offset = settled["tasks"]
        whole: Tensor = own * between.diagonal()[a[1][..., -1].round().long()] + offset
        return whole

    def _covariance(self, a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> Tensor:
        """Covariance ``(..., n, q)`` between ``a`` (n points) and ``b`` (q points), both split."""
        return self._sloping(a, b)[0]

    def _sloping(self, a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor], slope: bool = False) -> tuple[Tensor, Tensor | None]:
        """The same, and on demand what times the scaled difference a - b is its derivative by b."""
        settled = self._settled
        assert settled is not None
        # By products: short distances lose half their digits, but the kernel depends on their squares. No gradient at 0.
        square = a[0].square().sum(-1).unsqueeze(-1) + b[0].square().sum(-1).unsqueeze(-2) - 2.0 * a[0] @ b[0].transpose(-1, -2)
        r = square.clamp_min(1e-20).sqrt()
        stretched = _SQRT5 * r
        decay: Tensor = torch.exp(-stretched) * settled["outputscale"]
        c = len(settled["choices"])
        if c:
            differs = (a[1][..., :c].unsqueeze(-2) != b[1][..., :c].unsqueeze(-3)).to(decay)
            decay = decay * torch.exp(-(differs / settled["lengthscales"]).mean(-1))
        offset: Tensor | float = 0.0
        if settled["tasks"] is not None:
            _, between, variance = settled["tasks"]
            one, other = a[1][..., -1].round().long().unsqueeze(-1), b[1][..., -1].round().long().unsqueeze(-2)
            decay = decay * between[one, other]
            offset = variance * (one == other).to(decay)
        linear = 1.0 + stretched
        return (linear + (5.0 / 3.0) * square) * decay + offset, (5.0 / 3.0) * linear * decay if slope else None


class _Moments(torch.autograd.Function):
    """Mean and standard deviation of an ``ExactGP`` at single points, in standardised units."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, model: ExactGP) -> tuple[Tensor, Tensor]:
        settled: Any = model._settled
        at = model._split(x.detach())
        with torch.no_grad():
            kernel, slope = model._sloping(settled["points"], at, ctx.needs_input_grad[0])
            root = torch.linalg.solve_triangular(settled["factor"], kernel, upper=False)
            variance = (model._variance(at) - root.square().sum(0)).clamp_min(0.0) + _NUGGET * settled["outputscale"]
            sd = variance.sqrt()
            mean = (kernel.mT @ settled["alpha"]).squeeze(-1) + model.mean_module.constant
        ctx.model, ctx.parts = model, (at, root, sd, slope)
        return mean, sd

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:
        model, (at, root, sd, slope) = ctx.model, ctx.parts
        settled = model._settled
        z = settled["points"][0]
        # Of the mean by the kernel's values these are alpha; of the variance, minus twice the weights of the prediction.
        by_kernel = upstream[0] * settled["alpha"]
        by_kernel = by_kernel - (upstream[1] / sd) * torch.linalg.solve_triangular(settled["factor"].mT, root, upper=True)
        weighed = by_kernel * slope  # (n, m)
        gradient = torch.zeros((len(sd), model.train_inputs[0].shape[-1]), dtype=sd.dtype)
        gradient[:, settled["numbers"]] = (weighed.mT @ z - weighed.sum(0).unsqueeze(-1) * at[0]) / settled["unit"]
        return gradient, None


def across(model: Any, places: Tensor) -> Any:
    """The posterior between points and ``places: (g, d)``, of which it prepares what it can.

    Returns:
        A function of points ``x: (m, d)`` and of others that go with each, ``own: (m, k, d)``, that gives posterior covariances of x with
        the places ``(m, g)`` and with its own ``(m, k)``, the variance of x ``(m,)`` and the mean at its own, ``(m, k)``.
    """
    if not (isinstance(model, ExactGP) and model.settled):
        return lambda x, own: _across_any(model, places, x, own)
    settled: Any = model._settled
    standardise: Any = model.outcome_transform
    shift, scale = standardise.means.squeeze(), standardise.stdvs.squeeze()
    variance = scale.square()

    def rooted(z: tuple[Tensor, Tensor]) -> Tensor:
        root: Tensor = torch.linalg.solve_triangular(settled["factor"], model._covariance(settled["points"], z), upper=False)
        return root

    at = model._split(places)
    there = rooted(at)

    def between(x: Tensor, own: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        m, k, d = own.shape
        z, each = model._split(x), model._split(own)
        root, roots = rooted(z), rooted(model._split(own.reshape(m * k, d))).view(-1, m, k)
        with_places = model._covariance(z, at) - root.mT @ there
        alone = (z[0].unsqueeze(1), z[1].unsqueeze(1))
        with_own = model._covariance(alone, each).squeeze(1) - (root.unsqueeze(-1) * roots).sum(0)
        itself = (model._variance(z) - root.square().sum(0)).clamp_min(0.0) + _NUGGET * settled["outputscale"]
        weights = torch.linalg.solve_triangular(settled["factor"], settled["residual"], upper=False)  # (n, 1)
        mean = (roots * weights.unsqueeze(-1)).sum(0) + model.mean_module.constant
        return variance * with_places, variance * with_own, variance * itself, shift + scale * mean

    return between


def _across_any(model: Any, places: Tensor, x: Tensor, own: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The same of any model, from its joint posterior."""
    parts: list[tuple[Tensor, ...]] = []
    k, g = own.shape[1], len(places)
    for some, theirs in zip(x.split(8), own.split(8), strict=True):
        posterior = model.posterior(torch.cat([some.unsqueeze(1), theirs, places.expand(len(some), -1, -1)], 1))
        covariance = posterior.distribution.covariance_matrix[:, 0]
        mean = posterior.mean.squeeze(-1)[:, 1 : 1 + k]
        parts.append((covariance[:, 1 + k : 1 + k + g], covariance[:, 1 : 1 + k], covariance[:, 0].clamp_min(1e-300), mean))
    return tuple(torch.cat(columns) for columns in zip(*parts, strict=True))  # type: ignore[return-value]
