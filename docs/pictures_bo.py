"""Draws the pictures of the page about Bayesian optimization, into docs/images/bo: python docs/pictures_bo.py."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor

from zoopt import Random, Real, Space, Study, Task
from zoopt.problems import Branin
from zoopt.strategies import BO
from zoopt.strategies.bo.improvement import log_h
from zoopt.surrogates import GP, TrainingData
from zoopt.surrogates.gp import Frame, Posterior, build

FOLDER = Path(__file__).parent / "images" / "bo"
LINE = Space({"x": Real(0, 1)})
GRID = torch.linspace(0, 1, 401, dtype=torch.float64).unsqueeze(-1)
BLUE, ORANGE, GREY, GREEN = "#1f5fa8", "#c96a00", "#808080", "#2a7f3f"


def hidden(x: Tensor) -> Tensor:
    """What is searched: two valleys, the deeper one narrow."""
    return torch.sin(9 * x) * (1 - x) + 0.8 * (x - 0.5) ** 2 - 0.7 * torch.exp(-(((x - 0.86) / 0.06) ** 2))


def told(places: list[float]) -> TrainingData:
    """Values at some places."""
    x = torch.tensor(places, dtype=torch.float64).unsqueeze(-1)
    return TrainingData(x, hidden(x))


def predicted(model: Any) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation along the line."""
    with torch.no_grad():
        posterior = model.posterior(GRID.unsqueeze(1))
        return posterior.mean.reshape(-1), posterior.variance.reshape(-1).clamp_min(0).sqrt()


def band(axes: Any, model: Any, data: TrainingData) -> None:
    """The process with its uncertainty, what it was told, and what is hidden."""
    mean, sd = predicted(model)
    axes.fill_between(GRID[:, 0], mean - 1.96 * sd, mean + 1.96 * sd, color=BLUE, alpha=0.18, linewidth=0)
    axes.plot(GRID[:, 0], mean, color=BLUE, linewidth=1.5)
    axes.plot(GRID[:, 0], hidden(GRID)[:, 0], color=GREY, linewidth=1.0, linestyle="--")
    axes.plot(data.x[:, 0], data.y[:, 0], "o", color="black", markersize=4)
    axes.set(ylim=(-1.6, 1.6), xticks=[], yticks=[])


def with_lengthscale(data: TrainingData, length: float) -> Any:
    """The process with a lengthscale that is given, interpolating."""
    frame = Frame.of(LINE, data.x)
    y = data.y[:, 0]
    density = Posterior(frame, data.x, (y - y.mean()) / y.std(), torch.full_like(y, 1e-6), 1e-6)
    theta = torch.tensor([math.log(length), 0.0], dtype=torch.float64)
    return build(frame, data.x, y, theta, density, 1e-6), -density.negative(theta.numpy())[0] * len(y)


def process() -> None:
    """What a process believes after 2, 4 and 7 values."""
    places = [0.1, 0.6, 0.35, 0.95, 0.5, 0.22, 0.75]
    figure, panels = plt.subplots(1, 3, figsize=(9.0, 2.5))
    for axes, n in zip(panels, (2, 4, 7), strict=True):
        data = told(places[:n])
        band(axes, with_lengthscale(data, 0.25)[0], data)
        axes.set_title(f"{n} values", fontsize=9)
    save(figure, "process")


def lengthscales() -> None:
    """The same values under three lengthscales, and how probable each makes them."""
    data = told([0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95])
    figure, panels = plt.subplots(1, 4, figsize=(11.0, 2.5))
    for axes, length in zip(panels, (0.05, 0.3, 3.0), strict=False):
        band(axes, with_lengthscale(data, length)[0], data)
        axes.set_title(f"lengthscale {length:g}", fontsize=9)
    lengths = np.geomspace(0.03, 5, 60)
    density = np.array([with_lengthscale(data, float(length))[1] for length in lengths])
    panels[3].plot(lengths, density, color=GREEN)
    panels[3].set(xscale="log", xlabel="lengthscale", yticks=[], ylim=(density.max() - 12, density.max() + 1))
    panels[3].set_title("log posterior density", fontsize=9)
    save(figure, "lengthscales")


def improvement() -> None:
    """Expected improvement and where it leads, over six proposals."""
    study = Study(LINE, BO(initial=3, stretch=False), seed=1, deterministic=True)
    for place in (0.1, 0.45, 0.7):
        study.add({"x": place}, float(hidden(torch.tensor([[place]], dtype=torch.float64))))
    figure, panels = plt.subplots(2, 3, figsize=(9.0, 3.8), sharex=True, height_ratios=[3, 1.2])
    for column in range(3):
        places = [trial.params["x"] for trial in study.trials(range(study.evaluations))]
        data = told(places)
        model = GP().fit(data, Task(LINE, deterministic=True))
        band(panels[0, column], model, data)
        mean, sd = predicted(model)
        best = float(data.y.min())
        log_gain = log_h((best - mean) / sd) + sd.log()
        panels[1, column].plot(GRID[:, 0], log_gain.clamp_min(-14), color=ORANGE)
        panels[1, column].axvline(float(GRID[int(log_gain.argmax()), 0]), color=ORANGE, linestyle=":")
        panels[0, column].axvline(float(GRID[int(log_gain.argmax()), 0]), color=ORANGE, linestyle=":")
        panels[1, column].set(yticks=[])
        panels[0, column].set_title(f"after {len(places)} values", fontsize=9)
        for _ in range(2):
            trial = study.ask()
            study.tell(trial, float(hidden(torch.tensor([[trial.params["x"]]], dtype=torch.float64))))
    panels[1, 0].set_ylabel("log EI", fontsize=9)
    save(figure, "improvement")


def convergence() -> None:
    """Best value so far on Branin's function: bo, turbo, cma-es and random search, ten runs each."""
    problem = Branin()
    figure, axes = plt.subplots(figsize=(5.2, 3.0))
    for name, colour in (("random", GREY), ("cma-es", GREEN), ("bo", BLUE)):
        runs = []
        for seed in range(10):
            study = Study(problem.space, name, seed=seed, deterministic=True)
            values = []
            for _ in range(40):
                trial = study.ask()
                value = float(problem(trial.x.unsqueeze(0))[0])
                study.tell(trial, value)
                values.append(value - 0.397887357729738)
            runs.append(np.minimum.accumulate(values))
        low, middle, high = np.quantile(np.maximum(runs, 1e-7), (0.25, 0.5, 0.75), axis=0)
        axes.fill_between(range(1, 41), low, high, color=colour, alpha=0.15, linewidth=0)
        axes.plot(range(1, 41), middle, color=colour, label=name, linewidth=1.4)
    axes.set(yscale="log", xlabel="evaluations", ylabel="regret")
    axes.legend(fontsize=8, frameon=False)
    save(figure, "convergence")


def noise() -> None:
    """A noisy objective: the luckiest value, and the least expected one."""
    x = LINE.sample(45, Random(4))
    y = hidden(x) + 0.35 * Random(5).normal((45, 1))
    data = TrainingData(x, y)
    model = GP().fit(data, Task(LINE))
    figure, axes = plt.subplots(figsize=(5.2, 2.8))
    band(axes, model, data)
    mean, _ = predicted(model)
    lucky = int(y.argmin())
    axes.plot(x[lucky, 0], y[lucky, 0], "o", color=ORANGE, markersize=7, label="the least value told")
    axes.plot(GRID[int(mean.argmin()), 0], mean.min(), "s", color=GREEN, markersize=7, label="the least value expected")
    axes.legend(fontsize=8, frameon=False, loc="upper center")
    axes.set(ylim=(-2.0, 2.2))
    save(figure, "noise")


def save(figure: Any, name: str) -> None:
    """Write a picture."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(FOLDER / f"{name}.png", dpi=80, metadata={"Software": None})
    plt.close(figure)


def main() -> None:
    """All pictures."""
    torch.set_num_threads(1)
    process()
    lengthscales()
    improvement()
    convergence()
    noise()


if __name__ == "__main__":
    main()
