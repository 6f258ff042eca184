"""Where the normal numbers of the noise come from: drawn anew at each step, or read from a table at random places."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

if TYPE_CHECKING:
    from zoopt.random import Random

Numbers = Literal["fresh", "table"]
Fill = Callable[[Tensor, tuple[slice, slice]], None]
"""Writes normal numbers, single precision, into ``(runs, rows, d)``, those of some runs (in row-major order) and rows."""

_ENTRIES = 1 << 20  # of a table at least, and four times what a run reads at once
_SEEDED = 16  # steps for which a generator draws before it is seeded anew
_LIFE = 256  # steps for which a table is read at least before it is drawn anew
_READS = 16  # times that a run reads each of its entries meanwhile, on average, where that takes longer
_AHEAD = 64  # steps for which the places are drawn at once; a divisor of _LIFE


@dataclass
class Streams:
    """Generators of normal numbers that go on from step to step on the CPU: seeding one takes as long as drawing thousands.

    Attributes:
        generators: One for each run.
        key: What they were seeded with.
        steps: The step whose numbers they give next.
    """

    generators: list[torch.Generator]
    key: Random
    steps: int

    @staticmethod
    def for_step(steps: int, share: int, random: Random, runs: Sequence[int], last: Streams | None) -> Streams:
        """Generators that give the numbers of a step, or of the first steps before it that they have not given.

        Args:
            steps: Steps taken.
            share: How many numbers each run draws at a step.
            random: Key of all steps.
            runs: Run dimensions.
            last: Those of the step before.
        """
        block, row = divmod(steps, _SEEDED)
        key = random.at(block).child("noise")
        if last is not None and last.steps <= steps and last.key == key and len(last.generators) == math.prod(runs):
            return last
        return Streams([one.clone_state() for one in key.normal_streams(share, runs=runs)], key, steps - row)

    def fill(self, mean: float, std: float) -> Fill:
        """The numbers of the next step; those of each run in order, a multiple of 16 at a time.

        Args:
            mean: Their mean.
            std: Their standard deviation.
        """
        self.steps += 1

        def fill(z: Tensor, at: tuple[slice, slice]) -> None:
            for own, generator in zip(z.unbind(0), self.generators[at[0]], strict=True):
                own.normal_(mean, std, generator=generator)

        return fill


@dataclass
class Table:
    """Normal numbers to read from.

    Attributes:
        entries: ``(k,)``, single precision.
        age: How many tables there were before.
        law: Mean and standard deviation of the entries.
        places: Where each run begins to read at each of some steps, ``(runs, steps)``.
        block: Which steps these are.
    """

    entries: Tensor
    age: int
    law: tuple[float, float]
    places: Tensor | None = None
    block: int = -1

    @staticmethod
    def for_step(steps: int, share: int, mean: float, std: float, random: Random, device: torch.device, last: Table | None) -> Table:
        """The table for a step, which is the last one for a while.

        Args:
            steps: Steps taken.
            share: How many numbers a run reads at a step.
            mean: Mean of the numbers.
            std: Their standard deviation.
            random: Key of all tables.
            device: Where they are read.
            last: The table before.
        """
        entries = max(_ENTRIES, 4 * share)
        age = steps // (_LIFE * max(1, _READS * entries // (_LIFE * share)))
        if last is not None and last.age == age and last.law == (mean, std):
            return last
        key = type(random)(random.seed, age, (*random.path, "table"))  # the same for any runs
        half = key.normal(entries // 2, mean=mean, std=std, dtype=torch.float32, device=device)
        return Table(torch.cat([half, (2.0 * mean) - half]), age, (mean, std))

    def fill(self, steps: int, random: Random, runs: Sequence[int], share: int) -> Fill:
        """Numbers from a place of each run's own.

        Args:
            steps: Steps taken.
            random: Key of the places.
            runs: Run dimensions.
            share: How many numbers each run reads in all.
        """
        entries = self.entries
        block, row = divmod(steps, _AHEAD)
        if self.places is None or block != self.block or len(self.places) != math.prod(runs):  # fewer runs are left
            drawn = random.at(block).integers(len(entries) - share + 1, (_AHEAD,), runs=runs).view(-1, _AHEAD)
            self.places, self.block = drawn.to(entries.device, non_blocking=True), block
        first = self.places[:, row]

        def fill(z: Tensor, at: tuple[slice, slice]) -> None:
            own, rows = at
            size = z.shape[-2] * z.shape[-1]
            windows = entries.as_strided((len(entries) - size + 1, size), (1, 1))
            begin = first[own]
            if rows.start:
                begin = begin + rows.start * z.shape[-1]
            torch.index_select(windows, 0, begin, out=z.view(len(z), size))

        return fill
