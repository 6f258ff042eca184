"""``zoopt run``: drives a study.toml, and goes on where an earlier run stopped."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoopt.cli.check import Set, overrides
from zoopt.cli.output import (
    BAD_INPUT,
    FAILED,
    INTERRUPTED,
    Debug,
    best_table,
    best_trials,
    fail,
    guarded,
    json_line,
    out,
    say,
    trial_record,
)
from zoopt.errors import JournalError, ObjectiveError, StudyLocked, StudyMismatch

if TYPE_CHECKING:
    from zoopt.config import StudyConfig
    from zoopt.stop import Reason
    from zoopt.study import Study, StudyEvent

_FINISHED = ("told", "failed", "lost")


@guarded
def run(
    file: Annotated[Path, typer.Argument(help="The study.toml.", show_default=False)],
    evaluations: Annotated[
        int | None, typer.Option("--evaluations", "-n", min=1, help="The study's total, including what is done already.")
    ] = None,
    parallel: Annotated[int | None, typer.Option("--parallel", "-p", min=1, help="How many evaluations are out at once.")] = None,
    set_: Set = None,
    continue_with_data: Annotated[
        bool, typer.Option("--continue-with-data", help="The strategy was changed: go on with the new one on the data so far.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only the result.")] = False,
    json: Annotated[bool, typer.Option("--json", help="JSON lines on standard output: each finished trial, and a summary.")] = False,
    debug: Debug = False,
) -> None:
    """Run a study.toml, or go on where it stopped.

    After Ctrl-C or a crash the same command goes on: nothing that was recorded is computed again.
    """
    with _interruptible() as interrupted:
        from zoopt.cli.progress import Progress, messages
        from zoopt.config import load
        from zoopt.stop import Reason

        config = load(file, overrides(set_, evaluations=evaluations, parallel=parallel))
        config.check()
        callbacks: list[Any] = [interrupted.again]
        try:
            opened = config.make_study(callbacks=callbacks, resume="data" if continue_with_data else "same")
        except StudyMismatch as error:
            fail(str(error).replace("resume='data'", "--continue-with-data"), BAD_INPUT)
        except StudyLocked as error:
            sentence, look, _ = str(error).partition("To look at it: ")
            fail(sentence + look + shlex.join(["zoopt", "show", str(file)]) if look else sentence, BAD_INPUT)
        with opened as study:
            began = study.evaluations
            if study.status.complete + study.status.failed + study.status.pending and not quiet:
                total = "" if study.budget is None else f" of {study.budget}"
                say(f"going on: {began}{total} evaluations are done in {config.journal}.")
            bar = json and sys.stdout.isatty()  # the lines would run into it
            progress = Progress(study, study.budget, quiet or bar)
            study.callbacks += [_JsonLines()] if json else []
            study.callbacks.append(lambda study, _: progress.update(study))
            ended: Reason | None = None
            try:
                with messages(progress.console, quiet, debug), progress.showing(study):
                    study.run(config.evaluator(), **config.run_options())
            except KeyboardInterrupt:
                ended = Reason("interrupted", f"interrupted after {study.evaluations} evaluations")
            except ObjectiveError as error:
                _finish(study, config, Reason("max_failures", str(error).partition(";")[0]), json, quiet)
                fail(
                    f"{str(error).rstrip('.')}.\nOnce it is mended, go on with a higher limit: {_again()} --set study.max_failures="
                    f"{study.failures + (config.study.max_failures or 1)}",
                    FAILED,
                )
            except JournalError as error:
                fail(f"{error}\nWhat was acknowledged before is recorded; go on with: {_again()}", FAILED)
            _finish(study, config, ended, json, quiet)
            status = study.status
    if ended is not None:
        say(f"{ended.detail}, which are recorded in {config.journal}{_left(study)}.\nGo on with: {_again()}")
        raise typer.Exit(INTERRUPTED)
    if status.complete == 0:
        fail("no evaluation succeeded; see why with: " + shlex.join(["zoopt", "show", str(file)]), FAILED)


class _JsonLines:
    """Writes each trial when it is finished."""

    def __call__(self, study: Study, event: StudyEvent) -> None:
        if event.kind in _FINISHED:
            for i in event.ids.tolist():
                trial = study.trial(i)
                if trial.state.name != "PENDING":
                    json_line({"kind": "trial", **trial_record(trial)})


def _finish(study: Study, config: StudyConfig, ended: Reason | None, json: bool, quiet: bool) -> None:
    """The result, on standard output. Without ``ended`` a stopping rule holds."""
    status = study.status
    trials = best_trials(study)
    if json:
        counts = {k: getattr(status, k) for k in ("evaluations", "complete", "failed", "dropped", "lost", "pending")}
        several = len(study.task.objectives) > 1
        result = {"front": [trial_record(t) for t in trials]} if several else {"best": trial_record(trials[0]) if trials else None}
        json_line(
            {
                "kind": "summary",
                "study": study.name,
                "journal": config.journal,
                "strategy": config.study.strategy,
                "reason": status.reason if ended is None else ended.name,
                "detail": status.detail if ended is None else ended.detail,
                **counts,
                "session_seconds": round(study.seconds, 3),
                **result,
            }
        )
        return
    if ended is None and status.stop and not quiet:
        say(f"stopped: {status.detail}{_left(study)}.")
    if trials:
        out().print(best_table(study, trials))
    pick = study.recommended if study.space.fidelities and len(study.task.objectives) == 1 else None
    if pick is not None and pick.id < 0:  # where little was evaluated at the target, the best of that is not the answer
        out().print(best_table(study, [pick]))


def _left(study: Study) -> str:
    """What becomes of the trials that are out."""
    n = study.status.pending
    return f"; {n} that {'was' if n == 1 else 'were'} running will be started again" if n else ""


def _again() -> str:
    """The command that was given."""
    return shlex.join(["zoopt", *sys.argv[1:]])


class _Interrupt:
    """What a signal left behind."""

    def __init__(self) -> None:
        self.signals = 0

    def handle(self, number: int, _: object) -> None:
        self.signals += 1
        if self.signals == 1:
            raise KeyboardInterrupt
        if self.signals > 2:  # the second may be the nervous end of the first; whatever runs is ended with this process, in any case
            os._exit(INTERRUPTED)

    def again(self, study: Study, event: StudyEvent) -> None:
        """Interrupt at the next event, should a library have swallowed the exception."""
        if self.signals:
            raise KeyboardInterrupt


@contextmanager
def _interruptible() -> Iterator[_Interrupt]:
    """Ctrl-C and SIGTERM raise KeyboardInterrupt once."""
    interrupt = _Interrupt()
    before = {number: signal.signal(number, interrupt.handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
