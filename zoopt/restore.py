"""A study from its record: everything that was told, and the strategy's state by snapshot and replay.

Bookkeeping is restored in bulk, layout by layout. Only the strategy calls after the last snapshot are made again, in order;
if a replayed ask comes out differently (another library version, another machine), the record wins.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import MAGIC_NUMBER
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from zoopt.engine import padded
from zoopt.errors import ConfigError, Exhausted, JournalError, NotReady, StrategyError, StudyMismatch, ZooptError
from zoopt.feedback import Column, Ranking
from zoopt.journal import Event, Events, Journal, StudyLog, decode
from zoopt.ledger import NEVER, point_key
from zoopt.record import STRATEGY_KINDS, EngineState, Entry, OrderLog, fingerprint, recipe_config, same
from zoopt.state import from_bytes
from zoopt.strategy import Request
from zoopt.trials import TrialState

if TYPE_CHECKING:
    from zoopt.study import Study

Array = np.ndarray[Any, Any]
_log = logging.getLogger("zoopt.journal")

_FINAL = {"failed": TrialState.FAILED, "dropped": TrialState.DROPPED, "lost": TrialState.LOST}
_REBUILT = ("amended", "withdrawn")  # events after which older snapshots no longer hold


class ReplayWarning(UserWarning):
    """A replayed proposal came out differently from the recorded one; the record was followed."""


def study_config(study: Study) -> dict[str, Any]:
    """What a journal keeps of how a study was made, as JSON."""
    return {
        "space": study.space.to_config(),
        "known_constraints": [constraint_text(c) for c in study.space.constraints],
        "predicates": [fingerprint(getattr(c, "function", None)) for c in study.space.constraints],
        "python": MAGIC_NUMBER.hex(),
        "objectives": study.directions,
        "constraints": list(study.task.constraints),
        "feedback": study.task.feedback,
        "deterministic": study.task.deterministic,
        "seed": study.seed,
        "strategy": recipe_config(study.strategy),
        "dtype": str(study.task.dtype).removeprefix("torch."),
    }


def constraint_text(constraint: Any) -> str:
    """A known constraint as people read it; a Python predicate by its name."""
    text = getattr(constraint, "text", None)
    return str(text) if text is not None else str(constraint)


def open_study(study: Study, journal: Journal, *, seed_given: bool, resume: Literal["same", "data"]) -> StudyLog:
    """Begin a study in a journal, or go on with the one recorded there.

    Raises:
        StudyMismatch: It was recorded with another space, other objectives or another strategy; nothing is changed.
        StudyLocked: Another process drives it.
    """
    try:
        if resume not in ("same", "data"):
            raise ConfigError(f"resume must be 'same' or 'data'; got {resume!r}.")
        config = study_config(study)
        log = journal.study(study.name, create=config)
        log.acquire()
        _begin_or_go_on(study, log, config, seed_given, resume)
    except BaseException:
        study._log = None
        journal.close()
        raise
    return log


def _begin_or_go_on(study: Study, log: StudyLog, config: dict[str, Any], seed_given: bool, resume: str) -> None:
    events = log.events()
    began = events.of("began")
    if not began:
        log.set_config(config)
        log.append("began", note={"config": config})
        study._log = log
        study._engine.begin()
        return
    recorded = (began[-1].note or {})["config"]  # log.config is for readers, and one event behind after a death between the two
    _compare(study, recorded, config, seed_given, resume)
    study._engine.seed = recorded["seed"]
    if not same(recorded["strategy"], config["strategy"]):
        recorded = {**recorded, "strategy": config["strategy"]}
        log.append("began", note={"config": recorded})
        events = log.events()
    if not same(recorded, log.config):
        log.set_config(recorded)
    study._log = log
    load(study, log, events)


def _compare(study: Study, recorded: dict[str, Any], config: dict[str, Any], seed_given: bool, resume: str) -> None:
    """Refuse a study whose record cannot be continued, with the difference."""
    name = study.name
    constraints = _constraint_difference(recorded, config)
    if not same(recorded["space"], config["space"]) or constraints:
        from zoopt.space import Space

        differences = Space.from_config(recorded["space"]).difference(Space.from_config(config["space"])) + constraints
        raise StudyMismatch(
            f"study {name!r} was recorded with another space: {'; '.join(text.rstrip('.') for text in differences)}. "
            "Use the recorded space, or another study name for the new one."
        )
    for key in ("objectives", "constraints", "feedback", "deterministic", "dtype"):
        if not same(recorded[key], config[key]):
            raise StudyMismatch(
                f"study {name!r} was recorded with {key} = {recorded[key]!r}, now {config[key]!r}. "
                "Use the recorded setting, or another study name."
            )
    if seed_given and recorded["seed"] != config["seed"]:
        raise StudyMismatch(
            f"study {name!r} was recorded with seed {recorded['seed']}, now {config['seed']}. "
            "Leave the seed out to go on, or use another study name."
        )
    if not same(recorded["strategy"], config["strategy"]) and resume != "data":
        raise StudyMismatch(
            f"study {name!r} was recorded with strategy {_short(recorded['strategy'])}, now {_short(config['strategy'])}. "
            "Use the recorded strategy, or resume='data' to go on with the new one on the data so far."
        )


def _constraint_difference(recorded: dict[str, Any], config: dict[str, Any]) -> list[str]:
    """How the known constraints differ; the code of a Python predicate is compared where the same version of Python compiled it."""
    before, now = recorded["known_constraints"], config["known_constraints"]
    if before != now:
        return [f"known constraints were {before}, now {now}"]
    if recorded.get("python") != config["python"]:
        return []
    changed = [text for text, old, new in zip(now, recorded["predicates"], config["predicates"], strict=True) if old != new]
    return [f"the code of the known constraint {text} has changed" for text in changed]


def _short(strategy: Mapping[str, Any]) -> str:
    inner = ", ".join(f"{k}={v!r}" for k, v in strategy.items() if k != "name")
    return f"{strategy['name']}({inner})"


@dataclass(slots=True)
class _Step:
    """One recorded strategy call: the entry, and for an ask the recorded points."""

    entry: Entry
    x: Array | None = None


def load(study: Study, log: StudyLog, events: Events | None = None) -> None:
    """Restore a study from its journal.

    Args:
        study: What is restored; whatever it held is forgotten.
        log: Its journal.
        events: All its events, where they have been read already.
    """
    if events is None:
        events = log.events()
    found = log.snapshot()
    epochs = [event.seq for event in events.of("began")]
    epoch = epochs[-1] if epochs else -1
    rebuilt = max((event.seq for event in events.of(*_REBUILT)), default=-1)
    valid_from = max(epoch, rebuilt)
    study._reset(study.seed)
    study._engine.epoch = max(len(epochs) - 1, 0)
    engine: EngineState | None = None
    since = epoch
    if found is not None and found[0] >= valid_from:
        engine = _saved(study, found[1])
        since = epoch if engine is None else found[0]
    asked_at, finished_at = _restore_bulk(study, events)
    if engine is not None:
        doubtful = (asked_at > max(epoch, _first_corrected(events, finished_at))) & (asked_at < rebuilt)
        if (doubtful & (finished_at > since)).any():
            # What was recorded beside trials that are out is of a state that has been taken back since.
            engine, since = None, epoch
    _reopen(study, events, asked_at, finished_at, since, epoch)
    with _made_again(study):
        if engine is not None:
            study._engine.go_on(engine)
        else:
            study._engine.begin()
            if study._engine.epoch:
                _tell_data(study, finished_at <= epoch)
        steps = _steps([event for event in events[since + 1 :] if event.kind in STRATEGY_KINDS])
        _replay(study, steps, expect_same=valid_from == epoch)
    _finish(study, events, finished_at)


@contextmanager
def _made_again(study: Study) -> Iterator[None]:
    """Says of an error of the strategy when it came.

    Raises:
        StrategyError: The strategy raised when recorded calls were made again.
    """
    try:
        yield
    except ZooptError:
        raise
    except Exception as error:
        raise StrategyError(
            f"{type(study.strategy).__name__} raised {type(error).__name__}: {error} when the recorded calls of study {study.name!r} "
            "were made again. Its record is complete and was not changed: mend the strategy, or give another one and resume='data'."
        ) from error


def _saved(study: Study, data: bytes) -> EngineState | None:
    """What a snapshot holds; None where this version of the strategy cannot use it and the record has to do."""
    try:
        restored = from_bytes(data, study.task.device)
    except (JournalError, ConfigError) as error:
        _log.warning("the state of study %r is rebuilt from its record, since the one saved cannot be used: %s", study.name, error)
        return None
    return restored if isinstance(restored, EngineState) else None


def read(journal: str | os.PathLike[str] | Journal, name: str = "study") -> Study:
    """A study as recorded at this moment, to look at, also while another process drives it.

    Its trials, best, front and history are there. It is closed: nothing can be asked or told. The strategy's state is not
    rebuilt (that may be minutes of work, and its plug-in need not be installed), so ``recommended`` is the best trial;
    ``Journal.config`` says which strategy it has.

    Args:
        journal: Path or database URL, which is opened with ``read_only=True``; or a journal that is open already.
        name: Name of the study in it.

    Raises:
        JournalError: There is no such journal or study, or it is damaged.
    """
    from zoopt.space import Space
    from zoopt.study import Study

    if not isinstance(journal, Journal):
        with Journal(journal, read_only=True) as opened:
            return read(opened, name)
    log = journal.study(name)
    config = log.config
    study = Study(
        Space.from_config(config["space"]),
        "random",
        objectives=config["objectives"],
        constraints=config["constraints"],
        name=name,
        seed=config["seed"],
        feedback=config["feedback"],
    )
    events = log.events()
    asked_at, finished_at = _restore_bulk(study, events)
    if events:
        _reopen(study, events, asked_at, finished_at, events[-1].seq, -1)
    _finish(study, events, finished_at)
    study.close()
    return study


def _restore_bulk(study: Study, events: Events) -> tuple[Array, Array]:
    """Fill the table from all events; gives the sequence numbers at which each trial was asked and finished."""
    decoded = events.decoded()
    total = 1 + max((int(r["id"].max()) for (kind, _), (r, _) in decoded.items() if kind in ("asked", "added")), default=-1)
    asked_at, finished_at = np.zeros(total, np.int64), np.full(total, NEVER)
    told: list[tuple[Array, Array]] = []
    withdrawn = _withdrawn(events)
    table = study._ledger.table
    assert table is not None
    table.grow(total)
    study._ledger.next = total
    for (kind, _), (records, seqs) in sorted(decoded.items(), key=lambda item: item[1][1][0]):
        ids = records["id"]
        if kind in ("asked", "added"):
            table.set("x", ids, records["x"])
            asked_at[ids] = seqs
            if study.task.deterministic:
                study._ledger.seen.update(map(point_key, records["x"]))
        if kind in ("told", "added"):
            told.append((records, seqs))
            whole = ~np.isnan(records["values"]).any(1)  # otherwise more objectives are awaited
            finished_at[ids[whole]] = seqs[whole]
        if kind in _FINAL:
            table.set("state", ids, np.int8(_FINAL[kind]))
            finished_at[ids] = seqs
        if kind == "ranked":
            new = (finished_at[ids] > seqs) & ~np.isin(seqs, withdrawn)
            np.minimum.at(finished_at, ids[new], seqs[new])  # a trial may be in several
            table.set("state", ids[new], np.int8(TrialState.COMPLETE))
        if kind == "reported":
            for i, step, value in zip(ids.tolist(), records["step"].tolist(), records["value"].tolist(), strict=True):
                study._ledger.reports.setdefault(i, []).append((step, value))
        if kind == "enqueued":
            study._ledger.queue.extend(np.array(records["x"]))
    for results in told, [found for (kind, _), found in decoded.items() if kind == "amended"]:
        if results:
            _restore_told(study, results)
    for (kind, _), (records, _seqs) in decoded.items():
        if kind == "amended":
            table.set("state", records["id"], np.int8(TrialState.COMPLETE))
    _restore_notes(study, events)
    return asked_at, finished_at


def _restore_told(study: Study, told: list[tuple[Array, Array]]) -> None:
    """What was told, from records of one or several layouts with their sequence numbers."""
    ledger, table = study._ledger, study._ledger.table
    assert table is not None

    def column(name: str) -> tuple[Array, Array]:
        """Ids and rows of one field in the order told: of a trial told in pieces the last piece stays."""
        parts = [(records["id"], records[name], seqs) for records, seqs in told if name in (records.dtype.names or ())]
        if len(parts) < 2:
            return parts[0][:2] if parts else (np.empty(0, np.int64), np.empty(0))
        ids, rows, seqs = (np.concatenate(part) for part in zip(*parts, strict=True))
        order = np.argsort(seqs, kind="stable")
        return ids[order], rows[order]

    ids, values = column("values")
    table.set("values", ids, values)
    if "constraints" in table:
        table.set("constraints", *column("constraints"))
    noisy, noise = column("noise")
    if len(noisy):
        ledger.store_noise(noisy, noise)
    for name, store in (("at", ledger.settings), ("gradients", ledger.gradients)):
        own, rows = column(name)
        store.update(zip(own.tolist(), np.array(rows), strict=True))
    values = table.get("values", ids)
    partial = np.isnan(values).any(1)
    pending = table.get("state", ids) == TrialState.PENDING
    table.set("state", ids[~partial & pending], np.int8(TrialState.COMPLETE))
    ledger.partial.update(zip(ids[partial & pending].tolist(), values[partial & pending], strict=True))


def _withdrawn(events: Events) -> list[int]:
    """Sequence numbers of rankings that were taken back."""
    back = {(event.note or {}).get("ranking") for event in events.of("withdrawn")}
    return [event.seq for event in events.of("ranked") if (event.note or {})["id"] in back] if back else []


def _first_corrected(events: Events, finished_at: Array) -> int:
    """Sequence number of the first result that was amended or withdrawn later: what was asked until then came out again as it was."""
    amended = [finished_at[records["id"]].min() for (kind, _), (records, _) in events.decoded().items() if kind == "amended"]
    return int(min([*_withdrawn(events), *amended], default=NEVER))


def _restore_notes(study: Study, events: Events) -> None:
    """What stands beside the numbers: reasons, metrics, rankings, the queue."""
    for at, text in enumerate(events.column("text")):
        if text is None:
            continue
        event = events[at]
        note = event.note or {}
        if event.kind == "failed":
            for i, reason in zip(decode([event])["id"].tolist(), note.get("reasons", ()), strict=False):
                if study._ledger.state_of(i) is TrialState.FAILED:  # not amended since
                    study._ledger.errors[i] = reason
        elif "metrics" in note:
            for i, metrics in note["metrics"].items():
                study._ledger.metrics.setdefault(int(i), {}).update(metrics)
        elif event.kind == "ranked":
            study._ledger.rankings[note["id"]] = Ranking(tuple(map(tuple, note["tiers"])), tuple(note["unseen"]), note["rater"])
            study._ledger.next_ranking = note["id"] + 1
        elif event.kind == "withdrawn":
            study._ledger.withdrawn.add(note["ranking"])
        elif event.kind == "asked" and note.get("enqueued"):
            places = note["enqueued"] if isinstance(note["enqueued"], list) else range(event.rows)  # True: the first ones
            study._ledger.take_queued(places, np.empty((0, study.space.dim)))


def _columns(records: Array) -> dict[str, Column]:
    """The strategy's columns of asked records: floats as tensors, integers as host arrays."""
    columns: dict[str, Column] = {}
    for name in records.dtype.names or ():
        if name not in ("id", "x"):
            column = np.ascontiguousarray(records[name])
            columns[name] = torch.from_numpy(column) if column.dtype.kind == "f" else column
    return columns


def _reopen(study: Study, events: Events, asked_at: Array, finished_at: Array, since: int, epoch: int) -> None:
    """Open the batches that had pending trials when the snapshot was taken, with their columns.

    Trials asked before the epoch lose theirs: what another strategy noted beside its points means nothing to this one.
    """
    out = (asked_at <= since) & (finished_at > since)
    for seq in np.unique(asked_at[out]).tolist():
        event = events[seq]
        records = decode([event])
        first = int(records["id"][0])
        columns = _columns(records) if seq > epoch else {}
        study._ledger.reopen(first, np.array(records["x"]), columns, ~out[first : first + event.rows])


def _steps(events: Iterable[Event]) -> Iterator[_Step]:
    for event in events:
        records = decode([event])
        entry = Entry(event.kind, np.array(records["id"]), {}, event.asked, event.remaining, event.note)
        if event.kind == "asked":
            yield _Step(entry, np.array(records["x"]))
        else:
            yield _Step(entry)


def rebuild(study: Study) -> None:
    """Rebuild a study in memory from the order of its calls and its table, whatever else was left half changed.

    What an interrupted call put into the table, and the order does not name, did not happen.
    """
    order, ledger, engine = study._order, study._ledger, study._engine
    assert order is not None
    before = ledger.clear_open()
    try:
        _restore_order(study, order)
        held = order.held
        with _made_again(study):
            if held is None:
                engine.begin()
            else:
                saved = from_bytes(held.data, study.task.device)
                assert isinstance(saved, EngineState)
                engine.go_on(saved)
                for batch, closed in held.batches:
                    ledger.reopen(batch.start, batch.x, batch.columns, closed)
            _replay(study, (_Step(entry) for entry in order.steps(0 if held is None else held.at)), expect_same=False)
    except BaseException:
        ledger.restore_open(before)  # what is known can be read
        raise
    for i, batch in ledger.open.items():
        if i in before:
            batch.attempts = before[i].attempts


def _restore_order(study: Study, order: OrderLog) -> None:
    """The bookkeeping that follows from the order of a study in memory: which trials there are, where each stands, the queue."""
    ledger, table = study._ledger, study._ledger.table
    assert table is not None
    calls = list(order.calls())
    total = 1 + max((int(entry.ids[-1]) for _, kind, entry in calls if kind in ("asked", "added", "one by one")), default=-1)
    table.truncate(total)
    ledger.next = total
    states, finished_at = np.zeros(total, np.int8), np.full(total, NEVER)
    queue: list[Array] = []
    ranked = [-1]
    clock = 0
    for _, kind, entry in calls:
        ids, note = entry.ids, entry.note or {}
        if kind == "enqueued":
            queue.append(order.enqueued[int(ids[0])])
            continue
        if kind == "asked":
            taken = set(note.get("enqueued", ()))
            queue = [point for k, point in enumerate(queue) if k not in taken]
            continue
        if kind == "ranked":
            ranked.append(note["id"])
        if note.get("partial") or (kind == "ranked" and note["id"] in ledger.withdrawn):
            continue
        new = ids[states[ids] == TrialState.PENDING]
        states[new] = _FINAL.get(kind, TrialState.COMPLETE)
        finished_at[new] = clock + (np.arange(len(new)) if kind == "one by one" else 0)  # a batch is finished at once
        clock += len(new)
    whole = ~np.isnan(table.column("values")).any(1)
    states[(states == TrialState.FAILED) & whole] = TrialState.COMPLETE  # amended since
    table.set("state", np.arange(total), states)
    pending = np.nonzero(states == TrialState.PENDING)[0]
    ledger.partial = {i: values for i, values in ledger.partial.items() if i < total and states[i] == TrialState.PENDING}
    ledger.forget(pending)
    ledger.errors = {i: why for i, why in ledger.errors.items() if i < total and states[i] == TrialState.FAILED}
    ledger.counts = np.bincount(states, minlength=len(TrialState)).tolist()
    ledger.queue = deque(queue)
    ledger.rankings = {number: ranking for number, ranking in ledger.rankings.items() if number in ranked}
    ledger.next_ranking = 1 + max(ranked)
    if study.task.deterministic:
        ledger.seen = set(map(point_key, table.column("x")))
    ledger.rescan_best(finished_at)


def _tell_data(study: Study, before: Array) -> None:
    """Tell a strategy that takes over what was known before it, as added points: values, failures, and rankings where it can use them.

    Args:
        study: The study.
        before: Which trials were finished before it, ``(n,)`` bool.
    """
    ledger, table = study._ledger, study._ledger.table
    assert table is not None
    states, valued = table.column("state"), ~np.isnan(table.column("values")).any(1)
    complete = np.nonzero(before & (states == TrialState.COMPLETE) & valued)[0]
    if len(complete):
        _tell_again(study, complete, added=True)
    failed = np.nonzero(before & (states == TrialState.FAILED))[0]
    if len(failed):
        study._engine.tell(study._observe(failed, None, x=table.get("x", failed), failed=True))
    if study.strategy.capabilities.feedback == "values":
        return
    for number, ranking in ledger.rankings.items():
        ids = np.array(sorted(ranking.ids))
        if number not in ledger.withdrawn and before[ids].all():
            study._engine.tell(study._observe(ids, None, x=table.get("x", ids), rankings=(ranking,)))


def _replay(study: Study, steps: Iterable[_Step], *, expect_same: bool) -> None:
    """Make recorded strategy calls again, in order."""
    table = study._ledger.table
    assert table is not None
    warned = not expect_same
    for step in steps:
        entry = step.entry
        ids = entry.ids
        if entry.kind == "asked":
            columns: Mapping[str, Column] = {}
            x = table.get("x", ids) if step.x is None else step.x
            if not (entry.note and entry.note.get("enqueued")):
                made, columns = _ask_again(study, entry)
                if not warned and (made is None or not np.array_equal(made, x)):
                    warned = True
                    warnings.warn(
                        f"replaying study {study.name!r}: trial {int(ids[0])} came out differently from the record "
                        "(another library version or machine?); the record is followed.",
                        ReplayWarning,
                        stacklevel=2,
                    )
            study._ledger.reopen(int(ids[0]), x, columns)
            continue
        if entry.note and entry.note.get("partial"):
            continue
        if entry.kind == "ranked":
            ranking = study._ledger.rankings[entry.note["id"] if entry.note else 0]
            if (entry.note or {}).get("id") in study._ledger.withdrawn:
                study._engine.calls += 1  # the keys of later calls stay what they were
                continue
            study._engine.tell(study._observe(ids, None, rankings=(ranking,)))
        elif entry.kind in ("told", "added"):
            _tell_again(study, ids, added=entry.kind == "added")
        elif entry.kind == "failed":
            call = study._engine.calls
            amended = table.get("state", ids) == TrialState.COMPLETE  # failures that were amended into values
            if amended.any():
                _tell_again(study, ids[amended])
            study._engine.calls = call  # one call as recorded, so that the keys of later ones stay what they were
            if not amended.all():
                study._engine.tell(study._observe(ids[~amended], None, failed=True))
            study._engine.calls = call + 1
        else:
            study._engine.tell(study._observe(ids, None, failed=True, dropped=tuple(ids.tolist())))
        if entry.kind != "added":
            study._ledger.remove(ids)


def _tell_again(study: Study, ids: Array, *, added: bool = False) -> None:
    """Tell recorded results, as they are in the table."""
    ledger, table = study._ledger, study._ledger.table
    assert table is not None
    study._engine.tell(
        study._observe(
            ids,
            table.get("values", ids),
            table.get("constraints", ids) if "constraints" in table else None,
            table.get("noise", ids) if "noise" in table else None,
            x=table.get("x", ids) if added else None,
            settings=ledger.settings,
            gradients=ledger.gradients,
        )
    )


def _ask_again(study: Study, entry: Entry) -> tuple[Array | None, Mapping[str, Column]]:
    """One recorded ask, made again: its points, or None where it does not come out at all, and the columns of the recorded points.

    The columns are those that the strategy has just given, since it is this strategy's state that they must fit. Where it gives
    another number of points than recorded, the recorded ones without a counterpart are added points to it, and what it gave beyond
    them is dropped.
    """
    engine, ledger = study._engine, study._ledger
    fixed = {int(k): v for k, v in (entry.note or {}).get("context", {}).items()}
    n = len(entry.ids)
    try:
        candidates = engine.ask(Request(entry.asked, ledger.pending_points if ledger.open else None, fixed, entry.remaining))
    except (NotReady, Exhausted):
        engine.calls += 1  # the keys of later calls stay what they were
        return None, {}
    try:
        if study.task.deterministic:  # duplicates were replaced by what had not been asked until then, or left out
            held = engine.kept(candidates.columns, len(candidates.x))
            return None if ledger.table is None else ledger.table.get("x", entry.ids), _first(held, n)
        made, own, _ = engine.valid(candidates, max(entry.asked or 0, n), fixed or None, ledger.seen)
    except StrategyError:
        return None, {}
    if len(made) > n:
        call = engine.calls
        rest = {name: column[n:] for name, column in own.items()}
        engine.tell(engine.given_up(made[n:], rest))
        engine.calls = call
    return made, _first(own, n)


def _first(columns: Mapping[str, Column], n: int) -> dict[str, Column]:
    """The first n rows of each column, and blank ones, as of points that were never asked, where it has fewer."""
    return {name: column[:n] if len(column) >= n else padded(column, n) for name, column in columns.items()}


def _finish(study: Study, events: Events, finished_at: Array) -> None:
    """Counts, the incumbent and attempts, from the table."""
    table = study._ledger.table
    assert table is not None
    states = table.column("state")
    study._ledger.counts = np.bincount(states, minlength=len(TrialState)).tolist()
    study._ledger.rescan_best(finished_at)
    for event in events.of("retried", "interrupted"):
        for i in decode([event])["id"].tolist():
            study._ledger.count_attempt(i, 1 if event.kind == "retried" else -1)


__all__ = ["ReplayWarning", "load", "open_study", "read", "rebuild", "study_config"]
