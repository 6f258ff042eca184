from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zoopt import ZooptError, config
from zoopt.config import ConfigFaults, load
from zoopt.config.positions import find
from zoopt.evaluate import Batched, Command, Processes
from zoopt.journal import Journal
from zoopt.restore import read
from zoopt.stop import Evaluations, Failures, Stalled, Target, Time
from zoopt.strategy import make

# the file of the design, to the letter
DESIGN = """\
# study.toml: zoopt run study.toml   (again after Ctrl-C or a crash: it goes on where it stopped)
[study]
strategy = "bo"
direction = "maximize"
evaluations = 60
parallel = 4
[objective]
command = "python train.py --lr {lr} --depth {depth}"    # last line of stdout is the value, or JSON; or python = "module:function"
timeout = "10m"
[space]
lr    = { type = "real", low = 1e-5, high = 1e-1, log = true }
depth = { type = "integer", low = 1, high = 12 }
# [strategy] holds the recipe's fields; [stop] more stopping rules; objectives = { loss = "minimize", speed = "maximize" } and constraints = ["heat"] name several
"""  # noqa: E501

SMALL = """\
[study]
strategy = "random"
evaluations = 5
[objective]
command = "echo {x}"
[space]
x = { type = "real", low = 0.0, high = 1.0 }
"""


def write(folder: Path, text: str, name: str = "study.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def faults_of(folder: Path, text: str, **options: Any) -> list[str]:
    """The faults of a file, without the folder in front."""
    with pytest.raises(ConfigFaults) as caught:
        load(write(folder, text), **options).check()
    return [str(fault).removeprefix(f"{folder}/") for fault in caught.value.faults]


# ---------------------------------------------------------------------- right files


def test_the_file_of_the_design_is_read_as_it_says(tmp_path: Path) -> None:
    made = load(write(tmp_path, DESIGN))
    assert made.study.strategy == "bo"
    assert made.recipe == make("bo")
    assert made.objectives == {"value": "maximize"}
    assert made.run_options() == {"parallel": 4, "max_failures": None}
    assert [rule for rule in made.rules if isinstance(rule, Evaluations)] == [Evaluations(60)]
    assert list(made.space.variables) == ["lr", "depth"]
    evaluator = made.evaluator()
    assert isinstance(evaluator, Command)
    assert evaluator.timeout == 600.0
    assert evaluator.arguments({"lr": 0.5, "depth": 3}) == ["python", "train.py", "--lr", "0.5", "--depth", "3"]
    assert Path(str(evaluator.cwd)) == tmp_path


def test_a_json_file_of_the_same_form_gives_the_same(tmp_path: Path) -> None:
    from_toml = load(write(tmp_path, DESIGN))
    from_json = load(write(tmp_path, json.dumps(tomllib.loads(DESIGN)), "study.json"))
    assert (from_toml.study, from_toml.objective, from_toml.stop) == (from_json.study, from_json.objective, from_json.stop)
    assert from_toml.space.difference(from_json.space) == []


def test_every_kind_of_variable(tmp_path: Path) -> None:
    text = """
[study]
strategy = "random"
evaluations = 30
known_constraints = ["a + b <= 1", "n >= 2 or flag"]
[objective]
command = "echo {a}"
[space]
a = { type = "real", low = 0, high = 1 }
b = { type = "real", low = 0, high = 1, default = 0.25 }
free = { type = "real", start = 3.0, scale = 0.5 }
v = { type = "real", low = -1, high = 1, shape = [2, 3] }
n = { type = "integer", low = 1, high = 64, log = true }
flag = { type = "bool", default = true }
kernel = { type = "choice", choices = ["rbf", "poly"] }
size = { type = "choice", choices = [16, 32, 64], ordered = true }
degree = { type = "integer", low = 2, high = 5, when = { kernel = "poly" } }
seed = { type = "fixed", value = 7 }
"""
    made = load(write(tmp_path, text))
    study = zoopt_study_in_memory(made)
    degrees = []
    for _ in range(30):
        trial = study.ask()
        params = trial.params
        assert params["a"] + params["b"] <= 1 + 1e-12
        assert params["n"] >= 2 or params["flag"]
        assert np.shape(params["v"]) == (2, 3)
        assert params["seed"] == 7
        assert params["size"] in (16, 32, 64)
        assert ("degree" in params) == (params["kernel"] == "poly")
        degrees.append(params.get("degree"))
        study.tell(trial, 0.0)
    assert None in degrees
    assert set(degrees) & {2, 3, 4, 5}


def zoopt_study_in_memory(made: config.StudyConfig) -> Any:
    from zoopt import Study

    return Study(made.space, made.recipe, objectives=made.objectives, seed=0)


def test_objectives_constraints_and_stopping_rules(tmp_path: Path) -> None:
    text = """
[study]
strategy = "nsga2"
objectives = { loss = "minimize", speed = "maximize" }
constraints = ["heat"]
max_failures = 9
[strategy]
popsize = 24
[objective]
command = "echo {x}"
[stop]
time = "1h30m"
failures = 7
[space.x]
type = "real"
low = 0
high = 1
"""
    made = load(write(tmp_path, text))
    made.check()
    assert made.objectives == {"loss": "minimize", "speed": "maximize"}
    assert made.study.constraints == ["heat"]
    assert made.recipe == make("nsga2", popsize=24)
    assert made.rules == [Time(5400.0), Failures(7)]
    assert made.run_options()["max_failures"] == 9
    made = load(write(tmp_path, SMALL + '[stop]\nstalled = 40\ntime = "1h30m"\nfailures = 7\n'))
    made.check()
    assert made.rules == [Time(5400.0), Stalled(40), Failures(7), Evaluations(5)]


def test_the_target_stands_in_the_study_table(tmp_path: Path) -> None:
    made = load(write(tmp_path, SMALL.replace("evaluations = 5", "target = 1e-3")))
    assert made.rules == [Target(1e-3)]


def test_overrides_replace_values_and_add_tables(tmp_path: Path) -> None:
    path = write(tmp_path, SMALL.replace("random", "cma-es"))
    made = load(path, {"strategy.sigma0": 0.5, "study.evaluations": 9, "space.y.type": "bool"})
    assert made.recipe == make("cma-es", sigma0=0.5)
    assert Evaluations(9) in made.rules
    assert list(made.space.variables) == ["x", "y"]


@pytest.mark.parametrize(
    ("text", "value"),
    [("0.5", 0.5), ("3", 3), ("true", True), ("[1, 2]", [1, 2]), ("cma-es", "cma-es"), ('"5"', "5"), ("10m", "10m"), ("", "")],
)
def test_values_of_overrides(text: str, value: Any) -> None:
    assert config.parse_value(text) == value
    assert type(config.parse_value(text)) is type(value)


# ---------------------------------------------------------------------- making and running


def test_a_study_is_made_run_and_gone_on_with(tmp_path: Path) -> None:
    path = write(tmp_path, SMALL)
    made = load(path)
    with made.make_study() as study:
        study.run(made.evaluator(), **made.run_options())
        first = [study.trial(i).params["x"] for i in range(5)]
        assert study.best is not None
        assert study.best.value == min(first)
    assert (tmp_path / "study.db").exists()
    more = load(path, {"study.evaluations": 8})
    with more.make_study() as study:
        assert study.evaluations == 5
        study.run(more.evaluator(), **more.run_options())
        assert study.evaluations == 8
        assert [study.trial(i).params["x"] for i in range(5)] == first


def test_the_journal_lies_beside_the_file_unless_told_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    where = {
        "": tmp_path / "sub/svm.db",
        'journal = "other.sqlite"': tmp_path / "sub/other.sqlite",
        'journal = "sqlite:///other.db"': tmp_path / "sub/other.db",
        f'journal = "sqlite:///{tmp_path}/far.db"': tmp_path / "far.db",
    }
    for line, expected in where.items():
        path = write(tmp_path / "sub", SMALL.replace("[study]", f"[study]\n{line}"), "svm.toml")
        assert Path(load(path).journal).absolute() == expected
        assert config.locate(path) == (load(path).journal, "study")
    path = write(tmp_path, SMALL.replace("[study]", '[study]\njournal = "postgresql://me@host/db"\nname = "svm"'))
    assert config.locate(path) == ("postgresql://me@host/db", "svm")


def test_a_python_function_is_found_beside_the_file(tmp_path: Path) -> None:
    write(tmp_path, "def loss(x):\n    return x + 1\n", "objective_beside.py")
    text = SMALL.replace('command = "echo {x}"', 'python = "objective_beside:loss"\ntimeout = "30s"\nenv = { A = 1 }')
    made = load(write(tmp_path, text))
    made.check()
    evaluator = made.evaluator()
    assert isinstance(evaluator, Processes)
    assert (evaluator.timeout, evaluator.env) == (30.0, {"A": "1"})
    with made.make_study() as study:
        study.run(evaluator, **made.run_options())
        best = study.best
        assert best is not None
        assert best.value == best.params["x"] + 1


def test_programs_and_functions_run_in_the_folder_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "sub"
    folder.mkdir()
    write(folder, "4.5\n", "scale.txt")
    write(folder, "def loss(x):\n    return float(open('scale.txt').read())\n", "objective_in_its_folder.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(".")  # what is relative to where we are is found from there all the same
    write(tmp_path, "FACTOR = 2.0\n", "found_from_here.py")
    write(folder, "import found_from_here\ndef loss(x):\n    return found_from_here.FACTOR\n", "objective_with_a_neighbour.py")
    for line, value in (
        ("command = \"sh -c 'cat scale.txt' {x}\"", 4.5),
        ('python = "objective_in_its_folder:loss"', 4.5),
        ('python = "objective_with_a_neighbour:loss"', 2.0),
    ):
        path = write(folder, SMALL.replace('command = "echo {x}"', line))
        made = load(path.relative_to(tmp_path), {"study.evaluations": 1, "study.name": line})
        made.check()
        with made.make_study() as study:
            study.run(made.evaluator(), **made.run_options())
            assert study.best is not None, study.last_failure and study.last_failure.error
            assert study.best.value == value


def test_a_batched_python_function_gets_whole_batches(tmp_path: Path) -> None:
    write(tmp_path, "sizes = []\ndef loss(x):\n    sizes.append(tuple(x.shape))\n    return x.sum(-1)\n", "objective_batched.py")
    text = SMALL.replace('command = "echo {x}"', 'python = "objective_batched:loss"\nbatched = true')
    made = load(write(tmp_path, text), {"study.parallel": 3})
    made.check()
    evaluator = made.evaluator()
    assert isinstance(evaluator, Batched)
    with made.make_study() as study:
        study.run(evaluator, **made.run_options())
    import objective_batched  # type: ignore[import-not-found]

    assert objective_batched.sizes == [(3, 1), (2, 1)]


def test_a_record_is_read_beside_its_driver(tmp_path: Path) -> None:
    made = load(write(tmp_path, SMALL.replace("[study]", '[study]\nconstraints = ["heat"]')))
    with made.make_study() as study:
        done, failed, out = study.ask(), study.ask(), study.ask()
        study.tell(done, 0.5, constraints=[0.25])
        study.fail(failed, "boom")
        with Journal(made.journal, read_only=True) as journal:
            seen = read(journal, "study")
            assert journal.study("study").driver is not None
        assert (seen.status.complete, seen.status.failed, seen.status.pending) == (1, 1, 1)
        assert seen.best is not None
        assert (seen.best.id, seen.best.values, seen.best.constraints) == (done.id, {"value": 0.5}, {"heat": 0.25})
        assert seen.best.params == done.params
        assert seen.trial(failed.id).error == "boom"
        assert [t.params for t in seen.pending] == [out.params]
        with pytest.raises(ZooptError, match="closed"):
            seen.ask()
        study.tell(out, 1.0, constraints=[0.0])  # the driver still drives


# ---------------------------------------------------------------------- faults

BAD: dict[str, tuple[str, list[str]]] = {
    "misspelt field of a variable": (
        SMALL.replace("high = 1.0", "hihg = 1.0"),
        ["study.toml:7:33: space.x.hihg: there is no such field; did you mean 'high'?"],
    ),
    "misspelt field in a table of its own": (
        SMALL.partition("[space]")[0] + '[space.x]\n# a comment\ntype = "real"\nlow = 0.0\n  hgih = 1.0\n',
        ["study.toml:10:3: space.x.hgih: there is no such field; did you mean 'high'?"],
    ),
    "dotted keys": (
        SMALL.partition("[space]")[0] + '[space]\nx.type = "real"\nx.low = 0.0\nx.hihg = 1.0\n',
        ["study.toml:9:1: space.x.hihg: there is no such field; did you mean 'high'?"],
    ),
    "another tool's word": (
        SMALL.replace("evaluations", "n_trials"),
        ["study.toml:3:1: study.n_trials: there is no such field; did you mean 'evaluations'?"],
    ),
    "a field of another table": (
        SMALL.replace("[study]", "[study]\ntimeout = 5"),
        ["study.toml:2:1: study.timeout: there is no such field here; 'timeout' belongs to [objective] with a command."],
    ),
    "misspelt table": (
        SMALL.replace("[objective]", "[objectiv]"),
        ["study.toml:4:1: objectiv: there is no such table; did you mean 'objective'?"],
    ),
    "missing tables": (
        '[study]\nstrategy = "random"\nevaluations = 3\n',
        [
            (
                'study.toml: objective: missing; write an [objective] table with command = "python train.py --lr {lr}" '
                'or python = "module:function".'
            ),
            (
                "study.toml: space: missing; write a [space] table with a variable a line, such as "
                'lr = { type = "real", low = 1e-5, high = 1e-1, log = true }.'
            ),
        ],
    ),
    "text for a number": (
        SMALL.replace("evaluations = 5", 'evaluations = "5"'),
        ['study.toml:3:15: study.evaluations: a whole number was expected; got "5"; write 5 without quotes.'],
    ),
    "real for an integer": (
        SMALL.replace("evaluations = 5", "evaluations = 1e3"),
        ["study.toml:3:15: study.evaluations: a whole number was expected; got 1000.0; write 1000."],
    ),
    "too small": (
        SMALL.replace("evaluations = 5", "evaluations = 0"),
        ["study.toml:3:15: study.evaluations: at least 1 was expected; got 0."],
    ),
    "direction": (
        SMALL.replace("[study]", '[study]\ndirection = "max"'),
        ["study.toml:2:13: study.direction: 'minimize' or 'maximize' was expected; got \"max\"; did you mean 'maximize'?"],
    ),
    "direction beside objectives": (
        SMALL.replace("[study]", '[study]\ndirection = "maximize"\nobjectives = { a = "minimize" }'),
        ["study.toml:2:1: study.direction: objectives give a direction each already; leave this line out."],
    ),
    "names that results use": (
        SMALL.replace("[study]", '[study]\nobjectives = { loss = "minimize", noise = "minimize" }\nconstraints = ["heat", "reached"]'),
        [
            (
                "study.toml:2:35: study.objectives.noise: a result has something else under 'noise' (as under constraints, metrics, "
                "gradients, reached); give this objective another name."
            ),
            (
                "study.toml:3:24: study.constraints[1]: a result has something else under 'reached' (as under constraints, noise, metrics, "
                "gradients); give this constraint another name."
            ),
        ],
    ),
    "objectives as a list": (
        SMALL.replace("[study]", '[study]\nobjectives = ["a", "b"]'),
        [
            (
                'study.toml:2:14: study.objectives: a table of names was expected; got ["a", "b"]; '
                'write { loss = "minimize", speed = "maximize" }.'
            )
        ],
    ),
    "strategy": (
        SMALL.replace('"random"', '"randon"'),
        ["study.toml:2:12: study.strategy: there is no strategy called 'randon'; did you mean 'random'?"],
    ),
    "strategy at the top": (
        'strategy = "random"\n' + SMALL,
        [
            (
                'study.toml:1:12: strategy: a table was expected; got "random". The name of the strategy goes into [study]: '
                'strategy = "random"; [strategy] holds its fields.'
            )
        ],
    ),
    "field of the strategy": (
        SMALL.replace('"random"', '"cma-es"') + "[strategy]\nsigma = 0.3\n",
        ["study.toml:9:1: strategy.sigma: there is no such field; did you mean 'sigma0'?"],
    ),
    "name of the strategy in its own table": (
        SMALL.replace('strategy = "random"\n', "") + '[strategy]\nname = "cma-es"\nsigma0 = 0.5\n',
        ['study.toml:8:1: strategy.name: the name of the strategy goes into [study]: strategy = "cma-es"; [strategy] holds its fields.'],
    ),
    "type of the strategy in its own table": (
        SMALL + '[strategy]\ntype = "random"\n',
        ['study.toml:9:1: strategy.type: the name of the strategy goes into [study]: strategy = "random"; [strategy] holds its fields.'],
    ),
    "type of a field of the strategy": (
        SMALL.replace('"random"', '"cma-es"') + '[strategy]\nsigma0 = "big"\n',
        ['study.toml:9:10: strategy.sigma0: a number was expected; got "big".'],
    ),
    "both objectives": (
        SMALL.replace("[space]", 'python = "a:b"\n[space]'),
        ["study.toml:6:1: objective.python: command and python are both given; keep the one that computes the objective."],
    ),
    "no objective": (
        SMALL.replace('command = "echo {x}"', 'cmd = "echo {x}"'),
        ["study.toml:5:1: objective.cmd: there is no such field; did you mean 'command'?"],
    ),
    "duration": (
        SMALL.replace("[space]", 'timeout = "ten minutes"\n[space]'),
        [
            (
                "study.toml:6:11: objective.timeout: a positive number of seconds or a text such as '30s', '10m' or '1h30m' was expected; "
                'got "ten minutes".'
            )
        ],
    ),
    "type of a variable": (
        SMALL.replace('"real"', '"float"'),
        ["study.toml:7:14: space.x.type: there is no variable of type \"float\"; did you mean 'real'?"],
    ),
    "a bare value as variable": (
        SMALL + "y = 3\n",
        [
            (
                'study.toml:8:5: space.y: a table was expected; got 3. A variable is written { type = "real", low = 0.0, high = 1.0 }, '
                'a value that is not searched { type = "fixed", value = 3 }.'
            )
        ],
    ),
    "said once": (
        SMALL + 'k = { type = "choice", options = ["a", "b"] }\n',
        ["study.toml:8:24: space.k.options: there is no such field; did you mean 'choices'?"],
    ),
    "stop": (SMALL + "[stop]\ntme = 5\n", ["study.toml:9:1: stop.tme: there is no such field; did you mean 'time'?"]),
    "nothing ends it": (
        SMALL.replace("evaluations = 5\n", ""),
        ["study.toml:1:1: study.evaluations: nothing ends this study; write evaluations = 100, or a rule in [stop]."],
    ),
    "target that is no number": (
        SMALL.replace("[study]", "[study]\ntarget = nan"),
        ["study.toml:2:10: study.target: a finite number was expected; got nan."],
    ),
    "target that is never reached": (
        SMALL + "[stop]\ntarget = -inf\n",
        ["study.toml:9:10: stop.target: a finite number was expected; got -inf."],
    ),
    "bound that is not finite": (
        SMALL.replace("high = 1.0", "high = inf"),
        ["study.toml:7:40: space.x.high: a finite number was expected; got inf."],
    ),
    "rules for a single objective": (
        SMALL.replace("[study]", '[study]\nobjectives = { a = "minimize", b = "maximize" }') + "[stop]\nstalled = 9\ntarget = 1.0\n",
        [
            "study.toml:10:1: stop.stalled: stalled is for a single objective, and this study has 2; leave this line out.",
            "study.toml:11:1: stop.target: target is for a single objective, and this study has 2; leave this line out.",
        ],
    ),
    "dates": (
        SMALL.replace("[study]", "[study]\nname = 2024-01-01") + 'd = { type = "choice", choices = [2024-01-01, 07:30:00] }\n',
        [
            'study.toml:2:8: study.name: TOML reads this as a date; write it as a text, "2024-01-01".',
            'study.toml:9:35: space.d.choices[0]: TOML reads this as a date; write it as a text, "2024-01-01".',
            'study.toml:9:47: space.d.choices[1]: TOML reads this as a time; write it as a text, "07:30:00".',
        ],
    ),
    "database of another kind": (
        SMALL.replace("[study]", '[study]\njournal = "mysql://me@host/db"'),
        ["study.toml:2:11: study.journal: a journal is kept in SQLite or PostgreSQL, not in 'mysql'; write 'sqlite:///file.db'."],
    ),
    "shell field of a python objective": (
        SMALL.replace('command = "echo {x}"', 'python = "a:b"\nshell = true'),
        ["study.toml:6:1: objective.shell: there is no such field here; 'shell' belongs to [objective] with a command."],
    ),
    "no module and function": (
        SMALL.replace('command = "echo {x}"', 'python = "train.py"'),
        ["study.toml:5:10: objective.python: 'module:function' was expected; got \"train.py\"."],
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_faults_name_line_column_field_and_fix(name: str, tmp_path: Path) -> None:
    text, expected = BAD[name]
    assert faults_of(tmp_path, text) == expected


PARTLY: dict[str, tuple[str, list[str]]] = {  # sentences that another module writes: their place, and words of them
    "bounds": (SMALL.replace("low = 0.0", "low = 2.0"), ["study.toml:7:22: space.x.low:", "low", "2", "1"]),
    "log from 0": (SMALL.replace("high = 1.0", "high = 1.0, log = true"), ["study.toml:7:", "space.x.", "log"]),
    "condition on nothing": (
        SMALL + 'd = { type = "integer", low = 1, high = 5, when = { kernel = "poly" } }\n',
        ["study.toml:8:44: space.d.when:", "kernel"],
    ),
    "known constraint": (
        SMALL.replace("[study]", '[study]\nknown_constraints = [\n  "x <= 1",\n  "x + z <= 1",\n]'),
        ["study.toml:4:3: study.known_constraints[1]:", "z"],
    ),
    "placeholder": (SMALL.replace("{x}", "{x} {z}"), ["study.toml:5:1: objective.command:", "{z}", "x"]),
    "program": (SMALL.replace("echo", "no-such-program-xyz"), ["study.toml:5:1: objective.command:", "no-such-program-xyz", "PATH"]),
    "format of a placeholder": (SMALL.replace("{x}", "{x:zz}"), ["study.toml:5:1: objective.command:", "{x:zz} does not fit 0.0"]),
    "format of a placeholder for one of the choices": (
        SMALL.replace("{x}", "{x} {c:d}") + 'c = { type = "choice", choices = [1, 2, "three"] }\n',
        ["study.toml:5:1: objective.command:", "{c:d} does not fit 'three'"],
    ),
    "format of a placeholder for an array": (
        SMALL.replace("{x}", "{x} {v:.3f}") + 'v = { type = "real", low = 0, high = 1, shape = 3 }\n',
        ["study.toml:5:1: objective.command:", "{v:.3f} does not fit"],
    ),
    "command that uses nothing": (
        SMALL.replace("{x}", "1"),
        ["study.toml:5:1: objective.command:", "does not use x", "{x}", "{config_file}"],
    ),
    "command that leaves a variable out": (
        SMALL + 'y = { type = "bool" }\n',
        ["study.toml:5:1: objective.command:", "does not use y", "{y}", "{config_file}"],
    ),
    "folder of the journal": (
        SMALL.replace("[study]", '[study]\njournal = "nowhere/study.db"'),
        ["study.toml:2:11: study.journal:", "the folder", "nowhere", "does not exist"],
    ),
    "known constraints that leave nothing": (
        SMALL.replace("[study]", '[study]\nknown_constraints = ["x >= 0.5", "x <= 0.4"]'),
        ["study.toml:2:21: study.known_constraints:", "no valid point was found", "x >= 0.5"],
    ),
    "capability": (
        SMALL.replace('"random"', '"cma-es"').replace("[study]", '[study]\nobjectives = { a = "minimize", b = "minimize" }'),
        ["study.toml:3:1: study.strategy:", "cma-es", "2", "nsga2"],
    ),
    "parameter and objective": (
        SMALL.replace("{x}", "{x} {value}") + 'value = { type = "real", low = 0, high = 1 }\n',
        ["study.toml:8:1: space.value:", "of a parameter and of an objective", "rename the parameter or the objective"],
    ),
    "context": (
        SMALL.replace("{x}", "{x} {t}") + 't = { type = "context", variable = { type = "real", low = 0, high = 1 } }\n',
        ["study.toml:8:1: space.t:", "context", "fixed"],
    ),
    "value of a field of the strategy": (
        SMALL.replace('"random"', '"cma-es"') + "[strategy]\nsigma0 = -1.0\n",
        ["study.toml:9:10: strategy.sigma0:", "-1.0"],
    ),
}


@pytest.mark.parametrize("name", PARTLY)
def test_faults_found_elsewhere_name_their_place(name: str, tmp_path: Path) -> None:
    text, words = PARTLY[name]
    (fault,) = faults_of(tmp_path, text)
    assert fault.startswith(words[0])
    for word in words[1:]:
        assert word in fault


def test_all_faults_of_a_file_come_at_once_in_its_order(tmp_path: Path) -> None:
    text = SMALL.replace("5", "-5").replace('"random"', '"randon"').replace("low", "lwo") + "y = 3\n[stop]\nstaled = 4\n"
    lines = [fault.split(":")[1] for fault in faults_of(tmp_path, text)]
    assert lines == ["2", "3", "7", "8", "10"]


def test_a_fault_of_one_variable_hides_none_of_another(tmp_path: Path) -> None:
    text = SMALL.replace('"real"', '"float"') + 'y = { type = "real", low = 2.0, high = 1.0 }\nk = { type = "choice", choices = ["a"] }\n'
    faults = faults_of(tmp_path, text)
    assert [fault.split(": ")[1] for fault in faults] == ["space.x.type", "space.y.low", "space.k.choices"]


def test_a_function_of_a_batch_is_told_how_a_file_says_so(tmp_path: Path) -> None:
    write(tmp_path, "def loss(points):\n    return points.sum(-1)\n", "objective_batch_unsaid.py")
    (fault,) = faults_of(tmp_path, SMALL.replace('command = "echo {x}"', 'python = "objective_batch_unsaid:loss"'))
    assert "has no argument x and wants points" in fault
    assert fault.endswith("If it takes a whole batch as an (n, d) array, write batched = true.")


@pytest.mark.parametrize(
    ("module", "name", "words"),
    [
        ("def loss(x): return x", "missing_module:loss", ["there is no module 'missing_module'"]),
        ("def loss(x): return x", "objective_c1:los", ["'objective_c1' has no 'los'; did you mean 'loss'?"]),
        ("import no_such_library", "objective_c2:loss", ["imports 'no_such_library', which is not installed"]),
        ("\n\n1 / 0", "objective_c3:loss", ["ZeroDivisionError", "objective_c3.py line 3"]),
        ("def loss(:", "objective_c4:loss", ["SyntaxError", "objective_c4.py line 1"]),
        ("raise SystemExit(3)", "objective_c5:loss", ["SystemExit"]),
        ("loss = 3", "objective_c6:loss", ["is 3 and no function"]),
        ("def loss(y): return y", "objective_c7:loss", ["has no argument x", "wants y"]),
    ],
)
def test_python_objectives_that_cannot_be_used(module: str, name: str, words: list[str], tmp_path: Path) -> None:
    write(tmp_path, module + "\n", f"{name.partition(':')[0].replace('missing_module', 'other')}.py")
    (fault,) = faults_of(tmp_path, SMALL.replace('command = "echo {x}"', f'python = "{name}"'))
    assert fault.startswith("study.toml:5:")
    assert "objective.python:" in fault
    for word in words:
        assert word in fault


def test_a_fault_of_an_override_names_the_override(tmp_path: Path) -> None:
    assert faults_of(tmp_path, SMALL, overrides={"study.evaluatons": 3}) == [
        "--set study.evaluatons: study.evaluatons: there is no such field; did you mean 'evaluations'?"
    ]
    assert faults_of(tmp_path, SMALL, overrides={"study.strategy.name": 3}) == [
        "--set study.strategy.name: 'strategy' is \"random\" and no table, so nothing can be set in it."
    ]


INLINE = "An inline table stands on one line, its items separated by commas; or write [space.x] and its fields below, a line each."


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[study]\nstrategy = bo\n", 'study.toml:2:12: this is not TOML: invalid value. Write strategy = "bo" (a text needs quotes).'),
        ("[study]\nx = True\n", "study.toml:2:5: this is not TOML: invalid value. Write x = true (TOML writes them in small letters)."),
        ("[study\nx = 1\n", "study.toml:1:7: this is not TOML: expected ']' at the end of a table declaration."),
        (
            "[study]\nx = 1\nx = 2\n",
            "study.toml:3:1: study.x: this is written twice, first on line 2; keep one of the two.",
        ),
        (
            SMALL + "[space]\ny = 1\n",
            "study.toml:8:1: space: [space] is written twice, first on line 6; put all that belongs to it below one of the two.",
        ),
        (
            SMALL.replace("low = 0.0", "low = 0.0, low = 0.5"),
            "study.toml:7:33: space.x.low: this is written twice, first on line 7; keep one of the two.",
        ),
        (
            SMALL + "[space.x]\nlow = 0.5\n",
            "study.toml:8:1: space.x: this is written twice, first on line 7; keep one of the two.",
        ),
        (
            SMALL.replace("low = 0.0,", "low = 0.0"),
            f"study.toml:7:32: this is not TOML: unclosed inline table. {INLINE}",
        ),
        (
            SMALL.replace("low = 0.0,", "low = 0.0,\n "),
            f"study.toml:7:32: this is not TOML: invalid initial character for a key part. {INLINE}",
        ),
        (
            SMALL + 'c = { type = "choice", choices = ["a" "b"] }\n',
            "study.toml:8:39: this is not TOML: unclosed array. The items of a list are separated by commas.",
        ),
        (
            SMALL + 'c = { type = choice, choices = ["a", "b"] }\n',
            'study.toml:8:14: this is not TOML: invalid value. Write type = "choice" (a text needs quotes).',
        ),
        (
            SMALL + 'c = { type = "choice", choices = [a, b] }\n',
            'study.toml:8:35: this is not TOML: invalid value. Write "a" (a text needs quotes).',
        ),
        (
            SMALL.replace("low = 0.0", "low: 0.0"),
            "study.toml:7:25: this is not TOML: expected '=' after a key in a key/value pair. Write = in place of the colon.",
        ),
    ],
)
def test_files_that_are_not_toml(text: str, expected: str, tmp_path: Path) -> None:
    assert faults_of(tmp_path, text) == [expected]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    write(tmp_path, SMALL)
    write(tmp_path, '{"study": {,}}', "bad.json")
    (tmp_path / "latin.toml").write_bytes(b'[study]\nname = "caf\xe9"\n')
    for name, words in {
        "studdy.toml": ["there is no such file; did you mean", "study.toml"],
        "": ["this is a folder; name the file", "study.toml"],
        "study.yaml": ["ends in .toml"],
        "bad.json": ["bad.json:1:12: this is not JSON"],
        "latin.toml": ["not UTF-8"],
    }.items():
        with pytest.raises(ConfigFaults) as caught:
            load(tmp_path / name)
        for word in words:
            assert word in str(caught.value)


def test_looking_at_a_record_needs_nothing_but_the_study_table(tmp_path: Path) -> None:
    path = write(tmp_path, SMALL.replace("real", "float").replace("[objective]", "[objectiv]"))
    assert Path(config.locate(path)[0]).absolute() == tmp_path / "study.db"


# ---------------------------------------------------------------------- schema and positions


def test_the_schema_names_every_field_and_refuses_others() -> None:
    schema = config.schema()
    study = schema["$defs"]["StudyTable"]
    assert {"strategy", "evaluations", "parallel", "known_constraints", "durability"} <= set(study["properties"])
    assert study["additionalProperties"] is False
    assert set(schema["properties"]) == {"study", "strategy", "objective", "space", "stop"}
    assert schema["required"] == ["objective", "space"]
    kinds = schema["properties"]["space"]["additionalProperties"]["discriminator"]["mapping"]
    assert set(kinds) == {"real", "integer", "bool", "choice", "fixed", "context", "fidelity", "environment"}
    json.dumps(schema)


def test_positions_of_all_that_toml_can_hold() -> None:
    text = '''# a comment [with] = signs
[a]
one = 1 # two = 2
list = [ "x = ]", # comment ]
  \'\'\'
multi "line" \'\'\', { deep = [1, 2] } ]
when = 1979-05-27 07:32:00
"quoted.key" . sub = true
[a.b]
s = """quotes \\""" and "" inside""""
empty = {}
[[c]]
x = 1
[[c]]
x = 2
[c.d]
y = -1e3
'''
    places = find(text)
    lines = text.splitlines()
    data = tomllib.loads(text)

    def walk(value: Any, keys: tuple[str | int, ...]) -> None:
        if keys:
            key = places[keys].key
            assert key.line <= len(lines)
            assert lines[key.line - 1][key.column - 1] not in " #,", keys
        for key_, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
            walk(inner, (*keys, key_))

    walk(data, ())
    assert places["a", "one"].value == (3, 7)
    assert places["a", "list", 1].value == (5, 3)
    assert places["a", "list", 2, "deep", 1].value == (6, 32)
    assert places["a", "quoted.key", "sub"].key == (8, 1)
    assert places["a", "b", "empty"].key == (11, 1)
    assert places["c", 1, "x"].value == (15, 5)
    assert places["c", 1, "d", "y"].value == (17, 5)


NAMES = st.sampled_from(["a", "b-c", "d.e", "x y", "", '"', "é"])
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.integers(-9, 9) | st.booleans() | st.sampled_from(["", "plain", "a = 1", "]", "}", "#", '"', "\\", ","]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=12,
)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(NAMES, VALUES, max_size=4), st.sampled_from([None, 2]))
def test_every_value_of_a_json_text_is_found_where_it_stands(data: dict[str, Any], indent: int | None) -> None:
    text = json.dumps(data, indent=indent)
    places = find(text, toml=False)
    lines = text.splitlines()

    def check(value: Any, keys: tuple[str | int, ...]) -> None:
        if keys:
            line, column = places[keys].value
            assert lines[line - 1][column - 1 :].startswith(json.dumps(value)[0])
            if not isinstance(value, dict | list):
                assert lines[line - 1][column - 1 :].startswith(json.dumps(value))
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
            check(inner, (*keys, key))

    check(data, ())
    assert all(place.key.line >= 1 for place in places.values())
