"""A strategy's state as bytes: safetensors for the arrays, a JSON header for everything else, never pickle.

The bytes are a valid safetensors file. Its metadata holds one string, the JSON tree of the state with a reference in
place of every array, and in it the checksum of the whole file (taken with zeros in its place). Arrays keep their
numbers to the bit and the order of their axes in memory, since libraries sum in memory order. Objects that were shared
come back separate.
"""

from __future__ import annotations

import ast
import json
import math
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from zoopt.errors import ConfigError, JournalError
from zoopt.strategy import State, state_class

_FORMAT = 1
_DEEPEST = 100
_OPENING = b'"zoopt":"{\\"crc32\\":\\"'  # unescaped quotation marks stand nowhere else before these words
_SUM = re.compile(re.escape(_OPENING) + rb"([0-9a-f]{8})")

# What a safetensors file can say itself; any other array travels as bytes, its type in the JSON header.
_NATIVE = {
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
}  # fmt: skip
_NATIVE_NUMPY = {np.dtype(kind) for kind in ("<f8", "<f4", "<f2", "<i8", "<i4", "<i2", "i1", "u1", "?")}
_Array = np.ndarray[Any, np.dtype[Any]]


def to_bytes(state: State) -> bytes:
    """The state as bytes, after its ``freeze()``; fields made with ``live`` are left out.

    Fields may hold torch tensors of any type, numpy arrays (not of objects) and scalars, numbers, strings, None, other
    states, and lists, tuples and dicts (keyed by strings or integers) of them.

    Raises:
        ConfigError: A field holds something else; the message names it.
    """
    writer = _Writer()
    tree = {"crc32": "0" * 8, "format": _FORMAT, "state": writer.state(state, type(state).__name__, 0)}
    header = json.dumps(tree, separators=(",", ":"), allow_nan=False)
    data = safetensors.torch.save(writer.tensors, {"zoopt": header})
    start = data.index(_OPENING) + len(_OPENING)
    return b"%s%08x%s" % (data[:start], zlib.crc32(data), data[start + 8 :])


def from_bytes(data: bytes, device: str | torch.device = "cpu") -> State:
    """The state that ``to_bytes`` wrote; live fields hold their defaults.

    Args:
        data: The bytes.
        device: Where tensors go that were not on the CPU when they were written.

    Raises:
        JournalError: The bytes are damaged, or were written by a newer version.
        ConfigError: The class of the state (a plug-in's) is not imported.
    """
    found = _SUM.search(data)
    if found is None:
        raise JournalError("expected a saved state, but these bytes are something else or damaged; restore the journal from a copy.")
    view = memoryview(data)
    start, end = found.span(1)
    if zlib.crc32(view[end:], zlib.crc32(b"0" * 8, zlib.crc32(view[:start]))) != int(found.group(1), 16):
        raise JournalError("a saved state is damaged (its checksum does not fit); restore the journal from a copy.")
    try:
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        tree = json.loads(header["__metadata__"]["zoopt"])
        if tree["format"] > _FORMAT:
            raise JournalError(f"a saved state has format {tree['format']}, this version reads up to {_FORMAT}; install a newer zoopt.")
        state: State = _Reader(safetensors.torch.load(data), torch.device(device)).read(tree["state"])
    except (JournalError, ConfigError):
        raise
    except Exception as error:  # a constructor of a plug-in may raise anything
        raise JournalError(
            f"a saved state cannot be rebuilt ({type(error).__name__}: {error}); it was written by another version of the strategy."
        ) from error
    return state


def equal(a: object, b: object) -> bool:
    """Deep equality to the bit: types, numpy and torch types, memory order, signs of zero; NaN equals NaN.

    Live fields of states are not compared.
    """
    if type(a) is not type(b):
        return False
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        same = a.dtype == b.dtype and a.shape == b.shape and _axes(a.stride(), a.shape) == _axes(b.stride(), b.shape)
        return same and a.device == b.device and torch.equal(_torch_bytes(a.cpu()), _torch_bytes(b.cpu()))
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        same = a.dtype == b.dtype and a.shape == b.shape and _axes(a.strides, a.shape) == _axes(b.strides, b.shape)
        return same and a.tobytes() == b.tobytes()
    if isinstance(a, np.generic) and isinstance(b, np.generic):
        return a.dtype == b.dtype and a.tobytes() == b.tobytes()
    if isinstance(a, float) and isinstance(b, float):
        return (math.isnan(a) and math.isnan(b)) or (a == b and math.copysign(1.0, a) == math.copysign(1.0, b))
    if isinstance(a, State) and isinstance(b, State):
        return all(equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(a) if not f.metadata.get("live"))
    if isinstance(a, dict) and isinstance(b, dict):
        return equal(list(a), list(b)) and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


@dataclass(slots=True)
class _Writer:
    """Turns values into JSON nodes and collects the arrays. A dict in the JSON is always a tagged node."""

    tensors: dict[str, Tensor] = field(default_factory=dict)

    def state(self, state: State, path: str, depth: int) -> dict[str, Any]:
        cls = type(state)
        name = f"{cls.__module__}:{cls.__qualname__}"
        if "__annotations__" in cls.__dict__ and "__dataclass_fields__" not in cls.__dict__:
            raise ConfigError(f"{path} cannot be saved: {name} has fields of its own but no @dataclass above it; add it.")
        state.freeze()
        kept = [f.name for f in fields(state) if not f.metadata.get("live")]
        return {"state": name, "fields": {key: self.write(getattr(state, key), f"{path}.{key}", depth + 1) for key in kept}}

    def write(self, value: Any, path: str, depth: int) -> Any:
        kind = type(value)
        if value is None or kind in (bool, int, str):
            return value
        if kind is float:
            return value if math.isfinite(value) else {"float": repr(value)}
        if kind is Tensor:
            return self.tensor(value, path)
        if kind is np.ndarray:
            return self.array(value, path)
        if depth > _DEEPEST:
            raise ConfigError(f"{path[:200]}... cannot be saved: it is nested more than {_DEEPEST} deep; does it contain itself?")
        if isinstance(value, State):
            return self.state(value, path, depth)
        if kind is list:
            return [self.write(item, f"{path}[{i}]", depth + 1) for i, item in enumerate(value)]
        if kind is tuple or kind is torch.Size:
            return {"tuple": [self.write(item, f"{path}[{i}]", depth + 1) for i, item in enumerate(value)]}
        if kind is dict:
            for key in value:
                if type(key) not in (str, int):
                    raise ConfigError(f"{path} cannot be saved: keys must be str or int, but {key!r} is a {type(key).__name__}.")
            return {"dict": [[key, self.write(item, f"{path}[{key!r}]", depth + 1)] for key, item in value.items()]}
        if isinstance(value, np.generic) and not value.dtype.hasobject:
            return {"scalar": _describe(value.dtype), "bytes": value.tobytes().hex()}
        raise ConfigError(
            f"{path} cannot be saved: expected tensors, numpy arrays, numbers, strings, None, states, and lists, tuples or dicts of them; "
            f"got a {kind.__module__}.{kind.__qualname__}. Keep it in a field made with live() and rebuild it from data."
        )

    def tensor(self, value: Tensor, path: str) -> dict[str, Any]:
        if value.layout != torch.strided or value.is_quantized or value.is_meta:
            what = "meta" if value.is_meta else "quantized" if value.is_quantized else str(value.layout)
            raise ConfigError(f"{path} cannot be saved: expected a dense tensor with data, got a {what} one.")
        node: dict[str, Any] = {}
        if value.device.type != "cpu":
            node["device"] = str(value.device)
        value = value.detach().cpu().resolve_conj().resolve_neg()
        axes = _axes(value.stride(), value.shape)
        value = value.permute(axes).clone(memory_format=torch.contiguous_format)  # views of one storage would be refused as shared
        if axes != sorted(axes):
            node["axes"] = axes
        if value.dtype not in _NATIVE:
            node |= {"dtype": str(value.dtype).removeprefix("torch."), "shape": list(value.shape)}
            value = _torch_bytes(value)
        return {"tensor": self.keep(value, path), **node}

    def array(self, value: _Array, path: str) -> dict[str, Any]:
        if value.dtype.hasobject:
            raise ConfigError(f"{path} cannot be saved: expected an array of numbers or strings, got one of Python objects.")
        node: dict[str, Any] = {}
        axes = _axes(value.strides, value.shape)
        value = value.transpose(axes).copy("C")
        if axes != sorted(axes):
            node["axes"] = axes
        if value.dtype in _NATIVE_NUMPY:
            return {"array": self.keep(torch.from_numpy(value), path), **node}
        raw = torch.from_numpy(np.frombuffer(bytearray(value.tobytes()), np.uint8))
        return {"array": self.keep(raw, path), "dtype": _describe(value.dtype), "shape": list(value.shape), **node}

    def keep(self, value: Tensor, path: str) -> str:
        """Files the array under its field's path and a number, which keeps the names apart."""
        name = f"{len(self.tensors)}:{path}"
        self.tensors[name] = value
        return name


@dataclass(slots=True)
class _Reader:
    """Turns JSON nodes back into values."""

    tensors: dict[str, Tensor]
    device: torch.device

    def read(self, node: Any) -> Any:
        if isinstance(node, list):
            return [self.read(item) for item in node]
        if not isinstance(node, dict):
            return node
        if "float" in node:
            return float(node["float"])
        if "tuple" in node:
            return tuple(self.read(item) for item in node["tuple"])
        if "dict" in node:
            return {key: self.read(item) for key, item in node["dict"]}
        if "state" in node:
            return self.state(node)
        if "scalar" in node:
            return _from_raw(bytes.fromhex(node["bytes"]), node["scalar"], ())[()]
        if "array" in node:
            return self.array(node)
        return self.tensor(node)

    def state(self, node: dict[str, Any]) -> State:
        cls = state_class(node["state"])
        values = {key: self.read(item) for key, item in node["fields"].items()}
        later = {f.name for f in fields(cls) if not f.init}
        state = cls(**{key: value for key, value in values.items() if key not in later})
        for key in later & values.keys():
            setattr(state, key, values[key])
        return state

    def tensor(self, node: dict[str, Any]) -> Tensor:
        # A copy is aligned in memory as every other tensor is; libraries' sums may depend on that.
        value = self.tensors[node["tensor"]].clone()
        if "dtype" in node:
            value = value.view(getattr(torch, node["dtype"])).reshape(node["shape"])
        if "axes" in node:
            value = value.permute(_inverse(node["axes"]))
        return value.to(self.device) if "device" in node else value

    def array(self, node: dict[str, Any]) -> _Array:
        value: _Array = self.tensors[node["array"]].numpy()
        value = _from_raw(value.tobytes(), node["dtype"], tuple(node["shape"])) if "dtype" in node else value.copy()
        return value.transpose(_inverse(node["axes"])) if "axes" in node else value


def _axes(strides: Sequence[int], shape: Sequence[int]) -> list[int]:
    """The axes from the slowest to the quickest in memory; axes of length 1 stand where they do in C order if they can."""
    if 0 in shape:
        return list(range(len(shape)))
    moving = sorted((axis for axis, length in enumerate(shape) if length > 1), key=lambda axis: -abs(strides[axis]))
    if moving == sorted(moving):
        return list(range(len(shape)))
    return moving + [axis for axis, length in enumerate(shape) if length == 1]


def _inverse(axes: Sequence[int]) -> list[int]:
    return sorted(range(len(axes)), key=lambda i: axes[i])


def _describe(dtype: np.dtype[Any]) -> str:
    """A numpy type, structured ones included, as a literal (what ``.npy`` files write)."""
    return repr(np.lib.format.dtype_to_descr(dtype))


def _from_raw(raw: bytes, description: str, shape: tuple[int, ...]) -> _Array:
    dtype: np.dtype[Any] = np.lib.format.descr_to_dtype(ast.literal_eval(description))
    return np.ndarray(shape, dtype, bytearray(raw)).copy()


def _torch_bytes(value: Tensor) -> Tensor:
    return value.resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8)
