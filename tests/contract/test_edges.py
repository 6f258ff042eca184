"""All contracts over the strategies that use the contract at its edges."""

from __future__ import annotations

import pytest
from edge_strategies import EDGES

from zoopt.testing import CONTRACTS, Contract, run_contract


@pytest.mark.parametrize("name", EDGES)
@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda c: c.__name__)
def test_edge(contract: Contract, name: str, seed: int) -> None:
    reason = run_contract(contract, EDGES[name], seed=seed)
    if reason is not None:
        pytest.skip(reason)
