"""The parts of a study from the tables of its file: objective, space, recipe."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import json
import re
import sys
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from zoopt import registry
from zoopt.arguments import check_result_name
from zoopt.config.faults import (
    EXAMPLES,
    OTHER_NAMES,
    OTHER_TYPES,
    Report,
    dotted,
    misplaced_name,
    missing_hint,
    sentence,
    shown,
    table_hint,
)
from zoopt.config.fields import VARIABLES, CommandTable, PythonTable, StopTable, StudyFile, StudyTable
from zoopt.config.positions import Keys
from zoopt.errors import ConfigError, PluginError, SpaceError, UnknownName, ZooptError

if TYPE_CHECKING:
    from zoopt.space import Space


def read_objective(data: Mapping[str, Any], report: Report) -> CommandTable | PythonTable | None:
    """The [objective] table."""
    table = data.get("objective")
    if table is None:
        if not any(name not in StudyFile.model_fields and difflib.get_close_matches(name, ["objective"]) for name in data):
            report.add(("objective",), f"missing; write {EXAMPLES['objective']}.")
        return None
    if isinstance(table, Mapping):
        if "command" in table and "python" in table:
            report.add(("objective", "python"), "command and python are both given; keep the one that computes the objective.")
            return None
        if "command" not in table and "python" not in table:
            known = {*CommandTable.model_fields, *PythonTable.model_fields}
            strange = [name for name in table if name not in known]
            for name in strange:
                report.unknown(("objective", name), sorted(known))
            if not any(difflib.get_close_matches(name, known) or name in OTHER_NAMES for name in strange):
                report.add(("objective",), 'what computes it is missing; write command = "..." or python = "module:function".')
            return None
    if not isinstance(table, Mapping) or "command" in table:
        return report.table(CommandTable, table, ("objective",))
    made = report.table(PythonTable, table, ("objective",))
    if made is not None and not re.fullmatch(r"[\w.]+:[\w.]+", made.python):
        report.add(("objective", "python"), f"'module:function' was expected; got {shown(made.python)}.", value=True)
        return None
    return made


def crosscheck(study: StudyTable, stop: StopTable | None, data: Mapping[str, Any], report: Report) -> None:
    """Report fields that are right by themselves but not together."""
    if study.objectives is not None:
        if "direction" in data.get("study", {}):
            report.add(("study", "direction"), "objectives give a direction each already; leave this line out.")
        if len(study.objectives) > 1:
            single = {("study", "target"): study.target}
            if stop is not None:
                single |= {("stop", "target"): stop.target, ("stop", "stalled"): stop.stalled}
            for keys, value in single.items():
                if value is not None:
                    report.add(
                        keys, f"{keys[-1]} is for a single objective, and this study has {len(study.objectives)}; leave this line out."
                    )
        for name in sorted(set(study.objectives) & set(study.constraints)):
            report.add(("study", "constraints"), f"{name!r} is an objective as well; give the constraint another name.")
    told: list[tuple[Keys, str, str]] = [(("study", "objectives", name), name, "objective") for name in study.objectives or ()]
    told += [(("study", "constraints", k), name, "constraint") for k, name in enumerate(study.constraints)]
    for where, name, what in told:
        try:
            check_result_name(name, what)
        except ConfigError as error:
            report.add(where, str(error))
    for name in sorted({name for name in study.constraints if study.constraints.count(name) > 1}):
        report.add(("study", "constraints"), f"{name!r} is listed twice.")
    if study.device not in ("cpu", "auto"):
        import torch

        try:
            torch.empty(0, device=study.device)
        except (RuntimeError, AssertionError) as error:
            said = (str(error).splitlines() or [""])[0].rstrip(".")
            report.add(("study", "device"), f'the device {study.device!r} cannot be used here ({said}); write "cpu".', value=True)


def read_space(data: Mapping[str, Any], study: StudyTable | None, folder: Path, report: Report) -> Space | None:
    """The space of the [space] table and the known constraints."""
    tables = data.get("space")
    if tables is None or tables == {}:
        if not any(name not in StudyFile.model_fields and difflib.get_close_matches(name, ["space"]) for name in data):
            report.add(("space",), f"missing; write {EXAMPLES['space']}.")
        return None
    if not isinstance(tables, Mapping):
        report.add(("space",), f"a table was expected; got {shown(tables)}. Write {EXAMPLES['space']}.", value=True)
        return None
    from zoopt.space import Space
    from zoopt.variables import from_config

    pool = {key: value for key, value in tables.items() if key in ("pool", "labels") and isinstance(value, str | list)}
    tables = {key: value for key, value in tables.items() if key not in pool}
    if pool:
        return _read_pool(pool, tables, study, folder, report)
    readable = {name: table for name, table in tables.items() if _variable(table, ("space", name), report)}
    right = len(readable) == len(tables)
    for name, table in readable.items():
        try:
            from_config({key: value for key, value in table.items() if key != "when"})
        except SpaceError as error:
            report.add(_named_in(error, table, ("space", name)), _about(error, name))
            right = False
    if not right:
        return None
    try:
        space = Space.from_config(dict(tables))
    except SpaceError as error:
        conditional = [name for name, table in tables.items() if "when" in table]
        name = next((name for name in conditional if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", str(error))), None)
        report.add(("space",) if name is None else ("space", name, "when"), str(error) if name is None else _about(error, name))
        return None
    constraints = study.known_constraints if study is not None else []
    for k, text in enumerate(constraints):
        try:
            Space.from_config(dict(tables), constraints=[text])
        except SpaceError as error:
            report.add(("study", "known_constraints", k), str(error))
            right = False
    return Space.from_config(dict(tables), constraints=list(constraints)) if right and constraints else space


def _read_pool(pool: Mapping[str, Any], tables: Mapping[str, Any], study: StudyTable | None, folder: Path, report: Report) -> Space | None:
    """The space of ``pool = "shelf.csv"``; tables beside it say what some of its columns are."""
    from zoopt.pool import Pool
    from zoopt.variables import from_config

    path, labels = pool.get("pool"), pool.get("labels", [])
    if not isinstance(path, str):
        report.add(("space", "labels" if path is None else "pool"), 'a pool is a CSV file; write pool = "shelf.csv".', value=True)
        return None
    if not all(isinstance(label, str) for label in labels):
        report.add(("space", "labels"), 'labels names columns; write labels = "name" or ["name", "bottle"].', value=True)
        return None
    if study is not None and study.known_constraints:
        report.add(("study", "known_constraints"), "a pool has no known constraints: leave out the rows that break them.")
    variables = {}
    for name, table in tables.items():
        if not _variable(table, ("space", name), report):
            return None
        try:
            variables[name] = from_config(table)
        except SpaceError as error:
            report.add(_named_in(error, table, ("space", name)), _about(error, name))
            return None
    try:
        return Pool.read(folder / Path(path).expanduser(), variables, labels)
    except SpaceError as error:
        report.add(("space", "pool"), str(error), value=True)
        return None


def _variable(table: Any, keys: Keys, report: Report) -> bool:
    """Whether a variable's table has the right fields and types; reports what is not."""
    if not isinstance(table, Mapping):
        report.add(keys, f"a table was expected; got {shown(table)}.{table_hint(keys, table)}", value=True)
        return False
    kind = table.get("type")
    if kind is None:
        if strange := difflib.get_close_matches("type", [name for name in table if name != "type"], n=1):
            report.unknown((*keys, strange[0]), ["type"])
        else:
            report.add(keys, f"'type' is missing; {missing_hint('type')}.")
        return False
    if not isinstance(kind, str) or kind not in VARIABLES:
        alias = OTHER_TYPES.get(str(kind).lower())
        close = [alias] if alias else difflib.get_close_matches(str(kind), VARIABLES, n=1)
        more = {"loguniform": " with log = true", "ordinal": " with ordered = true"}.get(str(kind).lower(), "")
        hint = f"did you mean {close[0]!r}{more}?" if close else f"there are {', '.join(VARIABLES)}."
        report.add((*keys, "type"), f"there is no variable of type {shown(kind)}; {hint}", value=True)
        return False
    right = report.table(VARIABLES[kind], table, keys) is not None
    if right and kind in ("context", "fidelity", "environment"):
        return _variable(table["variable"], (*keys, "variable"), report)
    return right


def _named_in(error: Exception, table: Mapping[str, Any], keys: Keys) -> Keys:
    """The key of the first field that an error speaks of."""
    named = [(match.start(), name) for name in table if (match := re.search(rf"\b{re.escape(name)}\b", str(error))) and name != "type"]
    return (*keys, min(named)[1]) if named else keys


def _about(error: Exception, name: str) -> str:
    """An error of a variable without the name that the fault gives already."""
    return re.sub(rf"^(variable )?['\"]?{re.escape(name)}['\"]?:\s*", "", str(error))


def read_recipe(data: Mapping[str, Any], report: Report) -> Any:
    """The strategy with the fields of the [strategy] table."""
    table = data.get("strategy", {})
    if not isinstance(table, Mapping):
        report.add(("strategy",), f"a table was expected; got {shown(table)}.{table_hint(('strategy',), table)}", value=True)
        return None
    study = data.get("study", {})
    name = study.get("strategy") if isinstance(study, Mapping) else None
    if name is not None and not isinstance(name, str):  # which is said where [study] is read
        return None
    for key in ("name", "type", "strategy"):
        if isinstance(table.get(key), str) and key not in _fields(name or "bo"):
            report.add(("strategy", key), f"the {misplaced_name(table[key])}")
            name = name or table[key]
            table = {k: value for k, value in table.items() if k != key}
    return _build(name or "bo", "strategies", table, ("strategy",), ("study", "strategy"), report)


def _fields(name: str) -> list[str]:
    """The fields of a strategy; none where there is no such strategy."""
    try:
        return [f.name for f in dataclasses.fields(registry.load(name))]
    except (ZooptError, TypeError):
        return []


def _build(name: str, kind: registry.Kind, table: Mapping[str, Any], keys: Keys, named_at: Keys, report: Report) -> Any:
    """A registered recipe with the fields of a table, or None with what is wrong reported."""
    try:
        cls = registry.load(name, kind)
    except (UnknownName, PluginError) as error:
        report.add(named_at, str(error), value=True)
        return None
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    try:
        hints = typing.get_type_hints(cls)
    except NameError:  # annotations that are there for type checkers only: the recipe checks its values itself
        hints = {}
    before = len(report.faults)
    values = {}
    for key, value in table.items():
        if key not in fields:
            report.unknown((*keys, key), fields)
        else:
            values[key] = _value(value, hints.get(key, Any), (*keys, key), report)
    for f in fields.values():
        if f.name not in table and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            report.add(keys, f"{f.name!r} is missing, and {name} has no default for it; write {f.name} = ... in [{dotted(keys)}].")
    if len(report.faults) > before:
        return None
    try:
        return cls(**values)
    except (ZooptError, TypeError, ValueError) as error:
        where = _named_in(error, values, keys)
        report.add(where if where != keys else named_at, str(error), value=True)
        return None


_PLAIN: dict[Any, str] = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


def _value(value: Any, hint: Any, keys: Keys, report: Report) -> Any:
    """A field of a recipe, checked against its annotation; a table with a name becomes a recipe of its own."""
    members = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    recipes = [m for m in members if isinstance(origin := typing.get_origin(m) or m, type) and dataclasses.is_dataclass(origin)]
    if recipes and isinstance(value, Mapping):
        name = value.get("name")
        if not isinstance(name, str):
            report.add(keys, "a recipe is written as a table with its name and its fields; 'name' is missing.")
            return None
        kinds: tuple[registry.Kind, ...] = ("surrogates", "acquisitions", "strategies", "problems")
        kind = next((kind for kind in kinds if name in registry.names(kind)), kinds[0])
        rest = {k: v for k, v in value.items() if k != "name"}
        return _build(name, kind, rest, keys, (*keys, "name"), report)
    if report.dates(value, keys):
        return None
    plain = tuple(m for m in members if m not in recipes and (m in _PLAIN or m is types.NoneType or typing.get_origin(m) is not None))
    if hint is Any or not plain:
        return value
    try:
        union: Any = typing.Union[plain]  # noqa: UP007
        adapter: TypeAdapter[Any] = TypeAdapter(union, config=ConfigDict(strict=True))
        return adapter.validate_json(json.dumps(value, default=str))
    except ValidationError as error:
        faults = error.errors()
        if len(plain) == 1 or len(faults) == 1:
            report.add(keys, sentence({**faults[0], "input": value} if not faults[0]["loc"] else faults[0]), value=True)
        else:
            wanted = " or ".join(_PLAIN.get(m, _hint_text(m)) for m in plain if m is not types.NoneType)
            report.add(keys, f"{wanted} was expected; got {shown(value)}.", value=True)
        return None


def _hint_text(hint: Any) -> str:
    if typing.get_origin(hint) is Literal:
        return " or ".join(map(repr, typing.get_args(hint)))
    return "a list" if typing.get_origin(hint) in (list, tuple) else "a table" if typing.get_origin(hint) is dict else str(hint)


def import_object(name: str, folder: Path, report: Report) -> Any:
    """The object named by ``module:attribute``, looked for in the file's folder first; None with what is wrong reported."""
    module_name, _, attribute = name.partition(":")
    keys = ("objective", "python")
    home = str(folder.absolute())
    if home not in sys.path:  # stays: worker processes take our path over, and find the module by it
        sys.path.insert(0, home)
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name == module_name or (error.name and module_name.startswith(f"{error.name}.")):
            near = difflib.get_close_matches(module_name, [p.stem for p in folder.glob("*.py")], n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it is looked for in {home} and where Python finds modules."
            report.add(keys, f"there is no module {error.name!r}; {hint}", value=True)
        else:
            report.add(
                keys, f"the module {module_name!r} cannot be imported: it imports {error.name!r}, which is not installed.", value=True
            )
        return None
    except (Exception, SystemExit) as error:  # whatever the user's code does when it is imported
        from zoopt.evaluate.outcome import describe

        report.add(keys, f"the module {module_name!r} cannot be imported ({describe(error)}{_line_of(error, folder)}).", value=True)
        return None
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            near = difflib.get_close_matches(part, [n for n in vars(module) if callable(getattr(module, n))], n=1)
            hint = f"did you mean {near[0]!r}?" if near else "check its name."
            report.add(keys, f"{module_name!r} has no {attribute!r}; {hint}", value=True)
            return None
        found = getattr(found, part)
    if not callable(found):
        report.add(keys, f"{name!r} is {shown(found)} and no function.", value=True)
        return None
    return found


def _line_of(error: BaseException, folder: Path) -> str:
    """Where in the user's own files an import went wrong."""
    if isinstance(error, SyntaxError) and error.filename:
        return f", {Path(error.filename).name} line {error.lineno}"
    trace, where = error.__traceback__, ""
    while trace is not None:
        file = Path(trace.tb_frame.f_code.co_filename)
        if file.is_relative_to(folder.absolute()):
            where = f", {file.name} line {trace.tb_lineno}"
        trace = trace.tb_next
    return where
