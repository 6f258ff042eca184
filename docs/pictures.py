"""Draws the pictures of the documentation that show what a parameter does, into docs/images/cbo: python docs/pictures.py."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.special import ndtri
from torch import Tensor

import zoopt
from zoopt import Real, Space, Study
from zoopt.problem import Problem
from zoopt.problems import Rastrigin, Sphere
from zoopt.strategies import CBO

FOLDER = Path(__file__).parent / "images" / "cbo"
COLOURS = ("#1f77b4", "#d95f02", "#1b9e77", "#7570b3", "#e7298a")
RUNS = 20
BASE = CBO()


class Traced(Problem):
    """A problem that notes the best value of each run after each step; with noise where it is asked for."""

    def __init__(self, problem: Problem, noise: float = 0.0) -> None:
        self.problem, self.noise = problem, noise
        self.space = problem.space
        self.steps: list[tuple[int, Tensor]] = []
        self.generator = torch.Generator().manual_seed(0)

    def values(self, x: Tensor) -> Tensor:
        values = self.problem.values(x)
        self.steps.append((x.shape[-2], values.amin(-1)))
        return values + self.noise * torch.randn(values.shape, generator=self.generator, dtype=values.dtype)

    def gradient(self, x: Tensor) -> Tensor:
        return self.problem.gradient(x)  # type: ignore[attr-defined,no-any-return]


class Rotated(Problem):
    """Rastrigin's function in a rotated frame."""

    def __init__(self, dim: int) -> None:
        self.space = Space({"x": Real(-3, 3, shape=(dim,))})
        self.frame = torch.linalg.qr(torch.randn(dim, dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).Q

    def values(self, x: Tensor) -> Tensor:
        z = (x - 1.0) @ self.frame
        return (z.square() + 20.0 * torch.sin(torch.pi * z).square()).sum(-1)


def curves(name: str, recipes: dict[str, CBO], problem: Problem, evaluations: int, noise: float = 0.0) -> None:
    """Best value so far against evaluations: the median of the runs, and the quarter on each side of it."""
    figure, axes = plt.subplots(figsize=(5.2, 3.0))
    for colour, (label, recipe) in zip(COLOURS, recipes.items(), strict=False):
        traced = Traced(problem, noise)
        zoopt.minimize(traced, replace(recipe, tolerance=1e-300), evaluations=evaluations, runs=RUNS, device="cpu")
        steps = [step for step in traced.steps if len(step[1]) == RUNS]
        at = np.cumsum([n for n, _ in steps])
        best = torch.stack([values for _, values in steps]).cummin(0).values.clamp_min(1e-16).numpy()
        low, middle, high = np.quantile(best, (0.25, 0.5, 0.75), axis=1)
        axes.fill_between(at, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.plot(at, middle, color=colour, label=label, linewidth=1.4)
    axes.set(yscale="log", xlabel="evaluations of a run", ylabel="best value")
    axes.legend(fontsize=8, frameon=False)
    save(figure, name)


def clouds(name: str, recipes: dict[str, CBO], space: Space, objective: Any, steps: int, level: bool = True, limit: Any = None) -> None:
    """Where the particles are after some steps, in two dimensions; what ``limit`` makes positive is infeasible, and grey."""
    figure, panels = plt.subplots(1, len(recipes), figsize=(2.6 * len(recipes), 2.8), squeeze=False)
    low, high = float(space.low[0]), float(space.high[0])
    grid = torch.linspace(low, high, 120, dtype=torch.float64)
    mesh = torch.stack(torch.meshgrid(grid, grid, indexing="xy"), -1)
    for axes, (label, recipe) in zip(panels[0], recipes.items(), strict=True):
        study = Study(space, recipe, seed=2, history="best", constraints=[] if limit is None else ["limit"])
        for _ in range(steps):
            batch = study.ask(10_000)
            study.tell(batch, objective(batch.x), constraints=None if limit is None else limit(batch.x).unsqueeze(-1))
        x = study.ask(10_000).x
        if level:
            axes.contour(grid, grid, torch.log1p(objective(mesh)), levels=12, colors="#cccccc", linewidths=0.5)
        if limit is not None:
            axes.contourf(grid, grid, limit(mesh), levels=[0.0, torch.inf], colors="#e0e0e0")
        axes.plot(x[:, 0], x[:, 1], ".", color=COLOURS[0], markersize=3)
        axes.set(title=label, xlim=(low, high), ylim=(low, high), aspect="equal")
        axes.title.set_fontsize(9)
        axes.tick_params(labelsize=7)
    save(figure, name)


def stops(name: str, tolerances: tuple[float, ...], problem: Problem) -> None:
    """When runs end, and with which value, by the tolerance."""
    figure, axes = plt.subplots(figsize=(5.2, 3.0))
    for colour, tolerance in zip(COLOURS, tolerances, strict=False):
        result = zoopt.minimize(problem, replace(BASE, tolerance=tolerance), evaluations=400_000, runs=RUNS, device="cpu")
        axes.plot(result.evaluations, result.values.clamp_min(1e-16), ".", color=colour, label=f"tolerance = {tolerance:g}")
    axes.set(yscale="log", xlabel="evaluations of a run", ylabel="best value at its end")
    axes.legend(fontsize=8, frameon=False)
    save(figure, name)


def himmelblau(x: Tensor) -> Tensor:
    return (x[..., 0].square() + x[..., 1] - 11).square() + (x[..., 0] + x[..., 1].square() - 7).square()


def stability() -> None:
    """The law behind the default noise: the mean logarithm of what one step leaves of a distance."""
    z = ndtri((np.arange(200_000) + 0.5) / 200_000)  # the quantiles of a normal number
    figure, axes = plt.subplots(figsize=(5.2, 3.0))
    sizes = np.linspace(0.02, 2.0, 200)
    for colour, m in zip(COLOURS, (0.99, 0.9, 0.5), strict=False):
        mean = [float(np.log(np.abs(m + s * z)).mean()) for s in sizes]
        axes.plot(sizes, mean, color=colour, label=f"m = {m}")
    axes.axhline(0.0, color="black", linewidth=0.8)
    axes.axvline(1.01, color="#999999", linewidth=0.8, linestyle=":")
    axes.set(xlabel="s, size of the noise over the distance", ylabel="E log |m + s z|")
    axes.annotate("distances grow", (0.1, 0.08), fontsize=8)
    axes.annotate("distances shrink", (1.3, -0.3), fontsize=8)
    axes.legend(fontsize=8, frameon=False)
    save(figure, "stability")


def save(figure: Any, name: str) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(FOLDER / f"{name}.png", dpi=80, metadata={"Software": None})
    plt.close(figure)


def main() -> None:
    """All pictures."""
    torch.set_num_threads(1)
    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    many, few = Rastrigin(dim=10), 60_000

    def vary(name: str, *values: Any, problem: Problem = many, evaluations: int = few, noise: float = 0.0, **fixed: Any) -> None:
        base = replace(BASE, **fixed)
        curves(name, {f"{name} = {value}": replace(base, **{name: value}) for value in values}, problem, evaluations, noise)

    stability()
    vary("particles", 20, 50, 100, 400)
    vary("drift", 0.1, 1.0, 10.0, 50.0, sigma=10.1)
    vary("dt", 0.001, 0.01, 0.1, 0.5, sigma=None)
    vary("sigma", 3.0, 7.0, 10.1, 14.0)
    vary("alpha", 0.1, 10.0, 1000.0)
    vary("alpha_growth", 1.0, 1.01, 1.05, 1.5)
    vary("alpha_cap", 1e3, 1e5, 1e15)
    vary("sample_size", 0.1, 0.3, 0.6, noise_after_drift=False, sigma=5.0)
    vary("truncation", None, 0.3, 0.03)
    vary("noise_after_drift", False, True, dt=0.5, sigma=1.4)
    vary("correction", "none", "heaviside", "smooth")
    vary("memory", 0.0, 0.1, 0.4)
    vary("inertia", 0.0, 0.003, 0.03, sigma=8.0)
    vary("gradient", 0.0, 0.0001, 0.001)
    easy = Sphere(dim=10)
    vary("batch", None, 50, 10, problem=easy, evaluations=30_000, sigma=3.0, alpha_growth=1.01)
    vary("repeats", 1, 4, 16, problem=easy, noise=10.0, alpha_growth=1.0, sigma=3.0)
    vary("cooling", None, 10, 50, problem=easy, noise=10.0, alpha_growth=1.0)
    vary("batch_moves", "all", "batch", problem=easy, evaluations=30_000, sigma=3.0, alpha_growth=1.01, batch=10)
    vary("reevaluate", False, True, problem=easy, noise=10.0, alpha_growth=1.0, memory=0.5, sigma=3.0, dt=0.1)
    vary("numbers", "fresh", "table")
    vary("patience", None, 20, 5, alpha_growth=1.3)
    vary("standstill", None, 1e-6, 1e-4, batch=10, sigma=0.5, particles=50, alpha_growth=1.01)
    stops("tolerance", (0.3, 0.1, 0.01, 1e-12), many)
    vary("restarts", False, True, particles=20)
    curves(
        "noise",
        {
            "anisotropic": BASE,
            "isotropic": CBO(noise="isotropic"),
            "covariance, 500 particles": CBO(noise="covariance", particles=500),
        },
        Rotated(8),
        150_000,
    )
    box = Space({"x": Real(-6, 6, shape=(2,))})
    kinds = {"anisotropic": BASE, "isotropic": CBO(noise="isotropic"), "covariance": CBO(noise="covariance", particles=300)}
    clouds("noise-clouds", {label: replace(recipe, particles=300) for label, recipe in kinds.items()}, box, himmelblau, 6)
    near = CBO(noise="isotropic", sigma=1.0, dt=0.05, alpha=1.0, alpha_growth=1.02)
    clouds(
        "neighbourhood",
        {"neighbourhood = None": near} | {f"neighbourhood = {w}": replace(near, neighbourhood=w) for w in (0.3, 0.04)},
        box,
        himmelblau,
        300,
    )
    unit = Space({"x": Real(-1.2, 1.2, shape=(2,))})

    def slope(x: Tensor) -> Tensor:
        return (x - torch.tensor([0.9, 0.5], dtype=torch.float64)).square().sum(-1)

    steep = CBO(noise="isotropic", alpha_growth=1.02)
    clouds(
        "penalty",
        {f"penalty = {nu}": replace(steep, penalty=nu) for nu in (10.0, 0.3, 0.01)} | {"penalty = None": steep},
        unit,
        slope,
        60,
        limit=lambda x: x.sum(-1) - 0.4,
    )
    flat = CBO(alpha=1.0, alpha_growth=1.0, sigma=3.0)
    clouds("surface", {f"surface = {s!r}": replace(flat, surface=s) for s in ("box", "sphere", "simplex")}, unit, slope, 40)


if __name__ == "__main__":
    main()
