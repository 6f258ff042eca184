"""What is wrong in a study.toml, as sentences: file, line, column, field, and what to write instead."""

from __future__ import annotations

import datetime
import difflib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import ValidationError

from zoopt.config.fields import VARIABLES, CommandTable, PythonTable, StopTable, StudyTable, Table
from zoopt.config.positions import Keys, Place, Position
from zoopt.errors import ConfigError

T = TypeVar("T", bound=Table)

OTHER_NAMES = {  # what other tools call it
    "algorithm": "strategy",
    "sampler": "strategy",
    "optimizer": "strategy",
    "method": "strategy",
    "n_trials": "evaluations",
    "trials": "evaluations",
    "max_evaluations": "evaluations",
    "budget": "evaluations",
    "jobs": "parallel",
    "n_jobs": "parallel",
    "workers": "parallel",
    "storage": "journal",
    "database": "journal",
    "goal": "direction",
    "mode": "direction",
    "random_state": "seed",
    "function": "python",
    "callable": "python",
    "cmd": "command",
    "program": "command",
    "directory": "cwd",
    "environment": "env",
    "min": "low",
    "lower": "low",
    "max": "high",
    "upper": "high",
    "log_scale": "log",
    "options": "choices",
    "categories": "choices",
    "values": "choices",
    "seconds": "time",
    "duration": "time",
    "max_seconds": "time",
    "patience": "stalled",
}
OTHER_TYPES = {
    "float": "real",
    "double": "real",
    "number": "real",
    "uniform": "real",
    "loguniform": "real",
    "int": "integer",
    "boolean": "bool",
    "categorical": "choice",
    "enum": "choice",
    "ordinal": "choice",
    "constant": "fixed",
    "value": "fixed",
}
EXAMPLES = {
    "space": 'a [space] table with a variable a line, such as lr = { type = "real", low = 1e-5, high = 1e-1, log = true }',
    "objective": 'an [objective] table with command = "python train.py --lr {lr}" or python = "module:function"',
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong in a configuration.

    Attributes:
        source: The file, or the override that set it.
        position: Line and column; None where there is no line to point at.
        field: Dotted name, such as ``space.lr.high``.
        message: What is wrong and what to write instead.
    """

    source: str
    position: Position | None
    field: str
    message: str

    def __str__(self) -> str:
        where = "" if self.position is None else f":{self.position.line}:{self.position.column}"
        what = f" {self.field}:" if self.field else ""
        return f"{self.source}{where}:{what} {self.message}"


class ConfigFaults(ConfigError):
    """Everything that is wrong in a configuration, a line each.

    Attributes:
        faults: In the order of the file.
    """

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = sorted(faults, key=lambda fault: (fault.position is None, fault.position or Position(0, 0)))
        super().__init__("\n".join(map(str, self.faults)))


@dataclass
class Report:
    """Collects faults and knows where everything stands."""

    source: str
    places: dict[Keys, Place]
    overridden: list[Keys] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    def fresh(self) -> Report:
        """One for the same file, without faults."""
        return Report(self.source, self.places, self.overridden)

    def add(self, keys: Keys, message: str, *, value: bool = False) -> None:
        """Report a fault at a key, or at its value."""
        name = dotted(keys)
        for mine in self.overridden:
            if keys[: len(mine)] == mine or (mine[: len(keys)] == keys and keys not in self.places):
                self.faults.append(Fault(f"--set {dotted(mine)}", None, name, message))
                return
        place = next((self.places[keys[:end]] for end in range(len(keys), 0, -1) if keys[:end] in self.places), None)
        value = value and keys in self.places
        self.faults.append(Fault(self.source, None if place is None else place.value if value else place.key, name, message))

    def at(self, *keys: str | int) -> Locate:
        """Within ``with``: a ConfigError becomes a fault at this key."""
        return Locate(self.fresh(), keys)

    def unknown(self, keys: Keys, known: Iterable[str], what: str = "field") -> None:
        """Report a name that is none, with what may have been meant."""
        name, known = str(keys[-1]), list(known)
        if (meant := _meant(name, known)) is not None:
            self.add(keys, f"there is no such {what}; did you mean {meant!r}?")
            return
        for table, model in _HOMES.items():
            if name in model.model_fields and model.model_fields.keys() != set(known):
                self.add(keys, f"there is no such {what} here; {name!r} belongs {table}.")
                return
        self.add(keys, f"there is no such {what}; {'there are' if known else 'there are none'} {', '.join(known)}".rstrip() + ".")

    def table(self, model: type[T], value: Any, keys: Keys) -> T | None:
        """A table as its model, or None with its faults reported."""
        if not isinstance(value, Mapping):
            self.add(keys, f"a table was expected; got {shown(value)}.{table_hint(keys, value)}", value=True)
            return None
        dates = self.dates(value, keys)
        try:
            # By way of JSON, where strictness is right for what a file can hold: a list for a tuple and 1 for 1.0, but never "1" for 1.
            made = model.model_validate_json(json.dumps(value, default=str))
            return None if dates else made
        except ValidationError as error:
            faults = error.errors()
            meant = {_meant(str(f["loc"][-1]), model.model_fields) for f in faults if f["type"] == "extra_forbidden"}
            for fault in faults:
                said = (fault["type"] == "missing" and fault["loc"][-1] in meant) or keys + fault["loc"] in dates
                if not said:  # a misspelt field and a date are said once
                    self._explain(fault, model, keys)
            return None

    def dates(self, value: Any, keys: Keys) -> list[Keys]:
        """Report what TOML took for a date or a time, which nothing here can hold; gives where they stand."""
        if isinstance(value, datetime.date | datetime.time):
            kind = "date" if isinstance(value, datetime.date) else "time"
            self.add(keys, f'TOML reads this as a {kind}; write it as a text, "{value}".', value=True)
            return [keys]
        inner = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
        return [found for key, part in inner for found in self.dates(part, (*keys, key))]

    def _explain(self, fault: Any, model: type[Table], keys: Keys) -> None:
        where = keys + tuple(fault["loc"])
        if fault["type"] == "extra_forbidden":
            self.unknown(where, model.model_fields)
        elif fault["type"] == "missing":
            self.add(where[:-1], f"{where[-1]!r} is missing; {missing_hint(str(where[-1]))}.")
        else:
            self.add(where, sentence(fault), value=True)

    def finish(self) -> None:
        """Raise what was found."""
        if self.faults:
            raise ConfigFaults(self.faults)


@dataclass
class Locate:
    """What ``Report.at`` gives."""

    report: Report
    keys: Keys

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, ConfigError) and not isinstance(error, ConfigFaults):
            self.report.add(self.keys, str(error))
            raise ConfigFaults(self.report.faults) from error


_HOMES: dict[str, type[Table]] = {
    "to [study]": StudyTable,
    "to [objective] with a command": CommandTable,
    "to [objective] with a python function": PythonTable,
    "to [stop]": StopTable,
}


def _meant(name: str, known: Iterable[str]) -> str | None:
    """The name that was probably meant."""
    known = list(known)
    alias = OTHER_NAMES.get(name)
    return alias if alias in known else next(iter(difflib.get_close_matches(name, known, n=1)), None)


def shown(value: Any) -> str:
    """A value as it would be written in the file, shortened."""
    text = repr(value) if isinstance(value, float) else json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def dotted(keys: Keys) -> str:
    """A path as it is written: ``space.lr.high``, ``study.constraints[0]``."""
    text = ""
    for key in keys:
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else key
    return text


def misplaced_name(name: str) -> str:
    """Where the name of the strategy goes."""
    return f"name of the strategy goes into [study]: strategy = {shown(name)}; [strategy] holds its fields."


def table_hint(keys: Keys, value: Any) -> str:
    """What to write where a table was expected."""
    if keys == ("strategy",) and isinstance(value, str):
        return f" The {misplaced_name(value)}"
    if keys[0] == "space" and len(keys) == 2:
        return (
            f' A variable is written {{ type = "real", low = 0.0, high = 1.0 }}, a value that is not searched '
            f'{{ type = "fixed", value = {shown(value)} }}.'
        )
    return f" Write [{keys[0]}] on a line of its own and the fields below it."


def missing_hint(name: str) -> str:
    """What to write where a field is missing."""
    examples = {
        "type": f"write type = one of {', '.join(map(repr, VARIABLES))}",
        "choices": 'write choices = ["a", "b"]',
        "variable": 'write variable = { type = "real", low = 0.0, high = 1.0 }',
    }
    return examples.get(name, f"write {name} = ...")


def sentence(fault: Any) -> str:
    """What pydantic found, in our words, with what to write instead."""
    kind, given, context = fault["type"], fault["input"], fault.get("ctx", {})
    got = f"got {shown(given)}"
    fix = ""
    if kind == "literal_error":
        expected = re.findall(r"'([^']*)'", context["expected"])
        close = difflib.get_close_matches(str(given).lower(), expected, n=1)
        close = close or [e for e in expected if str(given).lower() in ("max", "min") and e.startswith(str(given).lower())]
        wanted = " or ".join(map(repr, expected))
        fix = f"; did you mean {close[0]!r}?" if close else ""
    elif kind.startswith("int_"):
        wanted = "a whole number"
        if isinstance(given, float) and given.is_integer():
            fix = f"; write {int(given)}"
        elif isinstance(given, str) and re.fullmatch(r"\s*[+-]?\d+\s*", given):
            fix = f"; write {given.strip()} without quotes"
    elif kind.startswith("float_"):
        wanted = "a number"
        if isinstance(given, str) and _is_number(given):
            fix = f"; write {given.strip()} without quotes"
    elif kind == "finite_number":
        wanted = "a finite number"
    elif kind.startswith("bool_"):
        wanted = "true or false"
        if str(given).lower() in ("true", "false", "0", "1"):
            fix = f"; write {'true' if str(given).lower() in ('true', '1') else 'false'} without quotes"
    elif kind == "string_type":
        wanted = "a text"
        fix = f'; write "{given}"' if isinstance(given, int | float) else ""
    elif kind in ("dict_type", "model_type", "model_attributes_type"):
        wanted = "a table of names"
        fix = '; write { loss = "minimize", speed = "maximize" }' if fault["loc"] == ("objectives",) else ""
    elif kind == "list_type":
        wanted, fix = "a list", f"; write [{shown(given)}]"
    elif kind == "greater_than_equal":
        wanted = f"at least {context['ge']}"
    elif kind in ("too_short", "string_too_short"):
        wanted = "something that is not empty"
    elif kind == "value_error":
        return f"{context['error']}; {got}."
    else:
        return f"{fault['msg'][:1].lower()}{fault['msg'][1:]}; {got}."
    return f"{wanted} was expected; {got}{fix}{'' if fix.endswith('?') else '.'}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
