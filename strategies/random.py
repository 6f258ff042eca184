"""Random search: independent points, uniform in every variable."""

from __future__ import annotations

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
_REDRAWS = 100  # times that points against a known constraint are drawn again before they are moved


@dataclass
class RandomState(State):
    """How many points were asked for.

    Attributes:
        asked: Points asked for so far, in each run.
        number: Number of the block at hand; -1 before the first.
        block: Its points, ``(*runs, b, d)``.
        rows: What is left of it on the host, one by one and last first, for loops that ask for one point at a time.
    """

    asked: int = 0
    number: int = live(-1)
    block: Tensor | None = live()
    rows: list[Array] | None = live()


_NO_COLUMNS: dict[str, Column] = {}


def _points(task: Task) -> int:
    """Points of a block."""
    return min(BLOCK, max(1, _NUMBERS // max(1, task.dim)))


def _draw(task: Task, random: Random) -> Tensor:
    """One block of points, ``(*runs, b, d)``; those against a known constraint are drawn again."""
    space = task.space

    def points(key: Random) -> Tensor:
        return space.from_unit(key.uniform((_points(task), task.dim), runs=task.runs, dtype=task.dtype, device=task.device))

    x = points(random)
    if not space.constraints:
        return x
    for attempt in range(_REDRAWS):
        allowed = torch.from_numpy(space.allowed(x.reshape(-1, task.dim).cpu().numpy())).to(task.device).view(x.shape[:-1])
        if bool(allowed.all()):
            return x
        x = torch.where(allowed.unsqueeze(-1), x, points(random.child("again", attempt)))
    return space.repair(x, random.child("repair"))


def _next(task: Task, state: RandomState, n: int | None, random: Random) -> Tensor:
    """The next n points, from as many blocks as it takes; None: what is left of the block."""
    size = _points(task)
    offset = state.asked % size
    end = state.asked + (size - offset if n is None else n)
    pieces = []
    while state.asked < end:
        number, offset = divmod(state.asked, size)
        if number != state.number or state.block is None:
            state.block, state.number = _draw(task, random.at(number).child("block")), number
            if n == 1 and not task.runs and task.device.type == "cpu" and task.dtype == torch.float64:
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
        x = _next(task, state, request.n, random)
        if request.fixed:
            x = x.clone()
            for column, value in request.fixed.items():
                x[..., column] = value
        return state, Candidates(x)

    def tell(self, task: Task, state: RandomState, observations: Observations, random: Random) -> RandomState:
        return state
