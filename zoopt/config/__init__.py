"""study.toml -> a study, its evaluator and how to run it. Every fault names file, line, column, field and what to write instead.

All faults of a file are reported at once:

    config = zoopt.config.load("study.toml")
    with config.make_study() as study:
        study.run(config.evaluator(), **config.run_options())
"""

from __future__ import annotations

import os
import sys
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from zoopt.arguments import check_parameter_names, read_device
from zoopt.config.faults import ConfigFaults, Fault, Report
from zoopt.config.fields import CommandTable, PythonTable, StopTable, StudyFile, StudyTable
from zoopt.config.parts import crosscheck, import_object, read_objective, read_recipe, read_space
from zoopt.config.positions import Keys, find
from zoopt.config.reading import override, read
from zoopt.errors import CapabilityError, ConfigError, JournalError, SpaceError

if TYPE_CHECKING:
    from zoopt.evaluate import Evaluator
    from zoopt.space import Space
    from zoopt.stop import Rule
    from zoopt.strategy import Strategy
    from zoopt.study import Callback, Study

__all__ = ["ConfigFaults", "Fault", "StudyConfig", "load", "locate", "parse_value", "schema"]


@dataclass(frozen=True)
class StudyConfig:
    """A study.toml that has been read and found right. Made by ``load``.

    Attributes:
        path: The file.
        study: Its [study] table.
        objective: Its [objective] table.
        stop: Its [stop] table.
        space: The search space.
        recipe: The strategy with its hyper-parameters.
    """

    path: Path
    study: StudyTable
    objective: CommandTable | PythonTable
    stop: StopTable
    space: Space
    recipe: Strategy[Any]
    _report: Report = field(repr=False, compare=False)

    @property
    def folder(self) -> Path:
        """Where relative paths begin."""
        return self.path.parent

    @property
    def journal(self) -> str:
        """Path or address of the journal; an SQLite file beside this one by default: study.db for study.toml."""
        return _journal(self.study, self.path)

    @property
    def objectives(self) -> dict[str, str]:
        """Names and directions of the objectives."""
        return dict(self.study.objectives or {"value": self.study.direction})

    @property
    def rules(self) -> list[Rule]:
        """The stopping rules: the target, those of [stop], the number of evaluations."""
        from zoopt import stop

        table = {name: value for name, value in self.stop if value is not None}
        if self.study.target is not None:
            table = {"target": self.study.target, **table}
        rules = stop.from_config(table)
        if self.study.evaluations is not None:
            rules.append(stop.Evaluations(self.study.evaluations))
        return rules

    def make_study(self, *, callbacks: Iterable[Callback] = (), resume: Literal["same", "data"] = "same") -> Study:
        """The study; where its journal holds it already, it goes on.

        Args:
            callbacks: Called with ``(study, event)`` after each recorded event.
            resume: For a journal that holds this study under another strategy: ``"same"`` refuses, ``"data"`` goes on with its data.

        Raises:
            ConfigFaults: The objective is a problem that cannot be imported.
            JournalError: The journal cannot be used, holds another study of this name, or another process drives it.
        """
        from zoopt.study import Study

        study, problem = self.study, None
        if isinstance(self.objective, PythonTable):
            function = self._function(self.objective)
            problem = function if hasattr(function, "optimum") else None
        return Study(
            self.space,
            self.recipe,
            study.direction,
            objectives=study.objectives,
            constraints=study.constraints,
            deterministic=study.deterministic,
            name=study.name,
            journal=self.journal,
            seed=study.seed,
            durability=study.durability,
            problem=problem,
            device=study.device,
            stop=self.rules,
            callbacks=callbacks,
            resume=resume,
        )

    def evaluator(self) -> Evaluator:
        """Who computes the objective. Imports the module of a Python objective.

        Raises:
            ConfigFaults: The command cannot be read, or the function cannot be found.
        """
        from zoopt.evaluate import Batched, Command, Processes, as_evaluator

        objective = self.objective
        if isinstance(objective, CommandTable):
            env = {str(k): str(v) for k, v in objective.env.items()}
            # "python" is then found also where the environment that zoopt is installed in is not active.
            env.setdefault("PATH", os.pathsep.join((os.environ.get("PATH", os.defpath), os.path.dirname(sys.executable))))
            with self._report.at("objective", "command"):
                return Command(
                    objective.command,
                    timeout=objective.timeout,
                    retries=objective.retries,
                    env=env,
                    cwd=self.folder / (objective.cwd or ""),
                    shell=objective.shell,
                )
        function = self._function(objective)
        with self._report.at("objective", "python"):
            if objective.batched:
                return Batched(function)
            made = as_evaluator(function, parallel=self.study.parallel, timeout=objective.timeout)
            if isinstance(made, Processes):
                made.env = {str(k): str(v) for k, v in objective.env.items()}
                made.cwd = self.folder
            return made

    def run_options(self) -> dict[str, Any]:
        """Keyword arguments for ``study.run`` beside the objective."""
        return {"parallel": self.study.parallel, "max_failures": self.study.max_failures}

    def check(self) -> None:
        """Look, without evaluating anything, whether the study could run: strategy and task, journal, the program or function.

        Raises:
            ConfigFaults: With all that would not work.
        """
        from zoopt import evaluate
        from zoopt.drive import examples
        from zoopt.evaluate.evaluator import unfit_signature
        from zoopt.journal import check_address
        from zoopt.random import Random
        from zoopt.strategy import Task

        report = self._report.fresh()
        try:
            check_address(self.journal)
        except (ConfigError, JournalError) as error:
            report.add(("study", "journal"), str(error), value=True)
        try:
            self.space.sample(1, Random(0))
        except SpaceError as error:
            report.add(("study", "known_constraints"), str(error), value=True)
        for name in self.space.names:
            try:
                check_parameter_names([name], self.objectives, self.study.constraints)
            except ConfigError as error:
                report.add(("space", name), str(error))
        for name in self.space.context:
            report.add(
                ("space", name),
                "a context variable is observed and given to study.ask(context=...), so a run from a file has no value for it; "
                'write { type = "fixed", value = ... }, or drive the study from Python.',
            )
        for keys, table in self._conflicts():
            report.add(keys, table)
        evaluator = None
        try:
            evaluator = self.evaluator()
        except ConfigFaults as error:
            report.faults += error.faults
        if isinstance(evaluator, evaluate.Processes):
            if wrong := unfit_signature(evaluator.function, self.space.names):
                report.add(("objective", "python"), f"{wrong} If it takes a whole batch as an (n, d) array, write batched = true.")
        elif evaluator is not None:
            try:
                evaluate.check(evaluator, examples(self.space))
            except ConfigError as error:
                report.add(("objective", "command"), str(error))
        problem = getattr(evaluator, "function", None)
        task = Task(
            self.space,
            tuple(self.objectives),
            tuple(self.study.constraints),
            deterministic=self.study.deterministic,
            device=read_device(self.study.device),
            problem=problem if hasattr(problem, "optimum") else None,
            maximised=frozenset(name for name, way in self.objectives.items() if way == "maximize"),
        )
        try:
            self.recipe.check(task)
        except CapabilityError as error:
            report.add(("study", "strategy"), str(error))
        except ConfigError as error:  # a field of the recipe that does not fit the space or the objectives
            report.add(("strategy",), str(error))
        report.finish()

    def _conflicts(self) -> Iterable[tuple[Keys, str]]:
        objective = self.objective
        if isinstance(objective, PythonTable) and objective.batched:
            for name, unset in (("timeout", None), ("env", {})):
                if getattr(objective, name) != unset:
                    yield (
                        ("objective", name),
                        f"a batched function runs in this process, where {name} cannot be kept; leave it out, or leave batched out.",
                    )
        if self.study.evaluations is None and not self.rules:
            yield ("study", "evaluations"), "nothing ends this study; write evaluations = 100, or a rule in [stop]."

    def _function(self, objective: PythonTable) -> Any:
        """The object named by ``module:name``."""
        report = self._report.fresh()
        found = import_object(objective.python, self.folder, report)
        report.finish()
        return found

    @staticmethod
    def schema() -> dict[str, Any]:
        """JSON Schema of the file, for editors; see ``schema``."""
        return schema()


def load(path: str | os.PathLike[str], overrides: Mapping[str, Any] | None = None) -> StudyConfig:
    """Read and validate a study.toml (or a .json of the same form).

    Args:
        path: The file.
        overrides: Values by dotted name that replace those of the file, e.g. ``{"strategy.sigma0": 0.5}``.

    Raises:
        ConfigFaults: With everything that is wrong, a line each.
    """
    path = Path(path)
    text, data = read(path)
    report = Report(str(path), find(text, toml=path.suffix != ".json"))
    for name, value in (overrides or {}).items():
        override(data, name, value, report)
    for name in data:
        if name not in StudyFile.model_fields:
            report.unknown((name,), StudyFile.model_fields, "table")
    study = report.table(StudyTable, data.get("study", {}), ("study",))
    stop = report.table(StopTable, data.get("stop", {}), ("stop",))
    objective = read_objective(data, report)
    if study is not None:
        crosscheck(study, stop, data, report)
    space = read_space(data, study, path.parent, report)
    recipe = read_recipe(data, report)
    report.finish()
    assert study is not None
    assert stop is not None
    assert objective is not None
    assert space is not None
    return StudyConfig(path, study, objective, stop, space, recipe, report)


def locate(path: str | os.PathLike[str]) -> tuple[str, str]:
    """Journal and study name of a file, for looking at its record: whatever else is wrong in the file does not matter.

    Raises:
        ConfigFaults: The file cannot be read, or its [study] table is wrong.
    """
    path = Path(path)
    text, data = read(path)
    report = Report(str(path), find(text, toml=path.suffix != ".json"))
    study = report.table(StudyTable, data.get("study", {}), ("study",))
    report.finish()
    assert study is not None
    return _journal(study, path), study.name


def schema() -> dict[str, Any]:
    """JSON Schema of a study.toml; editors complete and check with it."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **StudyFile.model_json_schema()}


def parse_value(text: str) -> Any:
    """A value as it would be written in the file (``0.5``, ``true``, ``[1, 2]``); what is none is a text."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _journal(study: StudyTable, path: Path) -> str:
    given = f"{path.stem}.db" if study.journal is None else study.journal
    if given.startswith("sqlite:///"):
        given = given.removeprefix("sqlite:///")
    return given if "://" in given else _shorter(path.parent / Path(given).expanduser())


def _shorter(path: Path) -> str:
    """A path relative to the current folder where it is inside it."""
    absolute = path.absolute()
    return str(absolute.relative_to(Path.cwd())) if absolute.is_relative_to(Path.cwd()) else str(absolute)
