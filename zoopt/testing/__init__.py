"""The contract tests: what every strategy must keep, ours and a plug-in's alike.

Run them over your own strategy with pytest, on the small task it brings along (``Strategy.example_task``):

    @pytest.mark.parametrize("contract", zoopt.testing.CONTRACTS, ids=lambda c: c.__name__)
    def test_contract(contract):
        reason = zoopt.testing.run_contract(contract, MyStrategy, seed=0)
        if reason is not None:
            pytest.skip(reason)

Whether a strategy learns is told by runs beside runs of random search, with a rank test that chance passes in 1 of 100 cases; where a
strategy needs more evaluations for that, give its example more. How long a contract talks with a strategy depends on the budget
of that example too: at most 100 evaluations mean that the strategy thinks long before each proposal, and conversations are short.
"""

from zoopt.testing import _asking, _batched, _learning, _manners, _resuming, _telling  # noqa: F401 - they fill CONTRACTS
from zoopt.testing._cases import Case, cases_for, spaces_for, sphere_example
from zoopt.testing._contract import CONTRACTS, Contract, ContractDoesNotApply, Factory, run_contract

__all__ = [
    "CONTRACTS",
    "Case",
    "Contract",
    "ContractDoesNotApply",
    "Factory",
    "cases_for",
    "run_contract",
    "spaces_for",
    "sphere_example",
]
