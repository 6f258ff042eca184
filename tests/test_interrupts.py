"""Ctrl-C between any two lines: a study in memory loses nothing that was acknowledged, and goes on as if nothing had been."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import zoopt
from zoopt import Integer, Real, Space, Study
from zoopt.errors import FeedbackError
from zoopt.strategy import make
from zoopt.trials import CHUNK, TrialState

ROOM = Path(zoopt.__file__).parent
BOOKKEEPING = {str(ROOM / name) for name in ("study.py", "ledger.py", "record.py", "trials.py")}.__contains__
SPACE = Space({"x": Real(0, 1), "y": Real(0, 1)})


def prepared(**options: Any) -> Study:
    """A study with trials in every state, something in the queue and a ranking."""
    s = Study(SPACE, make("cma-es", popsize=12), seed=4, objectives={"a": "minimize"}, constraints=["c"], **options)
    for _ in range(5):
        trial = s.ask()
        s.tell(trial, trial.params["x"], constraints=[-1.0])
    s.enqueue({"x": 0.25, "y": 0.5})
    batch = s.ask(1)
    s.tell(batch, [0.3], constraints=[[-1.0]])
    batch = s.ask(4)
    s.fail(batch[0], "first")
    s.tell(batch[1:2], {"a": [0.2]}, constraints=[[0.5]], metrics={"t": 3})
    s.enqueue({"x": 0.75, "y": 0.5})
    s.enqueue({"x": 0.5, "y": 0.125})
    return s


def pending(s: Study) -> list[int]:
    return [t.id for t in s.pending]


def settle(s: Study) -> None:
    """Take everything that is out back, then look at what comes next."""
    for i in pending(s):
        s.tell(i, 0.5 + i / 100, constraints=[-1.0])
    for _ in range(4):
        batch = s.ask(5)
        s.tell(batch, batch.x.sum(-1), constraints=np.full((len(batch), 1), -1.0))


def assert_same(a: Study, b: Study) -> None:
    assert a.status == b.status
    assert pending(a) == pending(b)
    assert (a.best, a.best and a.best.value) == (None, None) if b.best is None else a.best is not None and a.best.id == b.best.id
    assert a._ledger.improved_at == b._ledger.improved_at
    mine, theirs = a.history(), b.history()
    assert list(mine) == list(theirs)
    for name in mine:
        np.testing.assert_array_equal(mine[name], theirs[name], err_msg=name)
    assert a._ledger.errors == b._ledger.errors and a._ledger.metrics == b._ledger.metrics and a.rankings == b.rankings


Step = Callable[[Study], Any]
Done = Callable[[Study, Study], bool]  # whether the first study, interrupted, has nevertheless done what brought the second one about

SAME_NEXT: Done = lambda s, before: s._ledger.next > before._ledger.next  # noqa: E731
CALLS: dict[str, tuple[Step, Done]] = {
    "ask one from the queue": (lambda s: s.ask(), SAME_NEXT),
    "ask five": (lambda s: (s.ask(2), s.ask(5)), lambda s, before: s._ledger.next > before._ledger.next + 2),
    "tell one": (lambda s: s.tell(8, 0.125, constraints=[-2.0]), lambda s, _: False),
    "tell two": (lambda s: s.tell([8, 9], [0.125, 0.25], constraints=[[-2.0], [-1.0]]), lambda s, _: False),
    "tell a good and a bad one": (lambda s: s.tell([9, 8], [float("nan"), 0.25], constraints=[[-2.0], [-1.0]]), lambda s, _: False),
    "reached and measured": (
        lambda s: s.tell(8, 0.5, constraints=[-1.0], noise=0.1, metrics={"watt": 3.0}, at={"x": 0.5}),
        lambda s, _: s.trial(8).state is TrialState.COMPLETE,
    ),
    "fail": (lambda s: s.fail([8, 9], "broken"), lambda s, _: False),
    "drop": (lambda s: s.drop(9), lambda s, _: False),
    "add": (lambda s: s.add({"x": 0.1, "y": 0.2}, 0.01, constraints=[-1.0]), SAME_NEXT),
    "rank": (lambda s: s.rank([9, 8]), lambda s, before: len(s.rankings) > len(before.rankings)),
    "enqueue": (lambda s: s.enqueue({"x": 0.9, "y": 0.9}), lambda s, before: len(s._ledger.queue) > len(before._ledger.queue)),
    "amend": (lambda s: s.amend([0, 6], [0.0, 0.9], constraints=[[-1.0], [-1.0]]), lambda s, _: False),
}


@pytest.mark.parametrize("name", CALLS)
def test_an_interrupt_before_any_line(name: str, interrupted: Any) -> None:
    call, done = CALLS[name]
    before, twin = prepared(), prepared()
    call(twin)
    settle(twin)
    line = 0
    while True:
        s = prepared()
        if not interrupted(lambda s=s: call(s), line, BOOKKEEPING):  # type: ignore[misc]
            break
        with s._lock:
            s._check_open()  # what the next call does first
        counts = s.status
        assert counts.pending == len(s.pending) == int((s.history()["state"] == "pending").sum()), line
        if name == "ask five":
            for first, n in ((10, 2), (12, 5)):
                if s._ledger.next <= first:
                    s.ask(n)
        elif not done(s, before):
            call(s)
        settle(s)
        try:
            assert_same(s, twin)
        except AssertionError as error:
            raise AssertionError(f"interrupted before line {line} of the bookkeeping: {error}") from None
        line += 1
    assert line > 20


def test_an_interrupt_while_the_table_grows(interrupted: Any) -> None:
    s = Study(SPACE, "random", seed=0)
    twin = Study(SPACE, "random", seed=0)
    for one in (s, twin):
        batch = one.ask(CHUNK)
        one.tell(batch, batch.x.sum(-1))
    line = 0
    while interrupted(s.ask, line, BOOKKEEPING):
        assert s._ledger.next <= CHUNK + 1
        if s._ledger.next > CHUNK:
            with s._lock:
                s._check_open()
            if s.pending:
                break
        line += 1
    trial = s.pending[0] if s.pending else s.ask()
    assert trial.params == twin.ask().params
    s.tell(trial, 1.0)
    assert s.evaluations == CHUNK + 1


def test_a_withdrawn_ranking_survives_an_interrupt(interrupted: Any) -> None:
    line, ended = 0, False
    while not ended:
        s = Study(SPACE, "cma-es", seed=2, feedback="ranking")
        shown = s.ask(3)
        number = s.rank(list(shown))
        ended = not interrupted(lambda s=s, number=number: s.withdraw(number), line, BOOKKEEPING)  # type: ignore[misc]
        try:
            s.withdraw(number)
        except FeedbackError:
            assert number not in s.rankings
        assert pending(s) == [0, 1, 2]
        s.rank(list(shown)[::-1])
        assert pending(s) == []
        line += 1
    assert line > 10


def test_what_may_not_be_asked_twice_is_not_asked_twice_after_interrupts(interrupted: Any) -> None:
    finite = Space({"k": Integer(1, 12)})
    s = Study(finite, "random", seed=1, deterministic=True)
    for line in range(0, 400, 7):
        if s._ledger.next < 6:
            interrupted(s.ask, line, BOOKKEEPING)
    while len(s.history()["id"]) < 12:
        s.ask()
    assert sorted(s.history()["k"].tolist()) == list(range(1, 13))
