"""Small tasks that fit a strategy's capabilities, with a hidden objective on each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoopt.errors import CapabilityError
from zoopt.feedback import Evaluation
from zoopt.random import Random
from zoopt.space import Bool, Choice, Integer, Linear, Real, Space
from zoopt.strategy import Example, Request, Strategy, Task, excluded
from zoopt.study import Study

Array = np.ndarray[Any, Any]

_SHORT, _LONG = 4, 18  # steps of a conversation with a slow and with a quick strategy
_EXPENSIVE = 100  # examples of at most this many evaluations belong to strategies that think long before each proposal
_SHIFT = (1.3, -2.1, 0.7, 2.9, -0.4)


def sphere_example(evaluations: int = 400, dim: int = 5) -> Example:
    """The default example: a sphere in up to five dimensions whose optimum is neither at the centre nor on a diagonal."""
    shift = torch.tensor(_SHIFT[:dim], dtype=torch.float64)

    def sphere(x: Tensor) -> Tensor:
        return ((x - shift.to(x)) ** 2).sum(-1)

    return Example(Space({"x": Real(-5.0, 5.0, shape=(dim,))}), sphere, evaluations)


@dataclass(frozen=True)
class Case:
    """A task and its objective.

    Attributes:
        name: What is special about it.
        task: The task, of a single run.
        objective: Encoded points ``(..., n, d)`` to values, minimised, and constraints.
        size: How many points the strategy proposes when it may choose (its generation).
        steps: How long a conversation with the strategy should be, in calls.
    """

    name: str
    task: Task
    objective: Callable[[Tensor], Evaluation]
    size: int
    steps: int

    @property
    def space(self) -> Space:
        """The space of the task."""
        return self.task.space

    @property
    def expensive(self) -> bool:
        """Whether conversations are kept short."""
        return self.steps == _SHORT

    @property
    def few(self) -> int:
        """How long a conversation should be where one thing is looked at."""
        return self.steps if self.expensive else self.steps // 2

    def study(self, recipe: Strategy[Any], seed: int, **options: Any) -> Study:
        """A study of this case."""
        task = self.task
        return Study(
            task.space,
            recipe,
            objectives=dict.fromkeys(task.objectives, "minimize"),
            constraints=task.constraints,
            problem=task.problem,
            seed=seed,
            **{"feedback": task.feedback, "deterministic": task.deterministic, "dtype": task.dtype, **options},
        )

    def evaluate(self, x: Tensor) -> Evaluation:
        """Values ``(..., n, m)`` and constraints ``(..., n, c)`` or None at encoded points, in the task's type."""
        result = self.objective(x)
        values = torch.as_tensor(result.values, dtype=x.dtype, device=x.device)
        if values.dim() == x.dim() - 1:
            values = values.unsqueeze(-1)
        return replace(result, values=values)


def generation_size(recipe: Strategy[Any], task: Task, seed: int = 0) -> int:
    """How many points a strategy proposes when it may choose."""
    state = recipe.begin(task, Random(seed).child("begin"))
    _, candidates = recipe.ask(task, state, Request(), Random(seed))
    return int(candidates.x.shape[-2])


def cases_for(recipe: Strategy[Any]) -> list[Case]:
    """The cases that a strategy takes, the simplest one first; its own example is the last one.

    A strategy that needs a problem with methods of its own gets its example only.
    """
    return list(_cases(recipe))


def spaces_for(recipe: Strategy[Any]) -> dict[str, Space]:
    """The spaces of ``cases_for`` by the name of the case."""
    return {case.name: case.space for case in _cases(recipe)}


def case_for(recipe: Strategy[Any], *names: str) -> Case:
    """The first of the named cases that the strategy takes, else its example."""
    return next(found for name in (*names, "example") for found in _cases(recipe, name))


def _cases(recipe: Strategy[Any], only: str | None = None) -> Iterator[Case]:
    """All cases that a strategy takes, or the one of this name."""
    example = recipe.example_task()
    steps = _steps(recipe)
    for name, task, objective in [] if recipe.capabilities.requires else _tasks():
        if only in (None, name) and excluded(recipe.capabilities, task) is None:
            try:
                recipe.check(task)
            except CapabilityError:  # a strategy may refuse more than its capabilities can say
                continue
            yield Case(name, task, objective, generation_size(recipe, task), steps)
    if only in (None, "example"):
        yield case_of(recipe, example, "example")


def case_of(recipe: Strategy[Any], example: Example, name: str) -> Case:
    """An example as a case.

    Raises:
        CapabilityError: The strategy does not take its task.
    """
    task = example.task()
    recipe.check(task)
    return Case(name, task, _of_example(example), generation_size(recipe, task), _steps(recipe))


def thinks_long(recipe: Strategy[Any]) -> bool:
    """Whether a strategy thinks long before each proposal, which the budget of its own example says."""
    return recipe.example_task().evaluations <= _EXPENSIVE


def _steps(recipe: Strategy[Any]) -> int:
    """How long conversations with a strategy should be."""
    return _SHORT if thinks_long(recipe) else _LONG


def ranked(case: Case) -> Case:
    """The same case where only orders are told."""
    return replace(case, name=f"{case.name}, rankings only", task=replace(case.task, feedback="ranking"))


def _tasks() -> list[tuple[str, Task, Callable[[Tensor], Evaluation]]]:
    """All cases but the example: name, task, objective."""
    reals = {"a": Real(-2.0, 3.0), "b": Real(1e-3, 1e1, log=True)}
    levels = {"width": Integer(1, 6), "count": Integer(1, 200, log=True)}
    pair = {"a": Real(0.0, 1.0), "b": Real(0.0, 1.0)}
    kernel, degree = Choice("rbf", "poly", "linear"), Integer(2, 5, when={"kernel": "poly"})
    box = Space(reals)
    spaces = {
        "box": box,
        "mixed": Space({"lr": reals["b"], "width": levels["width"], "kernel": kernel, "degree": degree}),
        "integers": Space({"a": reals["a"], **levels}),
        "unbounded": Space({"a": Real(start=1.0, scale=2.0), "b": Real(0.0, 1.0)}),
        "constrained": Space(pair, constraints=[Linear({"a": 1.0, "b": 2.0}, upper=1.5), "a + 4 * b >= 0.5"]),
        "predicate": Space({"a": pair["a"], "width": levels["width"], "flag": Bool()}, constraints=[_allowed]),
    }
    found = [(name, Task(space), bowls(space)) for name, space in spaces.items()]
    found.append(("two objectives", Task(box, ("first", "second")), bowls(box, 2)))
    found.append(("outcome constraints", Task(box, constraints=("heat",)), bowls(box, 1, 1)))
    return found


def _allowed(params: dict[str, Any]) -> bool:
    """A known constraint that only Python can say: the flag needs room."""
    return params["a"] * params["width"] > 0.3 and not (params["flag"] and params["width"] < 3)


def bowls(space: Space, objectives: int = 1, constraints: int = 0) -> Callable[[Tensor], Evaluation]:
    """A quadratic around a point of its own for each objective, in encoded coordinates; a half-space for each constraint."""
    width = torch.from_numpy(np.where(np.isfinite(space.width), space.width, 1.0).astype(np.float64))
    corner = torch.from_numpy(np.where(np.isfinite(space.lower), space.lower, 0.0).astype(np.float64))
    d = space.dim
    at = [(torch.arange(d, dtype=torch.float64) * 0.37 + 0.23 + 0.41 * k) % 0.9 + 0.05 for k in range(objectives)]

    def objective(x: Tensor) -> Evaluation:
        z = (x - corner.to(x)) / width.to(x)
        values = torch.stack([((z - t.to(x)) ** 2).sum(-1) for t in at], -1)
        return Evaluation(values, torch.stack([z[..., 0] - 0.8] * constraints, -1) if constraints else None)

    return objective


def _of_example(example: Example) -> Callable[[Tensor], Evaluation]:
    """An example's objective on encoded points."""

    def objective(x: Tensor) -> Evaluation:
        result = example.objective(example.space.decode(x))
        return result if isinstance(result, Evaluation) else Evaluation(result)

    return objective
