"""An external program as objective."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shlex
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from zoopt.errors import ConfigError
from zoopt.evaluate._guard import Guard
from zoopt.evaluate._processes import POLL, Lanes, Tail, exited, how_it_ended, kill_group, wait_exit
from zoopt.evaluate.evaluator import TrialLike, duration
from zoopt.evaluate.outcome import STDERR_BYTES, NotAResult, Outcome, describe, parse_text, tail

RESERVED_PLACEHOLDERS = ("id", "config_file", "result_file")
STDOUT_BYTES = 1 << 20  # the last line is looked for in this much of the end of the standard output
GRACE = 1.0  # seconds between asking a process that timed out to end (SIGTERM) and killing it

_BRACES = re.compile(r"\{\{|\}\}|\{(?P<name>[^{}:]+)(?::(?P<format>[^{}]*))?\}|[{}]")


@dataclass(frozen=True, slots=True)
class _Placeholder:
    name: str
    format: str


_Template = tuple[str | _Placeholder, ...]


class Command:
    """Computes the objective by running a program, once for each trial.

    The command is a list of arguments, or a string that is split like a shell would (``shlex``) before any value is filled
    in, so a value is always exactly (part of) one argument, whatever is in it. No shell sees it, unless ``shell=True``.

    Placeholders: ``{name}`` a parameter, also with a format, ``{lr:.3e}``; ``{id}`` the trial's number; ``{config_file}`` a JSON
    file with all parameters; ``{result_file}`` a file that the program is to write its result to. ``{{`` and ``}}`` are
    braces. Floats are written so that they read back exactly, booleans as ``true`` and ``false``, arrays as JSON. An argument
    that holds an inactive conditional parameter is left out, together with the option before it (``--degree {degree}``).

    The result is the last line that is not empty of its standard output, or the result file where the command names one:
    a number, a JSON list of numbers, or a JSON object with the objectives by name (or ``"value"``), and optionally ``constraints``,
    ``noise`` and ``metrics``. Everything else (another exit status than 0, no number, NaN, a timeout) is a failed outcome.

    Args:
        command: The list, or the string.
        timeout: For one evaluation, seconds or a text such as ``"10m"``. Its whole process group is ended then.
        retries: How often an evaluation that failed is tried again before it counts as failed.
        env: Environment variables to set.
        cwd: Directory to run in; None: the current one.
        shell: Give the string to ``/bin/sh``, with the values quoted for it.

    Raises:
        ConfigError: The command cannot be read.
    """

    batched = False

    def __init__(
        self,
        command: str | Sequence[str],
        *,
        timeout: float | str | None = None,
        retries: int = 0,
        env: Mapping[str, Any] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        shell: bool = False,
    ) -> None:
        if isinstance(retries, bool) or not isinstance(retries, int) or retries < 0:
            raise ConfigError(f"retries = {retries!r}: a whole number of at least 0 was expected.")
        self.command = command if isinstance(command, str) else list(command)
        self.timeout = duration(timeout, "timeout")
        self.retries = retries
        self.env = {str(k): str(v) for k, v in (env or {}).items()}
        self.cwd = None if cwd is None else os.fspath(cwd)
        self.shell = shell
        self._templates = tuple(_parse(part) for part in _split(self.command, shell))
        self._names = {part.name for template in self._templates for part in template if isinstance(part, _Placeholder)}
        self._parameters: set[str] | None = None
        self._lanes: Lanes[_Job] | None = None
        self._guard: Guard | None = None

    def check(self, parameters: Sequence[str] | Mapping[str, Sequence[Any]]) -> None:
        """Refuses placeholders that are no parameter, what ``check_program`` refuses, and parameters that never reach the program.

        Args:
            parameters: Names; or by name some values that each can have, which are then tried with the formats.

        Raises:
            ConfigError: With what was found and what to write instead.
        """
        clash = sorted(set(parameters) & set(RESERVED_PLACEHOLDERS) & self._names)
        if clash:
            raise ConfigError(
                f"{{{clash[0]}}} in the command means zoopt's own {clash[0]}, but a parameter has this name; rename the parameter."
            )
        unknown = sorted(self._names - set(parameters) - set(RESERVED_PLACEHOLDERS))
        if unknown:
            raise ConfigError(
                f"the command has the placeholder {', '.join(f'{{{name}}}' for name in unknown)}, but the parameters are "
                f"{', '.join(parameters) or 'none'}. Beside them {', '.join(f'{{{name}}}' for name in RESERVED_PLACEHOLDERS)} can be used; "
                "a brace that is meant as such is written twice, {{ or }}."
            )
        self._parameters = set(parameters)
        self.check_program()
        values: dict[str, Sequence[Any]] = {"id": [0], **(parameters if isinstance(parameters, Mapping) else {})}
        for part in (part for template in self._templates for part in template if isinstance(part, _Placeholder)):
            for value in values.get(part.name, ()):
                self._text(part, {part.name: value})
        named = any(name in self._names for name in getattr(parameters, "labels", ()))  # which a row of a pool is known by
        unused = [] if named else [name for name in parameters if name not in self._names]
        if unused and "config_file" not in self._names:
            raise ConfigError(
                f"the command does not use {', '.join(unused)}: write {{{unused[0]}}} where its value belongs, or {{config_file}} for a "
                "JSON file with all parameters; or leave it out of the space."
            )

    def check_program(self) -> None:
        """Refuses a directory that does not exist and a program that cannot be found or is not executable (``ConfigError``)."""
        if self.cwd is not None and not os.path.isdir(self.cwd):
            raise ConfigError(f"cwd = {self.cwd!r}: there is no such directory.")
        if self.shell or any(isinstance(part, _Placeholder) for part in self._templates[0]):
            return
        program = "".join(str(part) for part in self._templates[0])
        if os.sep in program:
            path = os.path.join(self.cwd or "", program)
            if not os.path.isfile(path):
                raise ConfigError(f"the program {program!r} of the command was not found in {os.path.abspath(self.cwd or '.')}.")
            if not os.access(path, os.X_OK):
                raise ConfigError(
                    f"the program {program!r} of the command is not executable; chmod +x it, or name its interpreter before it."
                )
        elif shutil.which(program, path=self.env.get("PATH")) is None:
            here = " (there is such a file here: write ./ before it)" if os.path.isfile(os.path.join(self.cwd or "", program)) else ""
            raise ConfigError(f"the program {program!r} of the command was not found on the PATH{here}.")

    def start(self, parallel: int) -> None:
        """Get ready for ``parallel`` evaluations at once. Raises ``ConfigError`` for a program that cannot be found."""
        self.close()
        self.check_program()
        self._guard = Guard()
        self._lanes = Lanes(parallel, partial(_Runner, self, self._guard))

    def submit(self, trial: TrialLike) -> Future[Outcome]:
        """Compute one trial; more than ``parallel`` of them queue."""
        if self._lanes is None:
            self.start(1)
        assert self._lanes is not None
        future: Future[Outcome] = Future()
        self._lanes.put(_Job(trial.id, trial.params, future))
        return future

    def close(self) -> None:
        """Kill what runs and cancel what is queued."""
        lanes, self._lanes = self._lanes, None
        guard, self._guard = self._guard, None
        if lanes is not None:
            queued = lanes.drain()
            lanes.close()
            lanes.abort()
            for job in queued:
                job.future.cancel()
            lanes.join()
        if guard is not None:
            guard.close()

    def arguments(self, params: Mapping[str, Any], **special: Any) -> list[str]:
        """The argument list of a trial.

        Args:
            params: The active parameters.
            **special: Values of ``id``, ``config_file``, ``result_file``.

        Raises:
            ConfigError: A placeholder without a value, or a format that its value does not take.
        """
        given = {**params, **special}
        absent = self._names - given.keys()
        unknown = absent if self._parameters is None else absent - self._parameters
        if unknown:
            raise ConfigError(f"the command has the placeholder {{{min(unknown)}}}, but this trial has {', '.join(params) or 'nothing'}.")
        filled: list[str] = []
        for template in self._templates:
            names = {part.name for part in template if isinstance(part, _Placeholder)}
            if names & absent and not self.shell:
                if filled and len(template) == 1 and self._is_option(filled[-1]):
                    filled.pop()
                continue
            filled.append("".join(part if isinstance(part, str) else self._text(part, given) for part in template))
        return filled

    @staticmethod
    def _is_option(argument: str) -> bool:
        return argument.startswith("-") and "=" not in argument and len(argument) > 1 and not argument.lstrip("-")[:1].isdigit()

    def _text(self, placeholder: _Placeholder, given: Mapping[str, Any]) -> str:
        value = given.get(placeholder.name, "")
        if placeholder.format:
            try:
                text = format(value, placeholder.format)
            except (TypeError, ValueError) as error:
                raise ConfigError(f"the format of {{{placeholder.name}:{placeholder.format}}} does not fit {value!r}: {error}.") from None
        else:
            text = _plain_text(value)
        return shlex.quote(text) if self.shell else text


@dataclass(slots=True)
class _Job:
    id: int
    params: dict[str, Any]
    future: Future[Outcome]


class _Runner:
    """A lane of a command: one process at a time."""

    def __init__(self, command: Command, guard: Guard) -> None:
        self._command = command
        self._guard = guard
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.RLock()
        self._aborted = False

    def run(self, job: _Job) -> None:
        if not job.future.set_running_or_notify_cancel():
            return
        try:
            outcome = self._outcome(job)
        except BaseException as error:
            job.future.set_exception(error)
        else:
            job.future.set_result(outcome)

    def abort(self) -> None:
        with self._lock:
            self._aborted = True
            if self._process is not None:
                kill_group(self._process)

    def close(self) -> None:
        """Nothing runs between jobs."""

    def _outcome(self, job: _Job) -> Outcome:
        attempts = self._command.retries + 1
        for attempt in range(1, attempts + 1):
            outcome = self._attempt(job)
            if outcome.ok:
                break
            if attempt == attempts > 1:
                outcome = replace(outcome, error=f"{outcome.error} (the last of {attempts} attempts)")
        return outcome

    def _attempt(self, job: _Job) -> Outcome:
        command = self._command
        with contextlib.ExitStack() as stack:
            special: dict[str, Any] = {"id": job.id} if "id" in command._names else {}
            result_file = None
            if command._names & {"config_file", "result_file"}:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="zoopt-", ignore_cleanup_errors=True)))
                if "config_file" in command._names:
                    special["config_file"] = str(folder / "config.json")
                    (folder / "config.json").write_text(json.dumps(job.params, default=_jsonable), encoding="utf-8")
                if "result_file" in command._names:
                    result_file = folder / "result.json"
                    special["result_file"] = str(result_file)
            try:
                arguments = command.arguments(job.params, **special)
            except ConfigError as error:
                return Outcome.failed(str(error))
            return self._execute(arguments, result_file)

    def _execute(self, arguments: list[str], result_file: Path | None) -> Outcome:
        command = self._command
        start = time.monotonic()
        try:
            with self._lock:
                if self._aborted:
                    raise CancelledError
                process = subprocess.Popen(
                    arguments[0] if command.shell else arguments,
                    shell=command.shell,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    start_new_session=True,
                    env={**os.environ, **command.env, **self._guard.mark},
                    cwd=command.cwd,
                    bufsize=0,
                )
                self._guard.add(process.pid)
                self._process = process
        except (OSError, ValueError) as error:  # gone since the check, too many arguments, a NUL in a value
            return Outcome.failed(f"the command could not be started: {describe(error)}")
        out, err = Tail(STDOUT_BYTES), Tail(STDERR_BYTES)
        try:
            in_time = _watch(process, out, err, None if command.timeout is None else start + command.timeout)
            if not in_time:
                kill_group(process, signal.SIGTERM)
                _watch(process, out, err, time.monotonic() + GRACE)
        finally:
            with self._lock:
                kill_group(process)  # also what it left running in the background
                self._process = None
                code = process.wait()
                self._guard.remove(process.pid)
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
        if self._aborted:
            raise CancelledError
        seconds = time.monotonic() - start
        stderr = tail(err.get())
        if not in_time:
            return Outcome.failed(f"timed out after {command.timeout:g} s", stderr, seconds)
        if code != 0:
            last = _last_line(stderr) or _last_line(out.get().decode("utf-8", "replace"))
            return Outcome.failed(f"the command {how_it_ended(code)}{': ' + last if last else ''}", stderr, seconds)
        return _read_result(out, result_file, stderr, seconds)


def _watch(process: subprocess.Popen[bytes], out: Tail, err: Tail, deadline: float | None) -> bool:
    """Collects output until the process has ended; False when the deadline came first.

    The end of its output is not waited for: a process that it left in the background may hold the pipes for ever.
    """
    assert process.stdout is not None
    assert process.stderr is not None
    streams = {process.stdout.fileno(): out, process.stderr.fileno(): err}
    poll = select.poll()
    for fd in streams:
        os.set_blocking(fd, False)
        poll.register(fd, select.POLLIN)
    look = time.monotonic() + POLL
    while True:
        now = time.monotonic()
        if deadline is not None and now >= deadline:
            return exited(process)
        if not streams:
            return wait_exit(process, 1e9 if deadline is None else deadline - now)
        if now >= look:
            if exited(process):
                break
            look = now + POLL
        wait = look - now if deadline is None else min(look, deadline) - now
        for fd, _ in poll.poll(wait * 1000 + 1):
            if not _read(fd, streams[fd], 1):
                poll.unregister(fd)
                del streams[fd]
    for fd, collected in streams.items():
        _read(fd, collected, 64)
    return True


def _read(fd: int, collected: Tail, times: int) -> bool:
    for _ in range(times):
        try:
            data = os.read(fd, 1 << 16)
        except BlockingIOError:
            return True
        if not data:
            return False
        collected.add(data)
    return True


def _read_result(out: Tail, result_file: Path | None, stderr: str, seconds: float) -> Outcome:
    if result_file is not None:
        try:
            written = result_file.read_bytes().decode("utf-8", "replace").strip()
        except OSError as error:
            return Outcome.failed(f"the command did not write its result file ({describe(error)})", stderr, seconds)
        try:
            try:
                value = parse_text(written)
            except NotAResult:
                value = parse_text(_last_line(written))
        except NotAResult as error:
            return Outcome.failed(f"the result file holds no number and no JSON object, but {error}", stderr, seconds)
        return _outcome(value, stderr, seconds)
    line = _last_line(out.get().decode("utf-8", "replace"))
    if not line:
        return Outcome.failed("the command wrote no result: the last line of its standard output is to be the value", stderr, seconds)
    try:
        value = parse_text(line)
    except NotAResult as error:
        reason = f"the last line of the command's standard output is no number and no JSON object, but {error}"
        return Outcome.failed(reason, stderr, seconds)
    return _outcome(value, stderr, seconds)


def _outcome(value: Any, stderr: str, seconds: float) -> Outcome:
    outcome = Outcome.of(value, stderr, seconds)
    if outcome.error is not None:
        return replace(outcome, error=outcome.error.replace("the objective", "the command", 1))
    return outcome


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def _split(command: str | list[str], shell: bool) -> list[str]:
    if shell:
        if not isinstance(command, str):
            raise ConfigError("shell = true needs the command as one string; without a shell a list is right.")
        parts = [command]
    elif isinstance(command, str):
        try:
            parts = shlex.split(command)
        except ValueError as error:
            raise ConfigError(f"the command {command!r} cannot be split into arguments: {error}. Quotes must be closed.") from None
    else:
        parts = command
        wrong = next((part for part in parts if not isinstance(part, str)), None)
        if wrong is not None:
            raise ConfigError(f"the command holds {wrong!r}; every argument is to be a text, so write {str(wrong)!r}.")
    if not parts or not parts[0].strip():
        raise ConfigError("the command is empty; the program and its arguments were expected, such as 'python train.py --lr {lr}'.")
    return parts


def _parse(text: str) -> _Template:
    parts: list[str | _Placeholder] = []
    end = 0
    for match in _BRACES.finditer(text):
        parts.append(text[end : match.start()])
        end = match.end()
        if match["name"] is not None:
            parts.append(_Placeholder(match["name"].strip(), match["format"] or ""))
        elif len(match[0]) == 2:
            parts.append(match[0][0])
        else:
            raise ConfigError(
                f"{text!r} in the command has a single {match[0]!r}; a placeholder is {{name}}, and a brace itself is written twice."
            )
    parts.append(text[end:])
    return tuple(part for part in parts if part != "") or ("",)


def _plain_text(value: Any) -> str:
    value = _jsonable(value) if hasattr(value, "tolist") else value
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return repr(float(value))
    if value is None or isinstance(value, bool | list | tuple | dict):
        return json.dumps(value, default=_jsonable, separators=(",", ":"))
    return str(value)


def _jsonable(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)
