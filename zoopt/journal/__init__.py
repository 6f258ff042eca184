"""The journal: studies as append-only events in SQLite or PostgreSQL.

It is the truth about a study; whatever a strategy knows can be had from it again. It knows nothing of strategies.
"""

from __future__ import annotations

import json
import logging
import os
import time
import weakref
from collections.abc import Mapping
from typing import Any, Self

from sqlalchemy.exc import IntegrityError

from zoopt.errors import ConfigError, JournalError
from zoopt.journal.database import Database, Durability, check_address
from zoopt.journal.events import Event, Events, decode, to_json
from zoopt.journal.lease import Owner
from zoopt.journal.log import OPENED, StudyLog, Transaction

__all__ = ["OPENED", "Event", "Events", "Journal", "Owner", "StudyLog", "Transaction", "check_address", "decode"]

logger = logging.getLogger("zoopt.journal")


class Journal:
    """A database that holds many studies, by name.

    Usable from several threads; not in a forked child, which opens its own.

    Args:
        address: ``"sqlite:///file.db"``, a bare path, or ``"postgresql://user@host/name"``. A file is made when missing; its folder is not.
        durability: ``"full"``: every synced event survives a power cut. ``"process"``: events survive the end of this process, however it
            comes; a power cut (on PostgreSQL also a crash of the server) may cost the last ones.
        read_only: Nothing is written; opens beside a running driver, and where writing is not permitted (see ``zoopt.read``).
        lease: Seconds after which a driver on another machine that was not heard of counts as gone. Renewed four times as often.

    Raises:
        ConfigError: An argument cannot be used.
        JournalError: The database cannot be opened, is no journal, is damaged, or was written by a newer zoopt. Nothing was changed.
    """

    def __init__(
        self, address: str | os.PathLike[str], durability: Durability = "full", *, read_only: bool = False, lease: float = 60.0
    ) -> None:
        if not lease > 0:
            raise ConfigError(f"lease must be a number of seconds above 0, not {lease!r}.")
        self._database = Database(address, durability=durability, read_only=read_only)
        self._lease = lease
        self._logs: weakref.WeakSet[StudyLog] = weakref.WeakSet()

    def names(self) -> list[str]:
        """Names of the studies in it, sorted."""
        return sorted(row[0] for row in self._database.fetch("names"))

    def config(self, name: str) -> dict[str, Any] | None:
        """Configuration of a study, or None when there is no such study."""
        rows = self._rows(name)
        return self._parse(rows[0][1]) if rows else None

    def study(self, name: str, create: Mapping[str, Any] | None = None) -> StudyLog:
        """The events of a study, not yet driven: readable at once, writable after ``StudyLog.acquire``.

        Args:
            name: Name of the study.
            create: Configuration (JSON) with which it is made when missing; an existing one keeps its own.

        Raises:
            ConfigError: The name is none.
            JournalError: There is no such study and ``create`` is None, or it cannot be written.
        """
        database = self._database
        rows = self._rows(name)
        created = False
        if not rows:
            if create is None:
                known = ", ".join(map(repr, self.names())) or "none at all"
                raise JournalError(f"there is no study {name!r} in the journal {database.label}; it holds {known}.")
            self._refuse_read_only()
            config = to_json(create, "the configuration of a study")
            database.synchronous(True)
            try:
                database.execute("create", name=name, config=config, created=time.time(), lease_owner="", lease_until=0.0)
                created = True
            except IntegrityError:  # another process made it in the meantime
                logger.debug("study %r was made by another process just now", name)
            rows = self._rows(name)
        log = StudyLog(self, rows[0][0], name, created=created, lease=self._lease)
        self._logs.add(log)
        return log

    @property
    def label(self) -> str:
        """Its address as messages show it: without a password."""
        return self._database.label

    @property
    def synced(self) -> bool:
        """Whether a commit made now would wait for the disk, as the connection itself says; that of the last event, after one."""
        return self._database.synced

    def close(self) -> None:
        """Give back the leases of its studies and close the connection."""
        for log in list(self._logs):
            log.close()
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _rows(self, name: str) -> list[Any]:
        try:
            fits = bool(name) and "\0" not in name and bool(name.encode())
        except (AttributeError, TypeError, UnicodeEncodeError):
            fits = False
        if not fits:
            raise ConfigError(f"the name of a study is a text that is not empty and can be written as UTF-8, not {name!r}.")
        return self._database.fetch("study", name=name)

    def _refuse_read_only(self) -> None:
        if self._database.read_only:
            raise JournalError(f"the journal {self.label} was opened with read_only=True; open it without to write, as a Study does.")

    def _parse(self, text: str) -> dict[str, Any]:
        try:
            config: dict[str, Any] = json.loads(text)
        except ValueError as error:
            raise JournalError(f"the journal {self.label} is damaged (a configuration is not JSON). {self._database.rescue}") from error
        return config
