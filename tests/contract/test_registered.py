"""All contracts over every registered strategy, none of them named here."""

from __future__ import annotations

import pytest

from zoopt import registry
from zoopt.testing import CONTRACTS, Contract, run_contract


@pytest.mark.parametrize("name", registry.names())
@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda c: c.__name__)
def test_registered(contract: Contract, name: str, seed: int) -> None:
    try:
        recipe = registry.load(name)
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("zoopt.strategies."):
            raise
        pytest.skip(f"{name} is not written yet")
    reason = run_contract(contract, recipe, seed=seed)
    if reason is not None:
        pytest.skip(reason)
