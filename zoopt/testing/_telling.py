"""Contracts about what comes back: in any order and pieces, twice, failed, dropped, never asked, or as an order only."""

from __future__ import annotations

import numpy as np
import torch

from zoopt.errors import AlreadyTold
from zoopt.generation import Generational
from zoopt.random import Random
from zoopt.state import to_bytes
from zoopt.testing._cases import Case, case_for, cases_for, ranked
from zoopt.testing._contract import ContractDoesNotApply, Factory, contract, learner, require
from zoopt.testing._session import A_LAP, Session, same_asks


@contract
def tells_in_any_order_and_pieces(factory: Factory, seed: int) -> None:
    """Results come late, out of order, in pieces, one objective now and another later, or for a setting that differs from the one asked."""
    cases = cases_for(factory())
    several = [case for case in cases if len(case.task.objectives) > 1]
    outcome = [case for case in cases if case.task.constraints]
    for case in [case_for(factory(), "mixed", "integers", "box"), *several[:1], *outcome[:1]]:
        session = Session(case, factory(), seed)
        late: list[int] = []
        for turn in range(2 if case.expensive else 6):
            ids = session.out(session.ask(case.size) + session.ask(2))
            rng = Random(seed, turn, ("order",)).numpy()
            order = [int(i) for i in rng.permutation(ids)]
            held, order = order[: len(order) // 4], order[len(order) // 4 :]
            _tell_somewhere_else(session, order[:1], rng)
            for piece in np.array_split(order[1:], 3):
                _tell_by_objective(session, [int(i) for i in piece])
            session.tell(session.out(late))
            late = held
    session.tell(late)


def _tell_somewhere_else(session: Session, ids: list[int], rng: np.random.Generator) -> None:
    """The evaluation reached another setting than the one asked."""
    for i in ids:
        reached = session.anywhere(rng)
        result = session.case.evaluate(torch.from_numpy(reached))
        session.study.tell(i, result.values.numpy(), constraints=result.constraints, at=session.case.space.params(reached)[0])


def _tell_by_objective(session: Session, ids: list[int]) -> None:
    """One objective now and the others later, where there are several; with the noise of the values where there is one."""
    names = session.case.task.objectives
    if not ids or len(names) == 1:
        session.tell(ids)
        return
    result = session.case.evaluate(session.points(ids))
    for k in reversed(range(len(names))):
        session.study.tell(ids, {names[k]: result.values[:, k].numpy()}, constraints=result.constraints if k == 0 else None)


@contract
def where_it_was_reached(factory: Factory, seed: int) -> None:
    """What was evaluated at another setting than the one asked teaches something of that setting: other points are asked next.

    Concerns strategies that learn.
    """
    recipe = learner(factory)
    case = case_for(recipe, "box")
    asked, reached = (Session(case, factory(), seed) for _ in range(2))
    rng = Random(seed, 0, ("reached",)).numpy()
    for _ in range(A_LAP):
        ids = asked.ask(case.size)
        reached.ask(case.size)
        if same_asks(asked.asked, reached.asked) is not None:
            return
        result = case.evaluate(asked.points(ids))
        at = [case.space.params(asked.anywhere(rng))[0] for _ in ids]
        for session, where in ((asked, None), (reached, at)):
            session.study.tell(ids, result.values.numpy(), constraints=result.constraints, at=where)
    raise AssertionError(
        "the same values told for other settings than those asked make no difference to what it asks next: it learns where it asked, "
        "not where the evaluation was (`observations.x`)."
    )


@contract
def telling_twice_changes_nothing(factory: Factory, seed: int) -> None:
    """The same result again is taken and changes nothing; another result for a finished trial is refused and changes nothing."""
    case = case_for(factory(), "box")
    once, twice = (Session(case, factory(), seed) for _ in range(2))
    for _ in range(3):
        ids = once.ask(case.size)
        require(twice.ask(case.size) == ids, "telling a result twice changed how many points are asked.")
        half = ids[: max(len(ids) // 2, 1)]
        for session in (once, twice):
            session.tell(half)
        twice.tell(half)
        state = to_bytes(twice.state)
        try:
            twice.study.tell(half[0], [1e9] * len(case.task.objectives), constraints=[0.0] * len(case.task.constraints) or None)
        except AlreadyTold:
            require(to_bytes(twice.state) == state, "a refused tell changed the state.")
        else:
            raise AssertionError("another value for a finished trial was taken; study.amend is for that.")
        for session in (once, twice):
            session.tell(session.out(ids))
    difference = same_asks(once.asked, twice.asked)
    require(difference is None, f"when every result was told twice, {difference}.")


@contract
def added_points_are_taken(factory: Factory, seed: int) -> None:
    """Results of points the strategy never asked come before its first ask, between its own, and in one tell with them."""
    case = case_for(factory(), "mixed", "integers", "box")
    session = Session(case, factory(), seed, warm=False)
    rng = Random(seed, 0, ("added",)).numpy()
    for _ in range(3):
        session.add(rng)  # before anything was asked
    for _ in range(3 if case.expensive else 5):
        session.enqueue(rng)
        first = session.ask(2)  # the point of the user's own
        own = session.ask(case.size)
        session.add(rng)
        out = session.pending  # not those which were told while the strategy waited
        session.tell([*first, *own[: len(own) // 2]] if session.out(first + own) == first + own else out)
        session.tell(session.pending)


@contract
def failures_are_answers(factory: Factory, seed: int) -> None:
    """With 30% of the evaluations failed or not a number, asks go on and stay valid."""
    case = case_for(factory(), "mixed", "integers", "box")
    session = Session(case, factory(), seed)
    for turn in range(case.few):
        ids = session.ask(case.size)
        fate = Random(seed, turn, ("fate",)).numpy().random(len(ids))
        crashed = [i for i, u in zip(ids, fate, strict=True) if u < 0.15]
        nan = [i for i, u in zip(ids, fate, strict=True) if 0.15 <= u < 0.3]
        if crashed:
            session.study.fail(crashed, "crashed")
        session.tell([i for i in ids if i not in crashed], nan=nan)
    require(session.ask(case.size), "nothing is proposed after failures.")


@contract
def everything_may_fail(factory: Factory, seed: int) -> None:
    """When nothing but failures was ever told, asks go on and stay valid; later results are taken."""
    case = case_for(factory(), "mixed", "integers", "box")
    session = Session(case, factory(), seed, warm=False)
    for turn in range(3 if case.size > 1 else 6):
        ids = session.ask(case.size)
        if turn % 2:
            session.tell(ids, nan=ids)
        session.study.fail(session.out(ids), "everything fails")
    for _ in range(2):
        ids = session.ask(case.size)
        require(ids, "nothing is proposed after failures.")
        session.tell(ids)


@contract
def a_dropped_trial_blocks_nothing(factory: Factory, seed: int) -> None:
    """One trial of every generation is dropped and never told; the strategy goes on with the rest."""
    case = case_for(factory(), "box")
    session = Session(case, factory(), seed)
    for turn in range(3 if case.expensive else 5):
        ids = session.ask(case.size)
        require(ids, "nothing is proposed after a trial was dropped.")
        lost = ids[turn % len(ids)]
        if turn % 2:
            session.study.drop(lost)
            session.tell([i for i in ids if i != lost])
        else:
            session.tell([i for i in ids if i != lost])
            session.study.drop(lost)
    session.study.drop(session.ask(case.size))
    require(session.ask(case.size), "nothing is proposed after a whole generation was dropped.")


@contract
def order_of_tells_does_not_matter(factory: Factory, seed: int) -> None:
    """A strategy of generations proposes the same next generation however the results of this one came: at once or in pieces.

    Concerns strategies that derive from ``Generational``.
    """
    if not isinstance(factory(), Generational):
        raise ContractDoesNotApply("it does not work in generations.")
    for name in ("mixed", "integers", "box"):
        case = case_for(factory(), name)
        if case.name == name or name == "box":
            _same_however_told(case, factory, seed)


def _same_however_told(case: Case, factory: Factory, seed: int) -> None:
    whole, pieces = (Session(case, factory(), seed) for _ in range(2))
    for turn in range(4):
        ids = whole.ask(10 * case.size + 10)
        others: list[int] = []
        while len(others) < len(ids):
            others += pieces.ask(2)
        ours, theirs = whole.points(ids).numpy(), pieces.points(others).numpy()
        difference = same_asks([ours], [theirs])
        require(difference is None, f"generation {turn}, told at once or in pieces and in another order: {difference}.")
        rng = Random(seed, turn, ("pieces",)).numpy()
        nan = [] if turn == 0 else rng.choice(len(ids), max(len(ids) // 5, 1), replace=False).tolist()
        whole.tell(ids, nan=[ids[k] for k in nan])
        if turn == 1:
            pieces.add(rng)
        for piece in np.array_split(rng.permutation(len(ids)), 3):
            pieces.tell([others[k] for k in piece], nan=[others[k] for k in nan])


@contract
def rankings_are_enough(factory: Factory, seed: int) -> None:
    """Told nothing but orders, of all or of some, with ties, by several raters, asks go on; a ranking may be taken back.

    Concerns strategies whose weakest feedback is a ranking or none.
    """
    recipe = factory()
    if recipe.capabilities.feedback == "values":
        raise ContractDoesNotApply("it learns from values only.")
    case = ranked(case_for(recipe, "mixed", "integers", "box"))
    session = Session(case, recipe, seed)
    study = session.study
    for turn in range(case.few):
        ids = session.ask(max(case.size, 4))
        order = [int(i) for i in Random(seed, turn, ("order",)).numpy().permutation(ids)]
        if len(order) > 3:
            number = study.rank([order[0], order[1:3]], rest="unseen", rater="first")
            study.rank([order[1], order[0]], rest="unseen", rater="second")
            if turn == 2:
                study.withdraw(number)
                study.rank([order[0], order[1:3]], rest="unseen", rater="first")
        pending = session.out(order)
        if pending:
            study.rank(pending[:2], rest="worse")
    require(session.ask(case.size), "nothing is proposed after rankings.")
