"""Bayesian optimization: a surrogate of everything told so far, and the point whose evaluation promises most.

One idea a module: the strategy (``recipe``), the fitted models and what they promise (``models``), the acquisition function
of noisy and constrained objectives (``improvement``), and the search for its maximum over the space (``search``). Nothing is
imported here: listings look into this package without loading torch.
"""
