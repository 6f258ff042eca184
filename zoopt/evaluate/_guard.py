"""Lets no process outlive this one, however it ends.

Evaluations run in sessions of their own, so that a timeout can kill all of one and Ctrl-C reaches none; the price is that
they would also live on when this process is killed. A small helper process holds the other end of a pipe: when the pipe
closes, because this process closed it or because it is no more, the helper kills the process groups that are still on its
list. That works whatever the evaluation is doing then, which a thread inside it could not promise.

A process that was started a moment before our death is not on the list yet, and one that an evaluation put into a session of
its own never will be. They carry a mark in their environment, by which the helper finds them where there is a ``/proc``.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import uuid

_VARIABLE = "ZOOPT_GUARD"

# select with a timeout and not a plain read: a process forked from ours may hold the pipe open after our death.
_SCRIPT = """
import os, select, signal, sys, time
parent, mark = int(sys.argv[1]), sys.argv[2].encode()
groups, rest, closed = set(), b"", False
while True:
    if not select.select([0], [], [], 1.0)[0]:
        if os.getppid() != parent:
            break
        continue
    data = os.read(0, 65536)
    if not data:
        break
    *lines, rest = (rest + data).split(b"\\n")
    for line in lines:
        if line == b".":
            closed = True
        else:
            (groups.add if line[:1] == b"+" else groups.discard)(int(line[1:]))

def marked():
    found = set()
    for pid in filter(str.isdigit, os.listdir("/proc") if os.path.isdir("/proc") else ()):
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                if mark in file.read():
                    found.add(os.getpgid(int(pid)))
        except OSError:
            pass
    return found

looks = 1 if closed else 3  # a process that was being started may need a moment until its environment can be read
while looks:
    for group in groups:
        try:
            os.killpg(group, signal.SIGKILL)
        except OSError:
            pass
    groups = marked()
    if not groups:
        looks -= 1
    if looks:
        time.sleep(0.1)
"""


class Guard:
    """A helper process that kills listed process groups when this process ends.

    Attributes:
        mark: A variable for the environment of guarded processes, by which they are found where they are not on the list. It holds
            the marks of the guards above too: what an evaluation inside an evaluation starts is theirs as well.
    """

    def __init__(self) -> None:
        mark = uuid.uuid4().hex
        self.mark = {_VARIABLE: f"{os.environ.get(_VARIABLE, '')} {mark}".strip()}
        self._lock = threading.RLock()  # re-entrant: a pool may be collected as garbage at any moment
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _SCRIPT, str(os.getpid()), mark],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
            bufsize=0,
        )

    def add(self, group: int) -> None:
        """Put a process group on the list."""
        self._write(b"+%d\n" % group)

    def remove(self, group: int) -> None:
        """Take a process group off the list; to be done before its number can be given to another."""
        self._write(b"-%d\n" % group)

    def _write(self, line: bytes) -> None:
        with self._lock, contextlib.suppress(OSError, ValueError):  # the helper itself was killed: go on without it
            if self._process.stdin is not None:
                self._process.stdin.write(line)

    def close(self) -> None:
        """Kill what is still listed and end the helper."""
        self._write(b".\n")
        with self._lock:
            if self._process.stdin is not None:
                self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)
