"""The journal on SQLite and on a real PostgreSQL server: the same tests on both, then what is SQLite's alone."""

from __future__ import annotations

import gc
import json
import os
import random
import re
import resource
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest
from sqlalchemy import create_engine, event
from sqlalchemy.pool import NullPool

import zoopt
from zoopt import Real, Study
from zoopt.errors import ConfigError, ConnectionLost, FeedbackError, JournalError, JournalWarning, LeaseLost, StudyLocked
from zoopt.journal import OPENED, Event, Journal, Owner, StudyLog, decode
from zoopt.journal.lease import _process
from zoopt.journal.schema import SCHEMA

BOX = {"x": Real(0, 1), "y": Real(0, 1)}
TOLD = np.dtype([("id", "<i8"), ("values", "<f8", (2,))])
ASKED = np.dtype([("id", "<i8"), ("x", "<f4", (3,)), ("flag", "?"), ("tag", "S5")])


def told(*ids: int) -> bytes:
    records = np.zeros(len(ids), TOLD)
    records["id"] = ids
    records["values"] = np.random.default_rng(ids[0]).normal(size=(len(ids), 2))
    return records.tobytes()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgres_database"))
    return f"sqlite:///{tmp_path}/study.db"


@pytest.fixture
def journal(address: str) -> Iterator[Journal]:
    with Journal(address, durability="process") as journal:
        yield journal


@pytest.fixture
def log(journal: Journal) -> StudyLog:
    log = journal.study("svm", create={"seed": 3})
    log.acquire()
    return log


def execute(address: str, statement: str, *parameters: Any) -> list[Any]:
    """One statement past the journal."""
    engine = create_engine(address.replace("postgresql:", "postgresql+psycopg:"), poolclass=NullPool, paramstyle="format")
    if engine.dialect.name == "sqlite":
        engine = create_engine(address, poolclass=NullPool)
        statement = statement.replace("%s", "?")
    with engine.begin() as connection:
        result = connection.exec_driver_sql(statement, parameters)
        return [tuple(row) for row in result] if result.returns_rows else []


class Child:
    """A forked process that runs ``action(send)``; what it sends arrives here line by line as JSON."""

    def __init__(self, action: Callable[[Callable[[Any], None]], None]) -> None:
        reading, writing = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # newer Pythons warn about forking beside threads; ours hold nothing that the child needs
            self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                os.close(reading)
                signal.alarm(120)  # never left behind
                action(lambda message: void(os.write(writing, json.dumps(message).encode() + b"\n")))
                code = 0
            except BaseException as error:
                os.write(writing, json.dumps({"error": f"{type(error).__name__}: {error}"}).encode() + b"\n")
            finally:
                os._exit(code)
        os.close(writing)
        self.output = os.fdopen(reading)
        self.reaped = False

    def receive(self) -> Any:
        line = self.output.readline()
        return json.loads(line) if line.endswith("\n") else None

    def all(self) -> list[Any]:
        """Everything it sends until it ends."""
        received = [json.loads(line) for line in self.output if line.endswith("\n")]
        self.wait()
        errors = [message["error"] for message in received if isinstance(message, dict)]
        assert errors == []
        return received

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> int:
        if not self.reaped:
            self.reaped = True
            self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.status


def void(_: Any) -> None:
    return None


@pytest.fixture
def child() -> Iterator[Callable[..., Child]]:
    children: list[Child] = []

    def start(action: Callable[[Callable[[Any], None]], None]) -> Child:
        children.append(Child(action))
        return children[-1]

    yield start
    for each in children:
        if not each.reaped:
            each.kill()
            each.wait()
        each.output.close()


# What is written is what is read


def test_events_come_back_exactly_as_they_were_appended(address: str) -> None:
    records = np.zeros(3, ASKED)
    records["id"] = [0, 1, 2**62]
    records["x"] = [[np.nan, np.inf, -0.0], [1e-45, 1 / 3, -np.inf], [1, 2, 3]]
    records["flag"] = [True, False, True]
    records["tag"] = [b"a\0b", b"", b"\xff\xfe'%s"]
    note = {"reasons": ["it diverged; \u2028 'quoted' \x00 ünïcode \U0001f600"], "nested": {"a": [1, None, 0.1, 1e300]}, "empty": {}}
    before = time.time()
    with Journal(address) as journal:
        log = journal.study("svm", create={"seed": 3})
        log.acquire()
        assert log.append("asked", records.tobytes(), dtype=ASKED, rows=3, asked=5, remaining=2**40) == 0
        assert log.append("failed", note=note, rows=2, sync=False) == 1
        assert log.append("told", told(7), dtype=TOLD, asked=0, remaining=0) == 2
        assert log.append("empty", b"", dtype=TOLD, rows=0) == 3
        assert log.last == 3
    with Journal(address, read_only=True) as journal:
        first, second, third, fourth = journal.study("svm").events()
    assert (first.seq, first.kind, first.rows, first.asked, first.remaining, first.note) == (0, "asked", 3, 5, 2**40, None)
    assert first.body == records.tobytes()
    assert first.dtype == ASKED
    assert (second.seq, second.kind, second.rows, second.asked, second.remaining, second.body) == (1, "failed", 2, None, None, None)
    assert second.note == note
    assert second.dtype is None
    assert (third.seq, third.body, third.dtype, third.asked, third.remaining) == (2, told(7), TOLD, 0, 0)
    assert (fourth.body, fourth.rows) == (b"", 0)
    assert before <= first.time <= second.time <= third.time <= time.time()


def test_the_log_is_read_in_pieces(log: StudyLog) -> None:
    assert log.events() == []
    assert log.last == -1
    for i in range(10):
        log.append("told", told(i), dtype=TOLD)
    assert [e.seq for e in log.events()] == list(range(10))
    assert [e.seq for e in log.events(after=6)] == [7, 8, 9]
    assert [e.seq for e in log.events(after=2, until=5)] == [3, 4, 5]
    assert log.events(after=9) == []


def test_layouts_are_stored_once(address: str) -> None:
    for _ in range(2):
        with Journal(address) as journal:
            log = journal.study("svm", create={})
            log.acquire()
            for i in range(3):
                log.append("told", told(i), dtype=np.dtype(TOLD.descr))  # equal, not the same object
                log.append("asked", bytes(ASKED.itemsize), dtype=ASKED)
            with log.transaction() as t:
                t.append("told", told(i), dtype=TOLD)
                t.append("plain", bytes(8), dtype=np.dtype("<f8"))
                t.append("plain", bytes(8), dtype=np.dtype("<f8"))
    assert execute(address, "SELECT count(*) FROM layouts") == [(3,)]
    with Journal(address, read_only=True) as journal:
        assert [e.dtype for e in journal.study("svm").events(after=8)] == [TOLD, ASKED] * 3 + [TOLD, np.dtype("<f8"), np.dtype("<f8")]


def test_layouts_of_studies_are_their_own(journal: Journal) -> None:
    one, two = journal.study("one", create={}), journal.study("two", create={})
    one.acquire()
    two.acquire()
    one.append("told", told(1), dtype=TOLD)
    two.append("asked", bytes(ASKED.itemsize), dtype=ASKED)
    assert [e.dtype for e in one.events()] == [TOLD]
    assert [e.dtype for e in two.events()] == [ASKED]


PLAIN: list[list[Any]] = [
    [("a", ">f8"), ("b", "<u2", (2, 3))],
    [("t", "<M8[ns]"), ("c", "<c16")],
    [("u", "<U4")],
    [("in", [("x", "<f2")])],
]


def test_any_plain_record_survives(log: StudyLog) -> None:
    for seq, fields in enumerate(PLAIN):
        dtype = np.dtype(fields)
        body = np.random.default_rng(0).bytes(4 * dtype.itemsize)
        log.append("told", body, dtype=dtype, rows=4)
        (event,) = log.journal.study("svm").events(after=seq - 1)
        assert event.dtype == dtype
        assert event.records is not None
        assert event.records.tobytes() == body


def test_records_of_many_events_decode_at_once(log: StudyLog) -> None:
    sizes = [1, 4, 2, 1, 3]
    starts = np.cumsum([0, *sizes])
    for start, size in zip(starts, sizes, strict=False):
        log.append("told", told(*range(start, start + size)), dtype=TOLD, rows=size)
    log.append("asked", bytes(ASKED.itemsize), dtype=ASKED)
    events = log.events()
    records = decode(events[:-1])
    assert records["id"].tolist() == list(range(11))
    assert records.tobytes() == b"".join(e.body or b"" for e in events[:-1])
    records["id"] += 1  # the caller's own
    assert decode(events[:1])["id"].tolist() == [0]
    with pytest.raises(JournalError, match="one layout"):
        decode(events)
    with pytest.raises(JournalError, match="one layout"):
        decode([])
    with pytest.raises(JournalError, match="48 bytes are there"):
        decode([events[0]._replace(rows=3), events[3]])


def test_a_body_that_is_not_its_records_is_refused(log: StudyLog) -> None:
    with pytest.raises(JournalError, match="2 records of 24 bytes were expected, 24 bytes arrived"):
        log.append("told", told(1), dtype=TOLD, rows=2)
    with pytest.raises(JournalError, match="dtype is needed"):
        log.append("told", told(1))
    with pytest.raises(JournalError, match="Python objects"):
        log.append("told", bytes(8), dtype=np.dtype(object))
    with pytest.raises(JournalError, match="note of an event 'told' must be JSON"):
        log.append("told", note={"a": {1, 2}})
    assert log.events() == []
    assert log.append("told", told(1), dtype=TOLD) == 0


def test_studies_by_name(journal: Journal) -> None:
    with pytest.raises(JournalError, match=r"no study 'svm'.*none at all"):
        journal.study("svm")
    config = {"space": {"lr": {"type": "real", "low": 1e-5}}, "name": "ü", "n": None, "big": 0.1 + 0.2}
    log = journal.study("svm", create=config)
    assert log.created
    assert log.config == config
    again = journal.study("svm", create={"other": 1})
    assert not again.created
    assert again.config == config
    journal.study("a'; DROP TABLE studies; --", create={})
    assert journal.names() == ["a'; DROP TABLE studies; --", "svm"]
    assert journal.config("svm") == config
    assert journal.config("missing") is None
    with pytest.raises(JournalError, match=r"no study 'tpyo'.*it holds.*'svm'"):
        journal.study("tpyo")
    with pytest.raises(ConfigError, match="not empty"):
        journal.study("", create={})
    with pytest.raises(JournalError, match="must be JSON"):
        journal.study("new", create={"f": print})
    assert "new" not in journal.names()


def test_the_configuration_can_be_replaced_by_the_driver(log: StudyLog) -> None:
    log.set_config({"strategy": "cma-es"})
    assert log.config == {"strategy": "cma-es"}
    log.release()
    with pytest.raises(JournalError, match="acquire"):
        log.set_config({"strategy": "bo"})
    assert log.config == {"strategy": "cma-es"}


# Transactions and snapshots


def test_a_transaction_is_all_or_nothing(log: StudyLog) -> None:
    log.append("begun")
    with log.transaction() as t:
        assert t.append("told", told(0), dtype=TOLD) == 1
        assert t.append("asked", bytes(ASKED.itemsize), dtype=ASKED, snapshot=b"state") == 2
    with pytest.raises(RuntimeError, match="changed my mind"), log.transaction() as t:  # noqa: PT012
        t.append("told", bytes(8), dtype=np.dtype("<i8"))
        raise RuntimeError("changed my mind")
    with pytest.raises((JournalError, OverflowError)), log.transaction() as t:  # noqa: PT012
        t.append("told", told(1), dtype=TOLD, snapshot=b"never")
        t.append("new layout", bytes(4), dtype=np.dtype("<f4"))
        t.append("too large a number", asked=2**70)
    assert [(e.seq, e.kind) for e in log.events()] == [(0, "begun"), (1, "told"), (2, "asked")]
    assert log.snapshot() == (2, b"state")
    assert log.append("plain", bytes(4), dtype=np.dtype("<f4")) == 3  # its layout is stored now, since it was not then
    assert log.journal.study("svm").events(after=2)[0].dtype == np.dtype("<f4")


def test_an_empty_transaction_writes_nothing(log: StudyLog) -> None:
    with log.transaction():
        pass
    assert log.last == -1


def test_appending_past_an_open_transaction_is_refused(log: StudyLog) -> None:
    with log.transaction() as t:
        t.append("a")
        with pytest.raises(JournalError, match="transaction is open"):
            log.append("b")
    with pytest.raises(JournalError, match="is over"):
        t.append("c")
    assert [e.kind for e in log.events()] == ["a"]


def test_a_reader_never_sees_half_a_transaction(address: str, child: Callable[..., Child]) -> None:
    def write(send: Callable[[Any], None]) -> None:
        with Journal(address, durability="process") as journal:
            log = journal.study("svm", create={})
            log.acquire()
            send("ready")
            for i in range(60):
                with log.transaction() as t:
                    for _ in range(5):
                        t.append("told", told(i), dtype=TOLD)

    writer = child(write)
    assert writer.receive() == "ready"
    seen = set()
    with Journal(address, read_only=True) as journal:
        log = journal.study("svm")
        while (n := len(log.events())) < 300:
            seen.add(n % 5)
    assert seen <= {0}
    assert writer.wait() == 0


def test_the_newest_two_snapshots_are_kept(log: StudyLog, address: str) -> None:
    assert log.snapshot() is None
    for i in range(5):
        log.append("told", told(i), dtype=TOLD, snapshot=b"state %d" % i if i % 2 == 0 else None)
    assert log.snapshot() == (4, b"state 4")
    assert log.snapshot(before=4) == (2, b"state 2")
    assert log.snapshot(before=2) is None
    assert execute(address, "SELECT count(*) FROM snapshots") == [(2,)]
    execute(address, "UPDATE snapshots SET body = %s WHERE seq = 4", b"state 5")
    assert log.snapshot() == (2, b"state 2")  # a damaged one is not used


# One driver


def test_nothing_is_appended_without_the_lease(journal: Journal) -> None:
    log = journal.study("svm", create={})
    with pytest.raises(JournalError, match="acquire"):
        log.append("told", told(1), dtype=TOLD)
    log.acquire()
    log.acquire()  # once is enough
    log.append("told", told(1), dtype=TOLD)
    log.release()
    log.release()
    with pytest.raises(JournalError, match="acquire"):
        log.append("told", told(2), dtype=TOLD)
    with pytest.raises(JournalError, match="acquire"), log.transaction():
        pass
    log.acquire()
    assert log.append("told", told(2), dtype=TOLD) == 1
    assert [e.kind for e in log.events()] == ["told", "told"]  # a lease that was given back leaves no trace


def test_a_driver_that_was_taken_over_writes_nothing_more(address: str) -> None:
    with Journal(address) as first, Journal(address) as second:
        old, new = first.study("svm", create={"v": 1}), second.study("svm")
        old.acquire()
        old.append("told", told(0), dtype=TOLD)
        execute(address, "UPDATE studies SET lease_until = 0")  # as if the process had been asleep for long
        new.acquire()
        for _ in range(2):
            with pytest.raises(LeaseLost, match=f"process {os.getpid()} on .* has taken over study 'svm'"):
                old.append("told", told(1), dtype=TOLD)
        new.append("told", told(2), dtype=TOLD)
        with pytest.raises(LeaseLost), old.transaction() as t:
            t.append("new layout", bytes(8), dtype=np.dtype("<f8"), snapshot=b"mine")
        with pytest.raises(LeaseLost):
            old.set_config({"v": 2})
        old.close()
        new.append("told", told(3), dtype=TOLD)
        assert [(e.seq, e.kind) for e in new.events()] == [(0, "told"), (1, OPENED), (2, "told"), (3, "told")]
        assert (new.config, new.snapshot()) == ({"v": 1}, None)
        assert new.driver is not None


def test_the_fence_holds_for_the_first_write_of_every_kind(address: str) -> None:
    writes: list[Callable[[StudyLog], Any]] = [
        lambda log: log.append("told", bytes(8), dtype=np.dtype("<f8")),
        lambda log: log.append("told", snapshot=b"mine"),
        lambda log: log.set_config({"v": 2}),
    ]
    with Journal(address) as first, Journal(address) as second:
        for i, write in enumerate(writes):
            old, new = first.study(f"s{i}", create={"v": 1}), second.study(f"s{i}", create={"v": 1})
            old.acquire()
            execute(address, "UPDATE studies SET lease_until = 0 WHERE name = %s", f"s{i}")
            new.acquire()
            with pytest.raises(LeaseLost):
                write(old)
            assert ([e.kind for e in new.events()], new.snapshot(), new.config) == ([OPENED], None, {"v": 1})
            assert new.append("told", bytes(8), dtype=np.dtype("<f8")) == 1


def test_a_second_driver_is_told_who_drives(address: str, child: Callable[..., Child]) -> None:
    def drive(send: Callable[[Any], None]) -> None:
        log = Journal(address).study("svm", create={})
        log.acquire()
        send(log.append("told", told(0), dtype=TOLD))
        time.sleep(100)

    driver = child(drive)
    assert driver.receive() == 0
    with Journal(address) as journal:
        log = journal.study("svm")
        with pytest.raises(StudyLocked) as refused:
            log.acquire(wait=0.2)
        who = "'svm'", f"process {driver.pid}", socket.gethostname(), f"kill {driver.pid}"
        for part in (*who, "read_only=True", "To look at it: zoopt show ", "or in Python zoopt.read("):
            assert part in str(refused.value)
        assert len(log.events()) == 1
        driver.kill()  # and not waited for: a zombie does not drive
        while _process(driver.pid)[0]:
            time.sleep(0.001)
        log.acquire()
        assert log.append("told", told(1), dtype=TOLD) == 2
        opened = log.events()[1]
        assert opened.kind == OPENED
        assert opened.note is not None
        assert opened.note["from"]["pid"] == driver.pid
        assert opened.note["by"]["pid"] == os.getpid()


def test_waiting_for_a_driver_to_end(address: str, child: Callable[..., Child]) -> None:
    def drive(send: Callable[[Any], None]) -> None:
        with Journal(address, durability="process") as journal:
            log = journal.study("svm", create={})
            for _ in range(5):
                log.acquire(wait=60)
                send([log.append("told", told(0), dtype=TOLD), log.append("told", told(1), dtype=TOLD)])
                log.release()

    drivers = [child(drive) for _ in range(4)]
    acknowledged = [seq for driver in drivers for pair in driver.all() for seq in pair]
    assert sorted(acknowledged) == list(range(40))
    with Journal(address, read_only=True) as journal:
        assert [e.kind for e in journal.study("svm").events()] == ["told"] * 40


def test_this_process_cannot_drive_twice(log: StudyLog, address: str) -> None:
    with Journal(address) as other, pytest.raises(StudyLocked, match=r"this process already drives.*close that one first"):
        other.study("svm").acquire()


def test_a_log_nobody_uses_any_more_gives_its_lease_back(address: str) -> None:
    with Journal(address) as other:
        log = Journal(address).study("svm", create={})
        log.acquire()
        log.append("told", told(0), dtype=TOLD)
        del log
        gc.collect()
        second = other.study("svm")
        second.acquire(wait=10)
        assert second.append("told", told(1), dtype=TOLD) == 1  # nothing was taken over


def test_a_lease_is_renewed_while_its_driver_lives(address: str) -> None:
    with Journal(address, lease=0.4) as first, Journal(address) as second:
        log = first.study("svm", create={})
        log.acquire()
        ((start,),) = execute(address, "SELECT lease_until FROM studies")
        while execute(address, "SELECT lease_until FROM studies")[0][0] < start + 0.5:
            time.sleep(0.02)
        with pytest.raises(StudyLocked):
            second.study("svm").acquire()
        log.append("told", told(0), dtype=TOLD)
        execute(address, "UPDATE studies SET lease_owner = ''")
        end = time.monotonic() + 30
        with pytest.raises(LeaseLost):  # noticed by the heartbeat, before any other driver has written  # noqa: PT012
            while time.monotonic() < end:
                log.append("told", told(1), dtype=TOLD)
                time.sleep(0.02)


def test_whose_lease_is_stale(journal: Journal, address: str) -> None:
    log = journal.study("svm", create={})
    here = Owner.here()
    far = time.time() + 3600

    def held(owner: Owner, until: float = far) -> None:
        log.release()
        execute(address, "UPDATE studies SET lease_owner = %s, lease_until = %s", owner.to_json(), until)

    held(replace(here, start="1"))  # the id has been given to another process since
    log.acquire()
    held(replace(here, pid=2**22 + 1))  # no such process
    assert log.driver is None
    log.acquire()
    for elsewhere in (replace(here, host="other"), replace(here, host="other", pid=2**22 + 1), replace(here, namespace="pid:[1]")):
        held(elsewhere)
        assert log.driver == elsewhere
        with pytest.raises(StudyLocked, match=r"its lease runs out in 3[56]..? s"):
            log.acquire()
        held(elsewhere, time.time() - 1)
        log.acquire()
    assert [e.kind for e in log.events()] == [OPENED] * 5


def test_readers_beside_a_writer(log: StudyLog, address: str, child: Callable[..., Child]) -> None:
    log.append("told", told(0), dtype=TOLD)
    with Journal(address, read_only=True) as journal:
        reader = journal.study("svm")
        for i in range(1, 4):
            log.append("told", told(i), dtype=TOLD)
            log.append("asked", bytes(ASKED.itemsize), dtype=ASKED, snapshot=b"s%d" % i)
            assert reader.last == log.last == 2 * i
            assert reader.events(after=2 * i - 1)[0].dtype == ASKED
            assert reader.snapshot() == (2 * i, b"s%d" % i)
        for write in (reader.acquire, lambda: reader.append("x"), lambda: reader.set_config({}), lambda: journal.study("new", create={})):
            with pytest.raises(JournalError, match="read_only=True"):
                write()
        assert reader.driver is not None
        assert reader.driver.pid == os.getpid()

    def read(send: Callable[[Any], None]) -> None:
        with Journal(address, read_only=True) as journal:
            send(
                [journal.names(), [e.seq for e in journal.study("svm").events()], decode(journal.study("svm").events()[:2])["id"].tolist()]
            )

    assert child(read).all() == [[["svm"], list(range(7)), [0, 1]]]
    assert log.append("told", told(9), dtype=TOLD) == 7


def test_a_study_can_be_looked_at_by_its_address_while_it_is_driven(address: str) -> None:
    with Study(BOX, "random", journal=address, seed=0) as s, Study(BOX, "random", "maximize", journal=address, seed=0, name="other") as t:
        for study in (s, t):
            for value in (3.0, 1.0, 2.0):
                study.tell(study.ask(), value)
        s.ask()
        with Journal(address, read_only=True) as journal:
            sources = [address, journal] + [Path(address.removeprefix("sqlite:///"))] * address.startswith("sqlite")
            for source in sources:
                seen = zoopt.read(source)
                assert seen.status == s.status
                assert seen.history()["x"].tolist() == s.history()["x"].tolist()
                assert repr(seen.best) == repr(s.best)
                assert repr(zoopt.read(source, "other").best) == repr(t.best)
                with pytest.raises(FeedbackError, match="is closed"):
                    seen.ask()
        with pytest.raises(JournalError, match=r"no study 'missing'.*it holds 'other', 'study'"):
            zoopt.read(address, "missing")
        s.tell(s.ask(), 0.0)  # nobody was disturbed
        assert OPENED not in [e.kind for e in s._log.events()]  # type: ignore[union-attr]


def test_a_forked_child_must_open_its_own(log: StudyLog, child: Callable[..., Child]) -> None:
    log.append("told", told(0), dtype=TOLD)

    def use(send: Callable[[Any], None]) -> None:
        journal = log.journal
        calls: list[Callable[[], Any]] = [
            lambda: log.append("told", told(1), dtype=TOLD),
            lambda: log.events(),
            lambda: log.snapshot(),
            lambda: log.config,
            lambda: log.driver,
            lambda: log.set_config({}),
            lambda: log.transaction().__enter__(),
            lambda: journal.names(),
            lambda: journal.study("other", create={}),
            lambda: journal.synced,
        ]
        for call in calls * 2:  # whoever tries again is told the same
            with pytest.raises(JournalError, match="opened before a fork and belongs to the parent process"):
                call()
        log.close()
        journal.close()
        send("done")

    assert child(use).all() == ["done"]
    assert log.append("told", told(1), dtype=TOLD) == 1


def test_a_thread_that_holds_the_journal_at_a_fork_does_not_hang_the_child(log: StudyLog, child: Callable[..., Child]) -> None:
    held, forked = threading.Event(), threading.Event()

    def hold() -> None:
        with log.transaction():
            held.set()
            forked.wait(60)

    def use(send: Callable[[Any], None]) -> None:
        signal.alarm(20)
        with pytest.raises(JournalError, match="belongs to the parent process"):
            log.events()
        send("refused")

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(60)
    try:
        assert child(use).all() == ["refused"]
    finally:
        forked.set()
        thread.join()


FORK = """
import os, sys
from zoopt import Real, Study
study = Study({"x": Real(0, 1)}, "random", journal=sys.argv[1], seed=1)
study.tell(study.ask(), 1.0)
out = study.ask()
for close in (True, False):
    if (pid := os.fork()) == 0:
        for call in (lambda: study.tell(out, 2.0), study.ask, lambda: study.tell(out, 2.0), lambda: study.amend(0, 3.0), study.ask):
            try:
                print("went through", call())
            except Exception as error:
                print(str(error))
        if close:
            study.close()
        sys.exit(0)  # with every finaliser
    assert os.waitpid(pid, 0)[1] == 0
study.tell(out, 2.0)
for _ in range(5):
    study.tell(study.ask(), 1.0)
assert study._log._database.epoch == 0, "the connection was lost"
print(study.evaluations, study.best.id)
study.close()
"""


def test_a_study_in_a_forked_child_refuses_and_leaves_the_parents_alone(address: str) -> None:
    run = subprocess.run([sys.executable, "-c", FORK, address], capture_output=True, text=True, timeout=120, check=False)
    assert (run.returncode, run.stderr) == (0, "")
    *refusals, last = run.stdout.splitlines()
    assert len(refusals) == 10
    assert all("belongs to the parent process" in sentence for sentence in refusals)
    assert last == "7 0"
    with Journal(address) as journal:
        log = journal.study("study")
        log.acquire()
        assert OPENED not in [e.kind for e in log.events()]  # the child gave no lease back and took none


def test_many_processes_make_a_journal_at_once(address: str, child: Callable[..., Child]) -> None:
    def make(name: str) -> Callable[[Callable[[Any], None]], None]:
        def action(send: Callable[[Any], None]) -> None:
            with Journal(address) as journal:
                log = journal.study(name, create={})
                log.acquire(wait=30)
                send(log.append("told", told(0), dtype=TOLD))

        return action

    makers = [child(make(name)) for name in ("a", "b", "c", "a")]
    assert sorted(seq for maker in makers for seq in maker.all()) == [0, 0, 0, 1]
    with Journal(address, read_only=True) as journal:
        assert journal.names() == ["a", "b", "c"]


def test_threads_share_a_log(log: StudyLog) -> None:
    acknowledged: list[list[int]] = [[] for _ in range(6)]
    errors: list[BaseException] = []

    def work(k: int) -> None:
        try:
            for i in range(30):
                if i % 3:
                    acknowledged[k].append(log.append("told", told(1000 * k + i), dtype=TOLD, sync=i % 2 == 0))
                else:
                    with log.transaction() as t:
                        acknowledged[k] += [t.append("told", told(1000 * k + i), dtype=TOLD), t.append("pause", note={"k": k})]
                assert len(log.events()) > i
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    events = log.events()
    assert sorted(seq for seqs in acknowledged for seq in seqs) == list(range(6 * 40)) == [e.seq for e in events]
    for k, seqs in enumerate(acknowledged):
        assert [decode([events[s]])["id"].item() for s in seqs if events[s].kind == "told"] == [1000 * k + i for i in range(30)]


# What can go wrong


def test_a_killed_writer_leaves_everything_it_acknowledged(address: str, child: Callable[..., Child]) -> None:
    def write(send: Callable[[Any], None]) -> None:
        log = Journal(address, durability="process").study("svm", create={})
        log.acquire()
        i = log.last + 1
        while True:
            if i % 3:
                i = send_next(send, log.append("told", told(i), dtype=TOLD, snapshot=bytes(20_000) if i % 7 == 0 else None))
            else:
                with log.transaction() as t:
                    t.append("told", told(i), dtype=TOLD)
                    seq = t.append("told", told(i + 1), dtype=TOLD)
                i = send_next(send, seq)

    def send_next(send: Callable[[Any], None], seq: int) -> int:
        send(seq)
        return seq + 1

    chance = random.Random(0)
    known = -1
    for kills in range(8):
        writer = child(write)
        for _ in range(chance.randrange(1, 40)):
            assert isinstance(writer.receive(), int)
        time.sleep(chance.random() * 0.005)
        writer.kill()
        acknowledged = writer.all()
        with Journal(address, read_only=True) as journal:
            events = journal.study("svm").events()
        known = max([known, *acknowledged])
        assert len(events) > known
        known = len(events) - 1
        assert [e.seq for e in events] == list(range(len(events)))
        assert sum(e.kind == OPENED for e in events) == kills
        for e in events:
            if e.kind == "told":
                assert e.body == told(e.seq)
    with Journal(address) as journal:
        log = journal.study("svm")
        log.acquire()
        assert log.append("told", told(0), dtype=TOLD) == known + 2


def test_an_interrupted_append_is_recorded_once_or_not_at_all(log: StudyLog, address: str) -> None:
    log.append("told", told(0), dtype=TOLD)
    engine = log.journal._database._engine
    for after, writes in ((True, 1), (False, 0), (True, 2), (False, 0)):
        last = log.last

        def interrupt(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
            if statement.startswith("INSERT INTO events"):
                raise KeyboardInterrupt

        name = "after_cursor_execute" if after else "before_cursor_execute"
        event.listen(engine, name, interrupt)
        try:
            with pytest.raises(KeyboardInterrupt) as interrupted:  # noqa: PT012
                if writes == 2:
                    with log.transaction() as t:
                        t.append("told", told(1), dtype=TOLD)
                        t.append("told", told(1), dtype=TOLD)
                else:
                    log.append("told", told(1), dtype=TOLD)
        finally:
            event.remove(engine, name, interrupt)
        execute(address, "UPDATE studies SET created = 0")  # no transaction is left open, although the traceback is still held
        assert interrupted.tb is not None
        recorded = len(log.events()) - 1
        assert log.last == recorded
        assert recorded == last + (1 if writes == 1 else 0)  # the transaction of two never came to its commit
        assert log.append("told", told(2), dtype=TOLD) == recorded + 1


@pytest.mark.parametrize("what", ["synced", "not synced", "together", "read"])
def test_an_interrupt_before_any_line_leaves_an_event_recorded_once_or_not_at_all(
    log: StudyLog, address: str, what: str, interrupted: Any
) -> None:
    def together() -> None:
        with log.transaction() as t:
            t.append("told", told(1), dtype=TOLD)
            t.append("told", told(1), dtype=TOLD, snapshot=b"state")

    calls: dict[str, Callable[[], Any]] = {
        "synced": lambda: log.append("told", told(1), dtype=TOLD),
        "not synced": lambda: log.append("told", told(1), dtype=TOLD, sync=False),
        "together": together,
        "read": lambda: log.events(after=log.last - 1),
    }
    at_most = {"synced": 1, "not synced": 1, "together": 2, "read": 0}[what]
    recorded = set()
    for line in range(1000):
        before = log.append("told", told(0), dtype=TOLD)
        stopped = interrupted(calls[what], line, lambda file: "zoopt/journal/" in file)
        last = log.last
        assert last - before in (0, at_most)
        recorded.add(last - before)
        assert log.append("told", told(2), dtype=TOLD) == last + 1
        assert [e.seq for e in log.events(after=before - 1)] == list(range(before, last + 2))
        execute(address, "UPDATE studies SET created = 0")  # no transaction is left open
        if not stopped:
            break
    assert recorded == {0, at_most}
    assert line > 10


def test_bytes_that_have_changed_are_noticed(log: StudyLog, address: str) -> None:
    for i in range(6):
        log.append("told", told(i), dtype=TOLD, note={"i": i})
    body = bytearray(told(3))
    body[17] ^= 4
    execute(address, "UPDATE events SET body = %s WHERE seq = 3", bytes(body))
    with pytest.raises(JournalError, match="damaged near event 3 of study 'svm'"):
        log.events()
    assert len(log.events(until=2)) == 3
    execute(address, "UPDATE events SET body = %s WHERE seq = 3", told(3))
    execute(address, "UPDATE events SET note = %s WHERE seq = 4", '{"i": 5}')
    with pytest.raises(JournalError, match="damaged near event 4"):
        log.events()
    execute(address, "DELETE FROM events WHERE seq = 4")
    with pytest.raises(JournalError, match="damaged"):
        log.events()


@pytest.mark.parametrize(
    "column", ["layout = 99", "layout = NULL", "rows = -1", "kind = X'00ff'", "rows = 'x'", "layout = 'x'", "asked = 'x'", "body = NULL"]
)
def test_columns_that_have_changed_are_noticed(tmp_path: Path, column: str) -> None:
    """SQLite keeps any kind of value in any column, and the checksum is of body and note only."""
    address = f"sqlite:///{tmp_path}/study.db"
    with Journal(address) as journal, journal.study("svm", create={}) as log:
        log.acquire()
        for i in range(6):
            log.append("told", told(i), dtype=TOLD)
    execute(address, f"UPDATE events SET {column} WHERE seq = 3")
    with Journal(address) as journal, pytest.raises(JournalError, match="damaged near event 3 of study 'svm'"):
        journal.study("svm").events()


def test_a_journal_of_a_newer_zoopt_is_left_alone(address: str) -> None:
    with Journal(address) as journal:
        journal.study("svm", create={})
    execute(address, "UPDATE zoopt_meta SET value = '99' WHERE key = 'schema'")
    before = contents(address)
    for read_only in (False, True):
        with pytest.raises(JournalError, match=f"newer zoopt .schema 99; this one knows up to {SCHEMA}.*Upgrade"):
            Journal(address, read_only=read_only)
    assert contents(address) == before
    execute(address, "UPDATE zoopt_meta SET value = 'nonsense' WHERE key = 'schema'")
    with pytest.raises(JournalError, match="does not say which schema"):
        Journal(address)


def contents(address: str) -> Any:
    if address.startswith("sqlite"):
        return Path(address.removeprefix("sqlite:///")).read_bytes()
    return [execute(address, f"SELECT * FROM {table}") for table in ("zoopt_meta", "studies", "events")]


VERSION_1 = """
CREATE TABLE zoopt_meta (key TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE studies (id INTEGER NOT NULL PRIMARY KEY, name TEXT NOT NULL UNIQUE, config TEXT NOT NULL, created {double} NOT NULL,
    lease_owner TEXT NOT NULL, lease_until {double} NOT NULL);
CREATE TABLE layouts (study INTEGER NOT NULL, id INTEGER NOT NULL, spec TEXT NOT NULL, PRIMARY KEY (study, id));
CREATE TABLE events (study INTEGER NOT NULL, seq BIGINT NOT NULL, time {double} NOT NULL, kind TEXT NOT NULL, layout INTEGER,
    rows BIGINT NOT NULL, asked BIGINT, body {blob}, note TEXT, checksum BIGINT NOT NULL, PRIMARY KEY (study, seq));
CREATE TABLE snapshots (study INTEGER NOT NULL, seq BIGINT NOT NULL, body {blob} NOT NULL, checksum BIGINT NOT NULL,
    PRIMARY KEY (study, seq));
INSERT INTO zoopt_meta VALUES ('schema', '1');
INSERT INTO studies VALUES (1, 'old', '{{"seed": 1}}', 0, '', 0);
INSERT INTO layouts VALUES (1, 0, '''<i8''');
INSERT INTO events VALUES (1, 0, 5.5, 'asked', 0, 1, 4, {hello}, NULL, {check});
"""


def test_a_journal_of_the_first_schema_is_brought_up_to_date(address: str) -> None:
    lite = address.startswith("sqlite")
    words = {"double": "DOUBLE" if lite else "DOUBLE PRECISION", "blob": "BLOB" if lite else "BYTEA", "check": crc32(b"hello!!!")}
    words["hello"] = "X'68656c6c6f212121'" if lite else "decode('68656c6c6f212121', 'hex')"
    for statement in VERSION_1.format(**words).split(";\n"):
        if statement.strip():
            execute(address, statement)
    with pytest.raises(JournalError, match=r"older zoopt .schema 1, now 2.*open it once for writing"):
        Journal(address, read_only=True)
    for expected in (1, 2):  # the second time there is nothing left to do
        with Journal(address) as journal:
            log = journal.study("old")
            assert log.config == {"seed": 1}
            log.acquire()
            first = log.events()[0]
            assert (first.time, first.kind, first.asked, first.remaining, first.body) == (5.5, "asked", 4, None, b"hello!!!")
            assert log.append("asked", bytes(8), dtype=np.dtype("<i8"), remaining=9) == expected
    assert execute(address, "SELECT value FROM zoopt_meta") == [("2",)]
    with Journal(address, read_only=True) as journal:
        assert [e.remaining for e in journal.study("old").events()] == [None, 9, 9]


def test_tables_of_another_program_are_left_alone(address: str) -> None:
    execute(address, "CREATE TABLE studies (study_id INTEGER, study_name TEXT)")
    with pytest.raises(JournalError, match=r"'studies'.*choose another"):
        Journal(address)
    with pytest.raises(JournalError, match="holds no journal"):
        Journal(address, read_only=True)
    assert execute(address, "SELECT * FROM studies") == []


# Durability


@pytest.mark.parametrize("durability", ["full", "process"])
def test_commits_wait_for_the_disk_as_asked(address: str, durability: Any) -> None:
    full = durability == "full"
    with Journal(address, durability=durability) as journal:
        log = journal.study("svm", create={})
        log.acquire()
        for _ in range(2):
            log.append("asked", sync=False)
            assert not journal.synced
            log.append("told", told(0), dtype=TOLD)
            assert journal.synced is full
            with log.transaction(sync=False) as t:
                t.append("asked")
                t.append("asked")
            assert not journal.synced
            with log.transaction() as t:
                t.append("told")
                t.append("told")
            assert journal.synced is full
            log.append("told", snapshot=b"state")
            assert journal.synced is full


def test_a_tell_is_on_the_disk_before_it_is_acknowledged(tmp_path: Path) -> None:
    if shutil.which("strace") is None or subprocess.run(["strace", "-o", os.devnull, "true"], capture_output=True, check=False).returncode:
        pytest.skip("strace cannot run here; the connection's own setting is tested instead")
    script = """
import os, sys
import numpy as np
from zoopt.journal import Journal
i8 = np.dtype("<i8")
def mark(text): os.write(1, (text + "\\n").encode())
for durability in ("full", "process"):
    journal = Journal(f"{sys.argv[1]}/{durability}.db", durability=durability)
    log = journal.study("svm", create={})
    log.acquire()
    log.append("told", bytes(8), dtype=i8)
    mark("begin")
    for _ in range(3):
        log.append("asked", bytes(8), dtype=i8, sync=False)
        mark(f"asked {durability}")
        log.append("told", bytes(8), dtype=i8)
        mark(f"told {durability}")
        with log.transaction() as t:
            t.append("told", bytes(8), dtype=i8)
            t.append("told", bytes(8), dtype=i8, snapshot=b"state")
        mark(f"both {durability}")
    mark("end")
    journal.close()
"""
    trace = tmp_path / "trace"  # a file a thread: a heartbeat must not stand in the middle of a line
    command = ["strace", "-ff", "-y", "-e", "trace=fsync,fdatasync,write", "-o", str(trace), sys.executable, "-c", script, str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    synced: dict[str, list[bool]] = {}
    seen = False
    (writer,) = [text for file in tmp_path.glob("trace.*") if "write(1<" in (text := file.read_text())]
    for line in writer.splitlines():
        if "sync(" in line and "-wal>" in line:
            assert line.rstrip().endswith("= 0")
            seen = True
        elif "write(1<" in line:
            text = line.split('"')[1].removesuffix("\\n")
            synced.setdefault(text, []).append(seen)
            seen = False
    assert synced["asked full"] == [False] * 3
    assert synced["told full"] == [True] * 3
    assert synced["both full"] == [True] * 3
    for kind in ("asked", "told", "both"):
        assert synced[f"{kind} process"] == [False] * 3


# PostgreSQL alone

HANG_UP = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"


@pytest.mark.postgres
def test_a_lost_connection_is_made_again_and_every_event_recorded_once(postgres_database: str) -> None:
    with Journal(postgres_database) as journal:
        log = journal.study("svm", create={})
        log.acquire()
        log.append("told", told(0), dtype=TOLD)
        execute(postgres_database, HANG_UP)
        assert log.append("told", told(1), dtype=TOLD) == 1
        execute(postgres_database, HANG_UP)
        with log.transaction() as t:
            t.append("asked", bytes(ASKED.itemsize), dtype=ASKED)
            t.append("told", told(3), dtype=TOLD)
        execute(postgres_database, HANG_UP)
        assert [e.seq for e in log.events()] == [0, 1, 2, 3]

        def cut(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
            if statement.startswith("INSERT INTO events") and not cuts:  # recorded, but the answer never arrives
                cuts.append(1)
                connection.connection.driver_connection.close()
                cursor.execute("SELECT 1")

        cuts: list[int] = []
        event.listen(journal._database._engine, "after_cursor_execute", cut)
        assert log.append("told", told(4), dtype=TOLD) == 4
        assert cuts == [1]
        assert log.append("told", told(5), dtype=TOLD) == 5
        assert [e.seq for e in log.events()] == list(range(6))
        assert journal.synced


def lose(address: str, after: int) -> None:
    """What a crash of the server does to events that it had not synced."""
    execute(address, "DELETE FROM snapshots WHERE seq > %s", after)
    execute(address, "DELETE FROM events WHERE seq > %s", after)
    execute(address, "DELETE FROM layouts WHERE id NOT IN (SELECT layout FROM events WHERE layout IS NOT NULL)")
    execute(address, HANG_UP)


@pytest.mark.postgres
@pytest.mark.parametrize("first", ["append", "read", "snapshot", "last"])
@pytest.mark.parametrize("after", [0, 1, 3])
def test_events_that_the_server_had_not_synced_are_written_again(postgres_database: str, after: int, first: str) -> None:
    asked = np.random.default_rng(0).bytes(ASKED.itemsize)
    with Journal(postgres_database) as journal:
        log = journal.study("svm", create={})
        log.acquire()
        log.append("told", told(0), dtype=TOLD)
        log.append("asked", asked, dtype=ASKED, sync=False, asked=1, remaining=7)
        with log.transaction(sync=False) as t:
            t.append("reported", note={"step": 1})
            t.append("reported", bytes(8), dtype=np.dtype("<f8"), snapshot=b"state")
        log.append("asked", asked, dtype=ASKED, sync=False)
        before = log.events()
        for _ in range(2):  # a crash seldom comes alone
            lose(postgres_database, after)
            if first == "read":
                assert log.events() == before
            elif first == "snapshot":
                assert log.snapshot() == (3, b"state")
            elif first == "last":
                assert log.last == 4
        assert log.append("told", told(1), dtype=TOLD) == 5
        assert log.events()[:5] == before[:]
        assert log.events()[5].body == told(1)
        assert log.snapshot() == (3, b"state")
    with Journal(postgres_database, read_only=True) as journal:
        assert journal.study("svm").events()[:5] == before[:]


@pytest.mark.postgres
@pytest.mark.parametrize("durability", ["full", "process"])
@pytest.mark.parametrize("read", [False, True])
def test_synced_events_that_the_server_has_lost_stop_the_log(
    postgres_database: str, read: bool, durability: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Journal(postgres_database, durability=durability) as journal:
        log = journal.study("svm", create={})
        log.acquire()
        log.append("told", told(0), dtype=TOLD)
        if durability == "process":  # nothing is synced: as much is kept as may be
            monkeypatch.setattr("zoopt.journal.log._KEPT", 4000)
            for i in range(1, 20):
                log.append("told", told(i), dtype=TOLD)
        else:
            log.append("told", told(1), dtype=TOLD)
            log.append("asked", sync=False)
        lose(postgres_database, 0)
        if read:  # the new connection is made by a reader
            assert len(log.events()) == 1
        for _ in range(2):
            with pytest.raises(JournalError, match="open the study again"):
                log.append("told", told(1), dtype=TOLD)
        assert [e.seq for e in log.events()] == [0]


class Line:
    """A way to a PostgreSQL server that can be cut, at once or when a certain answer is on its way."""

    def __init__(self, address: str) -> None:
        self.server = Path(address.partition("host=")[2]) / ".s.PGSQL.5432"
        self.folder = Path(tempfile.mkdtemp(prefix="zoopt-line-", dir="/tmp"))  # a socket's path must be short
        self.address = address.replace(str(self.server.parent), str(self.folder))
        self.ends: list[socket.socket] = []
        self.cut_answer = b""
        self.open()

    def open(self) -> None:
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(self.folder / self.server.name))
        self.listener.listen()
        threading.Thread(target=self.accept, args=(self.listener,), daemon=True).start()

    def accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            far = socket.socket(socket.AF_UNIX)
            far.connect(str(self.server))
            self.ends += [near, far]
            threading.Thread(target=self.carry, args=(near, far, False), daemon=True).start()
            threading.Thread(target=self.carry, args=(far, near, True), daemon=True).start()

    def carry(self, source: socket.socket, target: socket.socket, answers: bool) -> None:
        try:
            while data := source.recv(65536):
                if answers and self.cut_answer and self.cut_answer in data:
                    self.cut()
                    return
                target.sendall(data)
        except OSError:
            pass
        finally:
            with suppress(OSError):
                target.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        self.cut_answer = b""
        if (self.folder / self.server.name).exists():
            (self.folder / self.server.name).unlink()
            self.listener.shutdown(socket.SHUT_RDWR)
            self.listener.close()
        for end in self.ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self.ends.clear()


@pytest.fixture
def line(postgres_database: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Line]:
    monkeypatch.setattr("zoopt.journal.log._PAUSES", (0.01,))
    line = Line(postgres_database)
    yield line
    line.cut()
    shutil.rmtree(line.folder)


@pytest.mark.postgres
@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("first", ["append", "read"])
def test_after_an_outage_the_log_goes_on(line: Line, recorded: bool, together: bool, first: str) -> None:
    with Journal(line.address) as journal:
        log = journal.study("svm", create={})
        log.acquire()
        log.append("told", told(0), dtype=TOLD)

        def write() -> None:
            with log.transaction() as t:
                for _ in range(2 if together else 1):
                    t.append("told", bytes(8), dtype=np.dtype("<f8"))

        if recorded:
            line.cut_answer = b"COMMIT\0"
        else:
            line.cut()
        with pytest.raises(ConnectionLost, match=r"it is not known whether that was recorded.*telling a trial again is safe"):
            write()
        for _ in range(2):
            with pytest.raises(JournalError, match="does not answer"):
                log.append("told", told(1), dtype=TOLD)
            with pytest.raises(JournalError, match="does not answer"):
                log.events()
        line.open()
        last = (2 if together else 1) if recorded else 0
        if first == "read":
            assert [e.seq for e in log.events()] == list(range(last + 1))
            assert log.last == last
        write()
        assert log.append("told", told(1), dtype=TOLD) == log.last
        assert [e.seq for e in log.events()] == list(range(last + (4 if together else 3)))
        assert OPENED not in [e.kind for e in log.events()]


@pytest.mark.postgres
@pytest.mark.parametrize("what", ["down", "answer lost", "ask lost"])
def test_after_an_outage_a_study_goes_on_as_if_nothing_had_been(line: Line, postgres_database: str, what: str) -> None:
    s, never = Study(BOX, "cma-es", journal=line.address, seed=1), Study(BOX, "cma-es", seed=1)
    for study in (s, never):
        for k in range(9):
            study.tell(study.ask(), float(k))
    out = s.ask(), never.ask()
    if what == "ask lost":
        ((last,),) = execute(postgres_database, "SELECT max(seq) FROM events")
        lose(postgres_database, last - 1)
        s.tell(out[0], 0.5)
    else:
        if what == "down":
            line.cut()
        else:
            line.cut_answer = b"INSERT 0 1\0"
        with pytest.raises(ConnectionLost, match="telling a trial again is safe"):
            s.tell(out[0], 0.5)
        with pytest.raises(JournalError, match="does not answer"):
            s.ask()
        assert s.best is not None  # what is known can be read
        line.open()
        s.tell(out[0], 0.5)
    never.tell(out[1], 0.5)
    assert s.status == never.status
    assert s.ask(4).params == never.ask(4).params
    s.close()
    again = Study(BOX, "cma-es", journal=postgres_database)
    assert again.history()["x"].tolist() == never.history()["x"].tolist()
    assert again.status == never.status
    again.close()


@pytest.mark.postgres
def test_who_was_taken_over_during_an_outage_writes_nothing_more(line: Line, postgres_database: str) -> None:
    with Journal(line.address) as journal, Journal(postgres_database) as other:
        log, new = journal.study("svm", create={}), other.study("svm")
        log.acquire()
        log.append("told", told(0), dtype=TOLD)
        line.cut()
        with pytest.raises(ConnectionLost):
            log.append("told", told(1), dtype=TOLD)
        execute(postgres_database, "UPDATE studies SET lease_until = 0")
        new.acquire()
        line.open()
        for _ in range(2):
            with pytest.raises(LeaseLost, match="has taken over"):
                log.append("told", told(1), dtype=TOLD)
        assert new.append("told", told(2), dtype=TOLD) == 2


@pytest.mark.postgres
def test_a_lease_that_ran_out_during_an_outage_is_renewed(line: Line, postgres_database: str) -> None:
    with Journal(line.address) as journal:
        log = journal.study("svm", create={})
        log.acquire()
        line.cut()
        with pytest.raises(ConnectionLost):
            log.append("told", told(0), dtype=TOLD)
        execute(postgres_database, "UPDATE studies SET lease_until = 0")
        line.open()
        assert log.append("told", told(0), dtype=TOLD) == 0
        assert log.driver is not None


@pytest.mark.postgres
@pytest.mark.parametrize("how", ["close", "collect"])
def test_a_lease_that_could_not_be_given_back_does_not_stop_this_process(line: Line, how: str) -> None:
    journal = Journal(line.address)
    log = journal.study("svm", create={})
    log.acquire()
    line.cut()
    with pytest.raises(ConnectionLost):
        log.append("told", told(0), dtype=TOLD)
    if how == "close":
        journal.close()
    else:
        del journal, log
        gc.collect()
    line.open()
    with Journal(line.address) as journal:
        log = journal.study("svm")
        log.acquire()
        assert log.append("told", told(0), dtype=TOLD) >= 0


@pytest.mark.postgres
def test_a_lost_log_that_is_closed_later_gives_its_lease_back(line: Line, postgres_database: str, child: Callable[..., Child]) -> None:
    with Journal(line.address) as journal:
        log = journal.study("svm", create={})
        log.acquire()
        log.append("told", told(0), dtype=TOLD)
        lose(postgres_database, -1)
        with pytest.raises(JournalError, match="open the study again"):
            log.append("told", told(1), dtype=TOLD)

    def drive(send: Callable[[Any], None]) -> None:
        with Journal(postgres_database) as journal:
            journal.study("svm").acquire()
            send("acquired")

    assert child(drive).all() == ["acquired"]


FULL = """
CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100';
END $$
"""


@pytest.mark.postgres
@pytest.mark.parametrize("table", ["events", "snapshots"])
def test_a_full_disk_of_the_server_costs_nothing_that_was_acknowledged(postgres_database: str, table: str) -> None:
    s, never = Study(BOX, "cma-es", journal=postgres_database, seed=1), Study(BOX, "cma-es", seed=1)
    for study in (s, never):
        for k in range(9):
            study.tell(study.ask(), float(k))
    out = s.ask(), never.ask()
    execute(postgres_database, FULL)
    execute(postgres_database, f"CREATE TRIGGER full_disk BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION full_disk()")
    s._engine._spent = 1e9  # a snapshot is due, which joins the event in one transaction
    calls: list[Callable[[], Any]] = [lambda: s.tell(out[0], 0.5)]
    if table == "events":
        calls += [lambda: s.tell([out[0]], [0.5], metrics={"s": 1.0}), s.ask]
    for call in calls:
        with pytest.raises(JournalError, match=r"disk of the journal .* is full .*What was being recorded is not; make room and go on"):
            call()
        assert s.best == s.trial(0)
        assert len(zoopt.read(postgres_database).history()["id"]) == 10
    execute(postgres_database, f"DROP TRIGGER full_disk ON {table}")
    s.tell(out[0], 0.5)
    never.tell(out[1], 0.5)
    assert s.ask(4).params == never.ask(4).params
    assert s.status == never.status
    s.close()
    with Study(BOX, "cma-es", journal=postgres_database) as again:
        assert again.history()["x"].tolist() == never.history()["x"].tolist()
        assert again.status == never.status


@pytest.mark.postgres
def test_a_server_that_does_not_answer(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="does not answer") as refused:
        Journal(f"postgresql://me:secret@/name?host={tmp_path}")
    assert "secret" not in str(refused.value)


# SQLite alone


@pytest.fixture
def full(tmp_path: Path) -> Path:
    """A journal of 40 events, closed."""
    path = tmp_path / "study.db"
    with Journal(path, durability="process") as journal:
        log = journal.study("svm", create={"seed": 3})
        log.acquire()
        for i in range(40):
            log.append(
                "told",
                told(*range(10 * i, 10 * i + 10)),
                dtype=TOLD,
                rows=10,
                note={"i": i},
                snapshot=bytes([i]) * 3000 if i % 10 == 0 else None,
            )
    assert list(tmp_path.iterdir()) == [path]  # closed: one file
    return path


@pytest.mark.parametrize("write", ["addressed", "path", "home"])
def test_a_path_is_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: str) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    name = "a study #1?%41.db" if write == "path" else "study.db"
    addresses: dict[str, str | Path] = {"addressed": f"sqlite:///{name}", "path": Path(name), "home": f"~/{name}"}
    with Journal(addresses[write]) as journal:
        journal.study("svm", create={})
        assert name in journal.label
    assert (tmp_path / name).exists()


def test_a_full_disk_costs_nothing_that_was_acknowledged(tmp_path: Path, child: Callable[..., Child]) -> None:
    path = tmp_path / "study.db"

    def fill(send: Callable[[Any], None]) -> None:
        journal = Journal(path)
        log = journal.study("svm", create={})
        log.acquire()
        log.append("told", told(0), dtype=TOLD)
        for room in (20_000, 100_000):
            limit = Path(f"{path}-wal").stat().st_size + room
            _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
            last, sentences = log.last, set()
            for _ in range(400):
                try:
                    assert log.append("told", told(log.last + 1), dtype=TOLD, sync=log.last % 2 == 0) == last + 1
                    last += 1
                except JournalError as error:
                    sentences.add(str(error))
                    break
            with pytest.raises(JournalError, match="full"), log.transaction() as t:  # noqa: PT012
                for _ in range(30):
                    t.append("told", bytes(24_000), dtype=TOLD, rows=1000, snapshot=bytes(50_000))
            assert [e.seq for e in log.events()] == list(range(last + 1))
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
            assert log.append("told", told(last + 1), dtype=TOLD) == last + 1
            send([last + 1, sorted(sentences)])
        journal.close()

    received = child(fill).all()
    assert len(received) == 2, received
    for _, sentences in received:
        assert len(sentences) == 1
        assert "full or failing" in sentences[0]
        assert "make room and go on" in sentences[0]
    with Journal(path, read_only=True) as journal:
        events = journal.study("svm").events()
    assert len(events) == received[-1][0] + 1
    assert all(e.body == told(e.seq) for e in events)


def test_a_lease_that_a_full_disk_kept_does_not_stop_this_process(tmp_path: Path, child: Callable[..., Child]) -> None:
    path = tmp_path / "study.db"

    def fill(send: Callable[[Any], None]) -> None:
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        with Journal(path) as reader:  # holds the -wal file, which would shrink otherwise
            journal = Journal(path)
            log = journal.study("svm", create={})
            log.acquire()
            seq = log.append("told", told(0), dtype=TOLD)
            resource.setrlimit(resource.RLIMIT_FSIZE, (Path(f"{path}-wal").stat().st_size, hard))
            with pytest.raises(JournalError, match="full"):
                log.append("told", told(1), dtype=TOLD)
            log.close()
            assert reader.study("svm").driver is None  # as this process knows
            assert execute(f"sqlite:///{path}", "SELECT lease_owner FROM studies") != [("",)]  # as others see it
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
            again = reader.study("svm")
            again.acquire()
            send([seq, again.append("told", told(1), dtype=TOLD)])
            journal.close()

    assert child(fill).all() == [[0, 2]]


@pytest.mark.parametrize("folder", [0o555, 0o755])
def test_a_read_only_file_can_be_looked_at(full: Path, child: Callable[..., Child], folder: int) -> None:
    place = Path(tempfile.mkdtemp())  # reached by another user, which tmp_path is not
    try:
        path = place / "study.db"
        shutil.copy(full, path)
        path.chmod(0o444)
        place.chmod(folder)

        def look(send: Callable[[Any], None]) -> None:
            if os.getuid() == 0:  # who may write anything
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            with pytest.raises(JournalError, match="read_only=True") as refused:
                Journal(path)
            send(str(refused.value))
            with Journal(path, read_only=True) as journal:
                send([e.seq for e in journal.study("svm").events()])

        sentence, seqs = child(look).all()
        assert "may not be written" in sentence
        assert seqs == list(range(40))
        assert path.read_bytes() == full.read_bytes()
    finally:
        place.chmod(0o755)
        shutil.rmtree(place)


def read_all(path: Path, **arguments: Any) -> list[Event]:
    with Journal(path, **arguments) as journal:
        log = journal.study("svm")
        if not arguments:
            log.acquire()
        return log.events()


@pytest.mark.parametrize("left", [50, 100, 4096, 10_000, 0.5, -4096])
@pytest.mark.parametrize("arguments", [{}, {"read_only": True}])
def test_a_truncated_file_is_refused_and_left_alone(full: Path, left: float, arguments: dict[str, Any]) -> None:
    data = full.read_bytes()
    size = int(len(data) * left) if isinstance(left, float) else left if left > 0 else len(data) + left
    full.write_bytes(data[:size])
    with pytest.raises(JournalError, match=r"damaged|not a journal|refused"):
        read_all(full, **arguments)
    assert full.read_bytes() == data[:size]


def test_random_bytes_are_not_a_journal(full: Path) -> None:
    noise = np.random.default_rng(0).bytes(30_000)
    full.write_bytes(noise)
    for arguments in ({}, {"read_only": True}):
        with pytest.raises(JournalError, match="is not a journal"):
            read_all(full, **arguments)
    assert full.read_bytes() == noise


def test_numbers_are_never_other_numbers(full: Path) -> None:
    data, events = full.read_bytes(), read_all(full, read_only=True)
    generator = np.random.default_rng(0)
    refused = 0
    for size in [1, 4, 64, 512, 4096] * 12:
        start = int(generator.integers(len(data) - size))
        full.write_bytes(data[:start] + generator.bytes(size) + data[start + size :])
        try:
            found = read_all(full, read_only=True)
        except JournalError:
            refused += 1
        else:
            assert [(e.seq, e.body, e.note) for e in found] == [(e.seq, e.body, e.note) for e in events]
    assert refused > 20


def test_a_database_of_another_program_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "photos.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE photos (name TEXT)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(JournalError, match=r"another program .it holds table 'photos'"):
        Journal(path)
    assert path.read_bytes() == before


def test_addresses_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(JournalError, match=r"folder .*missing of the journal .* does not exist"):
        Journal(tmp_path / "missing" / "study.db")
    with pytest.raises(JournalError, match="is a folder"):
        Journal(tmp_path)
    with pytest.raises(JournalError, match="there is no journal"):
        Journal(tmp_path / "study.db", read_only=True)
    assert list(tmp_path.iterdir()) == []
    for memory in ("sqlite://", "sqlite:///:memory:", ":memory:", ""):
        with pytest.raises(ConfigError, match="journal=None"):
            Journal(memory)
    with pytest.raises(ConfigError, match="SQLite or PostgreSQL, not in 'mysql'"):
        Journal("mysql://me@host/db")
    with pytest.raises(ConfigError, match="no address of a journal"):
        Journal("://")
    with pytest.raises(ConfigError, match="'full' or 'process', not 'fast'"):
        Journal(tmp_path / "study.db", durability="fast")  # type: ignore[arg-type]
    none: Any
    for none in (5, True, None, b"study.db", "a\0.db", ["study.db"]):
        with pytest.raises(ConfigError, match="path or a URL"):
            Journal(none)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"no options .*timeout=5.*write 'sqlite:///q\.db'"):
        Journal("sqlite:///q.db?timeout=5")
    for uri in ("sqlite:///file:x.db?mode=ro&uri=true", "sqlite:///file:x.db", "file:x.db?mode=ro"):
        with pytest.raises(ConfigError, match=r"write 'sqlite:///x\.db'"):
            Journal(uri)
    with pytest.raises(ConfigError, match="path or a URL"):
        Study(BOX, "random", journal=5)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["", "a\ud800", "a\0b", 5, None])
def test_names_that_cannot_be(journal: Journal, name: Any) -> None:
    for ask in (lambda: journal.study(name, create={}), lambda: journal.study(name), lambda: journal.config(name)):
        with pytest.raises(ConfigError, match="name of a study is a text"):
            ask()
    assert journal.names() == []
    assert journal.study("ü\U0001f600", create={}).name in journal.names()


def test_a_writer_that_waits_for_another_study_keeps_trying_soon(full: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = sqlite3.connect(full, isolation_level=None)
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) % 100 == 0:
            other.execute("ROLLBACK")

    with Journal(full) as journal:
        log = journal.study("svm")
        log.acquire()
        monkeypatch.setattr("zoopt.journal.database.time.sleep", pause)
        state = random.getstate()
        for i in range(1, 3):
            other.execute("BEGIN IMMEDIATE")
            if i == 1:
                log.append("told", told(40), dtype=TOLD)
            else:
                with log.transaction() as t:
                    t.append("told", told(41), dtype=TOLD)
            assert len(pauses) == 100 * i
        assert random.getstate() == state
        assert 0 < max(pauses) < 0.01  # the other's pause between two of its writes is no longer
        assert len(set(pauses)) > 150
    other.close()
    assert len(read_all(full, read_only=True)) == 42


# Copying and moving the file


@pytest.mark.parametrize("reader", ["idle", "in the midst of reading", None])
def test_the_file_alone_is_the_whole_journal_once_its_driver_is_closed(tmp_path: Path, reader: str | None) -> None:
    path, copy = tmp_path / "study.db", tmp_path / "copy.db"
    with Journal(path) as journal:
        log = journal.study("svm", create={})
        log.acquire()
        for i in range(20):
            log.append("told", told(i), dtype=TOLD)
        other = sqlite3.connect(path, isolation_level=None)
        if reader is not None:
            if reader != "idle":
                other.execute("BEGIN")
            assert other.execute("SELECT count(*) FROM events").fetchall() == [(20,)]
    if reader != "in the midst of reading":
        shutil.copy(path, copy)  # also while others look at it
    other.close()
    shutil.copy(path, copy)
    assert [e.body for e in read_all(copy)] == [told(i) for i in range(20)]


def test_a_copy_of_a_journal_in_use_says_so(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    with Journal(path) as journal:
        log = journal.study("svm", create={})
        log.acquire()
        log.append("told", told(0), dtype=TOLD)
        for name in ("one", "two"):
            shutil.copy(path, tmp_path / f"{name}.db")  # without its -wal file, where the event is
        with Journal(tmp_path / "one.db") as copy, pytest.raises(StudyLocked) as refused:
            copy.study("svm").acquire()
        assert re.search(r"looks like a copy .* can be opened in [1-6][0-9]? s", str(refused.value))
        assert "kill" not in str(refused.value)
        execute(f"sqlite:///{tmp_path}/two.db", "UPDATE studies SET lease_until = 0")
        with Journal(tmp_path / "two.db") as copy, pytest.warns(JournalWarning, match="copied while it was in use .* -wal"):
            copy.study("svm").acquire()
        assert log.append("told", told(1), dtype=TOLD) == 1


def test_a_database_without_tables_is_not_taken_for_a_new_journal(tmp_path: Path) -> None:
    path = tmp_path / "copy.db"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
    connection.close()
    before = path.read_bytes()
    assert before
    for arguments in ({}, {"read_only": True}):
        with pytest.raises(JournalError, match="-wal"):
            Journal(path, **arguments)
    assert path.read_bytes() == before
    empty = tmp_path / "empty.db"
    empty.touch()  # nothing is lost with this one
    Journal(empty).close()


@pytest.mark.parametrize("what", ["moved", "deleted", "replaced"])
def test_a_file_that_is_no_longer_there_stops_its_driver(tmp_path: Path, what: str) -> None:
    path, elsewhere = tmp_path / "study.db", tmp_path / "moved.db"
    journal = Journal(path)
    log = journal.study("svm", create={})
    log.acquire()
    for i in range(3):
        log.append("told", told(i), dtype=TOLD)
    if what == "moved":
        path.rename(elsewhere)
    else:
        path.unlink()
    if what == "replaced":
        Journal(path).close()
    before = sorted(tmp_path.glob("*.db"))
    for _ in range(2):
        with pytest.raises(JournalError, match="was moved, deleted or replaced"):
            log.append("told", told(3), dtype=TOLD)
    with pytest.raises(JournalError, match="was moved, deleted or replaced"):
        log.append("asked", sync=False)
    assert log._heartbeat is not None
    with pytest.raises(JournalError, match="was moved, deleted or replaced"):
        log._heartbeat._renew()
    assert sorted(tmp_path.glob("*.db")) == before  # none is made anew
    if what != "moved":
        journal.close()
        return
    shutil.copy(elsewhere, tmp_path / "copy.db")
    assert len(read_all(tmp_path / "copy.db", read_only=True)) == 3  # the moved file has it all
    elsewhere.rename(path)
    assert log.append("told", told(3), dtype=TOLD) == 3
    path.rename(elsewhere)
    journal.close()
    assert [e.body for e in read_all(elsewhere) if e.kind == "told"] == [told(i) for i in range(4)]


def test_a_moved_file_is_noticed_by_the_heartbeat(tmp_path: Path) -> None:
    path, elsewhere = tmp_path / "study.db", tmp_path / "moved.db"
    with Journal(path) as journal:
        log = journal.study("svm", create={})
        log.acquire()
        log.append("told", told(0), dtype=TOLD)
        path.rename(elsewhere)
        assert log._heartbeat is not None
        with pytest.raises(JournalError, match="was moved"):
            log._heartbeat._renew()
        shutil.copy(elsewhere, tmp_path / "copy.db")
        assert len(read_all(tmp_path / "copy.db", read_only=True)) == 1


def test_a_writer_that_holds_the_file_does_not_stop_a_reader(full: Path) -> None:
    other = sqlite3.connect(full, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    other.execute("UPDATE studies SET config = '{}'")
    assert len(read_all(full, read_only=True)) == 40
    with Journal(full, read_only=True) as journal:
        assert journal.config("svm") == {"seed": 3}
    other.execute("ROLLBACK")
    other.close()


def test_a_process_that_ends_without_closing_gives_its_lease_back(tmp_path: Path) -> None:
    script = (
        "import sys; from zoopt.journal import Journal; log = Journal(sys.argv[1]).study('svm', create={}); log.acquire(); log.append('a')"
    )
    path = tmp_path / "study.db"
    subprocess.run([sys.executable, "-c", script, str(path)], check=True, timeout=60)
    with Journal(path) as journal:
        log = journal.study("svm")
        log.acquire()
        assert [e.kind for e in log.events()] == ["a"]
