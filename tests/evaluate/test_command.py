"""An external program as objective."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from zoopt.errors import ConfigError
from zoopt.evaluate import Command, Outcome, as_evaluator

PY = sys.executable
ECHO = [PY, "-S", "-c", "import json, sys; print(json.dumps(sys.argv[1:])); print(1)"]


def trial(trial_id: int = 0, **params: Any) -> Any:
    return SimpleNamespace(id=trial_id, params=params)


def run(command: Command, *trials: Any, parallel: int = 2) -> list[Outcome]:
    command.start(parallel)
    try:
        return [future.result(60) for future in [command.submit(t) for t in trials]]
    finally:
        command.close()


def sh(script: str, **options: Any) -> Command:
    """A script for sh that is itself no template."""
    return Command(["sh", "-c", script.replace("{", "{{").replace("}", "}}")], **options)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def until(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + 20
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def pid_in(path: Path) -> int:
    assert until(lambda: path.exists() and path.read_text().endswith("\n"))
    return int(path.read_text())


# What is run ------------------------------------------------------------------------------------------------------------


def test_a_string_is_split_before_values_are_filled_in_and_no_shell_sees_them() -> None:
    command = Command("prog --name={name} 'two words' {name} {{literal}} {x:.2e}")
    nasty = "a b; $(touch /tmp/x) \"'`*"
    assert command.arguments({"name": nasty, "x": 0.000123}) == ["prog", f"--name={nasty}", "two words", nasty, "{literal}", "1.23e-04"]


def test_values_reach_the_program_as_they_are() -> None:
    params = {
        "real": 0.1 + 0.2,
        "whole": 7,
        "flag": True,
        "nothing": None,
        "text": "naïve {x} $HOME",
        "vector": np.array([1.5, 2.0]),
        "npf": np.float64(0.1),
    }
    path = " ".join(f"{{{name}}}" for name in params)
    command = Command([*ECHO, *path.split()])
    command.start(1)
    arguments = command.arguments(params)
    command.close()
    assert arguments[4:] == ["0.30000000000000004", "7", "true", "null", "naïve {x} $HOME", "[1.5,2.0]", "0.1"]


def test_a_shell_is_used_only_when_asked_and_then_values_are_quoted(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    nasty = f"x; touch {victim}; echo 'y"
    assert run(Command("echo {name} 5", cwd=tmp_path), trial(name=nasty))[0].error is not None
    outcome = run(Command("printf '%s\\n' {name} > got && echo 1 | cat", shell=True, cwd=tmp_path), trial(name=nasty))[0]
    assert outcome.values == 1.0
    assert (tmp_path / "got").read_text() == nasty + "\n"
    assert not victim.exists()


def test_an_inactive_parameter_takes_its_option_along() -> None:
    command = Command(["true", "--kernel", "{kernel}", "--degree", "{degree}", "--gamma={gamma}", "-1", "{degree}", "{degree}", "end"])
    command.check(["kernel", "degree", "gamma"])
    assert command.arguments({"kernel": "rbf"}) == ["true", "--kernel", "rbf", "-1", "end"]
    assert command.arguments({"kernel": "poly", "degree": 3, "gamma": 0.5}) == [
        *["true", "--kernel", "poly", "--degree", "3", "--gamma=0.5", "-1", "3", "3", "end"]
    ]


def test_the_trials_number_its_config_file_and_its_environment(tmp_path: Path) -> None:
    code = (
        "import json, os, sys; c = json.load(open(sys.argv[1])); "
        "print(json.dumps({'loss': c['x'], 'metrics': {'id': int(sys.argv[2]), 'env': int(os.environ['MARK']), "
        "'here': float(os.getcwd() == os.environ['HERE']), 'v': c['v'][1]}}))"
    )
    command = Command(
        [PY, "-S", "-c", code.replace("{", "{{").replace("}", "}}"), "{config_file}", "{id}"],
        env={"MARK": 5, "HERE": str(tmp_path)},
        cwd=tmp_path,
    )
    command.check(["x", "v"])
    outcome = run(command, trial(42, x=0.25, v=np.array([1, 9])))[0].resolve(["loss"])
    assert outcome.error is None, outcome.stderr
    assert outcome.values == [0.25]
    assert outcome.metrics == {"id": 42.0, "env": 5.0, "here": 1.0, "v": 9.0}


def test_temporary_files_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert run(Command("cp {config_file} {result_file}"), trial(value=3.0))[0].values == 3.0
    assert list(tmp_path.iterdir()) == []


# What it answers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("printed", "values"),
    [
        ("0.5", [0.5]),
        ("epoch 1\nepoch 2\n-3e-2\n\n  \n", [-0.03]),
        ('{"loss": 0.5}', [0.5]),
        ('garbage\n{"value": 7, "epochs": 3}', [7.0]),
        ("[2.5]", [2.5]),
        ("\x00\xff garbage\n1", [1.0]),
    ],
)
def test_the_last_line_is_the_value(tmp_path: Path, printed: str, values: list[float]) -> None:
    (tmp_path / "out").write_bytes(printed.encode("latin-1"))
    outcome = run(Command("cat out", cwd=tmp_path), trial())[0].resolve(["loss"])
    assert outcome.error is None
    assert outcome.values == values


def test_json_brings_objectives_constraints_noise_and_metrics(tmp_path: Path) -> None:
    result = {"speed": 2, "loss": 1, "constraints": {"heat": -1}, "noise": [0.1, 0.2], "metrics": {"n": 3}}
    (tmp_path / "out").write_text(json.dumps(result))
    outcome = run(Command("cat out", cwd=tmp_path), trial())[0].resolve(["loss", "speed"], ["heat"])
    assert (outcome.values, outcome.constraints, outcome.noise, outcome.metrics) == ([1, 2], [-1], [0.1, 0.2], {"n": 3.0})


def test_the_result_file_is_read_where_the_command_names_one() -> None:
    script = 'echo 99; printf \'{\\n "loss": 0.5,\\n "n": 1\\n}\\n\' > "$1"'
    command = Command(["sh", "-c", script.replace("{", "{{").replace("}", "}}"), "sh", "{result_file}"])
    assert run(command, trial())[0].resolve(["loss"]).values == [0.5]
    outcome = run(Command("echo {result_file}"), trial())[0]
    assert outcome.error is not None and "did not write its result file" in outcome.error


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo 1; echo 'out of paper' >&2; exit 3", "the command exited with code 3: out of paper"),
        ("echo 'loading'; echo 'no licence'; exit 3", "the command exited with code 3: no licence"),
        ("echo 1; kill -SEGV $$", "the command was killed by SIGSEGV (segmentation fault)"),
        ("true", "wrote no result"),
        ("echo accuracy: 0.93", "'accuracy: 0.93'"),
        ("echo nan", "the command returned NaN"),
        ("echo -inf", "the command returned -inf"),
        ("echo 1_000", "'1_000'"),
        ("echo null", "'null'"),
        ('echo \'{"value": "high"}\'', "'high'"),
        ("echo '{}'", "no objective"),
        ("head -c 100000 /dev/urandom | base64 -w 0", "is no number and no JSON object"),
    ],
)
def test_everything_else_is_a_failure_with_its_reason_and_the_run_goes_on(script: str, reason: str) -> None:
    command = sh(f'if [ "$0" = bad ]; then {script}; else echo 5; fi')
    command = Command([*[part.replace("{", "{{").replace("}", "}}") for part in ("sh", "-c", _script(command))], "{which}"])
    bad, good = run(command, trial(which="bad"), trial(which="good"))
    assert bad.error is not None and reason in bad.error
    assert len(bad.error) <= 500 and "\n" not in bad.error
    assert good.values == 5.0


def _script(command: Command) -> str:
    return command.arguments({})[2]


def test_the_last_4_kb_of_standard_error_are_kept() -> None:
    outcome = run(sh("yes error | head -c 300000 >&2; echo THE END >&2; exit 1"), trial())[0]
    assert outcome.stderr.endswith("error\nTHE END\n")
    assert 4000 < len(outcome.stderr) <= 4096
    assert run(sh("echo warning >&2; echo 1"), trial())[0].stderr == "warning\n"


def test_a_value_that_no_argument_can_hold_fails_its_trial_only() -> None:
    bad, good = run(Command([*ECHO, "{x}"]), trial(x="a\x00b"), trial(x="fine"))
    assert bad.error is not None and "could not be started" in bad.error
    assert good.values == 1.0
    assert "format" in str(run(Command("echo {x:.2f}"), trial(x="text"))[0].error)


# How it ends ------------------------------------------------------------------------------------------------------------


def test_a_timeout_kills_the_whole_process_group(tmp_path: Path) -> None:
    command = sh("sleep 600 & echo $! > child; trap '' TERM; echo stuck >&2; while true; do sleep 1; done", timeout="500ms", cwd=tmp_path)
    outcome = run(command, trial())[0]
    assert outcome.error == "timed out after 0.5 s"
    assert outcome.stderr == "stuck\n"
    child = pid_in(tmp_path / "child")
    assert until(lambda: not alive(child))


def test_a_program_may_clean_up_when_it_times_out(tmp_path: Path) -> None:
    run(sh("trap 'echo bye > cleaned; exit 0' TERM; sleep 600 & wait", timeout=0.5, cwd=tmp_path), trial())
    assert (tmp_path / "cleaned").read_text() == "bye\n"


def test_what_a_program_leaves_in_the_background_is_not_waited_for_and_ends_with_its_trial(tmp_path: Path) -> None:
    started = time.monotonic()
    outcome = run(sh("sleep 600 & echo $! > child; echo 3", cwd=tmp_path), trial())[0]
    assert outcome.values == 3.0
    assert time.monotonic() - started < 300
    child = pid_in(tmp_path / "child")
    assert until(lambda: not alive(child))


def test_closed_output_is_no_end() -> None:
    assert "timed out" in str(run(sh("exec >&- 2>&-; sleep 600", timeout=0.5), trial())[0].error)
    assert "exited with code 3" in str(run(sh("exec >&- 2>&-; sleep 0.2; exit 3"), trial())[0].error)


def test_retries(tmp_path: Path) -> None:
    script = "echo x >> tries; [ $(wc -l < tries) -ge 3 ] && echo 7"
    assert run(sh(script, retries=2, cwd=tmp_path), trial())[0].values == 7.0
    (tmp_path / "tries").unlink()
    outcome = run(sh(script, retries=1, cwd=tmp_path), trial())[0]
    assert outcome.error == "the command exited with code 1 (the last of 2 attempts)"
    assert (tmp_path / "tries").read_text() == "x\nx\n"


def test_parallel_programs_run_at_the_same_time(tmp_path: Path) -> None:
    meet = "touch {me}; i=0; while [ ! -e {other} ] && [ $i -lt 300 ]; do sleep 0.1; i=$((i+1)); done; [ -e {other} ] && echo 1"
    command = Command(meet, shell=True, cwd=tmp_path)
    outcomes = run(command, trial(me="a", other="b"), trial(me="b", other="a"), parallel=2)
    assert [outcome.values for outcome in outcomes] == [1.0, 1.0]


def test_closing_kills_what_runs_cancels_the_rest_and_can_be_followed_by_a_new_start(tmp_path: Path) -> None:
    command = Command("echo $$ > pid; [ {x} = 1 ] && sleep 600; echo 5", shell=True, cwd=tmp_path)
    command.start(1)
    running, queued = command.submit(trial(x=1)), command.submit(trial(x=2))
    pid = pid_in(tmp_path / "pid")
    command.close()
    for future in (running, queued):
        with pytest.raises(CancelledError):
            future.result(60)
    assert until(lambda: not alive(pid))
    assert run(command, trial(x=2))[0].values == 5.0


def test_what_a_program_leaves_in_a_session_of_its_own_ends_when_the_run_does(tmp_path: Path) -> None:
    command = sh("setsid sleep 600 & echo $! > child; sleep 600 & echo $! > other; echo 3", cwd=tmp_path)
    command.start(1)
    assert command.submit(trial()).result(60).values == 3.0
    child = pid_in(tmp_path / "child")
    other = pid_in(tmp_path / "other")
    assert until(lambda: not alive(other))
    assert alive(child)
    command.close()
    assert until(lambda: not alive(child))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_nothing_outlives_the_parent(tmp_path: Path, number: signal.Signals) -> None:
    script = f"""
import signal
from types import SimpleNamespace
from zoopt.evaluate import Command
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests in the background ignores it
command = Command("setsid sleep 600 & echo $! > apart; sleep 600 & echo $! > child; echo $$ > pid; wait", shell=True, cwd={str(tmp_path)!r})
command.start(1)
command.submit(SimpleNamespace(id=0, params={{}})).result()
"""
    parent = subprocess.Popen([PY, "-c", script], stderr=subprocess.DEVNULL)
    try:
        pid, child, apart = (pid_in(tmp_path / name) for name in ("pid", "child", "apart"))
        helpers = [int(p) for p in Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()]
        parent.send_signal(number)
        parent.wait(60)
        assert until(lambda: not any(alive(p) for p in (pid, child, apart, *helpers)))
    finally:
        parent.kill()
        parent.wait()


def test_what_was_just_started_does_not_outlive_the_parent_either(tmp_path: Path) -> None:
    """The parent dies between the start of a command and putting it on the list of what is to be killed."""
    script = f"""
import os
from types import SimpleNamespace
from zoopt.evaluate import Command
from zoopt.evaluate._guard import Guard
Guard.add = lambda self, group: os.kill(os.getpid(), 9)
command = Command("echo $$ > pid; sleep 600 & echo $! > child; wait", shell=True, cwd={str(tmp_path)!r})
command.start(1)
command.submit(SimpleNamespace(id=0, params={{}})).result()
"""
    assert subprocess.run([PY, "-c", script], stderr=subprocess.DEVNULL, timeout=60, check=False).returncode == -signal.SIGKILL
    # by its mark it may have died before it wrote anything
    assert until(lambda: not any(alive(int(p.read_text())) for p in tmp_path.iterdir() if p.read_text().endswith("\n")))
    time.sleep(0.5)
    assert not [p for p in Path("/proc").glob("[0-9]*") if _in(p) == tmp_path]


def _in(process: Path) -> Path | None:
    """The folder a process works in."""
    try:
        return Path(os.readlink(process / "cwd"))
    except OSError:
        return None


# What is refused before anything runs -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "options", "reason"),
    [
        ("", {}, "is empty"),
        ([], {}, "is empty"),
        ("echo 'open", {}, "Quotes must be closed"),
        ("echo {x", {}, "single '{'"),
        ("echo x}", {}, "single '}'"),
        (["echo", 3], {}, "write '3'"),
        (["echo", "3"], {"shell": True}, "one string"),
        ("echo", {"timeout": "soon"}, "timeout = 'soon'"),
        ("echo", {"retries": -1}, "retries = -1"),
    ],
)
def test_a_command_that_cannot_be_read_is_refused(command: Any, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Command(command, **options)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("command", "options", "reason"),
    [
        ("echo {lr} {dpeth}", {}, "{dpeth}, but the parameters are lr, depth"),
        ("awk '{print $1}'", {}, "written twice"),
        ("no-such-program-here {lr}", {}, "'no-such-program-here' of the command was not found on the PATH"),
        ("./missing.sh", {}, "was not found in"),
        ("./plain", {}, "not executable"),
        ("plain", {}, "write ./ before it"),
        ("echo", {"cwd": "/no/such/place"}, "no such directory"),
    ],
)
def test_check_refuses_what_can_never_work(tmp_path: Path, command: str, options: dict[str, Any], reason: str) -> None:
    (tmp_path / "plain").write_text("echo 1")
    made = Command(command, **{"cwd": tmp_path, **options})
    with pytest.raises(ConfigError) as caught:
        as_evaluator(made, parameters=["lr", "depth"])
    assert reason in str(caught.value)


def test_a_parameter_that_never_reaches_the_command_is_refused() -> None:
    for command in ("echo {x} {y}", "echo {config_file}", "echo --degree={y:.3f} {x}"):
        Command(command).check(["x", "y"])
    with pytest.raises(ConfigError, match=r"the command does not use y: write {y} where its value belongs, or {config_file}"):
        Command("echo {x}").check(["x", "y"])
    with pytest.raises(ConfigError, match="the command does not use x, y: "):
        Command("echo 1").check(["x", "y"])


def test_a_format_that_a_value_does_not_take_is_refused_where_values_are_known() -> None:
    command = Command("echo {x:.2f} {c:>5} {id:04d}")
    command.check({"x": [0.5], "c": ["a", "b"]})
    with pytest.raises(ConfigError, match=r"the format of {x:\.2f} does not fit 'text'"):
        command.check({"x": [0.5, "text"], "c": ["a"]})
    with pytest.raises(ConfigError, match=r"the format of {id:zz} does not fit 0"):
        Command("echo {x} {id:zz}").check(["x"])


def test_start_refuses_a_missing_program_even_unchecked() -> None:
    with pytest.raises(ConfigError, match="not found on the PATH"):
        Command("no-such-program-here").start(1)


def test_a_parameter_named_like_our_own_placeholders_is_refused() -> None:
    with pytest.raises(ConfigError, match="rename the parameter"):
        Command("echo {id}").check(["id"])
    Command("echo {x} {config_file}").check(["id", "x"])


def test_the_programs_path_is_that_of_its_own_environment(tmp_path: Path) -> None:
    tool = tmp_path / "special-tool"
    tool.write_text("#!/bin/sh\necho 8\n")
    tool.chmod(0o755)
    assert run(Command("special-tool", env={"PATH": f"{tmp_path}:{os.environ['PATH']}"}), trial())[0].values == 8.0
    assert run(Command("./special-tool", cwd=tmp_path), trial())[0].values == 8.0
