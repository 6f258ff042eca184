"""Cross-validated accuracy of a support vector machine on scikit-learn's handwritten digits (1,797 images of 8x8 pixels)."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC


@cache  # read once in each worker process
def digits() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Images as rows of 64 numbers, and their labels."""
    data = load_digits()
    return data.data / 16.0, data.target


def accuracy(C: float, gamma: float, kernel: str, scale: bool, degree: int = 3) -> dict[str, Any]:
    """Mean accuracy over five folds, with its standard error as noise.

    Args:
        C: Penalty of a margin violation.
        gamma: Width of the kernel.
        kernel: "rbf" or "poly".
        scale: Whether every pixel is scaled to unit variance first.
        degree: Degree of the polynomial kernel; asked for that kernel only.
    """
    x, y = digits()
    machine = SVC(C=C, gamma=gamma, kernel=kernel, degree=degree)
    model = make_pipeline(StandardScaler(), machine) if scale else machine
    scores = cross_val_score(model, x, y, cv=StratifiedKFold(5, shuffle=True, random_state=0))
    return {"accuracy": float(scores.mean()), "noise": {"accuracy": float(scores.std(ddof=1) / np.sqrt(len(scores)))}}
