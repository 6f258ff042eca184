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
from zoopt.evaluate.outcome import RESERVED, NotAResult, Outcome, describe, failure_of
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
        future.set_result(self._single(x.unsqueeze(0)))
        return future

    def _single(self, x: Tensor) -> Outcome:
        # The names of the objectives are not known here, so the row is given as the function gave it.
        start = time.perf_counter()
        try:
            parts = _split(self._call(x))
            names = parts.names
            outcome = _assemble(parts, x, [*names] if names else [str(i) for i in range(_width(parts.values, 1))], None)
        except NotAResult as error:
            return Outcome.failed(f"the objective {error}", seconds=time.perf_counter() - start)
        except (Exception, SystemExit) as error:
            return failure_of(error, time.perf_counter() - start)
        outcome.seconds = time.perf_counter() - start
        row = outcome.row(0)
        if row.ok and names:
            row.values = dict(zip(names, row.values, strict=True))
        if row.ok and parts.constraint_names and row.constraints is not None:
            row.constraints = dict(zip(parts.constraint_names, row.constraints, strict=True))
        return row

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
    values: Any  # (n,), (n, m), or a list of (n,) in the order of names
    names: list[str] | None
    constraints: Any = None
    constraint_names: list[str] | None = None
    noise: Any = None  # as the constraints, or by objective name
    gradients: Any = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    reached: Any = None


def _split(result: Any) -> _Parts:
    if result is None:
        raise NotAResult("returned None; does it lack a return statement?")
    if isinstance(result, Evaluation):
        given: Mapping[str, Any] = {name: getattr(result, name) for name in RESERVED}
        values: Any = result.values
    elif isinstance(result, Mapping):
        given = result
        values = {str(k): v for k, v in result.items() if k not in RESERVED}
        if not values:
            raise NotAResult("returned a dict that holds no objective")
    else:
        given, values = {}, result
    names = None
    if isinstance(values, Mapping):
        names, values = list(values), list(values.values())
    violations, constraint_names = given.get("constraints"), None
    if isinstance(violations, Mapping):
        constraint_names, violations = [str(k) for k in violations], list(violations.values())
    noise = given.get("noise")
    metrics = given.get("metrics") or {}
    return _Parts(values, names, violations, constraint_names, noise, given.get("gradients"), metrics, given.get("reached"))


def _array(value: Any, what: str) -> Array:
    if isinstance(value, Tensor):
        value = value.detach().to("cpu", torch.float64).numpy()
    try:
        if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
            return value.astype(np.float64)
        if isinstance(value, list | tuple) and any(isinstance(v, Tensor) for v in value):
            value = [v.detach().cpu().numpy() if isinstance(v, Tensor) else v for v in value]
        array = np.asarray(value)
        if array.dtype.kind not in "fiub":
            raise TypeError
        return array.astype(np.float64)
    except (TypeError, ValueError):
        raise NotAResult(f"gave {type(value).__name__} for {what}; numbers were expected") from None


def _columns(value: Any, n: int, what: str, by_name: bool, width: int | None = None) -> Array:
    """An ``(n, k)`` array from ``(n,)``, ``(n, k)`` or, by name, k columns."""
    if by_name or (isinstance(value, tuple) and all(getattr(v, "shape", None) == (n,) for v in value)):
        columns = [_array(v, what) for v in value]
        for column in columns:
            if column.shape not in ((n,), (n, 1)):
                raise NotAResult(f"gave {what} of shape {column.shape} for a name; ({n},) was expected, a number for each point")
        return np.stack([c.reshape(n) for c in columns], axis=1) if columns else np.empty((n, 0))
    array = _array(value, what)
    if array.shape == (n,) or (array.shape == () and n == 1):
        array = array.reshape(n, 1)
    if array.ndim != 2 or array.shape[0] != n or (width is not None and array.shape[1] != width):
        k = "k" if width is None else str(width)
        wanted = f"({n},) or ({n}, 1)" if width == 1 else f"({n}, {k})"
        raise NotAResult(
            f"gave {what} of shape {np.shape(value) if not isinstance(value, Tensor) else tuple(value.shape)}; {wanted} was expected"
        )
    return array


def _width(values: Any, n: int) -> int:
    return int(_columns(values, n, "values", False).shape[1])


def _shaped(value: Any, shape: tuple[int, ...], what: str) -> Array | None:
    if value is None:
        return None
    array = _array(value, what)
    if array.size != int(np.prod(shape)) or (array.ndim and array.shape[0] != shape[0]):
        raise NotAResult(f"gave {what} of shape {array.shape}; {shape} was expected")
    return array.reshape(shape)


def _assemble(parts: _Parts, x: Tensor, objectives: list[str], constraints: list[str] | None) -> BatchOutcome:
    """Checks shapes and puts columns in order. ``constraints`` None: take them as they come."""
    n, m, d = x.shape[0], len(objectives), x.shape[1]
    metrics = dict(parts.metrics)
    values = _columns(parts.values, n, "values", parts.names is not None, None if parts.names else m)
    noise = None
    if isinstance(parts.noise, Mapping):
        if set(parts.noise) != set(objectives):
            raise NotAResult(f"gave noise for {', '.join(parts.noise)}, but it is expected for {', '.join(objectives)}")
        noise = _columns([parts.noise[name] for name in objectives], n, "noise", True)
    elif parts.noise is not None:
        noise = _columns(parts.noise, n, "noise", False, m)
    inside: dict[str, Array] = {}
    if parts.names is not None:
        named = dict(zip(parts.names, range(len(parts.names)), strict=True))
        if m == 1 and objectives[0] not in named and "value" in named:
            named[objectives[0]] = named.pop("value")
        missing = [name for name in objectives if name not in named]
        if missing:
            raise NotAResult(f"gave {', '.join(named)}, but no values for {', '.join(missing)}")
        order = [named.pop(name) for name in objectives]
        for name, k in named.items():
            (inside if name in (constraints or ()) else metrics)[name] = values[:, k]
        values = values[:, order]
    violations = None
    if parts.constraints is not None:
        violations = _columns(parts.constraints, n, "constraints", parts.constraint_names is not None)
        if parts.constraint_names is not None and constraints is not None:
            inside |= {name: violations[:, k] for k, name in enumerate(parts.constraint_names)}
            violations = None
    if constraints is not None:
        if inside:
            if violations is not None:
                raise NotAResult("gave constraints twice, by name and as an array; give them once")
            if set(inside) != set(constraints):
                raise NotAResult(f"gave the constraints {', '.join(inside)}, but the study names {', '.join(constraints) or 'none'}")
            violations = np.stack([inside[name] for name in constraints], axis=1)
        if constraints and violations is None:
            raise NotAResult(f"gave no constraints, but the study names {', '.join(constraints)}")
        if violations is not None and violations.shape[1] != len(constraints):
            raise NotAResult(f"gave {violations.shape[1]} constraint(s), but the study names {', '.join(constraints) or 'none'}")
        if not constraints:
            violations = None
    outcome = BatchOutcome(
        values,
        violations,
        noise,
        _shaped(parts.gradients, (n, m, d), "gradients"),
        {str(name): _columns(column, n, f"metric {name}", False, 1)[:, 0] for name, column in metrics.items()},
        _shaped(parts.reached, (n, d), "reached settings"),
    )
    _find_failures(outcome, objectives, constraints)
    return outcome


def _find_failures(outcome: BatchOutcome, objectives: list[str], constraints: list[str] | None) -> None:
    """Marks rows whose numbers cannot be learned from."""
    ok = np.isfinite(outcome.values).all(1)
    if outcome.constraints is not None:
        ok &= np.isfinite(outcome.constraints).all(1)
    if outcome.noise is not None:
        ok &= (np.isfinite(outcome.noise) & (outcome.noise >= 0)).all(1)
    if outcome.reached is not None:
        ok &= np.isfinite(outcome.reached).all(1)
    if ok.all():
        return
    for i in np.flatnonzero(~ok).tolist():
        outcome.errors[i] = _reason(outcome, i, objectives, constraints)


def _reason(outcome: BatchOutcome, i: int, objectives: list[str], constraints: list[str] | None) -> str:
    def of(name: str) -> str:
        return f" for {name}" if len(objectives) > 1 else ""

    for name, value in zip(objectives, outcome.values[i].tolist(), strict=True):
        if not np.isfinite(value):
            return f"the objective returned {'NaN' if value != value else value}{of(name)}"
    if outcome.constraints is not None:
        for k, value in enumerate(outcome.constraints[i].tolist()):
            if not np.isfinite(value):
                name = constraints[k] if constraints else str(k)
                return f"the objective returned {'NaN' if value != value else value} for constraint {name}"
    if outcome.noise is not None and not (np.isfinite(outcome.noise[i]) & (outcome.noise[i] >= 0)).all():
        return "the objective gave noise that is not a finite standard deviation >= 0"
    assert outcome.reached is not None
    return f"the objective gave the reached setting {outcome.reached[i].tolist()}; finite numbers were expected"
