"""How a study's events become bytes in a journal and come back.

A body is a run of packed records of one numpy structured dtype, so that the records of a hundred thousand events decode
in one call. Only what a strategy was asked and told is needed to replay it; the rest is for people and for other tools.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from struct import Struct
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from zoopt import registry
from zoopt.feedback import Column
from zoopt.strategy import State, Strategy

if TYPE_CHECKING:
    from zoopt.journal import StudyLog

Array = np.ndarray[Any, Any]

STRATEGY_KINDS = ("asked", "told", "failed", "dropped", "lost", "added", "ranked")  # events that a strategy learns of
_ASKED = STRATEGY_KINDS.index("asked")
_TOLD = STRATEGY_KINDS.index("told")
_ONE_BY_ONE = len(STRATEGY_KINDS)  # n times an ask for one trial and its tell


@dataclass(slots=True)
class Entry:
    """One event on its way to the journal.

    Attributes:
        kind: What happened.
        ids: The trials it is about, ascending.
        fields: Columns of the body by name, each ``(len(ids), ...)``; the ids come first by themselves.
        asked: For an ask, how many were wanted; None as many as the method likes.
        remaining: For an ask, the budget left.
        note: Everything that is not a number by trial.
    """

    kind: str
    ids: Array
    fields: Mapping[str, Any]
    asked: int | None = None
    remaining: int | None = None
    note: dict[str, Any] | None = None


@dataclass
class EngineState(State):
    """What a snapshot holds: the strategy's state and how many times it was called."""

    calls: int
    strategy: State


@cache
def _dtype(spec: tuple[tuple[str, np.dtype[Any], tuple[int, ...]], ...]) -> np.dtype[Any]:
    return np.dtype([("id", "<i8"), *((name, kind.str, shape) if shape else (name, kind.str) for name, kind, shape in spec)])


def host(column: Column) -> Array:
    """A column as a numpy array on the host."""
    if isinstance(column, Tensor):
        column = column.detach().cpu()
        return column.numpy() if column.dtype.itemsize > 2 or not column.dtype.is_floating_point else column.float().numpy()
    return column


_id = Struct("<q").pack


def pack(entry: Entry) -> tuple[bytes, np.dtype[Any]]:
    """Body and record dtype of an entry."""
    columns = {name: host(column) if isinstance(column, Tensor) else column for name, column in entry.fields.items()}
    dtype = _dtype(tuple([(name, column.dtype, column.shape[1:]) for name, column in columns.items()]))
    if len(entry.ids) == 1:  # one record: its bytes one after the other, without a structured array
        return b"".join([_id(entry.ids[0]), *[column.tobytes() for column in columns.values()]]), dtype
    records = np.empty(len(entry.ids), dtype=dtype)
    records["id"] = entry.ids
    for name, column in columns.items():
        records[name] = column
    return records.tobytes(), dtype


def write(log: StudyLog, entries: Sequence[Entry], *, sync: bool, snapshot: bytes | None) -> None:
    """Append entries to a journal in one transaction, with a snapshot of the state after them where one is due."""

    def parts(entry: Entry) -> tuple[bytes | None, dict[str, Any]]:
        body, dtype = pack(entry) if entry.fields or len(entry.ids) else (None, None)
        return body, {
            "dtype": dtype,
            "rows": len(entry.ids),
            "asked": entry.asked,
            "remaining": entry.remaining,
            "note": entry.note,
            "snapshot": snapshot if entry is entries[-1] else None,
        }

    if len(entries) == 1:
        body, options = parts(entries[0])
        log.append(entries[0].kind, body, sync=sync, **options)
        return
    with log.transaction(sync=sync) as transaction:
        for entry in entries:
            body, options = parts(entry)
            transaction.append(entry.kind, body, **options)


class OrderLog:
    """The order in which a strategy without a journal was asked and told, in a few bytes a call.

    With the table of trials this is enough to rebuild the strategy's state: proposals are made again from their keys. A
    loop that asks for one trial and tells it, over and over, is kept as how often it did.
    """

    __slots__ = ("_calls", "_end", "_notes", "_open", "_start")

    def __init__(self) -> None:
        self._calls = array("q")  # five numbers a call; see append
        self._notes: list[tuple[Array, dict[str, Any] | None]] = []
        self._start = self._end = 0  # trials asked and told one by one that are not in the calls yet
        self._open = -1  # and the one that was asked after them

    def append(self, entry: Entry) -> None:
        """Keep one event if a strategy learns of it."""
        if entry.kind not in STRATEGY_KINDS:
            return
        self._flush()
        ids = entry.ids
        n = len(ids)
        if entry.note is None and n > 0 and int(ids[-1]) - int(ids[0]) == n - 1:
            first = int(ids[0])
        else:  # ids that are not a range, or a note: kept aside, under a negative number
            self._notes.append((ids, entry.note))
            first = -len(self._notes)
        asked = -1 if entry.asked is None else entry.asked
        remaining = -1 if entry.remaining is None else entry.remaining
        self._calls.extend((STRATEGY_KINDS.index(entry.kind), first, n, asked, remaining))

    def asked(self, first: int, n: int, asked: int, remaining: int | None) -> None:
        """Keep a plain ask that gave n trials from ``first`` on."""
        if asked == 1 and remaining is None and self._open < 0:
            if first != self._end:
                self._flush()
                self._start = self._end = first
            self._open = first
            return
        self._flush()
        self._calls.extend((_ASKED, first, n, asked, -1 if remaining is None else remaining))

    def told(self, i: int) -> None:
        """Keep a plain tell of one trial."""
        if i == self._open:
            self._end = i + 1
            self._open = -1
            return
        self._flush()
        self._calls.extend((_TOLD, i, 1, -1, -1))

    def _flush(self) -> None:
        if self._end > self._start:
            self._calls.extend((_ONE_BY_ONE, self._start, self._end - self._start, -1, -1))
        if self._open >= 0:
            self._calls.extend((_ASKED, self._open, 1, 1, -1))
        self._start = self._end
        self._open = -1

    def __iter__(self) -> Iterator[Entry]:
        self._flush()
        calls = iter(self._calls)
        for kind, first, n, asked, remaining in zip(calls, calls, calls, calls, calls, strict=True):
            if kind == _ONE_BY_ONE:
                for i in range(first, first + n):
                    ids = np.arange(i, i + 1)
                    yield Entry("asked", ids, {}, 1)
                    yield Entry("told", ids, {})
                continue
            ids, note = (np.arange(first, first + n), None) if first >= 0 else self._notes[-first - 1]
            yield Entry(STRATEGY_KINDS[kind], ids, {}, None if asked < 0 else asked, None if remaining < 0 else remaining, note)


def recipe_config(strategy: Strategy[Any]) -> dict[str, Any]:
    """A recipe as JSON: its registered name (or import path) and its hyper-parameters."""
    cls = type(strategy)
    name = registry.name_of(cls) or f"{cls.__module__}:{cls.__qualname__}"
    return {"name": name, **{f.name: _plain(getattr(strategy, f.name)) for f in fields(strategy)}}


def _plain(value: Any) -> Any:
    if isinstance(value, Strategy):
        return recipe_config(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {"type": type(value).__qualname__, **{f.name: _plain(getattr(value, f.name)) for f in fields(value)}}
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, str):
        return value
    if isinstance(value, Sequence):
        return [_plain(v) for v in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    if callable(value):
        return f"{getattr(value, '__module__', '?')}:{getattr(value, '__qualname__', repr(value))}"
    return repr(value)


def same(a: Any, b: Any) -> bool:
    """Whether two configurations are equal once written as JSON."""
    return json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)
