"""What may stand in a study.toml: its tables, their fields, types and meaning. Loading and errors are in ``zoopt.config``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, WithJsonSchema

from zoopt.errors import ConfigError
from zoopt.evaluate.evaluator import duration

Direction = Literal["minimize", "maximize"]
Scalar = str | int | float | bool | None

_SCALAR = {"type": ["string", "number", "boolean"]}


def _choose(kinds: str, *allowed: type) -> BeforeValidator:
    """One of several types, with one sentence where pydantic's unions would give an error for each."""

    def check(value: Any) -> Any:
        if (isinstance(value, bool) and bool not in allowed) or not isinstance(value, allowed):
            raise ValueError(f"{kinds} was expected")
        return value

    return BeforeValidator(check)


def _seconds(value: Any) -> Any:
    try:
        return duration(value)
    except ConfigError:
        raise ValueError("a positive number of seconds or a text such as '30s', '10m' or '1h30m' was expected") from None


def _words(value: Any) -> Any:
    if isinstance(value, str) or (isinstance(value, list) and all(isinstance(part, str) for part in value)):
        return value
    raise ValueError("a text, or a list of texts (the program and its arguments), was expected")


def _environment(value: Any) -> Any:
    if not isinstance(value, dict) or not all(isinstance(v, str | int | float) and not isinstance(v, bool) for v in value.values()):
        raise ValueError('a table of texts or numbers was expected, such as { OMP_NUM_THREADS = "1" }')
    return value


def _shape(value: Any) -> Any:
    sizes = [value] if isinstance(value, int) else value
    if not isinstance(sizes, list) or not all(isinstance(n, int) and not isinstance(n, bool) and n >= 1 for n in sizes):
        raise ValueError("a size such as 10, or a list of sizes such as [3, 4], was expected")
    return sizes


def _when(value: Any) -> Any:
    if not isinstance(value, dict) or not value or any(isinstance(v, dict) or v == [] for v in value.values()):
        raise ValueError('a table of a variable and its value(s) was expected, such as { kernel = "poly" } or { kernel = ["poly", "rbf"] }')
    return value


Duration = Annotated[
    Any, BeforeValidator(_seconds), WithJsonSchema({"type": ["number", "string"], "description": "Seconds, or a text such as '10m'."})
]
When = Annotated[Any, BeforeValidator(_when), WithJsonSchema({"type": "object", "minProperties": 1})]
Shape = Annotated[
    Any,
    BeforeValidator(_shape),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1}, {"type": "array", "items": {"type": "integer", "minimum": 1}}]}),
]
Numbers = Annotated[Any, _choose("a number, or a list of numbers for a shaped variable,", int, float, list), WithJsonSchema({})]
Item = Annotated[Any, _choose("a text, a number, true or false", str, int, float, bool), WithJsonSchema(_SCALAR)]


class Table(BaseModel):
    """A table of the file: no field but those listed, no conversion between types, no number that is not finite."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class StudyTable(Table):
    """The study: what is optimized, by which strategy, how long."""

    strategy: str = Field(default="bo", description="Registered name; `zoopt strategies` lists them.")
    direction: Direction = Field(default="minimize", description="Direction of a single objective.")
    objectives: dict[str, Direction] | None = Field(default=None, description="Names and directions of the objectives.", min_length=1)
    constraints: list[str] = Field(default=[], description="Names of the outcome constraints; a reported value <= 0 is feasible.")
    known_constraints: list[str] = Field(default=[], description="Constraints between variables, such as 'a + b <= 1'; never broken.")
    evaluations: int | None = Field(default=None, ge=1, description="The study's total number of evaluations.")
    parallel: int = Field(default=1, ge=1, description="How many evaluations are out at once; for a batched objective the size of a batch.")
    seed: int | None = Field(default=None, description="Decides every proposal; left out: drawn and recorded.")
    deterministic: bool = Field(default=False, description="The objective has no noise: no point is asked twice.")
    target: float | None = Field(default=None, description="Stop when the best value is at least as good as this.")
    max_failures: int | None = Field(default=None, ge=1, description="Stop with an error when this many evaluations have failed.")
    name: str = Field(default="study", min_length=1, description="Name of the study in its journal.")
    journal: str | None = Field(default=None, min_length=1, description="Path or database URL; left out: an SQLite file beside this one.")
    durability: Literal["full", "process"] = Field(
        default="full", description="'full': what was acknowledged survives a power cut; 'process': it survives a killed process."
    )
    device: str = Field(default="cpu", description="Torch device on which the strategy works.")


class StopTable(Table):
    """Stopping rules; any of them stops the run."""

    evaluations: int | None = Field(default=None, ge=1, description="Trials finished.")
    target: float | None = Field(default=None, description="A best value at least as good as this.")
    time: Duration = Field(default=None, description="Time since the run began: seconds, or a text such as '10m'.")
    stalled: int | None = Field(default=None, ge=1, description="Finished trials without a better value.")
    failures: int | None = Field(default=None, ge=1, description="Failed trials.")
    cost: float | None = Field(default=None, gt=0, description="Total cost of the evaluations, in the unit of the space's fidelities.")


class CommandTable(Table):
    """An objective computed by a program, once for each trial."""

    command: Annotated[
        Any,
        BeforeValidator(_words),
        WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
    ] = Field(
        description="The program and its arguments, with placeholders such as {lr}. The last line of its output is the value, or JSON."
    )
    timeout: Duration = Field(default=None, description="For one evaluation: seconds, or a text such as '10m'.")
    retries: int = Field(default=0, ge=0, description="How often an evaluation that failed is tried again.")
    cwd: str | None = Field(default=None, min_length=1, description="Folder to run in, relative to the file; left out: the file's folder.")
    env: Annotated[Any, BeforeValidator(_environment), WithJsonSchema({"type": "object"})] = Field(
        default={}, description="Environment variables to set."
    )
    shell: bool = Field(default=False, description="Give the command to /bin/sh, with the values quoted for it.")


class PythonTable(Table):
    """An objective computed by a Python function, found from the file's folder, in which its worker processes run."""

    python: str = Field(description="'module:function'; called as function(**params), or with an (n, d) tensor when batched.")
    timeout: Duration = Field(default=None, description="For one evaluation: seconds, or a text such as '10m'.")
    env: Annotated[Any, BeforeValidator(_environment), WithJsonSchema({"type": "object"})] = Field(
        default={}, description="Environment variables of the worker processes."
    )
    batched: bool = Field(default=False, description="Called in this process, wherever it runs, with points (n, d) in problem units.")


class RealTable(Table):
    """A real variable: low and high, or start and scale where it has no bounds."""

    type: Literal["real"]
    low: float | None = None
    high: float | None = None
    log: bool = Field(default=False, description="Search its logarithm.")
    shape: Shape = Field(default=[], description="Size of a vector or sizes of an array of variables with these bounds.")
    start: Numbers = Field(default=None, description="Where an unbounded variable starts.")
    scale: Numbers = Field(default=None, description="Typical change of an unbounded variable.")
    default: Numbers = Field(default=None, description="Its value while it is inactive, and where local methods start.")
    when: When = Field(default=None, description="Active only for these values of other variables.")


class IntegerTable(Table):
    """A whole number from low to high, both included."""

    type: Literal["integer"]
    low: int
    high: int
    log: bool = Field(default=False, description="Search its logarithm.")
    shape: Shape = Field(default=[], description="Size of a vector or sizes of an array of variables with these bounds.")
    default: Numbers = Field(default=None, description="Its value while it is inactive, and where local methods start.")
    when: When = Field(default=None, description="Active only for these values of other variables.")


class BoolTable(Table):
    """True or false."""

    type: Literal["bool"]
    default: bool | None = None
    when: When = Field(default=None, description="Active only for these values of other variables.")


class ChoiceTable(Table):
    """One of several texts, numbers or booleans."""

    type: Literal["choice"]
    choices: list[Item] = Field(min_length=1)
    ordered: bool = Field(default=False, description="Neighbours in the list are alike.")
    default: Item = None
    when: When = Field(default=None, description="Active only for these values of other variables.")


class FixedTable(Table):
    """A value that is passed to the objective and not searched."""

    type: Literal["fixed"]
    value: Annotated[Any, WithJsonSchema({})]


class ContextTable(Table):
    """A variable that is observed and not chosen; given to ask."""

    type: Literal["context"]
    variable: dict[str, Any] = Field(description="A table that describes the variable, as above.")


class FidelityTable(Table):
    """How an evaluation is made (its length, resolution, source): only results at the target count, others cost less."""

    type: Literal["fidelity"]
    variable: dict[str, Any] = Field(description="A table that describes the variable, as above.")
    target: Item = Field(default=None, description="The value that counts; left out: the largest number.")
    cost: dict[str, float] | None = Field(default=None, description="Cost of an evaluation by value; left out: in proportion to it.")


class EnvironmentTable(Table):
    """A condition that is chosen while we evaluate, and random in use."""

    type: Literal["environment"]
    variable: dict[str, Any] = Field(description="A table that describes the variable, as above.")
    mean: float | None = Field(default=None, description="Of a normal law, cut off at the bounds.")
    sd: float | None = Field(default=None, gt=0, description="Its standard deviation.")
    weights: Annotated[Any, WithJsonSchema({"type": ["array", "object"]})] = Field(
        default=None, description="How often each value comes, by value or in their order."
    )


Variable = Annotated[
    RealTable | IntegerTable | BoolTable | ChoiceTable | FixedTable | ContextTable | FidelityTable | EnvironmentTable,
    Field(discriminator="type"),
]


def _objective_kind(value: Any) -> str | None:
    if isinstance(value, Mapping):
        return "command" if "command" in value else "python" if "python" in value else None
    return "command" if isinstance(value, CommandTable) else "python"


Objective = Annotated[
    Annotated[CommandTable, Tag("command")] | Annotated[PythonTable, Tag("python")],
    Discriminator(_objective_kind),
]


class StudyFile(Table):
    """A study.toml: `zoopt run study.toml` runs it, and goes on where it stopped."""

    study: StudyTable = Field(default_factory=StudyTable)
    strategy: dict[str, Any] = Field(default={}, description="Fields of the strategy; `zoopt strategies NAME` lists them.")
    objective: Objective
    space: dict[str, Variable] = Field(
        min_length=1,
        description='The variables by name; or pool = "shelf.csv", a file whose rows are the only candidates.',
        json_schema_extra={
            "properties": {
                "pool": {"type": "string", "description": "A CSV file whose rows are the only candidates."},
                "labels": {
                    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
                    "description": "Columns of the pool that name a row and say nothing of it.",
                },
            }
        },
    )
    stop: StopTable = Field(default_factory=StopTable)


VARIABLES: dict[str, type[Table]] = {
    "real": RealTable,
    "integer": IntegerTable,
    "bool": BoolTable,
    "choice": ChoiceTable,
    "fixed": FixedTable,
    "context": ContextTable,
    "fidelity": FidelityTable,
    "environment": EnvironmentTable,
}
