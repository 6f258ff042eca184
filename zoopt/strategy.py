"""The contract that every strategy keeps.

A strategy is a recipe: a frozen dataclass of hyper-parameters. What it has learned is a separate ``State``. The
engine calls ``begin`` once, then ``ask`` and ``tell`` in any order, and may at any time write the state to bytes and
go on from them in another process. Everything is minimised; points are encoded (see ``zoopt.space.Space``).

What a strategy may rely on, and must keep:

* What it must know about a candidate travels as a column of ``Candidates`` and comes back with the
  observation. What is learned from is the observation alone; a point without the strategy's columns was added by the user.
* ``ask`` and ``tell`` consume the state and may reuse its memory. ``NotReady`` and
  ``Exhausted`` are raised before the state is touched.
* Random numbers come from the ``random`` argument only, and a call that raises uses up nothing.
* A batched strategy (``capabilities.batched``) is written over leading run dimensions and never synchronises with the host.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, Self, TypeVar

import torch
from torch import Tensor

from zoopt import registry
from zoopt.errors import CapabilityError, ConfigError
from zoopt.feedback import Candidates, Observations

if TYPE_CHECKING:
    from zoopt.diagnosis import Diagnosis
    from zoopt.random import Random
    from zoopt.space import Space

Feedback = Literal["none", "ranking", "values"]
_STRENGTH: dict[Feedback, int] = {"none": 0, "ranking": 1, "values": 2}


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a strategy can do; a study refuses, before anything is evaluated, what is excluded here."""

    feedback: Feedback = "values"  # weakest feedback it can learn from
    objectives: int | None = 1  # most objectives it can handle; None: any number
    constraints: bool = True  # learns from outcome constraints (values become a feasibility-first ranking otherwise)
    batched: bool = False  # written over leading run dimensions, no host synchronisation
    unbounded: bool = True  # accepts real variables without bounds
    choices: bool = True  # accepts choices and booleans
    fidelity: bool = False  # chooses the fidelities; otherwise all is asked at their targets, and what was told of others is withheld
    environment: bool = False  # chooses the random environment; otherwise it is drawn by its law for each ask
    requires: tuple[str, ...] = ()  # methods it needs on the problem, e.g. ("gradient",)
    learns: bool = True  # False: proposals do not depend on what is told
    stochastic: bool = True  # False: proposals do not depend on the seed


@dataclass(frozen=True)
class Task:
    """What is to be solved. It comes with every call; nothing of it is kept in the state.

    Attributes:
        space: The search space; its encoded points are what a strategy sees.
        objectives: Names of the objectives, one column of ``values`` each, all minimised.
        constraints: Names of the outcome constraints; ``c(x) <= 0`` is feasible.
        feedback: ``"values"``, or ``"ranking"`` when only orders will be told.
        deterministic: The objective has no noise: no point needs to be asked twice.
        runs: Leading run dimensions; ``()`` for a single run.
        device: Where tensors live.
        dtype: Floating type of encoded points and values.
        problem: The problem object, for what it offers beyond values; None where there is none.
        maximised: Objectives that are maximised outside: their values come with the sign turned, and numbers about them in a recipe,
            which are written as the user counts, must be turned likewise.
    """

    space: Space
    objectives: tuple[str, ...] = ("value",)
    constraints: tuple[str, ...] = ()
    feedback: Literal["ranking", "values"] = "values"
    deterministic: bool = False
    runs: tuple[int, ...] = ()
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float64
    problem: Any = None
    maximised: frozenset[str] = frozenset()

    @property
    def dim(self) -> int:
        """Number of encoded columns d."""
        return self.space.dim


class Request:
    """One call for candidates.

    Attributes:
        n: Most candidates wanted; None: as many as the method likes (a generation).
        fixed: Encoded values of the columns the asker sets itself (context, fidelity), by column index.
        remaining: Evaluations left in the budget after those asked so far; None: unknown.
    """

    __slots__ = ("_pending", "fixed", "n", "remaining")

    def __init__(
        self,
        n: int | None = None,
        pending: Tensor | Callable[[], Tensor] | None = None,
        fixed: Mapping[int, float] | None = None,
        remaining: int | None = None,
    ) -> None:
        self.n = n
        self._pending = pending
        self.fixed: Mapping[int, float] = fixed or {}
        self.remaining = remaining

    def pending(self, task: Task) -> Tensor:
        """Encoded points that are out now, shape ``(p, d)``; made when called."""
        if self._pending is None:
            return torch.empty((0, task.dim), dtype=task.dtype, device=task.device)
        if not isinstance(self._pending, Tensor):
            self._pending = self._pending()
        return self._pending

    def limited(self, n: int | None, remaining: int | None) -> Request:
        """The same call for at most n candidates, of a part of a hybrid that has so many evaluations left."""
        return Request(n, self._pending, self.fixed, remaining)


_STATES: dict[str, type[State]] = {}


@dataclass
class State:
    """What a strategy has learned: a dataclass of tensors, numpy arrays, numbers, strings, and lists, tuples or dicts of them.

    Fields may hold other states (a hybrid's parts). A field made with ``live`` is left out of the bytes; ``freeze``
    is called before bytes are made and brings the other fields up to date with it.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _STATES[f"{cls.__module__}:{cls.__qualname__}"] = cls

    def freeze(self) -> None:
        """Bring the data fields up to date with the live ones. Default: nothing to do."""


def state_class(name: str) -> type[State]:
    """The state class registered as ``module:qualname``; only classes that are already imported are found."""
    try:
        return _STATES[name]
    except KeyError:
        raise ConfigError(
            f"the saved state is of class {name!r}, which is not loaded; install or import the plug-in that defines it."
        ) from None


def live(default: Any = None) -> Any:
    """A state field that is never written to bytes: a library's own object, or diagnostics."""
    return field(default=default, repr=False, compare=False, metadata={"live": True})


S = TypeVar("S", bound=State)


@dataclass(frozen=True)
class Example:
    """A small task on which a strategy must beat random search; every strategy brings one along.

    Attributes:
        space: Its space.
        objective: Maps problem units ``(n, d)`` to values ``(n,)`` or ``(n, m)``, or to an ``Evaluation``.
        evaluations: Budget of one run.
        objectives: Names of the objectives, all minimised.
        constraints: Names of the outcome constraints.
        problem: The problem object, where the strategy needs more than values.
        score: Turns all values of a run, ``(evaluations, m)``, into one number, lower is better; None: the smallest.
    """

    space: Space
    objective: Callable[[Tensor], Any]
    evaluations: int
    objectives: tuple[str, ...] = ("value",)
    constraints: tuple[str, ...] = ()
    problem: Any = None
    score: Callable[[Tensor], float] | None = None

    def task(self, **changes: Any) -> Task:
        """The task of this example; keyword arguments replace its fields."""
        task = Task(self.space, self.objectives, self.constraints, problem=self.problem)
        return replace(task, **changes)


@dataclass(frozen=True)
class Strategy(Generic[S]):
    """Base class of every strategy: a frozen dataclass of hyper-parameters with the three methods of the contract."""

    capabilities: ClassVar[Capabilities] = Capabilities()

    def begin(self, task: Task, random: Random) -> S:
        """The state before anything is asked."""
        raise NotImplementedError(f"{type(self).__name__} does not define begin().")

    def ask(self, task: Task, state: S, request: Request, random: Random) -> tuple[S, Candidates]:
        """Propose up to ``request.n`` encoded points.

        Raises:
            NotReady: Results of pending trials are needed first; the state is untouched.
            Exhausted: Nothing is left to propose; the state is untouched.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define ask().")

    def tell(self, task: Task, state: S, observations: Observations, random: Random) -> S:
        """Learn from what was observed; any subset of what was asked, in any order, and added points."""
        raise NotImplementedError(f"{type(self).__name__} does not define tell().")

    def recommend(self, task: Task, state: S) -> Tensor | None:
        """The encoded point ``(*runs, d)`` the method itself would pick, or None: the best observed."""
        return None

    def predict(self, task: Task, state: S, x: Tensor) -> tuple[Tensor, Tensor] | None:
        """Mean and standard deviation ``(n, m)`` of the objectives at encoded ``x: (n, d)``, or None: no model."""
        return None

    def done(self, task: Task, state: S) -> Tensor | None:
        """Which runs have converged, ``(*runs,)`` bool, without leaving the device; None: the method cannot tell."""
        return None

    def info(self, task: Task, state: S) -> dict[str, float | str]:
        """Diagnostics for reports (step size, acceptance, model fit); never needed to go on."""
        return {}

    def diagnose(self, task: Task, state: S) -> Diagnosis | None:
        """A look inside the model, or None: there is none, or nothing to show yet."""
        return None

    @classmethod
    def example_task(cls) -> Example:
        """The small task this strategy is tested on. Default: a shifted sphere in five dimensions."""
        from zoopt.testing import sphere_example

        return sphere_example()

    def check(self, task: Task) -> None:
        """Refuse a task that the capabilities exclude.

        Raises:
            CapabilityError: With a sentence that names registered strategies which can.
        """
        reason = excluded(self.capabilities, task)
        if reason is None:
            return
        able = sorted(name for name, cls in _loadable() if excluded(cls.capabilities, task) is None)
        hint = f"strategies that can: {', '.join(able)}." if able else "no registered strategy can."
        raise CapabilityError(f"{registry.name_of(type(self)) or type(self).__name__} {reason}; {hint}")

    def replace(self, **changes: Any) -> Self:
        """A copy with some hyper-parameters changed."""
        return replace(self, **changes)


def excluded(capabilities: Capabilities, task: Task) -> str | None:
    """Why a strategy with these capabilities cannot take this task, as the end of a sentence; None when it can."""
    if _STRENGTH[task.feedback] < _STRENGTH[capabilities.feedback]:
        return f"needs {capabilities.feedback}, but this study gives only a {task.feedback}"
    if capabilities.objectives is not None and len(task.objectives) > capabilities.objectives:
        return f"handles {capabilities.objectives} objective(s), but this study has {len(task.objectives)}"
    if task.constraints and not capabilities.constraints:
        return f"does not learn from outcome constraints, but this study names {', '.join(task.constraints)}"
    if task.runs and not capabilities.batched:
        return "is not written over leading run dimensions"
    if not capabilities.unbounded and task.space.unbounded:
        return f"needs bounds on every variable, but {', '.join(task.space.unbounded)} has none"
    if not capabilities.choices and task.space.choices:
        return f"does not handle choices, but {', '.join(task.space.choices)} is one"
    missing = [name for name in capabilities.requires if not callable(getattr(task.problem, name, None))]
    if missing:
        return f"needs a problem that offers {', '.join(missing)}()"
    return None


def _loadable() -> list[tuple[str, type[Strategy[Any]]]]:
    found = []
    for name in registry.names():
        try:
            found.append((name, registry.load(name)))
        except ImportError:  # a plug-in that cannot be imported is no alternative
            continue
    return found


def make(strategy: str | Strategy[Any], **hyperparameters: Any) -> Strategy[Any]:
    """A recipe from its registered name and hyper-parameters, or the recipe itself with some of them changed.

    Raises:
        UnknownName: No strategy of this name.
        ConfigError: Neither a name nor a recipe, a hyper-parameter that the recipe does not have, or a value it refuses.
    """
    if isinstance(strategy, Strategy):
        return strategy.replace(**hyperparameters) if hyperparameters else strategy
    if not isinstance(strategy, str):
        made = (
            f"; write {strategy.__name__}() with its parentheses" if isinstance(strategy, type) and issubclass(strategy, Strategy) else ""
        )
        raise ConfigError(f"a strategy is a registered name or a recipe such as CMAES(); got {strategy!r}{made}.")
    cls = registry.load(strategy)
    if not (isinstance(cls, type) and issubclass(cls, Strategy)):
        raise ConfigError(f"{strategy!r} is registered as {cls!r}, which is no class derived from zoopt.Strategy.")
    known = [f.name for f in fields(cls)]
    unknown = [name for name in hyperparameters if name not in known]
    if unknown:
        have = ", ".join(known) or "none"
        raise ConfigError(f"strategy {strategy!r} has no hyper-parameter {', '.join(map(repr, unknown))}; it has: {have}.")
    recipe: Strategy[Any] = cls(**hyperparameters)
    return recipe


@dataclass(frozen=True, slots=True)
class FieldDoc:
    """One hyper-parameter for listings: its name, type, default and one-line meaning."""

    name: str
    type: str
    default: str
    doc: str


def field_docs(cls: type) -> list[FieldDoc]:
    """The hyper-parameters of a recipe, with the comment that stands behind each field in the source."""
    import inspect
    import io
    import tokenize

    comments: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if base.__module__ == "builtins":
            continue
        try:
            source = inspect.getsource(base)
        except (OSError, TypeError):  # defined at a prompt
            continue
        lines = source.splitlines()
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.COMMENT:
                name = lines[token.start[0] - 1].strip().partition(":")[0]
                if name.isidentifier():
                    comments[name] = token.string.lstrip("# ")
    docs = []
    for f in fields(cls):
        default = repr(f.default) if f.default is not f.default_factory else "required"
        if default.startswith("<dataclasses._MISSING"):
            default = "required" if not callable(f.default_factory) else repr(f.default_factory())
        kind = f.type if isinstance(f.type, str) else inspect.formatannotation(f.type)
        docs.append(FieldDoc(f.name, kind, default, comments.get(f.name, "")))
    return docs
