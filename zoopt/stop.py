"""Stopping rules: combine them with ``|`` (any of them) and ``&`` (all of them). Why a run stopped is a value."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from zoopt.errors import ConfigError

if TYPE_CHECKING:
    from zoopt.study import Study


@dataclass(frozen=True, slots=True)
class Reason:
    """Why to stop: a name for programs, a detail for people."""

    name: str  # such as ``"target"``
    detail: str  # a sentence without its full stop


@dataclass(frozen=True)
class Rule:
    """Base class of stopping rules."""

    def reason(self, study: Study) -> Reason | None:
        """Why the study should stop now, or None."""
        raise NotImplementedError(f"{type(self).__name__} does not define reason().")

    def __or__(self, other: Rule) -> Rule:
        return AnyOf((self, other))

    def __and__(self, other: Rule) -> Rule:
        return AllOf((self, other))

    def budget(self) -> int | None:
        """The number of evaluations after which this stops whatever else happens; None: there is none."""
        return None

    def check(self, objectives: int) -> None:
        """Refuse, with a ``ConfigError``, a study of this many objectives that the rule cannot judge."""


@dataclass(frozen=True)
class AnyOf(Rule):
    """Stops when one of its rules does."""

    rules: tuple[Rule, ...]  # what `|` joined

    def __post_init__(self) -> None:
        _check_rules(self.rules)

    def reason(self, study: Study) -> Reason | None:  # noqa: D102
        return next((r for rule in self.rules if (r := rule.reason(study))), None)

    def budget(self) -> int | None:  # noqa: D102
        if not self.rules:
            return None
        budgets = [n for rule in self.rules if (n := rule.budget()) is not None]
        return min(budgets) if budgets else None

    def check(self, objectives: int) -> None:  # noqa: D102
        for rule in self.rules:
            rule.check(objectives)


@dataclass(frozen=True)
class AllOf(Rule):
    """Stops when all of its rules do."""

    rules: tuple[Rule, ...]  # what `&` joined

    def __post_init__(self) -> None:
        _check_rules(self.rules)

    def reason(self, study: Study) -> Reason | None:  # noqa: D102
        reasons = [rule.reason(study) for rule in self.rules]
        if not reasons or not all(reasons):
            return None
        found = [r for r in reasons if r]
        return Reason("+".join(r.name for r in found), "; ".join(r.detail for r in found))

    def budget(self) -> int | None:  # noqa: D102
        budgets = [rule.budget() for rule in self.rules]
        known = [n for n in budgets if n is not None]
        return max(known) if known and len(known) == len(budgets) else None

    def check(self, objectives: int) -> None:  # noqa: D102
        for rule in self.rules:
            rule.check(objectives)


@dataclass(frozen=True)
class Evaluations(Rule):
    """Stops when this many trials are finished (complete, failed or lost), over the study's whole life."""

    n: int  # finished trials, at least 1

    def __post_init__(self) -> None:
        _check_count("Evaluations", self.n)

    def reason(self, study: Study) -> Reason | None:  # noqa: D102
        if study.evaluations >= self.n:
            return Reason("evaluations", f"{study.evaluations} evaluations done of {self.n}")
        return None

    def budget(self) -> int | None:  # noqa: D102
        return self.n


@dataclass(frozen=True)
class Target(Rule):
    """Stops when the best feasible value is at least as good as this one (in the user's direction)."""

    value: float  # the value to reach

    def __post_init__(self) -> None:
        if not isinstance(self.value, float | int) or math.isnan(self.value):
            raise ConfigError(f"Target takes the value to reach, a number; got {self.value!r}.")

    def check(self, objectives: int) -> None:  # noqa: D102
        _check_single("Target", objectives)

    def reason(self, study: Study) -> Reason | None:  # noqa: D102
        best = study._ledger.best_value
        if best is None or study._ledger.best_key[0] > 0:
            return None
        reached = best <= self.value if study.signs[0] > 0 else best >= self.value
        return Reason("target", f"best value {best:g} reached the target {self.value:g}") if reached else None


@dataclass(frozen=True)
class Time(Rule):
    """Stops when this many seconds have passed since the study was made or reopened."""

    seconds: float  # more than 0

    def __post_init__(self) -> None:
        if not isinstance(self.seconds, float | int) or not self.seconds > 0:
            raise ConfigError(f"Time takes seconds, a number > 0; got {self.seconds!r}.")

    def reason(self, study: Study) -> Reason | None:  # noqa: D102
        if study.seconds >= self.seconds:
            return Reason("time", f"{study.seconds:.0f} s passed of {self.seconds:g} s")
        return None


@dataclass(frozen=True)
class Stalled(Rule):
    """Stops when the best value has not improved for this many finished trials."""

    evaluations: int  # finished trials without a better value, at least 1

    def __post_init__(self) -> None:
        _check_count("Stalled", self.evaluations)

    def check(self, objectives: int) -> None:  # noqa: D102
        _check_single("Stalled", objectives)

    def reason(self, study: Study) -> Reason | None:  # noqa: D102
        stalled = study.evaluations - study._ledger.improved_at
        if stalled >= self.evaluations:
            return Reason("stalled", f"no better value in the last {stalled} evaluations")
        return None


@dataclass(frozen=True)
class Failures(Rule):
    """Stops when this many trials have failed or were lost."""

    n: int  # failed and lost trials, at least 1

    def __post_init__(self) -> None:
        _check_count("Failures", self.n)

    def reason(self, study: Study) -> Reason | None:  # noqa: D102
        if study.failures >= self.n:
            return Reason("failures", f"{study.failures} evaluations failed (limit {self.n})")
        return None


def _check_rules(rules: tuple[Rule, ...]) -> None:
    for rule in rules:
        if not isinstance(rule, Rule):
            raise ConfigError(f"a stopping rule was expected, such as Evaluations(100) or Target(1e-3); got {rule!r}.")


def _check_count(name: str, n: int) -> None:
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ConfigError(f"{name} takes a whole number of at least 1; got {n!r}.")


def _check_single(name: str, objectives: int) -> None:
    if objectives > 1:
        raise ConfigError(f"{name} looks at the best value, and {objectives} objectives have no single best; use Evaluations or Time.")


def from_config(table: dict[str, Any]) -> list[Rule]:
    """Rules from the ``[stop]`` table of a study.toml: ``target = 1e-3``, ``time = 600``, ``stalled = 50``, ``failures = 10``."""
    kinds: dict[str, type[Rule]] = {
        "evaluations": Evaluations,
        "target": Target,
        "time": Time,
        "stalled": Stalled,
        "failures": Failures,
    }
    unknown = [name for name in table if name not in kinds]
    if unknown:
        raise ConfigError(f"stop.{unknown[0]}: there is no such stopping rule; there are {', '.join(kinds)}.")
    return [kinds[name](**{fields(kinds[name])[0].name: value}) for name, value in table.items()]
