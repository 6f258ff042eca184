"""Conversations with a strategy: through a study, with everything that can happen to one, and call by call without one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoopt.errors import Exhausted, NotReady
from zoopt.feedback import Candidates, Observations
from zoopt.random import Random
from zoopt.state import to_bytes
from zoopt.strategy import Request, Strategy, Task
from zoopt.study import Study
from zoopt.testing._cases import Case
from zoopt.testing._contract import require
from zoopt.trials import TrialState

Array = np.ndarray[Any, Any]

A_LAP = 12  # asks after which a strategy that asks for its points in turns has come back to the first


class Session:
    """A study of a case, and the encoded points it asked so far.

    Attributes:
        study: The study.
        asked: Encoded points of each ask, in order.
    """

    def __init__(self, case: Case, recipe: Strategy[Any], seed: int, *, warm: bool = True, **options: Any) -> None:
        """Begin.

        Args:
            case: What is optimized.
            recipe: Who proposes.
            seed: Of the study.
            warm: Let a slow strategy know some points from the start, so that it has something to think about.
            **options: For the study.
        """
        self.case = case
        self.study: Study = case.study(recipe, seed, **options)
        self.asked: list[Array] = []
        if warm and case.expensive and case.task.feedback == "values" and self.study.evaluations == 0 and not self.pending:
            rng = Random(seed, 0, ("warm",)).numpy()
            for _ in range(2 * case.space.dim + 2):
                self.add(rng)

    @property
    def state(self) -> Any:
        """The strategy's state."""
        return self.study._engine.state

    @state.setter
    def state(self, state: Any) -> None:
        self.study._engine.state = state

    @property
    def pending(self) -> list[int]:
        """Ids that are out."""
        return [trial.id for trial in self.study.pending]

    def out(self, ids: Iterable[int]) -> list[int]:
        """Those of some ids that are still out."""
        pending = set(self.pending)
        return [i for i in ids if i in pending]

    def ask(self, n: int, context: Mapping[str, Any] | None = None) -> list[int]:
        """Ask for n points; when the strategy waits for results, tell everything first.

        Returns:
            Their ids; none when nothing is left to propose.
        """
        try:
            ids = self.ask_now(n, context)
            if ids is None:
                pending = self.pending
                require(pending, "ask() raised NotReady though nothing is pending.")
                self.tell(pending)
                ids = self.ask_now(n, context)
                require(ids is not None, "ask() raised NotReady though everything was told.")
        except Exhausted:
            self.asked.append(np.empty((0, self.case.task.dim)))
            return []
        return ids or []

    def ask_now(self, n: int, context: Mapping[str, Any] | None = None) -> list[int] | None:
        """Ask for n points; None when the strategy waits for results."""
        try:
            batch = self.study.ask(n, context=context)
        except NotReady:
            return None
        self.check(batch.encoded)
        require(1 <= len(batch) <= n, f"ask({n}) gave {len(batch)} points.")
        self.asked.append(batch.encoded.numpy().copy())
        return [int(i) for i in batch.ids]

    def check(self, x: Tensor) -> None:
        """Every point is one of the space: it reads as parameters, which encode to the same point."""
        space = self.case.space
        z = x.numpy().astype(np.float64)
        require(np.isfinite(z).all(), f"a point is not finite: {z.tolist()}.")
        require(space.allowed(z).all(), f"a point breaks a known constraint: {z.tolist()}.")
        back = space.encode_params(space.params(z))  # refuses what is out of range, not a level or not a choice
        require(np.allclose(back, z, rtol=1e-6, atol=1e-9), f"points {z.tolist()} read as parameters that encode to {back.tolist()}.")

    def points(self, ids: Sequence[int]) -> Tensor:
        """Encoded points of some trials, ``(n, d)``."""
        return self.study.trials(list(ids)).encoded

    def tell(self, ids: Sequence[int], nan: Iterable[int] = ()) -> None:
        """Tell results of some trials, as values or as an order; ``nan`` of them give no number."""
        if not len(ids):
            return
        result = self.case.evaluate(self.points(ids))
        values, failed = result.values.numpy().astype(np.float64), set(nan)
        if self.case.task.feedback == "ranking":
            self.study.rank([ids[k] for k in np.argsort(values[:, 0], kind="stable")], rest="unseen")
            return
        values[[k for k, i in enumerate(ids) if i in failed]] = np.nan
        self.study.tell(list(ids), values, constraints=result.constraints, noise=result.noise, gradients=result.gradients)

    def add(self, rng: np.random.Generator) -> None:
        """Add the result of a point that was never asked."""
        x = self.anywhere(rng)
        result = self.case.evaluate(torch.from_numpy(x).to(self.case.task.dtype))
        values, constraints = result.values.numpy(), result.constraints
        self.study.add(self.case.space.params(x), values, constraints=constraints)

    def enqueue(self, rng: np.random.Generator) -> None:
        """Have any point tried next."""
        self.study.enqueue(self.case.space.params(self.anywhere(rng))[0])

    def anywhere(self, rng: np.random.Generator) -> Array:
        """A random valid point, ``(1, d)``."""
        space = self.case.space
        u = torch.from_numpy(rng.random((1, space.dim)))
        x = space.repair(space.from_unit(u), Random(int(rng.integers(2**31))))
        return np.array(x.numpy())

    def step(self, number: int, seed: int) -> None:
        """One step of a conversation in which everything happens; the same in every study that answers the same."""
        rng = Random(seed, number, ("conversation",)).numpy()
        size = self.case.size
        self.ask(int(rng.choice((1, 2, size, size + 1))))
        values = self.case.task.feedback == "values"
        if rng.random() < 0.15 and values:
            self.add(rng)
        if rng.random() < 0.1:
            self.enqueue(rng)
        pending = self.pending
        if values and len(pending) > 2 and rng.random() < 0.15 and self.study.strategy.capabilities.feedback != "values":
            self.study.rank(rng.permutation(pending)[:3].tolist(), rest="unseen")
            pending = self.pending
        if pending and (rng.random() < 0.7 or len(pending) > 3 * size + 3):
            chosen = rng.permutation(pending)[: 1 + int(rng.integers(len(pending)))]
            for piece in np.array_split(chosen, int(rng.integers(1, 4))):
                ids = [int(i) for i in piece]
                fate = rng.random(len(ids))
                failed = [i for i, u in zip(ids, fate, strict=True) if u < 0.08]
                dropped = [i for i, u in zip(ids, fate, strict=True) if 0.08 <= u < 0.12]
                ids = [i for i, u in zip(ids, fate, strict=True) if u >= 0.12]
                self.tell(ids, nan=[i for i in ids if rng.random() < 0.1])
                if failed:
                    self.study.fail(failed, "the objective said no")
                if dropped:
                    self.study.drop(dropped)
                told = [i for i in ids if values and self.study.trial(i).state is TrialState.COMPLETE]
                if told and rng.random() < 0.1:
                    self.tell(told[:1])  # again

    def converse(self, steps: int, seed: int) -> list[Array]:
        """That many steps; gives all points asked."""
        for number in range(steps):
            self.step(number, seed)
        return self.asked


def same_asks(ours: Sequence[Array], theirs: Sequence[Array]) -> str | None:
    """The first difference between what two conversations asked, as a sentence; None when they are equal to the bit."""
    for k, (a, b) in enumerate(zip(ours, theirs, strict=False)):
        if a.shape != b.shape:
            return f"ask {k} gave {len(a)} points in one and {len(b)} in the other"
        if not np.array_equal(a, b):
            row = int(np.nonzero((a != b).any(1))[0][0])
            return f"ask {k} differs in its point {row}: {a[row].tolist()} and {b[row].tolist()}"
    return None if len(ours) == len(theirs) else f"one asked {len(ours)} times, the other {len(theirs)} times"


class Calls:
    """A strategy called without a study, with run dimensions if wanted.

    Attributes:
        state: Its state.
        number: Number of the next call; a call that raises uses up none.
        labels: Numbers of the runs, where they are not all.
    """

    def __init__(self, recipe: Strategy[Any], task: Task, seed: int, labels: Sequence[int] | None = None) -> None:
        self.recipe = recipe
        self.task = task
        self.seed = seed
        self.labels = labels
        self.number = 0
        self.told = 0
        self.state = recipe.begin(task, self.random().child("begin"))

    def random(self) -> Random:
        """The key of the next call."""
        random = Random(self.seed, self.number)
        return random if self.labels is None else random.select(self.labels)

    def ask(self, n: int | None = None) -> Candidates:
        """One ask, with nothing pending."""
        return self.ask_with(Request(n))

    def ask_with(self, request: Request) -> Candidates:
        """One ask, checked for its shapes."""
        self.state, candidates = self.recipe.ask(self.task, self.state, request, self.random())
        self.number += 1
        x, task, n = candidates.x, self.task, request.n
        require(
            x.shape[:-2] == task.runs and x.shape[-1] == task.dim and (n is None or 1 <= x.shape[-2] <= n),
            f"ask({n}) gave points of shape {tuple(x.shape)}; expected {(*task.runs, n or 'n', task.dim)}.",
        )
        fits = x.dtype == task.dtype and x.device.type == task.device.type
        require(fits, f"ask() gave points of {x.dtype} on {x.device}; the task is of {task.dtype} on {task.device}.")
        for name, column in candidates.columns.items():
            shape, host = tuple(column.shape), isinstance(column, np.ndarray)
            own = shape[:1] == (x.shape[-2],) if host else shape[: x.dim() - 1] == tuple(x.shape[:-1])
            require(own, f"column {name!r} has shape {shape} beside points of shape {tuple(x.shape)}.")
            kind = column.dtype.kind in "iub" if isinstance(column, np.ndarray) else column.is_floating_point()
            what = f"a {type(column).__name__} of {column.dtype}"
            require(kind, f"column {name!r} is {what}; integers travel as arrays on the host, floats as tensors.")
            require(name not in ("id", "x"), f"a column may not be called {name!r}, as the study's own.")
        return candidates

    def tell(self, case: Case, candidates: Candidates, ok: Tensor | None = None) -> Observations:
        """Tell the results of candidates as they came: tensors and columns may alias the state, as in ``minimize``."""
        result = case.evaluate(candidates.x)
        n = candidates.x.shape[-2]
        observations = Observations(
            range(self.told, self.told + n),
            candidates.x,
            result.values,
            constraints=result.constraints,
            noise=result.noise,
            gradients=result.gradients,
            ok=ok,
            columns=candidates.columns,
            dtype=self.task.dtype,
            device=self.task.device,
        )
        self.told += n
        self.observe(observations)
        return observations

    def warm(self, case: Case, points: int | None = None) -> None:
        """Tell a slow strategy some points that it never asked; None: a few for each dimension."""
        if case.expensive:
            shape = (2 * case.space.dim + 2 if points is None else points, case.space.dim)
            x = case.space.from_unit(Random(self.seed, 0, ("warm",)).uniform(shape))
            self.tell(case, Candidates(case.space.repair(x.to(self.task.dtype), Random(self.seed))))

    def observe(self, observations: Observations) -> None:
        """One tell."""
        self.state = self.recipe.tell(self.task, self.state, observations, self.random())
        self.number += 1

    def bytes(self) -> bytes:
        """The state as bytes."""
        return to_bytes(self.state)
