"""Ranks, rankings and observations, against rankings by brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from zoopt.errors import FeedbackError
from zoopt.feedback import Candidates, Evaluation, Observations, Ranking, column_rows, rank_rows


def worse(i: int, j: int, values: np.ndarray, constraints: np.ndarray | None, ok: np.ndarray) -> bool:
    """Deb's rules, spelled out for two rows: is i strictly worse than j?"""

    def violation(k: int) -> float:
        return 0.0 if constraints is None else float(np.maximum(constraints[k], 0).sum())

    def dominators(k: int) -> int:
        rivals = [r for r in range(len(values)) if ok[r] and violation(r) == 0]
        return sum(bool((values[r] <= values[k]).all() and (values[r] < values[k]).any()) for r in rivals)

    if ok[i] != ok[j]:
        return not ok[i]
    if not ok[i]:
        return False
    if violation(i) > 0 or violation(j) > 0:
        return violation(i) > violation(j)
    if values.shape[1] == 1:
        return bool(values[i, 0] > values[j, 0])
    return dominators(i) > dominators(j)


def brute_force(values: np.ndarray, constraints: np.ndarray | None, ok: np.ndarray) -> list[float]:
    """How many rows are better, plus half of those that tie."""
    n = len(values)
    ranks = []
    for i in range(n):
        better = sum(worse(i, j, values, constraints, ok) for j in range(n))
        tied = sum(not worse(i, j, values, constraints, ok) and not worse(j, i, values, constraints, ok) for j in range(n)) - 1
        ranks.append(better + tied / 2)
    return ranks


@pytest.mark.parametrize("m", [1, 2, 3])
@pytest.mark.parametrize("c", [0, 1, 2])
@pytest.mark.parametrize("failures", [False, True])
def test_ranks_are_debs_rules(m: int, c: int, failures: bool) -> None:
    rng = np.random.default_rng(10 * m + c)
    for _ in range(20):
        n = int(rng.integers(1, 9))
        values = rng.integers(0, 4, (n, m)).astype(float)  # few values, so that many tie
        constraints = rng.integers(-2, 3, (n, c)).astype(float) if c else None
        ok = rng.random(n) > 0.3 if failures else np.ones(n, dtype=bool)
        told = torch.from_numpy(values.copy())
        told[~torch.from_numpy(ok)] = -100.0  # the numbers of a failure are not read
        ranks = rank_rows(told, None if constraints is None else torch.from_numpy(constraints), torch.from_numpy(ok) if failures else None)
        assert ranks.tolist() == brute_force(values, constraints, ok)


def test_nan_ranks_last_without_being_told_so() -> None:
    nan = float("nan")
    assert rank_rows(torch.tensor([[nan], [1.0], [-torch.inf], [torch.inf]])).tolist() == [3, 1, 0, 2]
    assert rank_rows(torch.tensor([[nan, 0.0], [1.0, 1.0], [2.0, 2.0]])).tolist() == [2, 0, 1]
    constraints = torch.tensor([[nan], [5.0], [-1.0]])
    assert rank_rows(torch.tensor([[0.0], [0.0], [0.0]]), constraints).tolist() == [2, 1, 0]


def test_an_infeasible_row_does_not_count_as_dominating() -> None:
    values = torch.tensor([[0.0, 0.0], [1.0, 3.0], [3.0, 1.0], [2.0, 2.0], [4.0, 4.0]])
    constraints = torch.tensor([[1.0], [0.0], [0.0], [0.0], [-1.0]])
    assert rank_rows(values, constraints).tolist() == [4, 1, 1, 1, 3]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ranks_of_each_run_are_its_own(dtype: torch.dtype) -> None:
    values = torch.randn((4, 3, 7, 1), generator=torch.Generator().manual_seed(0), dtype=dtype).round()
    together = rank_rows(values)
    assert together.dtype == dtype
    assert together.shape == (4, 3, 7)
    for i, j in itertools.product(range(4), range(3)):
        assert torch.equal(together[i, j], rank_rows(values[i, j]))


def test_ranks_need_no_host() -> None:
    ranks = rank_rows(
        torch.empty((2, 5, 2), device="meta"), torch.empty((2, 5, 1), device="meta"), torch.ones((2, 5), dtype=torch.bool, device="meta")
    )
    assert ranks.shape == (2, 5)


def test_scores_of_a_ranking_share_ties_and_run_from_0_to_1() -> None:
    assert Ranking(((4,), (2,), (7,))).scores() == {4: 0.0, 2: 0.5, 7: 1.0}
    assert Ranking(((4,), (2, 7), (1,))).scores() == {4: 0.0, 2: 0.5, 7: 0.5, 1: 1.0}
    assert Ranking(((3, 5),)).scores() == {3: 0.5, 5: 0.5}
    assert Ranking(((3,),), unseen=(9,)).scores() == {3: 0.0}
    assert Ranking(((4,), (2, 7)), unseen=(1,)).ids == (4, 2, 7)


def test_ranks_come_from_rankings_where_no_values_were_told() -> None:
    told = Observations((0, 1, 2, 3), np.zeros((4, 2)), rankings=[Ranking(((2,), (0,))), Ranking(((2,), (3, 0)))])
    assert told.ranks.tolist() == [2.0, 3.0, 0.0, 1.0]  # 0: mean of 1 and 0.75; 3: 0.75; 1 was in none
    assert not told.has_values
    with pytest.raises(FeedbackError, match="only a ranking was told"):
        _ = told.values


def test_observations_make_tensors_of_the_studys_type_once() -> None:
    x, values = np.array([[0.25, 0.5]]), np.array([[3.0]])
    told = Observations((7,), x, values, noise=[[0.1]], dtype=torch.float32)
    assert told.ids.tolist() == [7] and told.n == 1 and told.all_ok
    assert told.x.dtype == told.values.dtype == torch.float32
    assert told.x is told.x and told.values is told.values
    assert told.ok.tolist() == [True]
    assert told.constraints is None and told.gradients is None
    assert told.column("slot") is None
    assert told.noise is not None and told.noise.tolist() == [[pytest.approx(0.1)]]


def test_columns_are_made_when_read() -> None:
    made: list[int] = []

    def columns() -> dict[str, np.ndarray]:
        made.append(1)
        return {"slot": np.array([3])}

    told = Observations((0,), np.zeros((1, 1)), np.zeros((1, 1)), columns=columns)
    assert not made
    assert told.column("slot") is told.column("slot")
    assert made == [1]


@pytest.mark.parametrize("runs", [(), (3,)])
def test_some_rows_keep_all_that_was_told_of_them(runs: tuple[int, ...]) -> None:
    n, generator = 5, torch.Generator().manual_seed(0)

    def numbers(*shape: int) -> torch.Tensor:
        return torch.randn((*runs, n, *shape), generator=generator, dtype=torch.float64)

    whole = {"x": numbers(2), "values": numbers(1), "constraints": numbers(3), "noise": numbers(1), "gradients": numbers(1, 2)}
    ok = torch.tensor([True, False, True, True, True]).expand(*runs, n)
    columns = {"a.slot": np.arange(n), "a.latent": numbers(2), "b.slot": -np.arange(n), "part": np.zeros(n, dtype=int)}
    rankings = [Ranking(((10, 13), (14,)), unseen=(12, 11), rater="ann"), Ranking(((10,),))]
    told = Observations(range(10, 15), **whole, ok=ok, dropped=(11, 12), rankings=rankings, columns=lambda: columns)
    some = told.take([4, 1, 3], "a")
    assert some.ids.tolist() == [14, 11, 13] and some.n == 3 and some.dropped == (11,)
    for name, tensor in whole.items():
        rows = [torch.as_tensor(np.take(tensor.numpy(), k, axis=len(runs))) for k in (4, 1, 3)]
        assert torch.equal(getattr(some, name), torch.stack(rows, len(runs)))
    assert some.ok.tolist() == torch.tensor([True, False, True]).expand(*runs, 3).tolist()
    assert some.rankings == (Ranking(((13,), (14,)), (11,), "ann"),)
    assert some.columns.keys() == {"slot", "latent"}
    assert np.asarray(some.column("slot")).tolist() == [4, 1, 3]
    assert torch.equal(torch.as_tensor(some.column("latent")), columns["a.latent"][..., [4, 1, 3], :])
    assert told.take([0]).columns.keys() == columns.keys()


def test_a_hybrids_part_gets_back_what_it_asked() -> None:
    slots = np.arange(3)
    mine = Candidates(torch.zeros(3, 2), {"slot": slots})
    out = mine.prefixed("first", part=np.zeros(3))
    assert out.columns.keys() == {"part", "first.slot"} and out.x is mine.x
    back = Observations(range(3), out.x, torch.zeros(3, 1), columns=out.columns).take(range(3), "first")
    assert back.column("slot") is slots and back.x is out.x  # all of them: nothing is copied


def test_rows_of_columns_follow_the_points() -> None:
    on_host, tensor = np.arange(5), torch.arange(20).view(2, 5, 2)
    assert column_rows(on_host, slice(1, 3), 1).tolist() == [1, 2]
    assert torch.equal(torch.as_tensor(column_rows(tensor, slice(1, 3), 1)), tensor[:, 1:3])
    assert Candidates(torch.zeros(1, 1)).columns == {}
    assert Evaluation(1.0).constraints is None
