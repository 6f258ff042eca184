"""Scrambled Sobol points (Owen, Journal of Complexity 14, 1998; Joe & Kuo, SIAM J. Sci. Comput. 30, 2008), by scipy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from zoopt.errors import CapabilityError, SpaceError
from zoopt.feedback import Candidates, Observations
from zoopt.strategy import Capabilities, Request, State, Strategy, Task, live

if TYPE_CHECKING:
    from zoopt.random import Random

BLOCK = 256  # points of the sequence drawn at once, a power of two as its balance wants
_MOST_COLUMNS = 21201  # for which direction numbers are known
_BITS = 32  # of a coordinate; scipy cannot jump ahead in sequences with more
_BLOCKS_WITHOUT_A_POINT = 400


@dataclass
class SobolState(State):
    """Where in the sequence the next point is.

    Attributes:
        block: Block of the sequence, from 0.
        offset: Row of the next point among the block's points that known constraints allow.
        engine: scipy's generator of the sequence.
        x: Points of the block at hand, ``(at most BLOCK, d)``.
        at: Number of that block.
    """

    block: int = 0
    offset: int = 0
    engine: Any = live()
    x: Tensor | None = live()
    at: int = live(-1)


def _engine(dim: int, random: Random) -> Any:
    from scipy.stats import qmc

    # scipy derives further streams from the generator, which needs a seed sequence; it gets 128 bits of the key.
    seed = int.from_bytes(random.numpy().bytes(16), "little")
    return qmc.Sobol(dim, scramble=True, bits=_BITS, rng=np.random.default_rng(seed))


def _points(task: Task, state: SobolState, random: Random) -> Tensor:
    """The current block's points that known constraints allow, ``(at most BLOCK, d)``."""
    if state.x is not None and state.at == state.block:
        return state.x
    if state.engine is None:
        state.engine = _engine(task.dim, random.at(0).child("scramble"))
    ahead = state.block * BLOCK - state.engine.num_generated
    if ahead > 0:
        state.engine.fast_forward(ahead)
    x = task.space.from_unit(torch.from_numpy(state.engine.random(BLOCK)).to(task.dtype)).to(task.device)
    if task.space.constraints:
        x = x[torch.from_numpy(task.space.allowed(x.cpu().numpy())).to(task.device)]
    state.x, state.at = x, state.block
    return x


@dataclass(frozen=True)
class Sobol(Strategy[SobolState]):
    """Sobol sequence: points spread more evenly than random ones, uniform in every variable.

    For a first look at a space, to start a model, or instead of random search in up to some tens of columns; best with a power of two
    of evaluations. Points that break a known constraint are skipped.

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
        pieces: list[Tensor] = []
        wanted = request.n
        empty = 0
        while wanted is None or wanted > 0:
            x = _points(task, state, random)
            left = x.shape[0] - state.offset
            take = left if wanted is None else min(left, wanted)
            if take > 0:
                pieces.append(x.narrow(0, state.offset, take))
                state.offset += take
                empty = 0
                if wanted is None:
                    break
                wanted -= take
            elif x.shape[0] == 0:
                empty += 1
                if empty == _BLOCKS_WITHOUT_A_POINT:
                    raise SpaceError(
                        f"none of {empty * BLOCK} points of the Sobol sequence keeps the known constraints of the space; "
                        "check that they can be met."
                    )
            if state.offset >= x.shape[0]:
                state.block, state.offset = state.block + 1, 0
        x = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
        if request.fixed:
            x = x.clone()
            for column, value in request.fixed.items():
                x[:, column] = value
        return state, Candidates(x)

    def tell(self, task: Task, state: SobolState, observations: Observations, random: Random) -> SobolState:
        return state
