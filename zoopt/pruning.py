"""When to stop a running trial early, from the intermediate values that were reported."""

from __future__ import annotations

import math
from array import array
from bisect import insort
from collections.abc import Sequence

Reports = Sequence[tuple[float, float]]  # (step, value) pairs in the order reported
FEWEST = 5  # finished trials without which nothing is judged
STEPS = 1024  # steps that are kept at hand


class Curves:
    """What finished trials reported, and whether a running one is worse than the median of them at the same step.

    At each step that was asked for, every finished trial is looked at once.

    Args:
        sign: 1 to minimise, -1 to maximise.

    Attributes:
        running: Ids of trials that reported and were not finished when they were last looked at.
    """

    __slots__ = ("_costs", "_finished", "_sign", "running")

    def __init__(self, sign: float) -> None:
        self._sign = sign
        self._finished: list[Reports] = []
        # By step, the one asked for last at the end: how many finished trials were looked at, and the costs of those that got there.
        self._costs: dict[float, tuple[int, array[float]]] = {}
        self.running: set[int] = set()

    def add(self, reports: Reports) -> None:
        """A trial with these reports is complete."""
        self._finished.append(reports)

    def below_median(self, mine: Reports) -> bool:
        """The median rule (Golovin et al., Google Vizier, KDD 2017): worse than the median of what others had at the same step.

        Others that did not get as far are left out.

        Args:
            mine: What the running trial reported.

        Returns:
            False while too few others got as far. A value that is NaN is worse than any number.
        """
        if not mine or math.isnan(mine[-1][0]):
            return False
        step, value = mine[-1]
        costs = self._at(step)
        n = len(costs)
        return n >= FEWEST and self._cost(value) > (costs[(n - 1) // 2] + costs[n // 2]) / 2

    def _at(self, step: float) -> array[float]:
        """What the finished trials that got to a step had there, sorted."""
        seen, costs = self._costs.pop(step) if step in self._costs else (0, array("d"))
        for reports in self._finished[seen:]:
            if any(s >= step for s, _ in reversed(reports)):
                value = next((v for s, v in reversed(reports) if s <= step), None)
                if value is not None:
                    insort(costs, self._cost(value))
        self._costs[step] = len(self._finished), costs
        if len(self._costs) > STEPS:
            del self._costs[next(iter(self._costs))]
        return costs

    def _cost(self, value: float) -> float:
        return math.inf if math.isnan(value) else self._sign * value
