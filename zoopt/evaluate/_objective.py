"""A user's function on its way to where it is called. Imports nothing heavy: every worker process reads this."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from importlib.machinery import ModuleSpec
from typing import Any

from zoopt.errors import ConfigError
from zoopt.evaluate.outcome import Outcome, call_objective, describe


class Objective:
    """A function of one trial as a picklable callable that takes the parameters and gives an Outcome, whatever happens."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._pickled: bytes | None = None

    def __call__(self, params: Mapping[str, Any]) -> Outcome:
        return call_objective(self._function, params)

    def __reduce__(self) -> tuple[Any, ...]:
        if self._pickled is None:  # once, not for each trial
            self._pickled = dumps(self._function)
        return _restore, (self._pickled,)


@lru_cache(maxsize=8)
def _restore(pickled: bytes) -> Objective:
    return Objective(pickle.loads(pickled))


def dumps(thing: Any) -> bytes:
    """Pickles by cloudpickle, so that functions of a notebook, a script or a prompt work in another process.

    A module that another interpreter could not import (made at run time) is sent along by value.

    Raises:
        ConfigError: It cannot be pickled.
    """
    import cloudpickle

    module = sys.modules.get(getattr(thing, "__module__", None) or type(thing).__module__)
    by_value = module is not None and module.__name__ != "__main__" and not _importable(module.__name__)
    try:
        if by_value:
            cloudpickle.register_pickle_by_value(module)
        data: bytes = cloudpickle.dumps(thing)
    except ConfigError:  # of an Objective inside, which has said it
        raise
    except Exception as error:
        raise ConfigError(
            f"{thing!r} cannot be sent to a worker process ({describe(error)}). Keep open files, locks, connections and the like "
            "out of it and make them inside the function; or run it in this process, with Batched(...) or "
            "executor=ThreadPoolExecutor()."
        ) from error
    finally:
        if by_value:
            cloudpickle.unregister_pickle_by_value(module)
    return data


def _importable(name: str) -> bool:
    """Whether a fresh interpreter with our path would find this module. Not asked of sys.modules, which holds more than that."""
    path: Sequence[str] | None = None
    parts = name.split(".")
    for k in range(len(parts)):
        spec = _find(".".join(parts[: k + 1]), path)
        if spec is None:
            return False
        path = spec.submodule_search_locations
    return True


def _find(name: str, path: Sequence[str] | None) -> ModuleSpec | None:
    for finder in sys.meta_path:
        try:
            spec = finder.find_spec(name, path)
        except (ImportError, AttributeError, ValueError):
            continue
        if spec is not None:
            return spec
    return None
