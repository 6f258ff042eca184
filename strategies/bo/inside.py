"""What the models say of themselves, as data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from zoopt.diagnosis import Diagnosis, LeftOut, Slice, Timing

if TYPE_CHECKING:
    from collections.abc import Callable

    from zoopt.strategies.bo.models import Fitted
    from zoopt.strategy import Task
    from zoopt.surrogates.base import Surrogate

_VALUES = 61  # of a number along a slice
_LISTED = 50  # levels up to which all are shown


def inside(
    task: Task,
    fitted: Fitted,
    surrogate: Surrogate,
    promise: Callable[[Tensor], Tensor] | None,
    timings: list[Timing],
    facts: dict[str, float | str],
) -> Diagnosis:
    """A diagnosis of the model of one objective.

    Args:
        task: The task.
        fitted: The models, on the scale in which values were told.
        surrogate: Of which recipe.
        promise: The acquisition function, of points ``(m, 1, d)``.
        timings: Of each ask.
        facts: What else to say.
    """
    (name,) = task.objectives
    sign = -1.0 if name in task.maximised else 1.0
    unit = float(fitted.units[0])
    return Diagnosis(
        _slices(task, fitted, promise, sign * unit),
        _left_out(fitted.objective, sign * unit),
        _importance(task, surrogate, fitted.objective),
        timings,
        facts,
    )


def _slices(task: Task, fitted: Fitted, promise: Callable[[Tensor], Tensor] | None, unit: float) -> list[Slice]:
    space, centre = task.space, fitted.incumbents[0]
    active = space.active(centre)
    sizes = {column.name: sum(other.name == column.name for other in space.columns) for column in space.columns}
    found = []
    for j, column in enumerate(space.columns):
        if not bool(active[j]):
            continue
        x = _along(task, centre, j, fitted)
        with torch.no_grad():
            posterior: Any = fitted.objective.posterior(x.unsqueeze(-2))
            mean, sd = unit * posterior.mean.reshape(-1).numpy(), abs(unit) * posterior.variance.reshape(-1).clamp_min(0).sqrt().numpy()
            promised = None if promise is None else promise(x.unsqueeze(-2)).detach().numpy()
        whole = [params[column.name] for params in space.params(x)]
        values = [value if sizes[column.name] == 1 else np.asarray(value).reshape(-1)[column.index].item() for value in whole]
        here = space.params(centre.unsqueeze(0))[0][column.name]
        at = here if sizes[column.name] == 1 else np.asarray(here).reshape(-1)[column.index].item()
        label = column.name if sizes[column.name] == 1 else f"{column.name}[{column.index}]"
        found.append(Slice(label, values, mean, sd, promised, at))
    return found


def _along(task: Task, centre: Tensor, j: int, fitted: Fitted) -> Tensor:
    """Points that differ from the centre in one column, ``(k, d)``."""
    space, column = task.space, task.space.columns[j]
    if column.cardinality is not None and column.cardinality <= _LISTED:
        z = space.decode(centre.unsqueeze(0)).repeat(column.cardinality, 1)
        z[:, j] = space.low[j] + torch.arange(column.cardinality, dtype=z.dtype)
        at = space.encode(z)[:, j]
    else:
        at = torch.linspace(float(fitted.search.lower[j]), float(fitted.search.upper[j]), _VALUES, dtype=centre.dtype)
    x = centre.repeat(len(at), 1)
    x[:, j] = at
    return space.snap(x)


def _left_out(model: Any, unit: float) -> LeftOut | None:
    from zoopt.surrogates.special import left_out

    if not getattr(model, "settled", False):
        return None
    residual, variance = left_out(model)
    shift, scale = model.outcome_transform.means.squeeze(), model.outcome_transform.stdvs.squeeze()
    told = shift + scale * (model._settled["residual"].squeeze(-1) + model.mean_module.constant)
    mean = told - scale * residual
    return LeftOut(unit * told.numpy(), unit * mean.detach().numpy(), abs(unit) * (scale * variance.sqrt()).numpy())


def _importance(task: Task, surrogate: Surrogate, model: Any) -> dict[str, float]:
    apart = surrogate.importance(model)
    if apart is None:
        return {}
    shares: dict[str, float] = {}
    for column, value in zip(task.space.columns, (apart / apart.sum().clamp_min(1e-300)).tolist(), strict=True):
        shares[column.name] = shares.get(column.name, 0.0) + value
    return shares
