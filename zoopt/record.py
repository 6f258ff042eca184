"""How a study's events become bytes in a journal and come back.

A body is a run of packed records of one numpy structured dtype, so that the records of a hundred thousand events decode
in one call. Only what a strategy was asked and told is needed to replay it; the rest is for people and for other tools.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass
from functools import cache, partial
from hashlib import sha256
from struct import Struct
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from zoopt import registry
from zoopt.feedback import Column
from zoopt.strategy import State, Strategy

if TYPE_CHECKING:
    from zoopt.journal import StudyLog
    from zoopt.ledger import OpenBatch

Array = np.ndarray[Any, Any]

STRATEGY_KINDS = ("asked", "told", "failed", "dropped", "lost", "added", "ranked")  # events that a strategy learns of
_CODES = (*STRATEGY_KINDS, "one by one", "enqueued")  # of the calls in an OrderLog
_ASKED, _TOLD, _ONE_BY_ONE, _ENQUEUED = map(_CODES.index, ("asked", "told", "one by one", "enqueued"))


_SHOWN = 16  # numbers of an array that are recorded as they are
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")  # in the repr of an object: another one in every process


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


@dataclass(frozen=True, slots=True)
class Held:
    """The strategy's state at one moment of a study in memory.

    Attributes:
        at: How much of the order had happened, see `OrderLog.mark`.
        data: The state as bytes.
        batches: The batches that were open, each with its closed rows at that moment.
    """

    at: int
    data: bytes
    batches: tuple[tuple[OpenBatch, Array | None], ...]


class OrderLog:
    """The order in which a strategy without a journal was asked and told, in a few bytes a call.

    With the table of trials this is enough to rebuild the study: proposals are made again from their keys. A loop that asks for
    one trial and tells it, over and over, is kept as how often it did.

    An interrupt may come between any two lines. Each change is therefore one assignment or one call of ``extend``, and happens or does
    not; it comes after the table holds what it names, and before everything that follows from it.

    Attributes:
        enqueued: All points ever enqueued.
        held: A state to begin with instead of the first call, or None.
    """

    __slots__ = ("_calls", "_notes", "_run", "enqueued", "held")

    def __init__(self) -> None:
        self._calls = array("q")  # five numbers a call; see append
        self._notes: list[tuple[Array, dict[str, Any] | None]] = []
        # Trials asked and told one by one that are not in the calls yet: from, to, the one asked after them or -1, and how long the
        # calls were then: longer ones hold them already.
        self._run = (0, 0, -1, 0)
        self.enqueued: list[Array] = []
        self.held: Held | None = None

    def append(self, entry: Entry) -> None:
        """Keep one event if the strategy learns of it, or the queue."""
        if entry.kind == "enqueued":
            self.enqueued.append(entry.fields["x"][0])
            self._extend(_ENQUEUED, len(self.enqueued) - 1, 1, -1, -1)
        if entry.kind not in STRATEGY_KINDS:
            return
        ids = entry.ids
        n = len(ids)
        if entry.note is None and n > 0 and int(ids[-1]) - int(ids[0]) == n - 1:
            first = int(ids[0])
        else:  # ids that are not a range, or a note: kept aside, under a negative number
            self._notes.append((ids, entry.note))
            first = -len(self._notes)
        asked = -1 if entry.asked is None else entry.asked
        remaining = -1 if entry.remaining is None else entry.remaining
        self._extend(STRATEGY_KINDS.index(entry.kind), first, n, asked, remaining)

    def asked(self, first: int, n: int, asked: int, remaining: int | None) -> None:
        """Keep a plain ask that gave n trials from ``first`` on."""
        if asked != 1 or remaining is not None:
            self._extend(_ASKED, first, n, asked, -1 if remaining is None else remaining)
            return
        start, end, out, at = self._run
        if out < 0 and first == end and at == len(self._calls):
            self._run = (start, end, first, at)
            return
        self._extend()
        self._run = (first, first, first, len(self._calls))

    def told(self, i: int) -> None:
        """Keep a plain tell of one trial."""
        start, _, out, at = self._run
        if i == out and at == len(self._calls):
            self._run = (start, i + 1, -1, at)
            return
        self._extend(_TOLD, i, 1, -1, -1)

    def mark(self) -> int:
        """How much has happened so far."""
        self._extend()
        return len(self._calls)

    def _extend(self, *call: int) -> None:
        """Add the trials of the loop and then a call."""
        start, end, out, at = self._run
        before: tuple[int, ...] = ()
        if at == len(self._calls):
            if end > start:
                before = (_ONE_BY_ONE, start, end - start, -1, -1)
            if out >= 0:
                before = (*before, _ASKED, out, 1, 1, -1)
        if before or call:
            self._calls.extend((*before, *call))

    def calls(self) -> Iterator[tuple[int, str, Entry]]:
        """Where each call stands, its kind and what it was about: an event's kind, "enqueued", or "one by one" for a loop's trials."""
        self._extend()
        numbers = iter(self._calls)
        for at, (code, first, n, asked, remaining) in enumerate(zip(numbers, numbers, numbers, numbers, numbers, strict=True)):
            kind = _CODES[code]
            ids, note = (np.arange(first, first + n), None) if first >= 0 else self._notes[-first - 1]
            yield 5 * at, kind, Entry(kind, ids, {}, None if asked < 0 else asked, None if remaining < 0 else remaining, note)

    def steps(self, since: int = 0) -> Iterator[Entry]:
        """The calls of the strategy after a mark, one after the other."""
        for at, kind, entry in self.calls():
            if at < since or kind == "enqueued":
                continue
            if kind != "one by one":
                yield entry
                continue
            for i in entry.ids.tolist():
                yield Entry("asked", np.array((i,)), {}, 1)
                yield Entry("told", np.array((i,)), {})


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
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Tensor):
        return _array(host(value.to_dense()), str(value.dtype))
    if isinstance(value, np.ndarray):
        return _array(value, str(value.dtype))
    if isinstance(value, Set):
        return sorted(map(_plain, value), key=json.dumps)
    if isinstance(value, Sequence):
        return [_plain(v) for v in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{getattr(value, '__module__', '?')}:{value.__qualname__}"
    return _ADDRESS.sub("", repr(value))


def _array(value: Array, kind: str) -> dict[str, Any]:
    """An array by its type, shape and a digest of its numbers; a small one by the numbers themselves, for people."""
    small = value.size <= _SHOWN or value.dtype.hasobject
    numbers = _plain(value.tolist()) if small else sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
    return {"array": kind, "shape": list(value.shape), "values": numbers}


def fingerprint(function: Any) -> str | None:
    """Tells a Python function from one with other code, in every process of the same version of Python.

    Names of local variables, comments, docstrings and where it stands do not count; defaults and what it closes over do, where they
    are plain values or functions. None for what has no Python code.
    """
    described = _code_of(function, ())
    return None if described is None else sha256(json.dumps(described).encode()).hexdigest()[:16]


def _code_of(function: Any, outer: tuple[CodeType, ...]) -> Any:
    if isinstance(function, partial):
        inner = _code_of(function.func, outer)
        return None if inner is None else [inner, _values([*function.args, *function.keywords.items()], outer)]
    code = getattr(function, "__code__", None)
    if not isinstance(code, CodeType):
        call = getattr(type(function), "__call__", None)  # noqa: B004  the function itself is wanted
        return _code_of(call, outer) if isinstance(call, FunctionType) else None
    if code in outer:  # a function that calls itself
        return outer.index(code)
    cells = []
    for cell in getattr(function, "__closure__", None) or ():
        with suppress(ValueError):  # not filled yet
            cells.append(cell.cell_contents)
    defaults = [*(function.__defaults__ or ()), *sorted((function.__kwdefaults__ or {}).items())]
    return [_code(code, function.__doc__), _values([*defaults, *cells], (*outer, code))]


def _values(values: Sequence[Any], outer: tuple[CodeType, ...]) -> list[Any]:
    """Plain values as they are, functions by their code, nothing of anything else: that may differ from process to process."""

    def described(value: Any) -> Any:
        if isinstance(value, tuple):
            return [described(part) for part in value]
        return repr(value) if value is None or isinstance(value, bool | int | float | str | bytes) else _code_of(value, outer)

    return [described(value) for value in values]


def _code(code: CodeType, documentation: str | None = None) -> list[Any]:
    def constant(value: Any) -> Any:
        if isinstance(value, CodeType):
            return _code(value)
        if isinstance(value, frozenset):
            return sorted(map(repr, value))
        return [constant(part) for part in value] if isinstance(value, tuple) else repr(value)

    constants = [constant(value) for value in code.co_consts]
    if documentation is not None and constants[:1] == [repr(documentation)]:
        constants[0] = repr(None)
    return [code.co_code.hex(), code.co_exceptiontable.hex(), code.co_argcount, list(code.co_names), constants]


def same(a: Any, b: Any) -> bool:
    """Whether two configurations are equal once written as JSON."""
    return json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)
