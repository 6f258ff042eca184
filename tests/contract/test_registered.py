"""All contracts over every registered strategy, none of them named here."""

from __future__ import annotations

import pytest

from zoopt import registry
from zoopt.testing import CONTRACTS, Contract, run_contract


@pytest.mark.parametrize("name", registry.names())
@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda c: c.__name__)
def test_registered(contract: Contract, name: str, seed: int) -> None:
    reason = run_contract(contract, registry.load(name), seed=seed)
    if reason is not None:
        pytest.skip(reason)
