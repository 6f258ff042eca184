"""The loop that drives a study: ask, evaluate, tell, until a stopping rule holds."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from zoopt.arguments import read_callbacks
from zoopt.errors import AlreadyTold, ConfigError, Exhausted, FeedbackError, NotReady, ObjectiveError, SpaceError, ZooptError
from zoopt.evaluate import Evaluator, Outcome, as_evaluator
from zoopt.evaluate.executor import ExecutorDied
from zoopt.stop import AnyOf, Evaluations, Reason, Rule, any_of
from zoopt.study import MAX_ATTEMPTS
from zoopt.variables import Fixed, Variable

if TYPE_CHECKING:
    from zoopt.space import Space
    from zoopt.study import Study, StudyEvent
    from zoopt.trials import Trial

_log = logging.getLogger("zoopt.run")
_LOOK = 1.0  # seconds between looks at the rules of the clock while nothing comes back


def drive(
    study: Study,
    objective: Any,
    *,
    evaluations: int | None = None,
    parallel: int = 1,
    timeout: float | str | None = None,
    max_failures: int | None = None,
    executor: Executor | None = None,
    stop: Rule | Iterable[Rule] = (),
    callbacks: Callable[[Study, StudyEvent], None] | Iterable[Callable[[Study, StudyEvent], None]] = (),
) -> None:
    """Run a study until a stopping rule holds; the arguments are those of ``zoopt.study.Study.run``.

    Trials that are pending already are evaluated again first. A rule of the clock leaves those that are out pending, any
    other lets them finish. After Ctrl-C no new trial is started, those that are out are left pending, and
    ``KeyboardInterrupt`` is raised: the study can be run again. Only an evaluation that vanished with its process counts as
    an attempt of its trial, never one that was stopped.

    Raises:
        ObjectiveError: ``max_failures`` evaluations have failed.
        ConfigError: The objective is none, or an argument has a value that it cannot have.
    """
    own = any_of(stop)
    own.check(study.task)
    counted = () if evaluations is None else (Evaluations(evaluations),)
    combined = AnyOf((*counted, own.from_now(study), study.stop))
    if max_failures is not None and (isinstance(max_failures, bool) or not isinstance(max_failures, int) or max_failures < 1):
        raise ConfigError(f"max_failures = {max_failures!r}: a whole number of at least 1 was expected.")
    evaluator = as_evaluator(objective, parallel=parallel, timeout=timeout, executor=executor, parameters=examples(study.space))
    before, watching, further = study.stop, study.callbacks, read_callbacks(callbacks)
    study.stop = combined
    study._ended = None  # why an earlier run ended does not stop this one
    study.callbacks = [*watching, *further]
    run = _Run(study, evaluator, parallel, max_failures)
    try:
        study._end(run())
    finally:
        study.stop, study.callbacks = before, watching


class Examples(dict[str, list[Any]]):
    """Values by parameter; the parameters in ``labels`` name a whole point."""

    labels: Collection[str] = ()


def examples(space: Space) -> Examples:
    """By name some values that each parameter can have: every choice and label, a number for a number."""

    def values(variable: Variable) -> list[Any]:
        if isinstance(variable, Fixed):
            return [variable.value]
        coding = variable.coding()
        if coding.kind == "choice":
            return variable.decode_rows(np.arange(coding.cardinality or 0, dtype=np.float64).reshape(-1, 1))
        guess = variable.first_guess()
        return variable.decode_rows(np.full((1, variable.size), coding.low) if guess is None else guess.reshape(1, -1))

    found = Examples({**space.label_values, **{name: values(variable) for name, variable in space.variables.items()}})
    found.labels = space.label_values
    return found


class _Run:
    """One run of a study."""

    def __init__(self, study: Study, evaluator: Evaluator, parallel: int, max_failures: int | None) -> None:
        self.study = study
        self.evaluator = evaluator
        self.parallel = parallel
        self.max_failures = max_failures
        self.left = [trial.id for trial in study.pending]  # by a run that was stopped, or by the user
        self.out: dict[Future[Outcome], Trial] = {}
        self.alone = False  # whether what is out must be so by itself

    def __call__(self) -> Reason | None:
        """Run to the end; gives why it ended where no stopping rule says so."""
        self._check_failures()
        self.evaluator.start(self.parallel)
        try:
            reason = self._batches(self.evaluator) if self.evaluator.batched else self._trials()
            if self.out:
                self._leave()
            return reason
        except ExecutorDied:  # any of those that it held may be the cause
            self._leave(but={trial.id for trial in self.out.values()})
            raise
        except BaseException:
            self._leave()
            raise
        finally:
            self.evaluator.close()

    def _leave(self, but: Collection[int] = ()) -> None:
        """Leave what is out pending: evaluations that are stopped from here, or were never begun, are no attempts that vanished."""
        vanished = {*self.left, *but}
        with suppress(ZooptError):  # what ended the run is what counts
            self.study._stopped([trial.id for trial in self.study.pending if trial.id not in vanished])

    def _trials(self) -> Reason | None:
        """One by one, up to ``parallel`` of them at a time."""
        study, out = self.study, self.out
        while True:
            ended = None
            if not study.status.stop and not (self.alone and out):
                self.alone = False
                self._evaluate_left()
                if not self.left and not self.alone:
                    ended = self._evaluate_new()
            if not out:
                return ended
            done, _ = wait(out, timeout=_LOOK, return_when=FIRST_COMPLETED)
            self._collect(done)
            self._check_failures()
            if out and study.stop.interrupts(study):
                return None

    def _collect(self, done: Collection[Future[Outcome]]) -> None:
        """Record what came back. An error that ends the run is raised when all that came beside it is recorded."""
        error: BaseException | None = None
        for future in sorted(done, key=lambda f: self.out[f].id):
            try:
                outcome = Outcome.of(future.result())
            except BaseException as raised:
                error = error or raised
            else:
                _record(self.study, self.out.pop(future), outcome)
        if error is not None:
            raise error

    def _evaluate_left(self) -> None:
        """Start trials that are pending already, where there is room; those begun too often become lost instead.

        The last attempt of a trial is made while nothing else is out: should it end its process again, it takes no other along.
        """
        while self.left and len(self.out) < self.parallel and not self.alone:
            last = self._last_attempt(self.left[0])
            if last and self.out:
                return
            for trial in self.study.retry(self.left.pop(0)):
                self.out[self.evaluator.submit(trial)] = trial
                self.alone = last

    def _last_attempt(self, i: int) -> bool:
        """Whether the evaluation of a pending trial vanished so often that the next is its last."""
        batch = self.study._ledger.pending_batch(i)
        return batch is not None and (batch.attempts or {}).get(i, 1) >= MAX_ATTEMPTS - 1

    def _evaluate_new(self) -> Reason | None:
        """Start new trials, where there is room; gives the reason when nothing is left to propose and nothing is out."""
        study, out = self.study, self.out
        while (n := self._room(len(out))) > 0:
            try:
                for trial in study.ask(n):
                    out[self.evaluator.submit(trial)] = trial
            except NotReady:
                if not out:
                    raise
                return None
            except Exhausted as reason:
                return None if out else _exhausted(reason)
        return None

    def _room(self, out: int) -> int:
        """How many more trials may be started now."""
        remaining = self.study._remaining()
        free = self.parallel - out
        return free if remaining is None else min(free, remaining)

    def _batches(self, evaluator: Any) -> Reason | None:
        """Batches of ``parallel`` trials, computed in this process."""
        study = self.study
        while not study.status.stop:
            if self.left:
                batch = study.retry(self._next_left())
            else:
                n = self._room(0)
                if n < 1:
                    break
                try:
                    batch = study.ask(n)
                except Exhausted as reason:
                    return _exhausted(reason)
            if len(batch):
                evaluator.tell(study, batch)
            self._check_failures()
        return None

    def _next_left(self) -> list[int]:
        """Up to ``parallel`` of the trials that are pending already; one whose attempt is the last by itself."""
        lasts = (k for k, i in enumerate(self.left[: self.parallel]) if self._last_attempt(i))
        n = max(next(lasts, self.parallel), 1)
        taken, self.left = self.left[:n], self.left[n:]
        return taken

    def _check_failures(self) -> None:
        study = self.study
        if self.max_failures is not None and study.failures >= self.max_failures:
            last = next(reversed(study._ledger.errors.values()), "").strip()
            study._end(Reason("max_failures", f"{study.failures} evaluations have failed (max_failures = {self.max_failures})"))
            raise ObjectiveError(
                f"{study.failures} evaluations have failed (max_failures = {self.max_failures}); everything told is recorded. "
                f"The last failure: {last[:500] or 'no reason given'}"
            )


def _exhausted(reason: Exhausted) -> Reason:
    _log.info("stopped: %s", reason)
    return Reason("exhausted", str(reason).rstrip("."))


def _record(study: Study, trial: Trial, outcome: Outcome) -> None:
    """Tell what came back of one evaluation."""
    try:
        _tell(study, trial, outcome.resolve(study.task.objectives, study.task.constraints))
    except AlreadyTold as error:  # from elsewhere, while it ran
        _log.warning("the result of trial %d came too late: %s", trial.id, error)


def _tell(study: Study, trial: Trial, outcome: Outcome) -> None:
    if outcome.error is None:
        try:
            study.tell(
                trial,
                outcome.values,
                constraints=outcome.constraints,
                noise=outcome.noise,
                gradients=outcome.gradients,
                metrics=outcome.metrics or None,
                at=_reached(study, outcome.reached),
            )
            return
        except (FeedbackError, SpaceError) as error:  # what it returned does not fit the study: a failure of this trial, with the reason
            if study._ledger.pending_batch(trial.id) is None:
                raise  # it is recorded, or was before: the fault is not the objective's
            outcome = Outcome.failed(str(error), outcome.stderr)
    study.fail(trial, f"{outcome.error}\n{outcome.stderr}" if outcome.stderr else str(outcome.error))
    _log.warning("trial %d failed: %s", trial.id, outcome.error)


def _reached(study: Study, reached: Any) -> Any:
    """The setting that was reached, as parameters by name; it comes by name or as a row of problem units.

    Raises:
        FeedbackError: It is no point of the study's space.
    """
    if reached is None or isinstance(reached, Mapping):
        return reached
    dim = study.space.dim
    try:
        row = np.asarray(reached, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError):  # ragged, or no numbers
        raise FeedbackError(f"the objective gave the reached setting {reached!r}; {dim} numbers were expected") from None
    if row.size != dim:
        numbers = "1 number" if row.size == 1 else f"{row.size} numbers"
        raise FeedbackError(f"the objective gave a reached setting of {numbers}; {dim} were expected")
    if not np.isfinite(row).all():
        raise FeedbackError(f"the objective gave the reached setting {reached!r}; {dim} finite numbers were expected")
    return study.space.params(study.space.encode_numpy(row.reshape(1, -1)))[0]
