"""Who computes the objective: this process (batched), worker processes, any executor, a command.

Names resolve lazily, so that importing this package (which every worker process does) loads neither numpy nor torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoopt.evaluate.batched import Batched as Batched
    from zoopt.evaluate.batched import BatchOutcome as BatchOutcome
    from zoopt.evaluate.command import Command as Command
    from zoopt.evaluate.evaluator import Evaluator as Evaluator
    from zoopt.evaluate.evaluator import as_evaluator as as_evaluator
    from zoopt.evaluate.evaluator import check as check
    from zoopt.evaluate.evaluator import duration as duration
    from zoopt.evaluate.executor import OnExecutor as OnExecutor
    from zoopt.evaluate.outcome import Outcome as Outcome
    from zoopt.evaluate.processes import Processes as Processes
    from zoopt.evaluate.processes import WorkerDied as WorkerDied
    from zoopt.evaluate.processes import WorkerPool as WorkerPool

_HOME = {
    "Batched": "batched",
    "BatchOutcome": "batched",
    "Command": "command",
    "Evaluator": "evaluator",
    "as_evaluator": "evaluator",
    "check": "evaluator",
    "duration": "evaluator",
    "OnExecutor": "executor",
    "Outcome": "outcome",
    "Processes": "processes",
    "WorkerDied": "processes",
    "WorkerPool": "processes",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'zoopt.evaluate' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"zoopt.evaluate.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
