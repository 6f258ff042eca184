"""The progress of a run on standard error: a bar on a terminal, now and then a line anywhere else."""

from __future__ import annotations

import logging
import sys
import time
import warnings
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from zoopt.cli.output import clock, err, number, say

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bar
    from rich.progress import Task

    from zoopt.study import Study

_REDRAW = 0.1  # seconds between updates of the bar, however fast the trials are
_LINES = 10.0  # seconds between lines where there is no terminal
_RECENT = 64  # finished trials from which the speed is taken
_FAILURES_SHOWN = 10
_GAPS = 3  # columns between the four parts of the bar's line


class Speed:
    """Evaluations a second, from the latest ones: a model-based strategy slows down as it learns."""

    def __init__(self, done: int) -> None:
        self._seen: deque[tuple[float, int]] = deque([(time.monotonic(), done)], maxlen=_RECENT)

    def update(self, done: int) -> None:
        """Note how many are done now."""
        if done > self._seen[-1][1]:
            self._seen.append((time.monotonic(), done))

    @property
    def value(self) -> float | None:
        """Evaluations a second; None before the first."""
        (began, first), (_, last) = self._seen[0], self._seen[-1]
        seconds = time.monotonic() - began
        return (last - first) / seconds if last > first and seconds > 0 else None


class Progress:
    """Shows how far a study is.

    Args:
        study: Where it stands when the run begins.
        total: Its number of evaluations, where that is known.
        quiet: Show nothing.
    """

    def __init__(self, study: Study, total: int | None, quiet: bool) -> None:
        self.console: Console = err()
        self._total = total
        self._quiet = quiet
        self._speed = Speed(study.evaluations)
        self._bar: Bar | None = None
        self._shown = 0.0
        self._front = (0.0, 0.0, "")  # when it was counted, how long that took, the text
        if not quiet and sys.stderr.isatty():
            self._bar = _bar(self.console)
            self._task = self._bar.add_task(study.name, total=total, completed=study.evaluations, text="")

    @contextmanager
    def showing(self, study: Study) -> Iterator[None]:
        """Shown while the block runs."""
        if self._bar is None:
            yield
            if not self._quiet:
                self._line(study)
            return
        with self._bar:
            self._draw(study)
            yield
            self._draw(study)

    def update(self, study: Study) -> None:
        """To be called after each event."""
        if self._quiet:
            return
        self._speed.update(study.evaluations)
        now = time.monotonic()
        if now - self._shown >= (_LINES if self._bar is None else _REDRAW):
            first = self._shown == 0.0
            self._shown = now
            if self._bar is not None:
                self._draw(study)
            elif not first:
                self._line(study)

    def _draw(self, study: Study) -> None:
        assert self._bar is not None
        self._bar.update(self._task, completed=study.evaluations, text=" · ".join(self._parts(study)))

    def _line(self, study: Study) -> None:
        total = "" if self._total is None else f"/{self._total}"
        say(", ".join([f"{study.evaluations}{total} evaluations", *self._parts(study)]), console=self.console)

    def _parts(self, study: Study) -> list[str]:
        parts = [text] if (text := self._best(study)) else []
        speed = self._speed.value
        if speed is not None:
            parts.append(f"{speed:.3g} evaluations/s" if speed >= 0.1 else f"{clock(1 / speed)} per evaluation")
            if self._total is not None and study.evaluations < self._total:
                parts.append(f"{clock((self._total - study.evaluations) / speed)} left")
        if study.failures:
            parts.append(f"{study.failures} failed")
        return parts

    def _best(self, study: Study) -> str:
        if len(study.task.objectives) == 1:
            best = study.best
            return "" if best is None or best.value is None else f"best {number(best.value)}"
        counted, cost, text = self._front
        began = time.monotonic()
        if began - counted > 20 * cost:  # counting a front costs more with every trial
            text = f"front of {len(study.front)}"
            self._front = (time.monotonic(), time.monotonic() - began, text)
        return text


def _bar(console: Console) -> Bar:
    """Name, bar, count and text; in a narrow terminal the bar gives way first, then the end of the text, never name and count."""
    from rich.cells import cell_len
    from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, TextColumn
    from rich.progress import Progress as Bar
    from rich.table import Column
    from rich.text import Text

    count = MofNCompleteColumn(table_column=Column(no_wrap=True))

    class Rest(ProgressColumn):
        def render(self, task: Task) -> Text:
            parts = [*([task.fields["text"]] if task.fields["text"] else []), f"{clock(task.elapsed or 0.0)} passed"]
            text = Text(" · ".join(parts), no_wrap=True)
            text.truncate(max(console.width - cell_len(task.description) - count.render(task).cell_len - _GAPS, 0), overflow="ellipsis")
            return text

    return Bar(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        count,
        Rest(table_column=Column(no_wrap=True)),
        console=console,
        refresh_per_second=5,
    )


class _Messages(logging.Handler):
    """Log records of zoopt as lines above the bar."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.INFO)
        self._console = console
        self._failures = 0

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.name == "zoopt.run" and " failed: " in text:
            self._failures += 1
            if self._failures > _FAILURES_SHOWN:
                return
            if self._failures == _FAILURES_SHOWN:
                text += " (further failures are counted, not shown)"
        say(text, "yellow" if record.levelno >= logging.WARNING else "", self._console)


@contextmanager
def messages(console: Console, quiet: bool, debug: bool) -> Iterator[None]:
    """What zoopt logs and warns of goes to the console; what libraries warn of does not, unless debugging."""
    logger = logging.getLogger("zoopt")
    handler = _Messages(console)
    handler.addFilter(lambda record: record.name == "zoopt.run" or record.levelno >= logging.WARNING)
    before, level = warnings.showwarning, logger.level

    def show(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, file: TextIO | None = None, line: str | None = None
    ) -> None:
        if category.__module__.partition(".")[0] == "zoopt":
            if not quiet:
                say(str(message), "yellow", console)
        elif debug:
            before(message, category, filename, lineno, file, line)

    if not quiet:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    warnings.showwarning = show
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        warnings.showwarning = before
