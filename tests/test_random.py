"""Random numbers are a pure function of their key, and good ones."""

from __future__ import annotations

import math
import pickle
import random as python_random
import subprocess
import sys
import threading
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import ndtr

from zoopt.random import Random, _device_normal, _hash_counter, _shift

DRAWS = {
    "normal": lambda key, runs: key.normal((3,), runs=runs),
    "long normal": lambda key, runs: key.normal((30, 20), runs=runs),
    "single precision": lambda key, runs: key.normal((300,), runs=runs, dtype=torch.float32),
    "uniform": lambda key, runs: key.uniform((5,), runs=runs),
    "single uniform": lambda key, runs: key.uniform((5,), runs=runs, dtype=torch.float32),
    "integers": lambda key, runs: key.integers(1000, (7,), runs=runs),
    "permutation": lambda key, runs: key.permutation(9, runs=runs),
}
draws = pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS.keys())


@draws
def test_the_same_key_gives_the_same_numbers(draw):
    assert torch.equal(draw(Random(1, 2, ("a",)), (4,)), draw(Random(1, 2, ("a",)), (4,)))


@draws
def test_numbers_of_a_run_do_not_depend_on_the_others(draw):
    key = Random(7, 3)
    many = draw(key, (40,))
    assert torch.equal(many[:6], draw(key, (6,)))
    assert torch.equal(many, draw(key, (8, 5)).reshape(many.shape))
    assert torch.equal(many[0], draw(key, ()))
    for labels in ([5], [3, 4, 9], [39, 0, 1], list(range(1, 40, 2)), [0, 39]):
        assert torch.equal(many[labels], draw(key.select(labels), (len(labels),)))
        assert torch.equal(many[labels[0]], draw(key.select(labels[:1]), ()))


def test_a_selection_of_a_selection_counts_among_those_that_are_left():
    many = Random(0).normal((3,), runs=(10,))
    assert torch.equal(Random(0).select([2, 5, 8]).select([2, 0]).normal((3,), runs=(2,)), many[[8, 2]])
    with pytest.raises(ValueError, match=r"3 selected run\(s\).*asks for 4"):
        Random(0).select([2, 5, 8]).normal((3,), runs=(4,))


def test_different_keys_methods_and_shapes_give_different_numbers():
    paths = [(), ("a",), ("a", "b"), ("ab",), ("a/1:b",), (1,), ("1",), (1, 1), (11,), ("a@0",), (5,)]
    keys = [Random(0, 0, path) for path in paths]
    keys += [Random(1), Random(-1), Random(2**32), Random(2**64), Random(0, 1), Random(1).at(5), Random(0, 15), Random(0, 1).child(5)]
    assert len({tuple(key.normal(2).tolist()) for key in keys}) == len(keys)
    assert len({tuple(key.normal(300)[:2].tolist()) for key in keys}) == len(keys)
    assert len({int(key.numpy().integers(2**63)) for key in keys}) == len(keys)
    assert len({int(torch.randint(2**62, (), generator=key.torch())) for key in keys}) == len(keys)
    key = Random(4)
    assert not torch.equal(key.uniform(4), key.uniform(5)[:4])
    assert not np.allclose(ndtr(key.normal(4).numpy()), key.uniform(4).numpy())
    assert len(set(key.normal(1, runs=(1000,)).flatten().tolist())) == 1000


def test_children_and_calls_compose():
    key = Random(3).child("poll", 2).at(4)
    assert key == Random(3, 4, ("poll", 2))
    assert hash(key) == hash(Random(3, 4).child("poll").child(2))
    assert key != Random(3, 4, ("poll",))
    assert pickle.loads(pickle.dumps(key.select([1]))) == key.select([1])
    with pytest.raises(FrozenInstanceError):
        key.seed = 4
    with pytest.raises(FrozenInstanceError):
        del key.call


def test_numbers_are_the_same_in_another_process():
    draws = "k.normal(3).tolist(), k.normal(400)[:3].tolist(), k.numpy(2).random(), k.torch().get_state().sum().item()"
    code = f"from zoopt.random import Random; k = Random(9, 1, ('x', 3)); print({draws})"
    k = Random(9, 1, ("x", 3))
    here = f"{k.normal(3).tolist()} {k.normal(400)[:3].tolist()} {k.numpy(2).random()} {k.torch().get_state().sum().item()}"
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert here == there


def test_nothing_global_is_read_or_changed():
    before = (python_random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state())  # noqa: NPY002
    for draw in DRAWS.values():
        draw(Random(0), (2,))
    Random(0).numpy().random()
    torch.rand(3, generator=Random(0).torch())
    assert python_random.getstate() == before[0]
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[2])


def test_threads_do_not_disturb_each_other():
    expected = [Random(0, i).normal(50, runs=(3,)) for i in range(200)]
    wrong: list[int] = []

    def work() -> None:
        wrong.extend(i for i in range(200) if not torch.equal(Random(0, i).normal(50, runs=(3,)), expected[i]))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("shape", [(100_000,), (10,)], ids=["long rows", "short rows"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_normals_are_normal(shape, dtype):
    z = Random(11).normal(shape, runs=(1,) if shape[0] > 10 else (10_000,), dtype=dtype).flatten().double().numpy()
    assert stats.kstest(z, "norm").pvalue > 1e-3
    assert abs(stats.pearsonr(z[:-1], z[1:]).statistic) < 4 / math.sqrt(len(z))


def test_runs_are_uncorrelated():
    z = Random(5).normal(200, runs=(50,))
    correlation = torch.corrcoef(z) - torch.eye(50)
    assert correlation.abs().max() < 5 / math.sqrt(200)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_uniforms_fill_the_half_open_interval(dtype):
    u = Random(2).uniform((200_000,), dtype=dtype)
    assert u.dtype == dtype
    assert u.min() >= 0
    assert u.max() < 1  # float16 and bfloat16 would round up to 1 in this many draws
    assert stats.kstest(u.double().numpy(), "uniform").statistic < 0.004 + 2.0**-8


@pytest.mark.parametrize("high", [1, 2, 7, 1000])
def test_integers_are_uniform(high):
    counts = np.bincount(Random(3).integers(high, (20, 500), runs=(10,)).flatten().numpy(), minlength=high)
    assert len(counts) == high
    assert high == 1 or stats.chisquare(counts).pvalue > 1e-3


@given(st.integers(1, 2**32))
def test_the_largest_uniform_number_cannot_reach_the_bound_of_integers(high):
    assert int(np.float64(1 - 2.0**-53) * high) == high - 1


@pytest.mark.parametrize("high", [0, -1, 2**32 + 1])
def test_impossible_bounds_are_refused(high):
    with pytest.raises(ValueError, match=f"got {high}"):
        Random(0).integers(high, 3)


def test_permutations_are_uniform():
    orders = Random(1).permutation(4, runs=(24_000,))
    assert (orders.sort(-1).values == torch.arange(4)).all()
    codes = (orders * torch.tensor([64, 16, 4, 1])).sum(-1).numpy()
    _, counts = np.unique(codes, return_counts=True)
    assert len(counts) == 24
    assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("size", [(), (0,), (4, 0), (2, 3)])
def test_any_shape_works(size):
    for runs in ((), (0,), (2,), (2, 1)):
        for draw in (Random(0).normal, Random(0).uniform, lambda s, runs: Random(0).integers(5, s, runs=runs)):
            assert draw(size, runs=runs).shape == (*runs, *size)
    assert Random(0).normal(3).shape == (3,)
    assert Random(0).permutation(0).shape == (0,)


def test_meta_tensors_are_drawn_without_numbers():
    key = Random(0)
    z = key.normal((3,), runs=(2,), dtype=torch.float32, device="meta")
    assert z.is_meta and z.shape == (2, 3) and z.dtype == torch.float32
    assert key.uniform(4, device=torch.device("meta")).is_meta
    assert key.integers(4, 4, device="meta").dtype == torch.int64
    assert key.permutation(4, runs=(3,), device="meta").shape == (3, 4)
    assert torch.empty(3, device="meta").normal_(generator=key.torch("meta")).is_meta


def test_the_torch_generator_has_the_whole_state_of_the_twister():
    """numpy's Mersenne Twister, given the same 624 words, must give the same 32-bit numbers."""
    generator = Random(8, 1).torch()
    words = generator.get_state().numpy().view(np.uint64)[3 : 3 + 624].astype(np.uint32)
    twister = np.random.MT19937()
    twister.state = {"bit_generator": "MT19937", "state": {"key": words, "pos": 624}}
    ours = torch.randint(2**20, (2000,), generator=generator)  # torch takes these from one 32-bit number each
    assert (ours.numpy() == twister.random_raw(2000) % 2**20).all()
    assert len(np.unique(words)) > 600
    assert not torch.equal(Random(8, 1).torch().get_state(), Random(8, 1).torch(run=1).get_state())
    assert torch.equal(Random(8, 1).torch().get_state(), Random(8, 1).torch(run=0).get_state())


def test_numpy_generators_are_fresh_and_keyed_by_run():
    key = Random(5)
    assert key.numpy().random() == key.numpy(0).random() != key.numpy(1).random()
    assert key.select([4, 1]).numpy(1).random() == key.numpy(1).random()
    assert key.numpy() is not key.numpy()


# What other devices draw with, tried on the CPU.


def _reference_word(counter: int, first: int, second: int) -> int:
    """The counter hash in plain integers."""
    full = 2**64 - 1

    def finalise(x: int) -> int:
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & full
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB & full
        return x ^ (x >> 31)

    return finalise(finalise((counter * 0x9E3779B97F4A7C15 + first) & full) ^ (second & full))


@settings(max_examples=50)
@given(st.integers(0, 2**40), st.integers(-(2**63), 2**63 - 1), st.integers(-(2**63), 2**63 - 1))
def test_the_counter_hash_is_the_one_written_down(counter, first, second):
    got = _hash_counter(torch.tensor([counter]), first, second).item()
    assert got % 2**64 == _reference_word(counter, first, second)


def test_the_finaliser_is_the_published_one():
    """The first numbers of SplitMix64 seeded with 0, as published with the reference code."""
    full, gamma = 2**64 - 1, 0x9E3779B97F4A7C15

    def finalise(x: int) -> int:
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & full
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB & full
        return x ^ (x >> 31)

    assert [finalise(i * gamma & full) for i in (1, 2, 3)] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


def test_device_numbers_are_good_and_independent_of_other_runs():
    key = Random(12)
    words = key._device_words("normal", 50, (2000,), torch.device("cpu"))
    assert torch.equal(key.select([7, 1999])._device_words("normal", 50, (2,), torch.device("cpu")), words[[7, 1999]])
    ones = torch.stack([(words >> bit & 1).double().mean() for bit in range(64)])
    assert (ones - 0.5).abs().max() < 5 * 0.5 / math.sqrt(words.numel())
    for dtype in (torch.float32, torch.float64):
        z = _device_normal(words, dtype).flatten().double().numpy()
        assert np.isfinite(z).all()
        assert stats.kstest(z, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(z[:-1], z[1:])[0, 1]) < 5 / math.sqrt(len(z))
    assert _shift(torch.tensor([-1]), 40).item() == 2**24 - 1


def test_device_normals_reach_the_tails_in_single_precision():
    extremes = _device_normal(torch.tensor([0, 1, 2, -1, -2]), torch.float32)
    assert torch.isfinite(extremes).all()
    assert extremes.abs()[:3].min() > 8
    assert extremes[0] == -extremes[1]
