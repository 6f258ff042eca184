from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import kstest, qmc

from zoopt.errors import CapabilityError, SpaceError
from zoopt.space import Choice, Context, Integer, Real, Space
from zoopt.strategies.sobol import BLOCK, Sobol

pytestmark = pytest.mark.usefixtures("global_randomness_untouched")

BOX = Space({"x": Real(0.0, 1.0, shape=(4,))})
MIXED = Space({"x": Real(0.0, 1.0), "k": Integer(0, 3), "c": Choice("a", "b"), "u": Real()})
TRIANGLE = Space({"x": Real(0.0, 1.0), "y": Real(0.0, 1.0)}, ["x + y <= 1"])
CALLED = Space({"x": Real(0.0, 1.0), "y": Real(0.0, 1.0)}, [lambda p: p["x"] + p["y"] < 0.8])
SIMPLEX = Space({"w": Real(0.0, 1.0, shape=(12,))}, ["sum(w) <= 1"])


def points(driver: Any, space: Space, pieces: list[int | None], **options: Any) -> torch.Tensor:
    study = driver(Sobol(), space, **options)
    for n in pieces:
        study.ask(n)
    return torch.cat(study.asked)


@pytest.mark.parametrize("space", [BOX, MIXED, TRIANGLE, CALLED, SIMPLEX], ids=["box", "mixed", "triangle", "predicate", "simplex"])
def test_any_pieces_and_reopening_anywhere_give_one_sequence(driver: Any, space: Space) -> None:
    whole = points(driver, space, [2 * BLOCK], seed=5)
    for pieces in ([1] * BLOCK, [7, 1, 200, None, 1], [None, None]):
        here = points(driver, space, pieces, seed=5)
        assert torch.equal(here, whole[: len(here)])
    assert torch.equal(points(driver, space, [1, 5, BLOCK, 2, 1], seed=5, reopen=True), whole[: BLOCK + 9])
    assert not torch.equal(points(driver, space, [10], seed=6), whole[:10])


def test_every_power_of_two_is_balanced_to_its_last_bit(driver: Any) -> None:
    x = points(driver, BOX, [BLOCK]).numpy()
    for column in x.T:  # one point in each of 256 equal intervals: the first property of a (t, m, s)-net
        assert np.array_equal(np.bincount((column * BLOCK).astype(int), minlength=BLOCK), np.ones(BLOCK))
    random = np.random.default_rng(0).random(x.shape)
    assert qmc.discrepancy(x) < 0.1 * qmc.discrepancy(random)


def test_integers_and_choices_come_equally_often(driver: Any) -> None:
    z = MIXED.decode(points(driver, MIXED, [BLOCK])).numpy()
    assert np.array_equal(np.bincount(z[:, 1].astype(int)), [64] * 4)
    assert np.array_equal(np.bincount(z[:, 2].astype(int)), [128] * 2)
    assert abs(np.median(z[:, 3])) < 0.02


def test_known_constraints_hold(driver: Any) -> None:
    x = points(driver, TRIANGLE, [1000]).numpy()
    assert TRIANGLE.allowed(x).all()
    sequence = points(driver, Space({"x": Real(0.0, 1.0), "y": Real(0.0, 1.0)}), [3000]).numpy()
    assert np.array_equal(x, sequence[sequence.sum(1) <= 1][:1000])  # the points of the sequence that keep it, in order


def test_where_hardly_any_point_is_valid_random_ones_take_over(driver: Any) -> None:
    x = points(driver, SIMPLEX, [1, 1500]).numpy()
    assert SIMPLEX.allowed(x).all()
    assert len(np.unique(x, axis=0)) == 1501
    assert kstest(x.sum(1) ** 12, "uniform").pvalue > 0.001  # Beta(12, 1), as over a uniform simplex
    thin = Space({"x": Real(0.0, 1.0), "n": Integer(0, 3)}, ["x + n == 2"])
    assert thin.allowed(points(driver, thin, [20]).numpy()).all()


def test_known_constraints_hold_in_the_context_that_is_given(driver: Any) -> None:
    for d in (2, 12):
        space = Space({"w": Real(0.0, 1.0, shape=(d,)), "t": Context(Real(0.0, 1.0))}, ["sum(w) <= t"])
        study = driver(Sobol(), space, seed=3)
        for t in (0.5, 0.25, 0.5):
            x = torch.cat([study.ask(n, fixed={d: t})[0] for n in (1, 1, 100, None)]).numpy()
            assert (x[:, d] == t).all() and space.allowed(x).all()
        assert len(np.unique(torch.cat(study.asked).numpy(), axis=0)) == sum(map(len, study.asked))


def test_a_predicate_is_called_a_few_times_for_each_point(driver: Any) -> None:
    calls = 0

    def feasible(params: dict[str, Any]) -> bool:
        nonlocal calls
        calls += 1
        return bool(params["x"] < -0.4)

    study = driver(Sobol(), Space({"x": Real(-1.0, 1.0), "y": Real(-1.0, 1.0)}, [feasible]))
    study.ask(1)
    assert calls < 20
    for _ in range(159):
        study.ask(1)
    assert calls < 10 * 160


def test_says_so_where_no_point_can_be_valid(driver: Any) -> None:
    nowhere = Space({"x": Real(0.0, 1.0)}, [lambda p: p["x"] > 2])
    with pytest.raises(SpaceError, match="constraints"):
        driver(Sobol(), nowhere).ask(1)


def test_refuses_more_columns_than_the_sequence_has(driver: Any) -> None:
    with pytest.raises(CapabilityError, match="21201"):
        driver(Sobol(), Space({"x": Real(0.0, 1.0, shape=(21202,))}))
