"""Consensus-based optimization of saddle points: two groups of variables that play against each other."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from zoopt.errors import CapabilityError, ConfigError
from zoopt.feedback import Candidates, Observations
from zoopt.strategies.cbo.particles import CBO, CBOState
from zoopt.strategy import Task

if TYPE_CHECKING:
    from zoopt.random import Random

_PLAIN = (
    "correction",
    "memory",
    "reevaluate",
    "inertia",
    "gradient",
    "neighbourhood",
    "surface",
    "penalty",
    "batch",
    "patience",
    "restarts",
)


@dataclass(frozen=True)
class SaddleCBO(CBO):
    """Consensus-based optimization of saddle points: some variables minimise the objective while the others maximise it.

    For robust design, games and adversarial training without gradients. The groups move in turn, each against the mean of the other.
    The answer is the consensus point (``study.recommended``, ``Result.recommended``): the smallest value that was seen says nothing here.

    Reference: Huang, Qiu, Riedl, Consensus-based optimization for saddle point problems, SIAM J. Control Optim. 62(2), 2024
    (arXiv:2212.12334), eq. (1.4).
    """

    maximised: tuple[str, ...] = ()  # names of the variables that maximise; none: all minimise, as with cbo

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "maximised", (self.maximised,) if isinstance(self.maximised, str) else tuple(self.maximised))
        plain = {f.name: f.default for f in fields(CBO)}
        for name in _PLAIN:
            if getattr(self, name) != plain[name]:
                raise ConfigError(f"cbo-saddle cannot be combined with {name}; take cbo for it.")

    def check(self, task: Task) -> None:
        super().check(task)
        names = {column.name for column in task.space.columns}
        for name in self.maximised:
            if name not in names:
                raise CapabilityError(f"cbo-saddle is to maximise over {name!r}, but the variables are {', '.join(sorted(names))}.")
        if self.maximised and task.constraints:
            raise CapabilityError(
                "cbo-saddle does not learn from outcome constraints, which would make an order of the values; leave them out."
            )

    def propose(self, task: Task, inner: CBOState, random: Random) -> tuple[CBOState, Candidates]:
        inner, candidates = super().propose(task, inner, random)
        if not self.maximised:
            return inner, candidates
        x = candidates.x
        return inner, Candidates(torch.where(self._resting(task, inner), x.mean(-2, keepdim=True), x))

    def update(self, task: Task, inner: CBOState, generation: Observations, random: Random) -> CBOState:
        if not self.maximised:
            return super().update(task, inner, generation, random)
        resting = self._resting(task, inner)
        x, c = inner.x.clone(), inner.c if inner.steps else inner.x.mean(-2)
        if inner.steps % 2:  # the maximisers' turn
            values = -generation.values if generation.all_ok else torch.where(generation.ok.unsqueeze(-1), -generation.values, torch.inf)
            generation = Observations(
                generation.ids,
                generation.x,
                values,
                ok=None if generation.all_ok else generation.ok,
                columns=generation.columns,
                dtype=generation.dtype,
                device=generation.device,
            )
        inner = super().update(task, inner, generation, random)
        inner.x.copy_(torch.where(resting, x, inner.x))
        inner.c = torch.where(resting, c, inner.c)
        return inner

    def _resting(self, task: Task, inner: CBOState) -> Tensor:
        """The columns of the group whose turn it is not, ``(d,)`` bool."""
        turn = bool(inner.steps % 2)
        resting = [(column.name in self.maximised) != turn for column in task.space.columns]
        return torch.tensor(resting).to(task.device, non_blocking=True)
