"""Where each key and each value of a TOML or JSON text stands, so that an error can name its line."""

from __future__ import annotations

import json
import re
import tomllib
from bisect import bisect_right
from typing import NamedTuple

Keys = tuple[str | int, ...]
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_SCALAR = re.compile(r"[^\s,\]}#]+(?: \d\d:\d\d[^\s,\]}#]*)?")  # the tail is the time of a date


class Position(NamedTuple):
    """A place in a text, counted from 1."""

    line: int
    column: int


class Place(NamedTuple):
    """Where a key stands and where its value begins; the same for an item of a list."""

    key: Position
    value: Position


class Repeated(NamedTuple):
    """A key or a table that a TOML text gives once more."""

    path: Keys
    place: Position
    table: bool


def find(text: str, *, toml: bool = True) -> dict[Keys, Place]:
    """The place of every key and list item by its path, e.g. ``("space", "lr", "high")`` or ``("study", "constraints", 0)``.

    Args:
        text: A text that has been parsed already: anything else gives the places up to where it goes wrong.
        toml: Whether it is TOML; JSON otherwise.
    """
    return _scan(text, toml).found


def repeated(text: str) -> tuple[Repeated, Place] | None:
    """The first key or table that a TOML text gives once more, and the place where it had it first; None where there is none."""
    scanner = _scan(text, True)
    again = scanner.again
    return None if again is None else (again, scanner.found[again.path])


def _scan(text: str, toml: bool) -> _Scanner:
    scanner = _Scanner(text, toml)
    try:
        if toml:
            scanner.document()
        else:
            scanner.blank()
            scanner.value(())
    except (IndexError, ValueError):
        pass
    return scanner


class _Scanner:
    """One pass over a valid text; nothing but keys and nesting is understood."""

    def __init__(self, text: str, toml: bool) -> None:
        self.text = text
        self.toml = toml
        self.at = 0
        self.found: dict[Keys, Place] = {}
        self.written: set[Keys] = set()  # those that have a key or a header of their own
        self.again: Repeated | None = None
        self.lines = [0, *(match.end() for match in re.finditer("\n", text))]

    def position(self, at: int) -> Position:
        line = bisect_right(self.lines, at)
        return Position(line, at - self.lines[line - 1] + 1)

    def note(self, path: Keys, key: int, value: int, *, table: bool = False) -> None:
        place = Place(self.position(key), self.position(value))
        if self.again is None and path in (self.written if table else self.found):
            self.again = Repeated(path, place.key, table)
        self.written.add(path)
        for end in range(1, len(path)):  # tables that were never written out, as in a.b.c = 1
            self.found.setdefault(path[:end], place)
        self.found.setdefault(path, place)

    def blank(self) -> None:
        """Skip space, line ends and comments."""
        while self.at < len(self.text):
            if self.text[self.at].isspace() or self.text[self.at] == "\ufeff":
                self.at += 1
            elif self.toml and self.text[self.at] == "#":
                end = self.text.find("\n", self.at)
                self.at = len(self.text) if end < 0 else end
            else:
                return

    def document(self) -> None:
        table: Keys = ()
        items: dict[Keys, int] = {}  # of arrays of tables, the index of the latest
        while True:
            self.blank()
            if self.at >= len(self.text):
                return
            start = self.at
            if self.text[start] == "[":
                double = self.text.startswith("[[", start)
                self.at += 2 if double else 1
                parts = self.key()
                table = ()
                for k, part in enumerate(parts):
                    table += (part,)
                    if double and k == len(parts) - 1:
                        items[table] = items.get(table, -1) + 1
                    if table in items:
                        table += (items[table],)
                self.note(table, start, start, table=True)
                self.at = self.text.index("]", self.at) + (2 if double else 1)
            else:
                self.pair(table)

    def pair(self, table: Keys) -> None:
        start = self.at
        path = table + self.key()
        self.blank()
        self.at += 1  # the equals sign, or the colon of JSON
        self.blank()
        self.note(path, start, self.at)
        self.value(path)

    def key(self) -> tuple[str, ...]:
        parts = []
        while True:
            self.blank()
            if self.text[self.at] in "\"'":
                raw = self.string()
                parts.append(str(tomllib.loads(f"k = {raw}")["k"] if self.toml else json.loads(raw)))
            else:
                match = _BARE.match(self.text, self.at)
                if match is None:
                    raise ValueError("a key was expected")
                parts.append(match[0])
                self.at = match.end()
            self.blank()
            if not self.toml or self.text[self.at] != ".":
                return tuple(parts)
            self.at += 1

    def value(self, path: Keys) -> None:
        char = self.text[self.at]
        if char in "\"'":
            self.string()
        elif char == "[":
            self.at += 1
            index = 0
            while self.next_item("]"):
                self.note((*path, index), self.at, self.at)
                self.value((*path, index))
                index += 1
        elif char == "{":
            self.at += 1
            while self.next_item("}"):
                self.pair(path)
        else:
            match = _SCALAR.match(self.text, self.at)
            if match is None:
                raise ValueError("a value was expected")
            self.at = match.end()

    def next_item(self, close: str) -> bool:
        """Move to the next item of a list or an inline table; False, and past its end, when there is none."""
        self.blank()
        while self.text[self.at] == ",":
            self.at += 1
            self.blank()
        if self.text[self.at] == close:
            self.at += 1
            return False
        return True

    def string(self) -> str:
        """Skip a string; gives it with its quotes."""
        start, quote = self.at, self.text[self.at]
        fence = quote * 3 if self.toml and self.text.startswith(quote * 3, start) else quote
        at = start + len(fence)
        while not self.text.startswith(fence, at):
            at += 2 if self.text[at] == "\\" and quote == '"' else 1
        at += len(fence)
        while len(fence) == 3 and self.text.startswith(quote, at):  # up to two quotes may stand before the closing three
            at += 1
        self.at = at
        return self.text[start:at]
