"""Bayesian optimization: a surrogate of everything told so far, and the point whose evaluation promises most.

One idea a module: the strategy (``recipe``), the models of what was told (``models``), the acquisition functions over them
(``acquisitions``; ``improvement`` is BoTorch's of noisy and constrained objectives), and the search for their maximum over the space
(``search``). Nothing is imported here: listings look into this package without loading torch.
"""
