"""Leases of evaluations: by when an answer is expected of whoever took a trial. Another thing than the driver's lease."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable


class Leases:
    """Trials handed out under a lease, and those whose lease ran out."""

    __slots__ = ("_due", "_out")

    def __init__(self) -> None:
        self._out: dict[int, tuple[float, float]] = {}  # id: when the lease ends (monotonic), its length in seconds
        self._due: deque[int] = deque()

    def grant(self, ids: Iterable[int], seconds: float) -> None:
        """Start a lease of these trials, or start it anew."""
        lease = (time.monotonic() + seconds, seconds)
        self._out.update(dict.fromkeys(ids, lease))

    def renew(self, i: int) -> None:
        """Whoever has this trial gave a sign of life."""
        if i in self._out:
            self.grant((i,), self._out[i][1])

    def take_due(self, n: int, pending: Callable[[int], bool]) -> list[int]:
        """Up to n trials whose lease ran out while they were pending, those waiting longest first."""
        now = time.monotonic()
        for i in [i for i, (end, _) in self._out.items() if end < now or not pending(i)]:
            if self._out.pop(i)[0] < now:
                self._due.append(i)
        taken: list[int] = []
        while self._due and len(taken) < n:
            i = self._due.popleft()
            if pending(i):
                taken.append(i)
        return taken
