"""Consensus-based optimization: particles that agree on where the best of them are, and explore in proportion to their disagreement.

One idea a module: the consensus point (``consensus``), the random step around it (``diffusion``), the bounds (``folding``),
and the strategies made of them (``particles``, ``hopping``), which ``zoopt.strategies`` has under their names. Nothing is
imported here: listings look into this package without loading torch.
"""
