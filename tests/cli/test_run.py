"""Whole runs of the command line in processes of their own, with programs as objectives."""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path
from typing import Any

import pytest

from zoopt.journal import Journal
from zoopt.restore import read

ZOOPT = [sys.executable, "-m", "zoopt.cli"]

STUDY = """\
[study]
strategy = "cma-es"
evaluations = 24
seed = 5
durability = "process"
[objective]
command = "sh objective.sh {x} {y}"
[space]
x = { type = "real", low = 0.0, high = 1.0 }
y = { type = "real", low = 0.0, high = 1.0 }
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "study.toml").write_text(STUDY)
    (tmp_path / "objective.sh").write_text("echo a line before the value\necho $1\n")
    return tmp_path


def zoopt(folder: Path, *arguments: str) -> tuple[int, str, str]:
    """A run in a new interpreter."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*ZOOPT, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=500)
    return done.returncode, done.stdout, done.stderr


# Most runs are forked from a process that has imported everything, which saves some seconds each; see multiprocessing's forkserver.
_FORKED = multiprocessing.get_context("forkserver")
_FORKED.set_forkserver_preload(
    ["zoopt.study", "zoopt.strategies.cma_es", "zoopt.config", "zoopt.evaluate.command", "zoopt.journal", "typer._adapters"]
)


# A text and not a function of ours: the new process need not be able to import this file.
_RUN = """
import os, sys
os.chdir(folder)
os.environ["TERM"] = "xterm"
os.environ.pop("COLUMNS", None)  # the terminal says itself how wide it is
for path, number in ((out, 1), (err, 2)):
    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOCTTY), number)
sys.argv = ["zoopt", *arguments]
from zoopt.cli import main
main()
"""


class Run:
    """A run of the command line in a process of its own."""

    def __init__(self, folder: Path, *arguments: str, err: str | None = None) -> None:
        scratch = Path(tempfile.mkdtemp(dir=folder))
        self.out, self.err = scratch / "out", scratch / "err"
        names = {"folder": str(folder), "arguments": arguments, "out": str(self.out), "err": err or str(self.err)}
        self.process = _FORKED.Process(target=exec, args=(_RUN, names))
        self.process.start()

    def wait_for_lines(self, n: int) -> list[str]:
        """The first n lines of its standard output, once they are there."""
        end = time.monotonic() + 300
        while time.monotonic() < end and self.process.is_alive():
            lines = self.out.read_text().splitlines(keepends=True) if self.out.exists() else []
            if len([line for line in lines if line.endswith("\n")]) >= n:
                return lines[:n]
            time.sleep(0.01)
        raise AssertionError(f"it did not print {n} lines: {self.err.read_text()}")

    def end(self) -> tuple[int | None, str, str]:
        """Its exit code and what it wrote, once it has ended."""
        self.process.join(300)
        return self.process.exitcode, self.out.read_text(), self.err.read_text() if self.err.exists() else ""


def forked(folder: Path, *arguments: str) -> tuple[int | None, str, str]:
    return Run(folder, *arguments).end()


def lines_of(text: str) -> tuple[dict[int, dict[str, Any]], dict[str, Any]]:
    """Trials by id, and the summary."""
    records = [json.loads(line) for line in text.splitlines()]
    assert [record["kind"] for record in records[:-1]] == ["trial"] * (len(records) - 1)
    trials = {record["id"]: record for record in records if record["kind"] == "trial"}
    assert len(trials) == len([record for record in records if record["kind"] == "trial"])
    return trials, records[-1]


def test_a_run_prints_its_best_trial_and_goes_on_with_a_larger_budget(folder: Path) -> None:
    code, out, err = zoopt(folder, "run", "study.toml", "--evaluations", "8", "--parallel", "2")
    assert code == 0, err
    with Journal(folder / "study.db", read_only=True) as journal:
        study = read(journal, "study")
    assert study.best is not None
    values = [study.trial(i).value for i in range(8)]
    assert study.best.value == min(v for v in values if v is not None) == study.best.params["x"]
    assert f"best trial: {study.best.id} of 8" in out
    assert f"{study.best.value:.6g}" in out
    assert "8/8 evaluations" in err
    assert "stopped: 8 evaluations done of 8" in err

    code, out, err = forked(folder, "run", "study.toml", "-n", "12", "--json", "--quiet")
    assert (code, err) == (0, "")
    trials, summary = lines_of(out)
    assert sorted(trials) == [8, 9, 10, 11]
    assert all(trial["state"] == "complete" and trial["values"]["value"] == trial["params"]["x"] for trial in trials.values())
    assert (summary["kind"], summary["reason"], summary["evaluations"], summary["pending"]) == ("summary", "evaluations", 12, 0)
    assert summary["detail"] == "12 evaluations done of 12"
    assert summary["session_seconds"] > 0
    assert summary["best"]["values"]["value"] <= study.best.value


def test_interrupted_and_killed_runs_go_on_as_if_nothing_had_happened(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("uninterrupted")
    for name in ("study.toml", "objective.sh"):
        (other / name).write_text((folder / name).read_text())
    code, out, _ = forked(other, "run", "study.toml", "--json", "-q")
    assert code == 0
    undisturbed, _ = lines_of(out)
    assert sorted(undisturbed) == list(range(24))

    slow = folder / "objective.sh"
    block, blocked = folder / "block", folder / "blocked"
    slow.write_text(f"if [ -e {block} ]; then touch {blocked}; sleep 60; fi; sleep 0.2; echo $1\n")
    seen: dict[int, dict[str, Any]] = {}
    for number, wanted in ((signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 130)):
        run = Run(folder, "run", "study.toml", "--json")
        run.wait_for_lines(4)
        block.touch()  # the signal comes in the middle of an evaluation
        deadline = time.monotonic() + 60
        while not blocked.exists():
            assert time.monotonic() < deadline, "no evaluation began"
            time.sleep(0.01)
        assert run.process.pid is not None
        os.kill(run.process.pid, number)
        code, out, err = run.end()
        assert code == wanted, err
        block.unlink()
        blocked.unlink()
        records = [json.loads(line) for line in out.splitlines()]
        rest = {record["id"]: record for record in records if record["kind"] == "trial"}  # each was acknowledged by the journal
        assert len(rest) >= 4
        assert not rest.keys() & seen.keys()
        seen |= rest
        if number != signal.SIGKILL:
            assert records[-1]["kind"] == "summary"
            assert records[-1]["reason"] == "interrupted"
            assert records[-1]["detail"] == f"interrupted after {records[-1]['evaluations']} evaluations"
            assert records[-1]["pending"] == 1
            assert "Go on with: zoopt run study.toml --json" in err
            assert "Traceback" not in err
    slow.write_text("echo $1\n")
    code, out, err = forked(folder, "run", "study.toml", "--json")
    assert code == 0, err
    assert "going on: " in err
    trials, summary = lines_of(out)
    with Journal(folder / "study.db", read_only=True) as journal:
        study = read(journal, "study")
    assert study.evaluations == summary["evaluations"] == 24
    for i in range(24):
        assert study.trial(i).params == undisturbed[i]["params"]
        assert study.trial(i).values == undisturbed[i]["values"]
    for i, record in (seen | trials).items():
        assert record["params"] == undisturbed[i]["params"]


def test_a_second_run_beside_the_first_is_told_how_to_look_at_it(folder: Path) -> None:
    (folder / "objective.sh").write_text("sleep 0.2; echo $1\n")
    first = Run(folder, "run", "study.toml", "--json", "-q")
    first.wait_for_lines(1)
    code, out, err = forked(folder, "run", "study.toml")
    assert (code, out) == (2, "")
    assert "is driven by process" in err
    assert "To look at it: zoopt show study.toml" in err
    assert "read_only" not in err
    code, out, err = forked(folder, "show", "study.toml")
    assert code == 0 and f"process {first.process.pid}" in out
    assert first.end()[0] == 0


def test_failures_are_recorded_and_too_many_stop_the_run(folder: Path) -> None:
    (folder / "objective.sh").write_text('echo "no convergence" >&2\nexit 3\n')
    code, out, err = forked(folder, "run", "study.toml", "--set", "study.max_failures=3", "--json")
    assert code == 1
    trials, summary = lines_of(out)
    assert {trial["state"] for trial in trials.values()} == {"failed"}
    assert "exited with code 3" in trials[0]["error"]
    assert "no convergence" in trials[0]["error"]
    assert (summary["reason"], summary["failed"], summary["best"]) == ("max_failures", 3, None)
    assert summary["detail"] == "3 evaluations have failed (max_failures = 3)"
    assert "trial 0 failed: the command exited with code 3: no convergence" in err
    assert "3 evaluations have failed (max_failures = 3)" in err
    assert "--set study.max_failures=6" in err
    assert "Traceback" not in err

    (folder / "objective.sh").write_text("echo $1\n")
    code, out, err = forked(folder, "run", "study.toml", "--set", "study.max_failures=6", "-n", "6", "-q")
    assert code == 0, err
    assert "of 6" in out


def on_a_terminal(folder: Path, columns: int, *arguments: str) -> tuple[str, str]:
    """What a run draws on a terminal, and what it prints to its standard output."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    run = Run(folder, *arguments, err=os.ttyname(theirs))
    seen = b""
    while run.process.is_alive() or select.select([ours], [], [], 0)[0]:
        if select.select([ours], [], [], 0.1)[0]:
            seen += os.read(ours, 65536)
    os.close(theirs)
    os.close(ours)
    code, out, _ = run.end()
    assert code == 0, seen
    return seen.decode(), out


def test_a_bar_is_drawn_on_a_terminal(folder: Path) -> None:
    (folder / "objective.sh").write_text("sleep 0.15; echo $1\n")  # slower than the bar is redrawn
    text, out = on_a_terminal(folder, 120, "run", "study.toml", "-n", "6")
    assert "6/6" in text
    assert "best 0." in text
    assert "evaluations/s" in text
    assert re.search(r"\b0:0\d left", text)
    assert "\x1b[" in text  # drawn over and over
    assert "best trial" not in text
    assert "best trial" in out
    assert "\x1b[" not in out


def test_in_a_narrow_terminal_the_bar_gives_way_and_what_it_says_is_cut_last(folder: Path) -> None:
    (folder / "objective.sh").write_text("sleep 0.15; echo $1\n")
    text, _ = on_a_terminal(folder, 50, "run", "study.toml", "-n", "6")
    lines = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line).rstrip() for line in re.split("[\r\n]+", text)]
    drawn = [line for line in lines if re.match(r"study\b", line)]
    assert drawn and all(len(line) <= 50 and re.search(r"\d/6", line) for line in drawn)
    assert any("best 0." in line and "evaluations/s" in line for line in drawn)
