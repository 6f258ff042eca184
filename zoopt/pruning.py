"""When to stop a running trial early, from the intermediate values that were reported."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import median

Reports = Sequence[tuple[float, float]]  # (step, value) pairs in the order reported
FEWEST = 5  # finished trials without which nothing is judged


def below_median(mine: Reports, others: Iterable[Reports], sign: float) -> bool:
    """The median rule (Golovin et al., Google Vizier, KDD 2017): worse than the median of what others had at the same step.

    Args:
        mine: What the running trial reported.
        others: What each finished trial reported; those that did not get as far are left out.
        sign: 1 to minimise, -1 to maximise.

    Returns:
        False while too few others got as far. A value that is NaN is worse than any number.
    """
    if not mine:
        return False
    step, value = mine[-1]
    reached = []
    for reports in others:
        if reports and max(s for s, _ in reports) >= step:
            at = [v for s, v in reports if s <= step]
            if at:
                reached.append(_cost(sign * at[-1]))
    return len(reached) >= FEWEST and _cost(sign * value) > median(reached)


def _cost(value: float) -> float:
    return math.inf if math.isnan(value) else value
