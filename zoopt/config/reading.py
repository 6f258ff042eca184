"""A study.toml or .json as plain data, with overrides; what cannot be read is a sentence that says why."""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from pathlib import Path
from typing import Any

from zoopt.config.faults import ConfigFaults, Fault, Report, dotted, shown
from zoopt.config.fields import StudyFile
from zoopt.config.positions import Position, repeated


def read(path: Path) -> tuple[str, dict[str, Any]]:
    """Text and data of a file.

    Raises:
        ConfigFaults: It is not there, is no text, or neither TOML nor JSON.
    """

    def refuse(message: str, position: Position | None = None, field: str = "") -> ConfigFaults:
        return ConfigFaults([Fault(str(path), position, field, message)])

    if path.is_dir():
        inside = sorted((p.name for p in path.glob("*.toml")), key=lambda name: (name != "study.toml", name))
        raise refuse(f"this is a folder; name the file{', such as ' + str(path / inside[0]) if inside else ''}.")
    if path.suffix not in (".toml", ".json"):
        raise refuse("a study is described in a file that ends in .toml (or .json, with the same tables).")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        near = [p.name for p in path.parent.glob("*.toml")] if path.parent.is_dir() else []
        close = difflib.get_close_matches(path.name, near, n=1) or near[:1]
        raise refuse(f"there is no such file{'; did you mean ' + repr(str(path.parent / close[0])) + '?' if close else '.'}") from None
    except UnicodeDecodeError as error:
        raise refuse(f"the file is not UTF-8 text (byte {error.start}); save it as UTF-8.") from None
    except OSError as error:
        raise refuse(f"the file cannot be read: {error.strerror}.") from None
    try:
        data = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise refuse(*_toml_error(str(error), text)) from None
    except json.JSONDecodeError as error:
        raise refuse(f"this is not JSON: {error.msg[:1].lower()}{error.msg[1:]}.", Position(error.lineno, error.colno)) from None
    if not isinstance(data, dict):
        raise refuse(f"an object with the tables {', '.join(StudyFile.model_fields)} was expected; got {shown(data)}.")
    return text, data


def _toml_error(message: str, text: str) -> tuple[str, Position, str]:
    """An error of tomllib, which names its place at the end, as a sentence, its place and the field it is about."""
    lines = text.splitlines() or [""]
    match = re.search(r" \(at line (\d+), column (\d+)\)$", message)
    position = Position(int(match[1]), int(match[2])) if match else Position(len(lines), len(lines[-1]) + 1)
    said = re.sub(r" \(at .*\)$", "", message)
    if re.search("twice|overwrite|[Dd]uplicate|redefine", said) and (twice := repeated(text)) is not None:
        again, first = twice
        name = dotted(again.path)
        header = again.table and first.key == first.value  # where a key had it first, that has a value of its own
        what, keep = (f"[{name}]", "put all that belongs to it below one of the two") if header else ("this", "keep one of the two")
        return f"{what} is written twice, first on line {first.key.line}; {keep}.", again.place, name
    return f"this is not TOML: {said[:1].lower()}{said[1:]}.{_toml_hint(said, text, lines, position)}", position, ""


def _toml_hint(said: str, text: str, lines: list[str], position: Position) -> str:
    """What to write instead, where that can be guessed."""
    line = lines[min(position.line, len(lines)) - 1]
    before, after = line[: position.column - 1], line[position.column - 1 :]
    word = re.match(r"([A-Za-z][\w./:-]*)\s*([,\]}#].*)?$", after)
    if said == "Invalid value" and word:
        key = re.search(r"([\w.-]+)\s*=\s*$", before)
        if word[1].lower() in ("true", "false"):
            right, why = word[1].lower(), "TOML writes them in small letters"
        else:
            right, why = f'"{word[1]}"', "a text needs quotes"
        return f" Write {key[1] + ' = ' if key else ''}{right} ({why})."
    if said == "Unclosed array":
        return " The items of a list are separated by commas."
    if said.startswith("Expected '='") and after.lstrip().startswith(":"):
        return " Write = in place of the colon."
    so_far = "\n".join([*lines[: position.line - 1], before])
    so_far = re.sub(r'"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\'|#[^\n]*', "", so_far)  # braces in texts and comments open nothing
    opened = re.search(r"(?:^|\n)[ \t]*([\w.-]+)\s*=\s*\{[^{}]*$", so_far)
    if opened is None:
        return ""
    table = re.findall(r"(?m)^[ \t]*\[([^\[\]]+)\]", so_far)
    name = f"{table[-1].strip()}.{opened[1]}" if table else opened[1]
    return f" An inline table stands on one line, its items separated by commas; or write [{name}] and its fields below, a line each."


def override(data: dict[str, Any], name: str, value: Any, report: Report) -> None:
    """Replace one value, by its dotted name."""
    keys = tuple(name.split("."))
    if not all(keys):
        report.faults.append(Fault(f"--set {name}", None, "", "a dotted name was expected, such as strategy.sigma0=0.5."))
        return
    report.overridden.append(keys)
    table = data
    for key in keys[:-1]:
        inner = table.setdefault(key, {})
        if not isinstance(inner, dict):
            report.faults.append(Fault(f"--set {name}", None, "", f"{key!r} is {shown(inner)} and no table, so nothing can be set in it."))
            return
        table = inner
    table[keys[-1]] = value
