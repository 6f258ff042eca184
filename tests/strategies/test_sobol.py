from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import qmc

from zoopt.errors import CapabilityError, SpaceError
from zoopt.space import Choice, Integer, Real, Space
from zoopt.strategies.sobol import BLOCK, Sobol

pytestmark = pytest.mark.usefixtures("global_randomness_untouched")

BOX = Space({"x": Real(0.0, 1.0, shape=(4,))})
MIXED = Space({"x": Real(0.0, 1.0), "k": Integer(0, 3), "c": Choice("a", "b"), "u": Real()})
TRIANGLE = Space({"x": Real(0.0, 1.0), "y": Real(0.0, 1.0)}, ["x + y <= 1"])


def points(driver: Any, space: Space, pieces: list[int | None], **options: Any) -> torch.Tensor:
    study = driver(Sobol(), space, **options)
    for n in pieces:
        study.ask(n)
    return torch.cat(study.asked)


@pytest.mark.parametrize("space", [BOX, MIXED, TRIANGLE])
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
    assert TRIANGLE.allowed(points(driver, TRIANGLE, [1000]).numpy()).all()


def test_says_so_where_no_point_can_be_valid(driver: Any) -> None:
    nowhere = Space({"x": Real(0.0, 1.0)}, [lambda p: p["x"] > 2])
    with pytest.raises(SpaceError, match="constraints"):
        driver(Sobol(), nowhere).ask(1)


def test_refuses_more_columns_than_the_sequence_has(driver: Any) -> None:
    with pytest.raises(CapabilityError, match="21201"):
        driver(Sobol(), Space({"x": Real(0.0, 1.0, shape=(21202,))}))
