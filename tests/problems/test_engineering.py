"""The fifteen constrained problems against reference values that were computed independently of this code, and their optima."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

import zoopt
from zoopt.errors import ConfigError
from zoopt.problem import Problem
from zoopt.problems import (
    GKXWC1,
    GKXWC2,
    JLH1,
    JLH2,
    CantileverBeam,
    CarSideImpact,
    CompressionSpring,
    ConstrainedAckley,
    HeatExchanger,
    KeaneBump,
    PressureVessel,
    ReinforcedConcreteBeam,
    SpeedReducer,
    ThreeTruss,
    WeldedBeam,
)

F64 = torch.float64

# x, f and constraints at three points of each box: its middle, and two that differ in every coordinate.
TABLE: list[tuple[Problem, list[tuple[tuple[float, ...], float, tuple[float, ...]]]]] = [
    (
        JLH1(),
        [
            (
                (
                    0.5,
                    0.5,
                ),
                0,
                (0.25,),
            ),
            (
                (
                    0.5,
                    0.875,
                ),
                0.140625,
                (0.625,),
            ),
            (
                (
                    0.6,
                    0.2,
                ),
                0.1,
                (0.05,),
            ),
        ],
    ),
    (
        JLH2(),
        [
            (
                (
                    -2.5,
                    0,
                ),
                -0.3148099586,
                (-0.9375,),
            ),
            (
                (
                    -2.5,
                    3.75,
                ),
                -0.8312338047,
                (-0.796875,),
            ),
            (
                (
                    -2,
                    -3,
                ),
                -0.2621951467,
                (-0.16,),
            ),
        ],
    ),
    (
        GKXWC1(),
        [
            (
                (
                    3,
                    3,
                ),
                -0.8094413712,
                (0.4601702867,),
            ),
            (
                (
                    3,
                    5.25,
                ),
                0.6328092675,
                (-0.8857479375,),
            ),
            (
                (
                    3.6,
                    1.2,
                ),
                -0.222079627,
                (-0.4125010166,),
            ),
        ],
    ),
    (
        GKXWC2(),
        [
            (
                (
                    3,
                    3,
                ),
                3.141120008,
                (0.9699148567,),
            ),
            (
                (
                    3,
                    5.25,
                ),
                5.391120008,
                (0.8287871574,),
            ),
            (
                (
                    3.6,
                    1.2,
                ),
                0.7574795567,
                (0.5375536505,),
            ),
        ],
    ),
    (
        ConstrainedAckley(2),
        [
            (
                (
                    2.5,
                    2.5,
                ),
                10.21978919,
                (
                    5,
                    -1.464466094,
                ),
            ),
            (
                (
                    2.5,
                    8.125,
                ),
                15.84393287,
                (
                    10.625,
                    3.500919068,
                ),
            ),
            (
                (
                    4,
                    -2,
                ),
                9.374287817,
                (
                    2,
                    -0.527864045,
                ),
            ),
        ],
    ),
    (
        ConstrainedAckley(6),
        [
            (
                (
                    2.5,
                    2.5,
                    2.5,
                    2.5,
                    2.5,
                    2.5,
                ),
                10.21978919,
                (
                    15,
                    1.123724357,
                ),
            ),
            (
                (
                    2.5,
                    8.125,
                    0.625,
                    6.25,
                    -1.25,
                    4.375,
                ),
                14.15007419,
                (
                    20.625,
                    6.5074704,
                ),
            ),
            (
                (
                    4,
                    -2,
                    5.5,
                    -0.5,
                    7,
                    1,
                ),
                12.50112465,
                (
                    15,
                    5.024968828,
                ),
            ),
        ],
    ),
    (
        ConstrainedAckley(10),
        [
            (
                (
                    2.5,
                    2.5,
                    2.5,
                    2.5,
                    2.5,
                    2.5,
                    2.5,
                    2.5,
                    2.5,
                    2.5,
                ),
                10.21978919,
                (
                    25,
                    2.90569415,
                ),
            ),
            (
                (
                    2.5,
                    8.125,
                    0.625,
                    6.25,
                    -1.25,
                    4.375,
                    -3.125,
                    2.5,
                    8.125,
                    0.625,
                ),
                13.98496447,
                (
                    28.75,
                    9.657549249,
                ),
            ),
            (
                (
                    4,
                    -2,
                    5.5,
                    -0.5,
                    7,
                    1,
                    8.5,
                    2.5,
                    -3.5,
                    4,
                ),
                13.67177629,
                (
                    26.5,
                    9.396180049,
                ),
            ),
        ],
    ),
    (
        KeaneBump(),
        [
            (
                (
                    5,
                    5,
                    5,
                    5,
                    5,
                    5,
                    5,
                    5,
                    5,
                    5,
                    5,
                    5,
                    5,
                    5,
                    5,
                    5,
                    5,
                    5,
                ),
                -0.001782420728,
                (
                    -3.814697266e12,
                    -45,
                ),
            ),
            (
                (
                    5,
                    8.75,
                    3.75,
                    7.5,
                    2.5,
                    6.25,
                    1.25,
                    5,
                    8.75,
                    3.75,
                    7.5,
                    2.5,
                    6.25,
                    1.25,
                    5,
                    8.75,
                    3.75,
                    7.5,
                ),
                -0.07044688868,
                (
                    -7.106763178e11,
                    -40,
                ),
            ),
            (
                (
                    6,
                    2,
                    7,
                    3,
                    8,
                    4,
                    9,
                    5,
                    1,
                    6,
                    2,
                    7,
                    3,
                    8,
                    4,
                    9,
                    5,
                    1,
                ),
                -0.08509338721,
                (
                    -1.316818944e11,
                    -45,
                ),
            ),
        ],
    ),
    (
        ThreeTruss(),
        [
            (
                (
                    0.5,
                    0.5,
                ),
                191.4213562,
                (
                    0.8284271247,
                    -0.8284271247,
                    -0.3431457505,
                ),
            ),
            (
                (
                    0.5,
                    0.875,
                ),
                228.9213562,
                (
                    0.5755604816,
                    -0.5755604816,
                    -0.8488790368,
                ),
            ),
            (
                (
                    0.6,
                    0.2,
                ),
                189.7056275,
                (
                    0.799371265,
                    -1.466037932,
                    0.2654091966,
                ),
            ),
        ],
    ),
    (
        ReinforcedConcreteBeam(),
        [
            (
                (
                    7.6,
                    34,
                    7.5,
                ),
                376.44,
                (
                    0.5333333333,
                    -21.60266667,
                ),
            ),
            (
                (
                    7.6,
                    38.5,
                    6.875,
                ),
                382.2525,
                (
                    1.6,
                    -50.63927273,
                ),
            ),
            (
                (
                    9.08,
                    30.4,
                    8.5,
                ),
                421.992,
                (
                    -0.4235294118,
                    -24.49762353,
                ),
            ),
        ],
    ),
    (
        CompressionSpring(),
        [
            (
                (
                    0.525,
                    0.775,
                    8.5,
                ),
                2.242898438,
                (
                    0.9992744738,
                    -0.9948997241,
                    -13.4430434,
                    -0.1333333333,
                ),
            ),
            (
                (
                    0.525,
                    1.16875,
                    6.875,
                ),
                2.858963379,
                (
                    0.9979873574,
                    -0.9951461215,
                    -6.851725294,
                    0.1291666667,
                ),
            ),
            (
                (
                    0.62,
                    0.46,
                    11.1,
                ),
                2.3163944,
                (
                    0.9998981418,
                    -1.000661894,
                    -36.07445631,
                    -0.28,
                ),
            ),
        ],
    ),
    (
        PressureVessel(),
        [
            (
                (
                    3.125,
                    3.125,
                    105,
                    105,
                ),
                106294.9658,
                (
                    -1.0985,
                    -2.1233,
                    -7189834.456,
                    -135,
                ),
            ),
            (
                (
                    3.125,
                    5.421875,
                    81.25,
                    152.5,
                ),
                108200.353,
                (
                    -1.556875,
                    -4.64675,
                    -4113532.116,
                    -87.5,
                ),
            ),
            (
                (
                    3.7375,
                    1.2875,
                    143,
                    67,
                ),
                111696.1554,
                (
                    -0.9776,
                    0.07672,
                    -15257132.33,
                    -173,
                ),
            ),
        ],
    ),
    (
        WeldedBeam(),
        [
            (
                (
                    5.0625,
                    7.55,
                    5.05,
                    5.05,
                ),
                240.1996828,
                (
                    -13114.6408,
                    -26086.58052,
                    0.0125,
                    -36099192.86,
                    -0.2466247295,
                ),
            ),
            (
                (
                    5.0625,
                    13.1375,
                    3.8125,
                    7.525,
                ),
                409.4116005,
                (
                    -13240.06696,
                    -25392.0864,
                    -2.4625,
                    -93853936.36,
                    -0.2447357315,
                ),
            ),
            (
                (
                    6.05,
                    3.08,
                    7.03,
                    3.07,
                ),
                142.2746725,
                (
                    -12962.26666,
                    -26678.13858,
                    2.98,
                    -10549838.87,
                    -0.2479418845,
                ),
            ),
        ],
    ),
    (
        SpeedReducer(),
        [
            (
                (
                    3.1,
                    0.75,
                    22.5,
                    7.8,
                    7.8,
                    3.4,
                    5.25,
                ),
                4144.956819,
                (
                    -0.311827957,
                    -0.5497145891,
                    -0.5938544797,
                    -0.9285569278,
                    -0.04581577239,
                    0.0207205781,
                    -0.578125,
                    0.2096774194,
                    -0.6555555556,
                    -0.1025641026,
                    -0.01602564103,
                ),
            ),
            (
                (
                    3.1,
                    0.7875,
                    21.125,
                    8.05,
                    7.55,
                    3.525,
                    5.0625,
                ),
                4007.691534,
                (
                    -0.3351797677,
                    -0.53668018,
                    -0.6080224585,
                    -0.9239864984,
                    -0.1434814661,
                    0.1383709335,
                    -0.5841015625,
                    0.2701612903,
                    -0.671957672,
                    -0.1071428571,
                    -0.0107615894,
                ),
            ),
            (
                (
                    3.2,
                    0.72,
                    24.7,
                    7.6,
                    8.1,
                    3.3,
                    5.45,
                ),
                4611.277376,
                (
                    -0.3410509447,
                    -0.6072390921,
                    -0.5982897839,
                    -0.9346272271,
                    0.04305538461,
                    -0.08758895779,
                    -0.5554,
                    0.125,
                    -0.6296296296,
                    -0.09868421053,
                    -0.02530864198,
                ),
            ),
        ],
    ),
    (
        HeatExchanger(),
        [
            (
                (
                    5050,
                    5500,
                    5500,
                    505,
                    505,
                    505,
                    505,
                    505,
                ),
                16050,
                (
                    1.525,
                    0.2625,
                    -1,
                    -1707750.41,
                    0,
                    -12500,
                ),
            ),
            (
                (
                    5050,
                    8875,
                    4375,
                    752.5,
                    257.5,
                    628.75,
                    133.75,
                    505,
                ),
                18300,
                (
                    2.453125,
                    -1.903125,
                    1.475,
                    -2126438.112,
                    4872656.25,
                    -476562.5,
                ),
            ),
            (
                (
                    6040,
                    2800,
                    7300,
                    307,
                    802,
                    406,
                    901,
                    505,
                ),
                16140,
                (
                    0.7825,
                    2.49,
                    -3.97,
                    -1675740.249,
                    -1044450,
                    1413100,
                ),
            ),
        ],
    ),
    (
        CantileverBeam(),
        [
            (
                (
                    3,
                    3,
                    3,
                    3,
                    3,
                    47.5,
                    47.5,
                    47.5,
                    47.5,
                    47.5,
                ),
                71250,
                (
                    -9567.867036,
                    -5135.734072,
                    -703.601108,
                    3728.531856,
                    8160.66482,
                    1.187835933,
                    -4.166666667,
                    -4.166666667,
                    -4.166666667,
                    -4.166666667,
                    -4.166666667,
                ),
            ),
            (
                (
                    3,
                    4.5,
                    2.5,
                    4,
                    2,
                    51.875,
                    34.375,
                    47.5,
                    60.625,
                    43.125,
                ),
                75781.25,
                (
                    -5934.467549,
                    -9918.801148,
                    1955.67867,
                    8567.493113,
                    4580.345478,
                    1.630837528,
                    1.5625,
                    -4.84375,
                    -1,
                    -12.36111111,
                    -2.708333333,
                ),
            ),
            (
                (
                    3.4,
                    1.8,
                    3.8,
                    2.2,
                    4.2,
                    44,
                    61.5,
                    47.5,
                    33.5,
                    51,
                ),
                72870,
                (
                    -11253.80348,
                    10301.82871,
                    -3502.84298,
                    3626.192522,
                    8788.040836,
                    1.620687062,
                    -7.857142857,
                    -4.772727273,
                    -7.5,
                    14.16666667,
                    -7.058823529,
                ),
            ),
        ],
    ),
    (
        CarSideImpact(),
        [
            (
                (
                    1,
                    0.9,
                    1,
                    1,
                    1,
                    1,
                    1,
                    0.2685,
                    0.2685,
                    -10,
                    -10,
                ),
                28.383,
                (
                    -0.354994,
                    -0.695801325,
                    -0.69139145,
                    -0.1316865,
                    -4.335495,
                    -5.0700505,
                    0.87935,
                    0.09685,
                    -0.6852175,
                    -0.627306,
                ),
            ),
            (
                (
                    1,
                    1.2375,
                    0.875,
                    1.25,
                    0.75,
                    1.125,
                    0.625,
                    0.2685,
                    0.325875,
                    -12.5,
                    -5,
                ),
                29.295375,
                (
                    -0.5978268125,
                    -0.6939972258,
                    -0.6737762938,
                    0.026562375,
                    -5.235848594,
                    -7.260006375,
                    -2.56568125,
                    -0.0464671875,
                    -1.111030313,
                    -0.333732375,
                ),
            ),
            (
                (
                    1.1,
                    0.63,
                    1.2,
                    0.8,
                    1.3,
                    0.9,
                    1.4,
                    0.2685,
                    0.2073,
                    -8,
                    -16,
                ),
                29.2921,
                (
                    -0.19751024,
                    -0.6978916635,
                    -0.705251792,
                    -0.22085602,
                    -3.7524389,
                    -3.7021669,
                    3.250265,
                    0.236196,
                    -0.38899825,
                    -1.1462748,
                ),
            ),
        ],
    ),
]
PROBLEMS = [problem for problem, _ in TABLE]
REPO: list[Problem] = [
    CantileverBeam("repo"),
    HeatExchanger("repo"),
    SpeedReducer("repo"),
    PressureVessel("repo"),
    ReinforcedConcreteBeam("repo"),
]
# The share of the box that is feasible, from 200,000 uniform points, where it is a thousandth at least.
FEASIBLE = {
    "JLH1": 0.281,
    "JLH2": 0.623,
    "GKXWC1": 0.664,
    "GKXWC2": 0.0178,
    "ConstrainedAckley2": 0.176,
    "ConstrainedAckley6": 0.0034,
    "KeaneBump18": 0.9999,
    "ThreeTruss": 0.217,
    "ReinforcedConcreteBeam": 0.161,
    "CompressionSpring": 0.0150,
    "PressureVessel": 0.403,
    "WeldedBeam": 0.388,
    "SpeedReducer": 0.00104,
    "CantileverBeam": 0.00567,
    "CarSideImpact": 0.0818,
}


def name_of(problem: Problem) -> str:
    return f"{type(problem).__name__}{getattr(problem, 'dim', '') if type(problem) in (ConstrainedAckley, KeaneBump) else ''}"


def uniform(problem: Problem, n: int) -> Tensor:
    u = torch.rand((n, problem.dim), generator=torch.Generator().manual_seed(0), dtype=F64)
    return problem.space.decode(u)


def evaluated(problem: Problem, x: Any) -> tuple[Tensor, Tensor]:
    result: Any = problem(torch.as_tensor(x, dtype=F64))
    return result.values, result.constraints


@pytest.mark.parametrize(("problem", "rows"), TABLE, ids=map(name_of, PROBLEMS))
def test_reference_values(problem: Problem, rows: Any) -> None:
    """The table has ten digits."""
    values, constraints = evaluated(problem, [x for x, _, _ in rows])
    for k, (x, value, limits) in enumerate(rows):
        assert values[k].item() == pytest.approx(value, rel=1e-9, abs=1e-9), x
        assert constraints[k].tolist() == pytest.approx(list(limits), rel=1e-9, abs=1e-9), x


@pytest.mark.parametrize("problem", PROBLEMS, ids=name_of)
def test_the_reference_points_are_where_they_are_said_to_be(problem: Problem) -> None:
    """Their places in the unit cube follow a rule, so that this checks the bounds of the box."""
    (rows,) = [rows for other, rows in TABLE if other is problem]
    k = torch.arange(1, problem.dim + 1, dtype=F64)
    places = torch.stack([torch.full_like(k, 0.5), ((3 * k) % 7 + 1) / 8, ((5 * k) % 9 + 1) / 10])
    torch.testing.assert_close(problem.space.decode(places), torch.tensor([x for x, _, _ in rows], dtype=F64), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("problem", "at", "constraint", "expected"),
    [
        (ReinforcedConcreteBeam("repo"), ReinforcedConcreteBeam, 1, (-21.7952, -50.84930909, -24.74011294)),
        (SpeedReducer("repo"), SpeedReducer, 4, (-0.688943332, -0.7199981673, -0.6614230924)),
        (HeatExchanger("repo"), HeatExchanger, 4, (568125, 5719218.75, -699075)),
        (CantileverBeam("repo"), CantileverBeam, 5, (97352022.22,) * 3),
    ],
    ids=["concrete", "reducer", "exchanger", "cantilever"],
)
def test_the_variant_of_the_published_code(problem: Problem, at: type, constraint: int, expected: Any) -> None:
    (rows,) = [rows for other, rows in TABLE if type(other) is at]
    _, constraints = evaluated(problem, [x for x, _, _ in rows])
    assert constraints[:, constraint].tolist() == pytest.approx(list(expected), rel=1e-9)


def test_the_variant_of_the_published_code_in_other_bounds() -> None:
    vessel, exchanger = PressureVessel("repo").space, HeatExchanger("repo").space
    assert (vessel.low[3], vessel.high[3]) == (0.0, 190.0)
    assert exchanger.high[:3].tolist() == [10_000.0, 10_900.0, 10_900.0]
    assert len(SpeedReducer("repo").constraints) == 9


@pytest.mark.parametrize("problem", [*PROBLEMS, SpeedReducer("repo")], ids=name_of)
def test_the_optimum_is_feasible_and_has_its_value(problem: Problem) -> None:
    optimum = problem.optimum
    assert optimum is not None
    assert optimum.value is not None
    values, constraints = evaluated(problem, optimum.x)
    assert (values - optimum.value).abs().max() <= 1e-6 * (1 + abs(optimum.value))
    _, around = evaluated(problem, uniform(problem, 256))
    assert (constraints / around.abs().median(0).values).max() <= 1e-6


@pytest.mark.parametrize("problem", [p for p in PROBLEMS if name_of(p) in FEASIBLE], ids=name_of)
def test_the_feasible_share_of_the_box(problem: Problem) -> None:
    _, constraints = evaluated(problem, uniform(problem, 200_000))
    assert (constraints <= 0).all(-1).double().mean().item() == pytest.approx(FEASIBLE[name_of(problem)], rel=0.2)


@pytest.mark.parametrize("problem", [*PROBLEMS, *REPO], ids=name_of)
def test_finite_everywhere_with_gradients_almost_everywhere(problem: Problem) -> None:
    corners = itertools.islice(itertools.product((0.0, 1.0), repeat=problem.dim), 1 << 12)
    for x in (uniform(problem, 100_000), problem.space.decode(torch.tensor(list(corners), dtype=F64))):
        assert all(bool(torch.isfinite(part).all()) for part in evaluated(problem, x))
    inside = uniform(problem, 50).requires_grad_()
    values, constraints = evaluated(problem, inside)
    for part in (values, constraints):
        if part.requires_grad:
            (slope,) = torch.autograd.grad(part.sum(), inside, retain_graph=True)
            assert bool(torch.isfinite(slope).all())


@pytest.mark.parametrize("cls", [type(problem) for problem in REPO])
def test_an_unknown_variant_is_refused(cls: Any) -> None:
    with pytest.raises(ConfigError, match="'fixed' or 'repo'"):
        cls("paper")


@pytest.mark.parametrize(("problem", "evaluations", "within"), [(ThreeTruss(), 2000, 1e-3), (GKXWC2(), 2000, 1e-3), (JLH1(), 1000, 1e-6)])
def test_a_search_comes_to_the_optimum_and_not_below_it(problem: Problem, evaluations: int, within: float) -> None:
    assert problem.optimum is not None
    best = problem.optimum.value
    assert best is not None
    found = zoopt.minimize(problem, "cma-es", evaluations=evaluations, runs=3).value
    assert best * (1 - 1e-6) - 1e-9 <= found <= best + within * max(1.0, abs(best))
