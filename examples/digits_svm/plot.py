"""Draws the convergence of the recorded study: every trial that gave an accuracy, and the best so far."""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

import zoopt
from zoopt.config import locate
from zoopt.errors import JournalError

FLOOR = 0.8  # what is below stands on the lower edge as triangles: the good ones are told apart above it


def main(out: Path) -> None:
    """Write the picture to ``out``.

    Raises:
        JournalError: Nothing is recorded yet, or no trial is complete.
    """
    address, name = locate(Path(__file__).with_name("study.toml"))
    study = zoopt.read(address, name)  # to look at, which goes beside a run
    history, best = study.history(), study.best
    if best is None:
        raise JournalError(f"no trial is complete yet in {address}.")
    done = history["state"] == "complete"
    numbers, accuracy = history["id"][done] + 1, history["accuracy"][done]
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for kernel, colour in (("rbf", "#1f6f8b"), ("poly", "#d98324")):
        rows = history["kernel"][done] == kernel
        axes.plot(numbers[rows], accuracy[rows], "o", ms=5, color=colour, label=f"{kernel} kernel")
        low = rows & (accuracy < FLOOR)
        axes.plot(numbers[low], np.full(low.sum(), FLOOR), "v", ms=7, color=colour, clip_on=False)
    axes.step(numbers, np.maximum.accumulate(accuracy), where="post", color="black", lw=1.5, label="best so far")
    if (accuracy < FLOOR).any():
        axes.plot([], [], "v", ms=7, color="grey", label=f"below {FLOOR:.2f}")
    axes.set_ylim(FLOOR, 1.0)
    axes.set_xlabel("evaluation")
    axes.set_ylabel("accuracy, five folds")
    axes.set_title(f"Support vector machine on 1,797 digits: {best.value:.4f}")
    axes.legend(loc="lower right", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(out, dpi=120)


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("convergence.png")
    try:
        main(target)
    except JournalError as error:
        sys.exit(str(error))
    print(f"wrote {target}")
