"""Random search: independent points, uniform in every variable."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from zoopt.feedback import Candidates, Column, Observations
from zoopt.strategy import Capabilities, Request, State, Strategy, Task, live

if TYPE_CHECKING:
    from zoopt.random import Random

Array = np.ndarray[Any, Any]

BLOCK = 1024  # points drawn at once, fewer in many dimensions; with b points in a block, point i is row i % b of block i // b
_NUMBERS = 1 << 18  # numbers in a block at most
_CONSTRAINED = 128  # points drawn at once under known constraints,
_CALLED = 16  # and where a Python predicate is called for each


@dataclass
class RandomState(State):
    """How many points were asked for.

    Attributes:
        asked: Points asked for so far, in each run.
        number: Number of the block at hand; -1 before the first.
        held: Columns that were fixed when it was drawn, by their values.
        block: Its points, ``(*runs, b, d)``.
        rows: What is left of it on the host, one by one and last first, for loops that ask for one point at a time.
    """

    asked: int = 0
    number: int = live(-1)
    held: Mapping[int, float] | None = live()
    block: Tensor | None = live()
    rows: list[Array] | None = live()


_NO_COLUMNS: dict[str, Column] = {}


def _points(task: Task) -> int:
    """Points of a block."""
    constraints = task.space.constraints
    most = BLOCK if not constraints else _CONSTRAINED if all(constraint.vectorised for constraint in constraints) else _CALLED
    return min(most, max(1, _NUMBERS // max(1, task.dim)))


def _draw(task: Task, random: Random, held: Mapping[int, float]) -> Tensor:
    """One block of points, ``(*runs, b, d)``; under known constraints with the columns in ``held`` as given."""
    space, size = task.space, _points(task)
    if not space.constraints:
        return space.from_unit(random.uniform((size, task.dim), runs=task.runs, dtype=task.dtype, device=task.device))
    keys = [random.select([run]) for run in range(math.prod(task.runs))] if task.runs else [random]
    x = [space.sample(size, key, fixed=held, dtype=task.dtype, device=task.device) for key in keys]
    return torch.stack(x).view(*task.runs, size, task.dim)


def _next(task: Task, state: RandomState, request: Request, random: Random) -> Tensor:
    """The next points, from as many blocks as it takes; what is left of the block where no number is requested."""
    n = request.n
    size = _points(task)
    offset = state.asked % size
    end = state.asked + (size - offset if n is None else n)
    held = dict(request.fixed) if task.space.constraints else {}
    pieces = []
    while state.asked < end:
        number, offset = divmod(state.asked, size)
        if number != state.number or state.block is None or held != state.held:
            state.block, state.number, state.held = _draw(task, random.at(number).child("block"), held), number, held
            if n == 1 and not (task.runs or held) and task.device.type == "cpu" and task.dtype == torch.float64:
                host = state.block.numpy()
                state.rows = [host[k : k + 1] for k in range(size - 1, offset, -1)]
                state.asked += 1
                return state.block.narrow(0, offset, 1)
        state.rows = None
        pieces.append(state.block.narrow(-2, offset, min(size - offset, end - state.asked)))
        state.asked += pieces[-1].shape[-2]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, -2)


@dataclass(frozen=True)
class RandomSearch(Strategy[RandomState]):
    """Random search: independent points, uniform in every variable (log-uniform where it is logarithmic).

    Under known constraints uniform over what they allow, as ``Space.sample`` gives it.

    The baseline that every other strategy has to beat; useful where nothing can be learned, and to fill a history.

    Reference: Bergstra & Bengio, Random Search for Hyper-Parameter Optimization, JMLR 13 (2012).
    """

    capabilities: ClassVar[Capabilities] = Capabilities(feedback="none", objectives=None, batched=True, learns=False)

    def begin(self, task: Task, random: Random) -> RandomState:
        return RandomState()

    def ask(self, task: Task, state: RandomState, request: Request, random: Random) -> tuple[RandomState, Candidates]:
        if request.n == 1 and state.rows and not request.fixed:
            state.asked += 1
            return state, Candidates(None, _NO_COLUMNS, array=state.rows.pop())
        x = _next(task, state, request, random)
        if request.fixed:
            x = x.clone()
            for column, value in request.fixed.items():
                x[..., column] = value
        return state, Candidates(x)

    def tell(self, task: Task, state: RandomState, observations: Observations, random: Random) -> RandomState:
        return state
