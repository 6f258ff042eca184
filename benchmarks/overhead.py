"""Overhead of a study a trial, against Optuna and against a bare SQLAlchemy loop.

Settings: f(x) = sum x_i^2, d = 10, box [-5, 5]^10, pure Python f one by one, random proposals, one thread, a fresh process a
case and repetition, interleaved; from the first ask to the last tell, imports and set-up excluded. Optuna 5.0.0 with
RandomSampler, ``ask(distributions)`` and ``tell``.

The bare loop commits the same two rows a trial (an ask and a tell of the journal's shape and size) to a fresh SQLite file
through SQLAlchemy Core with the journal's own settings: WAL, the ask not synced, the tell synced (``full``) or not (``process``). All
databases, Optuna's too, are made in one folder.
"""

from __future__ import annotations

import random
import struct
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from common import HERE, PEERS, Case, Figures, begin, collect, ratio_line, spread, write

if TYPE_CHECKING:
    from zoopt import Study

SCRIPT = Path(__file__)


def timed(n: int, trials: object) -> Figures:
    """Microseconds a trial of ``trials(n)``."""
    cpu, wall = time.process_time(), time.perf_counter()
    trials(n)  # type: ignore[operator]
    return {"cpu": (time.process_time() - cpu) / n * 1e6, "wall": (time.perf_counter() - wall) / n * 1e6}


def study(**options: object) -> Study:
    """A study of ten reals with random proposals."""
    import torch

    import zoopt
    from zoopt import Real, Space

    torch.set_num_threads(1)
    return zoopt.Study(Space({f"x{i}": Real(-5.0, 5.0) for i in range(10)}), "random", seed=0, **options)  # type: ignore[arg-type]


def one_by_one(n: int, **options: object) -> Figures:
    s = study(**options)

    def trials(count: int) -> None:
        for _ in range(count):
            trial = s.ask()
            s.tell(trial, sum(v * v for v in trial.params.values()))

    trials(50)
    return timed(n, trials)


def batches(n: int, read: str) -> Figures:
    s = study()

    def trials(count: int) -> None:
        done = 0
        while done < count:
            batch = s.ask(1000)
            if read == "x":
                values = batch.x.square().sum(-1)
            else:
                values = [sum(v * v for v in params.values()) for params in batch.params]
            s.tell(batch, values)
            done += len(batch)

    trials(2000)
    return timed(n, trials)


def journalled(n: int, place: Path, durability: str) -> Figures:
    with tempfile.TemporaryDirectory(dir=place) as folder:
        return one_by_one(n, journal=f"{folder}/study.db", durability=durability)


def bare(n: int, place: Path, full: bool) -> Figures:
    """The same two rows a trial, committed by SQLAlchemy Core and nothing else."""
    import sqlalchemy as sa

    with tempfile.TemporaryDirectory(dir=place) as folder:
        engine = sa.create_engine(f"sqlite:///{folder}/bare.db")
        columns = [sa.Column("study", sa.Integer, primary_key=True), sa.Column("seq", sa.Integer, primary_key=True)]
        columns += [sa.Column("time", sa.Float), sa.Column("kind", sa.String)]
        columns += [sa.Column(name, sa.Integer) for name in ("layout", "rows", "asked", "remaining")]
        columns += [sa.Column("body", sa.LargeBinary), sa.Column("note", sa.String), sa.Column("checksum", sa.Integer)]
        events = sa.Table("events", sa.MetaData(), *columns)
        events.metadata.create_all(engine)
        insert = events.insert()
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")
            connection.commit()
            seq, current = 0, ""

            def row(kind: str, body: bytes) -> dict[str, object]:
                return {
                    "study": 1,
                    "seq": seq,
                    "time": time.time(),
                    "kind": kind,
                    "layout": 1,
                    "rows": 1,
                    "asked": 1,
                    "remaining": None,
                    "body": body,
                    "note": None,
                    "checksum": 1,
                }

            def level(name: str) -> None:
                nonlocal current
                if name == current:  # the journal does not say it twice either
                    return
                current = name
                connection.connection.driver_connection.execute(f"PRAGMA synchronous={name}")

            def trials(count: int) -> None:
                nonlocal seq
                for _ in range(count):
                    x = [random.random() for _ in range(10)]
                    level("NORMAL")
                    connection.execute(insert, row("asked", struct.pack("<q10d", seq, *x)))
                    connection.commit()
                    seq += 1
                    level("FULL" if full else "NORMAL")
                    connection.execute(insert, row("told", struct.pack("<qd", seq, sum(v * v for v in x))))
                    connection.commit()
                    seq += 1

            trials(20)
            return timed(n, trials)


CASES: dict[str, Case] = {
    "zoopt, one by one": lambda n, _: one_by_one(n),
    "zoopt, batches of 1000, x": lambda n, _: batches(n, "x"),
    "zoopt, batches of 1000, params": lambda n, _: batches(n, "params"),
    "zoopt, sqlite full": lambda n, folder: journalled(n, folder, "full"),
    "zoopt, sqlite process": lambda n, folder: journalled(n, folder, "process"),
    "bare SQLAlchemy, full": lambda n, folder: bare(n, folder, True),
    "bare SQLAlchemy, process": lambda n, folder: bare(n, folder, False),
}


def main() -> None:
    """Run the cases and print the table."""
    given = begin(__doc__ or "", CASES)
    if not PEERS.exists():
        sys.exit("the peers' environment is missing: make bench-peers")
    scale = 10 if given.quick else 1
    peer = HERE / "peers" / "optuna_random.py"
    cases = [
        (SCRIPT, "zoopt, one by one", 20_000 // scale, sys.executable),
        (peer, "optuna, one by one", 2_000 // scale, PEERS),
        (SCRIPT, "zoopt, batches of 1000, x", 1_000_000 // scale, sys.executable),
        (SCRIPT, "zoopt, batches of 1000, params", 100_000 // scale, sys.executable),
        (SCRIPT, "zoopt, sqlite full", 1_000 // scale, sys.executable),
        (SCRIPT, "bare SQLAlchemy, full", 1_000 // scale, sys.executable),
        (SCRIPT, "zoopt, sqlite process", 5_000 // scale, sys.executable),
        (SCRIPT, "bare SQLAlchemy, process", 5_000 // scale, sys.executable),
        (peer, "optuna, sqlite", 100 // scale, PEERS),
    ]
    found = collect(cases, given)
    write(f"\n{'microseconds a trial':<40} {'trials':>9}         min     median        max")
    for _, name, n, _ in cases:
        for figure in ("cpu", "wall"):
            write(f"{name + ', ' + figure:<40} {n:>9} {spread([f[figure] for f in found[name]])}")
    write(f"\n{'ratio':<64}        min     median        max")
    write(ratio_line(found, "optuna, one by one", "zoopt, one by one", "cpu", ">= 20"))
    write(ratio_line(found, "optuna, one by one", "zoopt, batches of 1000, x", "cpu", ">= 1000"))
    write(ratio_line(found, "optuna, one by one", "zoopt, batches of 1000, params", "cpu", ">= 150"))
    write(ratio_line(found, "zoopt, sqlite full", "bare SQLAlchemy, full", "wall", "<= 1.3"))
    write(ratio_line(found, "optuna, sqlite", "zoopt, sqlite full", "wall", ">= 20"))
    write(ratio_line(found, "optuna, sqlite", "zoopt, sqlite process", "wall", ">= 150"))
    write(ratio_line(found, "zoopt, sqlite process", "bare SQLAlchemy, process", "wall", "none"))


if __name__ == "__main__":
    main()
