"""Worker processes for functions of one trial.

Our own pool rather than ``ProcessPoolExecutor``, where one worker that dies breaks the pool and fails every trial in it, a
running call cannot be stopped, and a script without an ``if __name__ == "__main__"`` guard starts itself again in each
worker. Here each worker is a fresh interpreter in a session of its own, minded by one thread: a timeout kills that
worker's process group, and whatever ends a worker fails only the trial that ran in it.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import select
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Executor, Future
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, ParamSpec, TypeVar

from zoopt.errors import ConfigError, ZooptError
from zoopt.evaluate._guard import Guard
from zoopt.evaluate._objective import Objective, dumps
from zoopt.evaluate._processes import POLL, Lanes, Tail, exited, how_it_ended, kill_group, wait_exit
from zoopt.evaluate._worker import HEADER, send
from zoopt.evaluate.evaluator import TrialLike, check_signature, duration
from zoopt.evaluate.outcome import STDERR_BYTES, Outcome, describe, tail

P = ParamSpec("P")
R = TypeVar("R")

LOAD_SECONDS = 300.0  # a timeout is for the trial: what a function imports when it is first loaded does not count, within reason
_PLAIN = (float, int, bool, str, type(None))

# Our path before anything else, so that zoopt and the function's module are found wherever the parent found them.
_BOOTSTRAP = (
    "import json, sys; sys.path[:], argv, replies = json.loads(sys.argv[1]); sys.argv[:] = argv; "
    "from zoopt.evaluate._worker import main; main(replies)"
)


class WorkerDied(ZooptError, RuntimeError):
    """A worker process ended in the middle of a call; the pool has replaced it.

    Attributes:
        stderr: The last 4 KB that it wrote.
    """

    def __init__(self, message: str, stderr: str = "") -> None:
        super().__init__(message)
        self.stderr = stderr


@dataclass(slots=True)
class _Call:
    """A call on its way to a worker.

    Attributes:
        function: Pickled callable; a worker that has just run the same bytes is not sent them again.
        arguments: Pickled ``(args, kwargs)``.
        timeout: Seconds, or None.
        future: Resolved by the worker's thread.
        outcomes: The function gives an Outcome, and the future is to get one whatever happens.
    """

    function: bytes
    arguments: bytes
    timeout: float | None
    future: Future[Any]
    outcomes: bool


@dataclass(slots=True)
class _Reply:
    status: Literal["returned", "raised", "unloaded", "timeout", "died", "closed"]
    payload: Any = None
    begun: bool = False
    seconds: float = 0.0
    log: str = ""


@dataclass(slots=True)
class _Process:
    popen: subprocess.Popen[bytes]
    calls: int  # file descriptor that calls are written to: its standard input
    replies: int
    log: int  # what it writes to its standard output and error
    loaded: bytes | None = None  # the function it has
    rest: bytearray = field(default_factory=bytearray)

    def close(self) -> None:
        if self.popen.stdin is not None:
            self.popen.stdin.close()
        os.close(self.replies)
        os.close(self.log)


class _Worker:
    """A lane of the pool: one worker process at a time, started when needed."""

    def __init__(self, env: Mapping[str, str], cwd: str | None, guard: Guard) -> None:
        self._env = env
        self._cwd = cwd
        self._guard = guard
        self._process: _Process | None = None
        self._lock = threading.RLock()  # between starting a process, ending it, and abort from another thread
        self._aborted = False

    def run(self, call: _Call) -> None:
        if not call.future.set_running_or_notify_cancel():
            return
        try:
            reply = self._attempt(call)
            _resolve(call, reply)
        except BaseException as error:  # out of file descriptors, say: no future may be left hanging
            self._end()
            if not call.future.done():
                call.future.set_exception(error)

    def abort(self) -> None:
        with self._lock:
            self._aborted = True
            if self._process is not None:
                kill_group(self._process.popen)

    def close(self) -> None:
        self._end()

    def _attempt(self, call: _Call) -> _Reply:
        while True:
            fresh = self._process is None
            if fresh and not self._start():
                return _Reply("closed")
            reply = self._exchange(call)
            if reply.status == "died" and not reply.begun and not fresh:
                continue  # it died while it was idle, which is nothing to hold against this trial
            return reply

    def _start(self) -> bool:
        """Starts a process; False when the pool was closed meanwhile."""
        with self._lock:
            if self._aborted:
                return False
            with contextlib.ExitStack() as stack:
                replies, replies_in = os.pipe()
                stack.callback(os.close, replies_in)
                log, log_in = os.pipe()
                stack.callback(os.close, log_in)
                # Absolute where they are folders: some entries are names that an import hook knows.
                paths = [os.path.abspath(p) if not p or os.path.exists(p) else p for p in sys.path if isinstance(p, str)]
                try:
                    os.set_blocking(log, False)
                    popen = subprocess.Popen(
                        [sys.executable, "-P", "-c", _BOOTSTRAP, json.dumps([paths, sys.argv, replies_in])],
                        stdin=subprocess.PIPE,
                        stdout=log_in,
                        stderr=log_in,
                        pass_fds=(replies_in,),
                        start_new_session=True,
                        env=self._env,
                        cwd=self._cwd,
                        bufsize=0,
                    )
                except BaseException:
                    os.close(replies)
                    os.close(log)
                    raise
            self._guard.add(popen.pid)
            assert popen.stdin is not None
            self._process = _Process(popen, popen.stdin.fileno(), replies, log)
        return True

    def _end(self) -> int:
        """Ends the process and everything in its group; gives its exit status."""
        with self._lock:
            process, self._process = self._process, None
            if process is None:
                return 0
            kill_group(process.popen)
            process.close()
            code = process.popen.wait()
            self._guard.remove(process.popen.pid)
        return code

    def _exchange(self, call: _Call) -> _Reply:
        process = self._process
        assert process is not None
        log = Tail(STDERR_BYTES)
        _drain(process.log, log if process.loaded is None else None)  # not what a thread of the trial before still wrote
        start = time.monotonic()
        begun = False
        status: Literal["timeout", "died"] = "died"
        try:
            same = process.loaded == call.function
            send(process.calls, pickle.dumps((None if same else call.function, call.arguments)))
            process.loaded = call.function
            frame = self._frame(process, log, None if call.timeout is None else start + LOAD_SECONDS)
            if frame == b"":
                begun = True
                start = time.monotonic()
                frame = self._frame(process, log, None if call.timeout is None else start + call.timeout)
            if frame is not None:
                _drain(process.log, log)
                answer, body, seconds = pickle.loads(frame)
                if answer == "unloaded":
                    process.loaded = None
                return _Reply(answer, _load(body), begun, seconds, tail(log.get()))
        except TimeoutError:
            status = "timeout"
        except OSError:  # the pipe broke: it is dead
            pass
        seconds = time.monotonic() - start
        if status == "died":
            wait_exit(process.popen, 2.0)  # its pipes close a moment before its exit status is there
        kill_group(process.popen)
        wait_exit(process.popen, 2.0)
        with contextlib.suppress(OSError):
            _drain(process.log, log)
        code = self._end()
        if self._aborted:
            return _Reply("closed")
        return _Reply(status, how_it_ended(code), begun, seconds, tail(log.get()))

    def _frame(self, process: _Process, log: Tail, deadline: float | None) -> bytes | None:
        """The worker's next frame, while its output is collected; None when it died, TimeoutError past the deadline."""
        poll = select.poll()
        poll.register(process.replies, select.POLLIN)
        poll.register(process.log, select.POLLIN)
        rest = process.rest
        look = time.monotonic() + POLL
        while True:
            if len(rest) >= HEADER.size:
                size = HEADER.size + HEADER.unpack(rest[: HEADER.size])[0]
                if len(rest) >= size:
                    frame = bytes(rest[HEADER.size : size])
                    del rest[:size]
                    return frame
            now = time.monotonic()
            if deadline is not None and now >= deadline:
                raise TimeoutError
            if now >= look:
                if exited(process.popen):  # and a process that it forked holds its end of the pipe open
                    return None
                look = now + POLL
            wait = look - now if deadline is None else min(look, deadline) - now
            for fd, _ in poll.poll(wait * 1000 + 1):
                if fd == process.log:
                    if not _drain(fd, log):  # closed by the objective, which may do so
                        poll.unregister(fd)
                else:
                    data = os.read(fd, 1 << 18)
                    if not data:
                        return None
                    rest += data


def _drain(fd: int, log: Tail | None) -> bool:
    """Reads what is there now; False when the other end is closed."""
    for _ in range(64):  # somebody who writes faster than we read must not hold us up
        try:
            data = os.read(fd, 1 << 16)
        except BlockingIOError:
            return True
        if not data:
            return False
        if log is not None:
            log.add(data)
    return True


def _load(body: bytes) -> Any:
    try:
        return pickle.loads(body)
    except Exception as error:
        return RuntimeError(f"what the worker sent cannot be read here: {describe(error)}")


def _resolve(call: _Call, reply: _Reply) -> None:
    future = call.future
    if reply.status == "closed":
        future.set_exception(CancelledError())
        return
    if reply.status == "returned" and not (call.outcomes and not isinstance(reply.payload, Outcome)):
        result = reply.payload
        if call.outcomes and reply.log:
            result = replace(result, stderr=tail(reply.log + result.stderr))
        future.set_result(result)
        return
    if reply.status == "timeout":
        what = "timed out" if reply.begun else f"could not be loaded within {LOAD_SECONDS:g} s"
        error: BaseException = TimeoutError(f"{what} after {call.timeout:g} s" if reply.begun else what)
    elif reply.status == "died":
        where = "its worker process" if reply.begun else "a worker process, while it was starting,"
        error = WorkerDied(f"{where} {reply.payload}", reply.log)
    else:
        error = reply.payload if isinstance(reply.payload, BaseException) else RuntimeError(f"unexpected answer {reply.payload!r}")
    if not call.outcomes:
        future.set_exception(error)
        return
    if reply.status in ("timeout", "died"):
        reason = str(error)
    elif reply.status == "unloaded":
        reason = f"the worker process could not load the objective: {describe(error)}"
    else:
        reason = describe(error)
    future.set_result(Outcome.failed(reason, reply.log, reply.seconds))


class WorkerPool(Executor):
    """Spawned worker processes behind the interface of ``concurrent.futures``.

    Functions and arguments travel by cloudpickle. A call that runs longer than ``timeout`` gives ``TimeoutError``, one
    whose worker dies gives ``WorkerDied``; the worker's process group is killed, a new worker takes its place, and
    no other call is touched. The workers end when the pool is shut down or garbage, and when this process ends in any
    way, SIGKILL included.

    Args:
        workers: How many calls run at once; processes start when there is work for them.
        timeout: For each call, seconds or a text such as ``"10m"``; loading the function, with its imports, is not counted.
        env: Environment variables to set in the workers. ``OMP_NUM_THREADS`` is 1 unless it is set here or in the
            environment, so that several workers do not fight over the cores.
        cwd: Directory in which the workers run; None: the current one.
    """

    def __init__(
        self,
        workers: int,
        *,
        timeout: float | str | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
    ) -> None:
        if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
            raise ConfigError(f"workers = {workers!r}: a whole number of at least 1 was expected.")
        self.timeout = duration(timeout, "timeout")
        folder = None if cwd is None else os.path.abspath(cwd)
        if folder is not None and not os.path.isdir(folder):
            raise ConfigError(f"cwd = {folder!r}: there is no such directory.")
        self._guard = Guard()
        environment = {"OMP_NUM_THREADS": "1", **os.environ, **{k: str(v) for k, v in (env or {}).items()}, **self._guard.mark}
        self._lanes: Lanes[_Call] = Lanes(workers, partial(_Worker, environment, folder, self._guard))
        # Also runs when the interpreter exits, without waiting for what hangs.
        self._finalizer = weakref.finalize(self, _end_pool, self._lanes, self._guard)

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Run ``fn(*args, **kwargs)`` in a worker.

        Raises:
            RuntimeError: The pool was shut down.
            ConfigError: The function or an argument cannot be pickled.
        """
        return self._put(dumps(fn), dumps((args, kwargs)), self.timeout, False)

    def _put(self, function: bytes, arguments: bytes, timeout: float | None, outcomes: bool) -> Future[Any]:
        future: Future[Any] = Future()
        self._lanes.put(_Call(function, arguments, timeout, future, outcomes))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """No more calls. Those queued are still run unless they are cancelled; the workers end after the last one."""
        if cancel_futures:
            for call in self._lanes.drain():
                call.future.cancel()
        self._lanes.close()
        if wait:
            self._lanes.join()
            self._finalizer()

    def kill(self) -> None:
        """End at once: running calls are killed, and they and those queued are cancelled."""
        self._finalizer()


def _end_pool(lanes: Lanes[_Call], guard: Guard) -> None:
    queued = lanes.drain()
    lanes.close()
    lanes.abort()
    for call in queued:
        call.future.cancel()
    lanes.join()
    guard.close()


class Processes:
    """Computes a function of one trial in spawned worker processes: the default for Python functions.

    A trial that raises, hangs past its timeout, or takes its worker down (segmentation fault, ``os._exit``, out of memory)
    is a failed outcome with the reason and the last 4 KB of what it wrote; every other trial goes on.

    Args:
        function: Called as ``function(**params)``; gives what ``of`` reads. It may be a
            lambda, or come from a notebook: it travels by cloudpickle, once to each worker.
        timeout: For one evaluation, seconds or a text such as ``"10m"``.
        env: Environment variables to set in the workers; see ``WorkerPool``.
        cwd: Directory in which the workers run; None: the current one.
    """

    batched = False

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        timeout: float | str | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
    ) -> None:
        if not callable(function):
            raise ConfigError(f"{function!r} is not an objective; a function of one trial was expected.")
        self.function = function
        self.timeout = duration(timeout, "timeout")
        self.env = dict(env or {})
        self.cwd = cwd
        self._pool: WorkerPool | None = None
        self._pickled = b""

    def check(self, parameters: Sequence[str]) -> None:
        """Refuses a function that does not take these parameters (``ConfigError``)."""
        check_signature(self.function, parameters)

    def start(self, parallel: int) -> None:
        """Get ready for ``parallel`` evaluations at once. Raises ``ConfigError`` for a function that cannot be pickled."""
        self.close()
        # The function is looked at here, in case the user changed what it refers to since the last run.
        self._pickled = dumps(Objective(self.function))
        self._pool = WorkerPool(parallel, env=self.env, cwd=self.cwd)

    def submit(self, trial: TrialLike) -> Future[Outcome]:
        """Compute one trial; more than ``parallel`` of them queue."""
        if self._pool is None:
            self.start(1)
        assert self._pool is not None
        params = trial.params
        arguments: tuple[tuple[Any, ...], dict[str, Any]] = ((params,), {})
        plain = all(type(value) in _PLAIN for value in params.values())
        return self._pool._put(self._pickled, pickle.dumps(arguments) if plain else dumps(arguments), self.timeout, True)

    def close(self) -> None:
        """Kill what runs, cancel what is queued, end the workers."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.kill()
