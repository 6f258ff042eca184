"""Bayesian optimization: better than random by far, valid points only, the same points again, and never without an answer."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from zoopt import Study
from zoopt.errors import CapabilityError, ConfigError, Exhausted, ModelWarning, StrategyError, UnknownName
from zoopt.feedback import Evaluation, Observations
from zoopt.problems import Branin, Gramacy, Hartmann6
from zoopt.random import Random
from zoopt.space import Bool, Choice, Context, Integer, Linear, Real, Space
from zoopt.state import equal, from_bytes, to_bytes
from zoopt.strategies.bo.automatic import Automatic
from zoopt.strategies.bo.recipe import BO
from zoopt.strategy import Request, Task, make
from zoopt.surrogates import GP, Surrogate


@dataclass
class Loop:
    """A study in small: ids, calls counted for the random key, everything told at once unless asked otherwise."""

    task: Task
    objective: Callable[[Tensor], Any]
    recipe: BO = field(default_factory=BO)
    seed: int = 0
    failing: Callable[[Tensor], Tensor] | None = None
    budget: int | None = None

    def __post_init__(self) -> None:
        self.random = Random(self.seed)
        self.state = self.recipe.begin(self.task, self.random)
        self.calls = 1
        self.x: list[Tensor] = []
        self.values: list[float] = []
        self.constraints: list[Tensor] = []
        self.waiting: list[int] = []

    def ask(self, n: int = 1, fixed: Mapping[int, float] | None = None) -> list[int]:
        pending = torch.stack([self.x[i] for i in self.waiting]) if self.waiting else None
        remaining = None if self.budget is None else self.budget - len(self.x)
        self.state, out = self.recipe.ask(self.task, self.state, Request(n, pending, fixed, remaining), self.random.at(self.calls))
        self.calls += 1
        ids = list(range(len(self.x), len(self.x) + out.x.shape[0]))
        self.x += list(out.x.clone())
        self.values += [np.nan] * len(ids)
        self.waiting += ids
        return ids

    def tell(self, ids: list[int]) -> None:
        x = torch.stack([self.x[i] for i in ids])
        units = self.task.space.decode(x)
        result = self.objective(units)
        values, constraints = (result.values, result.constraints) if isinstance(result, Evaluation) else (result, None)
        ok = None if self.failing is None else ~self.failing(units)
        values = values if ok is None else torch.where(ok, values, torch.inf)
        told = Observations(ids, x, values.unsqueeze(-1), constraints=constraints, ok=ok)
        self.state = self.recipe.tell(self.task, self.state, told, self.random.at(self.calls))
        self.calls += 1
        for row, i in enumerate(ids):
            self.values[i] = float(values[row])
            self.waiting.remove(i)
        if constraints is not None:
            self.constraints += list(constraints)

    def run(self, n: int, batch: int = 1) -> Loop:
        while len(self.x) < n:
            self.tell(self.ask(batch))
        return self

    @property
    def points(self) -> Tensor:
        return torch.stack(self.x)

    @property
    def best(self) -> float:
        return min(self.values)


@pytest.fixture
def falls_back() -> None:
    """Asked for by tests in which the model is broken on purpose."""


@pytest.fixture(autouse=True)
def no_rung_of_the_ladder(request: pytest.FixtureRequest) -> Iterator[None]:
    """Wherever nothing is broken on purpose, the model itself makes the proposals."""
    with warnings.catch_warnings():
        if "falls_back" not in request.fixturenames:
            warnings.simplefilter("error", ModelWarning)
        yield


QUICK = BO(acquisition=Automatic(samples=32), raw_samples=64, restarts=2)
QUICKEST = BO(acquisition=Automatic(samples=16), raw_samples=16, restarts=1)


def regret(loop: Loop) -> float:
    return loop.best - loop.objective.optimum.value  # type: ignore[attr-defined]


@pytest.mark.parametrize("deterministic", [True, False])
def test_branin_in_25_evaluations(deterministic: bool) -> None:
    """The regret is a small part of what random search has after as many evaluations."""
    branin = Branin()
    loop = Loop(Task(branin.space, deterministic=deterministic), branin, QUICK).run(25)
    u = torch.rand((100, 25, 2), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    blind = (branin(branin.space.decode(u)).amin(-1) - branin.optimum.value).median()
    assert regret(loop) < 0.05 * float(blind)


@pytest.mark.slow
def test_deterministic_converges_to_many_digits() -> None:
    for problem, limit, n in ((Branin(), 1e-4, 50), (Hartmann6(), 1e-3, 60)):
        regrets = [regret(Loop(Task(problem.space, deterministic=True), problem, BO(initial=10), seed=s).run(n)) for s in range(3)]
        assert sorted(regrets)[1] < limit


@pytest.mark.slow
def test_noise_is_seen_through() -> None:
    hartmann = Hartmann6()
    regrets = []
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        noisy = lambda x, g=generator: hartmann(x) + 0.2 * torch.randn(x.shape[0], generator=g, dtype=x.dtype)  # noqa: E731
        loop = Loop(Task(hartmann.space), noisy, BO(initial=10), seed=seed).run(60)
        chosen = loop.recipe.recommend(loop.task, loop.state)
        assert chosen is not None
        regrets.append(float(hartmann(hartmann.space.decode(chosen.unsqueeze(0)))) - hartmann.optimum.value)
    assert sorted(regrets)[1] < 0.5


def test_batches_and_pending_points_are_apart() -> None:
    branin = Branin()
    loop = Loop(Task(branin.space), branin, QUICK).run(8)
    loop.ask(2)
    loop.ask(4)
    out = loop.points[[*range(8, 14)]]
    distance = torch.cdist(out, out, p=torch.inf) + torch.eye(6)
    assert float(distance.min()) > 1e-3
    assert not (set(loop.waiting) - {*range(8, 14)})


def test_asked_all_at_once_before_anything_is_told() -> None:
    branin = Branin()
    loop = Loop(Task(branin.space), branin, QUICK)
    loop.ask(16)
    loop.ask(1)
    assert loop.points.shape == (17, 2)
    assert float((torch.cdist(loop.points, loop.points) + torch.eye(17)).min()) > 1e-3
    loop.tell([3, 1, 16])
    loop.ask(3)


@pytest.mark.parametrize("cut", [3, 8, 11])
def test_resumed_from_bytes_it_goes_on_to_the_bit(cut: int) -> None:
    branin = Branin()
    whole = Loop(Task(branin.space, deterministic=True), branin, QUICK).run(12)
    first = Loop(Task(branin.space, deterministic=True), branin, QUICK).run(cut)
    first.ask()
    first.state = from_bytes(to_bytes(first.state))
    first.tell(first.waiting[:])
    first.state = from_bytes(to_bytes(first.state))
    first.run(12)
    assert torch.equal(first.points, whole.points)
    assert equal(first.state, whole.state)


def test_order_and_pieces_of_tells_do_not_matter() -> None:
    branin = Branin()
    loops = [Loop(Task(branin.space), branin, QUICK) for _ in range(2)]
    for loop, pieces in zip(loops, ([[0, 1, 2, 3, 4, 5]], [[4], [5, 1], [0, 3, 2]]), strict=True):
        loop.ask(6)
        for piece in pieces:
            loop.tell(piece)
        loop.calls = 20
        loop.ask(2)
    assert torch.equal(loops[0].points, loops[1].points)


def test_a_row_told_again_replaces_the_first() -> None:
    branin = Branin()
    loop = Loop(Task(branin.space), branin, QUICK).run(6)
    x = loop.points[:1]
    told = Observations([0], x, torch.tensor([[-500.0]], dtype=torch.float64))
    loop.state = loop.recipe.tell(loop.task, loop.state, told, loop.random)
    chosen = loop.recipe.recommend(loop.task, loop.state)
    assert loop.state.x.shape[0] == 6
    assert chosen is not None and torch.equal(chosen, x[0])


def test_known_data_replace_the_design() -> None:
    branin = Branin()
    loop = Loop(Task(branin.space, deterministic=True), branin, QUICK)
    x = branin.space.from_unit(torch.rand((30, 2), generator=torch.Generator().manual_seed(3), dtype=torch.float64))
    loop.state = loop.recipe.tell(
        loop.task, loop.state, Observations(range(1000, 1030), x, branin(branin.space.decode(x)).unsqueeze(-1)), loop.random
    )
    loop.ask()
    assert loop.recipe.info(loop.task, loop.state)["model"] == "GP"
    assert loop.state.design == 0


def test_nothing_global_is_used_or_changed() -> None:
    branin = Branin()
    asked = []
    for noise in (0, 1):
        torch.manual_seed(noise)
        np.random.seed(noise)  # noqa: NPY002
        loop = Loop(Task(branin.space), branin, QUICK).run(6)
        before, numpy_before, threads = torch.get_rng_state(), np.random.get_state()[1].copy(), torch.get_num_threads()  # noqa: NPY002
        loop.ask(2)
        loop.tell([6, 7])
        loop.recipe.recommend(loop.task, loop.state)
        assert torch.equal(torch.get_rng_state(), before)
        assert np.array_equal(np.random.get_state()[1], numpy_before)  # noqa: NPY002
        assert torch.get_num_threads() == threads
        asked.append(loop.points)
    assert torch.equal(asked[0], asked[1])


@pytest.mark.usefixtures("falls_back")
def test_one_thread_while_small_and_restored_also_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    class Spy(GP):
        def fit(self, data: Any, task: Task, start: Tensor | None = None) -> Any:
            seen.append(torch.get_num_threads())
            raise RuntimeError("singular")

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        branin = Branin()
        with pytest.warns(ModelWarning, match="singular"):
            Loop(Task(branin.space), branin, BO(surrogate=Spy())).run(6)
        assert seen == [1]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@contextmanager
def beside(what: Callable[[], None]) -> Iterator[None]:
    """Another thread of the user's does something over and over."""
    stop, errors = threading.Event(), list[BaseException]()

    def work() -> None:
        try:
            while not stop.is_set():
                what()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    if errors:
        raise errors[0]


def limited(z: Tensor) -> Evaluation:
    """A sphere whose optimum breaks a constraint that a part of the box keeps."""
    return Evaluation((z - 0.3).square().sum(-1), 0.5 - z[:, :1])


CUBE = Space({"x": Real(0, 1, shape=(3,))})


@pytest.mark.parametrize("studies", [2, 3])
@pytest.mark.parametrize("constraints", [(), ("c",)])
def test_studies_in_threads_propose_what_they_propose_alone(studies: int, constraints: tuple[str, ...]) -> None:
    objective = limited if constraints else lambda z: limited(z).values
    make_loop = lambda seed: Loop(Task(CUBE, constraints=constraints), objective, QUICKEST, seed=seed)  # noqa: E731
    alone = [make_loop(seed).run(12, batch=2).points for seed in range(studies)]
    together = [make_loop(seed) for seed in range(studies)]
    threads = [threading.Thread(target=loop.run, args=(12, 2)) for loop in together]
    filters, show = list(warnings.filters), warnings.showwarning
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for serial, loop in zip(alone, together, strict=True):
        assert torch.equal(loop.points, serial)
    assert warnings.filters == filters
    assert warnings.showwarning is show


@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("constraints", [(), ("c",)])
def test_random_numbers_of_other_threads_are_left_alone(deterministic: bool, constraints: tuple[str, ...]) -> None:
    """A stream of global random numbers that another thread draws is the one of its seed, and nothing depends on it."""
    objective = limited if constraints else lambda z: limited(z).values

    def points() -> Tensor:
        return Loop(Task(CUBE, deterministic=deterministic, constraints=constraints), objective, QUICKEST).run(10, batch=2).points

    quiet = points()
    drawn: list[Tensor] = []
    torch.manual_seed(5)
    with beside(lambda: drawn.append(torch.rand(64))):
        busy = points()
    assert torch.equal(busy, quiet)
    own = torch.Generator().manual_seed(5)
    assert len(drawn) > 10
    assert all(torch.equal(one, torch.rand(64, generator=own)) for one in drawn)


def test_no_global_random_number_is_drawn_where_no_sample_is_feasible() -> None:
    """One point only was just feasible, under much noise: in some of the model's worlds none of the points is."""
    space = Space({"x": Real(0, 1), "y": Real(0, 1)})
    task = Task(space, constraints=("c",))
    x = space.from_unit(torch.rand((12, 2), generator=torch.Generator().manual_seed(2), dtype=torch.float64))
    limit = torch.rand((12, 1), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    limit[4] = -0.01
    asked = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        loop = Loop(task, limited, QUICK)
        told = Observations(range(100, 112), x, x.sum(-1, keepdim=True), constraints=limit)
        loop.state = loop.recipe.tell(task, loop.state, told, loop.random)
        loop.ask()
        assert torch.equal(torch.get_rng_state(), before)
        asked.append(loop.points)
    assert torch.equal(asked[0], asked[1])


def test_no_global_random_number_is_drawn_with_many_observations() -> None:
    asked = []
    x = CUBE.from_unit(torch.rand((900, 3), generator=torch.Generator().manual_seed(2), dtype=torch.float64))
    noise = torch.randn((900, 1), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    for seed in (0, 1):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        loop = Loop(Task(CUBE), limited, QUICK.replace(surrogate=GP(iterations=5)))
        told = Observations(range(1000, 1900), x, (x - 0.3).square().sum(-1, keepdim=True) + 0.1 * noise)
        loop.state = loop.recipe.tell(loop.task, loop.state, told, loop.random)
        loop.ask()
        assert torch.equal(torch.get_rng_state(), before)
        asked.append(loop.points)
    assert torch.equal(asked[0], asked[1])


def test_warnings_and_thread_counts_of_other_threads_are_left_alone() -> None:
    filters, show, before = warnings.filters, warnings.showwarning, torch.get_num_threads()
    torch.set_num_threads(2)
    seen: set[tuple[bool, bool, int]] = set()

    def look() -> None:
        counts: list[int] = []
        fresh = threading.Thread(target=lambda: counts.append(torch.get_num_threads()))
        fresh.start()
        fresh.join()
        seen.add((warnings.filters is filters, warnings.showwarning is show, counts[0]))

    try:
        with beside(look):
            loop = Loop(Task(CUBE, constraints=("c",)), limited, QUICK).run(10)
            loop.recipe.predict(loop.task, loop.state, loop.points)
        assert seen == {(True, True, 2)}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
@pytest.mark.parametrize("constraints", [(), ("c",)])
def test_nothing_is_warned_of(constraints: tuple[str, ...], scale: float) -> None:
    """Neither in small units nor in large ones, with batches, and near the optimum."""
    import botorch.models  # noqa: F401  (which warns when it is imported, whoever does it)

    def objective(z: Tensor) -> Any:
        result = limited(z)
        return Evaluation(scale * result.values, scale * result.constraints) if constraints else scale * result.values

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for deterministic in (True, False):
            loop = Loop(Task(CUBE, deterministic=deterministic, constraints=constraints), objective, QUICKEST).run(20, batch=2)
            loop.recipe.recommend(loop.task, loop.state)


MIXED = Space(
    {
        "x": Real(-2.0, 2.0),
        "n": Integer(0, 9),
        "big": Integer(1, 10_000, log=True),
        "c": Choice("red", "green", "blue", "white"),
        "on": Bool(),
    }
)


def mixed(z: Tensor) -> Tensor:
    """Smallest at x = 0.7, n = 6, big = 100, c = blue, on."""
    penalty = torch.tensor([1.0, 2.0, 0.0, 1.5], dtype=z.dtype)[z[:, 3].long()]
    return (z[:, 0] - 0.7) ** 2 + 0.1 * (z[:, 1] - 6) ** 2 + (torch.log10(z[:, 2]) - 2) ** 2 + penalty + (1 - z[:, 4])


def test_integers_and_choices_are_searched_by_level() -> None:
    loop = Loop(Task(MIXED, deterministic=True), mixed, QUICK, budget=30).run(30)
    assert torch.equal(MIXED.snap(loop.points), loop.points)
    z = MIXED.decode(loop.points)
    assert torch.equal(z[:, 1:].round(), z[:, 1:])
    assert len({tuple(row.tolist()) for row in z}) == 30
    best = z[int(np.argmin(loop.values))]
    assert best[1].item() == 6 and best[3].item() == 2 and best[4].item() == 1
    assert loop.best < 0.05


def test_a_finite_deterministic_space_is_asked_once_each_and_then_exhausted() -> None:
    space = Space({"a": Integer(1, 4), "b": Choice("u", "v", "w"), "c": Bool()})
    task = Task(space, deterministic=True)
    objective = lambda z: (z[:, 0] - 3) ** 2 + (z[:, 1] - 1).abs() + z[:, 2]  # noqa: E731
    loop = Loop(task, objective, QUICK, budget=24).run(22)
    assert loop.best == 0.0
    assert int(np.argmin(loop.values)) < 16
    assert len(loop.ask(5)) == 2  # fewer than asked: no more are left
    assert len({tuple(row.tolist()) for row in loop.points}) == 24
    before = to_bytes(loop.state)
    with pytest.raises(Exhausted):
        loop.ask()
    assert to_bytes(loop.state) == before
    loop.tell(loop.waiting[:])
    with pytest.raises(Exhausted):
        loop.ask()


def test_a_finite_noisy_space_may_be_asked_again() -> None:
    space = Space({"a": Integer(1, 3)})
    loop = Loop(Task(space), lambda z: (z[:, 0] - 2) ** 2, QUICK).run(8)
    assert len(loop.x) == 8


@pytest.mark.parametrize("log", [False, True])
def test_neighbouring_levels_of_a_huge_integer_are_different_points(log: bool) -> None:
    space = Space({"k": Integer(1, 10**9, log=log)}, ["k >= 999_999_000", "k <= 999_999_004"])
    loop = Loop(Task(space, deterministic=True), lambda z: (z[:, 0] - 999_999_003).abs(), QUICK)
    x = space.encode(torch.arange(999_999_000, 999_999_003, dtype=torch.float64).unsqueeze(-1))
    told = Observations(range(100, 103), x, loop.objective(space.decode(x)).unsqueeze(-1))
    loop.state = loop.recipe.tell(loop.task, loop.state, told, loop.random)
    for _ in range(2):
        loop.tell(loop.ask())
    assert sorted(space.decode(loop.points)[:, 0].tolist()) == [999_999_003, 999_999_004]


def test_conditional_and_unbounded_variables() -> None:
    space = Space(
        {
            "kind": Choice("line", "parabola"),
            "slope": Real(-1, 1, when={"kind": "line"}),
            "top": Real(-1, 1, when={"kind": "parabola"}),
            "free": Real(start=5.0, scale=2.0),
        }
    )

    def objective(z: Tensor) -> Tensor:
        line = 1.0 + z[:, 1] ** 2
        return torch.where(z[:, 0] == 0, line, (z[:, 2] - 0.4) ** 2) + 0.1 * (z[:, 3] - 11.0) ** 2

    loop = Loop(Task(space, deterministic=True), objective, QUICK, budget=28).run(28)
    off = ~space.active(loop.points)
    default = torch.tensor(space.start).expand_as(loop.points)
    assert torch.equal(loop.points[off], default[off])
    assert loop.best < 0.02


def test_known_constraints_are_never_broken() -> None:
    space = Space({"x": Real(0, 1), "y": Real(0, 1), "k": Integer(0, 4)}, [Linear({"x": 1.0, "y": 1.0}, upper=1.0), "k >= 1 or x < 0.5"])
    objective = lambda z: (z[:, 0] - 0.9) ** 2 + (z[:, 1] - 0.4) ** 2 + 0.1 * z[:, 2]  # noqa: E731
    loop = Loop(Task(space), objective, QUICK, budget=20).run(20, batch=2)
    assert bool(space.allowed(loop.points.numpy()).all())
    # By hand: on the line x + y = 1 the nearest point is (0.75, 0.25), which needs k = 1 for its x.
    assert loop.best < 0.145 + 0.01


def test_outcome_constraints() -> None:
    gramacy = Gramacy()
    loop = Loop(Task(gramacy.space, constraints=gramacy.constraints), gramacy, QUICK).run(16)
    feasible = (torch.stack(loop.constraints) <= 0).all(-1)
    assert float(torch.tensor(loop.values)[feasible].min()) - gramacy.optimum.value < 0.05
    chosen = loop.recipe.recommend(loop.task, loop.state)
    assert chosen is not None
    assert bool((gramacy(gramacy.space.decode(chosen)).constraints <= 0).all())


def test_a_feasible_point_is_looked_for_first() -> None:
    space = Space({"x": Real(0, 1), "y": Real(0, 1)})

    def objective(z: Tensor) -> Evaluation:
        away = (z - torch.tensor([0.83, 0.27], dtype=z.dtype)).norm(dim=-1, keepdim=True)
        return Evaluation(z.sum(-1), 1e6 * (away - 0.06))  # 1 % of the box, in large units

    loop = Loop(Task(space, constraints=("c",)), objective, QUICK).run(18)
    assert bool((torch.stack(loop.constraints) <= 0).any())
    early = Loop(Task(space, constraints=("c",)), objective, QUICK).run(7)
    chosen = early.recipe.recommend(early.task, early.state)
    assert chosen is not None and torch.equal(chosen, early.x[int(torch.stack(early.constraints).argmin())])


def test_failures_are_learned_from() -> None:
    """The unconstrained optimum lies in a disc where everything fails: the search must leave it alone and stay useful."""
    branin = Branin()
    disc = lambda z: (z - torch.tensor([9.42478, 2.475], dtype=z.dtype)).norm(dim=-1) < 4.0  # noqa: E731
    loop = Loop(Task(branin.space), branin, QUICK, failing=disc).run(20)
    failed = disc(branin.space.decode(loop.points))
    assert int(failed[10:].sum()) <= 3
    assert loop.best - branin.optimum.value < 1.0
    assert loop.recipe.info(loop.task, loop.state)["failures"] == float(failed[:-1].sum())


@pytest.mark.parametrize("deterministic", [True, False])
def test_a_dropped_trial_is_no_failure(deterministic: bool) -> None:
    """Given up by the user, or lost with its worker: nothing was learned of the point, but it was asked."""
    space = Space({"a": Integer(1, 4), "b": Bool()})
    study = Study(space, QUICK.replace(initial=2), seed=0, deterministic=deterministic)
    asked = []
    for i in range(8):
        trial = study.ask()
        asked.append(tuple(trial.params.values()))
        if i in (1, 4):
            study.drop(trial)
        else:
            study.tell(trial, trial.params["a"] + trial.params["b"])
        if i == 6:
            assert study.strategy.info(study.task, study._engine.state)["failures"] == 0.0
    if deterministic:
        assert len(set(asked)) == 8
        with pytest.raises(Exhausted):
            study.ask()


def test_what_was_enqueued_and_dropped_counts_as_asked() -> None:
    space = Space({"a": Integer(1, 3)})
    loop = Loop(Task(space, deterministic=True), lambda z: z[:, 0], QUICK)
    x = space.encode(torch.tensor([[2.0]], dtype=torch.float64))
    told = Observations([40], x, torch.tensor([[torch.inf]]), ok=[False], dropped=(40,))
    loop.state = from_bytes(to_bytes(loop.recipe.tell(loop.task, loop.state, told, loop.random)))  # type: ignore[assignment]
    loop.run(2)
    assert sorted(space.decode(loop.points)[:, 0].tolist()) == [1.0, 3.0]


def test_all_failed_goes_on_exploring() -> None:
    branin = Branin()
    loop = Loop(Task(branin.space), branin, QUICK, failing=lambda z: torch.ones(z.shape[0], dtype=torch.bool)).run(15)
    assert torch.unique(loop.points, dim=0).shape[0] == 15
    assert loop.recipe.recommend(loop.task, loop.state) is None
    assert loop.recipe.predict(loop.task, loop.state, loop.points) is None


def test_context_is_kept_as_given_and_used() -> None:
    space = Space({"x": Real(0, 1), "weather": Context(Real(0, 1))})
    objective = lambda z: (z[:, 0] - z[:, 1]) ** 2  # noqa: E731
    loop = Loop(Task(space), objective, QUICK)
    [column] = space.fixed_columns({"weather": 0.5})
    for i in range(16):
        loop.tell(loop.ask(1, {column: (i % 4) / 4 + 0.1}))
    assert torch.allclose(loop.points[:, column], torch.arange(16, dtype=torch.float64) % 4 / 4 + 0.1)
    loop.ask(1, {column: 0.73})
    assert abs(loop.points[-1, 0].item() - 0.73) < 0.12


@pytest.mark.parametrize(("slope", "deterministic"), [(0.0, True), (3.0, True), (0.3, False)])
def test_a_context_that_moves_the_level_does_not_hide_its_optimum(slope: float, deterministic: bool) -> None:
    """What is best in one context says nothing of what can be reached in another one."""
    space = Space({"a": Real(0, 1), "b": Real(0, 1), "w": Context(Real(0, 10))})
    level = lambda z: slope * z[:, 2]  # noqa: E731
    objective = lambda z: (z[:, 0] - 0.2 - 0.06 * z[:, 2]) ** 2 + (z[:, 1] - 0.5) ** 2 + level(z)  # noqa: E731
    given = 10 * torch.rand(32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    loop = Loop(Task(space, deterministic=deterministic), objective, QUICK)
    for w in given.tolist():
        loop.tell(loop.ask(1, space.fixed_columns({"w": w})))
    regrets = torch.tensor(loop.values) - level(space.decode(loop.points))
    assert float(regrets[-10:].mean()) < 0.05  # of random points: 0.2


def test_the_feasible_part_moves_with_the_context() -> None:
    """The limit on a depends on the context; what kept it in one context may break it in another one."""
    space = Space({"a": Real(0, 1), "b": Real(0, 1), "w": Context(Real(0, 1))})

    def objective(z: Tensor) -> Evaluation:
        return Evaluation(z[:, 0] + (z[:, 1] - 0.5) ** 2 - 5 * z[:, 2], (z[:, 2] - z[:, 0]).unsqueeze(-1))  # a >= w

    given = 0.1 + 0.8 * torch.rand(30, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    loop = Loop(Task(space, constraints=("c",)), objective, QUICK)
    for w in given.tolist():
        loop.tell(loop.ask(1, space.fixed_columns({"w": w})))
    z = space.decode(loop.points)[-10:]
    away = z[:, 0] - z[:, 2]
    assert float(away.abs().median()) < 0.05 and float((away >= -0.02).double().mean()) >= 0.8


def test_the_budget_caps_the_design() -> None:
    space = Space({"x": Real(0, 1, shape=(20,))})
    loop = Loop(Task(space), lambda z: z.sum(-1), QUICK, budget=12).run(7)
    assert loop.state.design == 6
    assert Loop(Task(space), lambda z: z.sum(-1), QUICK).run(7).state.design == 7


@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize(
    "objective",
    [
        lambda z: torch.ones(z.shape[0], dtype=z.dtype),
        lambda z: 10.0 ** (24 * z[:, 0] - 12),
        lambda z: torch.where(z[:, 0] > 0.5, 1e300, z[:, 1]),
    ],
    ids=["constant", "24 decades", "huge"],
)
def test_awkward_values_never_stop_it(objective: Callable[[Tensor], Tensor], deterministic: bool) -> None:
    space = Space({"x": Real(0, 1), "y": Real(0, 1)})
    loop = Loop(Task(space, deterministic=deterministic), objective, QUICK).run(9)
    assert bool(torch.isfinite(loop.points).all())


@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("scale", [1e-300, 1e-9, 1e9, 1e300])
def test_units_do_not_matter(scale: float, deterministic: bool) -> None:
    """In the smallest and the largest units alike the optimum is found, and predictions are in these units."""
    loop = Loop(Task(CUBE, deterministic=deterministic), lambda z: scale * (z - 0.3).square().sum(-1), QUICK).run(20)
    assert loop.best / scale < 1e-3
    x = CUBE.from_unit(torch.rand((20, 3), generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    predicted = loop.recipe.predict(loop.task, loop.state, x)
    assert predicted is not None
    mean, sd = predicted[0] / scale, predicted[1] / scale
    assert float((mean[:, 0] - (x - 0.3).square().sum(-1)).abs().median()) < 0.05
    assert 0 < float(sd.min()) and float(sd.max()) < 0.3
    chosen = loop.recipe.recommend(loop.task, loop.state)
    assert chosen is not None and float((chosen - 0.3).abs().max()) < 0.1


def test_the_largest_numbers_do_not_hide_the_others() -> None:
    space = Space({"x": Real(0, 1), "y": Real(0, 1)})
    enormous = torch.tensor([1e300, torch.finfo(torch.float64).max], dtype=torch.float64)
    objective = lambda z: torch.where(z[:, 0] > 0.8, enormous[(z[:, 1] > 0.5).long()], (z - 0.3).square().sum(-1))  # noqa: E731
    loop = Loop(Task(space), objective, QUICK).run(24)
    assert loop.best < 1e-3


def test_the_same_point_told_many_times() -> None:
    space = Space({"x": Real(0, 1), "y": Real(0, 1)})
    loop = Loop(Task(space), lambda z: z.sum(-1), QUICK)
    x = torch.full((10, 2), 0.5, dtype=torch.float64)
    y = torch.linspace(0, 1, 10, dtype=torch.float64).unsqueeze(-1)
    loop.state = loop.recipe.tell(loop.task, loop.state, Observations(range(100, 110), x, y), loop.random)
    loop.ask(2)
    assert float((loop.points - 0.5).abs().max(-1).values.min()) > 1e-3


@pytest.mark.usefixtures("falls_back")
def test_a_broken_model_gives_way_to_sobol_points_and_says_so() -> None:
    class Broken(Surrogate):
        def fit(self, data: Any, task: Task, start: Tensor | None = None) -> Any:
            raise RuntimeError("singular matrix")

    branin = Branin()
    with pytest.warns(ModelWarning, match="singular matrix"):
        loop = Loop(Task(branin.space), branin, BO(surrogate=Broken())).run(8)
    assert torch.unique(loop.points, dim=0).shape[0] == 8
    assert "failed" in str(loop.recipe.info(loop.task, loop.state)["model"])
    assert loop.recipe.recommend(loop.task, loop.state) is not None


def test_a_mistake_in_a_surrogate_is_no_numerics() -> None:
    class Misspelt(Surrogate):
        def fit(self, data: Any, task: Task) -> Any:  # type: ignore[override]
            raise AssertionError("never called")

    study = Study(Branin().space, BO(surrogate=Misspelt(), initial=2), seed=0)
    for _ in range(2):
        study.tell(study.ask(), 1.0)
    with pytest.raises(StrategyError, match="positional argument"):
        study.ask()


def test_a_surrogate_may_be_fitted_by_gradients() -> None:
    class Descended(Surrogate):
        def fit(self, data: Any, task: Task, start: Tensor | None = None) -> Any:
            weight = torch.ones(data.x.shape[-1], dtype=data.x.dtype, requires_grad=True)
            ((data.x @ weight - data.y[:, 0]) ** 2).sum().backward()
            return GP().fit(data, task, start)

    loop = Loop(Task(Branin().space), Branin(), BO(surrogate=Descended(), initial=4)).run(5)
    found = loop.recipe.predict(loop.task, loop.state, loop.points[:2])
    assert found is not None and bool(torch.isfinite(found[0]).all())
    assert loop.recipe.recommend(loop.task, loop.state) is not None


@pytest.mark.parametrize("surrogate", [GP, 3, None])
def test_a_surrogate_is_a_recipe(surrogate: Any) -> None:
    with pytest.raises(ConfigError, match="instance of a class derived from"):
        BO(surrogate=surrogate)


def test_recommend_sees_through_noise_and_predict_has_a_sense_of_scale() -> None:
    space = Space({"x": Real(0, 1)})
    task = Task(space)
    recipe = BO()
    state = recipe.begin(task, Random(0))
    x = torch.linspace(0, 1, 40, dtype=torch.float64).unsqueeze(-1)
    y = 100 * (x - 0.3) ** 2 + torch.randn((40, 1), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y[35] = -1.5  # a lucky draw far from the minimum
    state = recipe.tell(task, state, Observations(range(40), x, y), Random(0))
    chosen = recipe.recommend(task, state)
    assert chosen is not None and abs(chosen.item() - 0.3) < 0.1
    predicted = recipe.predict(task, state, x)
    assert predicted is not None
    mean, sd = predicted
    assert mean.shape == sd.shape == (40, 1)
    assert float((mean - 100 * (x - 0.3) ** 2).abs().median()) < 3
    exact = recipe.recommend(Task(space, deterministic=True), state)
    assert exact is not None and exact.item() == x[int(y.argmin())].item()  # without noise the best value is the best point


def test_many_observations_are_thinned_to_the_best_and_the_latest() -> None:
    space = Space({"x": Real(0, 1), "y": Real(0, 1)})
    recipe = QUICK.replace(most_points=20)
    loop = Loop(Task(space), lambda z: z.sum(-1), recipe)
    x = space.from_unit(torch.rand((200, 2), generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    loop.state = recipe.tell(loop.task, loop.state, Observations(range(500, 700), x, x.sum(-1, keepdim=True)), loop.random)
    loop.ask()
    assert recipe.info(loop.task, loop.state)["points"] == 20.0
    data = recipe._data(loop.task, loop.state).objectives
    assert float(data.y.min()) == float(x.sum(-1).min())
    assert torch.equal(data.x[-1], x[-1])


def test_float32_studies() -> None:
    branin = Branin()
    loop = Loop(Task(branin.space, deterministic=True, dtype=torch.float32), branin, QUICK).run(10)
    assert loop.points.dtype == torch.float32
    assert torch.unique(loop.points, dim=0).shape[0] == 10


def test_recipes_are_checked_and_named() -> None:
    assert make("bo", initial=3).surrogate == GP()  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="restarts >= 1; got 0"):
        BO(restarts=0)
    with pytest.raises(UnknownName, match="no surrogate called 'gpp'; did you mean 'gp'"):
        BO(surrogate="gpp")


def test_rankings_are_refused_with_alternatives() -> None:
    with pytest.raises(CapabilityError, match="ranking"):
        BO().check(Task(Space({"x": Real(0, 1)}), feedback="ranking"))
