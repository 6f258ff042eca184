"""States survive the trip through bytes to the bit, and damaged bytes are noticed."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from zoopt.errors import ConfigError, JournalError
from zoopt.state import equal, from_bytes, to_bytes
from zoopt.strategy import State, live


@dataclass
class Box(State):
    value: Any = None


@dataclass
class Part(State):
    centre: torch.Tensor
    step: float = 0.5
    frozen: int = 0
    library: Any = live()
    info: dict[str, float] = field(default_factory=dict, metadata={"live": True})

    def freeze(self) -> None:
        self.frozen += 1


@dataclass
class Hybrid(State):
    parts: list[Part]
    by_name: dict[str, Part]
    turn: int = 0
    count: int = field(default=3, init=False)

    def freeze(self) -> None:
        self.turn += 1


def trip(value: Any) -> Any:
    back = from_bytes(to_bytes(Box(value)))
    assert isinstance(back, Box)
    return back.value


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
dtypes = [
    hnp.boolean_dtypes(), hnp.integer_dtypes(endianness="?"), hnp.floating_dtypes(endianness="?"), hnp.complex_number_dtypes(),
    hnp.unicode_string_dtypes(), hnp.byte_string_dtypes(), hnp.datetime64_dtypes(),
]  # fmt: skip
arrays = hnp.arrays(st.one_of(dtypes), hnp.array_shapes(min_dims=0, min_side=0, max_dims=4, max_side=4))
trees = st.recursive(
    scalars | arrays,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text() | st.integers(), inner, max_size=4)
        | inner.map(Box)
    ),
    max_leaves=10,
)


@settings(max_examples=200, deadline=None)
@given(trees)
def test_any_tree_survives(value):
    assert equal(trip(value), value)


@settings(max_examples=100, deadline=None)
@given(arrays, st.data())
def test_numpy_arrays_keep_the_order_of_their_axes(array, data):
    turned = array.transpose(data.draw(st.permutations(range(array.ndim)))) if array.ndim else array
    for value in (turned, turned[..., ::2] if turned.ndim else turned, turned[::-1] if turned.ndim else turned):
        back = trip(value)
        assert back.dtype == value.dtype and back.shape == value.shape and back.tobytes() == value.tobytes()
        kept = value.copy("K")
        assert back.flags.c_contiguous == kept.flags.c_contiguous
        assert back.flags.f_contiguous == kept.flags.f_contiguous
        assert back.flags.writeable


@pytest.mark.parametrize("order", ["C", "F"])
def test_memory_order_of_a_matrix(order):
    back = trip(np.array([[1.0, 2.0], [3.0, 4.0]], order=order))
    assert back.tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert back.flags[f"{order}_CONTIGUOUS"]


DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2, torch.complex64, torch.complex128,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.bool,
]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1,), (2, 3, 4)], ids=str)
def test_torch_tensors_of_every_type(dtype, shape):
    value = (torch.arange(math.prod(shape), dtype=torch.float64) - 3).abs().reshape(shape).to(dtype)
    back = trip(value)
    assert back.dtype == dtype and back.shape == shape
    assert equal(back, value)


def test_torch_tensors_that_are_not_contiguous():
    base = torch.arange(24.0).reshape(2, 3, 4)
    for value in (
        base.mT,
        base.permute(2, 0, 1),
        base[..., ::2],
        base[:, 1].T,
        base[0, 0].expand(5, 4),
        base[1:],
        base.permute(2, 0, 1)[:, :1],
    ):
        back = trip(value)
        assert torch.equal(back, value)
        assert equal(back, value)
    assert trip(base.mT).stride() == base.mT.stride()
    shared = trip([base, base, base[0]])
    shared[0][0] = 7
    assert torch.equal(shared[1], base)
    special = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan, 5e-324], dtype=torch.float64)
    assert trip(special).view(torch.int64).tolist() == special.view(torch.int64).tolist()
    assert equal(trip(torch.randn(3, dtype=torch.complex64, generator=torch.Generator().manual_seed(0)).conj()).is_conj(), False)


def test_numpy_scalars_and_structured_arrays():
    for value in (
        np.float64(0.1),
        np.float32(0.1),
        np.int8(-3),
        np.bool_(True),
        np.complex64(1j),
        np.str_("é"),
        np.datetime64("2024-02-29", "D"),
    ):
        back = trip(value)
        assert type(back) is type(value) and back == value and back.dtype == value.dtype
    structured = np.zeros(3, dtype=[("x", "<f8", (2,)), ("n", "<i4"), ("name", "<U3")])
    structured["name"] = ["a", "bc", ""]
    structured["x"][1] = [0.5, np.nan]
    assert equal(trip(structured), structured)


def test_numbers_keep_their_bits():
    for value in (0.1, -0.0, 5e-324, 1.7976931348623157e308, math.inf, -math.inf, 10**400, -1, True, "\ud800", "naïve\x00"):
        back = trip(value)
        assert type(back) is type(value) and repr(back) == repr(value)
    assert math.isnan(trip(math.nan))
    assert trip({"b": 1, "a": 2, 3: (4, [5])}) == {"b": 1, "a": 2, 3: (4, [5])}
    assert list(trip({"b": 1, "a": 2})) == ["b", "a"]
    assert trip(torch.Size([2, 3])) == (2, 3)


def test_nested_states_freeze_first_and_lose_what_is_live():
    part = Part(torch.ones(2), library=object(), info={"acceptance": 0.2})
    hybrid = Hybrid([part, Part(torch.zeros(1))], {"poll": Part(torch.zeros(0), step=0.1)})
    hybrid.count = 9
    back = from_bytes(to_bytes(hybrid))
    assert isinstance(back, Hybrid)
    assert back.turn == 1 and back.count == 9
    assert [p.frozen for p in back.parts] == [1, 1] and back.by_name["poll"].step == 0.1
    assert back.parts[0].library is None and back.parts[0].info == {}
    assert part.library is not None and part.info == {"acceptance": 0.2}
    assert equal(back, hybrid)


def test_the_bytes_are_safetensors_without_pickle_and_the_same_each_time():
    data = to_bytes(Part(torch.arange(3.0), step=0.25))
    assert data == to_bytes(Part(torch.arange(3.0), step=0.25))
    (name,) = safetensors.torch.load(data)
    assert name.endswith("Part.centre")
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert json.loads(header["__metadata__"]["zoopt"])["state"]["fields"]["step"] == 0.25


class Unsaveable:
    pass


@dataclass
class Plain:
    x: int = 1


@pytest.mark.parametrize(
    ("value", "where"),
    [
        (Unsaveable(), "Box.value"),
        ({"a": [0, {3: Unsaveable()}]}, "Box.value['a'][1][3]"),
        (Box((1, Unsaveable())), "Box.value.value[1]"),
        (Plain(), "Plain"),
        (Fraction(1, 2), "Fraction"),
        ({1.5: 0}, "1.5"),
        (np.array([object()]), "Box.value"),
        (torch.zeros(2, device="meta"), "meta"),
        (torch.nn.Parameter(torch.zeros(2)), "Parameter"),
        (torch.eye(2).to_sparse(), "sparse"),
        (lambda x: x, "Box.value"),
        (torch.Generator(), "Generator"),
    ],
)
def test_unknown_types_are_refused_with_the_place(value, where):
    with pytest.raises(ConfigError) as caught:
        to_bytes(Box(value))
    assert where in str(caught.value)


def test_a_list_that_contains_itself_is_refused():
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(ConfigError, match="contain itself"):
        to_bytes(Box(loop))


def test_a_state_without_the_decorator_is_refused():
    class Forgotten(State):
        x: int = 3

    with pytest.raises(ConfigError, match="@dataclass"):
        to_bytes(Forgotten())


def test_a_flip_of_any_byte_is_noticed():
    data = to_bytes(Part(torch.arange(3.0), step=0.25))
    for at in range(len(data)):
        for flip in (1, 128):
            damaged = bytearray(data)
            damaged[at] ^= flip
            with pytest.raises(JournalError):
                from_bytes(bytes(damaged))


def test_cut_or_foreign_bytes_are_refused():
    data = to_bytes(Part(torch.arange(3.0)))
    for bad in (b"", b"{}", data[:-1], data[: len(data) // 2], data + b"\0", safetensors.torch.save({"x": torch.zeros(2)})):
        with pytest.raises(JournalError):
            from_bytes(bad)


def _resealed(data: bytes, old: bytes, new: bytes) -> bytes:
    """The bytes with a change that somebody made on purpose, checksum included."""
    import re
    import zlib

    length = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + length].replace(old, new)
    changed = len(header).to_bytes(8, "little") + header + data[8 + length :]
    at = re.search(rb'crc32\\":\\"([0-9a-f]{8})', changed)
    zeroed = changed[: at.start(1)] + b"0" * 8 + changed[at.end(1) :]
    return changed[: at.start(1)] + b"%08x" % zlib.crc32(zeroed) + changed[at.end(1) :]


def test_other_versions_are_refused_with_a_reason():
    data = to_bytes(Part(torch.arange(3.0)))
    assert isinstance(from_bytes(_resealed(data, b"", b"")), Part)
    with pytest.raises(JournalError, match="newer zoopt"):
        from_bytes(_resealed(data, rb"\"format\":1", rb"\"format\":9"))
    with pytest.raises(JournalError, match="another version"):
        from_bytes(_resealed(data, rb"\"step\"", rb"\"size\""))
    with pytest.raises(ConfigError, match="not loaded"):
        from_bytes(_resealed(data, b":Part", b":Gone"))


def test_equal_tells_small_differences():
    assert equal([1, (2.0, math.nan)], [1, (2.0, math.nan)])
    a = np.zeros((2, 2))
    differing = [
        (0.0, -0.0), (1, 1.0), (True, 1), ([1], (1,)), ([1], [1, 2]), ({"a": 1, "b": 2}, {"b": 2, "a": 1}), ("a", "b"),
        (a, np.asfortranarray(a)), (a, -a), (a, a.astype(np.float32)), (np.float64(1), np.float32(1)), (torch.zeros(2), a[0]),
        (torch.zeros(2), torch.zeros(2, dtype=torch.float64)), (torch.zeros(2), -torch.zeros(2)), (torch.zeros(2, 3).mT, torch.zeros(3, 2)),
        (Part(torch.zeros(1)), Part(torch.ones(1))),
    ]  # fmt: skip
    for x, y in differing:
        assert not equal(x, y)
        assert equal(x, x) and equal(y, y)
