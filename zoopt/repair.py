"""Moving points that break a known constraint to valid ones nearby.

Valid points ("anchors") are looked for by rejection sampling, then by the widest point of the linear constraints, since
chance seldom finds a thin region. A point that breaks a constraint moves along the segment to an anchor until it is just
inside; the segment is bisected, and what is returned has been found valid as it is.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.spatial.distance import cdist
from torch import Tensor

from zoopt.errors import SpaceError
from zoopt.random import Random
from zoopt.variables import Floats

if TYPE_CHECKING:
    from zoopt.space import Space

_SAMPLES = 100_000  # tried in all before a space counts as having no valid point
_BATCH = 512
_PATIENCE = 8_192  # tried before few anchors are enough
_ANCHORS = 16  # wanted
_TARGETS = 3  # nearest anchors that each point is moved towards; the nearest result counts
_BISECTIONS = 26
_REMEMBERED = 16  # centres of the linear constraints for the last contexts


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
        near = anchors(space, random, dict(zip(held, values, strict=True)), x.dtype)
        moved[rows] = _towards(space, points[rows], near, x.dtype)
    return torch.from_numpy(moved).to(x).reshape(x.shape)


def _towards(space: Space, points: Floats, anchors: Floats, dtype: torch.dtype) -> Floats:
    """The nearest valid points found on the segments from each point to its nearest anchors."""
    scale = 1.0 / space.width
    nearest = np.argsort(cdist(points * scale, anchors * scale), axis=1)[:, :_TARGETS]
    best, distance = points, np.full(len(points), np.inf)
    for targets in nearest.T:
        end = anchors[targets]
        found = end.copy()
        out, inside = np.zeros(len(points)), np.ones(len(points))
        for _ in range(_BISECTIONS):
            middle = (out + inside) / 2
            trial = _rounded(space.snap_numpy(points + middle[:, None] * (end - points)), dtype)
            allowed = space.allowed(trial)
            found[allowed] = trial[allowed]
            out, inside = np.where(allowed, out, middle), np.where(allowed, middle, inside)
        length = (((found - points) * scale) ** 2).sum(-1)
        better = length < distance
        best, distance = np.where(better[:, None], found, best), np.where(better, length, distance)
    return best


def anchors(space: Space, random: Random, fixed: Mapping[int, float], dtype: torch.dtype) -> Floats:
    """Some valid points with the given columns, ``(a, d)``, ``a >= 1``.

    Raises:
        SpaceError: None was found.
    """
    key = Random(random.seed, random.call, (*random.path, "anchors"))  # the same whichever runs are left
    first = _completed(space, space.start[None], fixed, dtype)  # the user's own default is a good try
    linear = any(constraint.linear for constraint in space.constraints)
    found, tried = _sampled(space, _ANCHORS, _BATCH if linear else _PATIENCE, key, fixed, dtype)
    found = np.concatenate([first[space.allowed(first)], found])
    if linear and len(found) < _ANCHORS:
        found = np.concatenate([found, _widest(space, key, fixed, dtype)])
    if not len(found):
        found, more = _sampled(space, 1, _SAMPLES - tried, key.child("more"), fixed, dtype)
        tried += more
    if not len(found):
        texts = "; ".join(constraint.text for constraint in space.constraints)
        given = {space.columns[i].name for i in fixed}
        held = f" with {', '.join(sorted(given))} as given" if given else ""
        raise SpaceError(f"no valid point{held} was found in {tried:,} samples: do the constraints leave room? They are: {texts}.")
    return found


def valid_samples(space: Space, n: int, random: Random, fixed: Mapping[int, float], dtype: torch.dtype) -> Floats:
    """Up to ``n`` valid points by rejection; fewer where hardly any is met."""
    return _sampled(space, n, max(_PATIENCE, 20 * n), random.child("valid"), fixed, dtype)[0][:n]


def _sampled(
    space: Space, wanted: int, patience: int, random: Random, fixed: Mapping[int, float], dtype: torch.dtype
) -> tuple[Floats, int]:
    """Valid points by rejection until enough are found or tried; and how many were tried."""
    found = [np.empty((0, space.dim))]
    tried = count = 0
    batch = max(_BATCH, wanted)
    while tried < patience and count < wanted:
        batch = min(batch, patience - tried)
        x = _uniform(space, batch, random.child(tried), fixed, dtype)
        found.append(x[space.allowed(x)])
        count += len(found[-1])
        tried += batch
        batch *= 2
    return np.concatenate(found), tried


def _uniform(space: Space, n: int, random: Random, fixed: Mapping[int, float], dtype: torch.dtype) -> Floats:
    return _completed(space, space.from_unit_numpy(random.uniform((n, space.dim)).numpy()), fixed, dtype)


def _completed(space: Space, x: Floats, fixed: Mapping[int, float], dtype: torch.dtype) -> Floats:
    """Points with the given columns put in, snapped, and rounded as the result will be."""
    x = x.copy()
    x[:, list(fixed)] = list(fixed.values())
    return _rounded(space.snap_numpy(x), dtype)


def _rounded(x: Floats, dtype: torch.dtype) -> Floats:
    if dtype == torch.float64:
        return x
    rounded: Floats = torch.from_numpy(x).to(dtype).to(torch.float64).numpy()
    return rounded


def _widest(space: Space, random: Random, fixed: Mapping[int, float], dtype: torch.dtype) -> Floats:
    """Valid points around the centre of the linear constraints; columns that none of them names are drawn."""
    key = tuple(sorted(fixed.items()))
    if key not in space._centres:  # it depends on nothing else, so the space may remember it
        if len(space._centres) >= _REMEMBERED:
            space._centres.clear()
        space._centres[key] = _centre(space, fixed)
    centre = space._centres[key]
    if centre is None:
        return np.empty((0, space.dim))
    x = _uniform(space, _BATCH, random.child("widest"), fixed, dtype)
    named = space.linear_system()[0].any(0)
    x[:, named] = centre[named]
    x = _completed(space, x, fixed, dtype)
    return x[space.allowed(x)][:_ANCHORS]


def _centre(space: Space, fixed: Mapping[int, float]) -> Floats | None:
    """The middle of the largest ball inside the linear constraints, in units of the variables' ranges, ``(d,)``.

    One mixed-integer linear program; None where it has no solution.
    """
    rows, lower, upper = space.linear_system()
    integer = np.array([column.kind != "real" for column in space.columns])
    free = np.isinf(space.high)
    origin = np.where(free, space.decode_numpy(space.start), space.low)
    span = np.where(free, space.decode_numpy(space.start + 1.0) - origin, space.high - space.low)
    unit = np.where(integer, 1.0, span)  # z = origin + unit y
    radius = np.sqrt(((rows * span) ** 2).sum(-1, keepdims=True))  # how much a step of the ball's radius adds at most
    scaled, shift = rows * unit / radius, rows @ origin / radius[:, 0]
    bounded = np.eye(space.dim)[~integer & ~free]
    ones = np.ones((len(bounded), 1))
    sides = [
        LinearConstraint(np.hstack([scaled, np.ones_like(radius)]), ub=upper / radius[:, 0] - shift),
        LinearConstraint(np.hstack([scaled, -np.ones_like(radius)]), lb=lower / radius[:, 0] - shift),
        LinearConstraint(np.hstack([bounded, ones]), ub=1.0),
        LinearConstraint(np.hstack([bounded, -ones]), lb=0.0),
    ]
    least = np.where(free, -np.inf, 0.0)
    most = np.where(free, np.inf, np.where(integer, span, 1.0))
    z = space.decode_numpy(_completed(space, space.start[None], fixed, torch.float64))[0]
    for i in fixed:
        least[i] = most[i] = (z[i] - origin[i]) / unit[i]
    result = milp(
        np.append(np.zeros(space.dim), -1.0),  # the largest radius
        integrality=np.append(integer, False),
        bounds=Bounds(np.append(least, 0.0), np.append(most, 0.5)),
        constraints=[side for side in sides if len(side.A)],
    )
    return None if result.x is None else space.encode_numpy(origin + unit * result.x[:-1])
