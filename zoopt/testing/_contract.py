"""What a contract is, how one is run, and how it says that it does not concern a strategy."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Protocol

from zoopt.strategy import Strategy

Factory = Callable[[], Strategy[Any]]


class ContractDoesNotApply(Exception):
    """This contract says nothing about this strategy; the message says why."""


class Contract(Protocol):
    """One demand on every strategy; its docstring says what it demands."""

    __name__: str

    def __call__(self, factory: Factory, *, seed: int) -> None:
        """Check the strategy that ``factory`` makes.

        Args:
            factory: Gives a recipe, an equal one each time.
            seed: Decides everything that is left to chance.

        Raises:
            AssertionError: The strategy does not keep this contract; the message says how.
            ContractDoesNotApply: The contract does not concern this strategy.
        """


CONTRACTS: list[Contract] = []
"""Every contract there is, for ``run_contract``."""


def contract(function: Callable[[Factory, int], None]) -> Contract:
    """Register a check among ``CONTRACTS``; whatever it raises on the way is a failure of the strategy."""

    @wraps(function)
    def held(factory: Factory, *, seed: int) -> None:
        try:
            function(factory, seed)
        except (AssertionError, ContractDoesNotApply):
            raise
        except Exception as error:
            raise AssertionError(f"{type(error).__name__}: {error}") from error

    CONTRACTS.append(held)
    return held


def run_contract(contract: Contract, factory: Factory, *, seed: int) -> str | None:
    """Run one contract.

    Returns:
        None when the strategy keeps it; why it does not apply otherwise.

    Raises:
        AssertionError: The strategy does not keep it; the message names contract, strategy, seed and the difference.
    """
    try:
        contract(factory, seed=seed)
    except ContractDoesNotApply as reason:
        return str(reason)
    except AssertionError as error:
        raise AssertionError(f"{type(factory()).__name__} breaks {contract.__name__} (seed {seed}): {error}") from error
    return None


def learner(factory: Factory) -> Strategy[Any]:
    """The recipe of a strategy that learns; for others the contract does not apply."""
    recipe = factory()
    if not recipe.capabilities.learns:
        raise ContractDoesNotApply("it does not learn, and says so.")
    return recipe


def require(condition: object, message: str) -> None:
    """Raise an ``AssertionError`` unless the condition holds; unlike ``assert`` it also works under ``python -O``."""
    if not condition:
        raise AssertionError(message)
