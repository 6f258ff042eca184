"""The examples run as a user runs them: one command in their folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from zoopt.config import load

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def run(folder: Path, *arguments: str) -> str:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
    done = subprocess.run([sys.executable, *arguments], cwd=folder, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_digits_svm_runs_goes_on_and_draws_its_picture(tmp_path: Path) -> None:
    folder = tmp_path / "digits_svm"
    shutil.copytree(EXAMPLES / "digits_svm", folder, ignore=shutil.ignore_patterns("*.db*", "*.png", "__pycache__"))
    run(folder, "-m", "zoopt.cli", "run", "study.toml", "--evaluations", "3")
    out = run(folder, "-m", "zoopt.cli", "run", "study.toml", "--evaluations", "5")
    assert "best trial" in out and "5" in out
    run(folder, "plot.py")
    assert (folder / "convergence.png").read_bytes().startswith(b"\x89PNG")


def test_the_picture_of_digits_svm_is_drawn_beside_a_run_and_not_before_there_is_something_to_draw(tmp_path: Path) -> None:
    folder = tmp_path / "digits_svm"
    shutil.copytree(EXAMPLES / "digits_svm", folder, ignore=shutil.ignore_patterns("*.db*", "*.png", "__pycache__"))

    def plot() -> tuple[int, str, str]:
        done = subprocess.run([sys.executable, "plot.py"], cwd=folder, capture_output=True, text=True, timeout=600, check=False)
        return done.returncode, done.stdout, done.stderr

    code, _, err = plot()
    assert code == 1 and "run the study first" in err and "Traceback" not in err
    assert not (folder / "study.db").exists()
    text = (folder / "study.toml").read_text()
    (folder / "in_memory.toml").write_text(text.replace('python = "objective:accuracy"', 'command = "true"'))
    with load(folder / "in_memory.toml", {"study.journal": "study.db"}).make_study() as study:
        trial = study.ask()
        code, _, err = plot()
        assert code == 1 and "no trial is complete yet" in err and "Traceback" not in err
        study.tell(trial, 0.9)
        code, out, _ = plot()
        assert code == 0 and "wrote" in out
        assert (folder / "convergence.png").read_bytes().startswith(b"\x89PNG")
        study.tell(study.ask(), 0.95)  # and it drives on


def test_digits_network_learns_without_gradients(tmp_path: Path) -> None:
    out = run(tmp_path, str(EXAMPLES / "digits_network" / "run.py"), "--quick")
    with_cooling = next(line for line in out.splitlines() if line.startswith("64-10") and " yes " in line)
    assert float(with_cooling.split()[4]) > 0.4  # a tenth by guessing, .9 after fifty epochs
    assert (tmp_path / "accuracy.png").read_bytes().startswith(b"\x89PNG")


def test_batched_torch_finds_the_parameters(tmp_path: Path) -> None:
    out = run(tmp_path, str(EXAMPLES / "batched_torch" / "run.py"))
    found = dict(line.split()[:2] for line in out.splitlines()[1:])
    assert abs(float(found["frequency"]) - 1.7) < 0.02 and abs(float(found["amplitude"]) - 2.5) < 0.1


@pytest.mark.slow
def test_multi_objective_prints_a_front(tmp_path: Path) -> None:
    out = run(tmp_path, str(EXAMPLES / "multi_objective" / "run.py"))
    assert "160 trees" in out and "2 leaves" in out


@pytest.mark.slow
def test_canyon_separates_consensus_from_gradients(tmp_path: Path) -> None:
    """The paper's figures: the consensus point passes the ripples that gradient descent stops at."""
    out = run(tmp_path, str(EXAMPLES / "canyon" / "run.py"), "40", "paths.png")
    near = {line[:30].strip(): float(line[30:].split()[0]) for line in out.splitlines() if "(" in line}
    assert near["consensus-based optimization"] >= 0.95
    assert near["consensus hopping"] >= 0.9
    assert near["gradient descent"] == 0.0
    assert near["Langevin dynamics"] < 0.8
    assert "(2.336, 2.466)" in out
    assert (tmp_path / "paths.png").read_bytes().startswith(b"\x89PNG")
