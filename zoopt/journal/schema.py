"""Tables of a journal, every statement that touches them, and the way from older schemas to this one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Double,
    Executable,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    bindparam,
    delete,
    func,
    insert,
    literal_column,
    select,
    update,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

METADATA = MetaData()

META = Table(
    "zoopt_meta",
    METADATA,
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),
)
STUDIES = Table(
    "studies",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("config", Text, nullable=False),  # JSON
    Column("created", Double, nullable=False),
    Column("lease_owner", Text, nullable=False),  # JSON; empty when nobody drives the study
    Column("lease_until", Double, nullable=False),  # by the clock of the database
)
LAYOUTS = Table(  # record dtypes, stored once and referred to by number
    "layouts",
    METADATA,
    Column("study", Integer, ForeignKey("studies.id"), primary_key=True, autoincrement=False),
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("spec", Text, nullable=False),
)
EVENTS = Table(  # append-only; its key is what keeps a second writer out
    "events",
    METADATA,
    Column("study", Integer, ForeignKey("studies.id"), primary_key=True, autoincrement=False),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("time", Double, nullable=False),
    Column("kind", Text, nullable=False),
    Column("layout", Integer),
    Column("rows", BigInteger, nullable=False),
    Column("asked", BigInteger),
    Column("remaining", BigInteger),
    Column("body", LargeBinary),
    Column("note", Text),  # JSON
    Column("checksum", BigInteger, nullable=False),  # CRC-32 of body and note; neither SQLite nor the disk keeps one
)
SNAPSHOTS = Table(
    "snapshots",
    METADATA,
    Column("study", Integer, ForeignKey("studies.id"), primary_key=True, autoincrement=False),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("body", LargeBinary, nullable=False),
    Column("checksum", BigInteger, nullable=False),
)
EVENT_COLUMNS = tuple(column for column in EVENTS.columns if column.name != "study")


class _Now(FunctionElement[float]):
    """Seconds since 1970 by the database's clock, so that machines with different clocks agree on who holds a lease."""

    type = Double()
    inherit_cache = True


@compiles(_Now, "sqlite")
def _now_sqlite(element: Any, compiler: Any, **options: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(_Now, "postgresql")
def _now_postgresql(element: Any, compiler: Any, **options: Any) -> str:
    return "CAST(extract(epoch FROM clock_timestamp()) AS DOUBLE PRECISION)"


_study = STUDIES.c.id == bindparam("study")
_second = (
    select(func.max(SNAPSHOTS.c.seq))
    .where(SNAPSHOTS.c.study == bindparam("study"), SNAPSHOTS.c.seq < bindparam("newest"))
    .scalar_subquery()
)

STATEMENTS: dict[str, Executable] = {
    "version": select(META.c.value).where(META.c.key == literal_column("'schema'")),
    "set version": update(META).where(META.c.key == literal_column("'schema'")).values(value=bindparam("version")),
    "names": select(STUDIES.c.name).order_by(STUDIES.c.name),
    "study": select(STUDIES.c.id, STUDIES.c.config).where(STUDIES.c.name == bindparam("name")),
    "create": insert(STUDIES).inline().values({c.name: bindparam(c.name) for c in STUDIES.columns if c.name != "id"}),
    "configure": update(STUDIES).where(_study, STUDIES.c.lease_owner == bindparam("owner")).values(config=bindparam("new")),
    "lease": select(STUDIES.c.lease_owner, STUDIES.c.lease_until, _Now()).where(_study),
    "take": update(STUDIES)
    .where(_study, STUDIES.c.lease_owner == bindparam("held"), STUDIES.c.lease_until == bindparam("until"))
    .values(lease_owner=bindparam("owner"), lease_until=_Now() + bindparam("seconds", type_=Double())),
    "renew": update(STUDIES)
    .where(_study, STUDIES.c.lease_owner == bindparam("owner"))
    .values(lease_until=_Now() + bindparam("seconds", type_=Double())),
    "release": update(STUDIES)
    .where(_study, STUDIES.c.lease_owner == bindparam("owner"))
    .values(lease_owner=literal_column("''"), lease_until=literal_column("0")),
    "last": select(func.max(EVENTS.c.seq)).where(EVENTS.c.study == bindparam("study")),
    "layouts": select(LAYOUTS.c.id, LAYOUTS.c.spec)
    .where(LAYOUTS.c.study == bindparam("study"), LAYOUTS.c.id >= bindparam("known"))
    .order_by(LAYOUTS.c.id),
    "events": select(*EVENT_COLUMNS)
    .where(EVENTS.c.study == bindparam("study"), EVENTS.c.seq > bindparam("after"), EVENTS.c.seq <= bindparam("until"))
    .order_by(EVENTS.c.seq),
    "snapshots": select(SNAPSHOTS.c.seq, SNAPSHOTS.c.body, SNAPSHOTS.c.checksum)
    .where(SNAPSHOTS.c.study == bindparam("study"), SNAPSHOTS.c.seq < bindparam("before"))
    .order_by(SNAPSHOTS.c.seq.desc()),
    "append": insert(EVENTS),
    "add layout": insert(LAYOUTS),
    "add snapshot": insert(SNAPSHOTS),
    "prune snapshots": delete(SNAPSHOTS).where(SNAPSHOTS.c.study == bindparam("study"), SNAPSHOTS.c.seq < _second),
}


def _add_remaining(connection: Connection) -> None:
    """1 -> 2: the budget that was left when a proposal was asked for."""
    connection.exec_driver_sql("ALTER TABLE events ADD COLUMN remaining BIGINT")


MIGRATIONS: list[Callable[[Connection], None]] = [_add_remaining]
"""``MIGRATIONS[v - 1]`` brings a journal of schema ``v`` to ``v + 1``. Never edited once released, only added to."""

SCHEMA = len(MIGRATIONS) + 1
