"""Stopping rules: combine them with ``|`` (any of them) and ``&`` (all of them). Why a run stopped is a value."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from zoopt.arguments import read_count, read_number
from zoopt.errors import ConfigError

if TYPE_CHECKING:
    from zoopt.strategy import Task
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

    def interrupts(self, study: Study) -> bool:
        """Whether what is being evaluated should be stopped now, rather than finish first: what the clock decides."""
        return False

    def check(self, task: Task) -> None:
        """Refuse, with a ``ConfigError``, a study that the rule cannot judge, by its task."""

    @property
    def needs_points(self) -> bool:
        """Whether it looks at the points of all trials, which a study must then keep."""
        return False

    def from_now(self, study: Study) -> Rule:
        """The rule for a run of the study that begins now; what it counts over the study's whole life stays as it is."""
        return self


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

    def interrupts(self, study: Study) -> bool:  # noqa: D102
        return any(rule.interrupts(study) for rule in self.rules)

    def check(self, task: Task) -> None:  # noqa: D102
        for rule in self.rules:
            rule.check(task)

    @property
    def needs_points(self) -> bool:  # noqa: D102
        return any(rule.needs_points for rule in self.rules)

    def from_now(self, study: Study) -> Rule:  # noqa: D102
        return replace(self, rules=tuple(rule.from_now(study) for rule in self.rules))


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

    def interrupts(self, study: Study) -> bool:  # noqa: D102
        return self.reason(study) is not None and any(rule.interrupts(study) for rule in self.rules)

    def check(self, task: Task) -> None:  # noqa: D102
        for rule in self.rules:
            rule.check(task)

    @property
    def needs_points(self) -> bool:  # noqa: D102
        return any(rule.needs_points for rule in self.rules)

    def from_now(self, study: Study) -> Rule:  # noqa: D102
        return replace(self, rules=tuple(rule.from_now(study) for rule in self.rules))


@dataclass(frozen=True)
class Evaluations(Rule):
    """Stops when this many trials are finished (complete, failed or lost), over the study's whole life."""

    n: int  # finished trials, at least 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "n", read_count("Evaluations", self.n))

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
        object.__setattr__(self, "value", read_number("Target", self.value))

    def check(self, task: Task) -> None:  # noqa: D102
        _check_best_value("Target", task)

    def reason(self, study: Study) -> Reason | None:  # noqa: D102
        best = study._ledger.best_value
        if best is None or study._ledger.best_key[0] > 0:
            return None
        reached = best <= self.value if study.signs[0] > 0 else best >= self.value
        return Reason("target", f"best value {best:g} reached the target {self.value:g}") if reached else None


@dataclass(frozen=True)
class Time(Rule):
    """Stops when this many seconds have passed: as a rule of a study, since it was made or reopened; of a run, since the run began."""

    seconds: float  # more than 0
    since: float = 0.0  # seconds of the study (``study.seconds``) at which it begins to count

    def __post_init__(self) -> None:
        if read_number("Time", self.seconds) <= 0:
            raise ConfigError(f"Time takes seconds, a number > 0; got {self.seconds!r}.")

    def from_now(self, study: Study) -> Rule:  # noqa: D102
        return replace(self, since=study.seconds)

    def reason(self, study: Study) -> Reason | None:  # noqa: D102
        passed = study.seconds - self.since
        return Reason("time", f"{passed:.0f} s passed of {self.seconds:g} s") if passed >= self.seconds else None

    def interrupts(self, study: Study) -> bool:  # noqa: D102
        return self.reason(study) is not None


@dataclass(frozen=True)
class Stalled(Rule):
    """Stops when the best value has not improved for this many finished trials."""

    evaluations: int  # finished trials without a better value, at least 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "evaluations", read_count("Stalled", self.evaluations))

    def check(self, task: Task) -> None:  # noqa: D102
        _check_best_value("Stalled", task)

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
        object.__setattr__(self, "n", read_count("Failures", self.n))

    def reason(self, study: Study) -> Reason | None:  # noqa: D102
        if study.failures >= self.n:
            return Reason("failures", f"{study.failures} evaluations failed (limit {self.n})")
        return None


@dataclass(frozen=True)
class Cost(Rule):
    """Stops when the evaluations cost so much in all, by the fidelities of the space."""

    total: float  # in the unit of the fidelities, more than 0

    def __post_init__(self) -> None:
        if read_number("Cost", self.total) <= 0:
            raise ConfigError(f"Cost takes a number > 0; got {self.total!r}.")

    @property
    def needs_points(self) -> bool:  # noqa: D102
        return True

    def check(self, task: Task) -> None:  # noqa: D102
        if not task.space.fidelities:
            raise ConfigError("Cost adds up what evaluations cost by the fidelities of the space, and this one has none; use Evaluations.")

    def reason(self, study: Study) -> Reason | None:  # noqa: D102
        cost = study.cost
        return Reason("cost", f"the evaluations cost {cost:g} of {self.total:g}") if cost >= self.total else None


def _check_rules(rules: tuple[Rule, ...]) -> None:
    for rule in rules:
        if not isinstance(rule, Rule):
            raise ConfigError(f"a stopping rule was expected, such as Evaluations(100) or Target(1e-3); got {rule!r}.")


def _check_best_value(name: str, task: Task) -> None:
    several, ranked = len(task.objectives) > 1, task.feedback == "ranking"
    if several or ranked or task.space.environment:
        why = "several objectives have no single best" if several else "feedback='ranking' tells no values"
        if task.space.environment:
            why = "values in single environments are not what counts"
        raise ConfigError(f"{name} looks at the best value, and {why}; use Evaluations or Time.")


def any_of(rules: Rule | Iterable[Rule]) -> AnyOf:
    """What stops as soon as one of these does.

    Raises:
        ConfigError: Something else than a rule or several.
    """
    return AnyOf(tuple(rules) if isinstance(rules, Iterable) else (rules,))


def from_config(table: dict[str, Any]) -> list[Rule]:
    """Rules from the ``[stop]`` table of a study.toml: ``target = 1e-3``, ``time = 600``, ``stalled = 50``, ``failures = 10``."""
    kinds: dict[str, type[Rule]] = {
        "evaluations": Evaluations,
        "target": Target,
        "time": Time,
        "stalled": Stalled,
        "failures": Failures,
        "cost": Cost,
    }
    unknown = [name for name in table if name not in kinds]
    if unknown:
        raise ConfigError(f"stop.{unknown[0]}: there is no such stopping rule; there are {', '.join(kinds)}.")
    return [kinds[name](**{fields(kinds[name])[0].name: value}) for name, value in table.items()]
