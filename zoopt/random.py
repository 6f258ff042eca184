"""Random numbers as a pure function of a key: seed, call, names and run.

A ``Random`` holds no generator and no position. Asked twice for the same thing it gives the same numbers, so a
replayed call draws what it drew before, a call that raises uses up nothing, and nothing global is read or changed.
Different methods, shapes, calls, names and runs give unrelated numbers; two draws of one method and shape in one call
need two names: ``random.child("step").normal(...)``, ``random.child("jump").normal(...)``.

Keys are hashed with BLAKE2b. On the CPU the numbers come from counter-based Philox streams (Salmon et al. 2011, one
segment of the counter per run), long rows from SFC64 or Mersenne streams of their own, which are twice as fast. On other
devices a vectorised hash of a counter (two rounds of the SplitMix64 finaliser, Steele et al. 2014, with 128 key bits) makes
them in place, so that nothing is copied or synchronised, and long rows of normal numbers come from the device's own
generator, seeded for each run; the numbers of one key therefore depend on the kind of device.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from dataclasses import FrozenInstanceError
from hashlib import blake2b
from operator import index
from struct import Struct
from typing import Any, Literal

import numpy as np
import torch
from scipy.special import ndtri
from torch import Tensor

Shape = int | Sequence[int]
Device = str | torch.device
Dtype = torch.dtype  # (inside the class, ``torch`` and ``numpy`` are methods)
TorchGenerator = torch.Generator
TorchDevice = torch.device
_FLOAT64, _FLOAT32 = torch.float64, torch.float32
_Array = np.ndarray[Any, np.dtype[Any]]

_LONG = 256  # numbers in a run's row from which a stream of its own (about 4 us) is cheaper than the inverse normal CDF
_VERY_LONG = 1024  # the same for other numbers, of which Philox makes 100 in a microsecond and SFC64 200
_TWISTED = 4096  # and for normal numbers in single precision, which torch draws twice as fast once its 25 us of seeding pay
_SEEDED = 1 << 15  # and elsewhere, where torch's own generator draws several times as fast once a launch a run costs nothing
_SPARSE = 8  # short rows of up to this many absent runs per present one are drawn and thrown away rather than skipped


class Random:
    """A key to random numbers: immutable, cheap to make, hashed only when numbers are drawn.

    Args:
        seed: Any integer.
        call: Number of the call, or of the generation (``at``).
        path: Names of the part that draws (``child``).
        labels: Numbers of the runs that draws with run dimensions are for (``select``); None: 0, 1, 2, ...
    """

    __slots__ = ("call", "labels", "path", "seed")

    seed: int
    call: int
    path: tuple[str | int, ...]
    labels: tuple[int, ...] | None

    def __init__(self, seed: int, call: int = 0, path: tuple[str | int, ...] = (), labels: tuple[int, ...] | None = None) -> None:
        _set_seed(self, seed)
        _set_call(self, call)
        _set_path(self, path)
        _set_labels(self, labels)

    def __setattr__(self, name: str, value: object) -> None:
        raise FrozenInstanceError(f"a Random cannot be changed, so {name!r} cannot be set; .child(), .at() and .select() make others.")

    def __delattr__(self, name: str) -> None:
        raise FrozenInstanceError(f"a Random cannot be changed, so {name!r} cannot be deleted.")

    def _fields(self) -> tuple[int, int, tuple[str | int, ...], tuple[int, ...] | None]:
        return self.seed, self.call, self.path, self.labels

    def __eq__(self, other: object) -> bool:
        return self._fields() == other._fields() if isinstance(other, Random) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._fields())

    def __reduce__(self) -> tuple[type[Random], tuple[Any, ...]]:
        return Random, self._fields()

    def __repr__(self) -> str:
        labels = "" if self.labels is None else f", labels={self.labels!r}"
        return f"Random(seed={self.seed!r}, call={self.call!r}, path={self.path!r}{labels})"

    def child(self, *names: str | int) -> Random:
        """The key of a part: ``random.child("poll")``, ``random.child("client", 3)``."""
        return Random(self.seed, self.call, (*self.path, *names), self.labels)

    def at(self, call: int) -> Random:
        """The key of another call; generational strategies draw by generation number."""
        return Random(self.seed, call, self.path, self.labels)

    def select(self, runs: Sequence[int]) -> Random:
        """The same key for these runs only, in this order: what is left once others have finished.

        ``random.select([5]).normal(shape)`` is row 5 of ``random.normal(shape, runs=(8,))``.

        Args:
            runs: Numbers of runs, counted among those this key is for.
        """
        chosen = tuple(index(run) for run in runs)
        if any(run < 0 for run in chosen):
            raise ValueError(f"runs are numbered from 0; got {chosen}.")
        if self.labels is not None:
            chosen = tuple(self.labels[run] for run in chosen)
        return Random(self.seed, self.call, self.path, chosen)

    def numpy(self, run: int | None = None) -> np.random.Generator:
        """A new numpy generator (Philox, 128-bit key), for libraries that want one.

        Args:
            run: Number of the run; None: this key's first.
        """
        return np.random.Generator(np.random.Philox(key=int.from_bytes(self._digest("numpy", 0, self._label(run))[:16], "little")))

    def torch(self, device: Device = "cpu", run: int | None = None) -> TorchGenerator:
        """A new torch generator.

        On the CPU its whole Mersenne Twister state comes from the key (``manual_seed`` keeps 32 bits of it); other
        devices are seeded with 64 bits. There is no generator for ``meta``: a CPU one is given, which meta tensors accept.

        Args:
            device: Where the generator draws.
            run: Number of the run; None: this key's first.
        """
        digest = self._digest("torch", 0, self._label(run))
        device = torch.device(device)
        if device.type not in ("cpu", "meta"):
            return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "little"))
        return torch.Generator().set_state(_engines.twister_state(digest))

    def normal(
        self,
        shape: Shape,
        *,
        mean: float = 0.0,
        std: float = 1.0,
        runs: Sequence[int] = (),
        dtype: Dtype = _FLOAT64,
        device: Device | None = None,
    ) -> Tensor:
        """Independent normal numbers.

        Args:
            shape: Shape of one run's numbers.
            mean: Their mean.
            std: Their standard deviation.
            runs: Run dimensions, numbered in row-major order; run m's numbers do not depend on how many there are.
            dtype: Floating type.
            device: Where the tensor lives; on ``meta`` nothing is drawn.

        Returns:
            Shape ``(*runs, *shape)``.
        """
        size, share = _sizes(shape, runs)
        where = None if device is None else _elsewhere(device)
        long = share >= _TWISTED and dtype is _FLOAT32 if where is None else share >= _SEEDED and where.type != "meta" and dtype in _DRAWN
        if long:
            drawn = torch.empty((math.prod(runs), share), dtype=dtype, device=where)
            for own, stream in zip(drawn.unbind(0), self.normal_streams(share, runs=runs, device=where), strict=True):
                own.normal_(mean, std, generator=stream)
            return drawn.view(size)
        z = self._standard_normal(size, share, runs, dtype, where)
        if std != 1.0:
            z = z.mul_(std)
        return z.add_(mean) if mean else z

    def normal_streams(self, share: int, *, runs: Sequence[int] = (), device: Device | None = None) -> Iterator[TorchGenerator]:
        """One torch generator for each run, to draw its normal numbers piece by piece: no memory is needed for all of them.

        On the CPU a piece holds a multiple of 16 numbers, but for the last one; drawn so in single precision, the pieces of a long row
        are together what ``normal`` gives at once.

        Args:
            share: How many numbers each run draws in all.
            runs: Run dimensions, as for ``normal``.
            device: Where the numbers are drawn.

        Yields:
            A generator, good until the next one is taken or this thread draws anything else.
        """
        where = None if device is None else _elsewhere(device)
        for label in self._labels(runs):
            digest = self._digest("normal", share, label)
            yield _engines.twister(digest) if where is None else _engines.seeded(where, digest)

    def _standard_normal(self, size: tuple[int, ...], share: int, runs: Sequence[int], dtype: Dtype, where: TorchDevice | None) -> Tensor:
        """Standard normal numbers that need no scaling on the way, as a new tensor."""
        if where is not None:
            if where.type == "meta":
                return torch.empty(size, dtype=dtype, device=where)
            return _device_normal(self._device_words("normal", share, runs, where), dtype).view(size)
        if share < _LONG:
            u = self._numbers("normal", share, runs, "float64")
            z = torch.from_numpy(ndtri(np.maximum(u, _ABOVE_ZERO)).reshape(size))
            return z if dtype is _FLOAT64 else z.to(dtype)
        labels = self._labels(runs)
        rows: _Array = np.empty((len(labels), share), dtype=np.float64 if dtype == torch.float64 else np.float32)
        for row, label in zip(rows, labels, strict=True):
            _engines.sfc(self._digest("normal", share, label)).standard_normal(dtype=rows.dtype.type, out=row)
        z = torch.from_numpy(rows.reshape(size))
        return z if z.dtype == dtype else z.to(dtype)

    def uniform(self, shape: Shape, *, runs: Sequence[int] = (), dtype: Dtype = _FLOAT64, device: Device | None = None) -> Tensor:
        """Independent uniform numbers in ``[0, 1)``: 0 may come, 1 never does, in any floating type.

        Args:
            shape: Shape of one run's numbers.
            runs: Run dimensions, as for ``normal``.
            dtype: Floating type.
            device: Where the tensor lives.

        Returns:
            Shape ``(*runs, *shape)``.
        """
        size, share = _sizes(shape, runs)
        where = None if device is None else _elsewhere(device)
        digits = _DIGITS[dtype]  # as many random bits as the type holds, so that rounding cannot reach 1
        if where is not None:
            if where.type == "meta":
                return torch.empty(size, dtype=dtype, device=where)
            words = self._device_words("uniform", share, runs, where)
            return _shift(words, 64 - digits).to(dtype).mul_(2.0**-digits).view(size)
        if dtype == torch.float64:
            return torch.from_numpy(self._numbers("uniform", share, runs, "float64").reshape(size))
        u = torch.from_numpy(self._numbers("uniform", share, runs, "float32").reshape(size))
        return u if dtype == torch.float32 else u.mul_(2.0**digits).floor_().mul_(2.0**-digits).to(dtype)

    def integers(self, high: int, shape: Shape, *, runs: Sequence[int] = (), device: Device | None = None) -> Tensor:
        """Independent integers, uniform over ``0 .. high - 1``.

        Args:
            high: Between 1 and 2^32. Probabilities differ by at most a factor ``1 + high / 2**53``.
            shape: Shape of one run's numbers.
            runs: Run dimensions, as for ``normal``.
            device: Where the tensor lives.

        Returns:
            Shape ``(*runs, *shape)``, int64.
        """
        high = index(high)
        if not 1 <= high <= 2**32:
            raise ValueError(f"high must be between 1 and 2**32 (integers are drawn from 0 to high - 1); got {high}.")
        size, share = _sizes(shape, runs)
        where = None if device is None else _elsewhere(device)
        if where is not None:
            if where.type == "meta":
                return torch.empty(size, dtype=torch.int64, device=where)
            words = self._device_words("integers", share, runs, where)
            return _shift(words, 11).to(_FLOAT64).mul_(2.0**-53).mul_(high).to(torch.int64).view(size)
        # A double below 1 times high rounds to a double below high, so the last value is high - 1.
        return torch.from_numpy((self._numbers("integers", share, runs, "float64") * high).astype(np.int64).reshape(size))

    def permutation(self, n: int, *, runs: Sequence[int] = (), device: Device | None = None) -> Tensor:
        """A random order of ``0 .. n - 1`` for each run.

        Args:
            n: How many items to order.
            runs: Run dimensions, as for ``normal``.
            device: Where the tensor lives.

        Returns:
            Shape ``(*runs, n)``, int64.
        """
        size, share = _sizes(n, runs)
        where = None if device is None else _elsewhere(device)
        if where is not None:
            if where.type == "meta":
                return torch.empty(size, dtype=torch.int64, device=where)
            return self._device_words("permutation", share, runs, where).view(size).argsort(-1)
        return torch.from_numpy(np.argsort(self._numbers("permutation", share, runs, "uint64").reshape(size), axis=-1))

    def _labels(self, runs: Sequence[int]) -> Sequence[int]:
        count = math.prod(runs)
        if self.labels is None:
            return range(count)
        if len(self.labels) != count:
            raise ValueError(f"this key is for {len(self.labels)} selected run(s), but runs={tuple(runs)} asks for {count} of them.")
        return self.labels

    def _label(self, run: int | None) -> int:
        if self.labels is None:
            return 0 if run is None else index(run)
        return self.labels[0 if run is None else run]

    def _digest(self, kind: str, share: int, label: int | None = None) -> bytes:
        """32 bytes; the text is injective, since every name is written with its length."""
        text = f"{kind} {share} {self.seed} {self.call}"
        for part in self.path:
            text += f"/{len(part)}:{part}" if isinstance(part, str) else f"/{part}"
        if label is not None:
            text += f"@{label}"
        return blake2b(text.encode(), digest_size=32).digest()

    def _numbers(self, kind: str, share: int, runs: Sequence[int], dtype: Literal["float64", "float32", "uint64"]) -> _Array:
        """``(runs, share)`` raw numbers (``(share,)`` for one run).

        Run m reads the m-th segment of one Philox stream, whoever else reads; very long rows have streams of their own.
        """
        if not runs and self.labels is None and share < _VERY_LONG:  # the commonest case, kept short
            return _take(_engines.philox(self._digest(kind, share)), share, dtype)
        labels = self._labels(runs)
        if not labels or not share:
            return np.empty((len(labels), share), dtype=dtype)
        if share >= _VERY_LONG:
            rows: _Array = np.empty((len(labels), share), dtype=dtype)
            for row, label in zip(rows, labels, strict=True):
                stream = _engines.sfc(self._digest(kind, share, label))
                if dtype == "uint64":
                    row[...] = _take(stream, share, dtype)
                else:
                    stream.random(out=row, dtype=rows.dtype.type)
            return rows
        digest = self._digest(kind, share)
        per_block = 8 if dtype == "float32" else 4
        blocks = -(-share // per_block)

        def read(first: int, count: int) -> _Array:
            return _take(_engines.philox(digest, first * blocks), count * blocks * per_block, dtype).reshape(count, -1)[:, :share]

        if isinstance(labels, range):
            return read(0, len(labels))
        low, high = min(labels), max(labels)
        if share < _LONG and high - low < _SPARSE * len(labels):
            chosen: _Array = read(low, high - low + 1)[np.asarray(labels) - low]
            return chosen
        return np.concatenate([read(first, count) for first, count in _segments(labels)])

    def _device_words(self, kind: str, share: int, runs: Sequence[int], device: Device) -> Tensor:
        """``(runs, share)`` words of 64 random bits as int64, made on the device without synchronising."""
        labels = self._labels(runs)
        digest = self._digest(kind, share)
        if isinstance(labels, range):
            counter = torch.arange(len(labels) * share, dtype=torch.int64, device=device).view(len(labels), share)
        else:
            first = torch.tensor(labels, dtype=torch.int64).to(device, non_blocking=True)
            counter = first.unsqueeze(-1) * share + torch.arange(share, dtype=torch.int64, device=device)
        keys = np.frombuffer(digest, np.int64, 2).tolist()
        return _hash_counter(counter, keys[0], keys[1])


# The class refuses assignment, so its own constructor writes through the slots; this is also the quickest way.
_set_seed = Random.__dict__["seed"].__set__
_set_call = Random.__dict__["call"].__set__
_set_path = Random.__dict__["path"].__set__
_set_labels = Random.__dict__["labels"].__set__

_DRAWN = (torch.float64, torch.float32)  # types in which torch's normal numbers have the tails they should
_ABOVE_ZERO = np.array(2.0**-54)  # 0 would give -inf
_MT_WORDS = 624
_DIGITS = {torch.float64: 53, torch.float32: 24, torch.float16: 11, torch.bfloat16: 8}


class _Engines(threading.local):
    """Generators of each thread, re-keyed in place: a draw ends before the next one begins, so nothing is shared."""

    def __init__(self) -> None:
        self._twister = torch.Generator()
        self._twister_state = self._twister.get_state()
        self._twister_words = self._twister_state.numpy().view(np.uint64)
        self._twister_words[1] = 1 | (1 << 32)  # "left = 1, seeded = 1": twist before the first number
        self._twister_words[2] = 0
        self._philox = np.random.Generator(np.random.Philox(key=0))
        self._sfc = np.random.Generator(np.random.SFC64(0))
        self._elsewhere: dict[TorchDevice, TorchGenerator] = {}

    def philox(self, digest: bytes, block: int = 0) -> np.random.Generator:
        """Philox keyed with the first 128 bits, at one block (of four 64-bit words) of its stream."""
        state: Any = {"counter": (block, 0, 0, 0), "key": _two_words(digest)}
        self._philox.bit_generator.state = {"bit_generator": "Philox", "state": state, **_NOTHING_BUFFERED}
        return self._philox

    def twister(self, digest: bytes) -> TorchGenerator:
        """Torch's Mersenne Twister with its whole state from the key."""
        return self._twister.set_state(self.twister_state(digest))

    def twister_state(self, digest: bytes) -> Tensor:
        """The state of such a generator; overwritten by the next one."""
        words = self.philox(digest).bit_generator.random_raw(_MT_WORDS // 2).view(np.uint32)
        self._twister_words[3 : 3 + _MT_WORDS] = words
        self._twister_words[3] |= np.uint64(1 << 31)  # it must not start from zero; only this bit of its first word counts
        return self._twister_state

    def seeded(self, device: TorchDevice, digest: bytes) -> TorchGenerator:
        """The generator of another device with 64 bits of the key as its seed; seeding it waits for nothing."""
        generator = self._elsewhere.get(device)
        if generator is None:
            generator = self._elsewhere[device] = torch.Generator(device)
        return generator.manual_seed(int.from_bytes(digest[:8], "little"))

    def sfc(self, digest: bytes) -> np.random.Generator:
        """SFC64 with 192 bits of state from the key and its own counter at 1."""
        state: Any = {"state": np.array((*_three_words(digest), 1), np.uint64)}
        self._sfc.bit_generator.state = {"bit_generator": "SFC64", "state": state, "has_uint32": 0, "uinteger": 0}
        return self._sfc


_NOTHING_BUFFERED: Any = {"buffer": (0, 0, 0, 0), "buffer_pos": 4, "has_uint32": 0, "uinteger": 0}
_two_words = Struct("<2Q").unpack_from
_three_words = Struct("<3Q").unpack_from
_engines = _Engines()


def _elsewhere(device: Device) -> torch.device | None:
    """The device, or None for the CPU."""
    where = torch.device(device)
    return None if where.type == "cpu" else where


def _sizes(shape: Shape, runs: Sequence[int]) -> tuple[tuple[int, ...], int]:
    """The whole shape and how many numbers one run gets."""
    own = (shape,) if isinstance(shape, int) else tuple(shape)
    return (*runs, *own), math.prod(own)


def _take(generator: np.random.Generator, size: int, dtype: Literal["float64", "float32", "uint64"]) -> _Array:
    """The next raw numbers of a stream; each kind uses up a fixed part of a 64-bit word."""
    numbers: _Array
    if dtype == "float64":
        numbers = generator.random(size)
    elif dtype == "float32":
        numbers = generator.random(size, dtype=np.float32)
    else:
        numbers = np.asarray(generator.bit_generator.random_raw(size))
    return numbers


def _segments(labels: Sequence[int]) -> Iterator[tuple[int, int]]:
    """First label and length of each stretch of consecutive labels."""
    first, count = labels[0], 1
    for label in labels[1:]:
        if label == first + count:
            count += 1
        else:
            yield first, count
            first, count = label, 1
    yield first, count


def _shift(words: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64 words (torch's own keeps the sign)."""
    return (words >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def _finalise(words: Tensor) -> Tensor:
    """The finaliser of SplitMix64, in place: a bijection of 64-bit words in which every input bit reaches every output bit."""
    words ^= _shift(words, 30)
    words *= 0xBF58476D1CE4E5B9 - 2**64
    words ^= _shift(words, 27)
    words *= 0x94D049BB133111EB - 2**64
    words ^= _shift(words, 31)
    return words


def _hash_counter(counter: Tensor, first_key: int, second_key: int) -> Tensor:
    """Hashes int64 counters under a 128-bit key, in place.

    One finaliser alone would make all streams windows into one sequence; the second key, between two of them, makes
    streams that overlap in the first round unrelated.
    """
    counter *= 0x9E3779B97F4A7C15 - 2**64
    counter += first_key
    return _finalise(_finalise(counter).bitwise_xor_(second_key))


def _device_normal(words: Tensor, dtype: torch.dtype) -> Tensor:
    """Normal numbers by the inverse CDF: 63 bits choose the lower tail's probability, one the side.

    Small probabilities keep their precision in any floating type, so single precision has the tails of double.
    """
    wide = dtype if dtype in (torch.float64, torch.float32) else torch.float32
    tail = _shift(words, 1).to(wide).clamp_min_(1.0).mul_(2.0**-64)
    side = (words & 1).to(wide).mul_(2).sub_(1)
    normal: Tensor = torch.special.ndtri(tail)
    return normal.mul_(side).to(dtype)
