"""Surrogates: recipes that fit BoTorch models to what was observed. Names resolve lazily."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoopt.surrogates.base import Surrogate as Surrogate
    from zoopt.surrogates.base import TrainingData as TrainingData
    from zoopt.surrogates.gp import GP as GP

_HOME = {"GP": "gp", "Surrogate": "base", "TrainingData": "base"}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'zoopt.surrogates' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"zoopt.surrogates.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
