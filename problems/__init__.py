"""Batched test problems with their space, constraints and known optimum. Names resolve lazily."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zoopt import registry

if TYPE_CHECKING:
    from zoopt.problems.constrained import Gramacy as Gramacy
    from zoopt.problems.engineering import GKXWC1 as GKXWC1
    from zoopt.problems.engineering import GKXWC2 as GKXWC2
    from zoopt.problems.engineering import JLH1 as JLH1
    from zoopt.problems.engineering import JLH2 as JLH2
    from zoopt.problems.engineering import CantileverBeam as CantileverBeam
    from zoopt.problems.engineering import CarSideImpact as CarSideImpact
    from zoopt.problems.engineering import CompressionSpring as CompressionSpring
    from zoopt.problems.engineering import ConstrainedAckley as ConstrainedAckley
    from zoopt.problems.engineering import HeatExchanger as HeatExchanger
    from zoopt.problems.engineering import KeaneBump as KeaneBump
    from zoopt.problems.engineering import PressureVessel as PressureVessel
    from zoopt.problems.engineering import ReinforcedConcreteBeam as ReinforcedConcreteBeam
    from zoopt.problems.engineering import SpeedReducer as SpeedReducer
    from zoopt.problems.engineering import ThreeTruss as ThreeTruss
    from zoopt.problems.engineering import WeldedBeam as WeldedBeam
    from zoopt.problems.multiobjective import ZDT1 as ZDT1
    from zoopt.problems.multiobjective import BraninCurrin as BraninCurrin
    from zoopt.problems.synthetic import Ackley as Ackley
    from zoopt.problems.synthetic import Branin as Branin
    from zoopt.problems.synthetic import Ellipsoid as Ellipsoid
    from zoopt.problems.synthetic import Griewank as Griewank
    from zoopt.problems.synthetic import Hartmann6 as Hartmann6
    from zoopt.problems.synthetic import Levy as Levy
    from zoopt.problems.synthetic import Rastrigin as Rastrigin
    from zoopt.problems.synthetic import Rosenbrock as Rosenbrock
    from zoopt.problems.synthetic import Sphere as Sphere
    from zoopt.problems.synthetic import StyblinskiTang as StyblinskiTang


def __getattr__(name: str) -> Any:
    registered = registry.exports("problems").get(name)
    if registered is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = registry.load(registered, "problems")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *registry.exports("problems")})
