"""The events of one study: reading them, driving the study, appending."""

from __future__ import annotations

import gc
import json
import logging
import os
import time
import warnings
import weakref
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Self
from zlib import crc32

from sqlalchemy.exc import IntegrityError

from zoopt.errors import ConnectionLost, JournalError, JournalWarning, LeaseLost, StudyLocked
from zoopt.journal.events import Dtype, Events, bound, checksum, damaged, dtype_to_spec, spec_to_dtype, to_json
from zoopt.journal.lease import Heartbeat, Owner, give_up

if TYPE_CHECKING:
    from zoopt.journal import Journal

OPENED = "opened"
"""Kind of the event that a log appends when it takes over the lease of a driver which did not give it back."""

_ALL = 2**62
_PAUSES = (0.1, 0.4, 1.0, 2.0, 4.0)  # seconds between the tries to reach a server that is perhaps starting again
_KEPT = 2**23  # bytes of events that are kept for the case that the server loses them
logger = logging.getLogger("zoopt.journal")


class _Write(NamedTuple):
    """Events that are recorded together or not at all, and what goes with them."""

    rows: list[tuple[Any, ...]]
    layouts: Mapping[Dtype, int]
    snapshots: list[tuple[int, bytes]]

    @property
    def first(self) -> int:
        """Number of the first event."""
        return int(self.rows[0][1])

    @property
    def last(self) -> int:
        """Number of the last event."""
        return int(self.rows[-1][1])

    @property
    def size(self) -> int:
        """About how many bytes it takes."""
        return sum(500 + len(row[8] or b"") + len(row[9] or "") for row in self.rows) + sum(len(body) for _, body in self.snapshots)


class StudyLog:
    """The events of one study. Made by ``Journal.study``.

    Attributes:
        journal: The journal that holds it.
        name: Name of the study.
        created: Whether this object made the study.
    """

    def __init__(self, journal: Journal, study: int, name: str, *, created: bool, lease: float) -> None:
        self.name = name
        self.created = created
        self.journal = journal
        self._database = journal._database
        self._study = study
        self._seconds = lease
        self._layouts: dict[int, Dtype] = {}
        self._event = bound(self._layouts)
        self._numbers: dict[Dtype, int] = {}
        self._recent: tuple[Dtype | None, int | None] = (None, None)  # the dtype of the last event, found without hashing it
        self._next = 0  # sequence number of the next event, while driving
        self._owner: str | None = None  # the lease as recorded, while driving
        self._taken: str | None = None  # the same until it is given back, which may be later
        self._heartbeat: Heartbeat | None = None
        self._abandoned: weakref.finalize[Any, Any] | None = None
        self._ended = "open the study again and acquire() it"  # why nothing can be appended while not driving
        self._lost = False
        self._epoch = 0  # of the database's connection at the last event
        self._batch = False  # within transaction()
        self._doubt: tuple[_Write, bool] | None = None  # a write of which is not known whether it was recorded, and whether synced
        self._unsynced: deque[_Write] = deque()  # recorded, and lost should the server crash now
        self._unsynced_size = 0

    # Reading

    @property
    def config(self) -> dict[str, Any]:
        """The study's configuration, as recorded now."""
        rows = self._database.fetch("study", name=self.name)
        return self.journal._parse(rows[0][1])

    @property
    def last(self) -> int:
        """Sequence number of the last event, -1 when there is none. After an interrupted write it tells whether that was recorded."""
        with self._database.lock:
            self._settle()
            return self._last() if self._owner is None else self._next - 1

    @property
    def driver(self) -> Owner | None:
        """The process that drives the study now, or None."""
        _, until, now, holder = self._lease()
        return None if holder is None or until <= now or holder.dead else holder

    def events(self, after: int = -1, until: int = _ALL) -> Events:
        """Recorded events in order, fetched at once.

        Args:
            after: Sequence number after which they begin.
            until: Sequence number of the last one wanted; a long log can be read in pieces of so many.

        Raises:
            JournalError: The journal is damaged.
        """
        collecting = gc.isenabled()
        gc.disable()  # a hundred thousand tuples would be walked again and again, and cannot form a cycle
        try:
            rows = self._fetch("events", study=self._study, after=after, until=until)
            try:
                bad = damaged(rows)
            except (AttributeError, TypeError):  # a column of another type
                bad = [after + 1]
            if rows and not bad and (rows[0][0] != after + 1 or rows[-1][0] - after != len(rows)):
                bad = [after + 1]
            found = Events(self._event, rows)
            if not bad:
                self._load_layouts()  # after the events: what they use is there by now
                bad = found.unreadable()
            if bad:
                where = f"near event {bad[0]} of study {self.name!r}"
                raise JournalError(f"the journal {self._database.label} is damaged {where}. {self._database.rescue}")
            return found
        finally:
            if collecting:
                gc.enable()

    def snapshot(self, before: int = _ALL) -> tuple[int, bytes] | None:
        """The newest snapshot and the sequence number of the last event it includes, or None.

        Args:
            before: Only snapshots that include less than this event; the newest two are kept.
        """
        for seq, body, check in self._fetch("snapshots", study=self._study, before=before):
            if isinstance(body, bytes) and crc32(body) == check:
                return seq, body
            logger.warning("a snapshot of study %r in %s is damaged and not used; its events replace it", self.name, self._database.label)
        return None

    def _fetch(self, statement: str, **values: Any) -> list[Any]:
        """Rows as recorded; while driving, only once the server has everything that this log has recorded."""
        with self._database.lock:
            self._settle()
            rows = self._database.fetch(statement, **values)
            if self._settle():  # the connection was made again just now
                rows = self._database.fetch(statement, **values)
            return rows

    # The lease

    def acquire(self, wait: float = 0.0) -> None:
        """Become the driver: the only process that may append.

        The lease of a process that has died on this machine, or was not heard of for its whole duration, is taken over; an event
        ``opened`` is then appended at once, so that nothing that the former driver may still send can be recorded.

        Args:
            wait: Seconds to wait for another driver to end.

        Raises:
            StudyLocked: Another driver is alive.
            JournalError: The journal cannot be written.
        """
        self.journal._refuse_read_only()
        end = time.monotonic() + wait
        while self._owner is None:
            with self._database.lock:
                held, until, now, holder = self._lease()
                if holder is None or until <= now or holder.dead:
                    if self._take(held, until, holder):
                        return
                    continue  # another process was quicker; look who it is
            if time.monotonic() >= end:
                raise StudyLocked(self._locked(holder, until - now))
            time.sleep(0.05)

    def release(self) -> None:
        """Give the lease back; events cannot be appended until it is acquired again."""
        if os.getpid() != self._database.pid:
            return
        with self._database.lock:
            if self._owner is not None:
                self._end("this log has been closed or its lease released; acquire() it first")
            if self._taken is not None and self._heartbeat is not None:
                self._database.synchronous(False)
                self._database.execute("release", study=self._study, owner=self._taken)
                self._taken = None
                self._heartbeat.given_back()

    def close(self) -> None:
        """Give the lease back, if the database can be reached. The journal stays open."""
        try:
            self.release()
        except JournalError as error:
            self._taken = None  # once is enough: it runs out by itself
            logger.warning("the lease of study %r could not be given back: %s", self.name, error)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def set_config(self, config: Mapping[str, Any]) -> None:
        """Replace the configuration.

        Raises:
            LeaseLost: Another process has taken over.
            JournalError: It is not JSON, or the journal cannot be written.
        """
        text = to_json(config, "the configuration of a study")
        with self._database.lock:
            self._check()
            self._database.synchronous(True)
            if self._database.execute("configure", study=self._study, owner=self._owner, new=text) != 1:
                raise self._lose()

    # Writing

    def append(
        self,
        kind: str,
        body: bytes | None = None,
        *,
        dtype: Dtype | None = None,
        rows: int = 1,
        asked: int | None = None,
        remaining: int | None = None,
        note: Mapping[str, Any] | None = None,
        sync: bool = True,
        snapshot: bytes | None = None,
    ) -> int:
        """Record one event, in a transaction of its own.

        Args:
            kind: What happened.
            body: ``rows`` packed records of ``dtype``.
            dtype: Dtype of one record, a numpy structured dtype; needed with a body.
            rows: How many records, or how many trials an event without a body is about.
            asked: For an ask, how many points were wanted.
            remaining: For an ask, the budget left.
            note: Anything else, as JSON.
            sync: At durability "full", whether the event is on the disk when this returns. If not, the next synced one takes it along.
            snapshot: State after this event, stored in the same transaction.

        Returns:
            Its sequence number.

        Raises:
            LeaseLost: Another process drives the study now; nothing was written.
            ConnectionLost: The server cannot be reached. It is not known whether the event was recorded: ``last`` tells, once it can.
            JournalError: It cannot be recorded (full disk, ...); nothing was written, and the log can be used again once there is room.
        """
        database = self._database
        with database.lock:
            self._check()
            layout = self._layout(body, dtype, rows)
            seq = self._next
            row = self._row(seq, kind, body, layout, rows, asked, remaining, note)
            new = {dtype: layout} if dtype is not None and layout is not None and layout not in self._layouts else {}
            self._commit(_Write([row], new, [] if snapshot is None else [(seq, snapshot)]), sync)
            return seq

    @contextmanager
    def transaction(self, *, sync: bool = True) -> Iterator[Transaction]:
        """Several events recorded together, or none of them: nothing is written when an exception leaves the block.

        Args:
            sync: As for ``append``.
        """
        with self._database.lock:
            self._check()
            transaction = Transaction(self)
            try:
                try:
                    self._batch = True
                    yield transaction
                finally:
                    self._batch = False
            finally:  # once more, since an interrupt may have come just before
                self._batch = False
            if transaction._rows:
                self._commit(_Write(transaction._rows, transaction._new, transaction._snapshots), sync)

    def save(self, snapshot: bytes) -> None:
        """Store the state after the last event, where it could not go along with that. Not synced: it can be had again.

        Raises:
            LeaseLost: Another process drives the study now; nothing was written.
            JournalError: It cannot be written; the log can be used as before.
        """
        database = self._database
        with database.lock:
            self._check()
            try:
                with database.transaction(sync=False):
                    if database.execute("renew", study=self._study, owner=self._owner, seconds=self._seconds) != 1:
                        raise self._lose()
                    self._add_snapshot(self._next - 1, snapshot)
            except IntegrityError as error:
                raise database.error(error.orig or error) from error

    def _add_snapshot(self, seq: int, body: bytes) -> None:
        self._database.execute("add snapshot", study=self._study, seq=seq, body=body, checksum=crc32(body))
        self._database.execute("prune snapshots", study=self._study, newest=seq)

    def _row(self, seq: int, kind: str, body: Any, layout: Any, rows: int, asked: Any, remaining: Any, note: Any) -> tuple[Any, ...]:
        text = None if note is None else to_json(note, f"the note of an event {kind!r}")
        return (self._study, seq, time.time(), kind, layout, rows, asked, remaining, body, text, checksum(body, text))

    def _layout(self, body: bytes | None, dtype: Dtype | None, rows: int, new: Mapping[Dtype, int] | None = None) -> int | None:
        """Number of a record dtype; the next free one for a new dtype."""
        if body is None:
            return None
        if dtype is None or len(body) != rows * dtype.itemsize:
            expected = "a dtype is needed with a body" if dtype is None else f"{rows} records of {dtype.itemsize} bytes were expected"
            raise JournalError(f"{expected}, {len(body)} bytes arrived; a body is the packed records, one after the other.")
        known, number = self._recent
        if dtype is known:
            return number
        number = self._numbers.get(dtype)
        if number is None:
            number = (new or {}).get(dtype)
            return len(self._layouts) + len(new or ()) if number is None else number
        self._recent = (dtype, number)
        return number

    def _write(self, write: _Write, sync: bool) -> None:
        database = self._database
        rows, layouts, snapshots = write
        if len(rows) == 1 and not layouts and not snapshots:
            database.synchronous(sync)
            database.run(database.append, rows[0])  # one statement: a transaction by itself
            return
        specs = {number: dtype_to_spec(dtype) for dtype, number in layouts.items()}
        with database.transaction(sync=sync):
            for number, spec in specs.items():
                database.execute("add layout", study=self._study, id=number, spec=spec)
            database.run(database.append, rows)
            for seq, body in snapshots:
                self._add_snapshot(seq, body)

    def _learn(self, new: Mapping[Dtype, int]) -> None:
        for dtype, number in new.items():
            self._layouts[number] = dtype
            self._numbers[dtype] = number

    def _commit(self, write: _Write, sync: bool) -> None:
        """Write events exactly once, also when the connection is lost or an interrupt comes meanwhile."""
        if sync:
            self._database.check_file()
        for attempt in range(3):
            self._doubt = write, sync
            try:
                self._write(write, sync)
                break
            except BaseException as error:
                if self._recorded(error, write.last):
                    return
                if attempt == 2:
                    if isinstance(error, IntegrityError):
                        raise self._database.error(error.orig or error) from error
                    raise
        self._accept(write, sync)

    def _accept(self, write: _Write, sync: bool) -> None:
        """A write is recorded."""
        self._learn(write.layouts)
        if self._database.outlived:
            if sync and self._database.full:  # it took all before it along
                self._unsynced.clear()
                self._unsynced_size = 0
            else:
                self._unsynced.append(write)
                self._unsynced_size += write.size
                while self._unsynced_size > _KEPT:
                    self._unsynced_size -= self._unsynced.popleft().size
        self._next = write.last + 1
        self._doubt = None

    def _recorded(self, error: BaseException, last: int) -> bool:
        """Whether a write that failed was recorded after all; if not, it can be tried again. Raises when neither is so."""
        if isinstance(error, JournalError) and not isinstance(error, ConnectionLost):
            self._doubt = None  # refused as a whole
            raise error
        for pause in (*_PAUSES, None):
            try:
                self._settle()
                break
            except JournalError as again:
                if pause is None:
                    if not isinstance(error, ConnectionLost):
                        raise error from None
                    raise ConnectionLost(
                        f"the connection to {self._database.label} was lost in the midst of a write, and it is not known whether that was "
                        "recorded. The next call connects again: telling a trial again is safe; after any other call look first at what "
                        "the study has."
                    ) from error
                logger.warning("%s Trying again in %g s.", str(again), pause)
                time.sleep(pause)
        if self._owner is None:
            raise self._refusal() from error
        if not isinstance(error, ConnectionLost | IntegrityError):  # an interrupt goes on its way; `last` tells what was recorded
            raise error
        return self._next > last

    def _settle(self) -> bool:
        """Bring this log and the database in line, where another connection or an interrupted write leaves it open what is recorded.

        Returns:
            Whether that was open.

        Raises:
            JournalError: The database cannot be reached.
        """
        database = self._database
        if self._owner is None or (self._doubt is None and self._epoch == database.epoch):
            return False
        epoch = database.epoch
        if database.execute("renew", study=self._study, owner=self._owner, seconds=self._seconds) != 1:
            self._lose()
            return True
        recorded = self._last()
        if self._doubt is not None and recorded == self._doubt[0].last:
            self._accept(*self._doubt)
        lost = [write for write in self._unsynced if write.first > recorded]
        if lost and lost[0].first == recorded + 1:
            logger.warning("the server of %s has lost %d events and gets them again", database.label, self._next - 1 - recorded)
            layouts = {dtype: number for write in lost for dtype, number in write.layouts.items()}
            again = _Write([row for write in lost for row in write.rows], layouts, [each for write in lost for each in write.snapshots])
            self._write(again, True)
            recorded = again.last
        if recorded != self._next - 1:
            self._end("the events in the database are not those that this log left there (was it restored?); open the study again")
        self._doubt = None
        self._epoch = epoch
        return True

    # The lease, inside

    def _lease(self) -> tuple[str, float, float, Owner | None]:
        """The lease as recorded: its text, its end, the time now, and who holds it."""
        held, until, now = self._database.fetch("lease", study=self._study)[0]
        try:
            return held, until, now, Owner.parse(held) if held else None
        except (TypeError, ValueError) as error:
            raise JournalError(f"the journal {self._database.label} is damaged (a lease). {self._database.rescue}") from error

    def _take(self, held: str, until: float, former: Owner | None) -> bool:
        """Take the lease if it still is as it was seen, and read where the log ends."""
        database, here = self._database, Owner.here(self._database.inode)
        owner = here.to_json()
        heartbeat = Heartbeat(
            here.token,
            partial(database.detached, "renew", study=self._study, owner=owner, seconds=self._seconds),
            partial(database.detached, "release", study=self._study, owner=owner),
            self._seconds / 4,
        )
        try:
            with database.transaction(sync=True):  # a server that crashes must not forget who drives
                if database.execute("take", study=self._study, held=held, until=until, owner=owner, seconds=self._seconds) != 1:
                    return False
                following = self._last() + 1
                self._load_layouts()
                if former is not None:
                    note = {"by": json.loads(owner), "from": json.loads(held)}
                    database.run(database.append, self._row(following, OPENED, None, None, 0, None, None, note))
                    following += 1
            self._next, self._lost, self._epoch, self._doubt = following, False, database.epoch, None
            self._unsynced.clear()
            self._unsynced_size = 0
            self._heartbeat, self._taken, self._owner = heartbeat, owner, owner
            heartbeat.start()
            self._abandoned = weakref.finalize(self, heartbeat.stop, release=True, wait=1.0)
        except IntegrityError:  # the former driver recorded its last event at this very moment
            return False
        except BaseException:  # it may be recorded as taken all the same
            give_up(here.token)
            raise
        if former is not None:
            logger.info("took over study %r from process %d on %s", self.name, former.pid, former.host)
            if self._copied(former):
                warnings.warn(
                    f"the journal {database.label} was copied while it was in use by process {former.pid} on {former.host}; unless the "
                    f"-wal file beside it was copied too, what was recorded last in study {self.name!r} is missing.",
                    JournalWarning,
                    stacklevel=3,
                )
        database.write_back()  # so that a copy of the file alone shows that it was in use
        return True

    def _copied(self, holder: Owner) -> bool:
        """Whether the file is not the one that a driver drove."""
        return bool(holder.inode) and holder.inode != self._database.inode

    def _end(self, why: str) -> None:
        """Drive no longer."""
        self._owner, self._ended, self._doubt = None, why, None
        if self._abandoned is not None:
            self._abandoned.detach()
        if self._heartbeat is not None:
            self._heartbeat.stop(release=False, wait=0.0)

    def _refusal(self) -> JournalError:
        return (LeaseLost if self._lost else JournalError)(f"nothing can be recorded: {self._ended}.")

    def _lose(self) -> LeaseLost:
        driver = self.driver
        who = f"process {driver.pid} on {driver.host}" if driver is not None else "another process"
        where = f"study {self.name!r} in {self._database.label}"
        self._end(f"{who} has taken over {where}; nothing of this one was written after that. Open the study again")
        self._lost, self._taken = True, None
        return LeaseLost(f"{self._ended}.")

    def _check(self) -> None:
        if self._batch:
            raise JournalError("a transaction is open on this log; append to what `with log.transaction() as t` gave.")
        if self._doubt is not None or self._epoch != self._database.epoch:
            self._settle()
        if self._owner is None:
            self.journal._refuse_read_only()
            raise self._refusal()
        if self._heartbeat is not None and self._heartbeat.lost:
            raise self._lose()

    def _locked(self, holder: Owner, left: float) -> str:
        where = f"study {self.name!r} in {self._database.label}"
        if self._copied(holder):
            return (
                f"{where} is recorded as driven by process {holder.pid} on {holder.host}, but the file looks like a copy of the one which "
                f"that drives. If it is one, nobody drives it here, and it can be opened in {max(left, 0):.0f} s, when its lease runs out. "
                f"{self._database.look(self.name)}"
            )
        if holder.here_too and holder.pid == os.getpid():
            return f"this process already drives {where}, through another object: close that one first (study.close())."
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder.since))
        remedy = (
            f"if it hangs, end it (kill {holder.pid}) and try again at once"
            if holder.here_too
            else f"if that machine is gone, its lease runs out in {max(left, 0):.0f} s"
        )
        return (
            f"{where} is driven by process {holder.pid} on {holder.host} since {since}, and a study has one "
            f"driver at a time. Wait for it or close it there; {remedy}. {self._database.look(self.name)}"
        )

    def _last(self) -> int:
        last: int | None = self._database.fetch("last", study=self._study)[0][0]
        return -1 if last is None else last

    def _load_layouts(self) -> None:
        for number, spec in self._database.fetch("layouts", study=self._study, known=len(self._layouts)):
            self._learn({spec_to_dtype(spec): number})


class Transaction:
    """Events that are recorded together; see ``StudyLog.transaction``."""

    def __init__(self, log: StudyLog) -> None:
        self._log = log
        self._first = log._next
        self._rows: list[tuple[Any, ...]] = []
        self._new: dict[Dtype, int] = {}
        self._snapshots: list[tuple[int, bytes]] = []

    def append(
        self,
        kind: str,
        body: bytes | None = None,
        *,
        dtype: Dtype | None = None,
        rows: int = 1,
        asked: int | None = None,
        remaining: int | None = None,
        note: Mapping[str, Any] | None = None,
        snapshot: bytes | None = None,
    ) -> int:
        """As ``StudyLog.append``; written when the block ends.

        Returns:
            The sequence number it will have.
        """
        log = self._log
        if not log._batch:
            raise JournalError("this transaction is over; append to the log, or begin another one.")
        layout = log._layout(body, dtype, rows, self._new)
        if dtype is not None and layout is not None and layout not in log._layouts:
            self._new[dtype] = layout
        seq = self._first + len(self._rows)
        self._rows.append(log._row(seq, kind, body, layout, rows, asked, remaining, note))
        if snapshot is not None:
            self._snapshots.append((seq, snapshot))
        return seq
