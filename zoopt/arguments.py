"""What a study or `minimize` is given, checked."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from zoopt.errors import ConfigError
from zoopt.evaluate.outcome import RESERVED

if TYPE_CHECKING:
    import torch


def read_directions(direction: str, objectives: Mapping[str, str] | None) -> dict[str, str]:
    """Objectives by name with their directions.

    Raises:
        ConfigError: A direction that is none, or no objective at all.
    """
    if objectives is not None and (not isinstance(objectives, Mapping) or not objectives):
        raise ConfigError(f"objectives must name at least one objective, e.g. {{'loss': 'minimize'}}; got {objectives!r}.")
    if objectives is not None and direction != "minimize":
        raise ConfigError(f"direction={direction!r} and objectives= are given; say 'maximize' in objectives, for each that is.")
    directions = {"value": direction} if objectives is None else dict(objectives)
    for name, way in directions.items():
        check_result_name(name, "objective")
        if way not in ("minimize", "maximize"):
            raise ConfigError(f"objective {name!r} must be 'minimize' or 'maximize'; got {way!r}.")
    return directions


def read_constraint_names(names: Sequence[str], objectives: Mapping[str, str]) -> tuple[str, ...]:
    """Names of the outcome constraints.

    Raises:
        ConfigError: Not a list of names, or a name that stands twice.
    """
    listed = None if isinstance(names, str) else tuple(names)
    if listed is None or not all(isinstance(name, str) for name in listed):
        raise ConfigError(f"constraints must be a list of names, e.g. ['heat']; got {names!r}. Known constraints belong to the space.")
    twice = [name for i, name in enumerate(listed) if name in listed[:i] or name in objectives]
    if twice:
        raise ConfigError(f"{twice[0]!r} is named twice among objectives and constraints; every name can stand once.")
    for name in listed:
        check_result_name(name, "constraint")
    return listed


def check_result_name(name: str, what: str) -> None:
    """Refuse, with a ``ConfigError``, a name under which the result of an evaluation has something else than a number of this kind."""
    if name in RESERVED:
        others = ", ".join(other for other in RESERVED if other != name)
        raise ConfigError(f"a result has something else under {name!r} (as under {others}); give this {what} another name.")


def read_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Refuse what is not one of the choices, with a ``ConfigError``."""
    if value not in choices:
        listed = ", ".join(map(repr, choices[:-1]))
        raise ConfigError(f"{name} must be {listed} or {choices[-1]!r}; got {value!r}.")


def read_seed(seed: int | None) -> int:
    """The seed, or one that is drawn.

    Raises:
        ConfigError: Not an integer.
    """
    if seed is None:
        return int.from_bytes(os.urandom(6), "little")
    try:
        return operator.index(seed)
    except TypeError:
        raise ConfigError(f"seed must be an integer or None; got {seed!r}.") from None


def read_count(name: str, value: Any) -> int:
    """A whole number of at least 1, of any numeric type; ``1e4`` is one.

    Raises:
        ConfigError: It is none.
    """
    try:
        count = int(value) if isinstance(value, float) and value.is_integer() else operator.index(value)
    except TypeError:
        count = 0
    if isinstance(value, bool) or count < 1:
        raise ConfigError(f"{name} must be a whole number of at least 1; got {value!r}.")
    return count


def read_number(name: str, value: Any) -> float:
    """A number of any type, infinities included.

    Raises:
        ConfigError: It is none, or NaN.
    """
    try:
        number = math.nan if isinstance(value, str | bytes | bool) else float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # the last from tensors of several numbers
        number = math.nan
    if math.isnan(number):
        raise ConfigError(f"{name} must be a number; got {value!r}.")
    return number


def read_device(device: Any) -> torch.device:
    """A torch device that can be used here; ``"auto"`` is an accelerator where there is one.

    Raises:
        ConfigError: There is no such device.
    """
    import torch

    try:
        found = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, TypeError) as error:
        said = (str(error).splitlines() or [""])[0].rstrip(".")
        raise ConfigError(
            f"device must be 'auto' or a torch device that can be used here, such as 'cpu' or 'cuda'; got {device!r} ({said})."
        ) from None
    return found


def read_dtype(dtype: Any) -> torch.dtype:
    """A floating type in which points can be told apart.

    Raises:
        ConfigError: It is none.
    """
    import torch

    if dtype is torch.float64 or dtype is torch.float32:
        found: torch.dtype = dtype
        return found
    raise ConfigError(f"dtype must be torch.float64 or torch.float32; got {dtype!r}.")


def read_callbacks(callbacks: Any) -> list[Callable[..., None]]:
    """Callbacks, of one or of several.

    Raises:
        ConfigError: What cannot be called.
    """
    listed = [callbacks] if callable(callbacks) else list(callbacks) if isinstance(callbacks, Iterable) else None
    if listed is None or not all(map(callable, listed)):
        raise ConfigError(f"callbacks must be a function of (study, event), or several; got {callbacks!r}.")
    return listed


def check_parameter_names(parameters: Iterable[str], objectives: Mapping[str, str], constraints: Sequence[str]) -> None:
    """Refuse a parameter with the name of an objective or a constraint: each has its own column in the history.

    Raises:
        ConfigError: There is one; the message says how to rename.
    """
    for name in parameters:
        if name in objectives:
            what, renamed = "an objective", f"the objective, e.g. objectives={{'loss': {objectives[name]!r}}}"
        elif name in constraints:
            what, renamed = "a constraint", "the constraint"
        else:
            continue
        raise ConfigError(f"{name!r} is the name of a parameter and of {what}; rename the parameter or {renamed}.")
