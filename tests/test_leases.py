"""Leases of evaluations: who is handed out again, in which order, and what looking for them costs."""

from __future__ import annotations

from types import SimpleNamespace

from zoopt.leases import Leases


def test_those_waiting_longest_come_first_and_the_rest_stays_due(clock: SimpleNamespace) -> None:
    leases = Leases()
    leases.grant(range(4), 20)
    leases.grant([7, 5], 10)
    leases.grant([9], 100)
    clock.now += 10
    assert leases.take_due(5, lambda i: True) == []  # the end itself is in time
    clock.now += 11
    assert leases.take_due(3, lambda i: True) == [5, 7, 0]
    assert leases.take_due(9, lambda i: i != 2) == [1, 3]
    clock.now += 100
    assert leases.take_due(9, lambda i: True) == [9]
    assert leases.take_due(9, lambda i: True) == []


def test_a_sign_of_life_counts_also_when_the_lease_was_over_but_nobody_had_asked(clock: SimpleNamespace) -> None:
    leases = Leases()
    leases.grant([0, 1], 10)
    clock.now += 11
    leases.renew(1)
    leases.renew(2)  # it has no lease
    assert leases.take_due(9, lambda i: True) == [0]
    clock.now += 9
    assert leases.take_due(9, lambda i: True) == []
    clock.now += 2
    assert leases.take_due(9, lambda i: True) == [1]


def test_a_lease_granted_anew_replaces_the_old_one(clock: SimpleNamespace) -> None:
    leases = Leases()
    leases.grant([0], 100)
    leases.grant([0], 10)
    clock.now += 11
    assert leases.take_due(9, lambda i: True) == [0]
    clock.now += 100
    assert leases.take_due(9, lambda i: True) == []


def test_looking_costs_little_however_many_are_out_and_what_is_finished_is_forgotten(clock: SimpleNamespace) -> None:
    leases, looks = Leases(), 0
    finished: set[int] = set()

    def pending(i: int) -> bool:
        nonlocal looks
        looks += 1
        return i not in finished

    leases.grant(range(4000), 3600)
    for i in range(4000, 8000):  # one is told and another asked, over and over, and all of them report
        leases.grant([i], 3600)
        finished.add(i - 4000)
        leases.renew(i)
        clock.now += 0.001
        assert leases.take_due(1, pending) == []
    assert looks < 10 * 8000
    assert len(leases._out) < 3 * 4000
    clock.now += 4000
    assert leases.take_due(10_000, pending) == list(range(4000, 8000))
