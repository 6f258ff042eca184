"""One method a file or a folder. Names resolve lazily, so that importing this package loads neither torch nor any strategy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zoopt import registry

if TYPE_CHECKING:  # what a type checker and an editor see; at run time the entry points decide
    from zoopt.strategies.bo.recipe import BO as BO
    from zoopt.strategies.bo.trust_region import TuRBO as TuRBO
    from zoopt.strategies.cbo.auto import AutoCBO as AutoCBO
    from zoopt.strategies.cbo.hopping import ConsensusHopping as ConsensusHopping
    from zoopt.strategies.cbo.particles import CBO as CBO
    from zoopt.strategies.cbo.saddle import SaddleCBO as SaddleCBO
    from zoopt.strategies.cbo.sampling import CBS as CBS
    from zoopt.strategies.cma_es import CMAES as CMAES
    from zoopt.strategies.de import DE as DE
    from zoopt.strategies.nsga2 import NSGA2 as NSGA2
    from zoopt.strategies.pso import PSO as PSO
    from zoopt.strategies.random import RandomSearch as RandomSearch
    from zoopt.strategies.relay import Relay as Relay
    from zoopt.strategies.sobol import Sobol as Sobol


def __getattr__(name: str) -> Any:
    registered = registry.exports("strategies").get(name)
    if registered is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = registry.load(registered, "strategies")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *registry.exports("strategies")})
