"""Contracts about manners: nothing global, nothing changed that was lent, refusals that help, reports of the right shape."""

from __future__ import annotations

import copy
import json
import random as python_random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from zoopt import registry
from zoopt.errors import CapabilityError
from zoopt.feedback import Observations
from zoopt.record import recipe_config
from zoopt.space import Choice, Real, Space
from zoopt.state import equal
from zoopt.strategy import Request, Strategy, Task, excluded, field_docs
from zoopt.testing._cases import case_for
from zoopt.testing._contract import Factory, contract, require
from zoopt.testing._session import Calls, Session, same_asks


@contract
def no_global_random_numbers(factory: Factory, seed: int) -> None:
    """Nothing is drawn from the global generators of random, numpy and torch, and nothing is left in them."""
    case = case_for(factory(), "mixed", "integers", "box")
    theirs = python_random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002 - what is watched
    try:
        asked = []
        for value in (seed % 2**31, seed % 2**31 + 1):
            python_random.seed(value)
            np.random.seed(value)  # noqa: NPY002
            torch.manual_seed(value)
            before = _global_states()
            asked.append(Session(case, factory(), seed).converse(case.few, seed))
            used = [name for name, state in _global_states().items() if state != before[name]]
            require(not used, f"the global generator of {', '.join(used)} was used; draw from the `random` argument.")
        difference = same_asks(*asked)
        require(difference is None, f"with other global seeds, {difference}.")
    finally:
        python_random.setstate(theirs[0])
        np.random.set_state(theirs[1])  # noqa: NPY002
        torch.set_rng_state(theirs[2])


def _global_states() -> dict[str, Any]:
    """The states of the global generators, comparable."""
    _, words, *rest = np.random.get_state(legacy=True)  # noqa: NPY002
    return {
        "random": python_random.getstate(),
        "numpy": (np.asarray(words).tobytes(), *rest),
        "torch": torch.get_rng_state().numpy().tobytes(),
    }


@contract
def inputs_are_not_changed(factory: Factory, seed: int) -> None:
    """A strategy leaves its recipe, the task, the request and the observations as they were: the study still needs them."""
    recipe = factory()
    case = case_for(recipe, "mixed", "integers", "box")
    config, described = json.dumps(recipe_config(recipe), sort_keys=True), repr(recipe)
    space, task = json.dumps(case.space.to_config(), sort_keys=True), replace(case.task)
    calls = Calls(recipe, case.task, seed)
    calls.warm(case)
    out = case.space.from_unit(torch.full((2, case.space.dim), 0.4, dtype=case.task.dtype))
    for _ in range(case.few):
        request, pending = Request(case.size, out, {}, 1000), out.clone()
        candidates = calls.ask_with(request)
        same = request.n == case.size and not request.fixed and request.remaining == 1000
        require(same and torch.equal(request.pending(case.task), pending), "ask() changed its request.")
        x = case.space.repair(candidates.x, calls.random())
        result = case.evaluate(x)
        lent: dict[str, Any] = {"x": x.numpy(), "values": result.values.numpy(), "ok": np.arange(len(x)) % 4 != 1}
        if result.constraints is not None:
            lent["constraints"] = result.constraints.numpy()
        lent = {name: array.copy() for name, array in lent.items()}
        columns = {name: copy.deepcopy(column) for name, column in candidates.columns.items()}
        before = copy.deepcopy((lent, columns))
        extra = {name: array for name, array in lent.items() if name not in ("x", "values")}
        calls.observe(Observations(range(len(x)), lent["x"], lent["values"], columns=columns, gradients=result.gradients, **extra))
        changed = [name for name in lent if not equal(lent[name], before[0][name])]
        changed += [f"column {name!r}" for name in columns if not equal(columns[name], before[1][name])]
        require(not changed, f"tell() changed the observations it was lent: {', '.join(changed)}. They are shared: copy before writing.")
    require(
        repr(recipe) == described and json.dumps(recipe_config(recipe), sort_keys=True) == config,
        "the recipe changed while it was used; what is learned belongs into the state.",
    )
    require(json.dumps(case.space.to_config(), sort_keys=True) == space and case.task == task, "the task changed.")


@contract
def recipe_is_plain_data(factory: Factory, seed: int) -> None:
    """A recipe is a frozen dataclass, the same each time it is made, that becomes JSON; a comment says what each field means."""
    recipe, again = factory(), factory()
    cls = type(recipe)
    frozen = "__dataclass_fields__" in cls.__dict__ and cls.__dataclass_params__.frozen  # type: ignore[attr-defined]
    require(frozen, f"{cls.__name__} must be a frozen dataclass of its hyper-parameters.")
    described = (cls.__doc__ or "").strip() and not (cls.__doc__ or "").startswith(f"{cls.__name__}(")
    require(described, f"{cls.__name__} needs a docstring: its first line is shown in listings.")
    configs = [json.dumps(recipe_config(r), sort_keys=True) for r in (recipe, again)]
    require(configs[0] == configs[1], f"two recipes made alike differ: {configs[0]} and {configs[1]}; a reopened study would be refused.")
    bare = [doc.name for doc in field_docs(cls) if not doc.doc]
    require(not bare, f"field(s) {', '.join(bare)} have no comment behind them that says what they mean.")


@contract
def refuses_what_it_excludes(factory: Factory, seed: int) -> None:
    """What the capabilities exclude is refused before anything is asked, in a sentence that names strategies which can."""
    recipe = factory()
    for what, task in _excluded_tasks(recipe):
        try:
            if task.runs:
                recipe.check(task)
            else:
                case = replace(case_for(recipe, "box"), task=task)
                case.study(recipe, seed)
        except CapabilityError as error:
            able = [name for name in registry.names() if _can(name, task)]
            named = not able or any(name in str(error) for name in able)
            require(named, f"the refusal of {what} names no strategy that can, of {', '.join(able)}: {error}")
            continue
        raise AssertionError(f"{what} is excluded by its capabilities, but a study was made.")


def _excluded_tasks(recipe: Strategy[Any]) -> Iterator[tuple[str, Task]]:
    box = Task(Space({"a": Real(0.0, 1.0), "b": Real(0.0, 1.0)}), problem=recipe.example_task().problem)
    capabilities = recipe.capabilities
    tasks = {
        "feedback that is only a ranking": replace(box, feedback="ranking"),
        "one more objective": replace(box, objectives=tuple(f"f{k}" for k in range((capabilities.objectives or 0) + 1))),
        "outcome constraints": replace(box, constraints=("heat",)),
        "leading run dimensions": replace(box, runs=(2,)),
        "a variable without bounds": replace(box, space=Space({"a": Real(), "b": Real(0.0, 1.0)})),
        "a choice": replace(box, space=Space({"a": Real(0.0, 1.0), "c": Choice("x", "y")})),
        "a problem without the methods it needs": replace(box, problem=None),
    }
    for what, task in tasks.items():
        if excluded(capabilities, task) is not None:
            yield what, task


def _can(name: str, task: Task) -> bool:
    try:
        return excluded(registry.load(name).capabilities, task) is None
    except ImportError:
        return False


@contract
def reports_have_their_shapes(factory: Factory, seed: int) -> None:
    """Before, while and after something is told, recommend, predict, done and info give what they promise and change nothing."""
    recipe = factory()
    case = case_for(recipe, "mixed", "integers", "box")
    watched, plain = Session(case, recipe, seed), Session(case, factory(), seed)
    for _ in range(4):
        _reports(watched, recipe)
        ids = watched.ask(case.size)
        _reports(watched, recipe)
        watched.tell(ids)
        plain.tell(plain.ask(case.size))
    difference = same_asks(plain.asked, watched.asked)
    require(difference is None, f"where recommend(), predict(), done() and info() were read, {difference}.")


def _reports(session: Session, recipe: Strategy[Any]) -> None:
    task = session.case.task
    x = recipe.recommend(task, session.state)
    fits = x is None or (x.shape == (task.dim,) and bool(torch.isfinite(x).all()))
    require(fits, f"recommend() gave {x}; expected a finite point ({task.dim},) or None.")
    trial = session.study.recommended
    if trial is not None:
        session.check(trial.encoded.unsqueeze(0))
    points = task.space.from_unit(torch.rand((5, task.dim), dtype=task.dtype, generator=torch.Generator().manual_seed(0)))
    predicted = recipe.predict(task, session.state, points)
    if predicted is not None:
        shape = (5, len(task.objectives))
        mean, sd = predicted
        fits = mean.shape == shape == sd.shape and bool(torch.isfinite(mean).all()) and bool((sd >= 0).all())
        require(fits, f"predict() gave mean {tuple(mean.shape)} and sd {tuple(sd.shape)}; expected finite {shape} and sd >= 0.")
    done = recipe.done(task, session.state)
    fits = done is None or (done.shape == () and done.dtype == torch.bool)
    require(fits, f"done() gave {done}; expected a bool tensor of shape () or None.")
    info = recipe.info(task, session.state)
    plain = all(isinstance(k, str) and isinstance(v, float | int | str) for k, v in info.items())
    require(plain, f"info() gave {info}; expected numbers and strings by name.")
