"""Every test problem against an independent value: peers' implementations, published tables, its own known optimum."""

from __future__ import annotations

import itertools
import math
import pickle

import numpy as np
import pytest
import torch
from torch import Tensor

from zoopt import Study, registry
from zoopt.errors import ConfigError, SpaceError
from zoopt.feedback import Evaluation
from zoopt.problem import Problem
from zoopt.problems import (
    ZDT1,
    Ackley,
    Branin,
    BraninCurrin,
    CompressionSpring,
    Ellipsoid,
    Gramacy,
    Griewank,
    Hartmann6,
    Levy,
    Rastrigin,
    Rosenbrock,
    Sphere,
    StyblinskiTang,
)

NAMES = registry.names("problems")
SHIFTED = [Sphere, Ellipsoid, Rosenbrock, Rastrigin, Ackley, Griewank, Levy, StyblinskiTang]


def inside(problem: Problem, n: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Uniform points of the problem's box, problem units."""
    u = torch.rand((n, problem.dim), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return problem.space.decode(problem.space.from_unit(u)).to(dtype)


def parts(result: Tensor | Evaluation) -> list[Tensor]:
    return [result.values, result.constraints] if isinstance(result, Evaluation) else [result]


@pytest.mark.parametrize("name", NAMES)
def test_leading_dimensions_and_devices(name: str) -> None:
    problem = registry.load(name, "problems")()
    x = inside(problem, 12)
    flat = parts(problem(x))
    assert flat[0].shape == ((12,) if len(problem.objectives) == 1 else (12, len(problem.objectives)))
    for out, stacked in zip(flat, parts(problem(x.reshape(2, 3, 2, problem.dim))), strict=True):
        assert torch.equal(stacked.reshape(out.shape), out)
    if problem.constraints:
        assert flat[1].shape == (12, len(problem.constraints))
    for out, single in zip(flat, parts(problem(x[0])), strict=True):
        torch.testing.assert_close(single, out[0], rtol=1e-12, atol=1e-12)
    for out, rough in zip(flat, parts(problem(x.float())), strict=True):
        assert rough.dtype == torch.float32
        torch.testing.assert_close(rough.double(), out, rtol=1e-2, atol=1e-3 * float(out.abs().max()))
    for out, shape_only in zip(flat, parts(problem(x.to("meta").expand(5, 12, -1))), strict=True):
        assert shape_only.device.type == "meta"
        assert shape_only.shape == (5, *out.shape)


@pytest.mark.parametrize("name", NAMES)
def test_a_study_takes_it_as_it_is(name: str) -> None:
    """Its constraints under the names it gives them, which are no parameters'."""
    problem = registry.load(name, "problems")()
    objectives = dict.fromkeys(getattr(problem, "objectives", None) or ("value",), "minimize")
    study = Study(problem.space, "random", objectives=objectives, constraints=list(problem.constraints), seed=0)
    study.run(problem, evaluations=3)
    assert study.evaluations == 3


@pytest.mark.parametrize("name", NAMES)
def test_known_optimum_is_feasible_and_not_beaten(name: str) -> None:
    problem = registry.load(name, "problems")()
    assert problem.optimum.source
    if len(problem.objectives) > 1:
        assert problem.optimum.value is None
        return
    best = torch.tensor(problem.optimum.x, dtype=torch.float64)
    encoded = problem.space.encode(best)
    assert bool(problem.space.allowed(encoded.numpy()).all())
    result = parts(problem(best))
    torch.testing.assert_close(result[0], torch.full_like(result[0], problem.optimum.value), rtol=1e-8, atol=1e-12)
    if problem.constraints:
        scale = parts(problem(inside(problem, 1000)))[1].abs().median(0).values
        assert bool((result[1] <= 1e-6 * scale).all())
    # No feasible point of a cloud over the box, nor of clouds around the optimum, is better.
    generator = torch.Generator().manual_seed(1)
    width = torch.tensor([1e-1, 1e-2, 1e-3, 1e-4], dtype=torch.float64).repeat_interleave(5_000).unsqueeze(-1)
    near = (encoded[:1] + width * torch.randn((20_000, problem.dim), generator=generator, dtype=torch.float64)).clamp(0, 1)
    u = torch.rand((20_000, problem.dim), generator=generator, dtype=torch.float64)
    cloud = parts(problem(problem.space.decode(torch.cat([u, near]))))
    values = cloud[0] if len(cloud) == 1 else torch.where((cloud[1] <= 0).all(-1), cloud[0], math.inf)
    assert float(values.min()) >= problem.optimum.value - 1e-8 * max(1.0, abs(problem.optimum.value))


@pytest.mark.parametrize("cls", SHIFTED)
@pytest.mark.parametrize("dim", [2, 5, 40])
def test_shift_keeps_the_optimum_inside_and_off_the_centre_corners_and_diagonals(cls: type, dim: int) -> None:
    for seed in range(5):
        problem = cls(dim=dim, shift_seed=seed)
        u = problem.space.encode(torch.tensor(problem.optimum.x[0], dtype=torch.float64)).numpy()
        assert 0.05 < u.min() and u.max() < 0.95  # neither a corner nor a face
        away = np.abs(u - 0.5)
        assert away.min() > 0.09  # in no coordinate at the centre
        assert np.unique(np.round(away, 6)).size == dim  # on none of the 2^(d - 1) diagonals
    places = {cls(dim=dim, shift_seed=seed).optimum.x[0] for seed in range(5)}
    assert len(places) == 5
    assert cls(dim=dim, shift_seed=3) == cls(dim=dim, shift_seed=3) != cls(dim=dim, shift_seed=4)


@pytest.mark.parametrize("dim", [1, 2, 20])
def test_rastrigin_reaches_zero_at_its_optimum_to_the_last_digits(dim: int) -> None:
    for seed in range(20):
        problem = Rastrigin(dim=dim, shift_seed=seed)
        best = torch.tensor(problem.optimum.x, dtype=torch.float64)
        assert float(problem(best)) == 0.0
        there_and_back = problem.space.decode(problem.space.encode(best))
        assert 0.0 <= float(problem(there_and_back)) < 1e-12


@pytest.mark.parametrize("cls", SHIFTED)
def test_shifted_value_is_the_published_formula_moved(cls: type) -> None:
    moved, plain = cls(dim=6, shift_seed=5), cls(dim=6, shift=False)
    x = inside(moved, 50)
    offset = torch.tensor(moved.optimum.x[0], dtype=torch.float64) - torch.tensor(plain.optimum.x[0], dtype=torch.float64)
    torch.testing.assert_close(moved(x), plain(x - offset), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("cls", "peer"),
    [
        (Ackley, "Ackley"),
        (Griewank, "Griewank"),
        (Levy, "Levy"),
        (Rastrigin, "Rastrigin"),
        (Rosenbrock, "Rosenbrock"),
        (StyblinskiTang, "StyblinskiTang"),
    ],
)
@pytest.mark.parametrize("dim", [2, 7])
def test_unshifted_against_botorch(cls: type, peer: str, dim: int) -> None:
    from botorch.test_functions import synthetic

    problem = cls(dim=dim, shift=False)
    other = getattr(synthetic, peer)(dim=dim)
    x = inside(problem, 200)
    torch.testing.assert_close(problem(x), other(x), rtol=1e-10, atol=1e-9)


def test_low_dimensional_against_botorch() -> None:
    from botorch.test_functions.multi_objective import BraninCurrin as PeerBraninCurrin
    from botorch.test_functions.synthetic import Branin as PeerBranin
    from botorch.test_functions.synthetic import Hartmann

    x = inside(Branin(), 200)
    torch.testing.assert_close(Branin()(x), PeerBranin().double()(x), rtol=1e-6, atol=1e-5)  # the peer rounds 5.1 / (4 pi^2)
    x = inside(Hartmann6(), 200)
    torch.testing.assert_close(Hartmann6()(x), Hartmann(dim=6).double()(x), rtol=1e-6, atol=1e-8)  # the peer's tables are float32
    x = inside(BraninCurrin(), 200)
    torch.testing.assert_close(BraninCurrin()(x), PeerBraninCurrin().double()(x), rtol=1e-6, atol=1e-5)
    assert PeerBraninCurrin()._max_hv == BraninCurrin().optimum.hypervolume


def test_ellipsoid_and_sphere_by_hand() -> None:
    assert Ellipsoid(dim=4, shift=False)(torch.tensor([[1.0, 2.0, 0.0, 3.0]], dtype=torch.float64)).item() == pytest.approx(
        1 + 4 * 100 + 9 * 1e6, rel=1e-12
    )
    assert Sphere(dim=3, shift=False)(torch.tensor([[1.0, 2.0, 3.0]])).item() == 14.0


@pytest.mark.parametrize("shift", [False, True])
def test_zdt1(shift: bool) -> None:
    problem = ZDT1(dim=8, shift=shift)
    if not shift:
        from pymoo.problems import get_problem

        x = inside(problem, 100)
        np.testing.assert_allclose(problem(x).numpy(), get_problem("zdt1", n_var=8).evaluate(x.numpy()), rtol=1e-12)
    front = problem(problem.pareto_set(2001))
    torch.testing.assert_close(front[:, 1], 1 - front[:, 0].sqrt())
    cloud = problem(inside(problem, 10_000))
    assert bool((cloud[:, 1] >= 1 - cloud[:, 0].sqrt()).all())  # nothing lies beyond the front
    from pymoo.indicators.hv import HV

    measured = HV(ref_point=np.array(problem.optimum.reference))(front.numpy())
    assert measured == pytest.approx(problem.optimum.hypervolume, abs=1e-3)
    if shift:
        u = problem.pareto_set(3)[1, 1:]
        assert 0.05 < float(u.min()) and float(u.max()) < 0.95


def test_branin_currin_at_the_edge_is_finite() -> None:
    values = BraninCurrin()(torch.tensor([[0.3, 0.0], [0.3, 1e-12]], dtype=torch.float64))
    assert bool(torch.isfinite(values).all())
    torch.testing.assert_close(values[0], values[1])


def test_gramacy_against_botorch() -> None:
    from botorch.test_functions.synthetic import ConstrainedGramacy

    peer = ConstrainedGramacy().double()
    x = inside(Gramacy(), 200)
    ours = Gramacy()(x)
    torch.testing.assert_close(ours.values, peer(x))
    torch.testing.assert_close(ours.constraints, -peer.evaluate_slack(x))


def test_spring_pole_counts_as_infeasible() -> None:
    result = CompressionSpring()(torch.tensor([[0.3, 0.3, 5.0]], dtype=torch.float64))
    assert bool(torch.isfinite(result.constraints).all())
    assert float(result.constraints[0, 1]) > 0


@pytest.mark.parametrize("cls", [*SHIFTED, Branin, Hartmann6])
def test_gradient_against_central_differences(cls: type) -> None:
    problem = cls()
    x = inside(problem, 6, seed=3).reshape(2, 3, problem.dim)
    gradient = problem.gradient(x)
    assert gradient.shape == (2, 3, 1, problem.dim)
    assert not x.requires_grad
    low, high = problem.space.decode(torch.zeros(problem.dim)), problem.space.decode(torch.ones(problem.dim))
    step = 1e-6 * (high - low).double()
    for j in range(problem.dim):
        away = torch.zeros(problem.dim, dtype=torch.float64)
        away[j] = step[j]
        numeric = (problem(x + away) - problem(x - away)) / (2 * step[j])
        torch.testing.assert_close(gradient[..., 0, j], numeric, rtol=1e-4, atol=1e-5 * float(problem(x).abs().max()))
    assert problem.gradient(x.to("meta")).shape == gradient.shape


@pytest.mark.parametrize("cls", SHIFTED)
def test_gradient_vanishes_at_the_optimum(cls: type) -> None:
    problem = cls(dim=3)
    gradient = problem.gradient(torch.tensor(problem.optimum.x, dtype=torch.float64))
    assert bool(torch.isfinite(gradient).all())
    assert float(gradient.abs().max()) < 1e-9


def test_bad_input_is_refused_with_what_to_do() -> None:
    with pytest.raises(SpaceError, match=r"shape \(\.\.\., n, 4\).*got \(3, 5\)"):
        Rastrigin(dim=4)(torch.zeros(3, 5))
    with pytest.raises(ConfigError, match="dim >= 2; got 1"):
        Rosenbrock(dim=1)
    with pytest.raises(ConfigError, match="dim >= 2; got 1"):
        ZDT1(dim=1)


def test_arrays_and_integers_are_accepted() -> None:
    problem = Sphere(dim=2, shift=False)
    assert problem(np.array([[1.0, 2.0]])).tolist() == [5.0]
    assert problem(torch.tensor([[1, 2]])).tolist() == [5.0]


def test_problems_travel_to_worker_processes() -> None:
    problem = Rastrigin(dim=4, shift_seed=2)
    x = inside(problem, 5)
    expected = problem(x)
    copy = pickle.loads(pickle.dumps(problem))
    assert copy == problem
    assert torch.equal(copy(x), expected)


def test_listing_needs_no_import_of_the_problem() -> None:
    for name in NAMES:
        assert registry.summary(name, "problems").endswith((".", ")")), name


def test_a_users_problem_in_a_few_lines() -> None:
    from zoopt import Real, Space

    class Corridor(Problem):
        space = Space({"x": Real(0, 1), "y": Real(0, 1)})
        constraints = ("wall",)

        def values(self, x: Tensor) -> Tensor:
            return x.sum(-1)

        def violations(self, x: Tensor) -> Tensor:
            return (0.5 - x[..., :1]).clamp_min(-0.1)

    corridor = Corridor()
    assert corridor.dim == 2
    result = corridor(torch.tensor([[0.25, 0.5], [1.0, 1.0]]))
    assert result.values.tolist() == [0.75, 2.0]
    assert [round(v, 6) for v in itertools.chain(*result.constraints.tolist())] == [0.25, -0.1]
