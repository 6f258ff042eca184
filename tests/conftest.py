"""Skips tests whose programs or devices are not there, with the reason; a PostgreSQL server of the tests' own.

``ZOOPT_REQUIRE=browser,postgres`` turns those skips into failures.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import pytest

Interrupted = Callable[[Callable[[], Any], int, Callable[[str], bool]], bool]


def _work_alone() -> None:
    """Torch in a forked child must not wait for the threads of its parent, which are not there any more."""
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(1)


os.register_at_fork(after_in_child=_work_alone)


def _browser() -> str | None:
    for program, others in (("chromium", ("chromium-browser", "google-chrome")), ("chromedriver", ())):
        if not any(map(shutil.which, (program, *others))):
            return f"no {program} on this machine; `make system` installs it"
    return None


def _postgres_programs() -> Path | None:
    """Folder of the newest server's programs: Debian's, else whatever is on the path."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    found = debian[-1] if debian else shutil.which("initdb")
    return Path(found).resolve().parent if found else None


def _postgres() -> str | None:
    if _postgres_programs() is None:
        return "no PostgreSQL server on this machine; `make system` installs it"
    return None if find_spec("psycopg") else "psycopg is not installed"


def _cuda() -> str | None:
    import torch

    return None if torch.cuda.is_available() else "no CUDA device on this machine"


NEEDS = {"browser": _browser, "postgres": _postgres, "cuda": _cuda}
REQUIRED = {need.strip() for need in os.environ.get("ZOOPT_REQUIRE", "").split(",")} - {""}


def pytest_configure(config: pytest.Config) -> None:
    if unknown := REQUIRED - NEEDS.keys():
        raise pytest.UsageError(f"ZOOPT_REQUIRE names {', '.join(sorted(unknown))}; known are {', '.join(NEEDS)}.")


def _skip_without(need: str) -> None:
    if (reason := NEEDS[need]()) is not None:
        if need in REQUIRED:
            pytest.fail(f"{reason}, and ZOOPT_REQUIRE asks for it", pytrace=False)
        pytest.skip(reason)


def pytest_runtest_setup(item: pytest.Item) -> None:
    for need in NEEDS:
        if item.get_closest_marker(need):
            _skip_without(need)


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Here and in the processes started here: tests run side by side, and threads that wait for a core take the time of the others."""
    import torch

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def interrupted() -> Interrupted:
    """Calls a function and raises KeyboardInterrupt before one line of some files, counted from 0; gives whether it came so far."""

    def run(call: Callable[[], Any], line: int, files: Callable[[str], bool]) -> bool:
        seen = 0

        def local(frame: FrameType, event: str, _: Any) -> Any:
            nonlocal seen
            if event == "line":
                seen += 1
                if seen > line:
                    raise KeyboardInterrupt
            return local

        before = sys.gettrace()
        sys.settrace(lambda frame, event, _: local if files(frame.f_code.co_filename) else None)
        try:
            call()
        except KeyboardInterrupt:
            return True
        finally:
            sys.settrace(before)
        return False

    return run


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The monotonic clock of this process, standing still at ``now`` until a test moves it."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    return clock


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """URL of the maintenance database of a private server, reached by a socket in a temporary folder."""
    _skip_without("postgres")
    import psycopg

    programs = _postgres_programs()
    assert programs is not None
    folder = Path(tempfile.mkdtemp(prefix="zoopt-pg-", dir="/tmp" if Path("/tmp").is_dir() else None))  # a socket's path must be short
    account: dict[str, Any] = {"cwd": folder, "env": {"PATH": os.defpath, "LC_ALL": "C"}}
    if os.getuid() == 0:  # the server refuses to run as root
        name = next(name for name in ("postgres", "nobody") if any(user.pw_name == name for user in pwd.getpwall()))
        user = pwd.getpwnam(name)
        os.chown(folder, user.pw_uid, user.pw_gid)
        account |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    server = None
    log = folder / "log"
    try:
        init: list[str | Path] = [
            programs / "initdb",
            "-D",
            folder / "data",
            "-U",
            "zoopt",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale=C",
            "--no-sync",
        ]
        made = subprocess.run(init, capture_output=True, text=True, **account)
        if made.returncode != 0:
            pytest.fail(f"initdb failed: {made.stdout}{made.stderr}", pytrace=False)
        settings = ("listen_addresses=", "fsync=off", "shared_buffers=16MB", f"unix_socket_directories={folder}")
        arguments = [part for setting in settings for part in ("-c", setting)]
        with log.open("w") as output:
            server = subprocess.Popen([programs / "postgres", "-D", folder / "data", *arguments], stdout=output, stderr=output, **account)
        url = f"postgresql://zoopt@/postgres?host={folder}"
        end = time.monotonic() + 60
        while True:
            try:
                psycopg.connect(url).close()
                break
            except psycopg.OperationalError:
                if server.poll() is not None or time.monotonic() > end:
                    pytest.fail(f"the PostgreSQL server did not start: {log.read_text()}", pytrace=False)
                time.sleep(0.05)
        yield url
    finally:
        if server is not None:
            server.send_signal(signal.SIGINT)  # ends its sessions and stops
            try:
                server.wait(30)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres_database(postgres_url: str) -> str:
    """URL of a database that is empty when a test begins."""
    import psycopg

    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'postgres' AND pid <> pg_backend_pid()")
        connection.execute("DROP SCHEMA public CASCADE")  # much quicker than a database for each test
        connection.execute("CREATE SCHEMA public")
    return postgres_url
