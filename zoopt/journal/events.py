"""Recorded events and their bodies."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, cast
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
        """The body as an array ``(rows,)`` of its dtype. For many events at once use :func:`decode`."""
        return None if self.layout is None else decode([self])


def bound(layouts: Mapping[int, Dtype]) -> type[Event]:
    """Events which know the layouts of their study."""
    return cast(type[Event], type("Event", (Event,), {"__slots__": (), "layouts": layouts, "__module__": __name__}))


def decode(events: Sequence[Event]) -> np.ndarray[Any, Any]:
    """The records of events of one layout, in the order given: a writable array ``(sum of rows,)`` of their dtype.

    Raises:
        JournalError: The events have no body or not all the same layout, or a body is not as long as its rows.
    """
    layouts = {event.layout for event in events}
    dtype = events[0].dtype if len(layouts) == 1 else None
    if dtype is None:
        raise JournalError(f"only events of one layout decode together; these have {sorted(map(str, layouts)) or 'no events at all'}.")
    data = bytearray().join([event.body or b"" for event in events])
    rows = sum([event.rows for event in events])
    if len(data) != rows * dtype.itemsize:
        raise JournalError(f"{rows} records of {dtype.itemsize} bytes were expected, {len(data)} bytes are there: the journal is damaged.")
    return np.frombuffer(data, dtype=dtype)


def checksum(body: bytes | None, text: str | None) -> int:
    """CRC-32 of a body and a note."""
    value = crc32(body or b"")
    return value if text is None else crc32(text.encode(), value)


def damaged(rows: Sequence[Any]) -> list[int]:
    """Numbers of the fetched events whose body or note is not what was written."""
    return [
        row[0]
        for row in rows
        if (crc32(row[7] or b"") if row[8] is None else crc32(row[8].encode(), crc32(row[7] or b""))) != row[9]
    ]  # fmt: skip


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
    """The dtype written by :func:`dtype_to_spec`.

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
