"""Study: ids, pending trials, feedback, the best, and the record of all of it.

A study gives every trial an id, hands candidates of a strategy out, takes back whatever was seen, and writes each step to
its journal before it acknowledges it. The strategy's state is a cache of that record: after any failure the study goes
back to the record.
"""

from __future__ import annotations

import logging
import operator
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, Self, TypeVar, overload

import numpy as np
import torch

from zoopt.arguments import (
    check_parameter_names,
    read_callbacks,
    read_choice,
    read_constraint_names,
    read_device,
    read_directions,
    read_dtype,
    read_seed,
)
from zoopt.engine import Engine
from zoopt.errors import (
    AlreadyTold,
    ConfigError,
    Exhausted,
    FeedbackError,
    JournalError,
    JournalWarning,
    LeaseLost,
    NotReady,
    SpaceError,
    StrategyError,
    TellErrors,
    UnknownId,
)
from zoopt.evaluate import duration
from zoopt.feedback import Column, Observations, Ranking
from zoopt.history import History, pareto_rows
from zoopt.leases import Leases
from zoopt.ledger import HistoryMode, Ledger, OpenBatch
from zoopt.pruning import Curves
from zoopt.random import Random
from zoopt.record import Entry, Held, OrderLog, recipe_config, write
from zoopt.space import Space
from zoopt.stop import Reason, Rule, any_of
from zoopt.strategy import Request, Strategy, Task, make
from zoopt.told import Rows
from zoopt.trials import CHUNK_BITS, Batch, Table, Trial, TrialState

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from zoopt.diagnosis import Diagnosis
    from zoopt.journal import StudyLog

P = ParamSpec("P")
R = TypeVar("R")
Array = np.ndarray[Any, Any]
Trials = Trial | Batch | int | Sequence[int] | Sequence[Trial] | Array
_log = logging.getLogger("zoopt.study")

_HELD_RATIO = 10.0  # time in the strategy of a study in memory between two looks at its state, over the time a look takes
MAX_ATTEMPTS = 3  # a trial whose worker vanished this often is lost
_EMPTY: Mapping[str, Column] = {}


@dataclass(frozen=True, slots=True)
class StudyEvent:
    """What a callback is told: the kind of event and the trials it is about."""

    kind: str
    ids: Array


Callback = Callable[["Study", StudyEvent], None]


@dataclass(frozen=True, slots=True)
class Status:
    """Where a study stands. ``stop`` says whether a stopping rule holds, ``reason`` which and ``detail`` why."""

    stop: bool
    reason: str | None
    detail: str
    evaluations: int
    complete: int
    failed: int
    dropped: int
    lost: int
    pending: int


def _recorded(method: Callable[Concatenate[Study, P], R]) -> Callable[Concatenate[Study, P], R]:
    """A method that changes the study: one thread at a time, on an open study, and safe to interrupt."""

    @wraps(method)
    def call(self: Study, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with self._lock:
            self._check_open()
            try:
                return method(self, *args, **kwargs)
            except BaseException as error:
                self._interrupted(error)
                raise

    return call


def _correcting(method: Callable[Concatenate[Study, P], R]) -> Callable[Concatenate[Study, P], R]:
    """A recorded method that corrects the record, which must work also where the strategy cannot be rebuilt from it as it is."""

    @wraps(method)
    def call(self: Study, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with self._lock:
            try:
                self._check_open()
            except StrategyError:
                self._ready = True  # what was told is known, and all that a correction needs
                try:
                    return recorded(self, *args, **kwargs)
                except BaseException:
                    self._ready = False
                    raise
            return recorded(self, *args, **kwargs)

    recorded = _recorded(method)
    return call


class Study:
    """One optimization: a space, a strategy, and the record of what was asked and told.

    Args:
        space: What is searched, a ``Space`` or a mapping of names to variables.
        strategy: Registered name or recipe.
        direction: ``"minimize"`` or ``"maximize"``, for a single objective.
        objectives: Names and directions of several objectives (or one under its own name).
        constraints: Names of the outcome constraints; a told ``c <= 0`` is feasible.
        deterministic: The objective has no noise: no point is asked twice, surrogates interpolate.
        name: Name of the study in its journal.
        journal: Path or database URL; None keeps the study in memory only.
        seed: Decides every proposal; None: drawn and recorded.
        history: ``"all"`` keeps everything; ``"values"`` of finished trials their values, constraints, noise and states; ``"best"``
            none but the best. Both keep all of the best trial and of those that are out, and why the last one failed.
        durability: ``"full"``: an acknowledged tell survives a power cut; ``"process"``: it survives a killed process.
        problem: What the objective offers beyond values (gradients, ...), for strategies that need it.
        device: Torch device on which the strategy works; ``"auto"`` takes an accelerator where there is one.
        dtype: Floating type in which the strategy works: ``torch.float64`` or ``torch.float32``.
        feedback: ``"values"``, or ``"ranking"`` when people will only order candidates.
        stop: Stopping rules (any of them stops), see ``zoopt.stop``.
        callbacks: One function or several, called with ``(study, event)`` after each recorded event.
        resume: On a journal that holds this study under another strategy: ``"same"`` refuses, ``"data"`` goes on with its data.

    Raises:
        CapabilityError: The strategy cannot handle this task; the message names strategies which can.
        StudyMismatch: The journal holds a study of this name that differs.
        StudyLocked: Another process drives this study.
    """

    def __init__(
        self,
        space: Space | Mapping[str, Any],
        strategy: str | Strategy[Any] = "bo",
        direction: Literal["minimize", "maximize"] = "minimize",
        *,
        objectives: Mapping[str, str] | None = None,
        constraints: Sequence[str] = (),
        deterministic: bool = False,
        name: str = "study",
        journal: str | os.PathLike[str] | None = None,
        seed: int | None = None,
        history: HistoryMode = "all",
        durability: Literal["full", "process"] = "full",
        problem: Any = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float64,
        feedback: Literal["values", "ranking"] = "values",
        stop: Rule | Iterable[Rule] = (),
        callbacks: Callback | Iterable[Callback] = (),
        resume: Literal["same", "data"] = "same",
    ) -> None:
        self.space = space if isinstance(space, Space) else Space(space)
        self.name = name
        self.strategy: Strategy[Any] = make(strategy)
        directions = read_directions(direction, objectives)
        names = read_constraint_names(constraints, directions)
        check_parameter_names(self.space.names, directions, names)
        read_choice("history", history, ("all", "values", "best"))
        read_choice("feedback", feedback, ("values", "ranking"))
        read_choice("resume", resume, ("same", "data"))
        if history == "best" and len(directions) > 1:
            raise ConfigError("history='best' keeps the best trial only, and several objectives have no single best; use history='all'.")
        self.directions = directions
        self.signs = np.array([1.0 if way == "minimize" else -1.0 for way in directions.values()])
        self.task = Task(
            self.space,
            tuple(directions),
            names,
            feedback,
            deterministic,
            (),
            read_device(device),
            read_dtype(dtype),
            problem,
            frozenset(name for name, way in directions.items() if way == "maximize"),
        )
        self.strategy.check(self.task)
        self.stop: Rule = any_of(stop)
        self.stop.check(self.task)
        if self.stop.needs_points and history != "all":
            raise ConfigError("the stopping rule Cost adds up over the points of all trials, which history='all' keeps.")
        self.callbacks: list[Callback] = read_callbacks(callbacks)
        self.history_mode: HistoryMode = history
        self._lock = threading.RLock()
        self._m = len(directions)
        self._scalar = self._m == 1 and not self.task.constraints and not self.space.beyond
        self._sign = float(self.signs[0])
        self._began = time.monotonic()
        self._closed = False
        self._ready = True  # neither closed nor left half changed by an interrupt
        self._ended: tuple[Reason, int] | None = None  # why the last run ended, and how many trials there were then
        self._log: StudyLog | None = None
        self._unsaved = False  # whether it was said that the strategy's state cannot be saved
        self._leases: Leases | None = None  # made when a trial is handed out under a lease
        self._curves: Curves | None = None  # made when it is asked whether a trial should stop
        self._order: OrderLog | None = None
        self._contexts: set[tuple[tuple[int, float], ...]] = set()  # in which there are points that keep the known constraints
        self._reset(read_seed(seed))
        if journal is not None:
            from zoopt.journal import Journal
            from zoopt.restore import open_study

            if history != "all":
                raise ConfigError("history='values' and 'best' are for studies in memory; a journal keeps everything.")
            open_study(self, Journal(journal, durability=durability), seed_given=seed is not None, resume=resume)
        else:
            if history == "all":
                self._order = OrderLog()
            self._engine.begin()

    def _reset(self, seed: int) -> None:
        """An empty study."""
        self._ledger = Ledger(self.task, self._sign, self.history_mode)
        self._engine = Engine(self.strategy, self.task, self.signs, seed)

    @property
    def seed(self) -> int:
        """What decides every proposal."""
        return self._engine.seed

    # ------------------------------------------------------------------ asking

    @overload
    def ask(self, n: None = None, *, context: Mapping[str, Any] | None = None, lease: float | str | None = None) -> Trial: ...
    @overload
    def ask(self, n: int, *, context: Mapping[str, Any] | None = None, lease: float | str | None = None) -> Batch: ...
    def ask(self, n: int | None = None, *, context: Mapping[str, Any] | None = None, lease: float | str | None = None) -> Trial | Batch:
        """Propose what to evaluate next.

        Args:
            n: How many; None gives a single ``Trial``, a number a ``Batch`` of 1 to n trials.
            context: Values of the space's context variables, which are observed and not chosen; of its fidelities and environment,
                if they are not for the strategy to choose.
            lease: Seconds (or "10m") after which an unanswered evaluation is taken to have vanished and is handed out again.

        Raises:
            NotReady: The strategy needs results of pending trials first.
            Exhausted: Nothing is left to propose.
            FeedbackError: n is no whole number of at least 1.
            SpaceError: The context is none of this space, or no point can be in it.
            ConfigError: The lease is no duration.
        """
        with self._lock:
            if not self._ready:
                self._check_open()
            if n is not None and (not isinstance(n, int | np.integer) or n < 1):
                raise FeedbackError(f"ask(n) needs a whole number n >= 1; got {n!r}.")
            seconds = None if lease is None else duration(lease, "lease")
            try:
                if self._order is not None:
                    self._hold_state()
                if self._leases is not None:
                    again = self._hand_out_again(1 if n is None else int(n), seconds)
                    if again is not None:
                        return again[0] if n is None else again
                batch = self._ask(1 if n is None else int(n), context)
            except BaseException as error:
                self._interrupted(error)
                raise
            if seconds is not None:
                self._lease(range(batch.start, batch.start + batch.n), seconds)
            if n is None:
                return Trial(self, batch.start, batch.x[0])
            return Batch(self, np.arange(batch.start, batch.start + batch.n), batch.x)

    def _ask(self, n: int, context: Mapping[str, Any] | None) -> OpenBatch:
        """Enqueued points first, then what the strategy proposes."""
        ledger, engine = self._ledger, self._engine
        fixed = self._given(context) if context or self.space.beyond else None
        if ledger.queue and (queued := self._ask_queue(n, fixed)) is not None:
            return queued
        if fixed and self.space.constraints:
            self._check_context(fixed)
        remaining = self._remaining()
        if engine.size is not None and len(ledger.seen) >= engine.size:
            raise Exhausted(f"all {engine.size} points of this finite, deterministic space have been asked.")
        try:
            candidates = engine.ask(Request(n, ledger.pending_points if ledger.open else None, fixed, remaining))
        except NotReady:
            if engine.size is not None and not ledger.open and engine.first_unseen(ledger.seen, fixed) is None:
                raise Exhausted("all valid points of this finite, deterministic space have been asked.") from None
            raise
        except Exhausted:
            raise
        except Exception as error:
            raise self._strategy_failed("ask", error) from error
        try:
            x, columns, same = engine.valid(candidates, n, fixed, ledger.seen)
        except Exhausted:
            self._ready = self._log is None and self._order is None  # the strategy asked, but nothing was handed out
            raise
        except Exception as error:
            raise self._strategy_failed("ask", error) from error
        note = {"context": {str(k): v for k, v in fixed.items()}} if fixed else None
        return self._hand_out(x, columns, n, remaining, note, as_proposed=same)

    def _given(self, context: Mapping[str, Any] | None) -> dict[int, float] | None:
        """Encoded values of the columns that are not for the strategy to choose."""
        space, can = self.space, self.strategy.capabilities
        fixed = space.fixed_columns(dict(context or {}))
        if space.targets and not can.fidelity:
            fixed = {**space.targets, **fixed}
        if space.environment and not can.environment:
            key = self._engine.random().child("environment")
            count = sum(column.role == "environment" for column in space.columns)
            columns, values = space.scenarios(key.uniform((1, count)).numpy())
            fixed = {**dict(zip(columns, values[0].tolist(), strict=True)), **fixed}
        return fixed or None

    def _ask_queue(self, n: int, fixed: Mapping[int, float] | None) -> OpenBatch | None:
        """The next enqueued points that can be in this context; None where none can, and they wait for another one."""
        places: list[int] = []
        rows: list[Array] = []
        for k, point in enumerate(self._ledger.queue):
            if len(rows) == n:
                break
            if not self.space.context:
                rows.append(point)
            else:
                try:
                    rows.append(self.space.complete(point, fixed or {}))
                except SpaceError as error:
                    _log.info("an enqueued point waits for another context: %s", error)
                    continue
            places.append(k)
        places = places or list(range(len(rows)))
        return self._hand_out(np.stack(rows), _EMPTY, n, None, {"enqueued": places}) if rows else None

    def _check_context(self, fixed: Mapping[int, float]) -> None:
        """Refuse a context in which no point keeps the known constraints, before the strategy is asked."""
        key = tuple(sorted(fixed.items()))
        if key not in self._contexts:
            self.space.sample(1, Random(0), fixed=fixed)
            self._contexts.add(key)

    def _hand_out(
        self,
        x: Array,
        columns: Mapping[str, Column],
        asked: int,
        remaining: int | None,
        note: dict[str, Any] | None,
        *,
        as_proposed: bool = False,
    ) -> OpenBatch:
        """Record an ask and open its batch."""
        first, n = self._ledger.next, len(x)
        if self._log is not None:
            self._commit([Entry("asked", np.arange(first, first + n), {"x": x, **columns}, asked, remaining, note)], sync=False)
        batch = self._ledger.append(x, columns, as_proposed)
        if self._order is not None:
            if note is None:
                self._order.asked(first, n, asked, remaining)
            else:
                self._order.append(Entry("asked", np.arange(first, first + n), {}, asked, remaining, note))
        if note is not None and "enqueued" in note:
            self._ledger.take_queued(note["enqueued"], x)
        if self.callbacks:
            self._notify("asked", np.arange(first, first + n))
        return batch

    def _remaining(self) -> int | None:
        """Evaluations left in the budget after those that are out; None where there is no budget."""
        budget = self.stop.budget()
        return None if budget is None else max(budget - self.evaluations - self._ledger.counts[0], 0)

    @property
    def budget(self) -> int | None:
        """The number of evaluations after which the stopping rules stop in any case, or None."""
        return self.stop.budget()

    @_recorded
    def enqueue(self, params: Mapping[str, Any]) -> None:
        """Try this point next, before what the strategy proposes; also one that was tried before.

        Args:
            params: One value by name. Where the space has context variables the point waits for an ask in a context in which it can be:
                those left out hold what is given to ask, and those given must be what is given to ask.

        Raises:
            SpaceError: The parameters are not a point of the space; the message names the parameter.
        """
        x = self.space.encode_given(params)[None] if self.space.context else self.space.encode_params([params])
        self._commit([Entry("enqueued", np.array([-1]), {"x": x})])
        self._ledger.queue.append(x[0])
        self._notify("enqueued", _NO_IDS)

    # ------------------------------------------------------------------ telling

    def tell(
        self,
        trials: Trials,
        values: Any,
        *,
        constraints: Any = None,
        noise: Any = None,
        gradients: Any = None,
        metrics: Mapping[str, Any] | None = None,
        at: Any = None,
    ) -> None:
        """Record results; in any order, in any pieces, late, and twice (idempotent).

        Args:
            trials: A trial, a batch, an id or ids.
            values: A number; ``(n,)`` or ``(n, m)``; or a dict by objective name, which may name some objectives now
                and the others later (until all are told, a number may be told anew). What is no finite number is
                recorded as a failure, with the reason.
            constraints: ``(n, c)``; ``<= 0`` is feasible. Or a dict by constraint name.
            noise: Standard deviations of the values, same shape as the values, or one for all. Or a dict by objective name.
            gradients: In problem units, ``(n, d)`` or ``(n, m, d)``; NaN where they are not known.
            metrics: Further numbers to keep with the trial(s).
            at: The setting that was reached where it differs from the one asked: a params dict, or one per trial. Parameters
                left out are as asked.

        Raises:
            FeedbackError: What was told does not fit this study; nothing is recorded.
            UnknownId: An id this study never gave out.
            AlreadyTold: A finished trial told again with another value, or other constraints, noise, gradients, metrics or setting than
                are kept; ``amend`` corrects them.
            TellErrors: Some rows of several were refused for one of these two reasons, all others are recorded.
        """
        if type(trials) is Trial and self._scalar and constraints is None and noise is None and gradients is None and metrics is None:
            if at is None and type(values) in _NUMBERS and trials._study is self:
                with self._lock:
                    opened = self._ledger.open.get(trials.id)
                    if opened is not None and opened.n == 1 and self._ready and -_HUGE < values < _HUGE:
                        try:
                            self._tell_one(opened, float(values))
                        except BaseException as error:
                            self._interrupted(error)
                            raise
                        return
        self._tell(trials, values, constraints, noise, gradients, metrics, at)

    def _tell_one(self, batch: OpenBatch, value: float) -> None:
        """The straight path of a single plain value."""
        i, ledger, task = batch.start, self._ledger, self.task
        signed = self._sign * value
        self._learn(Observations((i,), batch.x, ((signed,),), columns=batch.columns, dtype=task.dtype, device=task.device))
        if self._log is not None:
            self._commit([Entry("told", np.array((i,)), {"values": np.array(((value,),))})])
        table = ledger.table
        if table is not None:
            chunk, row = i >> CHUNK_BITS, i & _ROW
            table.chunks["values"][chunk][row, 0] = value
            if self._order is not None:
                self._order.told(i)
            table.chunks["state"][chunk][row] = 1
        del ledger.open[i]
        counts = ledger.counts
        counts[0] -= 1
        counts[1] += 1
        if signed < ledger.best_key[1] or ledger.best_id < 0:
            ledger.set_best(i, (0.0, signed), value, batch.x[0])
        if ledger.reports:
            ledger.let_go((i,))
        if self.callbacks:
            self._notify("told", np.array((i,)))

    @_recorded
    def _tell(self, trials: Trials, values: Any, constraints: Any, noise: Any, gradients: Any, metrics: Any, at: Any) -> None:
        ids = self._ids(trials)
        n = len(ids)
        rows = Rows(self.task, n, values, constraints, noise, gradients, metrics, None if at is None else self._reached(ids, at))
        if n > 1 and (np.diff(ids) <= 0).any():
            order = np.argsort(ids, kind="stable")
            ids, rows = ids[order], rows.take(order)
            if (np.diff(ids) == 0).any():
                raise FeedbackError(f"trial {int(ids[np.nonzero(np.diff(ids) == 0)[0][0]])} stands twice in one tell.")
        pending = self._ledger.pending_mask(ids)
        errors: list[tuple[int, Exception]] = []
        if not pending.all():
            for k in np.nonzero(~pending)[0].tolist():
                try:
                    self._retell(int(ids[k]), rows, k)
                except FeedbackError as error:
                    errors.append((int(ids[k]), error))
            ids, rows = ids[pending], rows.take(np.nonzero(pending)[0])
        if len(ids):
            self._record_rows(ids, rows)
        if errors:
            raise errors[0][1] if n == 1 else TellErrors(errors)

    def _reached(self, ids: Array, at: Any) -> Array:
        """Encoded settings that were reached, ``(n, d)``; what they leave out is as asked."""
        settings = [at] * len(ids) if isinstance(at, Mapping) else list(at)
        if len(settings) != len(ids) or not all(isinstance(setting, Mapping) for setting in settings):
            raise FeedbackError(f"at must be a dict of parameters, or one for each of the {len(ids)} trials; got {at!r}.")
        asked = [self._ledger.point_of(i) if 0 <= i < self._ledger.next else None for i in ids.tolist()]
        known = [{} if x is None else self.space.row_params(x) for x in asked]
        return self.space.encode_params([{**params, **setting} for params, setting in zip(known, settings, strict=True)])

    def _record_rows(self, ids: Array, rows: Rows) -> None:
        """Record results of pending trials: those complete, those still waiting for objectives, and those failed."""
        ledger = self._ledger
        values, bad = rows.values, rows.bad()
        if ledger.partial:
            ledger.join(ids, rows)
        waiting = np.isnan(values).any(1) & ~bad
        good = ~bad & ~waiting
        which: Any = slice(None) if good.all() else good
        self._check_constraints(rows.part("constraints", which), good)
        entries: list[Entry] = []
        if waiting.any():
            entries.append(Entry("told", ids[waiting], rows.fields(waiting), note=rows.note(ids, waiting, partial=True)))
        if good.any():
            done = ids[which]
            self._learn(
                self._observe(
                    done,
                    values[which],
                    rows.part("constraints", which),
                    rows.part("noise", which),
                    settings=ledger.settings if rows.at is None else dict(zip(done.tolist(), rows.at[which], strict=True)),
                    gradients=None if rows.gradients is None else dict(zip(done.tolist(), rows.gradients[which], strict=True)),
                )
            )
            entries.append(Entry("told", done, rows.fields(which), note=rows.note(ids, which)))
        if bad.any():
            self._learn(self._observe(ids[bad], None, failed=True))
            reasons = rows.reasons(bad, self.task.objectives)
            entries.append(Entry("failed", ids[bad], {}, note={"reasons": reasons}))

        def store() -> None:
            if waiting.any():
                ledger.store(ids[waiting], rows, waiting)
                ledger.partial.update({int(ids[k]): values[k].copy() for k in np.nonzero(waiting)[0]})
            if good.any():
                ledger.store(ids[which], rows, which)
            if bad.any():
                ledger.errors.update(zip(ids[bad].tolist(), reasons, strict=True))

        self._commit(entries, store)
        if good.any():
            improved = ledger.update_best(ids[which], values[which], rows.part("constraints", which))
            ledger.close(ids[which], TrialState.COMPLETE)
            if improved:
                ledger.improved_at = ledger.evaluations
        if bad.any():
            ledger.close(ids[bad], TrialState.FAILED)
        for entry in entries:
            self._notify(entry.kind, entry.ids)

    def _retell(self, i: int, rows: Rows, k: int) -> None:
        """A result for a trial that is not pending: the same again is fine, anything else is an error."""
        state, table = self._ledger.state_of(i), self._ledger.table
        if table is None:
            raise AlreadyTold(f"trial {i} is finished, and history='best' does not keep its value to compare.")
        if state is TrialState.FAILED and rows.bad()[k]:
            return
        if state is TrialState.COMPLETE:
            differing = ["values"] if rows.bad()[k] else self._ledger.differing(i, rows, k)
            if not differing:
                return
            if np.isnan(table.row("values", i)).all():
                raise AlreadyTold(f"trial {i} was ranked and has no value; {_ADD_IT}")
            constraints = self._ledger.constraints_of(i)
            had = f"{self._ledger.values_of(i)}{f' and constraints {constraints}' if constraints else ''}"
            if not {"values", "constraints"} & set(differing):
                had += f", and the {' and '.join(differing)} told now differ from what is kept"
            raise AlreadyTold(
                f"trial {i} is complete with {had}; use study.amend({i}, ...) to correct it, or study.add(params, value) to record "
                "another evaluation of its point."
            )
        if state is TrialState.FAILED:
            raise AlreadyTold(f"trial {i} is failed; use study.amend({i}, ...) if this result should count.")
        raise AlreadyTold(f"trial {i} is {state.name.lower()}; {_ADD_IT}")

    def _check_constraints(self, constraints: Array | None, complete: Any = True) -> None:
        """Refuse complete rows without their constraints."""
        if self.task.constraints and np.any(complete) and (constraints is None or np.isnan(constraints).any()):
            raise FeedbackError(f"tell the constraints too: this study names {', '.join(self.task.constraints)} (c <= 0 is feasible).")

    @_recorded
    def fail(self, trials: Trials, reason: str | BaseException = "") -> None:
        """Record that evaluations failed. A failure is an answer: the strategy learns from it.

        Args:
            trials: A trial, a batch, an id or ids.
            reason: Why, for people: a text, or the exception.

        Raises:
            UnknownId: An id this study never gave out.
            AlreadyTold: One is finished otherwise; nothing is recorded.
        """
        why = f"{type(reason).__name__}: {reason}" if isinstance(reason, BaseException) else str(reason)
        ids = self._still_pending(self._ids(trials), TrialState.FAILED)
        if len(ids):
            self._finish("failed", ids, TrialState.FAILED, {"reasons": [why] * len(ids)})

    @_recorded
    def drop(self, trials: Trials) -> None:
        """Give trials up: they will never be told, and say nothing about their points.

        Raises:
            UnknownId: An id this study never gave out.
            AlreadyTold: One is finished; nothing is recorded.
        """
        ids = self._still_pending(self._ids(trials), TrialState.DROPPED)
        if len(ids):
            self._finish("dropped", ids, TrialState.DROPPED, None)

    def _finish(self, kind: str, ids: Array, state: TrialState, note: dict[str, Any] | None) -> None:
        self._learn(self._observe(ids, None, failed=True, dropped=() if kind == "failed" else tuple(ids.tolist())))
        reasons = zip(ids.tolist(), (note or {}).get("reasons", ()), strict=False)
        self._commit([Entry(kind, ids, {}, note=note)], lambda: self._ledger.errors.update(reasons))
        self._ledger.close(ids, state)
        self._notify(kind, ids)

    def _still_pending(self, ids: Array, wanted: TrialState) -> Array:
        """The pending ones among ids; finished ones must already be in the wanted state (a repeated call)."""
        ids = np.unique(ids)
        pending = self._ledger.pending_mask(ids)
        for i in ids[~pending].tolist():
            state = self._ledger.state_of(i)
            if self._ledger.table is None:
                raise AlreadyTold(f"trial {i} is already finished.")
            if state is not wanted:
                raise AlreadyTold(f"trial {i} is already {state.name.lower()} and cannot be {wanted.name.lower()}.")
        return ids[pending]

    @overload
    def add(
        self,
        params: Mapping[str, Any],
        values: Any,
        *,
        constraints: Any = None,
        noise: Any = None,
        gradients: Any = None,
        metrics: Mapping[str, Any] | None = None,
    ) -> Trial: ...
    @overload
    def add(
        self,
        params: Sequence[Mapping[str, Any]],
        values: Any,
        *,
        constraints: Any = None,
        noise: Any = None,
        gradients: Any = None,
        metrics: Mapping[str, Any] | None = None,
    ) -> Batch: ...
    def add(
        self,
        params: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        values: Any,
        *,
        constraints: Any = None,
        noise: Any = None,
        gradients: Any = None,
        metrics: Mapping[str, Any] | None = None,
    ) -> Trial | Batch:
        """Record results for points this study never proposed (a warm start, an import).

        They count as trials. A strategy with a model learns from them at any time; one that works in generations starts from what is
        added before the first ask, and learns nothing from what is added later (its page says so).

        Args:
            params: One params dict, or several.
            values: As for ``tell``, all objectives and finite.
            constraints: As for ``tell``.
            noise: As for ``tell``.
            gradients: As for ``tell``.
            metrics: As for ``tell``.

        Returns:
            The new trial, or a batch for several.

        Raises:
            SpaceError: Parameters that are not a point of the space; nothing is recorded.
            FeedbackError: Results that do not fit; nothing is recorded.
        """
        return self._add(params, values, constraints, noise, gradients, metrics)

    @_recorded
    def _add(
        self,
        params: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        values: Any,
        constraints: Any,
        noise: Any,
        gradients: Any,
        metrics: Mapping[str, Any] | None,
    ) -> Trial | Batch:
        x = self._encoded(params)
        rows = Rows(self.task, len(x), values, constraints, noise, gradients, metrics)
        if rows.bad().any() or np.isnan(rows.values).any():
            raise FeedbackError("add() needs a finite value for every objective (and constraint); a failed point need not be added.")
        self._check_constraints(rows.constraints, len(x))
        first = self._ledger.next
        ids = np.arange(first, first + len(x))
        if len(x):
            slopes = None if rows.gradients is None else dict(zip(ids.tolist(), rows.gradients, strict=True))
            self._learn(self._observe(ids, rows.values, rows.constraints, rows.noise, x=x, gradients=slopes))
            entry = Entry("added", ids, {"x": x, **rows.fields(slice(None))}, note=rows.note(ids, slice(None)))
            self._commit([entry], lambda: self._ledger.add_complete(x, rows))
            self._notify("added", ids)
        return Trial(self, first, x[0]) if isinstance(params, Mapping) else Batch(self, ids, x)

    @_correcting
    def amend(
        self,
        trials: Trials,
        values: Any,
        *,
        constraints: Any = None,
        noise: Any = None,
        gradients: Any = None,
        metrics: Mapping[str, Any] | None = None,
        at: Any = None,
    ) -> None:
        """Correct the result of finished trials; recorded, and the strategy's state is rebuilt from the record.

        What was proposed since stays as it is, and so does what is left out.

        Args:
            trials: A complete trial, or one that failed and should count after all; or several.
            values: The corrected values, as for ``tell``.
            constraints: As for ``tell``.
            noise: As for ``tell``.
            gradients: As for ``tell``.
            metrics: As for ``tell``; others of the trial stay.
            at: As for ``tell``.

        Raises:
            UnknownId: An id this study never gave out.
            FeedbackError: A trial that is pending, dropped or lost, a number that is not finite, or a study that keeps no record;
                nothing is recorded.
        """
        self._need_history("amend")
        ids = self._ids(trials)
        reached = None if at is None else self._reached(ids, at)
        rows = Rows(self.task, len(ids), values, constraints, noise, gradients, metrics, reached)
        if len(set(ids.tolist())) < len(ids):
            raise FeedbackError(f"amend() was given a trial twice: {ids.tolist()}.")
        if rows.bad().any():
            raise FeedbackError("amend() needs finite numbers; a trial that has a result cannot be made one that failed.")
        ledger = self._ledger
        states = [ledger.state_of(i) for i in ids.tolist()]
        table = ledger.table
        if table is None or len(ids) == 0:
            return
        constrained = "constraints" in table
        for k, (i, state) in enumerate(zip(ids.tolist(), states, strict=True)):
            if state not in (TrialState.COMPLETE, TrialState.FAILED):
                raise FeedbackError(f"trial {i} is {state.name.lower()}; only a complete or failed trial can be amended.")
            if state is TrialState.COMPLETE and np.isnan(table.row("values", i)).all():
                raise FeedbackError(f"trial {i} was ranked and has no value to correct; {_ADD_IT}")
            rows.fill("values", k, table.row("values", i))
            if constrained:
                rows.fill("constraints", k, table.row("constraints", i))
            if rows.noise is not None and "noise" in table:
                rows.fill("noise", k, table.row("noise", i))
            if rows.gradients is not None and i in ledger.gradients:
                rows.fill("gradients", k, ledger.gradients[i])
            if np.isnan(rows.values[k]).any() or (constrained and (rows.constraints is None or np.isnan(rows.constraints[k]).any())):
                raise FeedbackError(f"trial {i} failed, so amend() needs all objectives{' and constraints' if constrained else ''} of it.")
        self._commit([Entry("amended", ids, rows.fields(slice(None)), note=rows.note(ids, slice(None)))], snapshot=False)
        if self._order is not None:
            self._order.held = None  # it has learned what was not so
            ledger.amend(ids, rows)
        self._rebuild()
        self._notify("amended", ids)

    # ------------------------------------------------------------------ rankings

    @_recorded
    def rank(self, order: Sequence[Any] | Trial | int, rest: Literal["worse", "unseen"] = "worse", rater: str | None = None) -> int:
        """Record an order of candidates, best first; an inner list is a tie.

        Args:
            order: Trials or ids, best first; or a single one, which is better than the rest.
            rest: What the pending others of the same batches are: ``"worse"`` than all of these, or ``"unseen"``, and
                then they stay pending.
            rater: Who ranked.

        Returns:
            The ranking's id, for `withdraw`.

        Raises:
            UnknownId: An id this study never gave out.
            FeedbackError: A trial twice, one that failed or was given up, or a strategy that learns from values only; nothing is recorded.
        """
        if rest not in ("worse", "unseen"):
            raise FeedbackError(f"rest must be 'worse' or 'unseen'; got {rest!r}.")
        ledger = self._ledger
        listing = order if isinstance(order, Iterable) else (order,)
        tiers = [tuple(ids) for tier in listing if (ids := self._ids(tier).tolist())]
        listed = {i for tier in tiers for i in tier}
        if not tiers or sum(map(len, tiers)) > len(listed):
            raise FeedbackError(f"rank() needs at least one trial, and each once; got {tiers}.")
        batches = {batch.start: batch for i in sorted(listed) if (batch := ledger.pending_batch(i)) is not None}
        others = [i for batch in batches.values() for i in (batch.start + batch.pending_rows()).tolist() if i not in listed]
        if others and rest == "worse":
            tiers.append(tuple(others))
            listed.update(others)
        ids = np.array(sorted(listed))
        for i in ids.tolist():
            if (state := ledger.state_of(i)) not in (TrialState.PENDING, TrialState.COMPLETE):
                raise FeedbackError(f"trial {i} is {state.name.lower()} and cannot be ranked.")
            if ledger.point_of(i) is None:
                raise FeedbackError(f"trial {i} cannot be ranked any more: history={self.history_mode!r} does not keep its point.")
        if self.task.feedback != "ranking" and self.strategy.capabilities.feedback == "values":
            raise FeedbackError(
                f"{recipe_config(self.strategy)['name']} learns from values only; make the study with feedback='ranking' "
                "to have strategies named that learn from rankings."
            )
        ranking = Ranking(tuple(tiers), tuple(others) if rest == "unseen" else (), None if rater is None else str(rater))
        number = ledger.next_ranking
        self._learn(self._observe(ids, None, rankings=(ranking,)))
        note = {"id": number, "tiers": [list(t) for t in ranking.tiers], "unseen": list(ranking.unseen), "rater": ranking.rater}
        self._commit([Entry("ranked", ids, {}, note=note)], lambda: ledger.keep_ranking(number, ranking))
        ledger.next_ranking = number + 1
        ledger.close(ids[ledger.pending_mask(ids)], TrialState.COMPLETE)
        self._notify("ranked", ids)
        return number

    @_correcting
    def withdraw(self, ranking: int) -> None:
        """Take a ranking back; recorded, and the strategy's state is rebuilt as if it had never been given.

        Trials that nothing else was told about are pending again.

        Raises:
            FeedbackError: There is no such ranking, or the study keeps no record.
        """
        self._need_history("withdraw")
        ledger = self._ledger
        if ranking not in ledger.rankings or ranking in ledger.withdrawn:
            raise FeedbackError(f"there is no ranking {ranking!r} to withdraw.")
        self._commit([Entry("withdrawn", _NO_IDS, {}, note={"ranking": ranking})], snapshot=False)
        if self._order is not None:
            self._order.held = None
            ledger.withdrawn.add(ranking)
        self._rebuild()
        self._notify("withdrawn", np.array(self._ledger.rankings[ranking].ids))

    # ------------------------------------------------------------------ running trials

    @_recorded
    def report(self, trial: Trial | int, step: float, value: float) -> None:
        """Keep an intermediate value of a running trial; also renews the lease of its evaluation.

        Raises:
            UnknownId: This study never gave out that trial.
            FeedbackError: The trial is finished, or step and value are no numbers; nothing is recorded.
        """
        i = self._one(trial)
        if self._ledger.pending_batch(i) is None:
            raise FeedbackError(f"trial {i} is not running; intermediate values belong to pending trials.")
        try:
            step, value = float(step), float(value)
        except (TypeError, ValueError):
            raise FeedbackError(f"step and value must be numbers; got {step!r} and {value!r}.") from None
        self._commit([Entry("reported", np.array([i]), {"step": np.array([step]), "value": np.array([value])})], sync=False)
        self._ledger.reports.setdefault(i, []).append((step, value))
        if self._curves is not None:
            self._curves.running.add(i)
        if self._leases is not None:
            self._leases.renew(i)
        self._notify("reported", np.array([i]))

    def reports(self, trial: Trial | int) -> list[tuple[float, float]]:
        """Intermediate ``(step, value)`` pairs of a trial, in the order reported; of finished ones ``history="all"`` keeps them.

        Raises:
            UnknownId: This study never gave out that trial.
        """
        with self._lock:
            return list(self._ledger.reports.get(self._one(trial), ()))

    def should_stop(self, trial: Trial | int) -> bool:
        """Whether a running trial is worse than the median of what finished trials had at its latest step.

        False for a trial that is not running.

        Raises:
            UnknownId: This study never gave out that trial.
            FeedbackError: The study has several objectives, or does not keep what finished trials reported.
        """
        with self._lock:
            i = self._one(trial)
            if self._m > 1:
                raise FeedbackError(
                    "should_stop() compares the one value that a trial reports, and this study has several objectives; "
                    "decide by study.reports(trial)."
                )
            if self.history_mode != "all":
                raise FeedbackError(
                    f"should_stop() compares with what finished trials reported, which history={self.history_mode!r} does not keep."
                )
            ledger = self._ledger
            if self._curves is None:
                self._curves = Curves(self._sign)
                self._curves.running.update(ledger.reports)
            for j in [j for j in self._curves.running if ledger.pending_batch(j) is None]:
                self._curves.running.remove(j)
                if ledger.state_of(j) is TrialState.COMPLETE:
                    self._curves.add(ledger.reports[j])
            return ledger.pending_batch(i) is not None and self._curves.below_median(ledger.reports.get(i, ()))

    def _lease(self, ids: Iterable[int], seconds: float) -> None:
        if self._leases is None:
            self._leases = Leases()
        self._leases.grant(ids, seconds)

    def _hand_out_again(self, n: int, lease: float | None) -> Batch | None:
        """Pending trials whose evaluation lease ran out, one more attempt each; None where there are none."""
        pending = self._ledger.pending_batch
        ids: list[int] = []
        while self._leases is not None and len(ids) < n:
            due = self._leases.take_due(n - len(ids), lambda i: pending(i) is not None)
            if not due:
                break
            ids += [i for i in due if self._retry(i)]
        if not ids:
            return None
        if lease is not None:
            self._lease(ids, lease)
        ids.sort()
        self._notify("retried", np.array(ids))
        return self._batch(np.array(ids))

    def _batch(self, ids: Array) -> Batch:
        """Trials whose points are kept, as a batch."""
        points = [point for i in ids.tolist() if (point := self._ledger.point_of(i)) is not None]
        return Batch(self, ids, np.stack(points) if points else np.empty((0, self.space.dim)))

    def _retry(self, i: int) -> bool:
        """Count one more attempt of a pending trial; False when that was one too many and it is lost."""
        batch = self._ledger.pending_batch(i)
        if batch is None:
            return False
        if (batch.attempts or {}).get(i, 1) >= MAX_ATTEMPTS:
            self._finish("lost", np.array([i]), TrialState.LOST, None)
            return False
        self._commit([Entry("retried", np.array([i]), {})], sync=False)
        self._ledger.count_attempt(i, 1)
        return True

    @_recorded
    def retry(self, trials: Trials) -> Batch:
        """Count one more attempt for pending trials whose evaluation vanished; those past the last attempt become lost.

        Returns:
            The trials to evaluate again.

        Raises:
            UnknownId: An id this study never gave out.
        """
        wanted = self._ids(trials).tolist()
        for i in wanted:
            self._ledger.check_id(i)
        ids = np.array([i for i in wanted if self._retry(i)], dtype=np.int64)
        if len(ids):
            self._notify("retried", ids)
        return self._batch(ids)

    def _stopped(self, ids: list[int]) -> None:
        """Evaluations that were stopped (by Ctrl-C, an error, a rule): their attempt does not count."""
        with self._lock:
            ids = sorted(i for i in ids if self._ledger.pending_batch(i) is not None)
            if self._closed or not ids:
                return
            self._commit([Entry("interrupted", np.array(ids), {})], sync=False, snapshot=False)
            for i in ids:
                self._ledger.count_attempt(i, -1)

    def _end(self, reason: Reason | None) -> None:
        """Keep why a run ended: what it says, or the rule that holds."""
        reason = reason or self.stop.reason(self) or self._strategy_reason()
        self._ended = None if reason is None else (reason, self._ledger.next)

    # ------------------------------------------------------------------ learning and recording

    def _learn(self, observations: Observations) -> None:
        """One call of the strategy's tell."""
        try:
            self._engine.tell(observations)
        except Exception as error:
            raise self._strategy_failed("tell", error) from error

    def _observe(
        self, ids: Array, values: Array | None, constraints: Array | None = None, noise: Array | None = None, **told: Any
    ) -> Observations:
        """Results as the strategy sees them; see ``Engine.observe``."""
        return self._engine.observe(self._ledger, ids, values, constraints, noise, **told)

    def _commit(self, entries: list[Entry], store: Callable[[], object] | None = None, *, sync: bool = True, snapshot: bool = True) -> None:
        """Record what happened. Nothing is acknowledged before this returns.

        Args:
            entries: What happened.
            store: Puts what was told into the ledger: after a journal has it, since what is not recorded must not be seen; before the
                order of a study in memory names it, since after an interrupt the study is rebuilt from the two.
            sync: Whether a journal must be on the disk.
            snapshot: Whether a journal may take the strategy's state along.
        """
        log = self._log
        if log is None:
            if store is not None:
                store()
            if self._order is not None:
                for entry in entries:
                    self._order.append(entry)
            return
        try:
            write(log, entries, sync=sync, snapshot=self._due_snapshot() if snapshot else None)
        except LeaseLost:
            self._closed, self._ready = True, False
            raise
        except Exception:
            self._ready = False
            raise
        if store is not None:
            store()

    def _due_snapshot(self) -> bytes | None:
        """What a journal takes along of the strategy's state; where it cannot be saved the record has to do."""
        try:
            return self._engine.due_snapshot()
        except ConfigError as error:
            if not self._unsaved:
                self._unsaved = True
                warnings.warn(
                    f"the state of {type(self.strategy).__name__} cannot be saved ({str(error).rstrip('.')}); opening study {self.name!r} "
                    "again will make every call of the strategy again, which may take long.",
                    JournalWarning,
                    stacklevel=2,
                )
            return None

    def _hold_state(self) -> None:
        """Keep the state of a study in memory now and then, so that going back to its record does not make every proposal again."""
        order = self._order
        try:
            data = self._engine.due_snapshot(_HELD_RATIO)
        except ConfigError:  # a state that cannot be saved is rebuilt from the first call
            return
        if order is not None and data is not None:
            order.held = Held(order.mark(), data, self._ledger.open_now())

    def _strategy_failed(self, method: str, error: Exception) -> StrategyError:
        """What to say when a strategy raised or gave what it must not; the next call goes back to the record first."""
        name = f"{type(self.strategy).__name__}.{method}()"
        what = str(error) if type(error) is StrategyError else f"{name} raised {type(error).__name__}: {error}"
        what = f"{what.rstrip('.')}. This call was not recorded;"
        if self._log is None and self._order is None:
            self._closed, self._ready = True, False
            return StrategyError(
                f"{what} with history={self.history_mode!r} there is no record to go on from, so the study is closed. "
                "Its best trial can still be read."
            )
        self._ready = False
        return StrategyError(f"{what} the next one goes on from the study's record.")

    def _interrupted(self, error: BaseException) -> None:
        """After Ctrl-C in the middle of a call nothing is certain; the next call goes back to the record first."""
        if not isinstance(error, Exception):
            self._ready = False

    def _recover(self) -> None:
        """Rebuild everything from the record: after a call that may have left the state half changed, or when the record was amended.

        Should that fail, the next call tries again first, and what is known can be read until then. Without a record all
        there is goes on as it is.
        """
        from zoopt.restore import load, rebuild

        self._ready = False
        self._curves = None
        if self._log is not None:
            known = self._ledger, self._engine
            try:
                load(self, self._log)
            except BaseException:
                self._ledger, self._engine = known
                raise
        elif self._order is not None:
            rebuild(self)
        self._ready = True

    def _rebuild(self) -> None:
        """Rebuild everything from a record that was corrected, and save what came out: the snapshots before hold no longer."""
        self._recover()
        if self._log is not None and (data := self._due_snapshot()) is not None:
            try:
                self._log.save(data)
            except JournalError as error:  # the correction is recorded; the next opening rebuilds once more
                _log.warning("the state of study %r was not saved: %s", self.name, error)

    def _need_history(self, method: str) -> None:
        if self._log is None and self._order is None and self._ledger.next > 0:
            raise FeedbackError(f"{method}() rebuilds the strategy from the record, which history={self.history_mode!r} does not keep.")

    # ------------------------------------------------------------------ bookkeeping

    def _ids(self, trials: Any) -> Array:
        """Ids of whatever names trials, in the order given."""
        if isinstance(trials, Trial):
            return np.array([self._own(trials)])
        if isinstance(trials, Batch):
            if trials._study is not self:
                raise UnknownId("this batch belongs to another study.")
            return trials.ids
        try:
            if isinstance(trials, int | np.integer):
                return np.array([operator.index(trials)], dtype=np.int64)
            trials = list(trials)
            return np.array([self._own(trial) if isinstance(trial, Trial) else operator.index(trial) for trial in trials], dtype=np.int64)
        except (TypeError, OverflowError):
            raise FeedbackError(f"expected a trial, a batch, an id or a sequence of these; got {trials!r}.") from None

    def _own(self, trial: Trial) -> int:
        """The id of a trial of this study."""
        if trial._study is not self:
            raise UnknownId(f"{trial!r} belongs to another study.")
        if trial.id < 0:
            raise UnknownId("a recommended point is no trial: study.add(params, value) records a result for it.")
        return trial.id

    def _encoded(self, params: Any) -> Array:
        """Encoded points of one params dict or several, ``(n, d)``."""
        if not isinstance(params, Iterable):
            raise SpaceError(f"params must be a dict of values by name, or several of them; got {params!r}.")
        return self.space.encode_params([params] if isinstance(params, Mapping) else list(params))

    def _one(self, trial: Any) -> int:
        """The id of a single trial, which this study gave out."""
        ids = self._ids(trial)
        if len(ids) != 1:
            raise FeedbackError(f"one trial is wanted here; got {len(ids)}.")
        self._ledger.check_id(int(ids[0]))
        return int(ids[0])

    def _trial(self, i: int) -> Trial | None:
        point = self._ledger.point_of(i)
        return None if point is None else Trial(self, i, point)

    def _notify(self, kind: str, ids: Array) -> None:
        for callback in tuple(self.callbacks):  # which may change the list
            callback(self, StudyEvent(kind, ids))

    def _check_open(self) -> None:
        if self._ready:
            return
        if self._closed:
            raise FeedbackError(f"study {self.name!r} is closed; open it again to go on.")
        self._recover()

    @property
    def _state(self) -> Any:
        """The strategy's state, to read."""
        if not self._ready and not self._closed:
            self._recover()
        return self._engine.state

    # ------------------------------------------------------------------ reading

    @property
    def evaluations(self) -> int:
        """Trials that are complete, failed or lost: the study's total, over its whole life."""
        with self._lock:
            return self._ledger.evaluations

    @property
    def cost(self) -> float:
        """What the evaluations that are finished cost, by the fidelities of the space; their number where it has none.

        Raises:
            FeedbackError: ``history=`` does not keep the points, and the space has fidelities.
        """
        with self._lock:
            if not self.space.fidelities:
                return float(self._ledger.evaluations)
            table = self._need_table("cost")
            done = np.isin(table.column("state"), (TrialState.COMPLETE, TrialState.FAILED, TrialState.LOST))
            x = table.column("x").copy() if self._ledger.settings else table.column("x")
            for i, reached in self._ledger.settings.items():
                x[i] = reached
            costs = self.space.cost(x[done])
            return float(costs[np.isfinite(costs)].sum())  # what is never asked was there already

    @property
    def failures(self) -> int:
        """Trials that failed or were lost."""
        with self._lock:
            return self._ledger.counts[TrialState.FAILED] + self._ledger.counts[TrialState.LOST]

    @property
    def seconds(self) -> float:
        """Seconds since this study was made or reopened."""
        return time.monotonic() - self._began

    @property
    def best(self) -> Trial | None:
        """The best complete trial (feasible ones first), or None.

        Fidelities are at their targets. Where only rankings were told, or the space has an environment, over which single values say
        little, it is the recommended point, without a value.

        Raises:
            FeedbackError: The study has several objectives; ``study.front`` has the best trade-offs.
        """
        with self._lock:
            if self._m > 1:
                raise FeedbackError("a study of several objectives has no single best trial; read study.front.")
            if self._ledger.best_id >= 0 and self._ledger.best_x is not None:
                return Trial(self, self._ledger.best_id, self._ledger.best_x)
            told = self._ledger.next_ranking > len(self._ledger.withdrawn) or (self.space.environment and self._ledger.counts[1])
            return self.recommended if told else None

    @property
    def recommended(self) -> Trial | None:
        """What the method itself would pick (posterior mean, consensus point, people's favourite); else the best trial."""
        with self._lock:
            x = self.strategy.recommend(self.task, self._state)
            if x is None:
                best = self._ledger
                return Trial(self, best.best_id, best.best_x) if best.best_id >= 0 and best.best_x is not None else None
            row = x.detach().cpu().to(torch.float64).reshape(1, -1)
            return Trial(self, -1, self.space.repair(row, self._engine.random().child("recommended"))[0].numpy())

    @property
    def front(self) -> list[Trial]:
        """Complete, feasible trials that no other dominates, by id: the Pareto front."""
        with self._lock:
            table = self._need_table("front")
            values = table.column("values") * self.signs
            rows = np.nonzero((table.column("state") == TrialState.COMPLETE) & ~np.isnan(values).any(1))[0]
            if "constraints" in table:
                rows = rows[(table.get("constraints", rows) <= 0).all(1)]
            rows = rows[self._ledger.comparable(rows)]
            return [t for i in rows[pareto_rows(values[rows])].tolist() if (t := self._trial(i)) is not None]

    @property
    def last_failure(self) -> Trial | None:
        """The trial that failed last; None where none did, or where ``history=`` does not keep its point."""
        with self._lock:
            return None if (i := next(reversed(self._ledger.errors), None)) is None else self._trial(i)

    @property
    def pending(self) -> list[Trial]:
        """Trials that are out, by id."""
        with self._lock:
            return [
                Trial(self, o.start + int(r), o.x[r])
                for o in sorted(self._ledger.open.values(), key=lambda o: o.start)
                for r in o.pending_rows()
            ]

    @property
    def rankings(self) -> dict[int, Ranking]:
        """Rankings by id, without those withdrawn; ``history="all"`` keeps them."""
        with self._lock:
            return {i: r for i, r in self._ledger.rankings.items() if i not in self._ledger.withdrawn}

    def trial(self, i: int) -> Trial:
        """A trial by id.

        Raises:
            UnknownId: This study never gave it out.
            FeedbackError: Its point is not kept.
        """
        with self._lock:
            self._ledger.state_of(i)
            trial = self._trial(i)
            if trial is None:
                raise FeedbackError(f"history={self.history_mode!r} does not keep the point of trial {i}.")
            return trial

    def trials(self, ids: Trials) -> Batch:
        """Some trials by id; raises as `trial`."""
        with self._lock:
            wanted = self._ids(ids)
            points = [self.trial(i)._x for i in wanted.tolist()]
            return Batch(self, wanted, np.stack(points) if points else np.empty((0, self.space.dim)))

    def history(self) -> History:
        """All trials by column, see ``History``; ``.frame()`` makes a pandas data frame."""
        with self._lock:
            return History.of(self, self._need_table("history()"))

    def _need_table(self, what: str) -> Table:
        table = self._ledger.table
        if table is None or "x" not in table:
            raise FeedbackError(f"{what} needs history='all'; this study keeps history={self.history_mode!r}.")
        return table

    @property
    def status(self) -> Status:
        """Counts, and whether a stopping rule holds and why; after ``run``, why that ended."""
        with self._lock:
            reason = self.stop.reason(self) or self._strategy_reason()
            if reason is None and self._ended is not None and self._ended[1] == self._ledger.next:
                reason = self._ended[0]
            c = self._ledger.counts
            return Status(
                reason is not None,
                None if reason is None else reason.name,
                "running" if reason is None else reason.detail,
                self.evaluations,
                c[TrialState.COMPLETE],
                c[TrialState.FAILED],
                c[TrialState.DROPPED],
                c[TrialState.LOST],
                c[TrialState.PENDING],
            )

    def _strategy_reason(self) -> Reason | None:
        done = self.strategy.done(self.task, self._state)
        return Reason("converged", f"{type(self.strategy).__name__} has converged") if done is not None and bool(done.all()) else None

    @property
    def diagnosis(self) -> Diagnosis | None:
        """A look inside the strategy's model: slices, left-out predictions, importance, seconds; None where there is none to show.

        ``study.diagnosis.save("model.html")`` draws it.
        """
        with self._lock:
            return self.strategy.diagnose(self.task, self._state)

    @property
    def info(self) -> dict[str, float | str]:
        """The strategy's diagnostics (step size, acceptance, model fit)."""
        with self._lock:
            return self.strategy.info(self.task, self._state)

    def predict(self, params: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> tuple[Array, Array] | None:
        """The strategy's model at some points: mean and standard deviation ``(n, m)``, in the user's direction; None: no model."""
        with self._lock:
            points = self._encoded(params)
            x = torch.from_numpy(points).to(self.task.device, self.task.dtype)
            found = self.strategy.predict(self.task, self._state, x)
            return None if found is None else (found[0].cpu().numpy() * self.signs, found[1].cpu().numpy())

    # ------------------------------------------------------------------ running

    def run(
        self,
        objective: Any,
        evaluations: int | None = None,
        parallel: int = 1,
        *,
        timeout: float | str | None = None,
        max_failures: int | None = None,
        executor: Executor | None = None,
        stop: Rule | Iterable[Rule] = (),
        callbacks: Callback | Iterable[Callback] = (),
    ) -> Self:
        """Let zoopt drive: ask, evaluate, tell, until a stopping rule holds; ``status`` says which.

        Trials left pending (by a run that was killed, say) are evaluated again first. After Ctrl-C what is out stays
        pending and ``KeyboardInterrupt`` is raised; a second ``run`` goes on.

        Args:
            objective: A function of one trial (called as ``f(**params)`` in spawned worker processes), a
                ``Batched`` function, a ``Command``, a problem, or any evaluator.
            evaluations: The study's total, including what is done already.
            parallel: How many evaluations are out at once (for a batched objective: the size of a batch).
            timeout: Seconds (or "10m") after which one evaluation is killed and counts as failed.
            max_failures: Stop with an error once this many evaluations of the study have failed.
            executor: A ``concurrent.futures.Executor`` that runs a plain function.
            stop: Further stopping rules, for this run; their ``Time`` counts from its beginning.
            callbacks: Further callbacks, for this run.

        Returns:
            This study.

        Raises:
            ObjectiveError: ``max_failures`` evaluations have failed.
            ConfigError: The objective is none, or an argument has a value that it cannot have.
        """
        from zoopt.drive import drive

        drive(
            self,
            objective,
            evaluations=evaluations,
            parallel=parallel,
            timeout=timeout,
            max_failures=max_failures,
            executor=executor,
            stop=stop,
            callbacks=callbacks,
        )
        return self

    def close(self) -> None:
        """Give the journal's lease back. What was acknowledged is recorded already."""
        with self._lock:
            if self._log is not None and not self._closed:
                self._log.close()
                self._log.journal.close()
            self._closed, self._ready = True, False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        s = self._ledger.counts
        return f"Study({self.name!r}, {recipe_config(self.strategy)['name']}, {self.evaluations} evaluations, {s[0]} pending)"


_ROW = (1 << CHUNK_BITS) - 1
_NO_IDS: Array = np.empty(0, dtype=np.int64)
_NUMBERS = (float, int, np.float64)
_HUGE = 1e308  # NaN, infinities and integers that are no float go the long way
_ADD_IT = "record this result with study.add(params, value) if it should count."
