"""Surrogates: recipes that fit BoTorch models to what was observed. Names resolve lazily."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from zoopt import registry

if TYPE_CHECKING:
    from zoopt.surrogates.base import Surrogate as Surrogate
    from zoopt.surrogates.base import TrainingData as TrainingData
    from zoopt.surrogates.gp import GP as GP
    from zoopt.surrogates.special import SAAS as SAAS
    from zoopt.surrogates.special import HeteroscedasticGP as HeteroscedasticGP
    from zoopt.surrogates.special import MultiTaskGP as MultiTaskGP
    from zoopt.surrogates.special import RobustGP as RobustGP
    from zoopt.surrogates.special import WarpedGP as WarpedGP

_BASE = ("Surrogate", "TrainingData")


def __getattr__(name: str) -> Any:
    registered = registry.exports("surrogates").get(name)
    if registered is not None:
        value = registry.load(registered, "surrogates")
    elif name in _BASE:
        value = getattr(importlib.import_module("zoopt.surrogates.base"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_BASE, *registry.exports("surrogates")})
