"""Consensus-based optimization as a relaxation of gradient descent: four methods in the noisy Grand Canyon.

The landscape and the settings are those of Riedl, Klock, Geldhauser & Fornasier, "Gradient is All You Need?" (arXiv:2306.09778): a curved
valley with ripples, from (8, 8) to its minimum at (0, 0). Gradient descent gets stuck behind the first ripple, annealed Langevin dynamics
gets through sometimes, and the consensus point, which never sees a gradient, follows the valley past all of them.

    python run.py [runs] [picture.png]
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import torch
from torch import Tensor

from zoopt import Random, Real, Space
from zoopt.feedback import Observations
from zoopt.strategies import CBO, ConsensusHopping
from zoopt.strategy import Request, Strategy, Task

START = 8.0


def canyon(x: Tensor, ripples: float = 1.1625) -> Tensor:
    """The Grand Canyon, ``x: (..., 2)`` to ``(...)``; its minimum is 0 at (0, 0)."""
    u, v = x[..., 0], x[..., 1]
    across = v - (0.125 * (u - 1) * (u - 4).square() + 2)
    beyond = -u - 1.6 * v
    walls = 25 * (1 - torch.exp(-1.4 * across.square() * torch.exp(-0.002 * u**4)))
    bowl = 0.4 * u.square() + 0.2 * v.square()
    waves = ripples * ((1 - torch.cos(0.75 * math.pi * u)) + (1 - torch.cos(0.75 * math.pi * v)))
    edge = 4 * torch.exp(1 - 2 * across**4) * ((1 - torch.exp(-9 * beyond.square())) * beyond.sign()).clamp_min(0)
    return walls + bowl + waves + edge


def slope(x: Tensor, ripples: float, h: float = 1e-5) -> Tensor:
    """Central differences at ``x: (runs, 2)``, ``(runs, 2)``."""
    steps = h * torch.eye(2, dtype=x.dtype)
    around = canyon(x + torch.stack([steps, -steps]).unsqueeze(-2), ripples)  # (2 signs, 2 axes, runs)
    return ((around[0] - around[1]) / (2 * h)).movedim(0, -1)


def consensus_path(recipe: Strategy, spread: float, steps: int, runs: int, ripples: float, seed: int = 0) -> Tensor:
    """The consensus point of every run after every step, ``(steps, runs, 2)``: the strategy driven by hand, all runs at once."""
    space = Space({"x": Real(start=START, scale=spread), "y": Real(start=START, scale=spread)})
    task, key = Task(space, runs=(runs,)), Random(seed)
    state = recipe.begin(task, key.child("begin"))
    path = []
    for k in range(steps):
        state, out = recipe.ask(task, state, Request(), key.at(2 * k))
        values = canyon(space.decode(out.x), ripples).unsqueeze(-1)
        state = recipe.tell(task, state, Observations(range(out.x.shape[-2]), out.x, values, columns=out.columns), key.at(2 * k + 1))
        path.append(space.decode(recipe.recommend(task, state)))
    return torch.stack(path)


def descent_path(runs: int, ripples: float, heat: float = 0.0, steps: int = 10_000, dt: float = 1e-3, seed: int = 0) -> Tensor:
    """Gradient descent from (8, 8), with annealed noise ``heat / log(k + 1)`` where wanted (Langevin), ``(steps, runs, 2)``."""
    x = torch.full((runs, 2), START, dtype=torch.float64)
    path = []
    for k in range(1, steps + 1):
        x = x - dt * slope(x, ripples)
        if heat:
            x = x + heat / math.log(k + 1) * math.sqrt(dt) * Random(seed, k).normal((runs, 2))
        path.append(x)
    return torch.stack(path)


def paths(runs: int, ripples: float = 1.1625) -> dict[str, Tensor]:
    """The four methods with the paper's settings."""
    cbo = CBO(particles=200, noise="isotropic", dt=0.01, sigma=1.6, alpha=100.0, alpha_growth=1.0, noise_after_drift=True)
    hopping = ConsensusHopping(particles=200, sigma=0.7, alpha=100.0)
    return {
        "consensus-based optimization": consensus_path(cbo, 0.5, 250, runs, ripples),
        "consensus hopping": consensus_path(hopping, 1.0, 250, runs, ripples),
        "gradient descent": descent_path(1, ripples).repeat(1, runs, 1),
        "Langevin dynamics": descent_path(runs, ripples, heat=10.0),
    }


def table(found: dict[str, Tensor]) -> str:
    """Where the runs of each method end."""
    lines = [f"{'method':<30} within 0.5  within 1.0   median end"]
    for name, path in found.items():
        distance = path[-1].norm(dim=-1)
        x, y = path[-1].median(0).values.tolist()
        lines.append(f"{name:<30} {(distance < 0.5).double().mean():10.3f} {(distance < 1).double().mean():11.3f}   ({x:.3f}, {y:.3f})")
    return "\n".join(lines)


def draw(found: dict[str, Tensor], out: Path) -> None:
    """Trajectories over the landscape."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    side = torch.linspace(-2, 9, 400, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(side, side, indexing="xy"), -1)
    heights = canyon(grid).numpy()
    figure, axes = plt.subplots(1, 4, figsize=(15, 4.2), sharey=True, layout="constrained")
    for place, (name, path) in zip(axes, found.items(), strict=True):
        place.contourf(side, side, heights, levels=40, cmap="Greys_r", alpha=0.8)
        for run in range(min(path.shape[1], 20)):
            place.plot(*path[:: max(1, len(path) // 500), run].T, lw=0.8, color="#d98324", alpha=0.7)
        place.plot(*path[-1].T, "o", ms=3, color="#1f6f8b")
        place.plot(0, 0, "*", ms=14, color="black")
        place.set(title=name, xlim=(-2, 9), ylim=(-2, 9))
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    found = paths(runs)
    print(table(found))
    if len(sys.argv) > 2:
        draw(found, Path(sys.argv[2]))
        print(f"wrote {sys.argv[2]}")
