"""Consensus-based optimization against brute force, closed forms and figures of the literature."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import zoopt
from zoopt import Choice, Integer, Random, Real, Space, Study
from zoopt.errors import CapabilityError, ConfigError
from zoopt.problems import Rastrigin, Sphere
from zoopt.strategies import CBO, ConsensusHopping
from zoopt.strategies.cbo.consensus import aligned, alpha_for_sample_size, consensus, first_alpha, gibbs, level
from zoopt.strategies.cbo.diffusion import covariance_root, default_spread, step
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
        values, vectors = np.linalg.eigh(covariance)
        root = vectors @ np.diag(np.sqrt(np.maximum(values, 0)))
        for i in range(N):
            jump = {
                "anisotropic": np.minimum(abs(away[i]), limit) * z[r, i].numpy(),
                "isotropic": min(math.sqrt(sum(away[i] ** 2)), limit) * z[r, i].numpy(),
                "covariance": root @ z[r, i].numpy(),
                "constant": z[r, i].numpy(),
            }[noise]
            expected = c[r].numpy() + m * away[i] + s * jump
            if noise == "anisotropic" and truncation is None:  # z is as likely as -z: D z instead of |D| z is the same law
                expected = c[r].numpy() + m * away[i] + s * away[i] * z[r, i].numpy()
            if noise == "covariance":  # eigenvectors are known up to their sign
                here = np.linalg.solve(root, (new[r, i].numpy() - c[r].numpy() - m * away[i]) / s)
                np.testing.assert_allclose(abs(here), abs(z[r, i].numpy()), atol=1e-10)
                continue
            np.testing.assert_allclose(new[r, i], expected, rtol=0, atol=1e-12)


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
    with pytest.raises(CapabilityError, match="correction='none'"):
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
        table.fill(key.child("noise"), (runs,), 5000)(z, (slice(0, runs), slice(0, 1000)))
        return z, table

    first, table = read(3, 4)
    again, same = read(4, 4, table)
    assert same is table
    assert not torch.equal(first, again)
    assert torch.equal(read(3, 2)[0], first[:2])  # whoever else reads
    assert not torch.equal(first[0], first[1])
    later, renewed = read(700, 4, table)
    assert renewed is not table
    for z in (first, later):
        ordered = z.flatten().double().sort().values
        uniform = torch.special.ndtr((ordered - 0.99) / 1.01)
        assert (uniform - torch.linspace(0, 1, len(uniform), dtype=F64)).abs().max() < 1.95 / math.sqrt(len(uniform))  # 0.1 % level


def test_the_table_finds_what_fresh_numbers_find() -> None:
    values = zoopt.minimize(Rastrigin(dim=5), CBO(numbers="table"), evaluations=100_000, runs=10).values
    assert int((values < 1e-6).sum()) >= 9
