"""Leases of evaluations: by when an answer is expected of whoever took a trial. Another thing than the driver's lease."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterable

_FEW = 64  # entries that may be out of date before they are looked through


class Leases:
    """Trials handed out under a lease, and those whose lease ran out."""

    __slots__ = ("_ends", "_most", "_out")

    def __init__(self) -> None:
        self._out: dict[int, tuple[float, float]] = {}  # id: when the lease ends (monotonic), its length in seconds
        self._ends: list[tuple[float, int]] = []  # a heap of ends and ids; leases that were renewed or are over stay until looked at
        self._most = _FEW  # entries of the heap from which on those are taken out

    def grant(self, ids: Iterable[int], seconds: float) -> None:
        """Start a lease of these trials, or start it anew."""
        end = time.monotonic() + seconds
        for i in ids:
            self._out[i] = (end, seconds)
            heapq.heappush(self._ends, (end, i))

    def renew(self, i: int) -> None:
        """Whoever has this trial gave a sign of life."""
        if i in self._out:
            self.grant((i,), self._out[i][1])

    def take_due(self, n: int, pending: Callable[[int], bool]) -> list[int]:
        """Up to n trials whose lease ran out while they were pending, those waiting longest first."""
        if len(self._ends) > self._most:
            self._out = {i: lease for i, lease in self._out.items() if pending(i)}
            self._ends = [(end, i) for i, (end, _) in self._out.items()]
            heapq.heapify(self._ends)
            self._most = max(_FEW, 2 * len(self._ends))
        now = time.monotonic()
        taken: list[int] = []
        while len(taken) < n and self._ends and self._ends[0][0] < now:
            end, i = heapq.heappop(self._ends)
            if i not in self._out or self._out[i][0] != end:
                continue
            del self._out[i]
            if pending(i):
                taken.append(i)
        return taken
