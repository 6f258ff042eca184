from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare, kstest

from zoopt.random import Random
from zoopt.space import Choice, Context, Integer, Real, Space
from zoopt.strategies.random import BLOCK, RandomSearch
from zoopt.strategy import Request, Task

pytestmark = pytest.mark.usefixtures("global_randomness_untouched")

BOX = Space({"x": Real(-1.0, 1.0, shape=(3,))})
TRIANGLE = Space({"x": Real(0.0, 1.0), "y": Real(0.0, 1.0)}, ["x + y <= 1"])
SIMPLEX = Space({"w": Real(0.0, 1.0, shape=(12,))}, ["sum(w) <= 1"])
CALLED = Space({"x": Real(0.0, 1.0), "y": Real(0.0, 1.0)}, [lambda p: p["x"] + p["y"] < 0.8])
MIXED = Space({"x": Real(1e-3, 1e3, log=True), "k": Integer(1, 4), "c": Choice("a", "b", "c"), "u": Real()})


def points(driver: Any, space: Space, pieces: list[int | None], **options: Any) -> torch.Tensor:
    study = driver(RandomSearch(), space, **options)
    for n in pieces:
        x, columns, ids = study.ask(n)
        if len(x) % 2:  # what is told changes nothing
            study.tell(ids, x, columns, torch.zeros(len(x)))
    return torch.cat(study.asked)


@pytest.mark.parametrize("space", [TRIANGLE, SIMPLEX, CALLED], ids=["triangle", "simplex", "predicate"])
def test_under_constraints_too_any_pieces_give_one_sequence(driver: Any, space: Space) -> None:
    whole = points(driver, space, [400], seed=5)
    assert space.allowed(whole.numpy()).all()
    for pieces in ([1] * 200, [7, 1, 1, 128, 1, 200, 1], [None, None]):
        here = points(driver, space, pieces, seed=5)
        assert torch.equal(here, whole[: len(here)])
    assert torch.equal(points(driver, space, [1, 5, 1, 130, 2, 1], seed=5, reopen=True), whole[:140])
    assert not torch.equal(points(driver, space, [10], seed=6), whole[:10])


def test_any_pieces_and_reopening_anywhere_give_one_sequence(driver: Any) -> None:
    whole = points(driver, MIXED, [3 * BLOCK], seed=5)
    for pieces in ([1] * 2 * BLOCK, [7, 1, 1, BLOCK, 1, 300, 1], [None, None], [BLOCK - 1, 2, None]):
        here = points(driver, MIXED, pieces, seed=5)
        assert torch.equal(here, whole[: len(here)])
    assert torch.equal(points(driver, MIXED, [1, 5, 1, BLOCK, 2, 1], seed=5, reopen=True), whole[: BLOCK + 10])
    assert not torch.equal(points(driver, MIXED, [10], seed=6), whole[:10])


def test_every_variable_is_uniform(driver: Any) -> None:
    z = MIXED.decode(points(driver, MIXED, [4096])).numpy()
    assert kstest((np.log10(z[:, 0]) + 3) / 6, "uniform").pvalue > 0.001
    assert chisquare(np.bincount(z[:, 1].astype(int))[1:]).pvalue > 0.001
    assert chisquare(np.bincount(z[:, 2].astype(int))).pvalue > 0.001
    assert kstest(z[:, 3], "norm").pvalue > 0.001


def test_a_run_draws_the_same_beside_any_others() -> None:
    recipe = RandomSearch()
    together = recipe.ask(task := Task(BOX, runs=(4,)), recipe.begin(task, Random(1)), Request(300), Random(1))[1].x
    assert together.shape == (4, 300, 3)
    fewer = recipe.ask(task := Task(BOX, runs=(2,)), recipe.begin(task, Random(1)), Request(300), Random(1))[1].x
    assert torch.equal(together[:2], fewer)
    assert not torch.equal(together[0], together[1])
    for space in (TRIANGLE, SIMPLEX):
        task = Task(space, runs=(3,))
        together = recipe.ask(task, recipe.begin(task, Random(1)), Request(50), Random(1))[1].x
        task = Task(space, runs=(1,))
        alone = recipe.ask(task, recipe.begin(task, Random(1)), Request(50), Random(1).select([2]))[1].x
        assert together.shape == (3, 50, space.dim) and torch.equal(together[2:], alone)


def test_known_constraints_hold_and_leave_the_rest_uniform(driver: Any) -> None:
    x = points(driver, TRIANGLE, [2000]).numpy()
    assert TRIANGLE.allowed(x).all()
    assert kstest(1 - (1 - x[:, 0]) ** 2, "uniform").pvalue > 0.001  # the marginal of a uniform triangle
    w = points(driver, SIMPLEX, [2000]).numpy()
    assert SIMPLEX.allowed(w).all()
    assert kstest(w.sum(1) ** 12, "uniform").pvalue > 0.001  # the sum over a uniform simplex of d weights is Beta(d, 1)
    assert kstest(1 - (1 - w[:, 3]) ** 12, "uniform").pvalue > 0.001


def test_a_tiny_feasible_region_is_reached(driver: Any) -> None:
    space = Space({"x": Real(0.0, 1.0), "y": Real(0.0, 1.0)}, ["x + y <= 0.01"])
    assert space.allowed(points(driver, space, [300]).numpy()).all()


def test_columns_that_the_asker_fixes_are_as_asked(driver: Any) -> None:
    study = driver(RandomSearch(), BOX)
    fixed = study.ask(4, fixed={1: 0.25})[0]
    assert (fixed[:, 1] == 0.25).all()
    assert not (study.ask(4)[0][:, 1] == 0.25).any()


def test_known_constraints_hold_in_the_context_that_is_given(driver: Any) -> None:
    space = Space({"w": Real(0.0, 1.0, shape=(10,)), "t": Context(Real(0.0, 1.0))}, ["sum(w) <= t"])
    study = driver(RandomSearch(), space, seed=3)
    asked = {t: torch.cat([study.ask(n, fixed={10: t})[0] for n in (1, 1, 300, 1)]).numpy() for t in (0.5, 0.125)}
    for t, x in asked.items():
        assert (x[:, 10] == t).all() and space.allowed(x).all()
        assert len(np.unique(x, axis=0)) == 303
        assert kstest((x[:, :10].sum(1) / t) ** 10, "uniform").pvalue > 0.001


def test_a_predicate_is_called_a_few_times_for_each_point(driver: Any) -> None:
    calls = 0

    def feasible(params: dict[str, Any]) -> bool:
        nonlocal calls
        calls += 1
        return bool(params["x"] < -0.4)

    study = driver(RandomSearch(), Space({"x": Real(-1.0, 1.0), "y": Real(-1.0, 1.0)}, [feasible]))
    study.ask(1)
    assert calls < 100
    for _ in range(159):
        study.ask(1)
    assert calls < 10 * 160
