"""Two objectives: a decision tree on real tumour measurements that is accurate and small.

scikit-learn's breast cancer data (569 patients, in the package) are split by a tree; NSGA-II looks for the trade-off between
the cross-validated error and the number of leaves.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import cross_val_score
from sklearn.tree import DecisionTreeClassifier

import zoopt
from zoopt import Choice, Integer, Real, Space

SPACE = Space(
    {
        "max_depth": Integer(1, 12),
        "min_samples_leaf": Integer(1, 60, log=True),
        "ccp_alpha": Real(1e-5, 1e-1, log=True),
        "criterion": Choice("gini", "entropy"),
    }
)


def tree(**params: Any) -> dict[str, float]:
    """Cross-validated error and size of one tree."""
    x, y = load_breast_cancer(return_X_y=True)
    model = DecisionTreeClassifier(random_state=0, **params)
    error = 1.0 - float(np.mean(cross_val_score(model, x, y, cv=5)))
    return {"error": error, "leaves": float(model.fit(x, y).get_n_leaves())}


def main() -> None:
    """Search and print the Pareto front."""
    study = zoopt.Study(SPACE, "nsga2", objectives={"error": "minimize", "leaves": "minimize"}, seed=0)
    study.run(tree, evaluations=160, parallel=2)
    print(f"{study.evaluations} trees, {len(study.front)} on the front")
    for trial in sorted(study.front, key=lambda t: t.values["leaves"]):
        print(f"  {trial.values['leaves']:4.0f} leaves   error {trial.values['error']:.4f}   {trial.params}")


if __name__ == "__main__":
    main()
