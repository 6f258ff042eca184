"""Contracts about what comes out: points that are valid, for asks of any size, the same for the same seed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from zoopt.errors import Exhausted, NotReady
from zoopt.feedback import Evaluation
from zoopt.generation import Generational
from zoopt.random import Random
from zoopt.space import Choice, Context, Integer, Real, Space
from zoopt.strategy import Task, excluded
from zoopt.testing._cases import Case, bowls, case_for, cases_for, generation_size
from zoopt.testing._contract import ContractDoesNotApply, Factory, contract, learner, require
from zoopt.testing._session import Calls, Session, same_asks

_NEAR = 0.02  # distance, in widths of the space, below which two points are as good as the same


@contract
def same_seed_same_asks(factory: Factory, seed: int) -> None:
    """Two studies with one seed that are told the same ask the same points, to the bit."""
    for case in _two_cases(factory):
        first, second = (Session(case, factory(), seed).converse(case.steps, seed) for _ in range(2))
        difference = same_asks(first, second)
        require(difference is None, f"with the same seed and the same results, {difference} (case {case.name!r}).")


@contract
def another_seed_other_points(factory: Factory, seed: int) -> None:
    """Studies with other seeds ask other points.

    Concerns strategies that leave something to chance.
    """
    recipe = factory()
    if not recipe.capabilities.stochastic:
        raise ContractDoesNotApply("nothing in it is left to chance, and it says so.")
    case = case_for(recipe, "box")
    ours, theirs = (Session(case, factory(), s, warm=False) for s in (seed, seed + 1))
    for session in (ours, theirs):
        for _ in range(3):
            session.tell(session.ask(case.size + 1))
    require(
        same_asks(ours.asked, theirs.asked) is not None,
        f"with the seeds {seed} and {seed + 1} it asks the same points; draw from the `random` argument.",
    )


@contract
def asks_of_any_size(factory: Factory, seed: int) -> None:
    """Asks of one, of a few, of more than a generation, and several before any tell, each give new points.

    An ask may give fewer points than wanted, never none and never more; NotReady is for when results are pending.
    """
    case = case_for(factory(), "box")
    few = max(2, case.size // 3)
    mixtures = [[1] * 4, [few] * 3, [case.size + 3] * 2, [1, case.size, few, 1]]
    for sizes in [[1, 1, 3]] if case.expensive else mixtures:
        session = Session(case, factory(), seed)
        for _ in range(2):
            out = []
            for n in sizes:
                ids = session.ask_now(n)
                if ids is None:  # it waits for results, as it may
                    break
                out += ids
            points = session.points(out).numpy()
            distinct = len(np.unique(points, axis=0))
            require(
                distinct > len(points) / 2 or len(points) == 1,
                f"asks of {sizes} before any tell gave {len(points)} points, but only {distinct} different ones: "
                "what was handed out must be remembered in the state.",
            )
            session.tell(out)


@contract
def pending_points_are_kept_apart(factory: Factory, seed: int) -> None:
    """Asked again and again before anything is told, it does not come back to what is out already.

    Concerns strategies that learn and can give more points while others are out. Of the points of later asks at least two
    thirds must lie 0.02 or more, in widths of the space, from all that were out before; neighbours by chance are allowed.
    """
    recipe = learner(factory)
    if isinstance(recipe, Generational):
        raise ContractDoesNotApply("it works in generations.")
    case = case_for(recipe, "box")
    if case.space.size is not None:
        raise ContractDoesNotApply("its example has so few points that neighbours are all there is.")
    session = Session(case, recipe, seed)
    width = torch.from_numpy(np.asarray(case.space.width))
    gaps: list[float] = []
    for _ in range(2):
        out = session.ask(1)
        for _ in range(3):
            ids = session.ask_now(1)
            if ids is None:  # it waits for results, as it may
                break
            gaps.append(float(((session.points(ids) - session.points(out)) / width).norm(dim=-1).min()))
            out += ids
        session.tell(out)
    if not gaps:
        raise ContractDoesNotApply("it gives no more points while others are out.")
    near = sum(gap < _NEAR for gap in gaps)
    require(
        3 * near <= len(gaps),
        f"of {len(gaps)} points asked while others were out, {near} lie within {_NEAR} of one of these, in widths of the space (distances: "
        f"{', '.join(f'{gap:.2g}' for gap in gaps)}): what was handed out must be remembered, or read from `request.pending`.",
    )


@contract
def points_stay_inside(factory: Factory, seed: int) -> None:
    """No point is out of bounds: in a plain box not even as the strategy gives it, anywhere else as the study hands it out."""
    for case in cases_for(factory()):
        if case.space.box:
            _stays_in_the_box(case, factory, seed)
        elif not _discrete(case) and not case.space.constraints:
            Session(case, factory(), seed).converse(case.few, seed)


def _stays_in_the_box(case: Case, factory: Factory, seed: int) -> None:
    """Pulled into a corner, a strategy must stop at the bounds by itself: the in-memory loop takes its points as they are."""

    def corner(x: Tensor) -> Evaluation:
        result = case.evaluate(x)
        return replace(result, values=result.values + 100.0 * x.sum(-1, keepdim=True))

    pulled = replace(case, objective=corner)
    calls = Calls(factory(), case.task, seed)
    calls.warm(pulled)
    for _ in range(case.steps):
        candidates = calls.ask()
        x = candidates.x.numpy()
        outside = ~((x >= 0.0) & (x <= 1.0))  # NaN is outside too
        first = x[outside.any(1)][:1].tolist()
        require(not outside.any(), f"proposed {first}, outside [0, 1] in a box without integers, choices or constraints.")
        calls.tell(pulled, candidates)


@contract
def known_constraints_hold(factory: Factory, seed: int) -> None:
    """Where the space has known constraints, linear or in Python, every ask still gives points, and all of them keep these.

    The engine moves what a strategy proposes to a point that keeps them, so it is for the strategy to go on in such a space, and to
    leave the space alone.
    """
    cases = [case for case in cases_for(factory()) if case.space.constraints]
    if not cases:
        raise ContractDoesNotApply("it takes no case that has known constraints.")
    for case in cases[-1:] if cases[0].expensive else cases:
        asked = Session(case, factory(), seed).converse(case.few, seed)
        given = sum(len(x) > 0 for x in asked)
        require(
            given == len(asked), f"{len(asked) - given} of {len(asked)} asks gave no point: nothing here is used up (case {case.name!r})."
        )


@contract
def integers_and_choices_are_valid(factory: Factory, seed: int) -> None:
    """Integers, choices and conditional variables come out as levels, choices and presence that the space knows.

    The engine snaps what a strategy proposes to such a point, so it is for the strategy to propose finite numbers, and to leave
    the space alone.
    """
    cases = [case for case in cases_for(factory()) if not case.space.constraints and _discrete(case)]
    if not cases:
        raise ContractDoesNotApply("it takes no case that has integers or choices.")
    for case in cases[:1] if cases[0].expensive else cases:
        Session(case, factory(), seed).converse(case.few, seed)


@contract
def context_is_as_given(factory: Factory, seed: int) -> None:
    """Where part of a setting is observed and not chosen, each ask gives points in the context it was given, whatever that was before.

    The engine puts the observed columns into what a strategy proposes, so it is for the strategy to answer in every context.
    """
    recipe = factory()
    space = Space({"a": Real(-2.0, 3.0), "weather": Context(Real(0.0, 10.0)), "b": Real(0.0, 1.0)}, constraints=["a + weather <= 12"])
    task = Task(space)
    if recipe.capabilities.requires or excluded(recipe.capabilities, task) is not None:
        raise ContractDoesNotApply("it needs a problem of its own, or takes no space with context.")
    example = case_for(recipe, "constrained")
    case = replace(example, name="context", task=task, objective=bowls(space), size=generation_size(recipe, task))
    session = Session(case, recipe, seed)
    chance = Random(seed, 0, ("weather",)).numpy()
    for _ in range(case.few):
        weather = float(chance.uniform(0.0, 10.0))
        ids = session.ask(max(1, case.size // 2), context={"weather": weather})
        require(ids, "ask(context=...) gave no points.")
        given = [session.study.trial(i).params["weather"] for i in ids]
        require(np.allclose(given, weather), f"asked in the context weather = {weather}, it gave points in {given}.")
        session.tell(ids[:-1] if chance.random() < 0.5 else ids)


@contract
def finite_space_is_used_up(factory: Factory, seed: int) -> None:
    """In a finite space without noise every point is asked once; then, and not before, ask raises Exhausted."""
    recipe = factory()
    if recipe.capabilities.requires:
        raise ContractDoesNotApply("it needs a problem of its own.")
    example = case_for(recipe, "mixed", "integers", "box")
    space = Space({"k": Integer(1, 3), "c": Choice("x", "y")})
    if excluded(recipe.capabilities, Task(space)) is not None:
        space = Space({"k": Integer(1, 3), "j": Integer(0, 1)})
    case = replace(example, name="finite", task=Task(space, deterministic=True), objective=bowls(space))
    session = Session(case, recipe, seed, warm=False)
    seen: list[bytes] = []
    for _ in range(20):
        ids = session.ask(2)
        if not ids:
            break
        seen += [row.tobytes() for row in session.asked[-1]]
        session.tell(ids)
    assert space.size is not None
    require(len(set(seen)) == len(seen), f"{len(seen)} asks of a deterministic study gave {len(set(seen))} different points.")
    require(len(seen) == space.size, f"ask() gave {len(seen)} of the {space.size} points of a finite space.")


@contract
def not_ready_changes_nothing(factory: Factory, seed: int) -> None:
    """An ask that raises NotReady leaves the state as it was, and what is asked later does not depend on it."""
    case = case_for(factory(), "mixed", "integers", "box")
    ours, theirs = (Calls(factory(), case.task, seed) for _ in range(2))
    handed = []
    reason: NotReady | Exhausted | None = None
    for _ in range(20 if not case.expensive else 5):
        before = ours.bytes()
        try:
            handed.append((ours.ask(case.size), theirs.ask(case.size)))
        except (NotReady, Exhausted) as raised:
            reason = raised
            for _ in range(3):
                kind = type(raised).__name__
                require(ours.bytes() == before, f"ask() changed the state and then raised {kind}.")
                require(_waits(ours, case.size), f"ask() raised {kind} and a moment later gave points, with nothing told in between.")
            break
    if reason is None:
        raise ContractDoesNotApply("it never waits for results.")
    for mine, other in handed:
        ours.tell(case, mine)
        theirs.tell(case, other)
    if isinstance(reason, NotReady):
        difference = same_asks([ours.ask(case.size).x.numpy()], [theirs.ask(case.size).x.numpy()])
        require(difference is None, f"after asks that raised NotReady, {difference}.")


def _discrete(case: Case) -> bool:
    return any(column.kind != "real" for column in case.space.columns)


def _waits(calls: Calls, n: int) -> bool:
    try:
        calls.ask(n)
    except (NotReady, Exhausted):
        return True
    return False


def _two_cases(factory: Factory) -> list[Case]:
    """The hardest single-objective case, and for a strategy that is cheap the example too."""
    case = case_for(factory(), "mixed", "integers", "box")
    return [case] if case.expensive or case.name == "example" else [case, case_for(factory(), "example")]
