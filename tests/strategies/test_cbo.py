"""Consensus-based optimization against brute force, closed forms and figures of the literature."""

from __future__ import annotations

import itertools
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import zoopt
from zoopt import Choice, Integer, Random, Real, Space, Study
from zoopt.errors import CapabilityError, ConfigError
from zoopt.problem import Problem
from zoopt.problems import Rastrigin, Sphere
from zoopt.strategies import CBO, CBS, ConsensusHopping, SaddleCBO
from zoopt.strategies.cbo.consensus import aligned, alpha_for_sample_size, consensus, first_alpha, gibbs, level
from zoopt.strategies.cbo.diffusion import covariance_root, default_spread, interpolate, step
from zoopt.strategies.cbo.folding import fold

F64 = torch.float64
N, D = 7, 3


def cloud(*shape: int, seed: int = 0) -> Tensor:
    return Random(seed).child("cloud").normal(shape or (2, N, D))


# ---------------------------------------------------------------------- the consensus point


def by_hand(x: np.ndarray[Any, Any], f: np.ndarray[Any, Any], alpha: float) -> np.ndarray[Any, Any]:
    """The consensus point of one run in exact rational weights, as far as floats go."""
    weights = [math.exp(-alpha * (value - min(f))) for value in f]
    total = math.fsum(weights)
    return np.array([math.fsum(w * row[k] for w, row in zip(weights, x, strict=True)) / total for k in range(x.shape[1])])


@pytest.mark.parametrize("alpha", [1e-3, 1.0, 1e15])
def test_consensus_is_the_gibbs_mean(alpha: float) -> None:
    x, f = cloud(), cloud(2, N, seed=1) * 5 + 1e3
    above, low = level(f)
    c, weights = consensus(x, above, low, torch.full((2,), alpha, dtype=F64), torch.zeros(2, D, dtype=F64))
    for m in range(2):
        np.testing.assert_allclose(c[m], by_hand(x[m].numpy(), f[m].numpy(), alpha), rtol=0, atol=1e-13)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, dtype=F64))


def test_the_weights_are_sharp_in_single_precision_too() -> None:
    f = torch.tensor([[1e6, 1e6 + 0.0625, 1e6 + 1]], dtype=torch.float32)
    above, _ = level(f)
    np.testing.assert_allclose(
        gibbs(above, torch.tensor([16.0], dtype=F64))[0, 1] / gibbs(above, torch.tensor([16.0], dtype=F64))[0, 0], math.exp(-1)
    )


def test_failed_particles_weigh_nothing_and_a_failed_run_keeps_its_consensus() -> None:
    x, f = cloud(), cloud(2, N, seed=1)
    f[0, 2] = torch.inf
    f[1] = torch.inf
    previous = torch.full((2, D), 7.0, dtype=F64)
    above, low = level(f)
    alpha = torch.where(torch.isinf(low[:, 0]), 1.0, first_alpha(above, 30.0))
    c, weights = consensus(x, above, low, alpha, previous)
    assert weights[0, 2] == 0
    np.testing.assert_allclose(c[0], by_hand(np.delete(x[0].numpy(), 2, 0), np.delete(f[0].numpy(), 2), float(alpha[0])), atol=1e-13)
    assert (c[1] == 7.0).all()


def test_first_alpha_does_not_depend_on_units() -> None:
    f = cloud(3, 9, seed=2)
    a = first_alpha(level(f)[0], 30.0)
    np.testing.assert_allclose(first_alpha(level(1024 * f - 77)[0], 30.0) * 1024, a, rtol=1e-9)
    np.testing.assert_allclose(a, 30 / (f.median(-1).values - f.amin(-1)))


def test_first_alpha_where_there_is_little_to_go_by() -> None:
    inf = torch.inf
    f = torch.tensor([[1.0, 3.0, inf, inf, inf], [2.0] * 5, [inf] * 5], dtype=F64)
    assert first_alpha(level(f)[0], 30.0).tolist() == [15.0, 1.0, 1.0]


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9])
def test_alpha_meets_the_effective_sample_size(fraction: float) -> None:
    f = torch.cat([cloud(3, 50, seed=3), 1e-6 * cloud(3, 50, seed=4), 1e6 * cloud(3, 50, seed=5)])
    above, _ = level(f)
    w = gibbs(above, alpha_for_sample_size(above, fraction))
    np.testing.assert_allclose(w.sum(-1) ** 2 / (w**2).sum(-1), fraction * 50, rtol=1e-8)


# ---------------------------------------------------------------------- one step


NOISES = ["anisotropic", "isotropic", "covariance", "constant"]


@pytest.mark.parametrize("truncation", [None, 0.4])
@pytest.mark.parametrize("noise", NOISES)
def test_step_is_the_formula(noise: Any, truncation: float | None) -> None:
    m, s = 0.9, 0.31
    x, z, c = cloud(), cloud(seed=6), cloud(2, D, seed=7)
    weights = torch.softmax(cloud(2, N, seed=8), -1)
    root = covariance_root(x - c.unsqueeze(-2), weights)
    new = step(x.clone(), c.unsqueeze(-2), z.clone(), m, s, noise, root=root, truncation=truncation)
    limit = math.inf if truncation is None else truncation
    for r in range(2):
        away = (x[r] - c[r]).numpy()
        covariance = sum(w * np.outer(row, row) for w, row in zip(weights[r].tolist(), away, strict=True))
        np.testing.assert_allclose(root[r] @ root[r].mT, covariance, rtol=0, atol=1e-13)
        for i in range(N):
            jump = {
                "anisotropic": np.minimum(abs(away[i]), limit) * z[r, i].numpy(),
                "isotropic": min(math.sqrt(sum(away[i] ** 2)), limit) * z[r, i].numpy(),
                "covariance": root[r].numpy() @ z[r, i].numpy(),
                "constant": z[r, i].numpy(),
            }[noise]
            expected = c[r].numpy() + m * away[i] + s * jump
            if noise == "anisotropic" and truncation is None:  # z is as likely as -z: D z instead of |D| z is the same law
                expected = c[r].numpy() + m * away[i] + s * away[i] * z[r, i].numpy()
            np.testing.assert_allclose(new[r, i], expected, rtol=0, atol=1e-12)


def test_few_particles_spread_in_the_space_between_them() -> None:
    """Three particles in seven dimensions: a root of three columns, and no step leaves their plane."""
    x = cloud(3, 7, seed=3)
    weights = torch.full((3,), 1 / 3, dtype=F64)
    c = x.mean(-2, keepdim=True)
    root = covariance_root(x - c, weights)
    assert root.shape == (7, 3)
    moved = step(x.clone(), c, cloud(3, 7, seed=4), 0.5, 1.0, "covariance", root=root)
    assert torch.linalg.matrix_rank(torch.cat([x - c, moved - c]), atol=1e-9) == 2


def test_covariance_noise_has_the_covariance_of_the_particles() -> None:
    x = cloud(1, 40, D) @ torch.tensor([[1.0, 0.9, 0.0], [0.0, 0.4, 0.3], [0.0, 0.0, 2.0]], dtype=F64)
    weights = torch.full((1, 40), 1 / 40, dtype=F64)
    c = x.mean(-2)
    away = (x - c)[0]
    expected = (away.mT @ away / 40).numpy()
    root = covariance_root(x - c, weights)
    rounds = [step(x.clone(), c, cloud(1, 40, D, seed=10 + k), 0.0, 1.0, "covariance", root=root)[0] for k in range(500)]
    seen = np.cov((torch.cat(rounds) - c).numpy().T)
    np.testing.assert_allclose(seen, expected, atol=0.05 * expected.max())


def test_default_noise_contracts() -> None:
    """The distance of a particle from a fixed consensus point goes to zero, and with half as much noise again it does not."""
    for noise, m, dim in (("isotropic", 0.5, 2), ("isotropic", 0.5, 20), ("anisotropic", 0.99, 20), ("anisotropic", 0.99, 40)):
        s = default_spread(noise, dim, m)  # type: ignore[arg-type]
        x, c = torch.ones(400, dim, dtype=F64), torch.zeros(dim, dtype=F64)
        for k in range(400):
            step(x, c, cloud(400, dim, seed=k), m, s, noise)  # type: ignore[arg-type]
        assert x.abs().amax(-1).median() < 1e-3, (noise, dim)


# ---------------------------------------------------------------------- bounds


def test_folding_is_reflection() -> None:
    box = Space({"x": Real(-5.0, 5.0, shape=(4,))})
    x = 3 * cloud(50, 4)

    def mirrored(value: float) -> float:
        while not 0 <= value <= 1:
            value = -value if value < 0 else 2 - value
        return value

    expected = [[mirrored(value) for value in row] for row in x.tolist()]
    np.testing.assert_allclose(fold(x.clone(), box), expected, atol=1e-12)
    inside = torch.rand(50, 4, dtype=F64)
    assert torch.equal(fold(inside.clone(), box), inside)


def test_folding_leaves_unbounded_columns_alone() -> None:
    space = Space({"a": Real(start=1.0, scale=2.0), "b": Real(0.0, 1.0), "k": Choice("u", "v", "w"), "n": Integer(1, 9)})
    x = 5 * cloud(60, 4)
    folded = fold(x.clone(), space)
    a = [column.name for column in space.columns].index("a")
    assert torch.equal(folded[:, a], x[:, a])
    lower, upper = torch.tensor(space.lower), torch.tensor(space.upper)
    assert ((folded >= lower - 1e-12) & (folded <= upper + 1e-12)).all()


# ---------------------------------------------------------------------- runs


SHAPES = list(itertools.product((33, 999), (7, 13, 65)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("particles", "dim"), SHAPES)
def test_a_run_is_the_same_to_the_bit_beside_any_others(particles: int, dim: int, dtype: torch.dtype) -> None:
    problem = Rastrigin(dim=dim)
    found = [
        zoopt.minimize(problem, CBO(particles=particles), evaluations=12 * particles, runs=runs, seed=5, dtype=dtype) for runs in (1, 2, 10)
    ]
    for result in found[1:]:
        assert torch.equal(result.xs[0], found[0].xs[0])
        assert torch.equal(result.values[0], found[0].values[0])
    assert torch.equal(found[1].xs[1], found[2].xs[1])


@pytest.mark.parametrize(
    "options", [{"noise": "covariance", "sigma": 3.0}, {"noise": "isotropic"}, {"batch": 11}, {"correction": "smooth"}]
)
def test_options_keep_runs_apart(options: dict[str, Any]) -> None:
    found = [zoopt.minimize(Rastrigin(dim=7), CBO(particles=33, **options), evaluations=400, runs=runs, seed=5) for runs in (1, 2, 10)]
    for result in found[1:]:
        assert torch.equal(result.xs[0], found[0].xs[0])
    assert torch.equal(found[1].xs[1], found[2].xs[1])


def test_aligned_keeps_the_numbers_and_begins_every_run_at_a_cache_line() -> None:
    x = cloud(2, 3, 33, 7)
    y = aligned(x)
    assert torch.equal(x, y)
    assert y.stride(1) % 8 == 0 and y.stride(0) == 3 * y.stride(1)
    assert aligned(y) is y


def test_threads_do_not_matter() -> None:
    def run() -> Tensor:
        return zoopt.minimize(Rastrigin(dim=20), CBO(particles=1000), evaluations=20_000, runs=10, seed=1).xs

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = run()
        torch.set_num_threads(2)
        assert torch.equal(run(), one)
    finally:
        torch.set_num_threads(before)


def test_study_and_minimize_agree() -> None:
    """A study of one run proposes what run 0 of many proposes."""
    problem = Sphere(dim=3)
    study = Study(problem.space, CBO(particles=50), seed=5)
    for _ in range(6):
        batch = study.ask(50)
        study.tell(batch, problem(batch.x))
    alone = zoopt.minimize(problem, CBO(particles=50), evaluations=300, runs=3, seed=5)
    assert study.best is not None and study.best.value == pytest.approx(float(alone.values[0]), rel=1e-12)


# ---------------------------------------------------------------------- what it finds


def test_defaults_find_the_optimum_of_multimodal_functions() -> None:
    for problem, budget in ((Sphere(dim=2), 60_000), (Rastrigin(dim=2), 60_000), (Rastrigin(dim=5), 100_000)):
        result = zoopt.minimize(problem, CBO(), evaluations=budget, runs=10, seed=0)
        assert (result.values < 1e-6).sum() >= 9, problem
        assert problem.space.allowed(problem.space.encode(result.xs).numpy()).all()


def test_isotropic_defaults_contract() -> None:
    result = zoopt.minimize(Sphere(dim=10), CBO(noise="isotropic"), evaluations=100_000, runs=5, seed=0)
    assert (result.values < 1e-6).all()


def test_converged_runs_stop_and_restarts_go_on() -> None:
    problem = Sphere(dim=2)
    stopped = zoopt.minimize(problem, CBO(particles=30), evaluations=200_000, runs=3, seed=0)
    assert stopped.reason == "converged"
    assert (stopped.evaluations < 200_000).all()
    again = zoopt.minimize(problem, CBO(particles=30, restarts=True), evaluations=int(stopped.evaluations.max()), runs=3, seed=0)
    assert again.reason == "evaluations"


def test_a_restart_begins_with_new_particles() -> None:
    problem, recipe = Sphere(dim=2), CBO(particles=20, restarts=True, sigma=0.0, dt=0.9)  # without noise all meet at once
    study = Study(problem.space, recipe, seed=0)
    spreads = []
    for _ in range(120):
        batch = study.ask(20)
        spreads.append(float(batch.encoded.std(0).max()))
        study.tell(batch, problem(batch.x))
    assert min(spreads[20:50]) < 1e-9
    assert spreads[50] > 0.1  # looked at every 50 steps


# ---------------------------------------------------------------------- options


def test_a_mini_batch_evaluates_every_particle_once_a_round() -> None:
    problem = Sphere(dim=3)
    for moves in ("all", "batch"):
        recipe = CBO(particles=40, batch=10, batch_moves=moves, sigma=0.0)  # type: ignore[arg-type]
        study = Study(problem.space, recipe, seed=1)
        inner = study._state.inner
        rows = []
        for _ in range(4):
            before = inner.x.clone()
            batch = study.ask(40)
            assert len(batch) == 10
            rows += [int((before == x).all(-1).nonzero()[0, 0]) for x in batch.encoded]
            study.tell(batch, problem(batch.x))
            moved = (inner.x != before).any(-1)
            assert moved.sum() == (10 if moves == "batch" else 40)
        assert sorted(rows) == list(range(40))


def test_particles_better_than_the_consensus_point_do_not_drift() -> None:
    problem = Rastrigin(dim=2)
    recipe = CBO(particles=30, correction="heaviside", sigma=0.0, dt=0.5, alpha=1e-3)
    study = Study(problem.space, recipe, seed=0)
    batch = study.ask(30)
    x, f = batch.encoded, problem(batch.x)
    study.tell(batch, f)
    centre = study.ask(30)
    assert len(centre) == 1
    study.tell(centre, problem(centre.x))
    c, at_c = centre.encoded, float(problem(centre.x))
    moved = study.ask(30).encoded
    expected = torch.where((f > at_c).unsqueeze(-1), c + 0.5 * (x - c), x)
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-12)
    assert 0 < int((f > at_c).sum()) < 30


@pytest.mark.parametrize("correction", ["heaviside", "smooth"])
def test_a_consensus_point_that_fails_holds_nobody_up(correction: Any) -> None:
    """Particles that failed cannot be compared with a consensus point that failed too."""
    study = Study(Sphere(dim=2).space, CBO(particles=6, correction=correction), seed=0)
    for _ in range(6):
        batch = study.ask(6)
        study.tell(batch, [float("nan") if len(batch) == 1 or i == 2 else float(i) for i in range(len(batch))])
    assert bool(torch.isfinite(study.ask(6).x).all())


@pytest.mark.parametrize("noise", NOISES)
def test_a_generation_that_failed_whole_is_survived(noise: Any) -> None:
    study = Study(Sphere(dim=2).space, CBO(particles=6, noise=noise), seed=0)
    for k in range(3):
        batch = study.ask(6)
        study.tell(batch, [float("nan")] * 6 if k < 2 else Sphere(dim=2)(batch.x))
    assert bool(torch.isfinite(study.ask(6).x).all())


def test_correction_is_refused_where_values_are_ranks() -> None:
    with pytest.raises(CapabilityError, match=r"correction.*penalty"):
        Study(Sphere(dim=2).space, CBO(correction="heaviside"), constraints=["heat"])


def test_cooling_follows_its_law() -> None:
    recipe = CBO(sigma=2.0, dt=0.25, cooling=10)
    assert [recipe.spread(5, steps) for steps in (0, 9, 10, 25)] == pytest.approx([1.0, 1.0, 1 / math.log2(3), 1.0 / 2])


def test_noise_after_the_drift_is_smaller_by_what_the_drift_left() -> None:
    problem = Sphere(dim=3)
    after = zoopt.minimize(problem, CBO(particles=20, dt=0.5, sigma=1.0, noise_after_drift=True), evaluations=400, seed=2)
    same = zoopt.minimize(problem, CBO(particles=20, dt=0.5, sigma=0.5), evaluations=400, seed=2)
    assert torch.equal(after.xs, same.xs)


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"particles": 1}, "particles must be at least 2"),
        ({"dt": 0.0}, "dt must be above 0"),
        ({"sample_size": 1.5}, "sample_size must be between"),
        ({"batch": 200}, "batch must be between 2 and the 100"),
        ({"noise": "pink"}, "noise must be"),
        ({"correction": "smooth", "batch": 10}, "batch_moves must be 'batch' with a correction"),
        ({"alpha": -1.0}, "alpha must be above 0"),
    ],
)
def test_wrong_hyper_parameters_are_refused(wrong: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        CBO(**wrong)


# ---------------------------------------------------------------------- consensus hopping


def gauss_hermite(f: Any, c: np.ndarray[Any, Any], sigma: float, alpha: float, nodes: int = 160) -> tuple[np.ndarray[Any, Any], Any]:
    """The Gibbs-tilted mean of N(c, sigma^2) in two dimensions by quadrature, and the tilted mean of any function."""
    t, w = np.polynomial.hermite_e.hermegauss(nodes)
    x = np.stack([a.ravel() for a in np.meshgrid(c[0] + sigma * t, c[1] + sigma * t, indexing="ij")], -1)
    values = f(x)
    weights = np.outer(w, w).ravel() * np.exp(-alpha * (values - values.min()))
    weights /= weights.sum()
    return weights @ x, lambda g: weights @ g(x)


@pytest.mark.parametrize(("alpha", "sigma", "a"), [(1.0, 0.5, 1.0), (5.0, 0.5, 2.0), (20.0, 0.7, 1.0)])
def test_a_hop_on_a_quadratic_is_the_proximal_step(alpha: float, sigma: float, a: float) -> None:
    """``f = a |x|^2 / 2`` gives ``c / (1 + alpha sigma^2 a)`` exactly; by quadrature, and by what the strategy does."""
    c = np.array([2.0, -1.0])
    exact = c / (1 + alpha * sigma**2 * a)
    by_quadrature, _ = gauss_hermite(lambda x: a * (x**2).sum(-1) / 2, c, sigma, alpha)
    np.testing.assert_allclose(by_quadrature, exact, atol=1e-8)
    space = Space({"x": Real(start=2.0, scale=1.0), "y": Real(start=-1.0, scale=1.0)})
    particles = 400_000
    study = Study(space, ConsensusHopping(particles=particles, sigma=sigma, alpha=alpha), seed=0, history="values")
    batch = study.ask(particles)
    study.tell(batch, a * (batch.x**2).sum(-1) / 2)
    assert study.recommended is not None
    found = np.array(list(study.recommended.params.values()))
    # the effective sample is a small part of the cloud: five standard errors of the weighted mean
    weights = torch.softmax(-alpha * a * (batch.x**2).sum(-1) / 2, -1).unsqueeze(-1)
    error = ((weights**2) * (batch.x - torch.tensor(exact)) ** 2).sum(0).sqrt().numpy()
    assert (abs(found - exact) < 5 * error).all()
    assert (error < 0.05).all()


def canyon(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A smooth function with ripples, whose gradient is known."""
    return (x**2).sum(-1) / 20 + np.sin(x[:, 0]) * np.cos(2 * x[:, 1])


def canyon_gradient(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return x / 10 + np.stack([np.cos(x[:, 0]) * np.cos(2 * x[:, 1]), -2 * np.sin(x[:, 0]) * np.sin(2 * x[:, 1])], -1)


def test_a_hop_is_a_gradient_step_on_the_tilted_cloud() -> None:
    """Stein's identity: ``c' - c = -alpha sigma^2 E_w[grad f]``."""
    c, sigma, alpha = np.array([5.0, 3.0]), 0.2, 1.0
    new, tilted = gauss_hermite(canyon, c, sigma, alpha)
    np.testing.assert_allclose(new - c, -alpha * sigma**2 * tilted(canyon_gradient), atol=1e-10)
    space = Space({"x": Real(start=5.0, scale=1.0), "y": Real(start=3.0, scale=1.0)})
    study = Study(space, ConsensusHopping(particles=200_000, sigma=sigma, alpha=alpha), seed=0, history="values")
    batch = study.ask(200_000)
    study.tell(batch, canyon(batch.x.numpy()))
    assert study.recommended is not None
    np.testing.assert_allclose(list(study.recommended.params.values()), new, atol=5 * sigma / math.sqrt(200_000))


# ---------------------------------------------------------------------- where the numbers come from


@pytest.mark.parametrize(
    "options", [{}, {"noise": "isotropic"}, {"noise": "covariance"}, {"truncation": 0.2}, {"cooling": 3}, {"numbers": "table"}]
)
def test_moving_block_by_block_is_moving_at_once(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Large clouds move in blocks that fit a core's cache: to the bit what one block for all of them gives."""
    from zoopt.strategies.cbo import diffusion

    problem = Rastrigin(dim=5)
    found = []
    for block in (diffusion._BLOCK, 1 << 10, 1 << 25):
        monkeypatch.setattr(diffusion, "_BLOCK", block)
        found.append(zoopt.minimize(problem, CBO(particles=1700, **options), evaluations=17_000, runs=3).xs)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_numbers_drawn_in_pieces_are_those_drawn_at_once() -> None:
    key = Random(3, 4).child("noise")
    whole = key.normal((1000, 7), mean=0.5, std=2.0, runs=(3,), dtype=torch.float32)
    for own, stream in zip(whole.flatten(1), key.normal_streams(7000, runs=(3,)), strict=True):
        pieces = [torch.empty(k).normal_(0.5, 2.0, generator=stream) for k in (16, 1600, 4800, 584)]
        assert torch.equal(torch.cat(pieces), own)


def test_a_table_of_numbers_is_normal_and_new_after_a_while() -> None:
    from zoopt.strategies.cbo.numbers import Table

    def read(steps: int, runs: int, last: Table | None = None) -> tuple[Tensor, Table]:
        key = Random(1, steps)
        table = Table.for_step(steps, 5000, 0.99, 1.01, key, torch.device("cpu"), last)
        z = torch.empty(runs, 1000, 5)
        table.fill(steps, key.child("noise"), (runs,), 5000)(z, (slice(0, runs), slice(0, 1000)))
        return z, table

    first, table = read(3, 4)
    again, same = read(4, 4, table)
    assert same is table
    assert not torch.equal(first, again)
    assert torch.equal(read(3, 2)[0], first[:2])  # whoever else reads
    assert not torch.equal(first[0], first[1])
    later, renewed = read(4000, 4, table)
    assert renewed is not table
    for z in (first, later):
        ordered = z.flatten().double().sort().values
        uniform = torch.special.ndtr((ordered - 0.99) / 1.01)
        assert (uniform - torch.linspace(0, 1, len(uniform), dtype=F64)).abs().max() < 1.95 / math.sqrt(len(uniform))  # 0.1 % level


def test_the_table_finds_what_fresh_numbers_find() -> None:
    values = zoopt.minimize(Rastrigin(dim=5), CBO(numbers="table"), evaluations=100_000, runs=10).values
    assert int((values < 1e-6).sum()) >= 9


# ---------------------------------------------------------------------- what else acts on a particle


def small(recipe: CBO, objective: Any, space: Space, steps: int, seed: int = 0) -> Study:
    """A study that has taken some whole steps."""
    study = Study(space, recipe, seed=seed, history="best")
    for _ in range(steps):
        batch = study.ask(1000)
        study.tell(batch, objective(batch.x))
    return study


def test_memory_is_the_formula() -> None:
    """Three steps by hand: Riedl (2024), eqs. (2.1) to (2.3) in discrete form, with y = the best point that a particle has seen."""
    recipe = CBO(particles=6, dt=0.1, sigma=1.5, alpha=3.0, alpha_growth=1.0, memory=0.4)
    space = Space({"x": Real(start=0.0, scale=1.0, shape=(2,))})
    study = Study(space, recipe, seed=4)

    def f(x: Tensor) -> Tensor:
        return (x - torch.tensor([0.3, -0.2], dtype=F64)).square().sum(-1)

    x = own = study.ask(6).x.clone()
    study.tell(range(6), f(x))
    for _ in range(3):
        own = torch.where((f(x) < f(own)).unsqueeze(-1), x, own)
        w = torch.softmax(-3.0 * f(own), 0).unsqueeze(-1)
        c = (w * own).sum(0)
        new = study.ask(6)
        # whatever the noise: it is zero where the particle is at both points, and its size is in proportion to the distances
        drift = x - 0.1 * (x - c) - 0.04 * (x - own)
        size = 1.5 * math.sqrt(0.1) * ((x - c).abs() + 0.4 * (x - own).abs())
        assert ((new.x - drift).abs() <= 5.0 * size + 1e-12).all()
        x = new.x.clone()
        study.tell(new, f(x))


def test_particles_without_mass_move_as_with_memory_alone() -> None:
    """The particle-swarm form tends to the first-order one (Cipriani, Huang, Qiu 2022): equal to rounding where the mass is nothing."""
    space = Space({"x": Real(start=0.0, scale=1.0, shape=(3,))})

    def f(x: Tensor) -> Tensor:
        return (x - 0.7).square().sum(-1)

    light = small(CBO(particles=20, memory=0.3, inertia=1e-12), f, space, 30)
    none = small(CBO(particles=20, memory=0.3), f, space, 30)
    torch.testing.assert_close(light.ask(20).x, none.ask(20).x, rtol=1e-6, atol=1e-6)


def test_a_heavy_particle_goes_on_where_nothing_acts() -> None:
    """Without noise the swarm is a damped oscillator: v <- (m v + dt (c - x)) / (m + (1 - m) dt), x <- x + dt v."""
    recipe = CBO(particles=2, dt=0.2, sigma=0.0, inertia=0.5, alpha=1e15, tolerance=1e-300)
    space = Space({"x": Real(start=0.0, scale=1.0)})
    study = Study(space, recipe, seed=1)
    batch = study.ask(2)
    x, v = batch.x[:, 0].clone(), torch.zeros(2, dtype=F64)
    for _ in range(20):
        study.tell(batch, x.abs())
        c = x[x.abs().argmin()]
        v = (0.5 * v + 0.2 * (c - x)) / (0.5 + 0.5 * 0.2)
        x = x + 0.2 * v
        batch = study.ask(2)
        torch.testing.assert_close(batch.x[:, 0], x, rtol=0, atol=1e-12)


class Lasso(Problem):
    """Least squares with a penalty on the sum of magnitudes, in many more variables than equations."""

    space = Space({"x": Real(start=0.0, scale=1.0, shape=(60,))})

    def __init__(self) -> None:
        key = Random(2)
        self.a = key.child("a").normal((30, 60)) / math.sqrt(30)
        truth = torch.zeros(60, dtype=F64)
        truth[:3] = torch.tensor([1.0, -1.5, 2.0])
        self.b = self.a @ truth

    def values(self, x: Tensor) -> Tensor:
        return (x @ self.a.mT - self.b).square().sum(-1) + 0.25 * x.abs().sum(-1)

    def gradient(self, x: Tensor) -> Tensor:
        return (2 * (x @ self.a.mT - self.b) @ self.a + 0.25 * x.sign()).unsqueeze(-2)


def test_gradients_take_particles_where_they_do_not_get_alone() -> None:
    """Compressed sensing (Riedl 2024, section 4.4) against coordinate descent."""
    from sklearn.linear_model import Lasso as CoordinateDescent

    problem = Lasso()
    exact = CoordinateDescent(alpha=0.25 / 60, fit_intercept=False, tol=1e-12, max_iter=100_000).fit(problem.a.numpy(), problem.b.numpy())
    best = float(problem.values(torch.tensor(exact.coef_)[None]))
    recipe = CBO(dt=0.02, sigma=math.sqrt(1.6), alpha=100.0, alpha_growth=1.0)
    alone = zoopt.minimize(problem, recipe, evaluations=50_000, runs=3)
    driven = zoopt.minimize(problem, replace(recipe, gradient=1.0), evaluations=50_000, runs=3)
    assert (driven.values < 1.05 * best).all()
    assert (alone.values > 1.5 * best).all()
    told = zoopt.minimize(
        lambda x: zoopt.Evaluation(problem.values(x), gradients=problem.gradient(x)),
        replace(recipe, gradient=1.0),
        space=problem.space,
        evaluations=50_000,
        runs=3,
    )
    torch.testing.assert_close(told.values, driven.values)  # wherever the gradients come from
    with pytest.raises(CapabilityError, match="gradient"):
        zoopt.minimize(problem.values, replace(recipe, gradient=1.0), space=problem.space, evaluations=500)


def himmelblau(x: Tensor) -> Tensor:
    return (x[..., 0].square() + x[..., 1] - 11).square() + (x[..., 0] + x[..., 1].square() - 7).square()


def test_neighbours_find_several_minimisers() -> None:
    """Four minimisers of Himmelblau's function, of which a common consensus finds one."""
    minimisers = torch.tensor([[3.0, 2.0], [-2.805118, 3.131312], [-3.779310, -3.283186], [3.584428, -1.848126]], dtype=F64)
    space = Space({"x": Real(-6, 6, shape=(2,))})
    near = CBO(noise="isotropic", neighbourhood=0.4 / 12, sigma=1.2, dt=0.05, alpha=1.0, alpha_growth=1.02)

    def found(recipe: CBO, seed: int) -> int:
        particles = small(recipe, himmelblau, space, 500, seed).ask(100).x
        return int((torch.cdist(particles, minimisers).amin(0) < 0.25).sum())

    assert sum(found(near, seed) for seed in range(5)) >= 19  # all four in each of 50 seeds
    assert all(found(replace(near, neighbourhood=None), seed) == 1 for seed in range(2))


def test_a_wide_neighbourhood_is_everybody() -> None:
    problem = Sphere(dim=3)
    recipe = CBO(particles=30)
    everybody = zoopt.minimize(problem, recipe, evaluations=900, seed=1).values
    torch.testing.assert_close(zoopt.minimize(problem, replace(recipe, neighbourhood=1e6), evaluations=900, seed=1).values, everybody)


# ---------------------------------------------------------------------- where points lie


@pytest.mark.parametrize("noise", ["anisotropic", "isotropic"])
def test_on_the_sphere_the_largest_eigenvalue_is_found(noise: Any) -> None:
    a = cloud(6, 6, seed=3)
    a = a + a.mT
    values, vectors = torch.linalg.eigh(a)
    space = Space({"x": Real(-1, 1, shape=(6,))})
    recipe = CBO(surface="sphere", noise=noise, sigma=2.5 if noise == "anisotropic" else None, dt=0.01 if noise == "anisotropic" else 0.1)
    result = zoopt.minimize(lambda x: -((x @ a) * x).sum(-1), recipe, space=space, evaluations=40_000, runs=5)
    torch.testing.assert_close(result.xs.square().sum(-1), torch.ones(5, dtype=F64))
    torch.testing.assert_close(result.values, -values[-1].expand(5), rtol=0, atol=5e-3)
    assert ((result.recommended @ vectors[:, -1]).abs() > 0.999).all()  # type: ignore[operator]


def test_on_the_simplex_the_projection_is_found() -> None:
    """The nearest point of the simplex, whose closed form sets the smallest shares to zero (Held, Wolfe, Crowder 1974)."""
    p = torch.tensor([0.6, 0.5, 0.1, -0.3, 0.0], dtype=F64)
    ordered = p.sort(descending=True).values
    surplus = (ordered.cumsum(0) - 1) / torch.arange(1, 6)
    nearest = (p - surplus[ordered > surplus][-1]).clamp_min(0)
    assert (nearest == 0).any()
    space = Space({"share": Real(0, 1, shape=(5,))})
    result = zoopt.minimize(lambda x: (x - p).square().sum(-1), CBO(surface="simplex"), space=space, evaluations=50_000, runs=4)
    torch.testing.assert_close(result.xs, nearest.expand(4, 5), rtol=0, atol=1e-3)
    assert (result.xs >= 0).all()
    torch.testing.assert_close(result.xs.sum(-1), torch.ones(4, dtype=F64))


def test_surfaces_need_plain_reals() -> None:
    for space in (Space({"k": Integer(0, 3)}), Space({"x": Real(1e-3, 1, log=True)}), Space({"x": Real(0, 1)}, constraints=["x <= 0.5"])):
        with pytest.raises(CapabilityError, match="simplex"):
            Study(space, CBO(surface="simplex"))


@pytest.mark.parametrize("penalty", [None, 1e-2])
def test_outcome_constraints_by_order_or_by_penalty(penalty: float | None) -> None:
    """The point of the disc nearest to (2, 1): on its rim, at (2, 1) / sqrt(5)."""
    space = Space({"x": Real(-3, 3, shape=(2,))})

    def disc(x: Tensor) -> zoopt.Evaluation:
        return zoopt.Evaluation(
            (x - torch.tensor([2.0, 1.0], dtype=F64)).square().sum(-1), constraints=x.square().sum(-1, keepdim=True) - 1
        )

    result = zoopt.minimize(disc, CBO(penalty=penalty), space=space, constraints=["disc"], evaluations=40_000, runs=5)
    assert result.recommended is not None
    at = torch.tensor([2.0, 1.0], dtype=F64) / math.sqrt(5)
    torch.testing.assert_close(result.recommended, at.expand(5, 2), rtol=0, atol=0.05 if penalty is None else 0.01)


# ---------------------------------------------------------------------- noisy objectives


def test_under_constraints_the_means_of_the_repeats_are_ordered() -> None:
    """With weights that only the best particle has, the consensus point is the particle whose mean is best among feasible means."""
    recipe = CBO(particles=4, repeats=2, alpha=1e6)
    study = Study({"x": Real(0, 1)}, recipe, constraints=["heat"], seed=0)
    batch = study.ask(8)
    x = batch.x[::2, 0]
    values = [5.0, 1.0, 2.0, 2.5, 0.0, 0.1, 1.0, 1.0]  # means 3, 2.25, 0.05, 1
    heat = [[-1.0], [-1.0], [-3.0], [1.0], [-1.0], [3.0], [-1.0], [-1.0]]  # means -1, -1, 1, -1
    study.tell(batch, values, constraints=heat)
    assert study.recommended is not None
    assert study.recommended.params["x"] == pytest.approx(float(x[3]))
    study.tell(study.ask(8), [1.0, 1.0, math.nan, -9.0, 1.0, 2.0, 3.0, 3.0], constraints=[[-1.0]] * 8)  # a failure is the particle's
    assert study.recommended.params["x"] != pytest.approx(float(x[3]))


def test_repeats_are_averaged_and_remembered_points_evaluated_anew() -> None:
    space = Space({"x": Real(-1, 1, shape=(2,))})
    study = Study(space, CBO(particles=5, memory=0.1, reevaluate=True, repeats=3), seed=0)
    first = study.ask(100)
    assert len(first) == 15
    assert torch.equal(first.x[0::3], first.x[2::3])
    study.tell(first, first.x.sum(-1))
    assert len(study.ask(100)) == 30  # the particles, and the best point of each, three times


def test_noise_is_averaged_away() -> None:
    """With noise as large as the objective's slope, the consensus point is nearer to the minimum than the luckiest evaluation."""
    generator = torch.Generator().manual_seed(0)

    def noisy(x: Tensor) -> Tensor:
        return (x - 0.4).square().sum(-1) + 0.3 * torch.randn(len(x), generator=generator, dtype=F64)

    result = zoopt.minimize(
        noisy,
        CBO(particles=200, alpha=10.0, alpha_growth=1.0, cooling=20),
        space=Space({"x": Real(-1, 1, shape=(3,))}),
        evaluations=40_000,
        runs=64,
    )
    assert result.recommended is not None
    off = (result.recommended - 0.4).norm(dim=-1)
    assert off.median() < 0.1
    assert off.median() < (result.xs - 0.4).norm(dim=-1).median()


def test_a_cloud_without_progress_is_shaken() -> None:
    space = Space({"x": Real(-1, 1, shape=(2,))})

    def flat(x: Tensor) -> Tensor:
        return torch.zeros(len(x), dtype=F64)

    still = small(CBO(particles=10, sigma=0.0, dt=0.9, alpha=1.0, alpha_growth=1.0), flat, space, 8)
    shaken = small(CBO(particles=10, sigma=0.0, dt=0.9, alpha=1.0, alpha_growth=1.0, patience=3), flat, space, 8)
    assert still.ask(10).x.std(0).max() < 1e-4
    assert shaken.ask(10).x.std(0).min() > 1e-3


def test_a_consensus_point_that_stands_still_is_shaken() -> None:
    """Mini-batches at once where they have met: Carrillo et al. (2021), section 3.2."""
    space = Space({"x": Real(-1, 1, shape=(2,))})

    def f(x: Tensor) -> Tensor:
        return x.square().sum(-1)

    met = CBO(particles=10, batch=5, sigma=0.5, dt=0.9, alpha=1e6, alpha_growth=1.0)
    assert small(met, f, space, 60).ask(5).x.std(0).max() < 1e-4
    assert small(replace(met, standstill=1e-3), f, space, 60).ask(5).x.std(0).min() > 1e-4


# ---------------------------------------------------------------------- sampling, saddle points


@pytest.mark.parametrize("dt", [0.01, 0.1, 0.5])
@pytest.mark.parametrize("alpha", [0.5, 3.0])
def test_a_gaussian_is_sampled_with_its_variance(dt: float, alpha: float) -> None:
    """Whatever the step, where Euler-Maruyama is 10 % off at dt = 0.1 and 66 % at 0.5 (alpha = 1)."""
    precision = torch.tensor([[2.0, 0.6], [0.6, 1.0]], dtype=F64)
    middle = torch.tensor([1.0, -2.0], dtype=F64)

    def f(x: Tensor) -> Tensor:
        z = x - middle
        return 0.5 * ((z @ precision) * z).sum(-1)

    recipe = CBS(particles=4000, dt=dt, alpha=alpha)
    steps = int(8 * (1 + 1 / alpha) / dt)
    study = small(recipe, f, Space({"x": Real(start=0.0, scale=1.0, shape=(2,))}), 0)
    covariances = []
    for k in range(steps + 10):
        batch = study.ask(4000)
        if k >= steps:
            covariances.append(np.cov(batch.x.numpy().T))
        study.tell(batch, f(batch.x))
    np.testing.assert_allclose(np.mean(covariances, 0), torch.linalg.inv(precision), atol=0.12 * 1.3)
    assert study.recommended is not None
    np.testing.assert_allclose(study.recommended.x, middle, atol=0.1)


def test_a_saddle_point_is_found() -> None:
    """x - y game with a known value: each player's best answer is in closed form, and it is no minimum of the objective."""
    space = Space({"x": Real(-3, 3, shape=(2,)), "y": Real(-3, 3, shape=(2,))})

    def game(z: Tensor) -> Tensor:
        x, y = z[..., :2], z[..., 2:]
        return (x - 0.5).square().sum(-1) - (y + 1.0).square().sum(-1) + 0.5 * ((x - 0.5) * (y + 1.0)).sum(-1)

    recipe = SaddleCBO(particles=200, sigma=2.0, alpha=1e15, maximised=("y",))
    result = zoopt.minimize(game, recipe, space=space, evaluations=200 * 1000, runs=5)
    at = torch.tensor([0.5, 0.5, -1.0, -1.0], dtype=F64)
    assert result.recommended is not None
    torch.testing.assert_close(result.recommended, at.expand(5, 4), rtol=0, atol=0.02)
    assert result.value < -3  # somewhere else


def test_a_saddle_needs_to_know_who_maximises() -> None:
    space = Space({"x": Real(-3, 3), "y": Real(-3, 3)})
    with pytest.raises(CapabilityError, match=r"'z'.*x, y"):
        Study(space, SaddleCBO(maximised=("z",)))
    with pytest.raises(ConfigError, match="memory"):
        SaddleCBO(memory=0.1)


@pytest.mark.parametrize(
    "options",
    [
        {"batch": 10, "memory": 0.1},
        {"neighbourhood": 0.1, "noise": "covariance"},
        {"surface": "sphere", "gradient": 1.0},
        {"dt": math.inf},
        {"reevaluate": True},
        {"inertia": 1.0},
    ],
)
def test_what_does_not_go_together_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        CBO(**options)


VARIANTS = [
    CBO(memory=0.2),
    CBO(inertia=0.2),
    CBO(neighbourhood=0.3),
    CBO(patience=2, standstill=0.01),
    CBO(repeats=2),
    CBO(surface="sphere"),
    CBO(surface="simplex"),
    CBO(noise="covariance"),
    CBO(numbers="table"),
    CBO(memory=0.2, reevaluate=True),
    CBS(),
    SaddleCBO(maximised=("y",)),
]


@pytest.mark.parametrize("recipe", VARIANTS, ids=lambda recipe: str(recipe))
@pytest.mark.parametrize(("particles", "dim"), [(33, 7), (100, 13)])
def test_every_variant_gives_the_same_bits_beside_any_runs(recipe: CBO, particles: int, dim: int) -> None:
    space = Space({"x": Real(0, 1, shape=(dim - 1,)), "y": Real(0, 1)})
    recipe = replace(recipe, particles=particles)

    def f(x: Tensor) -> Tensor:
        return torch.stack([(row - 0.3).square().sum() for row in x]) if len(x) < 5 else ((x - 0.3).square() * 1.0).cumsum(-1)[..., -1]

    many = zoopt.minimize(f, recipe, space=space, evaluations=12 * particles, runs=10)
    for runs in (1, 2):
        few = zoopt.minimize(f, recipe, space=space, evaluations=12 * particles, runs=runs)
        assert torch.equal(few.xs, many.xs[:runs])
        assert torch.equal(few.values, many.values[:runs])


OTHER_PROCESSORS = """
import sys
import torch
import zoopt
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from zoopt.problems import Rastrigin
from test_cbo import VARIANTS

for recipe in (*VARIANTS, zoopt.strategies.CBO(), zoopt.strategies.CBO(correction="smooth")):
    for particles, dim in ((24, 1), (33, 7), (999, 13)):
        problem = Rastrigin(dim=dim)
        if getattr(recipe, "maximised", None) or getattr(recipe, "surface", "box") != "box" and dim == 1:
            continue

        def best(runs, threads):
            torch.set_num_threads(threads)
            return zoopt.minimize(problem, replace(recipe, particles=particles), evaluations=8 * particles, runs=runs).xs

        whole = best(10, 2)
        for runs, threads in ((1, 1), (1, 2), (3, 2), (10, 1)):
            if not torch.equal(best(runs, threads), whole[:runs]):
                print(type(recipe).__name__, recipe.noise, particles, dim, runs, threads)
"""


@pytest.mark.parametrize("instructions", ["AVX512", "AVX2", "SSE4_2"])
def test_the_bits_of_a_run_are_its_own_on_processors_with_other_instructions(instructions: str) -> None:
    """Where kernels differ by the place of a matrix in memory, by the size of the batch and by the number of threads."""
    environment = {
        **os.environ,
        "MKL_ENABLE_INSTRUCTIONS": instructions,
        "ATEN_CPU_CAPABILITY": "avx512" if instructions == "AVX512" else "avx2",
        "OMP_NUM_THREADS": "2",
        "OMP_WAIT_POLICY": "PASSIVE",  # threads that wait would take the processor from those that work
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
    }
    ran = subprocess.run([sys.executable, "-c", OTHER_PROCESSORS], env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "0" not in ran.stdout, ran.stdout


@pytest.mark.parametrize("options", [{}, {"noise": "isotropic"}, {"memory": 0.1}, {"neighbourhood": 0.3}, {"numbers": "table"}], ids=str)
def test_the_number_of_threads_changes_nothing(options: dict[str, Any]) -> None:
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(zoopt.minimize(Rastrigin(dim=20), CBO(particles=1000, **options), evaluations=20_000, runs=3, seed=1))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0].xs, found[1].xs)


@pytest.mark.parametrize("recipe", [CBO(particles=10), CBO(particles=10, memory=0.1), ConsensusHopping(particles=10, sigma=0.01)], ids=str)
def test_it_starts_from_what_is_known(recipe: Any) -> None:
    space = Space({"x": Real(-1, 1, shape=(2,))})
    study = Study(space, recipe, seed=0)
    study.add({"x": [0.5, 0.25]}, 1.0)
    study.add({"x": [0.9, 0.9]}, 7.0)
    first = study.ask(10).x
    known = torch.tensor([0.5, 0.25], dtype=F64)
    if isinstance(recipe, CBO):
        assert torch.allclose(first[0], known)
        assert first[2:].std() > 0.2
    else:
        assert (first - known).abs().max() < 0.1


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("noise", ["isotropic", "anisotropic", "constant"])
def test_noise_that_drives_particles_apart_ends_in_no_infinite_point(noise: Any, dtype: torch.dtype) -> None:
    seen = []

    def bowl(x: Tensor) -> Tensor:
        seen.append(bool(torch.isfinite(x).all()))
        return x.square().sum(-1)

    space = Space({"x": Real(start=1.0, scale=2.0, shape=(3,)), "y": Real(0, 1)})
    zoopt.minimize(bowl, CBO(particles=10, noise=noise, sigma=1e6), space=space, evaluations=1000, dtype=dtype)
    assert all(seen)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize(("particles", "dim"), [(10_000, 2), (4098, 3), (2048, 8), (2048, 9), (999, 9)])
def test_rows_of_several_particles_move_as_each_alone(particles: int, dim: int, dtype: torch.dtype) -> None:
    x, c = aligned(cloud(3, particles, dim).to(dtype)), cloud(3, 1, dim).to(dtype)
    eta = cloud(3, particles, dim, seed=1).to(dtype)
    want = torch.lerp(c, x, eta)
    assert interpolate(x, c, eta) is x
    assert torch.equal(x, want)


@pytest.mark.parametrize("runs", [(), (3,)])
def test_a_large_step_is_the_same_after_its_state_was_saved(runs: tuple[int, ...]) -> None:
    """Generators go on from step to step, and are no part of the state: those made anew in between catch up."""
    from zoopt.feedback import Observations
    from zoopt.state import from_bytes, to_bytes
    from zoopt.strategy import Request, Task

    recipe, task, key = CBO(particles=110), Task(Sphere(dim=90).space, runs=runs), Random(3)

    def steps(saved: bool) -> Tensor:
        state = recipe.begin(task, key.child("begin"))
        for call in range(20):
            state, out = recipe.ask(task, state, Request(), key.at(2 * call))
            told = Observations(range(110), out.x, out.x.square().sum(-1, keepdim=True), columns=out.columns)
            state = recipe.tell(task, state, told, key.at(2 * call + 1))
            if saved and call % 7 == 3:
                state = from_bytes(to_bytes(state), task.device)
        return state.inner.x.clone()

    assert torch.equal(steps(saved=False), steps(saved=True))
