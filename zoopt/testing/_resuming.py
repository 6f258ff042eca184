"""Contracts about going on: the state is data, and an interruption at any point leaves no trace."""

from __future__ import annotations

import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

from zoopt.random import Random
from zoopt.restore import ReplayWarning
from zoopt.state import equal, from_bytes, to_bytes
from zoopt.testing._asking import _two_cases
from zoopt.testing._cases import Case, case_for
from zoopt.testing._contract import Factory, contract, require
from zoopt.testing._session import Array, Session, same_asks


@contract
def state_round_trips_through_bytes(factory: Factory, seed: int) -> None:
    """After every step the state becomes bytes and comes back equal to the bit, types and memory order included."""
    case = case_for(factory(), "mixed", "integers", "box")
    session = Session(case, factory(), seed)
    for number in range(case.steps):
        session.step(number, seed)
        data = to_bytes(session.state)
        back = from_bytes(data)
        require(
            equal(back, session.state), f"after step {number} the state that comes back from bytes differs from the one that was written."
        )
        require(to_bytes(back) == data, f"after step {number} the state that comes back from bytes is written differently.")


@contract
def going_on_from_bytes(factory: Factory, seed: int) -> None:
    """Where the state is replaced by what its bytes give, before every step, the same points are asked."""
    for case in _two_cases(factory):
        plain = Session(case, factory(), seed).converse(case.steps, seed)
        broken = Session(case, factory(), seed)
        for number in range(case.steps):
            broken.state = from_bytes(to_bytes(broken.state))
            broken.step(number, seed)
        difference = same_asks(plain, broken.asked)
        require(
            difference is None,
            f"going on from bytes, {difference} (case {case.name!r}): something learned is not in the state, "
            "or is in a live field that freeze() forgets.",
        )


@contract
def going_on_from_a_journal(factory: Factory, seed: int) -> None:
    """Where the study is closed and opened again from its journal, at sampled points, the same points are asked."""
    for case in _two_cases(factory):
        plain = Session(case, factory(), seed).converse(case.steps, seed)
        with TemporaryDirectory(prefix="zoopt-contract-") as folder:
            asked = _interrupted(case, factory, seed, f"{Path(folder) / 'study.db'}")
        difference = same_asks(plain, asked)
        require(difference is None, f"after reopening the journal, {difference} (case {case.name!r}).")


def _interrupted(case: Case, factory: Factory, seed: int, journal: str) -> list[Array]:
    """The same conversation with the study closed and opened again before about every third step, and after the last one.

    Every other time it finds a snapshot taken a moment ago, at the others it has to replay.
    """
    asked: list[Array] = []
    chosen = Random(seed, 0, ("cuts",)).numpy().permutation(case.steps)[: max(case.steps // 3, 4)]
    cuts = {int(number): k % 2 == 0 for k, number in enumerate(sorted(chosen))}
    session = Session(case, factory(), seed, journal=journal, durability="process")
    for number in range(case.steps):
        if number in cuts:
            pending = session.pending
            session.study.close()
            session = _opened(case, factory, seed, journal)
            require(session.pending == pending, f"trials {pending} were pending, but {session.pending} after reopening.")
        if cuts.get(number + 1):
            session.study._engine._spent = float("inf")  # the next event comes with a snapshot
        session.step(number, seed)
        asked += session.asked
        session.asked = []
    session.study.close()
    return asked


def _opened(case: Case, factory: Factory, seed: int, journal: str) -> Session:
    """The study from its record; a replay that differs would be taken from the record, so it has to be an error here."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ReplayWarning)
        session = Session(case, factory(), seed, journal=journal, durability="process")
    differs = [str(warning.message) for warning in caught if issubclass(warning.category, ReplayWarning)]
    require(not differs, f"after reopening the journal, a replayed ask differs from the record: {'; '.join(differs)}")
    return session
