"""Figures of consensus-based optimization that are no race: what the theory and the literature say, and what is measured here.

One line each with the goal: the memory of minimize, the Grand Canyon of Riedl et al. (200 runs), one step against CBXpy's with the same
numbers, the variance of consensus-based sampling, the minimisers that polarized particles find, saddle points (Huang, Qiu & Riedl 2024:
d1 = d2 = 10, E = R(x) - R(y) with R = sum z^2 + 1.5 (1 - cos 2 pi z), 1,000 particles, 1,000 steps), and Ackley's function on the sphere.
Float64 unless a line says otherwise.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import HERE, begin, write
from torch import Tensor

import zoopt
from zoopt import Real, Space, Study
from zoopt.problem import Problem
from zoopt.problems import Rastrigin
from zoopt.strategies import CBO, CBS, SaddleCBO
from zoopt.strategies.cbo.diffusion import covariance_root, step

F64 = torch.float64


def canyon(runs: int) -> None:
    """End of each method within 0.5 and 1 of the minimum, with ripples of 1.1625 and of 0.25."""
    sys.path.insert(0, str(HERE.parent / "examples" / "canyon"))
    import run as example

    for ripples in (1.1625, 0.25):
        for name, path in example.paths(runs, ripples).items():
            away = path[-1].norm(dim=-1)
            middle = path[-1].median(0).values.tolist()
            near = ", ".join(f"within {far} {(away < far).double().mean():.3f}" for far in (0.5, 1.0))
            write(f"canyon, ripples {ripples}: {name:<34} {near}, median end ({middle[0]:.3f}, {middle[1]:.3f})")


def one_step(runs: int) -> None:
    """The largest difference between one step here and one of CBXpy from the same particles and with the same normal numbers."""
    from cbx.dynamics import CBO as Theirs

    x = np.random.default_rng(1).normal(size=(3, 50, 4))
    z = np.random.default_rng(2).normal(size=(3, 50, 4))
    for noise in ("anisotropic", "isotropic"):
        dynamic: Any = Theirs(
            lambda v: (v**2).sum(-1), x=x.copy(), f_dim="3D", noise=noise, alpha=3.0, dt=0.1, sigma=1.3, sampler=lambda size: z, verbosity=0
        )
        dynamic.step()
        here = torch.from_numpy(x.copy())
        weights = torch.softmax(-3.0 * here.square().sum(-1), -1)
        c = (weights.unsqueeze(-1) * here).sum(-2, keepdim=True)
        root = covariance_root(here - c, weights)
        step(here, c, torch.from_numpy(z.copy()), 0.9, 1.3 * math.sqrt(0.1), noise, root=root)  # type: ignore[arg-type]
        write(f"one step against CBXpy, {noise:<12} largest difference {abs(dynamic.x - here.numpy()).max():.1e}   goal 1e-12")


def sampling(runs: int) -> None:
    """Variance over that of the target, a normal law with variances 1 and 4; 20,000 particles, mean over the last steps, eight seeds."""
    variance = torch.tensor([1.0, 4.0], dtype=F64)
    space = Space({"x": Real(start=0.5, scale=1.5, shape=(2,))})
    for dt in (0.01, 0.1, 0.5):
        ratios = []
        for seed in range(8):
            study = Study(space, CBS(particles=20_000, dt=dt), seed=seed, history="best")
            last, steps = [], int(12 / dt)
            for k in range(steps):
                batch = study.ask(20_000)
                if k >= steps - int(2 / dt):
                    last.append(batch.x.var(0))
                study.tell(batch, 0.5 * (batch.x.square() / variance).sum(-1))
            ratios.append(torch.stack(last).mean(0) / variance)
        mean, spread = torch.stack(ratios).mean(0), torch.stack(ratios).std(0)
        each = ", ".join(f"{m:.4f} (sd of a seed {s:.4f})" for m, s in zip(mean.tolist(), spread.tolist(), strict=True))
        write(f"sampling, dt {dt}: variance over the target's {each}   goal within .02 of 1")


def polarized(runs: int) -> None:
    """Minimisers of Himmelblau's function, of four, that have a particle within 0.25 after 500 steps."""
    minimisers = torch.tensor([[3.0, 2.0], [-2.805118, 3.131312], [-3.779310, -3.283186], [3.584428, -1.848126]], dtype=F64)
    space = Space({"x": Real(-6, 6, shape=(2,))})
    recipe = CBO(noise="isotropic", neighbourhood=0.4 / 12, sigma=1.2, dt=0.05, alpha=1.0, alpha_growth=1.02)
    counts = []
    for seed in range(runs // 4):
        study = Study(space, recipe, seed=seed, history="best")
        for _ in range(500):
            batch = study.ask(100)
            u, v = batch.x.unbind(-1)
            study.tell(batch, (u.square() + v - 11).square() + (u + v.square() - 7).square())
        counts.append(int((torch.cdist(batch.x, minimisers).amin(0) < 0.25).sum()))
    often = np.bincount(counts, minlength=5).tolist()
    write(f"polarized: minimisers found of 4, {len(counts)} seeds: mean {np.mean(counts):.2f}, 0 to 4 of them {often}   goal 3.8")


def saddle(runs: int) -> None:
    """Runs whose consensus point is within 0.25 of the saddle point, |x| + |y|."""
    space = Space({"x": Real(start=1.0, scale=2.0, shape=(10,)), "y": Real(start=1.0, scale=2.0, shape=(10,))})

    def ripples(z: Tensor) -> Tensor:
        return (z.square() + 1.5 * (1.0 - torch.cos(2.0 * math.pi * z))).sum(-1)

    recipe = SaddleCBO(particles=1000, sigma=2.0, alpha=1e15, maximised=("y",))
    count = max(2, runs // 10)
    result = zoopt.minimize(
        lambda z: ripples(z[..., :10]) - ripples(z[..., 10:]), recipe, space=space, evaluations=2_000_000, runs=count, device="cpu"
    )
    assert result.recommended is not None
    away = result.recommended[:, :10].norm(dim=-1) + result.recommended[:, 10:].norm(dim=-1)
    write(f"saddle points: {count} runs, |x| + |y| < .25 in {(away < 0.25).double().mean():.2f}, median {away.median():.1e}")


def sphere(runs: int) -> None:
    """Ackley's function on the sphere: runs within 0.05 of its minimum, and how far points are from the sphere."""
    for dim in (3, 10, 20):
        at = torch.randn(dim, generator=torch.Generator().manual_seed(5), dtype=F64)
        at /= at.norm()

        def ackley(x: Tensor, at: Tensor = at) -> Tensor:
            z = 3.0 * (x - at)
            return -20.0 * torch.expm1(-0.2 * z.square().mean(-1).sqrt()) - math.e * torch.expm1(
                torch.cos(2.0 * math.pi * z).mean(-1) - 1.0
            )

        space, recipe, count = Space({"x": Real(-1, 1, shape=(dim,))}), CBO(surface="sphere", sigma=2.5), max(2, runs // 10)
        result = zoopt.minimize(ackley, recipe, space=space, evaluations=200_000, runs=count, device="cpu")
        near = ((result.xs - at).norm(dim=-1) < 0.05).double().mean()
        off = (result.xs.norm(dim=-1) - 1.0).abs().max()
        write(f"sphere, d = {dim}: {count} runs, found in {near:.2f}, median value {result.values.median():.1e}, off the sphere {off:.1e}")


class Free(Problem):
    """An objective without temporaries of its own."""

    def __init__(self, dim: int) -> None:
        self.space = Rastrigin(dim=dim).space

    def values(self, x: Tensor) -> Tensor:
        return x[..., 0].clone()


def memory(runs: int) -> None:
    """Growth of the resident memory at its peak during minimize, over the array of particles."""
    if not Path("/proc/self/clear_refs").exists():
        write("memory: needs Linux")
        return
    for dim, particles, count in ((1000, 1000, 1), (100, 10_000, 10), (1000, 1000, 10)):
        for dtype in (torch.float32, F64):
            recipe, problem = CBO(particles=particles, tolerance=1e-300), Free(dim)
            zoopt.minimize(problem, recipe, evaluations=particles, runs=count, dtype=dtype, device="cpu")
            before = _resident("VmRSS")
            Path("/proc/self/clear_refs").write_text("5")
            zoopt.minimize(problem, recipe, evaluations=20 * particles, runs=count, dtype=dtype, device="cpu")
            ratio = (_resident("VmHWM") - before) / (dim * particles * count * dtype.itemsize)
            write(f"memory, (d, N, M) = {(dim, particles, count)}, {str(dtype)[6:]}: {ratio:.2f} arrays   goal 3")


def _resident(name: str) -> int:
    """Bytes, from the kernel."""
    found = re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


FIGURES: dict[str, Callable[[int], None]] = {f.__name__: f for f in (memory, canyon, one_step, sampling, polarized, saddle, sphere)}


def main() -> None:
    """All figures, or those that are named."""
    given = begin(__doc__ or "", {}, {"only": "some of them, with commas between"})
    torch.set_num_threads(1)
    for name, figure in FIGURES.items():
        if not given.only or name in given.only.split(","):
            figure(20 if given.quick else 200)


if __name__ == "__main__":
    sys.exit(main())
