"""The seed of the contract tests: fixed, or ``ZOOPT_SEED=1234``, or ``ZOOPT_SEED=fresh`` for a new one, printed above the tests."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for edge_strategies: the tests are no package

_GIVEN = os.environ.get("ZOOPT_SEED", "0")
SEED = int.from_bytes(os.urandom(4), "little") if _GIVEN == "fresh" else int(_GIVEN)


def pytest_report_header() -> str:
    return f"contract tests: ZOOPT_SEED={SEED}"


@pytest.fixture(scope="session")
def seed() -> int:
    return SEED
