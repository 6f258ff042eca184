"""A batched torch problem through minimize(): several runs, no bookkeeping.

The problem fits 200 noisy points of a damped oscillation, five parameters, every
candidate of every run evaluated in one tensor expression.
"""

from __future__ import annotations

import torch
from torch import Tensor

import zoopt
from zoopt import Real, Space

SPACE = Space(
    {
        "amplitude": Real(0.1, 10.0, log=True),
        "decay": Real(0.01, 2.0, log=True),
        "frequency": Real(0.1, 5.0),
        "phase": Real(-3.2, 3.2),
        "offset": Real(-2.0, 2.0),
    }
)
TRUTH = torch.tensor([2.5, 0.3, 1.7, 0.6, -0.4], dtype=torch.float64)
TIME = torch.linspace(0.0, 8.0, 200, dtype=torch.float64)


def oscillation(x: Tensor) -> Tensor:
    """The signal of each parameter vector: ``(..., 5)`` to ``(..., 200)``."""
    amplitude, decay, frequency, phase, offset = x.unsqueeze(-1).unbind(-2)
    return amplitude * torch.exp(-decay * TIME) * torch.sin(frequency * TIME + phase) + offset


SIGNAL = oscillation(TRUTH) + 0.05 * torch.randn(200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def misfit(x: Tensor) -> Tensor:
    """Mean squared difference from the measured signal, ``(..., 5)`` to ``(...)``."""
    return (oscillation(x) - SIGNAL).square().mean(-1)


def main() -> None:
    """Fit from several starts and print what was found."""
    result = zoopt.minimize(misfit, "cma-es", space=SPACE, evaluations=2_000, runs=3, seed=0)
    runs = ", ".join(f"{value:.6f}" for value in result.values.tolist())
    print(f"mean squared misfit: {float(misfit(TRUTH)):.6f} at the truth, {result.value:.6f} found (runs: {runs})")
    for name, found, true in zip(SPACE.variables, result.x.tolist(), TRUTH.tolist(), strict=True):
        print(f"  {name:<10} {found:8.4f}   truth {true:7.3f}")


if __name__ == "__main__":
    main()
