"""Scrambled Sobol points (Owen, Journal of Complexity 14, 1998; Joe & Kuo, SIAM J. Sci. Comput. 30, 2008), by scipy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from zoopt.errors import CapabilityError
from zoopt.feedback import Candidates, Observations
from zoopt.strategy import Capabilities, Request, State, Strategy, Task, live

if TYPE_CHECKING:
    from zoopt.random import Random

BLOCK = 256  # points of the sequence drawn at once, a power of two as its balance wants
_MOST_COLUMNS = 21201  # for which direction numbers are known
_BITS = 32  # of a coordinate; scipy cannot jump ahead in sequences with more
_PATIENCE = 1024  # points of the sequence in a row that break a constraint before random ones take over
_AHEAD = 4  # points of the sequence looked at for each that is wanted, where each takes a call of a Python predicate
_RANDOM_BLOCK = 64  # random points drawn at once


@dataclass
class SobolState(State):
    """Where in the sequence the next point is.

    Attributes:
        block: Block of the sequence, from 0; of random points, from where they took over.
        offset: Row of the next point in the block.
        broken: Points before it, in a row, that break a known constraint.
        random: Whether random points took over.
        engine: scipy's generator of the sequence.
        x: Points of the block at hand, ``(b, d)``.
        at: Number of that block.
        held: Columns that were fixed when random ones were drawn, by their values; None for a block of the sequence.
    """

    block: int = 0
    offset: int = 0
    broken: int = 0
    random: bool = False
    engine: Any = live()
    x: Tensor | None = live()
    at: int = live(-1)
    held: Mapping[int, float] | None = live()


def _engine(dim: int, random: Random) -> Any:
    from scipy.stats import qmc

    # scipy derives further streams from the generator, which needs a seed sequence; it gets 128 bits of the key.
    seed = int.from_bytes(random.numpy().bytes(16), "little")
    return qmc.Sobol(dim, scramble=True, bits=_BITS, rng=np.random.default_rng(seed))


def _points(task: Task, state: SobolState, random: Random) -> Tensor:
    """The current block of the sequence, ``(BLOCK, d)``."""
    if state.x is not None and state.at == state.block and state.held is None:
        return state.x
    if state.engine is None:
        state.engine = _engine(task.dim, random.at(0).child("scramble"))
    ahead = state.block * BLOCK - state.engine.num_generated
    if ahead > 0:
        state.engine.fast_forward(ahead)
    x = task.space.from_unit(torch.from_numpy(state.engine.random(BLOCK)).to(task.dtype)).to(task.device)
    state.x, state.at, state.held = x, state.block, None
    return x


def _valid(task: Task, state: SobolState, request: Request, wanted: int | None, random: Random) -> Tensor:
    """The next points of the block that keep the known constraints with the asker's columns, at most ``wanted``, perhaps none."""
    x = _points(task, state, random)[state.offset :][: _PATIENCE - state.broken]
    if wanted is not None and not all(constraint.vectorised for constraint in task.space.constraints):
        x = x[: _AHEAD * wanted]
    if request.fixed:
        x = x.clone()
        x[:, list(request.fixed)] = torch.tensor(list(request.fixed.values()), dtype=x.dtype, device=x.device)
        x = task.space.snap(x)
    rows = np.flatnonzero(task.space.allowed(x.cpu().to(torch.float64).numpy()))[:wanted].tolist()
    passed = rows[-1] + 1 if wanted is not None and len(rows) == wanted else x.shape[0]
    state.broken = passed - 1 - rows[-1] if rows else state.broken + passed
    state.offset += passed
    if state.broken >= _PATIENCE:
        state.random, state.block, state.offset = True, state.block + 1, 0
    elif state.offset == BLOCK:
        state.block, state.offset = state.block + 1, 0
    return x[rows]


def _random(task: Task, state: SobolState, request: Request, wanted: int | None, random: Random) -> Tensor:
    """The next random points of a block, at most ``wanted``."""
    held = dict(request.fixed)
    if state.x is None or state.at != state.block or held != state.held:
        key = random.at(state.block).child("random")
        state.x = task.space.sample(_RANDOM_BLOCK, key, fixed=held, dtype=task.dtype, device=task.device)
        state.at, state.held = state.block, held
    x = state.x[state.offset :][:wanted]
    state.offset += x.shape[0]
    if state.offset == _RANDOM_BLOCK:
        state.block, state.offset = state.block + 1, 0
    return x


@dataclass(frozen=True)
class Sobol(Strategy[SobolState]):
    """Sobol sequence: points spread more evenly than random ones, uniform in every variable.

    For a first look at a space, to start a model, or instead of random search in up to some tens of columns; best with a power of two
    of evaluations. Points that break a known constraint are skipped; after 1024 of them in a row, random ones take over, uniform over
    what the constraints allow, since hardly any point of the sequence would be.

    Reference: Owen, Scrambling Sobol' and Niederreiter-Xing points, Journal of Complexity 14 (1998).
    """

    capabilities: ClassVar[Capabilities] = Capabilities(feedback="none", objectives=None, learns=False)

    def begin(self, task: Task, random: Random) -> SobolState:
        if not 0 < task.dim <= _MOST_COLUMNS:
            raise CapabilityError(
                f"the Sobol sequence is known for 1 to {_MOST_COLUMNS} columns, but this space has {task.dim}; use random."
            )
        return SobolState()

    def ask(self, task: Task, state: SobolState, request: Request, random: Random) -> tuple[SobolState, Candidates]:
        if task.space.constraints:
            return state, Candidates(self._constrained(task, state, request, random))
        pieces: list[Tensor] = []
        wanted = BLOCK - state.offset if request.n is None else request.n
        while wanted > 0:
            pieces.append(_points(task, state, random)[state.offset :][:wanted])
            taken = pieces[-1].shape[0]
            state.offset += taken
            wanted -= taken
            if state.offset == BLOCK:
                state.block, state.offset = state.block + 1, 0
        x = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
        if request.fixed:
            x = x.clone()
            for column, value in request.fixed.items():
                x[:, column] = value
        return state, Candidates(x)

    def _constrained(self, task: Task, state: SobolState, request: Request, random: Random) -> Tensor:
        """As many valid points as requested; where no number is, what the block has of them, or the next that has any."""
        pieces: list[Tensor] = []
        count = 0
        while count < (request.n or 1):
            wanted = None if request.n is None else request.n - count
            pieces.append((_random if state.random else _valid)(task, state, request, wanted, random))
            count += pieces[-1].shape[0]
        return torch.cat(pieces)

    def tell(self, task: Task, state: SobolState, observations: Observations, random: Random) -> SobolState:
        return state
