"""The one interface behind which an objective is computed, and the choice of who computes it."""

from __future__ import annotations

import copy
import inspect
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor, Future
from typing import Any, Protocol, runtime_checkable

from zoopt.errors import ConfigError
from zoopt.evaluate.outcome import Outcome

_UNITS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*(ms|s|m|h|d)\s*", re.IGNORECASE)


class TrialLike(Protocol):
    """What an evaluator needs of a trial."""

    @property
    def id(self) -> int:
        """Its number in the study."""

    @property
    def params(self) -> dict[str, Any]:
        """Its parameters by name, problem units; inactive ones are absent."""


@runtime_checkable
class Evaluator(Protocol):
    """Who computes the objective.

    A failing objective is never an exception of the future: it is an ``Outcome`` with ``error`` set.
    An exception of the future, or of ``submit``, ends the run and leaves the trial pending.
    An evaluator can be started again after it was closed. ``close`` stops what is still running; those futures are
    cancelled, and their trials stay pending.

    Attributes:
        batched: Whether it computes whole batches in one call (see ``Batched``).
    """

    batched: bool

    def start(self, parallel: int) -> None:
        """Get ready to run ``parallel`` evaluations at once. Raises ``ConfigError`` for what can never work."""

    def close(self) -> None:
        """Stop whatever runs and end every process that was started."""

    def submit(self, trial: TrialLike) -> Future[Outcome]:
        """Compute one trial; more than ``parallel`` of them queue."""


def as_evaluator(
    objective: Any,
    parallel: int = 1,
    timeout: float | str | None = None,
    executor: Executor | None = None,
    *,
    parameters: Sequence[str] | Mapping[str, Sequence[Any]] | None = None,
) -> Evaluator:
    """The evaluator for whatever a user gives as objective. The caller starts and closes it.

    Args:
        objective: An ``Evaluator`` (``Batched(f)``, ``Command(...)``, one's own), taken as it is; a problem, which
            is computed in this process on whole batches; or a function of one trial, called as ``f(**params)``.
        parallel: How many evaluations will be out at once.
        timeout: For one evaluation: seconds, or a text such as ``"10m"``. An objective with a timeout of its own keeps it.
        executor: Any ``concurrent.futures.Executor`` for a function of one trial; None: spawned worker processes.
        parameters: Names in the space (or by name some values that each can have), to refuse at once an objective that does not
            take them.

    Raises:
        ConfigError: It is not an objective, or the timeout cannot be kept.
    """
    if isinstance(parallel, bool) or not isinstance(parallel, int) or parallel < 1:
        raise ConfigError(f"parallel = {parallel!r}: a whole number of at least 1 was expected.")
    limit = duration(timeout, "timeout")
    evaluator = _choose(objective, executor, limit)
    if limit is not None and not hasattr(evaluator, "timeout"):
        raise ConfigError(
            f"timeout = {timeout!r} cannot be kept: {type(evaluator).__name__} runs in a way that cannot be stopped from here. "
            "Give a function of one trial (it runs in worker processes) or a Command, or leave the timeout out."
        )
    if limit is not None and evaluator.timeout is None:  # type: ignore[attr-defined]
        evaluator = copy.copy(evaluator)  # the user's own object keeps having none
        evaluator.timeout = limit  # type: ignore[attr-defined]
    if parameters is not None:
        check(evaluator, parameters)
    return evaluator


def _choose(objective: Any, executor: Executor | None, timeout: float | None) -> Evaluator:
    if all(callable(getattr(objective, name, None)) for name in ("start", "close", "submit")):
        if executor is not None:
            raise ConfigError(f"{type(objective).__name__} runs evaluations itself; leave executor= out.")
        chosen: Evaluator = objective
        return chosen
    if isinstance(objective, str) or (isinstance(objective, Sequence) and all(isinstance(part, str) for part in objective)):
        raise ConfigError(f"{objective!r} is not an objective; for a command write Command({objective!r}).")
    if not callable(objective):
        raise ConfigError(
            f"{objective!r} is not an objective; a function of one trial, Batched(function), Command(...) or a problem was expected."
        )
    if executor is not None:
        from zoopt.evaluate.executor import OnExecutor

        return OnExecutor(objective, executor, timeout=timeout)
    if getattr(objective, "batched", False) is True or (hasattr(objective, "space") and hasattr(objective, "optimum")):
        from zoopt.evaluate.batched import Batched

        return Batched(objective)
    from zoopt.evaluate.processes import Processes

    return Processes(objective, timeout=timeout)


def check(evaluator: Evaluator, parameters: Sequence[str] | Mapping[str, Sequence[Any]]) -> None:
    """Asks an evaluator whether it can take trials with these parameters, without running any.

    Args:
        evaluator: What is asked.
        parameters: Names in the space; or by name some values that each can have.

    Raises:
        ConfigError: A command names a parameter that is not there, does not use one, gives one a format that its values do not
            take, or names a program that cannot be found; a function does not take a parameter, or wants one that is not there.
    """
    ask = getattr(evaluator, "check", None)
    if callable(ask):
        ask(parameters)


def check_signature(function: Callable[..., Any], parameters: Iterable[str]) -> None:
    """Refuses a function that cannot be called with these keyword arguments.

    Raises:
        ConfigError: It lacks one of them, or wants one that is not among them.
    """
    if wrong := unfit_signature(function, parameters):
        name = getattr(function, "__name__", type(function).__name__)
        raise ConfigError(f"{wrong} If it takes a whole batch as an (n, d) array, give Batched({name}).")


def unfit_signature(function: Callable[..., Any], parameters: Iterable[str]) -> str:
    """Why a function cannot be called with these keyword arguments, as a sentence; empty where it can."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some builtins have none
        return ""
    given = list(parameters)
    name = getattr(function, "__name__", type(function).__name__)
    kinds = inspect.Parameter
    takes = {p.name for p in signature.parameters.values() if p.kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY)}
    anything = any(p.kind is kinds.VAR_KEYWORD for p in signature.parameters.values())
    unknown = [p for p in given if p not in takes] if not anything else []
    needed = [
        p.name
        for p in signature.parameters.values()
        if p.default is kinds.empty and p.kind not in (kinds.VAR_KEYWORD, kinds.VAR_POSITIONAL)
    ]
    missing = [p for p in needed if p not in given]
    faults = []
    if unknown:
        faults.append(f"has no argument {', '.join(unknown)}")
    if missing:
        faults.append(f"wants {', '.join(missing)}, which the space does not have")
    if not faults:
        return ""
    return (
        f"the objective {name}{signature} {' and '.join(faults)}: it is called once per trial, with the parameters by name "
        f"({', '.join(given) or 'none'})."
    )


def duration(value: float | str | None, what: str = "duration") -> float | None:
    """Seconds from a number of seconds or a text: ``90``, ``"30s"``, ``"10m"``, ``"1h30m"``, ``"500ms"``, ``"2d"``.

    Args:
        value: The duration; None stays None.
        what: Its name, for the error.

    Raises:
        ConfigError: It is not a positive duration.
    """
    if value is None:
        return None
    seconds = math.nan
    if isinstance(value, str):
        text = value.strip()
        pieces = _DURATION.findall(text)
        if pieces and not _DURATION.sub("", text):
            seconds = sum(float(number) * _UNITS[unit.lower()] for number, unit in pieces)
        else:
            try:
                seconds = float(text)
            except ValueError:
                pass
    elif isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
    if not (seconds > 0 and math.isfinite(seconds)):
        raise ConfigError(f"{what} = {value!r}: a positive number of seconds or a text such as '30s', '10m' or '1h30m' was expected.")
    return seconds
