from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from zoopt.feedback import Observations, Ranking
from zoopt.random import Random
from zoopt.space import Space
from zoopt.state import from_bytes, to_bytes
from zoopt.strategy import Request, Strategy, Task


class Driver:
    """Calls a strategy as a study does: a numbered key for each call, copies of what it hands out; optionally through bytes."""

    def __init__(self, recipe: Strategy[Any], space: Space, *, seed: int = 0, reopen: bool = False, **task: Any) -> None:
        self.recipe, self.reopen, self.seed = recipe, reopen, seed
        self.task = Task(space, **task)
        recipe.check(self.task)
        self.calls = self.trials = 0
        self.state = recipe.begin(self.task, Random(seed).child("begin"))
        self.asked: list[Tensor] = []
        self._reopen()

    def _reopen(self) -> None:
        if self.reopen:
            self.state = from_bytes(to_bytes(self.state))

    def ask(self, n: int | None = None, **request: Any) -> tuple[Tensor, dict[str, Any], np.ndarray]:
        self.state, candidates = self.recipe.ask(self.task, self.state, Request(n, **request), Random(self.seed, self.calls))
        self.calls += 1
        x = candidates.x.clone()
        columns = {name: c.clone() if isinstance(c, Tensor) else c.copy() for name, c in candidates.columns.items()}
        ids = np.arange(self.trials, self.trials + len(x))
        self.trials += len(x)
        self.asked.append(x)
        self._reopen()
        return x, columns, ids

    def tell(
        self,
        ids: np.ndarray,
        x: Tensor,
        columns: dict[str, Any],
        values: Any = None,
        constraints: Any = None,
        ok: Any = None,
        rankings: Sequence[Ranking] = (),
    ) -> None:
        if values is not None:
            values = torch.as_tensor(values, dtype=self.task.dtype)
            values = values.unsqueeze(-1) if values.dim() == 1 else values
        observations = Observations(
            ids, x, values, constraints=constraints, ok=ok, columns=columns, rankings=rankings, dtype=self.task.dtype
        )
        self.state = self.recipe.tell(self.task, self.state, observations, Random(self.seed, self.calls))
        self.calls += 1
        self._reopen()

    def step(
        self, objective: Callable[[Tensor], Any], n: int | None = None, constraints: Callable[[Tensor], Tensor] | None = None
    ) -> Tensor:
        """Ask, evaluate in problem units and tell; NaN is a failure. Gives the values."""
        x, columns, ids = self.ask(n)
        z = self.task.space.decode(x)
        values = torch.as_tensor(objective(z), dtype=self.task.dtype)
        ok = torch.isfinite(values) if values.dim() == 1 else torch.isfinite(values).all(-1)
        if bool(ok.all()):
            self.tell(ids, x, columns, values, None if constraints is None else constraints(z))
        else:
            blank = torch.where(ok if values.dim() == 1 else ok.unsqueeze(-1), values, torch.inf)
            self.tell(ids, x, columns, blank, None if constraints is None else constraints(z), ok)
        return values


@pytest.fixture
def driver() -> type[Driver]:
    return Driver


@pytest.fixture
def global_randomness_untouched() -> Iterator[None]:
    numpy, python, state = np.random.get_state(), random.getstate(), torch.get_rng_state()  # noqa: NPY002
    yield
    after = np.random.get_state()  # noqa: NPY002
    assert all(np.array_equal(a, b) for a, b in zip(numpy, after, strict=True))
    assert random.getstate() == python
    assert torch.equal(torch.get_rng_state(), state)
