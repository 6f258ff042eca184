"""A function of whole batches, computed in this process."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from zoopt.errors import ConfigError, SpaceError
from zoopt.evaluate.evaluator import TrialLike
from zoopt.evaluate.outcome import RESERVED, NotAResult, Outcome, call_objective, describe, failure_of
from zoopt.feedback import Evaluation

if TYPE_CHECKING:
    from zoopt.study import Study
    from zoopt.trials import Batch

_log = logging.getLogger("zoopt.run")

Array = np.ndarray[Any, Any]


@dataclass(slots=True)
class BatchOutcome:
    """What the evaluation of n points gave.

    Attributes:
        values: ``(n, m)`` in the order of the objectives.
        constraints: ``(n, c)`` in the order of the constraints, or None where there are none.
        noise: Standard deviations of the values, ``(n, m)``, or None.
        gradients: In problem units, ``(n, m, d)``, or None.
        metrics: Further numbers by name, ``(n,)`` each.
        reached: The settings that were reached, problem units ``(n, d)``, or None.
        errors: Row to reason, for the rows that failed; their numbers are not to be read.
        stderr: The traceback when the function raised.
        seconds: Wall time of the call.
    """

    values: Array
    constraints: Array | None = None
    noise: Array | None = None
    gradients: Array | None = None
    metrics: dict[str, Array] = field(default_factory=dict)
    reached: Array | None = None
    errors: dict[int, str] = field(default_factory=dict)
    stderr: str = ""
    seconds: float = 0.0

    @property
    def ok(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Which rows did not fail, ``(n,)``."""
        ok = np.ones(len(self.values), dtype=bool)
        ok[list(self.errors)] = False
        return ok

    def row(self, i: int) -> Outcome:
        """One row as the outcome of one trial."""
        if i in self.errors:
            return Outcome.failed(self.errors[i], self.stderr, self.seconds)
        return Outcome(
            values=self.values[i].tolist(),
            constraints=None if self.constraints is None else self.constraints[i].tolist(),
            noise=None if self.noise is None else self.noise[i].tolist(),
            metrics={name: float(column[i]) for name, column in self.metrics.items()},
            gradients=None if self.gradients is None else self.gradients[i].tolist(),
            reached=None if self.reached is None else self.reached[i].tolist(),
            seconds=self.seconds,
        )


class Batched:
    """Computes a function of whole batches in this process: for vectorised numpy or torch code, and for free objectives.

    Args:
        function: Called with points ``(n, d)`` in problem units (choices as indices). Gives values ``(n,)`` or ``(n, m)``, a
            dict by objective name of ``(n,)`` each (plus ``constraints``, ``noise``, ``metrics``), or an ``Evaluation``; numpy or torch.
        numpy: Whether the points are handed over as a numpy array instead of a tensor. None: a tensor is tried first, and
            an array when the function does not take it.
    """

    batched = True

    def __init__(self, function: Callable[..., Any], *, numpy: bool | None = None) -> None:
        if not callable(function):
            raise ConfigError(f"{function!r} is not an objective; a function of a batch of points (n, d) was expected.")
        self.function = function
        self.numpy = numpy

    def start(self, parallel: int) -> None:
        """Nothing to start."""

    def close(self) -> None:
        """Nothing to end."""

    def submit(self, trial: TrialLike) -> Future[Outcome]:
        """Compute one trial, at once: the future is done. It needs the trial's ``x``, problem units ``(d,)``."""
        x: Tensor = trial.x  # type: ignore[attr-defined]
        future: Future[Outcome] = Future()
        future.set_result(call_objective(self._call, {"x": x.unsqueeze(0)}))
        return future

    def evaluate(self, x: Tensor, objectives: Sequence[str] = ("value",), constraints: Sequence[str] = ()) -> BatchOutcome:
        """Compute n points. Never raises for what the function does.

        Args:
            x: Problem units, ``(n, d)``. The function gets a copy, which it may change.
            objectives: The study's m objective names.
            constraints: The study's c constraint names.
        """
        n, m = x.shape[0], len(objectives)
        start = time.perf_counter()
        try:
            outcome = _assemble(_split(self._call(x)), x, list(objectives), list(constraints))
        except (Exception, SystemExit) as error:  # a function may well call a script's sys.exit
            nothing = np.full((n, m), np.nan)
            if isinstance(error, NotAResult):
                reason, stderr = f"the objective {error}", ""
            else:
                reason, stderr = describe(error), failure_of(error).stderr
            outcome = BatchOutcome(nothing, errors=dict.fromkeys(range(n), reason), stderr=stderr)
        outcome.seconds = time.perf_counter() - start
        return outcome

    def tell(self, study: Study, batch: Batch) -> None:
        """Compute a batch of a study and record everything that came back, failures with their reasons."""
        outcome = self.evaluate(batch.x, study.task.objectives, study.task.constraints)
        settings = None if outcome.reached is None else _settings(study, outcome)
        if len(outcome.errors) < len(batch):
            rows = outcome.ok
            everything = bool(rows.all())

            def pick(part: Array | None) -> Array | None:
                return part if part is None or everything else part[rows]

            study.tell(
                batch if everything else batch.ids[rows],
                pick(outcome.values),
                constraints=pick(outcome.constraints),
                noise=pick(outcome.noise),
                gradients=pick(outcome.gradients),
                metrics={name: pick(column) for name, column in outcome.metrics.items()} or None,
                at=None if settings is None else [settings[i] for i in np.flatnonzero(rows).tolist()],
            )
        failed: dict[str, list[int]] = {}
        for i, reason in outcome.errors.items():
            failed.setdefault(reason, []).append(int(batch.ids[i]))
        for reason, ids in failed.items():
            study.fail(ids, f"{reason}\n{outcome.stderr}" if outcome.stderr else reason)
            _log.warning("%s failed: %s", f"trial {ids[0]}" if len(ids) == 1 else f"{len(ids)} trials", reason)

    def _call(self, x: Tensor) -> Any:
        if self.numpy:
            return self.function(x.detach().cpu().numpy().copy())
        if self.numpy is False:
            return self.function(x.clone())
        try:
            result = self.function(x.clone())
            self.numpy = False
            return result
        except (TypeError, AttributeError):  # what numpy code does with a tensor
            try:
                result = self.function(x.detach().cpu().numpy().copy())
            except Exception:
                result = None
            if result is None:
                raise  # the fault is not in the kind of array
        self.numpy = True
        return result


def _settings(study: Study, outcome: BatchOutcome) -> dict[int, dict[str, Any]]:
    """The settings that were reached by row, as parameters; a row whose setting breaks a known constraint fails."""
    assert outcome.reached is not None
    rows = np.flatnonzero(outcome.ok)
    points = study.space.encode_numpy(outcome.reached[rows])
    settings = dict(zip(rows.tolist(), study.space.params(points), strict=True))
    for i in rows[~study.space.allowed(points)].tolist():
        try:
            study.space.encode_params([settings[i]])
        except SpaceError as error:
            outcome.errors[i] = f"the objective gave a reached setting that cannot be: {error}"
    return settings


@dataclass(slots=True)
class _Parts:
    values: Any  # (n,), (n, m), or a dict by name
    constraints: Any = None
    noise: Any = None
    gradients: Any = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    reached: Any = None


def _split(result: Any) -> _Parts:
    if result is None:
        raise NotAResult("returned None; does it lack a return statement?")
    values = result
    given: dict[str, Any] = {}
    if isinstance(result, Evaluation):
        values, given = result.values, {name: getattr(result, name) for name in RESERVED}
    elif isinstance(result, Mapping):
        values = {name: value for name, value in result.items() if name not in RESERVED}
        given = {name: result.get(name) for name in RESERVED}
        if not values:
            raise NotAResult("returned a dict that holds no objective")
    if isinstance(values, Mapping):
        values = {str(name): value for name, value in values.items()}
    if given.get("metrics") is None:
        given["metrics"] = {}
    elif not isinstance(given["metrics"], Mapping):
        raise NotAResult(f"gave {type(given['metrics']).__name__} for the metrics; a dict of numbers by name was expected")
    return _Parts(values, **given)


def _array(value: Any, what: str) -> Array:
    try:
        if isinstance(value, Tensor):
            value = value.detach().to("cpu", torch.complex128 if value.is_complex() else torch.float64).numpy()
        elif isinstance(value, list | tuple) and any(isinstance(v, Tensor) for v in value):
            value = [v.detach().cpu().numpy() if isinstance(v, Tensor) else v for v in value]
        array = np.asarray(value)
    except (TypeError, ValueError):
        array = np.asarray(None)
    if array.dtype.kind == "c":
        raise NotAResult(f"gave complex numbers for {what}; real ones were expected")
    if array.dtype.kind not in "fiub":
        raise NotAResult(f"gave {type(value).__name__} for {what}; numbers were expected")
    return array.astype(np.float64)


def _columns(value: Any, n: int, what: str, width: int | None = None) -> Array:
    """An ``(n, k)`` array from ``(n,)``, ``(n, k)`` or a tuple of k columns."""
    if isinstance(value, tuple) and value and all(getattr(v, "shape", None) == (n,) for v in value):
        return np.stack([_array(v, what) for v in value], axis=1)
    array = _array(value, what)
    given = array.shape
    if array.shape == (n,) or (array.shape == () and n == 1):
        array = array.reshape(n, 1)
    if array.ndim != 2 or array.shape[0] != n or (width is not None and array.shape[1] != width):
        wanted = f"({n},) or ({n}, 1)" if width == 1 else f"({n}, {'k' if width is None else width})"
        raise NotAResult(f"gave {what} of shape {given}; {wanted} was expected")
    return array


def _by_name(given: Mapping[str, Any], names: Sequence[str], n: int, what: str) -> Array:
    """The columns of these names, ``(n, len(names))``."""
    columns = [_columns(given[name], n, f"{what} for {name}", 1) for name in names]
    return np.concatenate(columns, axis=1) if columns else np.empty((n, 0))


def _metric(value: Any, n: int) -> Array | None:
    """A number for each point, ``(n,)``; None for what is none, since a text among the metrics is no reason to lose a value."""
    try:
        array = _array(value, "a metric")
        return np.full(n, array) if array.ndim == 0 else _columns(array, n, "a metric", 1)[:, 0]
    except NotAResult:
        return None


def _shaped(value: Any, shape: tuple[int, ...], what: str) -> Array | None:
    if value is None:
        return None
    array = _array(value, what)
    if array.size != int(np.prod(shape)) or (array.ndim and array.shape[0] != shape[0]):
        raise NotAResult(f"gave {what} of shape {array.shape}; {shape} was expected")
    return array.reshape(shape)


def _assemble(parts: _Parts, x: Tensor, objectives: list[str], constraints: list[str]) -> BatchOutcome:
    """Checks shapes and puts columns in order."""
    n, m, d = x.shape[0], len(objectives), x.shape[1]
    metrics = dict(parts.metrics)
    inside: dict[str, Any] = {}
    if isinstance(parts.values, dict):
        named = dict(parts.values)
        if m == 1 and objectives[0] not in named and "value" in named:
            named[objectives[0]] = named.pop("value")
        missing = [name for name in objectives if name not in named]
        if missing:
            raise NotAResult(f"gave {', '.join(named)}, but no values for {', '.join(missing)}")
        values = _by_name(named, objectives, n, "values")
        inside = {name: named[name] for name in constraints if name in named}
        metrics = {name: value for name, value in named.items() if name not in (*objectives, *inside)} | metrics
    else:
        values = _columns(parts.values, n, "values", m)
    noise = None
    if isinstance(parts.noise, Mapping):
        if set(parts.noise) != set(objectives):
            raise NotAResult(f"gave noise for {', '.join(map(str, parts.noise))}, but it is expected for {', '.join(objectives)}")
        noise = _by_name(parts.noise, objectives, n, "noise")
    elif parts.noise is not None:
        noise = _columns(parts.noise, n, "noise", m)
    columns = {str(name): _metric(value, n) for name, value in metrics.items()}
    outcome = BatchOutcome(
        values,
        _violations(parts.constraints, inside, n, constraints),
        noise,
        _shaped(parts.gradients, (n, m, d), "gradients"),
        {name: column for name, column in columns.items() if column is not None},
        _shaped(parts.reached, (n, d), "reached settings"),
    )
    _find_failures(outcome, objectives, constraints)
    return outcome


def _violations(given: Any, inside: Mapping[str, Any], n: int, names: list[str]) -> Array | None:
    """Outcome constraints ``(n, c)`` from what was given as such and what stood beside the objectives; None where there are none."""
    if isinstance(given, Mapping) or (given is None and inside):
        named = {**inside, **({str(name): value for name, value in given.items()} if given is not None else {})}
        if set(named) != set(names):
            raise NotAResult(f"gave the constraints {', '.join(named)}, but the study names {', '.join(names) or 'none'}")
        return _by_name(named, names, n, "constraints") if names else None
    if inside:
        raise NotAResult("gave constraints twice, by name and as an array; give them once")
    if given is None:
        if names:
            raise NotAResult(f"gave no constraints, but the study names {', '.join(names)}")
        return None
    violations = _columns(given, n, "constraints")
    if violations.shape[1] != len(names):
        raise NotAResult(f"gave {violations.shape[1]} constraint(s), but the study names {', '.join(names) or 'none'}")
    return violations if names else None


def _find_failures(outcome: BatchOutcome, objectives: list[str], constraints: list[str]) -> None:
    """Marks rows whose numbers cannot be learned from."""
    checked = {
        "values": (outcome.values, False),
        "constraints": (outcome.constraints, False),
        "noise": (outcome.noise, True),
        "gradients": (outcome.gradients, False),
        "reached": (outcome.reached, False),
    }
    for part, (numbers, positive) in checked.items():
        if numbers is None:
            continue
        good = np.isfinite(numbers) & (numbers >= 0) if positive else np.isfinite(numbers)
        for i in np.flatnonzero(~good.reshape(len(good), -1).all(1)).tolist():
            outcome.errors.setdefault(i, _reason(part, numbers[i], objectives, constraints))


def _reason(part: str, row: Array, objectives: list[str], constraints: list[str]) -> str:
    if part in ("values", "constraints"):
        k = int(np.argmin(np.isfinite(row)))
        name = f"constraint {constraints[k]}" if part == "constraints" else objectives[k] if len(objectives) > 1 else ""
        return f"the objective returned {'NaN' if np.isnan(row[k]) else row[k]}{' for ' + name if name else ''}"
    if part == "noise":
        return "the objective gave noise that is not a finite standard deviation >= 0"
    if part == "gradients":
        return "the objective gave gradients that are not all finite"
    return f"the objective gave the reached setting {row.tolist()}; finite numbers were expected"
