"""Acquisition functions against closed forms and brute force, alone and at work."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

import zoopt
from zoopt import Choice, Integer, Random, Real, Space, Study, registry
from zoopt.config import ConfigFaults, load
from zoopt.errors import ConfigError, UnknownName
from zoopt.feedback import Evaluation
from zoopt.problems import Branin, BraninCurrin
from zoopt.strategies.bo.acquisitions import (
    Acquisition,
    ConfidenceBound,
    Guided,
    Improvement,
    KnowledgeGradient,
    NoisyImprovement,
    ProbabilityOfImprovement,
    Thompson,
    log_expected_gain,
    moments,
)
from zoopt.strategies.bo.automatic import Automatic
from zoopt.strategies.bo.entropy import JointEntropy, MaxValueEntropy, PredictiveEntropy, optima
from zoopt.strategies.bo.improvement import log_h
from zoopt.strategies.bo.models import Data, Fitted
from zoopt.strategies.bo.recipe import BO
from zoopt.strategies.bo.search import Search
from zoopt.strategy import Task
from zoopt.surrogates import GP, TrainingData

F64 = torch.float64
SQUARE = Space({"x": Real(0, 1), "y": Real(0, 1)})
EACH = [
    Improvement(),
    NoisyImprovement(samples=32),
    ProbabilityOfImprovement(),
    ConfidenceBound(),
    ConfidenceBound(beta=4.0),
    KnowledgeGradient(spread=8, kept=8),
    KnowledgeGradient(spread=0),
    MaxValueEntropy(samples=16, spread=64),
    JointEntropy(samples=16, spread=64),
    PredictiveEntropy(samples=8, spread=64),
    Thompson(spread=64),
    Guided(near={"x": 0.5}),
]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return Random(seed).child("draw").uniform(shape)


def bowl(x: Tensor) -> Tensor:
    return (3 * x[..., 0] - 1).square() + torch.sin(5 * x[..., 1])


def fitted(n: int = 8, deterministic: bool = True, constraint: Tensor | None = None, failed: int = 0, noise: float = 0.0) -> Fitted:
    x = draw(n, 2)
    y = bowl(x) + noise * Random(3).child("noise").normal((n,))
    limits = torch.empty((n, 0), dtype=F64) if constraint is None else constraint.unsqueeze(-1)
    task = Task(SQUARE, deterministic=deterministic, constraints=() if constraint is None else ("c",))
    search = Search(SQUARE, {}, x, deterministic, Random(1))
    return Fitted(GP(), task, Data(TrainingData(x, y.unsqueeze(-1)), limits, draw(failed, 2, seed=9)), {}, search, Random(2))


def at(x: Tensor, model: Any) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    with torch.no_grad():
        mean, sd = moments(model, x.unsqueeze(-2))
    return mean.numpy(), sd.numpy()


# ---------------------------------------------------------------------- closed forms


def test_the_logarithm_of_improvement_to_many_digits() -> None:
    """Against fifty digits, down to where the improvement itself is no double by far; and its slope."""
    mpmath.mp.dps = 60
    z = torch.tensor(
        [10.0, 3.0, 0.0, -0.5, -0.999, -1.001, -3.0, -10.0, -30.0, -1e3, -1.1e3, -1e6, -6e7, -7e7, -1e9], dtype=F64
    ).requires_grad_()
    value = log_h(z)
    (slope,) = torch.autograd.grad(value.sum(), z)
    for at, found, rise in zip(z.tolist(), value.tolist(), slope.tolist(), strict=True):
        x = mpmath.mpf(at)
        # Phi / phi by its integral, since the difference of the two terms leaves nothing of sixty digits at -1e9.
        if at < -30:
            series = sum((-1) ** k * mpmath.fac2(2 * k + 1) / x ** (2 * k + 2) for k in range(12))  # h / phi (Abramowitz & Stegun 26.2.12)
            exact = -x * x / 2 - mpmath.log(2 * mpmath.pi) / 2 + mpmath.log(series)
            ratio = sum((-1) ** k * mpmath.fac2(2 * k - 1) / -(x ** (2 * k + 1)) for k in range(12)) / series
        else:
            mass, density = mpmath.ncdf(x), mpmath.npdf(x)
            exact, ratio = mpmath.log(density + x * mass), mass / (density + x * mass)
        assert found == pytest.approx(float(exact), rel=1e-10), at
        assert rise == pytest.approx(float(ratio), rel=1e-8), at


def test_moments_and_their_gradient_are_those_of_the_posterior() -> None:
    """Also where points were added to the factor, and beside choices."""
    space = Space({"x": Real(-1, 2), "k": Integer(0, 50), "c": Choice("a", "b", "d")})
    x = space.from_unit(draw(15, 3))
    y = (x[:, :1] - 0.3).square() + x[:, 2:]
    model: Any = GP().fit(TrainingData(x, y), Task(space))
    for known in (model, model.condition_on_observations(x[:2] + 0.01, y[:2])):
        at_points = space.from_unit(draw(20, 3, seed=4)).requires_grad_()
        mean, sd = known.moments(at_points)
        posterior = known.posterior(at_points.unsqueeze(-2))
        theirs = posterior.mean.reshape(-1), posterior.variance.reshape(-1).sqrt()
        torch.testing.assert_close((mean, sd), theirs, rtol=1e-9, atol=1e-12)
        weights = draw(2, 20, seed=6)
        ours, other = (torch.autograd.grad((weights[0] * a + weights[1] * b).sum(), at_points)[0] for a, b in ((mean, sd), theirs))
        torch.testing.assert_close(ours[:, :2], other[:, :2], rtol=1e-6, atol=1e-9)


def test_improvement_and_its_probability_and_the_bound() -> None:
    known, x = fitted(), draw(50, 2, seed=4)
    mean, sd = at(x, known.objective)
    best = float(known.incumbent_value)
    z = (best - mean) / sd
    expected = sd * (stats.norm.pdf(z) + z * stats.norm.cdf(z))
    likely = expected > 1e-12
    found = Improvement().function(known, None)(x.unsqueeze(-2)).detach().exp().numpy()
    np.testing.assert_allclose(found[likely], expected[likely], rtol=1e-6)
    found = ProbabilityOfImprovement(margin=0.05).function(known, None)(x.unsqueeze(-2)).detach().numpy()
    np.testing.assert_allclose(found, stats.norm.logcdf((best - 0.05 * known.range_of_values - mean) / sd), rtol=1e-6)
    found = ConfidenceBound(beta=9.0).function(known, None)(x.unsqueeze(-2)).detach().numpy()
    np.testing.assert_allclose(found, -(mean - 3 * sd), rtol=1e-9)
    schedule = 2 * math.log(1000 * 8**2 * math.pi**2 / 0.6)
    found = ConfidenceBound().function(known, None)(x.unsqueeze(-2)).detach().numpy()
    np.testing.assert_allclose(found, -(mean - math.sqrt(schedule) * sd), rtol=1e-9)


def test_the_expected_gain_of_lines_is_that_of_quadrature() -> None:
    """30 random cases, among them equal slopes and lines that are nowhere the highest."""
    z = stats.norm.ppf((np.arange(200_000) + 0.5) / 200_000)
    for case in range(30):
        k = 2 + case % 9
        a, b = Random(case).child("a").normal((1, k)), Random(case).child("b").normal((1, k))
        if case % 3 == 0:
            b[0, 0] = b[0, -1]
        if case % 5 == 0:
            a[0, 1] -= 50.0
        brute = (a[0].numpy()[:, None] + b[0].numpy()[:, None] * z).max(0).mean() - float(a.max())
        assert float(log_expected_gain(a, b).exp()) == pytest.approx(brute, abs=2e-5), case
    flat = torch.zeros((1, 4), dtype=F64)
    assert float(log_expected_gain(flat + 1.0, flat)) < -600  # nothing to gain, and a number


def test_the_expected_gain_has_the_gradient_of_its_differences() -> None:
    a, b = Random(1).child("a").normal((4, 6)), Random(1).child("b").normal((4, 6))
    assert torch.autograd.gradcheck(log_expected_gain, (a.requires_grad_(), b.requires_grad_()))


def test_without_noise_the_knowledge_gradient_over_the_told_points_is_expected_improvement() -> None:
    """Frazier's tutorial, section 4: the generalisation to noise is expected improvement where there is none."""
    known, x = fitted(), draw(40, 2, seed=5)
    ours = KnowledgeGradient(spread=0, kept=8).function(known, None)(x.unsqueeze(-2)).detach()
    theirs = Improvement().function(known, None)(x.unsqueeze(-2)).detach()
    likely = theirs > -15
    assert int(likely.sum()) > 10
    torch.testing.assert_close(ours[likely], theirs[likely], rtol=0, atol=5e-2)  # the fixed noise of an interpolation is not quite none


def test_the_knowledge_gradient_is_what_fantasies_say() -> None:
    """The mean over simulated results of the fall of the least expected value, by conditioning the model on each."""
    known = fitted(n=8, deterministic=False, noise=0.3)
    recipe = KnowledgeGradient(spread=6, kept=4)
    x = draw(1, 2, seed=6)
    told = known.settings[torch.argsort(known.expected(known.settings))[:4]]
    where = torch.cat([x, told, known.search.spread(6, known.random.child("knowledge"))])
    with torch.no_grad():
        posterior = known.objective.posterior(x)
        results = posterior.mean + (posterior.variance + known.noise_variance).sqrt() * torch.tensor(
            stats.norm.ppf((np.arange(512) + 0.5) / 512)
        ).unsqueeze(-1)
        before = known.objective.posterior(where).mean.min()
        after = torch.stack([known.objective.condition_on_observations(x, y.unsqueeze(0)).posterior(where).mean.min() for y in results])
    simulated = float(before - after.mean())
    assert float(recipe.function(known, None)(x.unsqueeze(-2)).exp()) == pytest.approx(simulated, rel=0.02)


def test_the_entropy_is_that_of_the_formula_for_the_drawn_values() -> None:
    known, x = fitted(), draw(60, 2, seed=7)
    recipe = MaxValueEntropy(samples=64, spread=128)
    _, paths = known.sampled(known.objective, 128, 64, known.random.child("least values"))
    least = np.minimum(paths.numpy().min(1), float(known.incumbent_value))
    mean, sd = at(x, known.objective)
    g = (mean - least[:, None]) / sd
    by_hand = (g * stats.norm.pdf(g) / (2 * stats.norm.cdf(g)) - stats.norm.logcdf(g)).mean(0)
    found = recipe.function(known, None)(x.unsqueeze(-2)).detach().exp().numpy()
    likely = by_hand > 1e-9
    assert likely.sum() > 10
    np.testing.assert_allclose(found[likely], by_hand[likely], rtol=1e-5)


def test_joint_entropy_is_botorchs_for_the_drawn_optima() -> None:
    from botorch.acquisition.joint_entropy_search import qJointEntropySearch
    from botorch.acquisition.objective import ScalarizedPosteriorTransform

    known, x = fitted(16, deterministic=False, noise=0.1), draw(60, 2, seed=7)
    where, least = optima(known, 128, 32)
    minus = ScalarizedPosteriorTransform(torch.tensor([-1.0], dtype=F64))
    peer = qJointEntropySearch(known.objective, where, least.unsqueeze(-1), posterior_transform=minus)(x.unsqueeze(-2)).detach()
    ours = JointEntropy(samples=32, spread=128).function(known, None)(x.unsqueeze(-2)).detach().exp()
    likely = peer > 0.05
    assert int(likely.sum()) > 10
    torch.testing.assert_close(ours[likely], peer[likely], rtol=0.05, atol=2e-3)  # BoTorch sees the optimum with a noise of 1e-4


def test_entropies_are_those_of_many_sampled_functions() -> None:
    """What a value tells about the place of the minimum: the spread of values, less that among functions with the same minimum."""
    known = fitted(12, deterministic=False, noise=0.1)
    grid, paths = known.sampled(known.objective, 96, 60_000, Random(3))
    place = paths.argmin(-1)
    noise = known.noise_variance
    shared = torch.zeros(len(grid), dtype=F64)
    for k, times in enumerate(torch.bincount(place, minlength=len(grid)).tolist()):
        if times > 30:
            shared += times / len(paths) * (paths[place == k].var(0) + noise).log()
    brute = 0.5 * ((paths.var(0) + noise).log() - shared)
    found = [
        recipe.function(known, None)(grid.unsqueeze(-2)).detach().exp()
        for recipe in (PredictiveEntropy(), JointEntropy(), MaxValueEntropy())
    ]
    for information in found:
        assert float(torch.corrcoef(torch.stack([information, brute]))[0, 1]) > 0.8
    assert float((found[0] - brute).abs().median()) < 0.05


def test_predictive_entropy_has_the_gradient_of_its_differences() -> None:
    known = fitted(8, deterministic=False, noise=0.1)
    function = PredictiveEntropy(samples=8, spread=64).function(known, None)
    x = draw(5, 2, seed=4)
    moved = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(function(moved.unsqueeze(-2)).sum(), moved)
    for j in range(2):
        step = torch.zeros(2, dtype=F64)
        step[j] = 1e-4
        by_hand = (function((x + step).unsqueeze(-2)) - function((x - step).unsqueeze(-2))) / 2e-4
        torch.testing.assert_close(slope[:, j], by_hand, rtol=1e-2, atol=1e-2)


def test_functions_drawn_go_through_their_values_and_spread_as_the_posterior_does() -> None:
    known, x = fitted(n=5), draw(20, 2, seed=8)
    values = []
    for k in range(200):
        known.random = Random(100 + k)
        values.append(-Thompson(spread=64).function(known, None)(x.unsqueeze(-2)).detach())
    drawn = torch.stack(values)
    mean, sd = at(x, known.objective)
    assert np.abs((drawn.mean(0).numpy() - mean) / sd).max() < 4 / math.sqrt(200) + 0.05
    ratio = drawn.std(0).numpy() / sd
    assert 0.8 < ratio.min() and ratio.max() < 1.2
    told = known.settings
    np.testing.assert_allclose(
        -Thompson().function(known, None)(told.unsqueeze(-2)).detach().numpy(), at(told, known.objective)[0], atol=2e-2
    )


@pytest.mark.parametrize(
    "recipe", [Improvement(), ProbabilityOfImprovement(), KnowledgeGradient(spread=8, kept=8), MaxValueEntropy()], ids=str
)
def test_under_constraints_promises_are_weighed_by_their_probability(recipe: Acquisition) -> None:
    free, x = fitted(), draw(20, 2, seed=4)
    held = fitted(constraint=draw(8, 2)[:, 0] - 0.5)
    mean, sd = at(x, held.limits[0])
    plain = recipe.function(free, None)(x.unsqueeze(-2)).detach()
    plain += (held.incumbent_value - free.incumbent_value) * 0
    weighed = recipe.promise(held)(x.unsqueeze(-2)).detach().numpy() + stats.norm.logcdf(-mean / sd)  # type: ignore[attr-defined]
    np.testing.assert_allclose(recipe.function(held, None)(x.unsqueeze(-2)).detach().numpy(), weighed, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("recipe", [recipe for recipe in EACH if not isinstance(recipe, Guided | Thompson | NoisyImprovement)], ids=str)
def test_while_nothing_is_feasible_feasibility_is_all_that_counts(recipe: Acquisition) -> None:
    known, x = fitted(constraint=draw(8, 2)[:, 0] + 0.01, failed=2), draw(20, 2, seed=4)
    logs = [stats.norm.logcdf(-mean / sd) for mean, sd in (at(x, limit) for limit in known.limits)]
    assert len(logs) == 2
    np.testing.assert_allclose(recipe.function(known, None)(x.unsqueeze(-2)).detach().numpy(), sum(logs), rtol=1e-6)


@pytest.mark.parametrize("recipe", [*EACH, Automatic()], ids=str)
def test_a_point_that_is_awaited_promises_less(recipe: Acquisition) -> None:
    if isinstance(recipe, Thompson):
        return
    known = fitted(n=6)
    x = known.search.spread(64, Random(5))
    value = recipe.function(known, None)(x.unsqueeze(-2)).detach()
    best = x[int(value.argmax())].unsqueeze(0)
    known.awaited = best
    beside = recipe.function(known, best)(best.unsqueeze(-2)).detach()
    alone = recipe.function(known, None)(best.unsqueeze(-2)).detach() if not isinstance(recipe, Automatic) else value.max().unsqueeze(0)
    assert float(beside) < float(alone)


def test_a_belief_draws_and_fades() -> None:
    x = torch.tensor([[0.5, 0.2], [0.7, 0.2]], dtype=F64)

    def drawn(n: int) -> float:
        known = fitted(n=n)
        plain = Improvement().function(known, None)(x.unsqueeze(-2))
        guided = Guided(near={"x": 0.5}, width=0.1, confidence=10.0).function(known, None)(x.unsqueeze(-2))
        difference = (guided - plain).detach()
        assert float(difference[0]) == pytest.approx(0.0, abs=1e-12)
        return float(difference[1])

    assert drawn(5) == pytest.approx(-(10 / 5) * 0.5 * 4.0)
    assert drawn(20) == pytest.approx(-(10 / 20) * 0.5 * 4.0)


# ---------------------------------------------------------------------- at work


OF_FRONTS = [name for name in registry.names("acquisitions") if registry.load(name, "acquisitions").several]


@pytest.mark.parametrize("name", [name for name in registry.names("acquisitions") if name != "guided" and name not in OF_FRONTS])
def test_each_solves_a_small_problem(name: str) -> None:
    """One variable of three kinds each, in batches of two, by name."""
    space = Space({"x": Real(-1, 2), "k": Integer(0, 5), "c": Choice("a", "b")})
    study = Study(space, BO(acquisition=name, raw_samples=64, restarts=2), seed=1)
    for _ in range(10):
        trials = study.ask(2)
        study.tell(trials, [(p["x"] - 0.3) ** 2 + 0.2 * abs(p["k"] - 2) + (p["c"] == "b") for p in trials.params])
    assert study.best is not None
    assert study.best.value is not None
    assert study.best.value < 0.15


@pytest.mark.parametrize("recipe", [Improvement(), KnowledgeGradient(spread=8), ConfidenceBound(), Thompson(spread=64)], ids=str)
def test_under_a_constraint_and_failures(recipe: Acquisition) -> None:
    def disc(x: Tensor) -> Evaluation:
        values = x.sum(-1)
        return Evaluation(torch.where(x[..., 0] > 0.9, torch.nan, values), (0.25 - (x - 0.5).square().sum(-1)).unsqueeze(-1) * -1)

    found = zoopt.minimize(
        disc, BO(acquisition=recipe, raw_samples=64, restarts=2), space=SQUARE, constraints=["disc"], evaluations=24, dtype=F64
    )
    assert float(found.violations[0]) == 0.0
    assert found.value < 0.45  # the least is 1 - sqrt(1/2) = 0.29


def test_what_is_proposed_does_not_depend_on_torchs_own_generator() -> None:
    for name in registry.names("acquisitions"):
        if name == "guided":
            continue
        asked = []
        for noise in (0, 1):
            torch.manual_seed(noise)
            problem = BraninCurrin() if name in OF_FRONTS else Branin()
            recipe = BO(acquisition=name, raw_samples=32, restarts=1, initial=4)
            study = Study(problem.space, recipe, objectives=dict.fromkeys(problem.objectives, "minimize"), seed=0)
            batch = study.ask(4)
            study.tell(batch, problem(batch.x))
            before = torch.get_rng_state()
            asked.append(study.ask(2).x)
            assert torch.equal(torch.get_rng_state(), before), name
        assert torch.equal(*asked), name


def test_names_and_recipes_that_are_none_are_refused() -> None:
    with pytest.raises(UnknownName, match="knowledge-gradient"):
        BO(acquisition="knowlege-gradient")
    with pytest.raises(ConfigError, match="an acquisition function is"):
        BO(acquisition=GP())  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="near"):
        Guided()
    with pytest.raises(ConfigError, match="there is no variable 'z'"):
        Study(SQUARE, BO(acquisition=Guided(near={"z": 1.0})))
    for wrong in ({"beta": -1.0}, {"beta": math.inf}):
        with pytest.raises(ConfigError, match="beta"):
            ConfidenceBound(**wrong)
    with pytest.raises(ConfigError, match="confidence-bound"):
        Guided(near={"x": 0.1}, acquisition=ConfidenceBound())
    with pytest.raises(ConfigError, match="at least"):
        KnowledgeGradient(kept=0)


def test_in_a_study_file_it_is_a_name_or_a_table(tmp_path: Path) -> None:
    file = tmp_path / "study.toml"
    start = (
        '[study]\nstrategy = "bo"\nevaluations = 5\n[objective]\npython = "math:fsum"\n[space]\nx = { type = "real", low = 0, high = 1 }\n'
    )
    wanted = {
        '"thompson"': Thompson(),
        '{ name = "confidence-bound", beta = 2.5 }': ConfidenceBound(beta=2.5),
        '{ name = "guided", near = { x = 0.5 }, acquisition = "knowledge-gradient" }': Guided(
            near={"x": 0.5}, acquisition=KnowledgeGradient()
        ),
    }
    for text, recipe in wanted.items():
        file.write_text(f"{start}[strategy]\nacquisition = {text}\n")
        assert load(file).recipe == BO(acquisition=recipe)
    file.write_text(f'{start}[strategy]\nacquisition = {{ name = "confidence-bound", beta = -1 }}\n')
    with pytest.raises(ConfigFaults, match="beta must be 0 or more"):
        load(file)
