"""zoopt: zeroth-order and black-box optimization behind one ask-tell engine.

Names resolve lazily, so that ``import zoopt`` loads neither torch nor BoTorch.
"""

from __future__ import annotations

import importlib
import logging
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoopt.errors import AlreadyTold as AlreadyTold
    from zoopt.errors import CapabilityError as CapabilityError
    from zoopt.errors import ConfigError as ConfigError
    from zoopt.errors import Exhausted as Exhausted
    from zoopt.errors import FeedbackError as FeedbackError
    from zoopt.errors import NotReady as NotReady
    from zoopt.errors import ZooptError as ZooptError
    from zoopt.evaluate import Batched as Batched
    from zoopt.evaluate import Command as Command
    from zoopt.feedback import Candidates as Candidates
    from zoopt.feedback import Evaluation as Evaluation
    from zoopt.feedback import Observations as Observations
    from zoopt.loop import Result as Result
    from zoopt.loop import minimize as minimize
    from zoopt.pool import Pool as Pool
    from zoopt.random import Random as Random
    from zoopt.restore import read as read
    from zoopt.space import Bool as Bool
    from zoopt.space import Choice as Choice
    from zoopt.space import Context as Context
    from zoopt.space import Environment as Environment
    from zoopt.space import Fidelity as Fidelity
    from zoopt.space import Fixed as Fixed
    from zoopt.space import Integer as Integer
    from zoopt.space import Linear as Linear
    from zoopt.space import Real as Real
    from zoopt.space import Space as Space
    from zoopt.strategy import Capabilities as Capabilities
    from zoopt.strategy import Request as Request
    from zoopt.strategy import State as State
    from zoopt.strategy import Strategy as Strategy
    from zoopt.strategy import Task as Task
    from zoopt.study import Study as Study
    from zoopt.trials import Batch as Batch
    from zoopt.trials import Trial as Trial

_HOME = {
    "Batched": "evaluate",
    "Command": "evaluate",
    "AlreadyTold": "errors",
    "CapabilityError": "errors",
    "ConfigError": "errors",
    "Exhausted": "errors",
    "FeedbackError": "errors",
    "NotReady": "errors",
    "ZooptError": "errors",
    "Candidates": "feedback",
    "Evaluation": "feedback",
    "Observations": "feedback",
    "Pool": "pool",
    "Result": "loop",
    "minimize": "loop",
    "Random": "random",
    "read": "restore",
    "Bool": "space",
    "Choice": "space",
    "Context": "space",
    "Environment": "space",
    "Fidelity": "space",
    "Fixed": "space",
    "Integer": "space",
    "Linear": "space",
    "Real": "space",
    "Space": "space",
    "Capabilities": "strategy",
    "Request": "strategy",
    "State": "strategy",
    "Strategy": "strategy",
    "Task": "strategy",
    "Study": "study",
    "Batch": "trials",
    "Trial": "trials",
}
__all__ = sorted(_HOME)
__version__ = "0.1.0"
_DISTRIBUTION = "zoopt-toolkit"  # another project on PyPI is called zoopt: see _clash.py

logging.getLogger("zoopt").addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'zoopt' has no attribute {name!r}")
    try:
        value = getattr(importlib.import_module(f"zoopt.{home}"), name)
    except ImportError as error:
        from zoopt import _clash

        if (reason := _clash.explain()) is not None:
            raise ImportError(f"zoopt.{name}: {reason}") from error
        raise
    if name in ("Study", "minimize"):  # what every program uses
        from zoopt import _clash

        if (reason := _clash.explain()) is not None:
            warnings.warn(reason, stacklevel=2)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
