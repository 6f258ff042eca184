"""Recorded events and their bodies."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import compress
from operator import itemgetter
from typing import Any, ClassVar, NamedTuple, cast, overload
from zlib import crc32

import numpy as np

from zoopt.errors import JournalError

Dtype = np.dtype[Any]


class _Columns(NamedTuple):
    seq: int
    time: float
    kind: str
    layout: int | None
    rows: int
    asked: int | None
    remaining: int | None
    body: bytes | None
    text: str | None
    checksum: int


class Event(_Columns):
    """One recorded event: a row of the journal as it was fetched, so that a hundred thousand cost next to nothing.

    Attributes:
        seq: Its number in the study, consecutive from 0.
        time: When it was recorded, seconds since 1970.
        kind: What happened: asked, told, ...
        layout: Number of its record dtype in the study, or None.
        rows: How many records the body holds.
        asked: For an ask, how many points were wanted.
        remaining: For an ask, the budget that was left.
        body: The packed records, or None.
        text: The note as JSON, or None.
        checksum: CRC-32 of body and note.
    """

    __slots__ = ()
    layouts: ClassVar[Mapping[int, Dtype]] = {}

    @property
    def dtype(self) -> Dtype | None:
        """Dtype of one record of the body."""
        return None if self.layout is None else self.layouts[self.layout]

    @property
    def note(self) -> dict[str, Any] | None:
        """What is not a number by trial; parsed at each access."""
        return None if self.text is None else json.loads(self.text)

    @property
    def records(self) -> np.ndarray[Any, Any] | None:
        """The body as an array ``(rows,)`` of its dtype. For many events at once use ``decode``."""
        return None if self.layout is None else decode([self])


def bound(layouts: Mapping[int, Dtype]) -> type[Event]:
    """Events which know the layouts of their study."""
    return cast(type[Event], type("Event", (Event,), {"__slots__": (), "layouts": layouts, "__module__": __name__}))


class Events(Sequence[Event]):
    """Recorded events in order, as they were fetched: an ``Event`` is made when it is looked at.

    Columns of it are quicker than its events, where there are a hundred thousand of them.

    Args:
        event: Their class, see ``bound``.
        rows: One tuple an event.
    """

    def __init__(self, event: type[Event], rows: list[tuple[Any, ...]]) -> None:
        self._event = event
        self._rows = rows

    @cached_property
    def _groups(self) -> tuple[dict[tuple[str, int | None], int], np.ndarray[Any, Any]]:
        """A number for each kind and layout that there is, and the number of each event."""
        kinds = self.column("kind")
        distinct = {kind: number for number, kind in enumerate(dict.fromkeys(kinds))}
        kind = np.array(list(map(distinct.__getitem__, kinds)), dtype=np.int64)
        layout = np.array(self.column("layout"), dtype=np.float64)  # NaN for None
        pairs = kind + len(distinct) * np.where(np.isnan(layout), 0, layout + 1).astype(np.int64)
        found, of = np.unique(pairs, return_inverse=True)
        names = list(distinct)
        keys = [(names[pair % len(names)], pair // len(names) - 1) for pair in found.tolist()]
        return {(name, None if number < 0 else number): i for i, (name, number) in enumerate(keys)}, of

    def unreadable(self) -> list[int]:
        """Numbers of the events with a column that cannot be what was written: of another type, or a layout that there is not."""
        number: set[type] = {int, type(None)}
        allowed: dict[str, set[type]] = {"kind": {str}, "rows": {int}, "asked": number, "remaining": number, "layout": number}
        known = {None, *self._event.layouts}

        def wrong(event: Event) -> bool:
            return (
                any(type(getattr(event, name)) not in types for name, types in allowed.items())
                or event.layout not in known
                or (event.layout is None) != (event.body is None)
                or event.rows < 0
            )

        # A whole column at a time first: it is almost never needed to look at each event.
        typed = all(set(map(type, self.column(name))) <= types for name, types in allowed.items())
        if typed and set(layouts := self.column("layout")) <= known and min(self.column("rows"), default=0) >= 0:
            if [layout is None for layout in layouts] == [body is None for body in self.column("body")]:
                return []
        return [event.seq for event in self if wrong(event)]

    def column(self, name: str) -> list[Any]:
        """One attribute of every event."""
        return list(map(itemgetter(_Columns._fields.index(name)), self._rows))

    def of(self, *kinds: str) -> list[Event]:
        """The events of some kinds."""
        numbers, of = self._groups
        wanted = [number for (kind, _), number in numbers.items() if kind in kinds]
        return [self[i] for i in np.nonzero(np.isin(of, wanted))[0].tolist()] if wanted else []

    def decoded(self) -> dict[tuple[str, int], tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
        """By kind and layout, the records of all events that have a body, and the sequence number of each record's event.

        Raises:
            JournalError: A body is not as long as its rows.
        """
        numbers, of = self._groups
        seqs, rows, bodies = np.array(self.column("seq")), np.array(self.column("rows")), self.column("body")
        decoded = {}
        for (kind, layout), number in numbers.items():
            if layout is not None:
                mine = of == number
                data = bytearray().join([body or b"" for body in compress(bodies, mine.tolist())])
                records = _records(data, self._event.layouts[layout], int(rows[mine].sum()))
                decoded[kind, layout] = records, np.repeat(seqs[mine], rows[mine])
        return decoded

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Event: ...
    @overload
    def __getitem__(self, index: slice) -> list[Event]: ...
    def __getitem__(self, index: int | slice) -> Event | list[Event]:
        if isinstance(index, slice):
            return [tuple.__new__(self._event, row) for row in self._rows[index]]
        return tuple.__new__(self._event, self._rows[index])

    def __eq__(self, other: object) -> bool:
        return self._rows == list(other) if isinstance(other, Sequence) else NotImplemented

    __hash__ = None  # type: ignore[assignment]


def decode(events: Sequence[Event]) -> np.ndarray[Any, Any]:
    """The records of events of one layout, in the order given: a writable array ``(sum of rows,)`` of their dtype.

    Raises:
        JournalError: The events have no body or not all the same layout, or a body is not as long as its rows.
    """
    layouts = {event.layout for event in events}
    dtype = events[0].dtype if len(layouts) == 1 else None
    if dtype is None:
        raise JournalError(f"only events of one layout decode together; these have {sorted(map(str, layouts)) or 'no events at all'}.")
    return _records(bytearray().join([event.body or b"" for event in events]), dtype, sum([event.rows for event in events]))


def _records(data: bytearray, dtype: Dtype, rows: int) -> np.ndarray[Any, Any]:
    if len(data) != rows * dtype.itemsize:
        raise JournalError(f"{rows} records of {dtype.itemsize} bytes were expected, {len(data)} bytes are there: the journal is damaged.")
    return np.frombuffer(data, dtype=dtype)


def checksum(body: bytes | None, text: str | None) -> int:
    """CRC-32 of a body and a note."""
    value = crc32(body or b"")
    return value if text is None else crc32(text.encode(), value)


def damaged(rows: Sequence[Any]) -> list[int]:
    """Numbers of the fetched events whose body or note is not what was written."""
    return [row[0] for row in rows if (crc32(row[7]) if row[7] else 0) != row[9] and checksum(row[7], row[8]) != row[9]]


def dtype_to_spec(dtype: Dtype) -> str:
    """A dtype as text, as numpy's own file format writes it.

    Raises:
        JournalError: Its records hold references, or it cannot be written exactly.
    """
    if dtype.hasobject:
        raise JournalError(f"records must be plain numbers or bytes; {dtype} holds Python objects.")
    spec = repr(np.lib.format.dtype_to_descr(dtype))
    if spec_to_dtype(spec) != dtype:
        raise JournalError(f"the record dtype {dtype!r} cannot be written exactly; use plain fields, shapes and sizes.")
    return spec


def spec_to_dtype(spec: str) -> Dtype:
    """The dtype written by ``dtype_to_spec``.

    Raises:
        JournalError: The text is not a dtype.
    """
    try:
        return np.lib.format.descr_to_dtype(ast.literal_eval(spec))
    except (SyntaxError, TypeError, ValueError) as error:
        raise JournalError(f"{spec!r} does not describe records: the journal is damaged.") from error


def to_json(value: Mapping[str, Any], what: str) -> str:
    """A configuration or a note as text.

    Raises:
        JournalError: It is not JSON; ``what`` names it.
    """
    try:
        return json.dumps(value)
    except (TypeError, ValueError) as error:
        raise JournalError(f"{what} must be JSON (texts, numbers, lists, dicts by text): {error}.") from error
