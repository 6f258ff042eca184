"""A pool of candidates: only its rows are asked, by every strategy that takes them, and the best one is found early."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from zoopt import Choice, Context, Integer, Pool, Random, Real, Study, Task
from zoopt.config import ConfigFaults, load
from zoopt.errors import Exhausted, SpaceError, StudyMismatch
from zoopt.strategies import BO
from zoopt.strategies.bo.automatic import Automatic

QUICK = BO(acquisition=Automatic(samples=16), raw_samples=32, restarts=1)


def shelf(n: int = 60, seed: int = 0) -> list[dict[str, Any]]:
    generator = np.random.default_rng(seed)
    return [
        {
            "bottle": f"B-{i:03d}",
            "mass": float(generator.uniform(10, 200)),
            "rings": int(generator.integers(0, 4)),
            "solvent": str(generator.choice(["water", "ethanol", "toluene"])),
            "dry": bool(generator.integers(2)),
            "grade": "pure",
        }
        for i in range(n)
    ]


def value(p: dict[str, Any]) -> float:
    return ((p["mass"] - 120) / 50) ** 2 + abs(p["rings"] - 2) + {"water": 0.0, "ethanol": 0.5, "toluene": 1.0}[p["solvent"]] + p["dry"]


def test_columns_become_variables() -> None:
    pool = Pool(shelf(), labels="bottle")
    masses = [row["mass"] for row in shelf()]
    assert pool.variables["mass"] == Real(min(masses), max(masses))
    assert pool.variables["rings"] == Integer(0, 3)
    assert pool.variables["solvent"] == Choice("ethanol", "toluene", "water")
    assert type(pool.variables["dry"]).__name__ == "Bool"
    assert type(pool.variables["grade"]).__name__ == "Fixed"
    assert "bottle" not in pool.variables
    assert pool.size == 60
    assert Pool(shelf(), {"mass": Real(1, 1000, log=True)}, labels="bottle").variables["mass"] == Real(1, 1000, log=True)


def test_rows_come_back_as_they_are() -> None:
    rows = shelf()
    pool = Pool(rows, labels=["bottle"])
    x = torch.from_numpy(pool.encode_params(rows))
    assert pool.allowed(x.numpy()).all()
    for given, found in zip(rows, pool.params(x), strict=True):
        assert found["mass"] == pytest.approx(given["mass"], rel=1e-12)
        assert {k: v for k, v in found.items() if k != "mass"} == {k: v for k, v in given.items() if k != "mass"}
    assert pool.params(x.float())[7]["bottle"] == "B-007"
    assert pool.param_columns(x)["bottle"][3] == "B-003"
    assert np.array_equal(pool.encode_params([{"bottle": "B-011"}])[0], x[11])


def test_the_nearest_row_is_what_brute_force_finds() -> None:
    pool = Pool(shelf(), labels="bottle")
    assert pool.listed is not None
    x = pool.from_unit(Random(1).uniform((200, pool.dim)))
    repaired = pool.repair(x, Random(0)).numpy()
    choice = np.array([c.kind == "choice" for c in pool.columns])
    for point, row in zip(x.numpy(), repaired, strict=True):
        away = np.where(choice, np.rint(point) != pool.listed, (point - pool.listed) ** 2).sum(1)
        assert np.array_equal(row, pool.listed[away.argmin()])
    assert pool.repair(torch.empty((0, pool.dim)), Random(0)).shape == (0, pool.dim)


@pytest.mark.parametrize("strategy", ["random", "sobol", "turbo", "cma-es", "de", QUICK])
@pytest.mark.parametrize("deterministic", [True, False])
def test_only_rows_are_asked(strategy: Any, deterministic: bool) -> None:
    pool = Pool(shelf(), labels="bottle")
    study = Study(pool, strategy, seed=0, deterministic=deterministic)
    bottles = []
    for _ in range(8):
        for trial in study.ask(3):
            bottles.append(trial.params["bottle"])
            study.tell(trial, value(trial.params))
    assert set(bottles) <= {row["bottle"] for row in shelf()}
    assert not deterministic or len(set(bottles)) == len(bottles)


def test_the_best_row_is_found_early_and_every_row_once() -> None:
    rows = shelf(150)
    pool = Pool(rows, labels="bottle")
    best = min(rows, key=value)["bottle"]
    study = Study(pool, QUICK, seed=0, deterministic=True)
    for _ in range(35):
        trial = study.ask()
        study.tell(trial, value(trial.params))
    assert study.best is not None
    assert study.best.params["bottle"] == best
    small = Study(Pool(rows[:9], labels="bottle"), QUICK, seed=0, deterministic=True)
    for _ in range(9):
        trial = small.ask()
        small.tell(trial, value(trial.params))
    with pytest.raises(Exhausted):
        small.ask()


def test_a_pool_too_large_to_look_at_whole() -> None:
    generator = np.random.default_rng(0)
    rows = [{"x": float(a), "y": float(b)} for a, b in generator.uniform(-1, 1, (9000, 2))]
    study = Study(Pool(rows), QUICK, seed=0, deterministic=True)
    for _ in range(16):
        trial = study.ask()
        study.tell(trial, (trial.params["x"] - 0.3) ** 2 + (trial.params["y"] + 0.2) ** 2)
    assert study.best is not None
    assert study.best.value is not None
    assert study.best.value < 1e-3


def test_what_is_added_must_be_a_row() -> None:
    pool = Pool(shelf(), labels="bottle")
    study = Study(pool, QUICK, seed=0)
    study.add({"bottle": "B-005"}, 3.0)
    assert study.trial(0).params["bottle"] == "B-005"
    with pytest.raises(SpaceError, match=r"is no row of the pool; the nearest is \{'bottle': 'B-005'"):
        study.add({**shelf()[5], "mass": shelf()[5]["mass"] + 0.1, "bottle": "B-005"}, 3.0)
    with pytest.raises(SpaceError, match="no row of the pool has bottle = 'C-1'"):
        study.enqueue({"bottle": "C-1"})
    study.enqueue({"bottle": "B-007"})
    assert study.ask().params["bottle"] == "B-007"


def test_a_reopened_study_compares_the_rows(tmp_path: Path) -> None:
    journal = f"sqlite:///{tmp_path}/a.db"
    with Study(Pool(shelf(), labels="bottle"), QUICK, seed=0, journal=journal) as study:
        trial = study.ask()
        study.tell(trial, value(trial.params))
    with Study(Pool(shelf(), labels="bottle"), QUICK, seed=0, journal=journal) as study:
        assert study.trial(0).params == trial.params
    with pytest.raises(StudyMismatch, match="one of the 60 rows"):
        Study(Pool(shelf(seed=1), labels="bottle"), QUICK, seed=0, journal=journal)


def write(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "shelf.csv"
    lines = [",".join(rows[0]), *(",".join(str(v) for v in row.values()) for row in rows)]
    path.write_text("\n".join(lines) + "\n\n")
    return path


def test_a_file_is_read(tmp_path: Path) -> None:
    path = write(tmp_path, shelf())
    pool = Pool.read(path, labels="bottle")
    direct = Pool(shelf(), labels="bottle")
    assert pool.to_config() == direct.to_config()
    assert pool.listed is not None
    assert direct.listed is not None
    np.testing.assert_allclose(pool.listed, direct.listed)
    study_file = tmp_path / "study.toml"
    study_file.write_text(
        '[study]\nstrategy = "bo"\nevaluations = 5\n[objective]\ncommand = "echo {mass} {bottle}"\n[space]\npool = "shelf.csv"\n'
        'labels = "bottle"\nmass = { type = "real", low = 1, high = 1000, log = true }\n'
    )
    config = load(study_file)
    config.check()
    assert isinstance(config.space, Pool)
    assert config.space.variables["mass"] == Real(1, 1000, log=True)
    study_file.write_text(study_file.read_text().replace("shelf.csv", "shelves.csv"))
    with pytest.raises(ConfigFaults, match=r":7:8: space.pool: the pool .*shelves.csv cannot be read"):
        load(study_file)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda _: Pool([]), "has no rows"),
        (lambda _: Pool([{"a": 1}, {"b": 2}]), "row 2 of the pool has the columns b, the first one a"),
        (lambda _: Pool([{"a": 1}, {"a": 1}]), "no column in which its rows differ"),
        (lambda _: Pool(shelf(), labels="name"), "no column 'name'"),
        (lambda _: Pool(shelf(), {"mass": Real(0, 50)}), "row 1 of the pool: mass"),
        (lambda _: Pool(shelf(), {"mass": Context(Real(0, 500))}), "no Context"),
        (lambda _: Pool([{"a": 1.0}, {"a": float("nan")}]), "not a finite number"),
        (lambda folder: Pool.read(folder / "none.csv"), "cannot be read"),
        (lambda folder: Pool.read(text(folder, "a,b\n1,2\n3,\n")), "line 3 of .* must have a value for each of a, b"),
        (lambda folder: Pool.read(text(folder, "a,a\n1,2\n")), "name its columns, each once"),
    ],
)
def test_wrong_pools_are_refused(make: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match=message):
        make(tmp_path)


def text(folder: Path, content: str) -> Path:
    path = folder / "wrong.csv"
    path.write_text(content)
    return path


def test_repeated_rows_count_once(caplog: pytest.LogCaptureFixture) -> None:
    pool = Pool([{"a": 1, "b": "x"}, {"a": 2, "b": "y"}, {"a": 1, "b": "x"}])
    assert pool.size == 2
    assert "1 of 3 rows of the pool repeat others" in caplog.text
    assert Task(pool).dim == 2
