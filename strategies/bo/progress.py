"""What is left to gain: the chance that a noticeably better point remains."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from zoopt.strategies.bo.acquisitions import ProbabilityOfImprovement
from zoopt.strategies.bo.models import best_first, root_of

if TYPE_CHECKING:
    from zoopt.random import Random
    from zoopt.strategies.bo.models import Fitted

_SPREAD = 512  # points spread over the space
_NEAR = 128  # points near the incumbents
_WORLDS = 512  # joint posterior samples
_PART = 0.01  # of the range of values, an improvement that is noticed where there is less noise


def left_to_gain(fitted: Fitted, noticeable: float | None, random: Random) -> tuple[float, float]:
    """The chance that some feasible point is better than the incumbent by a noticeable margin, and the mean gain of the best point.

    Over joint samples of all models at points spread over the space, near the incumbents, and where an improvement by that margin is the
    most likely: the worlds in which the best of them is that good. The incumbent is the told point of the least expected value that is
    feasible as far as is expected; while there is none, any feasible point is an improvement, and the gain is infinite.

    Args:
        fitted: Models of one objective and of the limits.
        noticeable: The margin, in the units in which values are told; None: the standard deviation of the noise, at least a hundredth of
            the range of values.
        random: Key.
    """
    unit = float(fitted.units[0])
    margin = max(fitted.noise_variance**0.5, _PART * fitted.range_of_values) if noticeable is None else noticeable / unit
    search = fitted.search
    likely = search.maximise(
        ProbabilityOfImprovement(margin / fitted.range_of_values).promise(fitted), fitted.incumbents, 256, 4, random.child("likely")
    )
    places = [
        search.spread(_SPREAD, random.child("spread")),
        search.around(fitted.incumbents, _NEAR, random.child("near")),
        fitted.incumbents,
    ]
    x = torch.unique(torch.cat([*places, *([] if likely is None else [likely.unsqueeze(0)])]), dim=0)
    drawn = []
    for k, model in enumerate((fitted.objective, *fitted.limits)):
        with torch.no_grad():
            posterior = model.posterior(x)
            root = root_of(posterior.distribution.covariance_matrix)
            drawn.append(posterior.mean.squeeze(-1) + random.child("worlds", k).normal((_WORLDS, len(x))) @ root.mT)
    value = drawn[0]
    for limit in drawn[1:]:
        value = torch.where(limit <= 0, value, torch.inf)
    least = value.amin(-1)
    values, violation = fitted.anticipated
    first = best_first(values, violation)[0]
    if float(violation[first]) > 0:
        return float(torch.isfinite(least).to(least.dtype).mean()), torch.inf
    gain = (values[first] - least).clamp_min(0.0)
    return float((gain > margin).to(gain.dtype).mean()), float(gain.mean()) * unit
