"""What each capability of ``bo`` brings: with it and without it at the same cost, ten paired seeds, and a sign test over them.

Every pair starts from the same seed. Smaller numbers are better throughout: a regret, what is missing of a hypervolume, or a loss.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from common import HERE, machine, parser, write
from scipy.stats import binomtest

from zoopt import Choice, Environment, Fidelity, Pool, Random, Real, Space, Study
from zoopt.stop import Cost
from zoopt.strategies.bo.acquisitions import Guided
from zoopt.strategies.bo.recipe import BO

sys.path.append(str(HERE / "peers"))

from functions import branin as branin_of
from functions import hartmann6, make

Pair = tuple[float, float]
_LEAST = 0.39788735772973816  # of Branin's function


def branin(x: float, y: float) -> float:
    """On [-5, 10] x [0, 15]."""
    return branin_of([x, y])


def regret(study: Study) -> float:
    """Of Branin's function at the recommended point."""
    assert study.recommended is not None
    params = study.recommended.params
    return branin(params["x"], params["y"]) - _LEAST


PLANE = {"x": Real(-5, 10), "y": Real(0, 15)}


def parallel(seed: int) -> Pair:
    """Hartmann6 in 15 rounds: four evaluations at once, or one."""

    def run(q: int) -> float:
        study = Study({f"x{j}": Real(0, 1) for j in range(6)}, "bo", seed=seed, deterministic=True)
        for _ in range(15):
            batch = study.ask(q)
            study.tell(batch, [hartmann6(list(params.values())) for params in batch.params])
        assert study.best is not None
        assert study.best.value is not None
        return study.best.value + 3.322368011415515

    return run(4), run(1)


def fidelity(seed: int) -> Pair:
    """Branin's function on meshes that see it a little wrong, for the price of eleven of the finest; or on the finest alone."""

    def meshed(x: float, y: float, mesh: float = 10.0) -> float:
        return branin(x, y) + (10 - mesh) * (0.5 + math.sin(0.4 * (x + 5)))

    mesh = Fidelity(Real(1, 10), cost={1: 1, 10: 10})
    many = Study({**PLANE, "mesh": mesh}, "bo", seed=seed, deterministic=True, stop=Cost(110))
    many.run(meshed)
    one = Study(PLANE, "bo", seed=seed, deterministic=True)
    one.run(meshed, evaluations=11)
    return regret(many), regret(one)


def sources(seed: int) -> Pair:
    """Branin's function, or for an eighth of its price one that is scaled, tilted and off by a constant: for the price of eleven."""

    def seen(x: float, y: float, source: str = "fine") -> float:
        return branin(x, y) if source == "fine" else 0.7 * branin(x, y) + x - 20

    source = Fidelity(Choice("rough", "fine"), target="fine", cost={"rough": 1, "fine": 8})
    both = Study({**PLANE, "source": source}, "bo", seed=seed, deterministic=True, stop=Cost(88))
    both.run(seen)
    one = Study(PLANE, "bo", seed=seed, deterministic=True)
    one.run(seen, evaluations=11)
    return regret(both), regret(one)


def tasks(seed: int) -> Pair:
    """Eight evaluations of Branin's function, beside thirty old results of one that is scaled and shifted; or without them."""
    source = Fidelity(Choice("old", "new"), target="new", cost={"new": 1})
    space = Space({**PLANE, "source": source})
    known = Study(space, BO(initial=2), seed=seed, deterministic=True)
    for row in space.params(space.sample(30, Random(seed))):
        known.add({**row, "source": "old"}, 2.0 * branin(row["x"] + 0.3, row["y"]) + 50)
    known.run(lambda x, y, source: branin(x, y), evaluations=30 + 8)
    alone = Study(PLANE, "bo", seed=seed, deterministic=True)
    alone.run(branin, evaluations=8)
    return regret(known), regret(alone)


def constraints(seed: int) -> Pair:
    """A toy whose feasible part is 3 % of the square, 30 evaluations: the limit told, or a penalty in the value."""
    toy = make("gardner", seed)
    assert toy.constraint is not None
    limit = toy.constraint

    def run(told: bool) -> float:
        study = Study({"x": Real(0, 6), "y": Real(0, 6)}, "bo", seed=seed, deterministic=True, constraints=["c"] if told else [])
        best = 10.0  # where nothing feasible was found
        for _ in range(30):
            trial = study.ask()
            point = list(trial.params.values())
            value, broken = toy.truth(point), limit(point)
            if told:
                study.tell(trial, value, constraints={"c": broken})
            else:
                study.tell(trial, value + 10 * max(broken, 0.0))
            best = min(best, value - toy.best) if broken <= 0 else best
        return best

    return run(True), run(False)


_WINDS = (np.arange(400) + 0.5) / 400 * 15
_GRID = np.linspace(-5, 10, 1501)
_TABLE = np.array([[branin(x, w) for w in _WINDS] for x in _GRID])


def over_winds(risk: str, evaluations: int) -> Callable[[int], Pair]:
    """The same pair under a risk."""
    judged = _TABLE.mean(1) if risk == "expectation" else np.sort(_TABLE, axis=1)[:, -40:].mean(1)

    def pair(seed: int) -> Pair:
        """Branin's function whose second variable is random: chosen together, or drawn and taken for noise; relative to the least."""
        recipe = BO(risk=risk, scenarios=16)  # type: ignore[arg-type]
        chosen = Study({"x": Real(-5, 10), "w": Environment(Real(0, 15))}, recipe, seed=seed, deterministic=True)
        chosen.run(lambda x, w: branin(x, w), evaluations=evaluations)
        winds = np.random.default_rng(seed)
        drawn = Study({"x": Real(-5, 10)}, "bo", seed=seed)
        for _ in range(evaluations):
            trial = drawn.ask()
            drawn.tell(trial, branin(trial.params["x"], winds.uniform(0, 15)))
        found = [study.recommended.params["x"] for study in (chosen, drawn) if study.recommended is not None]
        a, b = (float(np.interp(x, _GRID, judged) / judged.min() - 1) for x in found)
        return a, b

    return pair


def derivatives(seed: int) -> Pair:
    """Rosenbrock's function in 20 evaluations, with its gradients or without."""

    def run(told: bool) -> float:
        study = Study({"x": Real(-2, 2), "y": Real(-1, 3)}, "bo", seed=seed, deterministic=True)
        for _ in range(20):
            trial = study.ask()
            x, y = trial.params.values()
            slopes = [[-2 * (1 - x) - 400 * x * (y - x * x), 200 * (y - x * x)]]
            study.tell(trial, (1 - x) ** 2 + 100 * (y - x * x) ** 2, gradients=slopes if told else None)
        assert study.best is not None
        assert study.best.value is not None
        return study.best.value

    return run(True), run(False)


def several(seed: int) -> Pair:
    """Branin and Currin in 25 evaluations: both told, or their sum in units of their range. What is missing of 59.36."""
    from botorch.utils.multi_objective.hypervolume import Hypervolume

    from zoopt.problems import BraninCurrin

    problem = BraninCurrin()
    measure = Hypervolume(torch.tensor([-18.0, -6.0]))

    def missing(values: Any) -> float:
        return 59.36 - measure.compute(-torch.as_tensor(np.array(values)))

    both = Study(problem.space, "bo", objectives={"branin": "minimize", "currin": "minimize"}, seed=seed, deterministic=True)
    single = Study(problem.space, "bo", seed=seed, deterministic=True)
    seen: dict[int, list[list[float]]] = {0: [], 1: []}
    for _ in range(25):
        for k, study in enumerate((both, single)):
            trial = study.ask()
            values = problem(trial.x.unsqueeze(0))[0].tolist()
            study.tell(trial, [values] if k == 0 else values[0] / 300 + values[1] / 14)
            seen[k].append(values)
    return missing(seen[0]), missing(seen[1])


def pool(seed: int) -> Pair:
    """The best of 400 rows of six columns in 40 evaluations: the rows as the space, or points of a box and the row nearest to each."""
    rows = Random(seed).child("rows").uniform((400, 6)).numpy()
    rows[:, 3:] = 0.7 * rows[:, :3] + 0.3 * rows[:, 3:]  # columns that go together
    values = np.array([hartmann6(row.tolist()) for row in rows])
    names = [f"x{j}" for j in range(6)]
    listed = Study(Pool([dict(zip(names, row.tolist(), strict=True)) for row in rows]), "bo", seed=seed, deterministic=True)
    boxed = Study({name: Real(0, 1) for name in names}, "bo", seed=seed, deterministic=True)
    best = [0.0, 0.0]
    for _ in range(40):
        for k, study in enumerate((listed, boxed)):
            trial = study.ask()
            nearest = int(((rows - np.array(list(trial.params.values()))) ** 2).sum(1).argmin())
            at = None if k == 0 else dict(zip(names, rows[nearest].tolist(), strict=True))
            study.tell(trial, values[nearest], at=at)
            best[k] = min(best[k], values[nearest])
    return best[0] - values.min(), best[1] - values.min()


def belief(seed: int) -> Pair:
    """Hartmann6 in 25 evaluations, told roughly where the optimum is; or not."""

    def run(recipe: BO) -> float:
        study = Study({f"x{j}": Real(0, 1) for j in range(6)}, recipe, seed=seed, deterministic=True)
        study.run(lambda **params: hartmann6(list(params.values())), evaluations=25)
        assert study.best is not None
        assert study.best.value is not None
        return study.best.value + 3.322368011415515

    near = {"x0": 0.25, "x1": 0.2, "x2": 0.45, "x3": 0.25, "x4": 0.35, "x5": 0.6}
    return run(BO(acquisition=Guided(near=near, width=0.15))), run(BO())


CAPABILITIES: dict[str, Callable[[int], Pair]] = {
    "parallel": parallel,
    "fidelity": fidelity,
    "sources": sources,
    "tasks": tasks,
    "constraints": constraints,
    "expectation": over_winds("expectation", 25),
    "tail": over_winds("conditional-value-at-risk", 40),
    "derivatives": derivatives,
    "several": several,
    "pool": pool,
    "belief": belief,
}


def main() -> None:
    """All pairs, then what they say."""
    options = parser(str(__doc__))
    options.add_argument("--seeds", type=int, default=10)
    options.add_argument("--capabilities", nargs="*", default=list(CAPABILITIES))
    given = options.parse_args()
    torch.set_num_threads(1)
    write(machine())
    for name in given.capabilities:
        began = time.process_time()
        pairs = np.array([CAPABILITIES[name](seed) for seed in range(2 if given.quick else given.seeds)])
        with_it, without = pairs.T
        better, differ = int((with_it < without).sum()), int((with_it != without).sum())
        p = binomtest(better, differ, alternative="greater").pvalue if differ else 1.0
        text = CAPABILITIES[name].__doc__ or ""
        write(
            f"{name:12} with {np.median(with_it):.3g} ({with_it.min():.2g} to {with_it.max():.2g}), "
            f"without {np.median(without):.3g} ({without.min():.2g} to {without.max():.2g}); better in {better} of {len(pairs)}, "
            f"p = {p:.3f}; {time.process_time() - began:.0f} CPU s. {text}"
        )


if __name__ == "__main__":
    main()
