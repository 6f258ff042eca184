"""What a strategy with a model keeps of what it was told, and the guards around the model's numerics."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from zoopt.feedback import Observations
from zoopt.strategy import State, Task
from zoopt.threads import one_thread

_F64 = torch.float64
_MANY_POINTS = 500  # from here on a factorisation gains from more than one thread


@dataclass
class Record(State):
    """Everything told so far, and what has been handed out."""

    ids: Tensor  # (n,) int64
    x: Tensor  # (n, d) encoded
    values: Tensor  # (n, m), +inf where the evaluation failed
    ok: Tensor  # (n,) bool
    constraints: Tensor  # (n, c), NaN where not told
    noise: Tensor  # (n, m) standard deviations, NaN where not told
    gradients: Tensor  # (n, m d) derivatives by encoded columns, NaN where not told; (n, 0) while none was
    asked: Tensor  # (a, d) every point handed out

    @staticmethod
    def blank(task: Task) -> dict[str, Any]:
        """The fields of a record of nothing."""
        d, m, c = task.dim, len(task.objectives), len(task.constraints)
        shapes = {"x": (0, d), "values": (0, m), "constraints": (0, c), "noise": (0, m), "gradients": (0, 0), "asked": (0, d)}
        return {
            "ids": torch.empty(0, dtype=torch.int64),
            "ok": torch.empty(0, dtype=torch.bool),
            **{name: torch.empty(shape, dtype=_F64) for name, shape in shapes.items()},
        }

    def add(self, task: Task, observations: Observations, *columns: str) -> Self:
        """Add what was observed; a row whose id is known replaces the earlier one. Of what was dropped only that it was asked is kept.

        Args:
            task: What is being solved.
            observations: What was told.
            columns: Further fields of the record, int64 ``(n,)``, that come back with the points asked; -1 for points that were not.
        """
        if observations.dropped:
            given_up = np.isin(observations.ids, np.asarray(observations.dropped, dtype=np.int64))
            x = host(observations.take(np.flatnonzero(given_up)).x)
            known = (x.unsqueeze(1) == self.asked).all(-1).any(-1)
            self.asked = torch.cat([self.asked, x[~known]])
            observations = observations.take(np.flatnonzero(~given_up))
        if observations.n == 0 or not observations.has_values:
            return self
        n, c = observations.n, len(task.constraints)
        values = host(observations.values)
        rows = {
            "ids": torch.from_numpy(np.array(observations.ids)),
            "x": host(observations.x),
            "values": values,
            "ok": observations.ok.cpu() & torch.isfinite(values).all(-1),
            "constraints": torch.full((n, c), torch.nan, dtype=_F64)
            if observations.constraints is None
            else host(observations.constraints),
            "noise": torch.full_like(values, torch.nan) if observations.noise is None else host(observations.noise),
        }
        slopes = observations.gradients
        if slopes is not None and self.gradients.shape[1] == 0:
            self.gradients = torch.full((len(self.ids), slopes[0].numel()), torch.nan, dtype=_F64)
        blank = torch.full((n, self.gradients.shape[1]), torch.nan, dtype=_F64)
        rows["gradients"] = blank if slopes is None else host(slopes).reshape(n, -1)
        for name in columns:
            column = observations.column(name)
            rows[name] = torch.full((n,), -1) if column is None else torch.as_tensor(column).cpu().to(torch.int64)
        stays = ~torch.isin(self.ids, rows["ids"][rows["ids"] >= 0])
        for name, new in rows.items():
            old = getattr(self, name)
            setattr(self, name, torch.cat([old if bool(stays.all()) else old[stays], new]))
        return self


def host(x: Tensor) -> Tensor:
    """The tensor on the CPU in double precision, without a graph."""
    return x.detach().to("cpu", _F64)


def numerical(error: Exception) -> bool:
    """Whether this is what numerics do (not positive definite, NaN, out of memory), and no mistake in the code of a surrogate."""
    from botorch.exceptions.errors import BotorchError

    mistakes = (NotImplementedError, RecursionError)
    # A warning is an error where the user's filters make it one.
    numerics = (RuntimeError, ArithmeticError, ValueError, MemoryError, BotorchError, RuntimeWarning)
    return isinstance(error, numerics) and not isinstance(error, mistakes)


@contextmanager
def few_threads(n: int) -> Iterator[None]:
    """One thread while covariances of ``n`` points are factorised, unless they are many: more make it several times slower."""
    if n > _MANY_POINTS:
        yield
        return
    with one_thread():
        yield
