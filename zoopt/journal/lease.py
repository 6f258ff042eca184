"""Who drives a study: one process at a time, known by a lease in the database that a thread keeps renewing."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

logger = logging.getLogger("zoopt.journal")

_ended: set[str] = set()  # tokens of leases that this process no longer drives under and may not have been able to give back


@dataclass(frozen=True, slots=True)
class Owner:
    """The process that drives a study.

    Attributes:
        host: Name of its machine.
        pid: Its process id there.
        since: When it began to drive, seconds since 1970.
        start: When the process started, in the kernel's ticks: tells it from a later one with the same id.
        boot: This run of the machine's kernel.
        namespace: In which process ids are counted; differs between containers of one machine.
        token: Unique to this lease.
        inode: Of the journal's file on its machine, which tells it from a copy; empty where there is no file.
    """

    host: str
    pid: int
    since: float
    start: str
    boot: str
    namespace: str
    token: str
    inode: str = ""

    @staticmethod
    def here(inode: str = "") -> Owner:
        """A new lease of the present process."""
        _, start = _process(os.getpid())
        return Owner(socket.gethostname(), os.getpid(), time.time(), start, *_machine(), uuid.uuid4().hex, inode)

    @staticmethod
    def parse(data: str) -> Owner:
        """The owner written by ``to_json``."""
        return Owner(**json.loads(data))

    def to_json(self) -> str:
        """As the database keeps it."""
        return json.dumps(asdict(self))

    @property
    def here_too(self) -> bool:
        """Whether its process id means something to this process."""
        return self.host == socket.gethostname() and (self.boot, self.namespace) == _machine()

    @property
    def dead(self) -> bool:
        """Whether it is known to drive no longer, as when its process is gone; False when that cannot be known from here."""
        if self.token in _ended:
            return True
        if not self.here_too or os.name == "nt":  # on Windows os.kill(pid, 0) would not ask but act
            return False
        if self.start:
            return _process(self.pid) != (True, self.start)
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return False


def _machine() -> tuple[str, str]:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")
    except OSError:
        return "", ""


def _process(pid: int) -> tuple[bool, str]:
    """Whether a process runs (a zombie does not), and when it started; an empty start where the system does not say."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False, ""
    return fields[0] not in "ZXx", fields[19]


def give_up(token: str) -> None:
    """Nobody drives under a lease any more, whether it can be given back or not."""
    _ended.add(token)


class Heartbeat(threading.Thread):
    """Renews a lease until it is stopped or finds it gone.

    It holds no reference to the study's log, so that a log nobody uses any more can be collected and its lease given back.

    Args:
        token: Of the lease.
        renew: Renews the lease on a connection of its own; 0 when it is no longer ours.
        release: Gives the lease back on a connection of its own.
        interval: Seconds between two renewals.
    """

    def __init__(self, token: str, renew: Callable[[], int], release: Callable[[], int], interval: float) -> None:
        super().__init__(name="zoopt-lease", daemon=True)
        self._token, self._renew, self._release, self._interval = token, renew, release, interval
        self._stopped = threading.Event()
        self._releasing = False
        self.lost = False

    def run(self) -> None:
        """The thread's life."""
        while not self._stopped.wait(self._interval):
            try:
                if not self._renew():
                    self.lost = True
                    return
            except Exception as error:  # the next beat may succeed; the lease outlives several of them
                logger.warning("the lease of a study could not be renewed: %s", error)
        if self._releasing:
            try:
                self._release()
                self.given_back()
            except Exception as error:
                logger.warning("the lease of a study could not be given back: %s", error)

    def given_back(self) -> None:
        """The lease is no longer recorded."""
        _ended.discard(self._token)

    def stop(self, *, release: bool, wait: float) -> None:
        """End the thread; it gives the lease back first if ``release``, for which at most ``wait`` seconds are waited.

        Nobody may drive under the lease from now on.
        """
        give_up(self._token)
        if not self.is_alive():  # as in a forked child, where its lock may be held for ever
            return
        self._releasing = release
        self._stopped.set()
        if threading.current_thread() is not self:
            self.join(wait)
