"""Consensus-based optimization: particles that agree on where the best of them are, and explore in proportion to their disagreement.

One idea a module: the consensus point (``consensus``), the random step around it (``diffusion``), the bounds (``folding``),
and the strategies made of them.
"""

from zoopt.strategies.cbo.hopping import ConsensusHopping
from zoopt.strategies.cbo.particles import CBO

__all__ = ["CBO", "ConsensusHopping"]
