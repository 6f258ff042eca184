"""Moving points that break a known constraint to valid ones nearby.

A point off a linear equality is moved onto it. What still breaks a constraint moves along the segment to a valid point
(an "anchor", of those that ``zoopt.region`` remembers) until it is just inside; what is returned was found valid as it is.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.spatial.distance import cdist
from torch import Tensor

from zoopt.constraints import Mask
from zoopt.random import Random
from zoopt.variables import Floats

if TYPE_CHECKING:
    from zoopt.region import Region
    from zoopt.space import Space

_ANCHORS = 16  # random ones that points may be moved towards
_HALVINGS = 24  # a point may come to lie within this power of two of the way to its anchor
_LOOKS = 5  # bisections that find the power of two
_TARGETS, _BISECTIONS = 3, 24  # nearest anchors that a point is moved towards (the nearest result counts), and bisections after the looks
_TARGETS_OF_CALLS, _BISECTIONS_OF_CALLS = 1, 3  # the same where each calls a predicate


def move(space: Space, x: Tensor, random: Random, fixed: Collection[int]) -> Tensor:
    """The snapped points ``(..., d)``, those that break a constraint moved; columns in ``fixed`` stay as they are.

    Raises:
        SpaceError: No valid point was found.
    """
    points = x.detach().to("cpu", torch.float64).reshape(-1, space.dim).numpy()
    allowed = space.allowed(points)
    if allowed.all():
        return x
    broken = np.flatnonzero(~allowed)
    moved = points.copy()
    held = sorted(fixed)
    given = points[broken][:, held]
    for values in dict.fromkeys(map(tuple, given.tolist())):  # usually one combination, or none
        rows = broken[(given == np.array(values)).all(-1)]
        given_columns = dict(zip(held, values, strict=True))
        near = anchors(space, random, given_columns, x.dtype)
        moved[rows] = _towards(space, space.region(given_columns, x.dtype), points[rows], near)
    return torch.from_numpy(moved).to(x).reshape(x.shape)


def anchors(space: Space, random: Random, fixed: Mapping[int, float], dtype: torch.dtype) -> Floats:
    """Some valid points with the given columns, ``(a, d)``, ``a >= 1``.

    Raises:
        SpaceError: None was found.
    """
    key = Random(random.seed, random.call, (*random.path, "anchors"))  # the same whichever runs are left
    return space.region(fixed, dtype).anchors(_ANCHORS, key)


def _towards(space: Space, region: Region, points: Floats, anchors: Floats) -> Floats:
    """The nearest valid points found on the segments from each point to its nearest anchors."""
    calls = not all(constraint.vectorised for constraint in space.constraints)
    targets, bisections = (_TARGETS_OF_CALLS, _BISECTIONS_OF_CALLS) if calls else (_TARGETS, _BISECTIONS)
    scale = 1.0 / space.width
    start, _ = region.settled(points)
    nearest = np.argsort(cdist(start * scale, anchors * scale), axis=1)[:, :targets]
    best, distance = points, np.full(len(points), np.inf)
    for target in nearest.T:
        end = anchors[target]
        found = end.copy()

        def look(share: Floats, start: Floats = start, end: Floats = end, found: Floats = found) -> Mask:
            trial, allowed = region.settled(start + share[:, None] * (end - start))
            allowed[allowed] = space.allowed(trial[allowed])
            found[allowed] = trial[allowed]
            return allowed

        # How far it is to the border is sought by its power of two first: the nearer, the finer.
        inside, outside = np.zeros(len(points)), np.full(len(points), _HALVINGS + 1.0)
        for _ in range(_LOOKS):
            middle = np.floor((inside + outside) / 2)
            allowed = look(2.0**-middle)
            inside, outside = np.where(allowed, middle, inside), np.where(allowed, outside, middle)
        near, far = np.where(outside > _HALVINGS, 0.0, 2.0**-outside), 2.0**-inside
        for _ in range(bisections):
            middle = (near + far) / 2
            allowed = look(middle)
            near, far = np.where(allowed, near, middle), np.where(allowed, middle, far)
        length = (((found - points) * scale) ** 2).sum(-1)
        better = length < distance
        best, distance = np.where(better[:, None], found, best), np.where(better, length, distance)
    return best
