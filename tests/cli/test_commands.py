"""Commands in this process: what they print, how they fail, what they import."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import zoopt.cli
from zoopt import registry
from zoopt.cli.app import app
from zoopt.config import load

SMALL = """\
[study]
strategy = "random"
evaluations = 5
seed = 1
durability = "process"
[objective]
command = "echo {x}"
[space]
x = { type = "real", low = 0.0, high = 1.0 }
"""

FRONT = """\
[study]
strategy = "random"
objectives = { low = "minimize", high = "maximize" }
constraints = ["heat"]
evaluations = 40
parallel = 40
seed = 1
durability = "process"
[objective]
python = "front_objective:f"
batched = true
[space]
a = { type = "real", low = 0.0, high = 1.0 }
b = { type = "real", low = 0.0, high = 1.0 }
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "study.toml").write_text(SMALL)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


# ---------------------------------------------------------------------- what is imported

# "pydantic" is loaded by typer itself (0.29 and newer) to read the options of a command, so it is asked of `zoopt --help` alone.
HEAVY = ("torch", "numpy", "scipy", "botorch", "gpytorch", "sqlalchemy", "plotly", "cma", "pymoo", "pandas")


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["--version"], ["strategies"], ["problems"]])
def test_nothing_heavy_is_imported_before_it_is_needed(arguments: list[str]) -> None:
    heavy = [*HEAVY, "pydantic"] if arguments[0].startswith("--") else HEAVY
    script = (
        "import json, sys; sys.argv = ['zoopt', *json.loads(sys.argv[1])]\n"
        "from zoopt.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        f"print(json.dumps([name for name in {heavy!r} if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", script, json.dumps(arguments)], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == []
    assert len(done.stdout.splitlines()) > 1


def test_the_command_line_uses_nothing_private() -> None:
    """A thin shell: what it can do, a user of the Python API can do."""
    allowed = {"zoopt._clash"}  # looks, before anything of ours is imported, whether it is ours
    for path in Path(zoopt.cli.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Attribute) and not (isinstance(node.value, ast.Name) and node.value.id == "self"):
                names = [node.attr]
            for name in names:
                private = any(part.startswith("_") and not part.startswith("__") for part in name.split("."))
                assert not private or name in allowed or name == "_exit", f"{path.name} line {node.lineno} uses {name}"  # type: ignore[attr-defined]


# ---------------------------------------------------------------------- listings


def test_strategies_are_listed_with_their_first_lines() -> None:
    code, out, _ = call("strategies")
    assert code == 0
    for name in registry.names():
        (line,) = [line for line in out.splitlines() if line.split()[:1] == [name]]
        assert registry.summary(name)
        assert registry.summary(name) in line


def test_a_strategy_is_described_with_its_fields() -> None:
    code, out, _ = call("strategies", "cma-es")
    assert code == 0
    (line,) = [line for line in out.splitlines() if line.split()[:1] == ["sigma0"]]
    assert "float" in line
    assert "0.3" in line
    assert "standard deviation" in line
    assert "fields of [strategy]" in out
    assert "1 objective" in out


def test_problems_are_listed_and_described() -> None:
    code, out, _ = call("problems")
    assert code == 0
    assert {line.split()[0] for line in out.splitlines() if line.strip()} >= set(registry.names("problems"))
    code, out, _ = call("problems", "welded-beam")
    assert code == 0
    assert "constraints:" in out
    assert "optimum:" in out


@pytest.mark.parametrize(("command", "name", "meant"), [("strategies", "cmaes", "cma-es"), ("problems", "rastrigi", "rastrigin")])
def test_an_unknown_name_is_answered_with_the_closest(command: str, name: str, meant: str) -> None:
    code, out, err = call(command, name)
    assert (code, out) == (2, "")
    assert f"{name!r}; did you mean {meant!r}?" in err


# ---------------------------------------------------------------------- check


def test_check_says_what_will_be_done_and_runs_nothing(folder: Path) -> None:
    code, out, err = call("check", "study.toml")
    assert (code, err) == (0, "")
    assert "study.toml is fine: random is to minimize value over 1 variable (x)" in out
    assert sorted(p.name for p in folder.iterdir()) == ["study.toml"]


def test_check_prints_every_fault_on_a_line_of_its_own(folder: Path) -> None:
    text = SMALL.replace("low", "lwo").replace("evaluations = 5", "evaluations = 0")
    (folder / "study.toml").write_text(text)
    code, out, err = call("check", "study.toml")
    assert (code, out) == (2, "")
    assert err.splitlines() == [
        "study.toml:3:15: study.evaluations: at least 1 was expected; got 0.",
        "study.toml:9:22: space.x.lwo: there is no such field; did you mean 'low'?",
    ]


def test_check_looks_for_the_program(folder: Path) -> None:
    code, _, err = call("check", "study.toml", "--set", "objective.command=no-such-program {x}")
    assert code == 2
    assert "objective.command: the program 'no-such-program' of the command was not found" in err


@pytest.mark.parametrize("command", ["run", "check", "show"])
def test_bad_input_is_one_message_and_code_2(command: str, folder: Path) -> None:
    code, out, err = call(command, "stduy.toml")
    assert (code, out) == (2, "")
    assert err == "stduy.toml: there is no such file; did you mean 'study.toml'?\n"


def test_an_override_without_a_value_is_refused(folder: Path) -> None:
    code, _, err = call("run", "study.toml", "--set", "strategy.sigma0")
    assert code == 2
    assert "FIELD=VALUE was expected" in err


def test_debug_shows_the_traceback(folder: Path) -> None:
    with pytest.raises(Exception, match="there is no such file"):
        call("run", "nowhere.toml", "--debug")


# ---------------------------------------------------------------------- run and show


def test_a_run_ends_in_time_though_an_evaluation_hangs(folder: Path) -> None:
    hanging = ["--set", "objective.command=sleep 600; echo {x}", "--set", "objective.shell=true"]
    code, _, err = call("run", "study.toml", *hanging, "--set", "stop.time=0.5")
    assert code == 1
    assert "s passed of 0.5 s; 1 that was running will be started again" in err
    code, out, _ = call("run", "study.toml", *hanging, "--set", "stop.time=0.5", "--json")
    summary = json.loads(out)
    assert (summary["reason"], summary["evaluations"], summary["pending"]) == ("time", 0, 1)
    code, out, err = call("run", "study.toml")
    assert code == 0, err
    assert "best trial" in out


def test_a_changed_strategy_goes_on_only_when_told_to(folder: Path) -> None:
    assert call("run", "study.toml", "-q")[0] == 0
    code, _, err = call("run", "study.toml", "-q", "--set", "study.strategy=sobol", "-n", "8")
    assert code == 2
    assert "random" in err
    assert "sobol" in err
    assert "--continue-with-data" in err
    code, _, err = call("run", "study.toml", "-q", "--set", "study.strategy=sobol", "-n", "8", "--continue-with-data")
    assert code == 0, err
    code, out, _ = call("show", "study.toml", "--json")
    assert json.loads(out)["strategy"]["name"] == "sobol"
    assert json.loads(out)["evaluations"] == 8


def test_a_changed_space_is_refused_with_the_difference(folder: Path) -> None:
    assert call("run", "study.toml", "-q")[0] == 0
    code, _, err = call("run", "study.toml", "-q", "-n", "8", "--set", "space.x.high=2.0")
    assert code == 2
    assert "another space" in err
    assert "2.0" in err


def test_a_second_driver_is_refused_and_readers_are_not(folder: Path) -> None:
    with load("study.toml").make_study() as study:
        trial = study.ask()
        study.tell(trial, 0.25)
        code, _, err = call("run", "study.toml")
        assert code == 2
        assert "driven by" in err or "already drives" in err
        code, out, _ = call("show", "study.toml")
        assert code == 0
        assert "0.25" in out
        assert "running" in out
        study.tell(study.ask(), 0.125)
    code, out, _ = call("show", "study.db")
    assert code == 0
    assert "0.125" in out
    assert "running" not in out


def test_show_lists_the_best_trials_in_order(folder: Path) -> None:
    assert call("run", "study.toml", "-q", "--set", "study.direction=maximize")[0] == 0
    code, out, _ = call("show", "study.toml", "--json", "--top", "3")
    assert code == 0
    shown = json.loads(out)
    values = [trial["values"]["value"] for trial in shown["top"]]
    assert len(values) == 3
    assert values == sorted(values, reverse=True)
    assert (shown["evaluations"], shown["complete"], shown["driver"], shown["seed"]) == (5, 5, None, 1)
    code, out, _ = call("show", "study.db", "--top", "3")
    assert [line.split()[0] for line in out.splitlines() if line.strip()[:1].isdigit()] == [str(t["id"]) for t in shown["top"]]


BEYOND = """
[study]
strategy = "bo"
seed = 1
deterministic = true
[stop]
evaluations = 9
[objective]
command = "sh -c 'echo $(( ({n} - 20) * ({n} - 20) + 9 - {size} + {w} ))'"
[space]
n = { type = "integer", low = 0, high = 40 }
size = { type = "fidelity", variable = { type = "integer", low = 1, high = 9 } }
"""


def test_what_is_best_at_the_target_and_what_is_recommended(folder: Path) -> None:
    (folder / "sized.toml").write_text(BEYOND.replace(" + {w}", ""))
    code, out, _ = call("run", "sized.toml")
    assert code == 0
    assert "recommended after 9 evaluations" in out
    assert "size   9" in out
    code, out, _ = call("show", "sized.toml")
    assert "at the target of size" in out
    assert "cost" in out
    rows = [line.split() for line in out.splitlines() if line.strip()[:1].isdigit()]
    assert {row[-1] for row in rows} == {"9"}


def test_over_an_environment_it_is_what_is_recommended(folder: Path) -> None:
    (folder / "windy.toml").write_text(BEYOND.replace("fidelity", "environment").replace("size", "wind").replace(" + {w}", ""))
    code, out, _ = call("run", "windy.toml")
    assert code == 0
    assert "recommended after 9 evaluations" in out
    assert "wind" not in out.split("recommended")[1]
    assert "each in one wind" in call("show", "windy.toml")[1]


def test_show_of_a_journal_of_several_studies_asks_which(folder: Path) -> None:
    for name in ("first", "second"):
        assert call("run", "study.toml", "-q", "--set", f"study.name={name}")[0] == 0
    code, out, _ = call("show", "study.db")
    assert code == 0
    assert "--study NAME" in out
    assert {"first", "second"} <= set(out.split())
    code, out, _ = call("show", "study.db", "--study", "second", "--json")
    assert json.loads(out)["study"] == "second"
    code, _, err = call("show", "study.db", "--study", "thrid")
    assert code == 2
    assert "'first', 'second'" in err


def test_show_before_the_first_run_says_how_to_begin(folder: Path) -> None:
    code, _, err = call("show", "study.toml")
    assert code == 2
    assert "zoopt run study.toml" in err
    (folder / "not.db").write_text("not a database, but long enough to be read as one" * 100)
    code, _, err = call("show", "not.db")
    assert code == 2
    assert "is not a journal" in err


def test_a_run_of_several_objectives_ends_with_its_front(folder: Path) -> None:
    (folder / "front_objective.py").write_text(
        "def f(x):\n    return {'low': x[:, 0], 'high': x[:, 1], 'heat': x[:, 0] - 0.9, 'metrics': {'sum': x.sum(-1)}}\n"
    )
    (folder / "front.toml").write_text(FRONT)
    code, out, err = call("run", "front.toml", "--json")
    assert code == 0, err
    lines = [json.loads(line) for line in out.splitlines()]
    trials, summary = lines[:-1], lines[-1]
    assert len(trials) == 40
    allowed = [t for t in trials if t["constraints"]["heat"] <= 0]
    expected = {
        t["id"]
        for t in allowed
        if not any(
            o["values"]["low"] <= t["values"]["low"] and o["values"]["high"] >= t["values"]["high"] and o["values"] != t["values"]
            for o in allowed
        )
    }
    assert {t["id"] for t in summary["front"]} == expected
    assert all(t["metrics"]["sum"] == pytest.approx(t["params"]["a"] + t["params"]["b"]) for t in trials)
    code, out, _ = call("run", "front.toml", "-q")  # finished already: shows the result again
    assert code == 0
    assert f"Pareto front: {len(expected)} of 40 trials" in out
    rows = [line.split() for line in out.splitlines() if line.strip()[:1].isdigit()]
    assert {int(row[0]) for row in rows} == expected
    lows = [float(row[1]) for row in rows]
    assert lows == sorted(lows)


def test_a_run_in_which_nothing_succeeds_has_failed(folder: Path) -> None:
    code, _, err = call("run", "study.toml", "--set", "objective.command=echo nothing {x}")
    assert code == 1
    assert "no evaluation succeeded" in err
    code, out, _ = call("show", "study.toml")
    assert code == 0
    assert "The last failure, trial 4: the last line of the command's standard output is no number" in out


def test_show_tells_of_the_failure_that_came_last(folder: Path) -> None:
    with load("study.toml").make_study() as study:
        trials = study.ask(3)
        study.tell(trials[1], 1.0)
        study.fail(trials[2], "the first")
        study.fail(trials[0], "the latest")
    code, out, _ = call("show", "study.toml")
    assert code == 0
    assert "The last failure, trial 0: the latest" in out


def test_what_an_objective_prints_does_nothing_to_the_terminal(folder: Path) -> None:
    """Colours, a window title, a cursor moved up, a backspace and a bell, in errors and in names of metrics."""
    (folder / "nasty.sh").write_text(
        r"""
if [ "$2" = 0 ]; then printf '{"value": 1, "metrics": {"a\\u001b[2Jb": 5}}\n'; exit 0; fi
printf '\033[31mred\033[0m \033]0;title\007\033[2A\302\2332K over\b\a it\n' >&2
exit 3
"""
    )
    arguments = ["study.toml", "--set", "objective.command=sh nasty.sh {x} {id}"]
    code, out, err = call("run", *arguments, "--set", "study.max_failures=2")
    assert code == 1
    shown = call("show", "study.toml")
    jsons = call("run", *arguments, "--set", "study.max_failures=3", "--json")
    for text in (out, err, *shown[1:], *jsons[1:]):
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", text), repr(text)
    assert "trial 1 failed: the command exited with code 3: red  over it" in err
    assert "The last failure: the command exited with code 3: red  over it" in err
    assert "red  over it" in shown[1]
    assert "ab " in out


def test_infeasible_best_trials_are_called_so(folder: Path) -> None:
    (folder / "hot_objective.py").write_text("def f(x):\n    return {'value': x[:, 0], 'heat': x[:, 0] + 0.5}\n")
    text = SMALL.replace("[study]", '[study]\nconstraints = ["heat"]').replace(
        'command = "echo {x}"', 'python = "hot_objective:f"\nbatched = true'
    )
    (folder / "hot.toml").write_text(text)
    code, out, _ = call("run", "hot.toml", "-q")
    assert code == 0
    assert "which breaks a constraint" in out


def unexpected(*_: Any, **__: Any) -> None:
    raise RuntimeError("a bug")


def test_a_bug_is_one_message_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoopt.config.load", unexpected)
    code, _, err = call("check", "study.toml")
    assert code == 1
    assert "unexpected RuntimeError: a bug" in err
    assert "--debug" in err
