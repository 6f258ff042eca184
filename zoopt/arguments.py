"""What a study is made with, checked."""

from __future__ import annotations

import operator
import os
from collections.abc import Mapping, Sequence

from zoopt.errors import ConfigError


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
    return listed


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
