"""What one evaluation gave, and how the many things that an objective may return are read.

Two steps, because they happen in two places. Where the objective ran, its result becomes plain Python numbers
(``Outcome.of``), which always travel between processes. Where the study is, the names of objectives and constraints
are known, and the numbers are put in order and checked (``Outcome.resolve``).
"""

from __future__ import annotations

import json
import math
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

STDERR_BYTES = 4096  # how much of the standard error of a trial is kept
RESERVED = ("constraints", "noise", "metrics", "gradients", "reached")
_REASON_CHARS = 400


class NotAResult(ValueError):
    """What the objective returned cannot be read as a result; the message is the end of 'the objective ...'."""


@dataclass(slots=True)
class Outcome:
    """What one evaluation gave. A failure is an outcome too: ``error`` says why, and the numbers are not to be read.

    Attributes:
        values: As returned: a number, a list of numbers in the order of the objectives, or a dict by objective name.
            After ``resolve`` always a list in the order of the objectives.
        constraints: A number, a list or a dict by constraint name; ``<= 0`` is feasible. After ``resolve`` a list or None.
        noise: Standard deviations of the values, in the same forms.
        metrics: Further numbers to keep.
        gradients: In problem units, ``(d,)`` or ``(m, d)`` as nested lists.
        reached: The setting that was reached where it differs from the one asked: problem units ``(d,)``, or a dict of parameters.
        error: One line that says why the evaluation failed; None when it did not.
        stderr: The last 4 KB of what the evaluation wrote to its standard error, with the traceback of an exception.
        seconds: Wall time of the evaluation.
    """

    values: Any = None
    constraints: Any = None
    noise: Any = None
    metrics: dict[str, Any] = field(default_factory=dict)
    gradients: Any = None
    reached: Any = None
    error: str | None = None
    stderr: str = ""
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether there are numbers to read."""
        return self.error is None

    @classmethod
    def failed(cls, error: str, stderr: str = "", seconds: float = 0.0) -> Outcome:
        """An evaluation that failed: a reason, of which the first line is kept, and what it wrote."""
        return cls(error=one_line(error), stderr=tail(stderr), seconds=seconds)

    @classmethod
    def of(cls, result: Any, stderr: str = "", seconds: float = 0.0) -> Outcome:
        """Reads what an objective returned.

        That is a number, a scalar or vector of numpy or torch, a sequence of values, a dict by objective name (plus
        ``constraints``, ``noise``, ``metrics``), an ``Evaluation`` or an ``Outcome``. Never raises: anything else is a
        failed outcome that says what arrived.
        """
        if isinstance(result, Outcome):
            if result.error is not None:
                return replace(result, error=one_line(str(result.error)), stderr=tail(result.stderr or ""))
            stderr, seconds = result.stderr or stderr, result.seconds or seconds
        try:
            made = _read(result)
        except NotAResult as error:
            return cls.failed(f"the objective {error}", stderr, seconds)
        return replace(made, stderr=tail(stderr), seconds=seconds)

    def resolve(self, objectives: Sequence[str], constraints: Sequence[str] = ()) -> Outcome:
        """The same outcome with its numbers in the order of a study's names; failed when they do not fit.

        A dict may carry more than the objectives: constraints are taken by their names, every other number is a metric.
        ``"value"`` stands for the only objective, whatever its name.

        Args:
            objectives: The study's m objective names.
            constraints: The study's c constraint names.

        Returns:
            An outcome with ``values`` a list (m,), ``constraints`` a list (c,) or None when c is 0, ``noise`` a list (m,) or None.
        """
        if self.error is not None:
            return self
        read = Outcome.of(self)  # a user's own may hold anything
        if read.error is not None:
            return read
        try:
            return read._ordered(list(objectives), list(constraints))
        except NotAResult as error:
            return replace(Outcome.failed(f"the objective {error}", read.stderr, read.seconds), metrics=dict(read.metrics))

    def _ordered(self, objectives: list[str], names: list[str]) -> Outcome:
        metrics = dict(self.metrics)
        violations = self.constraints
        if isinstance(self.values, dict):
            named = dict(self.values)
            if len(objectives) == 1 and objectives[0] not in named and "value" in named:
                named[objectives[0]] = named.pop("value")
            missing = [name for name in objectives if name not in named]
            if missing:
                have = ", ".join(named) or "nothing"
                raise NotAResult(f"gave {have}, but no value for {', '.join(missing)}")
            raw = [named.pop(name) for name in objectives]
            inside = {name: named.pop(name) for name in names if name in named}
            if inside:
                if violations is None:
                    violations = inside
                elif isinstance(violations, dict):
                    violations = {**inside, **violations}
                else:
                    raise NotAResult("gave constraints twice, by name and as a list; give them once")
            metrics = {**numbers_only(named), **metrics}
        else:
            raw = self.values if isinstance(self.values, list) else [self.values]
            if len(raw) != len(objectives):
                raise NotAResult(
                    f"returned {_count(raw, 'value')}, but the study has {_count(objectives, 'objective')}: {', '.join(objectives)}"
                )
        values = [_finite(value, name) for value, name in zip(raw, objectives, strict=True)]
        noise = None
        if self.noise is not None:
            noise = _in_order(self.noise, objectives, "noise")
            for value, name in zip(noise, objectives, strict=True):
                if not (value >= 0 and math.isfinite(value)):
                    raise NotAResult(f"gave {value} as noise of {name}; a finite standard deviation >= 0 was expected")
        ordered = None
        if names:
            if violations is None:
                raise NotAResult(f"gave no constraints, but the study names {', '.join(names)}")
            ordered = [_finite(v, f"constraint {name}") for v, name in zip(_in_order(violations, names, "constraints"), names, strict=True)]
        elif violations not in (None, [], {}):
            raise NotAResult("gave constraints, but the study names none; name them with constraints=[...]")
        return replace(self, values=values, constraints=ordered, noise=noise, metrics=metrics)


def call_objective(function: Callable[..., Any], params: Mapping[str, Any]) -> Outcome:
    """Calls ``function(**params)`` and reads its result; raising, also SystemExit, is a failed outcome with the traceback."""
    start = time.perf_counter()
    try:
        result = function(**params)
        # Reading is inside, since the conversion of a lazy result may be where the work is done and fails.
        return Outcome.of(result, seconds=time.perf_counter() - start)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return failure_of(error, time.perf_counter() - start)


def failure_of(error: BaseException, seconds: float = 0.0) -> Outcome:
    """The failed outcome of an exception that the objective raised; our own frame is left out of its traceback."""
    inner = error.__traceback__.tb_next if error.__traceback__ is not None else None
    try:
        trace = "".join(traceback.format_exception(type(error), error, inner))
    except Exception:  # an exception whose __str__ raises
        trace = f"{type(error).__name__}\n"
    return Outcome.failed(describe(error), trace, seconds)


def describe(error: BaseException) -> str:
    """An exception as one line: its type and the first line of its message."""
    try:
        text = str(error)
    except Exception:
        text = ""
    return one_line(f"{type(error).__name__}: {text}" if text.strip() else type(error).__name__)


def one_line(text: str) -> str:
    """The first line that says something, at most 400 characters."""
    line = next((line.strip() for line in text.splitlines() if line.strip()), "failed")
    return line if len(line) <= _REASON_CHARS else line[: _REASON_CHARS - 3] + "..."


def tail(text: str | bytes) -> str:
    """The last 4 KB (of UTF-8)."""
    data = text.encode("utf-8", "replace") if isinstance(text, str) else text
    return data[-STDERR_BYTES:].decode("utf-8", "ignore" if len(data) > STDERR_BYTES else "replace")


def parse_text(text: str) -> Any:
    """Reads what a command wrote: a number, a JSON list of numbers, or a JSON object.

    Raises:
        NotAResult: It is none of these.
    """
    line = text.strip()
    if "_" not in line:  # float() takes 1_000, which no other program means
        try:
            return float(line)
        except ValueError:
            pass
    try:
        value = json.loads(line)
    except ValueError:
        value = None
    if isinstance(value, dict | list):
        return value
    shown = line if len(line) <= 80 else line[:77] + "..."
    raise NotAResult(f"{shown!r}")


def numbers_only(items: Mapping[str, Any]) -> dict[str, float]:
    """The entries that are numbers; the others are left out, since a text among the metrics is no reason to lose a value."""
    kept = {}
    for name, value in items.items():
        try:
            kept[str(name)] = _number(value)
        except NotAResult:
            continue
    return kept


def _count(items: Sequence[Any], noun: str) -> str:
    return f"{len(items)} {noun}" if len(items) == 1 else f"{len(items)} {noun}s"


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except Exception:
        text = object.__repr__(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _number(value: Any) -> float:
    """A float from a Python, numpy or torch scalar (also an array of one element)."""
    if isinstance(value, float | int):
        try:
            return float(value)
        except OverflowError:
            raise NotAResult(f"returned an integer of {len(str(value))} digits, more than a float holds") from None
    if isinstance(value, str | bytes | bytearray | complex) or value is None:
        raise NotAResult(f"returned {_shown(value)} where a number was expected")
    if hasattr(value, "tolist") and hasattr(value, "shape"):
        value = value.tolist()
        while isinstance(value, list) and len(value) == 1:
            value = value[0]
        if isinstance(value, float | int):
            return float(value)
    elif hasattr(value, "__float__"):
        try:
            return float(value)
        except (TypeError, ValueError, OverflowError):
            pass
    raise NotAResult(f"returned {_shown(value)} where a number was expected")


def _numbers(value: Any) -> float | list[float] | dict[str, Any]:
    """A number, a list of numbers or a dict by name."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if hasattr(value, "tolist") and hasattr(value, "shape"):
        value = value.tolist()
        while isinstance(value, list) and len(value) == 1:  # a row of one trial
            value = value[0]
    if isinstance(value, list | tuple):
        return [_number(v) for v in value]
    return _number(value)


def _plain(value: Any) -> Any:
    """A float where the value is a number, else a short text: what a dict holds beside the objectives need not be a number."""
    try:
        return _number(value)
    except NotAResult:
        return value if isinstance(value, str) and len(value) <= 60 else _shown(value)


def _nested(value: Any) -> Any:
    if hasattr(value, "tolist"):
        value = value.tolist()
    return [_nested(v) for v in value] if isinstance(value, list | tuple) else _number(value)


def _gradients(value: Any) -> Any:
    """Nested lists of finite numbers, and of None (in JSON null) for derivatives that are not known."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [None if part is None else _gradients(part) for part in value]
    number = _number(value)
    if not math.isfinite(number):
        raise NotAResult("gave gradients that are not all finite")
    return number


def _reached(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else _nested(value)


def _read(result: Any) -> Outcome:
    if result is None:
        raise NotAResult("returned None; does it lack a return statement?")
    if isinstance(result, Mapping):
        rest = {k: v for k, v in result.items() if k not in RESERVED}
        parts: dict[str, Any] = {k: result[k] for k in RESERVED if result.get(k) is not None}
        if not rest:
            raise NotAResult(f"returned {_shown(result)}, which holds no objective")
        values: Any = _numbers(rest)
        if set(values) == {"value"}:
            values = values["value"]
            if isinstance(values, str):
                raise NotAResult(f"returned {values!r} where a number was expected")
    elif isinstance(result, Outcome) or (type(result).__name__ == "Evaluation" and all(hasattr(result, k) for k in ("values", *RESERVED))):
        # An Evaluation by its shape and not by isinstance: importing its class would load torch into every worker process.
        parts = {k: getattr(result, k) for k in RESERVED if getattr(result, k) is not None}
        values = _numbers(result.values)
    else:
        parts = {}
        values = _numbers(result)
    if isinstance(values, list) and len(values) == 1:
        values = values[0]
    for value in values if isinstance(values, list) else [values] if isinstance(values, float) else []:
        _finite(value, "the value")
    metrics = parts.get("metrics", {})
    if not isinstance(metrics, Mapping):
        raise NotAResult(f"gave the metrics {_shown(metrics)}; a dict of numbers by name was expected")
    return Outcome(
        values=values,
        constraints=_numbers(parts["constraints"]) if "constraints" in parts else None,
        noise=_numbers(parts["noise"]) if "noise" in parts else None,
        metrics=dict(numbers_only(metrics)),
        gradients=_gradients(parts["gradients"]) if "gradients" in parts else None,
        reached=_reached(parts["reached"]) if "reached" in parts else None,
    )


def _finite(value: Any, what: str) -> float:
    if not isinstance(value, float):
        raise NotAResult(f"gave {_shown(value)} for {what}; a number was expected")
    if math.isnan(value):
        raise NotAResult(f"returned NaN for {what}" if what != "the value" else "returned NaN")
    if math.isinf(value):
        raise NotAResult(f"returned {value} for {what}; a finite number was expected" if what != "the value" else f"returned {value}")
    return value


def _in_order(given: Any, names: list[str], what: str) -> list[float]:
    if isinstance(given, dict):
        missing = [name for name in names if name not in given]
        unknown = [name for name in given if name not in names]
        if missing or unknown:
            raise NotAResult(f"gave {what} for {', '.join(given) or 'nothing'}, but they are expected for {', '.join(names)}")
        row = [given[name] for name in names]
    else:
        row = given if isinstance(given, list) else [given]
        if len(row) != len(names):
            raise NotAResult(f"gave {what} of {len(row)} number(s), but {len(names)} are expected: {', '.join(names)}")
    wrong = next((v for v in row if not isinstance(v, float)), None)
    if wrong is not None:
        raise NotAResult(f"gave {_shown(wrong)} among its {what}; numbers were expected")
    return row
