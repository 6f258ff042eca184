"""The connection to a journal: one code path for SQLite and PostgreSQL, on SQLAlchemy Core.

Statements are Core constructs whose text is compiled once for each dialect; they then run as text, which costs a third of
running the construct. Connections are in autocommit mode, so that a lone statement is a transaction of its own.
"""

from __future__ import annotations

import ctypes
import os
import random
import shlex
import shutil
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import quote

from sqlalchemy import URL, Connection, CursorResult, Executable, create_engine, inspect, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from zoopt.errors import ConfigError, ConnectionLost, JournalError
from zoopt.journal import schema

Durability = Literal["full", "process"]

_BUSY = 30.0  # seconds a writer waits for another one
_PAUSE = 0.002  # at most so many between two tries
_SYNCHRONOUS = {
    "sqlite": {True: "PRAGMA synchronous=FULL", False: "PRAGMA synchronous=NORMAL"},
    "postgresql": {True: "SET synchronous_commit TO on", False: "SET synchronous_commit TO off"},
}
_NO_DRIVER = "a journal on PostgreSQL needs psycopg: pip install 'zoopt-toolkit[postgres]'."
_BEGIN = {"sqlite": "BEGIN IMMEDIATE", "postgresql": "BEGIN"}


class _File(sqlite3.Connection):
    """A connection that leaves no transaction open when it is closed, even while a traceback still holds one of its cursors."""

    def close(self) -> None:
        with suppress(sqlite3.Error):
            self.rollback()
        super().close()


class _Statement(NamedTuple):
    text: str
    order: tuple[str, ...]


_COMPILED: dict[str, dict[str, _Statement]] = {}  # by dialect: compiling takes longer than opening a journal
_OPEN: weakref.WeakSet[Database] = weakref.WeakSet()


class Database:
    """A journal's database and this process's connection to it, guarded by ``lock`` and usable from any thread.

    A forked child has no use of it: each of its statements is refused.

    Args:
        address: URL or path.
        durability: ``"full"`` or ``"process"``; see ``zoopt.journal.Journal``.
        read_only: Whether nothing may be written.

    Raises:
        ConfigError: The address or the durability is none.
        JournalError: The database cannot be opened, or is not a journal that this version reads.
    """

    def __init__(self, address: str | os.PathLike[str], *, durability: Durability, read_only: bool) -> None:
        if durability not in ("full", "process"):
            raise ConfigError(f"durability must be 'full' or 'process', not {durability!r}.")
        self.lock = threading.RLock()
        self.read_only = read_only
        self.pid = os.getpid()
        self.epoch = 0  # goes up whenever the connection is given up
        self.full = durability == "full"
        self._immutable = False
        self._connection: Connection | None = None
        self._driver: Any = None  # what is behind the connection
        self._file: sqlite3.Connection | None = None  # the same, where that is SQLite
        self._synced: bool | None = None
        self._begun = False  # within transaction()
        self._opened = False
        self._chance = random.Random()
        self._place = ""  # path of the file, where that is SQLite
        self._inode: tuple[int, int] | None = None  # what was there when it was opened for writing
        url = _parse(address)
        self.path: Path | None = None
        self.outlived = True  # whether the database may crash, and lose what was not synced, while this process lives on
        if url.get_backend_name() == "sqlite":
            self.path = _path(url)
            self._place = str(self.path)
            self.label = str(url.database)
            self.outlived = False
            if read_only and not self.path.exists():
                raise JournalError(f"there is no journal {self.label}. Check the path, or run the study first.")
            _check_path(self.path, self.label)
            self._engine = create_engine("sqlite://", creator=self._connect_file, poolclass=NullPool, isolation_level="AUTOCOMMIT")
        else:
            self.label = url.render_as_string(hide_password=True)
            try:
                self._engine = create_engine(
                    url.set(drivername="postgresql+psycopg"),
                    poolclass=NullPool,
                    isolation_level="AUTOCOMMIT",
                    paramstyle="format",
                    use_native_hstore=False,
                    connect_args={} if "connect_timeout" in url.query else {"connect_timeout": 10},
                )
            except ModuleNotFoundError as error:
                raise JournalError(_NO_DRIVER) from error
        self.dialect = self._engine.dialect.name
        self._driver_error: type[Exception] = self._engine.dialect.loaded_dbapi.Error
        if self.dialect not in _COMPILED:
            _COMPILED[self.dialect] = {name: self._compile(construct) for name, construct in schema.STATEMENTS.items()}
        self._statements = _COMPILED[self.dialect]
        self.append = self._statements["append"].text
        _OPEN.add(self)
        try:
            self._open()
            self._opened = True
            self._wait_ourselves()
        except BaseException:
            self.close()
            raise

    # Statements

    def run(self, text: str, parameters: tuple[Any, ...] | list[tuple[Any, ...]] | None = None) -> CursorResult[Any]:
        """Run one statement given as text, once for each row of parameters.

        Raises:
            IntegrityError: A key is taken already.
            ConnectionLost: The connection ended; the next statement opens another.
            JournalError: Any other failure, as a sentence.
        """
        end = None
        while True:
            try:
                connection = self._connection or self._connect()
                return connection.exec_driver_sql(text, parameters)
            except IntegrityError:
                raise
            except DBAPIError as error:
                if error.connection_invalidated:
                    self._drop()
                    raise ConnectionLost(
                        f"the connection to {self.label} was lost ({_first_line(error.orig)}), and it is not known whether the last "
                        "statement was carried out. The next call connects again; trying again does no harm."
                    ) from error
                if not _code(error.orig).startswith("SQLITE_BUSY"):
                    raise self.error(error.orig or error) from error
                end = end or time.monotonic() + _BUSY
                if time.monotonic() > end:
                    raise self.error(error.orig or error) from error
                # At random, and soon: with SQLite's own, ever longer pauses a driver that has just had its turn gets the next one too.
                time.sleep(self._chance.uniform(0.0, _PAUSE))
            except (SQLAlchemyError, UnicodeDecodeError) as error:
                raise self.error(error) from error
            except JournalError:
                raise
            except BaseException:  # an interrupt leaves the connection in no known state
                self._drop()
                raise

    def execute(self, statement: str, /, **values: Any) -> int:
        """Run a statement of ``schema.STATEMENTS``; how many rows it met."""
        with self.lock:
            text, order = self._statements[statement]
            return self.run(text, tuple([values[key] for key in order])).rowcount

    def fetch(self, statement: str, /, **values: Any) -> list[Any]:
        """All rows of a statement of ``schema.STATEMENTS``, as the driver gives them."""
        with self.lock:
            text, order = self._statements[statement]
            parameters = tuple([values[key] for key in order])
            try:
                result = self.run(text, parameters)
            except ConnectionLost:  # idle for too long, or the server was started again: reading twice does no harm
                if self._begun:
                    raise
                result = self.run(text, parameters)
            try:
                return list(result.cursor.fetchall()) if result.cursor is not None else []
            except (self._driver_error, UnicodeDecodeError) as error:
                raise self.error(error) from error
            finally:
                result.close()

    @contextmanager
    def transaction(self, *, sync: bool) -> Iterator[None]:
        """Everything within is written together or not at all."""
        with self.lock:
            self.synchronous(sync)
            try:
                self._begun = True
                self.run(_BEGIN[self.dialect])
                yield
                self.run("COMMIT")
            except BaseException:
                self._rollback()
                raise
            finally:
                self._begun = False

    def synchronous(self, sync: bool) -> None:
        """Have the following commits wait for the disk, or not; at durability "process" they never do."""
        wanted = sync and self.full
        if wanted is self._synced:
            return
        statement = _SYNCHRONOUS[self.dialect][wanted]
        self._synced = None  # not known, should this be interrupted
        if self._file is None:
            self.run(statement)
        else:  # twice a trial at durability "full": a bare statement, which costs a tenth of one through SQLAlchemy
            try:
                self._file.execute(statement)
            except sqlite3.Error as error:
                raise self.error(error) from error
        self._synced = wanted

    @property
    def synced(self) -> bool:
        """Whether a commit of this connection now waits for the disk, as the connection itself says."""
        with self.lock:
            setting = self.run("PRAGMA synchronous" if self.dialect == "sqlite" else "SHOW synchronous_commit").scalar()
            return setting in (2, "on")

    def detached(self, statement: str, /, **values: Any) -> int:
        """As ``execute``, on a connection of its own that is closed again; for threads beside the one that writes."""
        text, order = self._statements[statement]
        with self._engine.connect() as connection:
            connection.exec_driver_sql(_SYNCHRONOUS[self.dialect][False])
            return connection.exec_driver_sql(text, tuple([values[key] for key in order])).rowcount

    def close(self) -> None:
        """Close the connection."""
        with self.lock:
            self.write_back()
            self._drop()

    # The file, where that is SQLite

    @property
    def inode(self) -> str:
        """What tells the file from a copy of it; empty where there is no file."""
        return "" if self._inode is None else str(self._inode[1])

    def check_file(self) -> None:
        """See that the file is still where it was opened.

        Raises:
            JournalError: It was moved, deleted or replaced. What was recorded is in it, and no longer in a -wal file beside it.
        """
        if self._inode is None or _inode(self._place) == self._inode:
            return
        with self.lock:
            self.write_back()
            self._drop()
        raise JournalError(
            f"the file {self._place} was moved, deleted or replaced while this process had it open, and what was being recorded is not. "
            "Put it back and go on, or close the study and open it where the file is now."
        )

    def write_back(self) -> None:
        """Move what stands in the -wal file into the file itself, as far as nobody who reads or writes is in the way."""
        if self._file is not None and not self.read_only:
            with suppress(sqlite3.Error):
                self._file.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    # Connecting

    def _connect_file(self) -> sqlite3.Connection:
        self.check_file()
        mode = ("ro&immutable=1" if self._immutable else "ro") if self.read_only else "rwc" if self._inode is None else "rw"
        uri = f"file:{quote(str(self.path))}?mode={mode}"
        return sqlite3.connect(uri, uri=True, timeout=_BUSY, check_same_thread=False, factory=_File)

    def _connect(self) -> Connection:
        if os.getpid() != self.pid:
            raise JournalError(
                "this journal was opened before a fork and belongs to the parent process: ask and tell there, or open it again here."
            )
        self._connection = connection = self._engine.connect()
        self._driver = connection.connection.driver_connection
        self._file = self._driver if isinstance(self._driver, sqlite3.Connection) else None
        if self.dialect == "postgresql" and self.read_only:
            connection.exec_driver_sql("SET default_transaction_read_only TO on")
        if self._file is not None and not self.read_only and self._inode is None:
            self._inode = _inode(self._place)
        if self._opened:
            self._wait_ourselves()
        if self.dialect == "sqlite" and self.full:
            connection.exec_driver_sql("PRAGMA fullfsync=ON")  # macOS: through the drive's own cache; nothing elsewhere
        return connection

    def _drop(self) -> None:
        connection = self._forget()
        if connection is not None:
            with suppress(SQLAlchemyError, self._driver_error):
                connection.close()

    def _forget(self) -> Connection | None:
        connection, self._connection, self._driver, self._file, self._synced = self._connection, None, None, None, None
        self.epoch += 1
        return connection

    def _leave_to_parent(self) -> None:
        """In a forked child: forget the connection and see that nothing ever closes it, since that would end the parent's."""
        self.lock = threading.RLock()  # the other one may be held by a thread that is not here
        driver, connection = self._driver, self._forget()
        if connection is not None:
            with suppress(SQLAlchemyError):
                connection.detach()
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(driver))  # not collected at the end of the interpreter either

    def _rollback(self) -> None:
        if self._connection is None or (self._file is not None and not self._file.in_transaction):  # SQLite does so after some errors
            return
        try:
            self._connection.exec_driver_sql("ROLLBACK")
        except BaseException as error:
            self._drop()  # a new connection leaves no doubt
            if not isinstance(error, SQLAlchemyError):
                raise

    def _compile(self, construct: Executable) -> _Statement:
        compiled: Any = construct.compile(dialect=self._engine.dialect)  # type: ignore[attr-defined]
        return _Statement(str(compiled), tuple(compiled.positiontup))

    def _wait_ourselves(self) -> None:
        """Have SQLite say at once that another process is writing; see ``run``."""
        if self._file is not None:
            self._file.execute("PRAGMA busy_timeout=0")

    # Opening

    def _open(self) -> None:
        version = self._version()
        if version is None:
            if self.read_only:
                copied = ", or it is a copy without the -wal file that was beside it" if self.path else ""
                raise JournalError(f"{self.label} holds no journal: nothing was ever recorded there{copied}. Check the path.")
            version = self._refuse_others()
        elif version > schema.SCHEMA:
            raise JournalError(
                f"the journal {self.label} was written by a newer zoopt (schema {version}; this one knows up to {schema.SCHEMA}). "
                "Upgrade zoopt-toolkit; nothing was changed."
            )
        elif version < schema.SCHEMA and self.read_only:
            raise JournalError(
                f"the journal {self.label} was written by an older zoopt (schema {version}, now {schema.SCHEMA}); "
                "open it once for writing, which brings it up to date."
            )
        if self.read_only:
            return
        if version != schema.SCHEMA:  # before a -wal file is used, so that the tables are never in that alone
            self._create_or_migrate()
        if self.dialect == "sqlite":
            self.run("PRAGMA journal_mode=WAL").close()
        if version == schema.SCHEMA and self.dialect == "sqlite":
            with self.transaction(sync=False):  # a file without write permission opens silently and would fail at the first event
                pass

    def _version(self) -> int | None:
        """Schema of the journal, or None where there is none."""
        try:
            try:
                present = inspect(self._connection or self._connect()).has_table("zoopt_meta")
            except DBAPIError as error:
                # A journal in a folder that may not be written: without a -wal file nobody is writing, and it can be read as it is.
                if not self.read_only or not self.path or not _code(error.orig).startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY")):
                    raise
                if Path(f"{self.path}-wal").exists():
                    raise
                self._drop()
                self._immutable = True
                present = inspect(self._connect()).has_table("zoopt_meta")
        except DBAPIError as error:
            raise self.error(error.orig or error) from error
        except UnicodeDecodeError as error:
            raise self.error(error) from error
        if not present:
            return None
        rows = self.fetch("version")
        if not rows or not str(rows[0][0]).isdecimal():
            raise JournalError(f"the journal {self.label} does not say which schema it has: it is damaged. Nothing was changed.")
        return int(rows[0][0])

    def _refuse_others(self) -> int | None:
        """Refuse tables that are not ours; gives the schema of a journal that another process has made since we looked."""
        assert self._connection is not None
        size = self.path.stat().st_size if self.path else 0  # before the tables are looked for, which another process may be making
        tables = set(inspect(self._connection).get_table_names())
        if "zoopt_meta" in tables:
            return self._version()
        if self.dialect == "sqlite" and tables:
            raise JournalError(f"{self.label} is the database of another program (it holds {_some(tables)}); choose another file.")
        if size and not tables:
            raise JournalError(
                f"{self.label} holds no tables, and is no new file either. If it was copied from a journal in use, copy the -wal file that "
                "is beside that too; otherwise choose another file."
            )
        if taken := tables & set(schema.METADATA.tables):
            raise JournalError(f"{self.label} holds {_some(taken)} of another program; choose another database, or a schema of its own.")
        return None

    def _create_or_migrate(self) -> None:
        with self.transaction(sync=True):
            if self.dialect == "postgresql":  # CREATE TABLE IF NOT EXISTS is not safe against itself
                self.run("SELECT pg_advisory_xact_lock(2064212081)").close()
            version = self._version()  # once more: another process may just have done the same
            connection = self._connection
            assert connection is not None
            try:
                if version is None:
                    schema.METADATA.create_all(connection, checkfirst=False)
                    connection.execute(schema.META.insert().values(key="schema", value=str(schema.SCHEMA)))
                    return
                for migrate in schema.MIGRATIONS[version - 1 :]:
                    migrate(connection)
            except DBAPIError as error:
                raise self.error(error.orig or error) from error
            self.execute("set version", version=str(schema.SCHEMA))

    # Errors

    def error(self, error: BaseException) -> JournalError:
        """What the driver said, as a sentence that says what to do."""
        code, detail = _code(error), _first_line(error)
        name = self.label
        if code.startswith("SQLITE_READONLY") or code in ("25006", "42501"):
            sentence = f"the journal {name} may not be written ({detail}). Give it write permission. {self.look()}"
        elif code.startswith(("SQLITE_FULL", "SQLITE_IOERR", "53100")):
            sentence = (
                f"the disk of the journal {name} is full or failing ({detail}{self._room()}). "
                "What was being recorded is not; make room and go on."
            )
        elif code.startswith("SQLITE_CORRUPT") or code in ("XX001", "XX002") or "utf-8" in detail.lower():
            sentence = f"the journal {name} is damaged ({detail}); nothing was changed. {self.rescue}"
        elif code.startswith("SQLITE_NOTADB"):
            sentence = f"{name} is not a journal ({detail}); nothing was changed. Check the path; if it was one, restore a copy."
        elif code.startswith("SQLITE_BUSY"):
            sentence = f"another process has been writing to the journal {name} for {_BUSY:g} s. End it, or try again later."
        elif code.startswith("SQLITE_CANTOPEN"):
            sentence = f"the journal {name} cannot be opened ({detail}). Check that its folder exists and may be written."
        elif self.dialect == "postgresql" and self._connection is None:
            sentence = f"the server of the journal {name} does not answer ({detail}). Check the address and that the server runs."
        else:
            sentence = f"the journal {name} refused: {detail}."
        return JournalError(sentence)

    def look(self, study: str = "study") -> str:
        """How to look at a study without driving it."""
        shown = shlex.join(["zoopt", "show", self.label])
        arguments = f"{self.label!r}" if study == "study" else f"{self.label!r}, {study!r}"
        return f"To look at it: {shown}, or in Python zoopt.read({arguments}), which opens it with read_only=True."

    @property
    def rescue(self) -> str:
        """What to do with a damaged journal."""
        if self.dialect == "sqlite":
            return f"Restore a copy, or save what is left with: sqlite3 {self.label} .recover"
        return "Restore a backup of the database."

    def _room(self) -> str:
        try:
            return f", {shutil.disk_usage(self.path.parent).free / 1e6:.0f} MB free" if self.path else ""
        except OSError:
            return ""


def check_address(address: str | os.PathLike[str]) -> None:
    """Refuse what can hold no journal, as far as can be known without opening anything.

    Raises:
        ConfigError: The address is none.
        JournalError: It is a folder, its folder does not exist, or the driver of its database is not installed.
    """
    url = _parse(address)
    if url.get_backend_name() == "sqlite":
        _check_path(_path(url), str(url.database))
    elif find_spec("psycopg") is None:
        raise JournalError(_NO_DRIVER)


def _path(url: URL) -> Path:
    return Path(url.database or "").expanduser().absolute()


def _inode(place: str) -> tuple[int, int] | None:
    try:
        found = os.stat(place)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _check_path(path: Path, label: str) -> None:
    if path.is_dir():
        raise JournalError(f"the journal {label} is a folder; give the path of a file in it.")
    if not path.parent.is_dir():
        raise JournalError(f"the folder {path.parent} of the journal {label} does not exist; make it first.")


def _after_fork() -> None:
    for database in list(_OPEN):
        database._leave_to_parent()


if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
    os.register_at_fork(after_in_child=_after_fork)


def _parse(address: str | os.PathLike[str]) -> URL:
    """A URL as it is; anything else is the path of an SQLite file."""
    address = os.fspath(address) if isinstance(address, os.PathLike) else address
    if not isinstance(address, str) or "\0" in address:
        raise ConfigError(f"a journal is named by a path or a URL, as in 'sqlite:///study.db', not by {address!r}.")
    if address.startswith(("file:", "sqlite:///file:")):
        name = address.removeprefix("sqlite:///").removeprefix("file:").partition("?")[0]
        raise ConfigError(f"{address!r} is an address for SQLite itself; write 'sqlite:///{name}'.")
    if "://" not in address:
        return URL.create("sqlite", database=address) if address and address != ":memory:" else _refuse_memory()
    try:
        url = make_url(address.replace("postgres://", "postgresql://", 1) if address.startswith("postgres://") else address)
    except (ArgumentError, ValueError) as error:
        raise ConfigError(f"{address!r} is no address of a journal; write 'sqlite:///file.db' or 'postgresql://user@host/name'.") from error
    if url.get_backend_name() not in _BEGIN:
        raise ConfigError(f"a journal is kept in SQLite or PostgreSQL, not in {url.get_backend_name()!r}; write 'sqlite:///file.db'.")
    if url.get_backend_name() == "sqlite" and (not url.database or url.database == ":memory:"):
        return _refuse_memory()
    if url.get_backend_name() == "sqlite" and url.query:
        raise ConfigError(f"a journal in SQLite has no options ({address!r}); write 'sqlite:///{url.database}'.")
    return url


def _refuse_memory() -> URL:
    raise ConfigError("a journal needs a file, as in 'sqlite:///study.db'; a study in memory has journal=None.")


def _code(error: BaseException | None) -> str:
    """SQLite's name of an error, or PostgreSQL's SQLSTATE."""
    return str(getattr(error, "sqlite_errorname", None) or getattr(error, "sqlstate", None) or "")


def _first_line(error: BaseException | None) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _some(tables: Sequence[str] | set[str]) -> str:
    names = sorted(tables)
    return f"table {', '.join(map(repr, names[:3]))}" + (f" and {len(names) - 3} more" if len(names) > 3 else "")
