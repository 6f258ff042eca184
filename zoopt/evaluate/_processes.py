"""What the worker pool and commands share: ends of processes, tails of output, threads that each mind one process."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

Job = TypeVar("Job")
JobIn = TypeVar("JobIn", contravariant=True)

POLL = 0.2  # seconds between looks at a process whose pipes stay open, because a child of it holds them


def exited(process: subprocess.Popen[bytes]) -> bool:
    """Whether it has ended; it is not reaped, so that the number of its process group cannot yet be given to another."""
    if process.returncode is not None:
        return True
    try:
        return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:  # somebody else reaped it
        return True


def wait_exit(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Waits at most so long for it to end, without reaping it."""
    end = time.monotonic() + seconds
    pause = 0.0005
    while not exited(process):
        if time.monotonic() >= end:
            return False
        time.sleep(pause)
        pause = min(pause * 2, 0.05)
    return True


def kill_group(process: subprocess.Popen[bytes], number: int = signal.SIGKILL) -> None:
    """Signals every process of the group that it leads, itself included. Nothing happens once it was reaped."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)


def how_it_ended(returncode: int) -> str:
    """An exit status in words, as the end of a sentence about the process."""
    if returncode >= 0:
        return f"exited with code {returncode}"
    try:
        name = signal.Signals(-returncode).name
    except ValueError:
        name = f"signal {-returncode}"
    hint = {"SIGKILL": " (the system kills so when memory runs out)", "SIGSEGV": " (segmentation fault)"}.get(name, "")
    return f"was killed by {name}{hint}"


class Tail:
    """The end of a stream, at most ``limit`` bytes."""

    __slots__ = ("_data", "_limit", "cut")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._data = bytearray()
        self.cut = False

    def add(self, data: bytes) -> None:
        """Append; what no longer fits is forgotten from the front."""
        self._data += data
        if len(self._data) > 2 * self._limit:
            del self._data[: -self._limit]
            self.cut = True

    def get(self) -> bytes:
        """The last bytes."""
        return bytes(self._data[-self._limit :])


class Lane(Protocol[JobIn]):
    """One thread's work: it runs one job at a time."""

    def run(self, job: JobIn) -> None:
        """Do a job; must not raise and must resolve the job's future."""

    def abort(self) -> None:
        """Called from another thread: stop the running job, and refuse to start another."""

    def close(self) -> None:
        """Called from its own thread when there is no more work."""


class Lanes(Generic[Job]):
    """At most ``limit`` daemon threads; one is started when there is a job and none is idle.

    The threads of ``concurrent.futures`` would be joined when the interpreter exits, and so wait for a hanging evaluation.
    """

    def __init__(self, limit: int, lane: Callable[[], Lane[Job]]) -> None:
        self._limit = limit
        self._make = lane
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._lock = threading.RLock()
        self._lanes: list[Lane[Job]] = []
        self._threads: list[threading.Thread] = []
        self._closed = False

    def put(self, job: Job) -> None:
        """Queue a job.

        Raises:
            RuntimeError: They are closed.
        """
        with self._lock:
            if self._closed:
                raise RuntimeError("cannot submit after shutdown.")
            self._jobs.put(job)
            if self._idle.acquire(blocking=False) or len(self._threads) >= self._limit:
                return
            lane = self._make()
            thread = threading.Thread(target=_serve, args=(lane, self._jobs, self._idle), daemon=True, name="zoopt-evaluate")
            self._lanes.append(lane)
            self._threads.append(thread)
            thread.start()

    def drain(self) -> list[Job]:
        """Takes out the jobs that no lane has begun."""
        jobs = []
        with contextlib.suppress(queue.Empty):
            while True:
                job = self._jobs.get_nowait()
                if job is not None:
                    jobs.append(job)
        return jobs

    def close(self) -> None:
        """No more jobs; those queued are still done."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._jobs.put(None)

    def abort(self) -> None:
        """Stop what runs."""
        for lane in list(self._lanes):
            lane.abort()

    def join(self) -> None:
        """Wait for the threads to end, after ``close``."""
        for thread in list(self._threads):
            if thread is not threading.current_thread():
                thread.join()


def _serve(lane: Lane[Job], jobs: queue.SimpleQueue[Job | None], idle: threading.Semaphore) -> None:
    while True:
        try:
            job = jobs.get_nowait()
        except queue.Empty:
            idle.release()
            job = jobs.get()
        if job is None:
            jobs.put(None)  # for the next thread
            break
        lane.run(job)
        del job  # a waiting thread must not keep a big result alive
    lane.close()
