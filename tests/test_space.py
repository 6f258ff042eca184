"""Spaces: what a user may write, the way there and back, conditions and known constraints against brute force."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import math
import pickle
import tomllib

import cloudpickle
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from zoopt.errors import SpaceError
from zoopt.random import Random
from zoopt.repair import anchors
from zoopt.space import Bool, Choice, Context, Fixed, Integer, Linear, Real, Space

F64 = torch.float64


def mixed() -> Space:
    """One of everything, with a chain of conditions."""
    return Space(
        {
            "lr": Real(1e-5, 1e-1, log=True),
            "kernel": Choice("linear", "poly", "rbf"),
            "degree": Integer(2, 5, when={"kernel": "poly"}),
            "coef": Real(-1, 2, when={"degree": [3, 4]}),
            "gamma": Real(1e-3, 10, log=True, default=0.1, when={"kernel": ["poly", "rbf"]}),
            "units": Integer(1, 1000, log=True),
            "bias": Bool(default=True),
            "scale": Real(0, 1, when={"bias": True}),
            "weights": Real(-2, 3, shape=(2, 2)),
            "layers": Integer(1, 4, shape=3),
            "free": Real(start=5, scale=2),
            "seed": Fixed(7),
            "day": Context(Choice("mon", "tue")),
        }
    )


def points(space: Space, n: int, seed: int = 0) -> np.ndarray:
    return space.from_unit_numpy(Random(seed).uniform((n, space.dim)).numpy())


def same(a: object, b: object) -> bool:
    return type(a) is type(b) and (np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b)


# ---------------------------------------------------------------- random spaces

finite = st.floats(-1e6, 1e6)


@st.composite
def reals(draw):
    shape = draw(st.sampled_from([(), (), (2,), (2, 2)]))
    kind = draw(st.sampled_from(["linear", "log", "unbounded"]))
    if kind == "unbounded":
        start = draw(finite)
        return Real(shape=shape, start=start, scale=draw(st.floats(1e-3, 1e3)) * max(abs(start), 1))
    low = draw(st.floats(1e-6, 1e3) if kind == "log" else finite)
    high = draw(st.floats(low, 1e7))
    # between 0 and 1e-323 there are two numbers: no encoding brings other points back
    assume(high - low > max(1e-3 * max(abs(low), abs(high)), 1e-280))
    default = draw(st.none() | st.floats(low, high))
    return Real(low, high, log=kind == "log", shape=shape, default=default)


@st.composite
def integers(draw):
    log = draw(st.booleans())
    low = draw(st.integers(1, 50) if log else st.integers(-1000, 1000))
    high = low + draw(st.integers(1, 10**6))
    return Integer(low, high, log=log, shape=draw(st.sampled_from([(), (3,)])), default=draw(st.none() | st.integers(low, high)))


choices = st.lists(st.text(max_size=3) | st.integers(2, 9), min_size=2, max_size=5, unique=True).map(lambda c: Choice(*c))
variables = reals() | integers() | choices | st.just(Bool()) | st.just(Fixed("constant"))


@st.composite
def spaces(draw):
    """Spaces in which later variables may depend on earlier ones."""
    found = {"first": draw(reals() | integers() | choices)}
    for i, variable in enumerate(draw(st.lists(variables, max_size=5))):
        parents = [name for name, v in found.items() if not v.dims and isinstance(v, Choice | Bool | Integer)]
        if parents and not isinstance(variable, Fixed) and draw(st.booleans()):
            name = draw(st.sampled_from(parents))
            parent = found[name]
            options = [parent.low, parent.high] if isinstance(parent, Integer) else list(parent.choices)
            when = {name: draw(st.lists(st.sampled_from(options), min_size=1, unique=True))}
            variable = Choice(*variable.choices, when=when) if isinstance(variable, Choice) else replace_when(variable, when)
        found[f"v{i}"] = variable
    return Space(found)


def replace_when(variable, when):
    return dataclasses.replace(variable, when=when)


@settings(max_examples=60, deadline=None)
@given(spaces(), st.integers(0, 2**32))
def test_points_go_to_parameters_and_back(space, seed):
    x = points(space, 20, seed)
    params = space.params(x)
    back = space.encode_params(params)
    np.testing.assert_allclose(back, x, rtol=1e-9, atol=1e-9)
    discrete = [i for i, c in enumerate(space.columns) if c.kind != "real"]
    assert (back[:, discrete] == x[:, discrete]).all()
    again = space.params(back)
    for row, other in zip(params, again, strict=True):
        assert row.keys() == other.keys()
        for name, value in row.items():
            if isinstance(space.variables[name], Real):
                np.testing.assert_allclose(value, other[name], rtol=1e-9, atol=1e-9)
            else:
                assert same(value, other[name])


@settings(max_examples=40, deadline=None)
@given(spaces(), st.integers(0, 2**32))
def test_single_rows_equal_rows_of_a_batch(space, seed):
    x = points(space, 5, seed)
    for row, params in zip(x, space.params(x), strict=True):
        single = space.row_params(row)
        assert list(single) == list(params)
        assert all(same(single[name], params[name]) for name in params)
        assert np.array_equal(space.decode_numpy(row), space.decode_numpy(x)[(x == row).all(-1)][0])


@settings(max_examples=40, deadline=None)
@given(spaces(), st.integers(0, 2**32))
def test_snapping_gives_valid_points_and_leaves_them_alone(space, seed):
    x = 3 * Random(seed).normal((20, space.dim)).numpy()
    snapped = space.snap_numpy(x)
    assert np.array_equal(space.snap_numpy(snapped), snapped)
    assert (snapped >= space.lower).all() and (snapped <= space.upper).all()
    again = space.encode_params(space.params(snapped))  # refuses whatever is out of range
    np.testing.assert_allclose(again, snapped, rtol=1e-9, atol=1e-9)
    assert np.array_equal(space.snap_numpy(space.start), space.start)


@settings(max_examples=60, deadline=None)
@given(spaces(), st.integers(0, 2**32))
def test_tensors_and_arrays_agree(space, seed):
    u = Random(seed).uniform((4, 5, space.dim))
    x = space.from_unit(u)
    assert np.allclose(x.numpy(), space.from_unit_numpy(u.numpy()), rtol=1e-12, atol=1e-12)
    assert np.array_equal(space.active(x).numpy(), space.active_numpy(x.numpy()))
    z = space.decode(x)
    assert np.allclose(z.numpy(), space.decode_numpy(x.numpy()), rtol=1e-12, atol=1e-12)
    assert np.allclose(space.encode(z).numpy(), space.encode_numpy(z.numpy()), rtol=1e-12, atol=1e-12)
    y = 2 * x - 0.3
    assert np.allclose(space.snap(y).numpy(), space.snap_numpy(y.numpy()), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "variable",
    [
        Real(0.1, 0.7), Real(-0.001, 1e5), Real(0.3, 1.7), Real(1000, 1001), Real(0.5, 2, log=True), Real(1, 1e10, log=True),
        Real(1e-300, 1e300, log=True), Real(start=0.3, scale=0.7),
    ],
    ids=repr,
)  # fmt: skip
def test_parameters_that_a_point_gave_come_back_to_the_last_bit(variable):
    space = Space({"x": variable})
    params = space.params(points(space, 5000))
    assert space.params(space.encode_params(params)) == params


def test_linear_decoding_is_the_same_to_the_bit_in_both_libraries():
    space = Space({f"x{i}": Real(-0.1 * i, 1 / (3 + i)) for i in range(10)})
    x = Random(0).uniform((1000, 10))
    assert np.array_equal(space.decode(x).numpy(), space.decode_numpy(x.numpy()))
    assert [space.row_params(row) for row in x.numpy()] == space.params(x)
    offset, slope = space.affine(F64, torch.device("cpu"))
    torch.testing.assert_close(offset + slope * x, space.decode(x))
    assert Space({"x": Real(1, 2, log=True)}).affine(F64, torch.device("cpu")) is None
    assert mixed().affine(F64, torch.device("cpu")) is None


@settings(max_examples=150, deadline=None)
@given(st.floats(-1e300, 1e300), st.floats(-1e300, 1e300), st.booleans())
def test_no_rounding_leaves_the_bounds(a, b, log):
    low, high = sorted((abs(a), abs(b)) if log else (a, b))
    assume(low < high and (low > 0 or not log))
    space = Space({"x": Real(low, high, log=log)})
    x = np.array([[0.0], [math.nextafter(0, 1)], [0.5], [1 - 2**-53], [1.0]])
    z = space.decode_numpy(x)
    assert (z >= low).all() and (z <= high).all()
    assert (space.decode(torch.from_numpy(x)) >= low).all() and (space.decode(torch.from_numpy(x)) <= high).all()
    np.testing.assert_allclose(z[[0, -1], 0], [low, high], rtol=1e-12, atol=0 if log else 1e-12 * (high - low))
    space.encode_params(space.params(x))


def test_single_precision_works_and_stays_inside():
    space = mixed()
    x = space.from_unit(Random(1).uniform((500, space.dim), dtype=torch.float32))
    assert x.dtype == torch.float32
    assert torch.equal(space.snap(x), x)
    space.encode_params(space.params(x))
    np.testing.assert_allclose(space.decode(x).numpy(), space.decode_numpy(x.double().numpy()), rtol=1e-3, atol=1e-4)


def test_the_documented_values():
    space = Space(
        {
            "a": Real(-1, 3), "b": Real(1e-4, 1, log=True), "c": Real(start=5, scale=2), "i": Integer(3, 6), "c3": Choice("x", "y", "z"),
            "flag": Bool(default=True), "shaped": Integer(0, 9, shape=2, default=[1, 8]),
        }
    )  # fmt: skip
    assert space.dim == 8
    assert [c.name for c in space.columns] == ["a", "b", "c", "i", "c3", "flag", "shaped", "shaped"]
    assert [c.kind for c in space.columns] == ["real", "real", "real", "integer", "choice", "choice", "integer", "integer"]
    assert [c.cardinality for c in space.columns] == [None, None, None, 4, 3, 2, 10, 10]
    assert [c.index for c in space.columns] == [0] * 7 + [1]
    assert space.lower.tolist() == [0, 0, -math.inf, 0, -0.5, -0.5, 0, 0]
    assert space.upper.tolist() == [1, 1, math.inf, 1, 2.5, 1.5, 1, 1]
    assert space.width.tolist() == [1, 1, 1, 1, 3, 2, 1, 1]
    assert space.low.tolist() == [-1, 1e-4, -math.inf, 3, 0, 0, 0, 0]
    np.testing.assert_allclose(space.start, [0.5, 0.5, 0, 2.5 / 4, 0, 1, 0.15, 0.85])
    z = space.decode_numpy(np.array([0.25, 0.5, -1.5, 0.3, 1, 0, 0.05, 0.99]))
    np.testing.assert_allclose(z, [0, 1e-2, 2, 4, 1, 0, 0, 9])
    row = space.row_params(space.encode_numpy(z))
    assert {k: v for k, v in row.items() if k in ("c", "i", "c3", "flag")} == {"c": 2.0, "i": 4, "c3": "y", "flag": False}
    assert [type(row[k]) for k in ("a", "i", "c3", "flag", "shaped")] == [float, int, str, bool, np.ndarray]
    assert row["shaped"].dtype == np.int64
    assert space.unbounded == ["c"] and space.choices == ["c3", "flag"] and space.context == [] and not space.box
    assert space.encode_params([{"a": 3, "b": 1, "c": 7, "i": 6.0, "c3": "z"}])[0].tolist() == [1, 1, 1, 3.5 / 4, 2, 1, 0.15, 0.85]


def test_first_guesses():
    space = Space(
        {"a": Choice(*"abcde"), "b": Choice(*"abcde", ordered=True), "c": Choice(*"abc", default="c"), "n": Integer(1, 100, log=True)}
    )
    assert space.row_params(space.start) == {"a": "a", "b": "c", "c": "c", "n": 7}  # the middle between log(1/2) and log(100 + 1/2)


def test_boxes():
    assert Space({"a": Real(0, 1), "b": Real(1, 2, log=True, shape=3), "c": Fixed(1)}).box
    for variable in (Integer(0, 3), Bool(), Real(), Context(Real(0, 1))):
        assert not Space({"a": Real(0, 1), "b": variable}).box
    assert not Space({"a": Real(0, 1)}, "a < 0.5").box
    assert not Space({"a": Real(0, 1), "f": Fixed(1), "b": Bool(), "c": Real(0, 1, when={"b": True})}).box


# ---------------------------------------------------------------- integers, uniformity


@pytest.mark.parametrize("variable", [Integer(-2, 4), Integer(1, 60, log=True), Integer(3, 9, log=True)])
def test_integers_fill_the_unit_interval_with_their_cells(variable):
    space = Space({"k": variable})
    ks = np.arange(variable.low, variable.high + 1)
    if variable.log:
        edges = np.log(np.append(ks - 0.5, ks[-1] + 0.5))
        edges = (edges - edges[0]) / (edges[-1] - edges[0])
    else:
        edges = np.linspace(0, 1, len(ks) + 1)
    inside = 1e-9
    assert space.decode_numpy(edges[:-1, None] + inside)[:, 0].tolist() == ks.tolist()
    assert space.decode_numpy(edges[1:, None] - inside)[:, 0].tolist() == ks.tolist()
    middles = space.encode_params([{"k": int(k)} for k in ks])[:, 0]
    np.testing.assert_allclose(middles, (edges[1:] + edges[:-1]) / 2, atol=1e-12)


def test_huge_integers_survive():
    for variable in (Integer(0, 2**40 - 1), Integer(1, 2**40, log=True), Integer(2**52 - 10, 2**52), Integer(-(2**52), 7 - 2**52)):
        space = Space({"k": variable})
        for k in (variable.low, variable.low + 1, (variable.low + variable.high) // 2, variable.high - 1, variable.high):
            x = space.encode_params([{"k": k}])
            assert space.params(x) == [{"k": k}] == [space.row_params(x[0])]
            assert np.array_equal(space.snap_numpy(x), x)


def test_unit_points_are_uniform_in_each_variable():
    space = Space({"a": Real(2, 5), "b": Real(1e-3, 1e3, log=True), "c": Choice(*"abcde"), "i": Integer(0, 6), "f": Real(start=3, scale=2)})
    z = space.decode_numpy(points(space, 20_000))
    assert stats.kstest(z[:, 0], "uniform", (2, 3)).pvalue > 1e-3
    assert stats.kstest(np.log10(z[:, 1]), "uniform", (-3, 6)).pvalue > 1e-3
    assert stats.chisquare(np.bincount(z[:, 2].astype(int))).pvalue > 1e-3
    assert stats.chisquare(np.bincount(z[:, 3].astype(int))).pvalue > 1e-3
    assert stats.kstest(z[:, 4], "norm", (3, 2)).pvalue > 1e-3
    ends = torch.tensor([[0.0] * 5, [1.0] * 5], dtype=torch.float32)
    for u in (ends, ends.double()):
        x = space.from_unit(u)
        assert torch.isfinite(x).all() and torch.equal(space.snap(x), x)
        assert x[:, 2].tolist() == [0, 4]


def test_derivatives_of_decoding_are_whole_on_the_bounds():
    space = Space({"a": Real(1, 3), "b": Real(1, math.e, log=True), "n": Integer(0, 3)})
    x = torch.tensor([[0.0, 0.0, 0.5], [1.0, 1.0, 0.5], [0.3, 0.5, 0.1]], dtype=F64, requires_grad=True)
    (slope,) = torch.autograd.grad(space.decode(x).sum(), x)
    torch.testing.assert_close(slope, torch.tensor([[2, 1, 0], [2, math.e, 0], [2, math.exp(0.5), 0]], dtype=F64))


def test_everything_runs_on_the_meta_device():
    space = mixed()
    x = torch.empty(3, 7, space.dim, dtype=torch.float32, device="meta")
    for method in (space.decode, space.encode, space.snap, space.from_unit):
        y = method(x)
        assert y.is_meta and y.shape == x.shape and y.dtype == x.dtype
    assert space.active(x).dtype == torch.bool
    assert space.repair(x, Random(0)).shape == x.shape
    assert Space({"a": Real(0, 1)}).repair(x[..., :1], Random(0)).is_meta
    assert Space({"a": Real(0, 1)}, "a < 0.5").repair(x[..., :1], Random(0)).is_meta
    assert Space({"a": Real(0, 1, shape=3)}).sample(5, Random(0), device="meta").shape == (5, 3)


# ---------------------------------------------------------------- conditions


def naive_active(space: Space, params: dict) -> set[str]:
    """The definition, by recursion over complete parameter dicts."""

    def active(name: str) -> bool:
        return all(params[parent] in values and active(parent) for parent, values in space.variables[name].conditions.items())

    return {name for name in space.variables if active(name)}


def conditional() -> Space:
    return Space(
        {
            "inner": Choice("p", "q", when={"count": [2, 3], "flag": True}),  # children may stand before their parents
            "leaf": Integer(1, 3, when={"inner": "q"}),
            "kernel": Choice("a", "b", "c"),
            "count": Integer(1, 4, when={"kernel": ["a", "b"]}),
            "flag": Bool(default=True),
            "other": Bool(when={"flag": False}),
        }
    )


def test_conditions_against_brute_force():
    space = conditional()
    values = {
        "inner": ["p", "q"],
        "leaf": [1, 2, 3],
        "kernel": ["a", "b", "c"],
        "count": [1, 2, 3, 4],
        "flag": [False, True],
        "other": [False, True],
    }
    everything = [dict(zip(values, combination, strict=True)) for combination in itertools.product(*values.values())]
    x = space.encode_params(everything)
    seen = set()
    for row, params, full, mask in zip(x, space.params(x), everything, space.active_numpy(x), strict=True):
        active = naive_active(space, full)
        assert params == {name: full[name] for name in space.variables if name in active}
        assert {c.name for c, on in zip(space.columns, mask, strict=True) if on} == active
        assert (row[~mask] == space.start[~mask]).all()
        seen.add(tuple(row))
    assert space.size == len(seen)
    assert {tuple(row) for row in space.enumerate()} == seen
    assert len(list(space.enumerate())) == len(seen)
    torch_x = torch.from_numpy(x)
    assert torch.equal(space.snap(torch_x), torch_x)
    assert torch.equal(space.active(torch_x), torch.from_numpy(space.active_numpy(x)))


@settings(max_examples=30, deadline=None)
@given(spaces(), st.integers(0, 2**32))
def test_random_conditions_against_the_definition(space, seed):
    x = Random(seed).uniform((10, space.dim)).numpy() * (space.upper.clip(-1e9, 1e9) + 0.5)
    full = {name: v for name, v in space.variables.items() if not isinstance(v, Fixed)}
    z = space.decode_numpy(x)
    mask = space.active_numpy(x)
    for i in range(10):
        params = {name: v.decode_row(z[i, space._slices[name]].tolist()) for name, v in full.items()}
        params |= {name: v.value for name, v in space.variables.items() if isinstance(v, Fixed)}
        active = naive_active(space, params)
        assert {c.name for c, on in zip(space.columns, mask[i], strict=True) if on} == {name for name in active if name in full}


def test_a_fixed_parent_is_a_settled_condition():
    space = Space({"kernel": Fixed("poly"), "degree": Integer(2, 5, when={"kernel": ["poly", "x"]})})
    assert not any(c.conditional for c in space.columns)
    assert space.row_params(space.start) == {"kernel": "poly", "degree": 4}
    with pytest.raises(SpaceError, match="degree can never be active: kernel is fixed at 'rbf'"):
        Space({"kernel": Fixed("rbf"), "degree": Integer(2, 5, when={"kernel": "poly"})})


def test_what_is_given_for_an_inactive_variable_is_not_looked_at():
    space = Space({"kernel": Choice("rbf", "poly"), "degree": Integer(2, 5, when={"kernel": "poly"})})
    assert space.encode_params([{"kernel": "rbf", "degree": 0}]).tolist() == [[0, space.start[1]]]
    with pytest.raises(SpaceError, match="degree is missing"):
        space.encode_params([{"kernel": "poly"}])


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"a": Real(0, 1, when={"b": True})}, "a: when= names 'b', but the variables are a"),
        ({"a": Real(0, 1, when={"b": "z"}), "b": Choice("x", "y")}, "a value that cannot be: b must be one of 'x', 'y'; got 'z'"),
        ({"a": Real(0, 1, when={"b": 9}), "b": Integer(0, 3)}, "b must be a whole number between 0 and 3; got 9"),
        ({"a": Real(0, 1, when={"b": 0.5}), "b": Real(0, 1)}, "needs a single Choice, Bool or Integer, but b is a Real"),
        ({"a": Real(0, 1, when={"b": 1}), "b": Integer(0, 3, shape=2)}, "needs a single"),
        ({"a": Bool(when={"b": True}), "b": Bool(when={"c": True}), "c": Bool(when={"a": True})}, "a depends on b depends on c depends on"),
        ({"x": Real(0, 1), "a": Bool(when={"a": True})}, "cycle: a depends on a"),
    ],
)  # fmt: skip
def test_impossible_conditions_are_refused(variables, message):
    with pytest.raises(SpaceError) as caught:
        Space(variables)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("space", "size"),
    [
        (Space({"a": Integer(0, 9), "b": Choice(1, 2, 3), "c": Bool()}), 60),
        (Space({"a": Integer(1, 4, shape=(2, 2))}), 256),
        (Space({"a": Integer(0, 2**39, shape=3)}), (2**39 + 1) ** 3),
        (Space({"a": Integer(0, 9), "b": Real(0, 1)}), None),
        (Space({"a": Bool(), "b": Real(0, 1, when={"a": True})}), None),
        (Space({"a": Bool(), "f": Fixed(3)}), 2),
        (Space({"a": Integer(0, 9), "b": Context(Bool())}, "a < 3"), 20),
        (Space({"a": Bool(), "b": Integer(0, 2**39, when={"a": True}), "c": Integer(0, 2**39)}), (2**39 + 2) * (2**39 + 1)),
    ],
)
def test_sizes(space, size):
    assert space.size == size


def test_enumeration_keeps_constraints_and_needs_a_finite_space():
    space = Space({"a": Integer(0, 9), "b": Integer(0, 9)}, "a + b <= 3")
    assert {tuple(space.row_params(row).values()) for row in space.enumerate()} == {
        (a, b) for a in range(10) for b in range(10) if a + b <= 3
    }
    with pytest.raises(SpaceError, match="b is a real"):
        next(Space({"a": Bool(), "b": Real(0, 1)}).enumerate())


# ---------------------------------------------------------------- what a user may write


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Real(1, 0), "low must be below high; got low=1.0, high=0.0"),
        (lambda: Real(1, 1), "Fixed(value)"),
        (lambda: Real(0), "must both be given, or neither"),
        (lambda: Real(0, 1, log=True), "log=True needs low > 0; got low=0.0"),
        (lambda: Real(log=True), "log=True needs bounds"),
        (lambda: Real("1e-3", 1), "low must be a number; got '1e-3'"),
        (lambda: Real(0, math.inf), "high must be finite"),
        (lambda: Real(math.nan, 1), "low must be finite"),
        (lambda: Real(-1e308, 1e308), "high - low must be finite"),
        (lambda: Real(0, 1, default=2), "default must be a number between 0 and 1; got 2"),
        (lambda: Real(0, 1, default="x"), "default must be a number"),
        (lambda: Real(0, 1, shape=(2,), default=[0.1, 0.2, 0.3]), "shape (2,)"),
        (lambda: Real(0, 1, shape=0), "at least 1"),
        (lambda: Real(0, 1, shape=1.5), "whole number"),
        (lambda: Real(0, 1, start=0.5), "start and scale are for unbounded"),
        (lambda: Real(scale=0), "scale must be positive"),
        (lambda: Real(0, 1, when="poly"), "when must map names"),
        (lambda: Real(0, 1, when={"kernel": []}), "never be active"),
        (lambda: Integer(0, 0), "low must be below high"),
        (lambda: Integer(0.5, 3), "low must be a whole number; got 0.5"),
        (lambda: Integer(0, True), "high must be a whole number"),
        (lambda: Integer(0, 3, log=True), "log=True needs low >= 1"),
        (lambda: Integer(0, 3, default=1.5), "default must be a whole number between 0 and 3; got 1.5"),
        (lambda: Integer(0, 2**60), "at most 2**40"),
        (lambda: Choice(), "at least two"),
        (lambda: Choice("a"), "at least two"),
        (lambda: Choice(["a", "b"]), "Choice(*['a', 'b'])"),
        (lambda: Choice("a", "b", "a"), "must differ; 'a' and 'a'"),
        (lambda: Choice(1, True), "must differ"),
        (lambda: Choice(1, math.nan), "NaN"),
        (lambda: Choice("a", "b", default="c"), "default must be one of 'a', 'b'; got 'c'"),
        (lambda: Bool(default=1), "True or False"),
        (lambda: Context(Fixed(1)), "Context takes"),
        (lambda: Context(Real(0, 1, when={"a": 1})), "cannot be conditional"),
        (lambda: Space({}), "variables by name"),
        (lambda: Space([Real(0, 1)]), "variables by name"),
        (lambda: Space({"x": (0, 1)}), "'x' must be a Real"),
        (lambda: Space({3: Real(0, 1)}), "names of variables are strings"),
        (lambda: Space({"a": Fixed(1), "b": Context(Bool())}), "nothing to choose"),
    ],
)  # fmt: skip
def test_wrong_variables_are_refused(make, message):
    with pytest.raises(SpaceError) as caught:
        make()
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"lr": 1.0}, "lr must be a number between 1.0000000000000001e-05 and 0.10000000000000001; got 1.0"),
        ({"lr": "0.01"}, "got '0.01'"),
        ({"lr": True}, "got True"),
        ({"lr": None}, "got None"),
        ({"lr": math.nan}, "got nan"),
        ({"lr": [0.01]}, "got [0.01]"),
        ({"units": 2.5}, "units must be a whole number between 1 and 1000; got 2.5"),
        ({"units": 10**400}, "units must be a whole number"),
        ({"units": 0}, "got 0"),
        ({"free": 10**400}, "free must be a number, finite"),
        ({"free": math.inf}, "free must be a number, finite; got inf"),
        ({"kernel": "RBF"}, "kernel must be one of 'linear', 'poly', 'rbf'; got 'RBF'"),
        ({"kernel": {}}, "kernel must be one of"),
        ({"bias": 1}, "bias must be True or False; got 1"),
        ({"weights": [1, 2, 3, 4]}, "weights must be an array of numbers of shape (2, 2)"),
        ({"weights": [[1, 2], [3]]}, "weights must be an array"),
        ({"weights": [[1, 2], [3, "4"]]}, "weights must be an array"),
        ({"weights": [[1, 2], [3, 4]]}, "between -2 and 3"),
        ({"layers": [1, 2, 2.5]}, "layers must be an array of whole numbers"),
        ({"seed": 8}, "seed is fixed at 7; got 8"),
        ({"day": "sun"}, "day must be one of 'mon', 'tue'; got 'sun'"),
        ({"kernal": "rbf"}, "there is no variable 'kernal'; did you mean 'kernel'?"),
        ({"zzz": 1}, "the variables are lr, kernel"),
    ],
)  # fmt: skip
def test_wrong_values_are_refused(params, message):
    space = mixed()
    good = space.row_params(space.start) | {"free": 1, "scale": 0.5}
    space.encode_params([good])
    with pytest.raises(SpaceError) as caught:
        space.encode_params([good | params])
    assert message in str(caught.value)
    assert "row" not in str(caught.value)
    with pytest.raises(SpaceError, match="row 2"):
        space.encode_params([good, good, good | params, good])


def test_missing_values_and_defaults():
    space = mixed()
    good = space.row_params(space.start)
    for name in ("lr", "kernel", "units", "weights", "day", "free"):
        with pytest.raises(SpaceError, match=f"{name} is missing"):
            space.encode_params([{k: v for k, v in good.items() if k != name}])
    del good["bias"], good["seed"]
    assert np.array_equal(space.encode_params([good]), space.start[None])
    assert space.encode_params([]).shape == (0, space.dim)
    assert space.params(np.empty((0, space.dim))) == []
    with pytest.raises(SpaceError, match="must be a dict"):
        space.encode_params([3])


def test_numbers_of_other_libraries_are_welcome():
    space = Space({"a": Real(0, 1), "k": Integer(0, 9), "b": Bool(), "c": Choice("x", "y", (1, 2)), "s": Real(0, 1, shape=2)})
    row = {"a": np.float32(0.5), "k": torch.tensor(3), "b": np.True_, "c": np.str_("y"), "s": torch.tensor([0.0, 1.0])}
    assert space.params(space.encode_params([row]))[0]["k"] == 3
    row = {"a": np.array(0.5), "k": np.int8(3), "b": True, "c": [1, 2], "s": (0, 1)}
    back = space.params(space.encode_params([row, row]))[1]
    assert back["c"] == (1, 2) and back["a"] == 0.5


def test_defaults_may_be_arrays():
    space = Space({"s": Real(0, 1, shape=2, default=np.array([0.25, 0.75])), "u": Real(shape=2, start=torch.tensor([1.0, 2.0]))})
    assert space.start.tolist() == [0.25, 0.75, 0, 0]
    assert Space.from_config(json.loads(json.dumps(space.to_config()))).variables == space.variables
    assert space.params(space.start[None])[0]["u"].tolist() == [1, 2]


def test_choices_may_be_any_objects():
    space = Space({"f": Choice(math.sin, math.cos), "n": Choice(None, "adam", 0.5, (64, 64))})
    x = space.encode_params([{"f": math.cos, "n": (64, 64)}, {"f": math.sin, "n": None}])
    assert x.tolist() == [[1, 3], [0, 0]]
    assert space.params(x)[0] == {"f": math.cos, "n": (64, 64)}


def test_context():
    space = Space({"x": Real(0, 1), "t": Context(Real(-10, 30)), "day": Context(Choice("mon", "tue", default="tue"))})
    assert space.context == ["t", "day"]
    assert [c.context for c in space.columns] == [False, True, True]
    assert space.fixed_columns({"t": 10}) == {1: 0.5, 2: 1.0}
    assert space.fixed_columns({"t": 10, "day": "mon"}) == {1: 0.5, 2: 0.0}
    for context, message in (
        ({}, "t is missing"),
        ({"t": 99}, "between -10 and 30"),
        ({"t": 1, "x": 0.5}, "'x' cannot be given as context"),
    ):
        with pytest.raises(SpaceError, match=message):
            space.fixed_columns(context)
    with pytest.raises(SpaceError, match="no Context variable"):
        Space({"x": Real(0, 1)}).fixed_columns({"t": 1})
    assert Space({"x": Real(0, 1)}).fixed_columns({}) == {}


# ---------------------------------------------------------------- configurations


def test_configurations_survive_json():
    space = mixed()
    config = json.loads(json.dumps(space.to_config(), allow_nan=False))
    back = Space.from_config(config)
    assert back.difference(space) == [] == space.difference(back)
    x = points(space, 50)
    assert np.array_equal(back.decode_numpy(x), space.decode_numpy(x))
    assert np.array_equal(back.start, space.start)
    assert [list(row) for row in back.params(x)] == [list(row) for row in space.params(x)]


@settings(max_examples=40, deadline=None)
@given(spaces())
def test_any_configuration_survives_json(space):
    back = Space.from_config(json.loads(json.dumps(space.to_config(), allow_nan=False)))
    assert back.difference(space) == []
    assert np.array_equal(back.start, space.start)
    assert np.array_equal(back.upper, space.upper)


def test_the_toml_form():
    text = """
    lr = { type = "real", low = 1e-5, high = 1e-1, log = true, default = 1e-3 }
    depth = { type = "integer", low = 1, high = 12, when = { net = ["cnn", "mlp"] } }
    net = { type = "choice", choices = ["svm", "cnn", "mlp"] }
    sizes = { type = "choice", choices = [[64], [64, 64]], ordered = true, default = [64, 64] }
    norm = { type = "bool" }
    epochs = { type = "fixed", value = 10 }
    noise = { type = "real", shape = [2], start = 1.0 }
    day = { type = "context", variable = { type = "choice", choices = ["mon", "tue"] } }
    """
    space = Space.from_config(tomllib.loads(text), "lr < 0.05")
    assert space.variables == {
        "lr": Real(1e-5, 1e-1, log=True, default=1e-3),
        "depth": Integer(1, 12, when={"net": ["cnn", "mlp"]}),
        "net": Choice("svm", "cnn", "mlp"),
        "sizes": Choice((64,), (64, 64), ordered=True, default=(64, 64)),
        "norm": Bool(),
        "epochs": Fixed(10),
        "noise": Real(shape=(2,), start=1.0),
        "day": Context(Choice("mon", "tue")),
    }
    assert space.columns[3].ordered and not space.columns[2].ordered
    assert [c.text for c in space.constraints] == ["lr < 0.05"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"x": {"type": "float", "low": 0, "high": 1}}, "bool, choice, fixed, context, fidelity, environment); got 'float'"),
        ({"x": {"low": 0, "high": 1}}, "x: expected a table with a type"),
        ({"x": [0, 1]}, "x: expected a table with a type"),
        ({"x": {"type": "real", "low": 0, "hihg": 1}}, "x: type 'real' has no setting 'hihg'; did you mean 'high'?"),
        ({"x": {"type": "real", "low": 0, "zzz": 1}}, "it has low, high, log"),
        ({"x": {"type": "real", "low": 2, "high": 1}}, "x: low must be below high"),
        ({"x": {"type": "integer", "low": 2}}, "x: type 'integer' needs high too"),
        ({"x": {"type": "fixed"}}, "x: type 'fixed' needs value too"),
        ({"x": {"type": "choice"}}, "x: type \"choice\" needs a list of choices"),
        ({"x": {"type": "choice", "choices": "ab"}}, "needs a list of choices"),
        ({"x": {"type": "context"}}, "x: type \"context\" needs a variable"),
        ({"x": {"type": "choice", "choices": [{"python": "math:sin"}, 1]}}, "choices read from a file"),
        ([], "a table of variables by name"),
    ],
)  # fmt: skip
def test_wrong_configurations_are_refused(config, message):
    with pytest.raises(SpaceError) as caught:
        Space.from_config(config)
    assert message in str(caught.value)


def test_differences_are_told():
    a = Space({"x": Real(0, 1), "y": Integer(0, 3), "z": Bool(), "f": Choice(math.sin, math.cos)}, ["x < 0.5", "y < 2"])
    b = Space({"x": Real(0, 2, log=False), "z": Bool(default=True), "w": Bool(), "f": Choice(math.sin, math.cos)}, ["x < 0.5", "x + z < 3"])
    assert a.difference(b) == [
        "the variable 'y' is gone.",
        "the variable 'w' is new.",
        "x: high was 1.0 and is now 2.0.",
        "z: default was 'not set' and is now True.",
        "the constraint 'y < 2' is gone.",
        "the constraint 'x + z < 3' is new.",
    ]
    assert a.difference(a) == []
    assert Space({"a": Bool(), "b": Bool()}).difference(Space({"b": Bool(), "a": Bool()})) == [
        "the order of the variables was a, b and is now b, a."
    ]


def test_spaces_are_copied_and_pickled():
    for space in (mixed(), Space({"x": Real(0, 1), "y": Real(0, 1)}, ["x + y < 1", Linear({"x": 1.0}, upper=0.7)])):
        x = torch.from_numpy(points(space, 5))
        expected = space.decode(x)
        for other in (pickle.loads(pickle.dumps(space)), copy.deepcopy(space), cloudpickle.loads(cloudpickle.dumps(space))):
            assert torch.equal(other.decode(x), expected)
            assert np.array_equal(other.allowed(x.numpy()), space.allowed(x.numpy()))
            assert other.difference(space) == []
            assert np.array_equal(other.linear_system()[0], space.linear_system()[0])
    assert repr(Space({"x": Real(0.5, 1, log=True), "c": Choice("a", 1, ordered=True), "k": Context(Bool())}, "x < 0.7")) == (
        "Space({'x': Real(0.5, 1.0, log=True), 'c': Choice('a', 1, ordered=True), 'k': Context(Bool())}, constraints=['x < 0.7'])"
    )


# ---------------------------------------------------------------- known constraints

EXPRESSIONS = [
    "x + 2*y <= 3", "x < y", "x < y and kernel != 'poly'", "not (x < y) or n == 3", "0 <= x - y < 1", "n % 2 == 0", "x**2 + y**2 <= 2",
    "n in (1, 3, 4)", "kernel not in ('poly', 'rbf')", "flag", "flag and x < 1 or not flag and y < 1", "abs(x - y) > 0.5",
    "min(x, y, 1) > 0.25", "max(v[0], v[1]) <= 1", "sum(v) <= x", "v[1] - v[-2] < 0.5", "exp(x) < 3 + log(1 + y)", "sqrt(x) >= y / 2",
    "n // 2 < y", "batch * n <= 64", "batch == 16 or x < 0.5", "x / (n - 2.5) < 1", "floor(x * 3) == ceil(y)", "-x <= -0.25 + +y",
    "k0 * x < 3", "mode == 'a'", "max(v) < 1.5", "w[0, 1] < w[1, 0]", "day == 'mon' or x < t",
]  # fmt: skip


def for_expressions(constraints: object = ()) -> Space:
    variables = {
        "x": Real(0, 2), "y": Real(0.01, 2, log=True), "kernel": Choice("linear", "poly", "rbf"), "n": Integer(1, 5), "flag": Bool(),
        "v": Real(0, 2, shape=2), "batch": Choice(16, 32, 64), "k0": Fixed(2), "mode": Fixed("a"), "w": Integer(0, 3, shape=(2, 2)),
        "day": Context(Choice("mon", "tue")), "t": Context(Real(0, 1)),
    }  # fmt: skip
    return Space(variables, constraints)


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_expressions_mean_what_python_means(text):
    space = for_expressions(text)
    x = points(space, 400, seed=len(text))
    functions = {"exp": math.exp, "log": math.log, "sqrt": math.sqrt, "floor": math.floor, "ceil": math.ceil}

    names = {"sum": sum, "abs": abs, "min": min, "max": max, **functions}
    expected = [bool(eval(text, names, params)) for params in space.params(x)]  # noqa: S307
    assert space.allowed(x).tolist() == expected
    assert len(set(expected)) == 2 or text == "mode == 'a'"


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')", "x.real < 1", "(lambda: x)() < 1", "[a for a in (1,)] == 1", "x if flag else y", "f'{x}' == 'a'",
        "x < 1; y", "x = 1", "open('f') < x", "x[0:1] < 1", "x[y] < 1", "x is y", "x @ y < 1", "x & 1", "~n < 3", "print(x) < 1", "*x < 1",
        "(x := 1) < 2", "x <", "", "min(x, key=y) < 1", "{'a': 1}[x] < 2", "x < b'a'", "x < 1j", "kernel in 'poly'", "n in ()",
        "exp(x, y) < 1",
    ],
)  # fmt: skip
def test_nothing_else_is_ever_run(text):
    with pytest.raises(SpaceError):
        for_expressions(text)


@pytest.mark.parametrize(
    ("constraint", "message"),
    [
        ("x + z < 1", "names 'z', but the variables are x, y"),
        ("x + y", "must be true or false for each point, as in 'x <= 3'; it gives numbers"),
        ("v < 1", "must be true or false for each point"),
        ("x and y < 1", "'and', 'or' and 'not' between comparisons"),
        ("kernel == 'pol'", "compares kernel with 'pol'; it is one of 'linear', 'poly', 'rbf'"),
        ("kernel in ('poly', 'rfb')", "compares kernel with 'rfb'"),
        ("kernel < 1", "cannot be evaluated"),
        ("v[3] < 1", "cannot be evaluated"),
        ("v[0, 0] < 1", "of shape (2,)"),
        ("1 < 2", "names no variable"),
        (Linear({"kernel": 1.0}, upper=1), "kernel is not a number"),
        (Linear({"z": 1.0}, upper=1), "names 'z'"),
        (Linear({"v": [1.0, 2.0, 3.0]}, upper=1), "v has shape (2,), its coefficients (3,)"),
        (3, "a constraint is a Linear, a text"),
    ],
)  # fmt: skip
def test_constraints_that_do_not_fit_are_refused(constraint, message):
    with pytest.raises(SpaceError) as caught:
        for_expressions([constraint])
    assert message in str(caught.value)


def test_impossible_linear_constraints_are_refused():
    for make, message in (
        (lambda: Linear({}, upper=1), "coefficients by name"),
        (lambda: Linear({"x": 1.0}), "needs upper or lower"),
        (lambda: Linear({"x": 1.0}, upper=1, lower=2), "lower must be below upper"),
        (lambda: Linear({"x": 1.0}, upper=1, lower=1), "equality leaves no room"),
        (lambda: Linear({"x": math.nan}, upper=1), "finite number"),
        (lambda: Linear({"x": "1"}, upper=1), "finite number"),
    ):
        with pytest.raises(SpaceError, match=message):
            make()


def test_numbers_in_expressions_cannot_fill_the_memory():
    assert not Space({"x": Real(0, 1)}, "x < 1 or 9**9**9**9 < x").allowed(np.array([[1.0]]))[0]


def test_linear_constraints_and_texts_agree():
    space = for_expressions([Linear({"x": 2.0, "n": -1.0, "v": [1.0, 0.5]}, upper=1.0, lower=-2.0)])
    text = space.constraints[0].text
    assert text == "-2.0 <= 2.0*x - 1.0*n + v[0] + 0.5*v[1] <= 1.0"
    x = points(space, 300)
    direct = [-2 <= 2 * p["x"] - p["n"] + p["v"][0] + 0.5 * p["v"][1] <= 1 for p in space.params(x)]
    assert space.allowed(x).tolist() == direct == for_expressions(text).allowed(x).tolist()
    assert 0 < sum(direct) < 300


@pytest.mark.parametrize(
    ("text", "linear"),
    [
        ("x + 2*y <= 3", True), ("3 >= x/2 - (y - 1)*4", True), ("x < y", True), ("0 <= x + n <= 3 and x < 1", True),
        ("sum(v) + v[0] <= 3*x", True), ("w[1, 0] - t < 2", True), ("x*y < 1", False), ("x < 1 or y < 1", False), ("x**2 < 1", False),
        ("kernel == 'poly'", False), ("x + k0 < 1", False), ("1/x < 2", False), ("not x < 1", False), ("x - x < 1", False),
    ],
)  # fmt: skip
def test_linear_texts_are_recognised(text, linear):
    space = for_expressions(text)
    rows, lower, upper = space.linear_system()
    assert bool(len(rows)) == linear
    if linear:
        x = points(space, 300)
        total = space.decode_numpy(x) @ rows.T
        np.testing.assert_array_equal(((total >= lower) & (total <= upper)).all(-1), space.allowed(x))


def test_a_linear_equality_holds_to_within_rounding():
    space = Space({"a": Real(0, 1), "b": Real(-3, 7), "n": Integer(0, 5)}, ["a + b == 1", "a < 0.75"])
    rows, lower, upper = space.linear_system()
    assert rows.tolist() == [[1, 1, 0], [1, 0, 0]] and lower[0] < 1 < upper[0] and upper[0] - lower[0] < 1e-4
    space.encode_params([{"a": 0.1, "b": 0.9, "n": 0}, {"a": 1 / 3, "b": 0.6666667, "n": 1}])  # neither adds up to 1 to the last bit
    for a, b in ((0.1, 0.8), (0.1, 0.901)):
        with pytest.raises(SpaceError, match="a \\+ b == 1"):
            space.encode_params([{"a": a, "b": b, "n": 0}])
    chained = Space({"a": Real(0, 1), "b": Real(0, 1)}, "0.25 < a == 1 - b")  # what is no equality stays exact
    assert chained.allowed(np.array([[0.3, 0.7], [0.25, 0.75], [0.2, 0.8], [0.3, 0.6]])).tolist() == [True, False, False, False]
    whole = Space({"n": Integer(0, 2**40 - 1), "m": Integer(0, 2**40 - 1)}, "n == m + 1")
    x = whole.encode(torch.tensor([[2.0**39 + 1, 2.0**39], [2.0**39, 2.0**39]], dtype=F64))
    assert whole.allowed(x.numpy()).tolist() == [True, False]


def test_predicates_see_parameters_and_their_errors_are_told():
    space = for_expressions([lambda params: params["kernel"] == "rbf" and params["v"].sum() < 2])
    x = points(space, 100)
    assert space.allowed(x).tolist() == [p["kernel"] == "rbf" and p["v"].sum() < 2 for p in space.params(x)]

    def broken(params):
        return params["nothing"]

    with pytest.raises(SpaceError, match=r"(?s)broken must give True or False.*KeyError"):
        for_expressions(broken).allowed(x)


def test_a_constraint_applies_where_its_variables_are_active():
    variables = {"kernel": Choice("rbf", "poly"), "degree": Integer(2, 9, when={"kernel": "poly"}), "x": Real(0, 1)}
    space = Space(variables, ["degree + 10*x < 8"])
    x = points(space, 500)
    expected = ["degree" not in p or p["degree"] + 10 * p["x"] < 8 for p in space.params(x)]
    assert space.allowed(x).tolist() == expected
    assert 0 < sum(expected) < 500


def test_a_broken_constraint_is_named():
    space = Space({"x": Real(0, 1), "y": Real(0, 1)}, ["x < y", Linear({"x": 1.0, "y": 1.0}, upper=1.0)])
    with pytest.raises(SpaceError, match=r"constraint 'x < y' does not hold for \{'x': 0.5, 'y': 0.25\} in row 1"):
        space.encode_params([{"x": 0.1, "y": 0.2}, {"x": 0.5, "y": 0.25}])
    with pytest.raises(SpaceError, match=r"constraint 'x \+ y <= 1.0' does not hold"):
        space.encode_params([{"x": 0.5, "y": 0.75}])


# ---------------------------------------------------------------- repair


def test_a_box_gives_back_the_same_tensor():
    space = Space({"x": Real(0, 1, shape=3)})
    x = Random(0).uniform((4, 5, 3))
    assert space.repair(x, Random(0)) is x
    outside = x * 3 - 1
    assert torch.equal(space.repair(outside, Random(0)), outside.clamp(0, 1))
    assert space.repair(x[:0], Random(0)).shape == (0, 5, 3)
    for bad in (torch.full((1, 3), torch.nan), torch.tensor([[0.0, torch.nan, 2.0]])):
        with pytest.raises(SpaceError, match="NaN"):
            space.repair(bad, Random(0))
    with pytest.raises(SpaceError, match="infinite"):
        Space({"x": Real()}).repair(torch.tensor([[torch.inf]]), Random(0))


CONSTRAINED = {
    "linear": Space({"x": Real(-1, 4), "y": Real(0, 3)}, "x + 2*y <= 1"),
    "logarithms and integers": Space(
        {"x": Real(1e-4, 10, log=True), "n": Integer(1, 64, log=True), "m": Integer(0, 5)}, ["x * n <= 1", "m < n"]
    ),
    "ring": Space({"x": Real(-1, 1), "y": Real(-1, 1)}, lambda p: 0.5 < math.hypot(p["x"], p["y"]) < 0.6),
    "choices": Space({"c": Choice(*"abcd"), "x": Real(0, 1), "flag": Bool()}, ["c in ('a', 'd') or x < 0.1", "flag or c != 'a'"]),
    "conditions": Space(
        {"kernel": Choice("rbf", "poly"), "degree": Integer(2, 9, when={"kernel": "poly"}), "x": Real(0, 1)},
        ["degree + 10*x < 4", "x < 0.9"],
    ),
    "unbounded": Space({"x": Real(start=3, scale=0.5), "y": Real()}, ["x + y >= 5", "y <= 1"]),
    "simplex": Space({"w": Real(0, 1, shape=12)}, "sum(w) <= 1"),
    "slab": Space({"w": Real(0, 1, shape=6), "n": Integer(0, 50)}, Linear({"w": 1.0, "n": 1.0}, lower=40.0, upper=40.001)),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", CONSTRAINED)
def test_repaired_points_are_valid(name, dtype):
    space = CONSTRAINED[name]
    x = (3 * Random(4).normal((3, 20, space.dim), dtype=dtype) + 0.5).contiguous()
    before = x.clone()
    y = space.repair(x, Random(1))
    assert torch.equal(x, before)
    assert y.shape == x.shape and y.dtype == dtype
    rows = y.reshape(-1, space.dim).double().numpy()
    assert space.allowed(rows).all()
    back = space.encode_params(space.params(rows))  # refuses anything invalid, constraints included
    if dtype == F64:
        np.testing.assert_allclose(back, rows, atol=1e-9)
        assert torch.equal(space.repair(y, Random(2)), y)
    assert torch.equal(y, space.repair(x, Random(1)))
    rows_alone = torch.stack([space.repair(row[None], Random(1))[0] for row in x.reshape(-1, space.dim)[:5]])
    assert torch.equal(rows_alone, y.reshape(-1, space.dim)[:5])  # a point's repair does not depend on the others


def test_repair_moves_little():
    """Against the Euclidean projection on a half plane, which is known in closed form."""
    space = CONSTRAINED["linear"]
    x = Random(0).uniform((200, 2))
    y = space.repair(x, Random(0))
    broken = ~space.allowed(x.numpy())
    assert torch.equal(y[~broken], x[~broken])
    normal = np.array([5.0, 6.0])  # of x + 2y <= 1 in encoded coordinates: 5a - 1 + 2 * 3b <= 1
    distance = (x.numpy() @ normal - 2).clip(0) / np.linalg.norm(normal)
    moved = (y - x).norm(dim=-1).numpy()
    assert (moved >= distance - 1e-9).all()
    assert np.median(moved[broken] / distance[broken]) < 1.6
    assert np.abs(y.numpy() @ normal - 2)[broken].max() < 1e-6  # just inside


def test_repair_leaves_context_and_fixed_columns_alone():
    space = Space(
        {"x": Real(0, 1), "t": Context(Real(0, 1)), "z": Real(0, 1), "n": Context(Integer(0, 3))}, ["x + z <= t", "x < 0.2 * (n + 1)"]
    )
    x = space.from_unit(Random(3).uniform((60, 4)))
    x[:, 1] = x[:, 1].mul(4).floor().add(1).div(4)
    y = space.repair(x, Random(0))
    assert torch.equal(y[:, [1, 3]], x[:, [1, 3]])
    assert space.allowed(y.numpy()).all()
    x[:, 2] = 0.1
    y = space.repair(x, Random(0), fixed=[2])
    assert torch.equal(y[:, 1:], x[:, 1:]) and space.allowed(y.numpy()).all()
    assert not torch.equal(y, x)


def test_valid_points_to_move_towards_are_valid_in_the_type_of_the_result():
    for name in ("linear", "slab", "ring"):
        found = anchors(CONSTRAINED[name], Random(0), {}, torch.float32)
        assert len(found) and CONSTRAINED[name].allowed(found).all()
        assert np.array_equal(found, found.astype(np.float32).astype(np.float64))


def test_a_space_without_room_is_told():
    for constraints in (["x < 0.5", "x > 0.6"], [lambda p: False]):
        space = Space({"x": Real(0, 1), "t": Context(Bool())}, constraints)
        with pytest.raises(SpaceError, match=r"no valid point with t as given was found in 100,000 samples.*They are"):
            space.repair(torch.zeros(1, 2), Random(0))


def test_repair_moves_onto_an_equality_as_projection_does():
    space = Space({"w": Real(0, 1, shape=3), "v": Real(0, 2, shape=2)}, ["sum(w) == 1", "sum(v) - w[0] == 1"])
    target = space.sample(200, Random(0))
    x = target + 0.1 * Random(1).normal((200, 5))
    x = x[((x > 0) & (x < 1)).all(-1)]
    y = space.repair(x, Random(0))
    z = space.decode(y)
    assert (z[:, :3].sum(1) - 1).abs().max() < 1e-12 and (z[:, 3:].sum(1) - z[:, 0] - 1).abs().max() < 1e-12
    normals = np.array([[1, 1, 1, 0, 0], [-1, 0, 0, 2, 2]])  # of the two in encoded coordinates
    nearest = x.numpy() - (x.numpy() @ normals.T - 1) @ np.linalg.pinv(normals).T
    inside = ((nearest >= 0) & (nearest <= 1)).all(-1)
    assert inside.sum() > 50
    np.testing.assert_allclose(y.numpy()[inside], nearest[inside], atol=1e-9)
    for n, k in (("n", Integer(0, 9)), ("n", Integer(1, 64, log=True))):  # what rounding an integer changes, the real columns make up for
        mixed = Space({"x": Real(0, 5, shape=2), n: k}, "sum(x) + n == 7")
        y = mixed.repair(mixed.from_unit(Random(2).uniform((50, 3), dtype=torch.float32)), Random(0))
        assert (mixed.decode(y.double()).sum(1) - 7).abs().max() < 1e-5
        assert len(torch.unique(y, dim=0)) > 45


def test_a_predicate_is_called_a_few_tens_of_times_for_each_point():
    calls = 0

    def feasible(params):
        nonlocal calls
        calls += 1
        return params["x"] < -0.4

    for n in (1, 10):
        space = Space({"x": Real(-1, 1), "y": Real(-1, 1)}, [feasible, "x + y <= 1"])
        calls = 0
        space.sample(n, Random(0))
        assert calls <= 10 * n
        calls = 0
        x = space.repair(torch.tensor([[0.9, 0.2]]).repeat(n, 1) + 0.01 * Random(0).uniform((n, 2)), Random(1))
        assert 0.25 < float(x[:, 0].min()) and float(x[:, 0].max()) < 0.3  # just inside all the same
        assert calls <= 10 * n + 70  # those that find the valid points to move towards are made once
        calls = 0
        space.repair(Random(2).uniform((n, 2)), Random(3))
        assert calls <= 10 * n


def test_what_a_space_was_asked_before_changes_nothing():
    def make():
        return Space({"w": Real(0, 1, shape=8), "t": Context(Real(0, 1))}, ["sum(w) <= t", lambda p: p["w"][0] < 0.5])

    used, key = make(), Random(5)
    for i in range(20):  # more contexts than are remembered
        used.sample(3, key.child(i), fixed={8: 0.5 + i / 40})
        used.repair(torch.full((2, 9), 0.9), key.child(i))
    x = Random(6).uniform((10, 9))
    assert torch.equal(make().repair(x, key), used.repair(x, key))
    fixed = {8: 0.75}
    assert torch.equal(make().sample(10, key, fixed=fixed), used.sample(10, key, fixed=fixed))
    assert not torch.equal(used.sample(10, key, fixed=fixed), used.sample(10, key.child("other"), fixed=fixed))


def test_knapsacks_that_integer_programs_take_hours_for_are_met():
    weights = Random(0).integers(90, 30).numpy() + 10
    tight = Space({"n": Integer(0, 1, shape=30)}, Linear({"n": weights}, lower=weights.sum() // 3 - 1, upper=weights.sum() // 3))
    z = tight.decode(tight.sample(20, Random(0))).numpy()
    assert len(np.unique(z, axis=0)) > 10
    assert set((z @ weights).tolist()) <= {weights.sum() // 3 - 1, weights.sum() // 3}


def test_samples_are_uniform_over_what_is_allowed():
    space = Space({"x": Real(0, 1), "y": Real(0, 1), "t": Context(Real(0, 1))}, "x + y <= 1")
    z = space.sample(5000, Random(0), fixed={2: 0.25}).numpy()
    assert z.shape == (5000, 3) and (z[:, 2] == 0.25).all()
    assert space.allowed(z).all()
    assert stats.kstest(z[:, 0], lambda x: 1 - (1 - x) ** 2).pvalue > 1e-3  # the marginal of a triangle
    thin = CONSTRAINED["simplex"].sample(50, Random(0), dtype=torch.float32)
    assert thin.dtype == torch.float32 and CONSTRAINED["simplex"].allowed(thin.double().numpy()).all()
    free = Space({"x": Real(0, 1)})
    assert torch.equal(free.sample(4, Random(2)), Random(2).uniform((4, 1)))


def test_what_is_narrow_beside_the_range_is_no_equality():
    space = Space({"x": Real(0, 1e7), "k": Integer(1, 10**9)}, ["3 <= x <= 4", "k >= 999_999_000", "k <= 999_999_004"])
    z = space.decode(space.sample(1000, Random(0))).numpy()
    assert stats.kstest(z[:, 0] - 3, "uniform").pvalue > 1e-3
    assert stats.chisquare(np.unique(z[:, 1], return_counts=True)[1]).pvalue > 1e-3
    assert len(np.unique(space.repair(Random(1).uniform((50, 2)), Random(0))[:, 1])) > 1


@pytest.mark.parametrize("d", [3, 8, 30])
def test_samples_of_a_simplex_have_its_distribution(d):
    """Known in closed form: the sum is Beta(d, 1), each weight Beta(1, d), or Beta(1, d - 1) where the sum is 1."""
    for text, beta in (("sum(w) <= 1", stats.beta(1, d)), ("sum(w) == 1", stats.beta(1, d - 1))):
        space = Space({"w": Real(0, 1, shape=d), "free": Real(0, 1)}, text)
        x = space.sample(4000, Random(0)).numpy()
        assert space.allowed(x).all()
        assert all(stats.kstest(w, beta.cdf).pvalue > 1e-4 for w in x[:, :d].T)
        np.testing.assert_allclose(x[:, :d].std(0), beta.std(), rtol=0.1)
        squares = (Random(1).numpy().dirichlet(np.ones(d if "==" in text else d + 1), 4000)[:, :d] ** 2).sum(1)
        assert stats.ks_2samp((x[:, :d] ** 2).sum(1), squares).pvalue > 1e-3
        assert stats.kstest(x[:, d], "uniform").pvalue > 1e-3
        total = x[:, :d].sum(1)
        assert np.abs(total - 1).max() < 1e-12 if "==" in text else stats.kstest(total, stats.beta(d, 1).cdf).pvalue > 1e-3
        single = space.sample(20, Random(0), dtype=torch.float32)
        assert single.dtype == torch.float32 and space.allowed(single.double().numpy()).all()


RARE = {
    "in order": (Space({"x": Real(0, 1, shape=6)}, [f"x[{i}] <= x[{i + 1}]" for i in range(5)]), {}),
    "along a line": (Space({"x": Real(0, 1), "y": Real(0, 1)}, ["x - y <= 0.005", "y - x <= 0.005"]), {}),
    "logarithms": (Space({"a": Real(1e-3, 1, log=True), "b": Real(1e-3, 1, log=True), "c": Real(0, 1)}, "0.9 <= a + b + c <= 0.93"), {}),
    "unbounded": (Space({"x": Real(start=3, scale=0.5), "y": Real()}, ["x + y >= 4.3", "y <= 0.5"]), {}),
    "integers": (Space({"n": Integer(0, 5, shape=4), "w": Real(0, 1, shape=2)}, "sum(n) + sum(w) <= 2"), {}),
    "a slab across integers": (Space({"n": Integer(0, 5), "w": Real(0, 1, shape=3)}, "3 <= n + sum(w) <= 3.05"), {}),
    "logarithmic integers": (Space({"n": Integer(1, 64, log=True), "m": Integer(0, 40), "x": Real(0, 4)}, "n + m + x <= 4"), {}),
    "whole numbers only": (Space({"n": Integer(0, 1, shape=12)}, "sum(n) == 2"), {}),
    "given columns": (Space({"w": Real(0, 1, shape=4), "t": Context(Real(0, 1))}, "sum(w) <= t"), {4: 0.7, 1: 0.2}),
    "a ball": (Space({"x": Real(-1, 1, shape=5)}, "x[0]**2 + x[1]**2 + x[2]**2 + x[3]**2 + x[4]**2 <= 0.15"), {}),
    "a corner of a simplex": (Space({"w": Real(0, 1, shape=5)}, ["sum(w) <= 1", "w[0]**2 + w[1]**2 >= 0.25"]), {}),
}  # fmt: skip


@pytest.mark.parametrize("name", RARE)
def test_samples_where_chance_meets_little_are_like_those_that_it_meets(name):
    space, fixed = RARE[name]
    x = space.sample(3000, Random(0), fixed=fixed).numpy()
    assert space.allowed(x).all()
    u = points(space, 600_000, seed=1)
    u[:, list(fixed)] = list(fixed.values())
    expected = u[space.allowed(u)]
    assert 300 < len(expected) < 20_000
    for i, column in enumerate(space.columns):
        if i in fixed:
            assert (x[:, i] == fixed[i]).all()
        elif column.kind == "real":
            assert stats.ks_2samp(x[:, i], expected[:, i]).pvalue > 1e-4
        else:
            levels = np.unique(np.concatenate([x[:, i], expected[:, i]]))
            table = np.array([[(rows[:, i] == level).sum() for level in levels] for rows in (x, expected)])
            assert stats.chi2_contingency(table[:, table.sum(0) > 10]).pvalue > 1e-4


def test_samples_of_an_equality_between_integers_and_reals_are_uniform():
    space = Space({"n": Integer(0, 3, shape=2), "x": Real(0, 2, shape=2)}, "sum(n) + sum(x) == 4")
    z = space.decode(space.sample(4000, Random(0))).numpy()
    assert np.abs(z.sum(1) - 4).max() < 1e-12
    # Of the four values of n[0], by the length of the segment on which the two reals add up to the rest.
    counts = np.bincount(z[:, 0].astype(int))
    assert stats.chisquare(counts, np.array([4, 4, 3, 1]) / 12 * 4000).pvalue > 1e-3


def test_constraints_of_conditional_variables_are_met_in_every_branch():
    either = {name: Real(0, 1, shape=10, when={"kind": name}) for name in ("u", "v")}
    space = Space({"kind": Choice("u", "v"), **either}, ["sum(u) <= 1", "sum(v) <= 1"])
    x = space.sample(100, Random(0)).numpy()
    assert space.allowed(x).all() and len(np.unique(x, axis=0)) > 90
    assert {params["kind"] for params in space.params(x)} == {"u", "v"}
    assert space.allowed(space.repair(torch.full((2, 21), 0.9), Random(0)).double().numpy()).all()


def test_a_predicate_that_little_keeps_is_met_by_chains_from_what_was_found():
    calls = 0

    def corner(params):
        nonlocal calls
        calls += 1
        return params["w"][0] > 0.93

    space = Space({"w": Real(0, 1, shape=3)}, ["sum(w) <= 1", corner])
    x = space.sample(200, Random(0)).numpy()
    calls = 0
    again = space.sample(200, Random(1)).numpy()
    assert space.allowed(x).all() and space.allowed(again).all()
    assert len(np.unique(x, axis=0)) > 150 and not np.array_equal(x, again)
    assert calls < 200 * 100  # one by one chance would call it 3,000 times for each
