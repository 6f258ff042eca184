"""The median rule against its definition, and what it costs."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from typing import Any

import numpy as np
import pytest

from zoopt import pruning
from zoopt.pruning import Curves


def by_definition(mine: Any, others: Any, sign: float) -> bool:
    step, value = mine[-1]
    had = []
    for reports in others:
        before = [v for s, v in reports if s <= step]
        if before and max(s for s, _ in reports) >= step:
            had.append(np.inf if np.isnan(before[-1]) else sign * before[-1])
    return len(had) >= 5 and (np.inf if np.isnan(value) else sign * value) > median(had)


@pytest.mark.parametrize("kept", [3, 1024])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_worse_than_the_median_at_the_same_step(sign: float, kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning, "STEPS", kept)
    rng = np.random.default_rng(0)
    curves, others, stopped = Curves(sign), [], 0
    for trial in range(150):
        steps = range(rng.integers(1, 12)) if trial % 2 else rng.integers(0, 30, rng.integers(1, 12)) / 2  # also out of order
        values = np.where(rng.random(len(steps)) < 0.05, np.nan, rng.normal(size=len(steps)))
        reports = list(zip(map(float, steps), values.tolist(), strict=True))
        for k in range(len(reports)):
            mine = reports[: k + 1]
            expected = by_definition(mine, others, sign)
            assert curves.below_median(mine) == expected
            stopped += expected
        others.append(reports)
        curves.add(reports)
    assert 100 < stopped < 800


def test_nothing_reported_and_no_step_say_nothing() -> None:
    curves = Curves(1.0)
    for value in range(9):
        curves.add([(0.0, float(value))])
    assert curves.below_median([(0.0, 9.0)])
    assert not curves.below_median([])
    assert not curves.below_median([(float("nan"), 9.0)])


def test_each_finished_trial_is_looked_at_once_a_step() -> None:
    looks = 0

    class Watched(list[tuple[float, float]]):
        def __reversed__(self) -> Iterator[tuple[float, float]]:
            nonlocal looks
            looks += 1
            return super().__reversed__()

    curves = Curves(1.0)
    for trial in range(200):
        for step in range(10):
            curves.below_median([(float(step), float(trial))])
        curves.add(Watched((float(step), 1.0) for step in range(10)))
    assert 0 < looks <= 2 * 10 * 200
