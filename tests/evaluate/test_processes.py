"""Spawned worker processes: what a user's function may do to them, and that nothing outlives its trial or its parent."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from zoopt.errors import ConfigError
from zoopt.evaluate import Processes, WorkerDied, WorkerPool, as_evaluator


def trial(**params: Any) -> Any:
    return SimpleNamespace(id=0, params=params)


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def gone(*pids: int) -> bool:
    """Whether these processes end; waits for it, long enough for a busy machine."""
    end = time.monotonic() + 20
    while any(alive(pid) for pid in pids):
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def read_pids(path: Path, n: int) -> list[int]:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with contextlib.suppress(FileNotFoundError):
            words = path.read_text().split()
            if len(words) >= n and path.read_text().endswith("\n"):
                return [int(word) for word in words]
        time.sleep(0.02)
    raise AssertionError("the objective did not start")


def objective(how: str, x: Any = 1.0, path: str = "") -> Any:
    if how == "value":
        return x * 2
    if how == "pid":
        return float(os.getpid())
    if how == "raise":
        print("before the fall", file=sys.stderr)
        raise ValueError("bad\nthings")
    if how == "segfault":
        ctypes.string_at(0)
    if how == "exit":
        os._exit(3)
    if how == "oom":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "sys.exit":
        sys.exit(4)
    if how == "nan":
        return float("nan")
    if how == "garbage":
        os.write(1, b"\x00\xff{]\n" * 10_000)
        print("{'value': 7}" * 1000)
        print("y" * 9000 + "END", file=sys.stderr)
        return x
    if how == "close":
        os.close(1)
        os.close(2)
        return x
    if how == "stdin":
        return float(len(sys.stdin.read()))
    if how == "hang":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        Path(path).write_text(f"{os.getpid()} {child.pid}\n")
        print("hanging on", file=sys.stderr, flush=True)
        while True:
            time.sleep(1)
    if how == "daemon":
        daemon = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"], start_new_session=True)
        Path(path).write_text(f"{os.getpid()} {daemon.pid}\n")
        while x > 1:
            time.sleep(1)
        return x
    if how == "fork and die":
        child_pid = os.fork()  # the child holds every pipe of the worker open
        if child_pid == 0:
            time.sleep(600)
        Path(path).write_text(f"{os.getpid()} {child_pid}\n")
        os._exit(5)
    if how == "stuck":
        sys.setswitchinterval(1000)
        Path(path).write_text(f"{os.getpid()}\n")
        ctypes.PyDLL(None).sleep(600)  # holds the interpreter: no thread of the worker can do anything
    if how == "env":
        return {"omp": float(os.environ["OMP_NUM_THREADS"]), "extra": float(os.environ.get("EXTRA", -1))}
    if how == "modules":
        return float("torch" in sys.modules)
    raise AssertionError(how)


@pytest.fixture(scope="module")
def workers() -> Iterator[Processes]:
    evaluator = Processes(objective, timeout="60s")
    evaluator.start(2)
    yield evaluator
    evaluator.close()


@pytest.mark.parametrize(
    ("how", "reason", "stderr"),
    [
        ("raise", "ValueError: bad", "before the fall"),
        ("raise", "ValueError: bad", "in objective"),
        ("segfault", "its worker process was killed by SIGSEGV (segmentation fault)", "in objective"),
        ("exit", "its worker process exited with code 3", ""),
        ("oom", "its worker process was killed by SIGKILL (the system kills so when memory runs out)", ""),
        ("sys.exit", "SystemExit: 4", ""),
        ("nan", "the objective returned NaN", ""),
    ],
)
def test_a_failure_is_an_outcome_with_its_reason_and_the_others_go_on(workers: Processes, how: str, reason: str, stderr: str) -> None:
    futures = [workers.submit(trial(how=h, x=float(i))) for i, h in enumerate(["value", "value", how, "value", "value", "value"])]
    outcomes = [future.result(60) for future in futures]
    assert outcomes[2].error == reason
    assert stderr in outcomes[2].stderr
    assert [outcome.values for i, outcome in enumerate(outcomes) if i != 2] == [0.0, 2.0, 6.0, 8.0, 10.0]


def test_whatever_is_printed_is_no_result_and_the_last_4_kb_are_kept(workers: Processes) -> None:
    outcome = workers.submit(trial(how="garbage", x=3.0)).result(60)
    assert outcome.values == 3.0
    assert outcome.stderr.endswith("END\n")
    assert len(outcome.stderr.encode()) <= 4096
    assert workers.submit(trial(how="value")).result(60).stderr == ""  # each trial has its own


def test_closed_streams_and_an_empty_standard_input_harm_nothing(workers: Processes) -> None:
    assert workers.submit(trial(how="close", x=3.0)).result(60).values == 3.0
    assert workers.submit(trial(how="value", x=3.0)).result(60).values == 6.0
    assert workers.submit(trial(how="stdin")).result(60).values == 0.0


def test_a_timeout_kills_the_whole_group_and_only_that_trial_fails(tmp_path: Path) -> None:
    evaluator = as_evaluator(objective, 2, timeout=1.0)
    evaluator.start(2)
    try:
        path = tmp_path / "pids"
        hanging = evaluator.submit(trial(how="hang", path=str(path)))
        others = [evaluator.submit(trial(how="value", x=float(i))) for i in range(5)]
        assert [other.result(60).values for other in others] == [0.0, 2.0, 4.0, 6.0, 8.0]
        outcome = hanging.result(60)
        assert outcome.error == "timed out after 1 s"
        assert "hanging on" in outcome.stderr
        assert outcome.seconds >= 1.0
        assert gone(*read_pids(path, 2))  # the worker and the process that it had started
        assert evaluator.submit(trial(how="value")).result(60).values == 2.0
    finally:
        evaluator.close()


def test_a_worker_that_dies_while_a_fork_of_it_lives_is_noticed(workers: Processes, tmp_path: Path) -> None:
    path = tmp_path / "pids"
    outcome = workers.submit(trial(how="fork and die", path=str(path))).result(60)
    assert outcome.error == "its worker process exited with code 5"
    assert gone(*read_pids(path, 2))


def test_a_worker_killed_while_idle_is_replaced_and_fails_nothing() -> None:
    evaluator = Processes(objective)
    evaluator.start(1)
    try:
        pid = int(evaluator.submit(trial(how="pid")).result(60).values)
        assert int(evaluator.submit(trial(how="pid")).result(60).values) == pid  # a worker serves many trials
        os.kill(pid, signal.SIGKILL)
        assert gone(pid)
        outcome = evaluator.submit(trial(how="pid")).result(60)
        assert outcome.error is None
        assert int(outcome.values) != pid
    finally:
        evaluator.close()


def test_functions_that_no_other_process_could_import_work() -> None:
    offset = np.array([1.0, 2.0])
    invented = ModuleType("made_at_run_time")
    exec("factor = 3\ndef scale(x):\n    return x * factor", invented.__dict__)  # noqa: S102
    sys.modules[invented.__name__] = invented

    class Choice:
        value = 5.0

    try:
        for function, params, value in (
            (lambda x: float((x + offset).sum()), {"x": np.array([1.0, 1.0])}, 5.0),
            (invented.scale, {"x": 2.0}, 6.0),
            (lambda x: x.value, {"x": Choice()}, 5.0),
        ):
            evaluator = Processes(function)
            evaluator.start(1)
            try:
                assert evaluator.submit(trial(**params)).result(60).values == value
            finally:
                evaluator.close()
    finally:
        del sys.modules[invented.__name__]


def test_a_function_that_cannot_travel_is_refused_at_the_start() -> None:
    lock = threading.Lock()
    evaluator = Processes(lambda x: lock)
    with pytest.raises(ConfigError, match=r"<lambda>.* cannot be sent to a worker process \(TypeError") as caught:
        evaluator.start(1)
    assert str(caught.value).count("cannot be sent") == 1


def test_workers_load_no_torch_and_take_one_thread_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for env, omp, extra in (({}, 1.0, -1.0), ({"OMP_NUM_THREADS": 3, "EXTRA": "7"}, 3.0, 7.0)):
        evaluator = Processes(objective, env=env)  # type: ignore[arg-type]
        evaluator.start(1)
        try:
            assert evaluator.submit(trial(how="env")).result(60).values == {"omp": omp, "extra": extra}
            source = "def f():\n    import sys\n    return float('torch' in sys.modules or 'numpy' in sys.modules)"
            scope: dict[str, Any] = {"__name__": "__main__"}
            exec(source, scope)  # noqa: S102
        finally:
            evaluator.close()
    lean = Processes(scope["f"])
    lean.start(1)
    assert lean.submit(trial()).result(60).values == 0.0
    lean.close()


def test_workers_run_where_they_are_told_to(tmp_path: Path) -> None:
    for cwd, where in ((None, os.getcwd()), (tmp_path, str(tmp_path.resolve()))):
        with WorkerPool(1, cwd=cwd) as pool:
            assert pool.submit(os.getcwd).result() == where
    with pytest.raises(ConfigError, match="there is no such directory"):
        WorkerPool(1, cwd=tmp_path / "nowhere")


def test_closing_kills_what_runs_and_the_evaluator_can_start_again(tmp_path: Path) -> None:
    evaluator = Processes(objective)
    evaluator.start(1)
    path = tmp_path / "pids"
    running, queued = evaluator.submit(trial(how="hang", path=str(path))), evaluator.submit(trial(how="value"))
    pids = read_pids(path, 2)
    evaluator.close()
    for future in (running, queued):
        with pytest.raises(CancelledError):
            future.result(60)
    assert gone(*pids)
    evaluator.start(1)
    assert evaluator.submit(trial(how="value")).result(60).values == 2.0
    evaluator.close()


PARENT = """
import signal
import sys
from types import SimpleNamespace
sys.path.insert(0, {folder!r})
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests in the background ignores it
from {module} import objective
from zoopt.evaluate import Processes
evaluator = Processes(objective)
evaluator.start(4)
futures = [evaluator.submit(SimpleNamespace(id=0, params=params)) for params in {params!r}]
[future.result() for future in futures]
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_outlives_the_parent(tmp_path: Path, number: signal.Signals) -> None:
    paths = [tmp_path / "hang", tmp_path / "stuck", tmp_path / "daemon"]
    params = [
        {"how": "hang", "path": str(paths[0])},
        {"how": "stuck", "path": str(paths[1])},
        {"how": "daemon", "path": str(paths[2]), "x": 2.0},
        {"how": "value"},
    ]
    script = PARENT.format(folder=str(Path(__file__).parent), module=Path(__file__).stem, params=params)
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        pids = read_pids(paths[0], 2) + read_pids(paths[1], 1) + read_pids(paths[2], 2)
        children = [int(p) for p in Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()]
        assert all(alive(pid) for pid in pids)
        parent.send_signal(number)
        parent.wait(60)
        assert gone(*pids, *children)  # workers, their children, and the helper
    finally:
        parent.kill()
        parent.wait()


def test_what_an_objective_leaves_in_a_session_of_its_own_ends_with_the_evaluator(tmp_path: Path) -> None:
    evaluator = Processes(objective)
    evaluator.start(1)
    assert evaluator.submit(trial(how="daemon", path=str(tmp_path / "daemon"))).result(60).values == 1.0
    worker, daemon = read_pids(tmp_path / "daemon", 2)
    assert alive(daemon)
    evaluator.close()
    assert gone(worker, daemon)


NESTED = """
import subprocess, sys
from pathlib import Path
from types import SimpleNamespace
from zoopt.evaluate import Command, Processes

def inner(x):
    import os, subprocess, time
    child = subprocess.Popen(["sleep", "600"], start_new_session=True)
    Path({path!r}).write_text(f"{{os.getpid()}} {{child.pid}}\\n")
    time.sleep(600)

def outer(x):
    evaluator = Processes(inner)
    evaluator.start(1)
    return evaluator.submit(SimpleNamespace(id=0, params={{"x": x}})).result().values

evaluator = Processes(outer)
evaluator.start(1)
evaluator.submit(SimpleNamespace(id=0, params={{"x": 1.0}})).result()
"""


def test_a_study_inside_an_objective_does_not_outlive_the_parent_either(tmp_path: Path) -> None:
    path = tmp_path / "pids"
    parent = subprocess.Popen([sys.executable, "-c", NESTED.format(path=str(path))], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        pids = read_pids(path, 2)
        parent.kill()
        parent.wait(60)
        assert gone(*pids)
    finally:
        parent.kill()
        parent.wait()


def test_a_script_without_a_main_guard_works(tmp_path: Path) -> None:
    script = tmp_path / "tune.py"
    script.write_text(
        textwrap.dedent(
            """
            from types import SimpleNamespace
            from zoopt.evaluate import as_evaluator
            print("start")
            SCALE = 4
            def objective(x):
                return x * SCALE
            evaluator = as_evaluator(objective, 2)
            evaluator.start(2)
            print([evaluator.submit(SimpleNamespace(id=i, params={"x": i})).result().values for i in range(3)])
            """
        )
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.splitlines() == ["start", "[0.0, 4.0, 8.0]"], done.stderr


def test_the_pool_is_an_executor() -> None:
    with WorkerPool(2, timeout="30s") as pool:
        assert list(pool.map(lambda a, b: a + b, [1, 2, 3], [10, 20, 30])) == [11, 22, 33]
        assert pool.submit(dict, a=np.arange(3)).result()["a"].tolist() == [0, 1, 2]
        with pytest.raises(ZeroDivisionError) as caught:
            pool.submit(lambda: 1 / 0).result()
        assert any("In the worker process" in note for note in caught.value.__notes__)
        with pytest.raises(WorkerDied, match="exited with code 9"):
            pool.submit(os._exit, 9).result()
        with pytest.raises(RuntimeError, match="cannot be sent between processes"):
            pool.submit(lambda: threading.Lock()).result()
        assert pool.submit(abs, -1).result() == 1
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.submit(abs, -1)


def test_a_call_past_its_timeout_raises_and_big_things_pass_both_ways() -> None:
    with WorkerPool(1, timeout=0.5) as pool, pytest.raises(TimeoutError, match=r"timed out after 0\.5 s"):
        pool.submit(time.sleep, 600).result()
    with WorkerPool(1) as pool:
        data = os.urandom(3_000_000)
        assert pool.submit(bytes, data).result() == data


def test_a_forgotten_pool_takes_its_workers_along() -> None:
    pool = WorkerPool(1)
    pid = pool.submit(os.getpid).result()
    assert alive(pid)
    del pool
    gc.collect()
    assert gone(pid)


@pytest.mark.parametrize("workers", [0, 1.5, True])
def test_a_pool_without_workers_is_refused(workers: Any) -> None:
    with pytest.raises(ConfigError, match="workers = "):
        WorkerPool(workers)
