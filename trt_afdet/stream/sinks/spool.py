"""A bounded queue on disk for undelivered records; it survives restarts."""

from __future__ import annotations

import hashlib
import os
import re
import sqlite3
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from trt_afdet.errors import AfdetError, CorruptFileError, InvalidValueError, RunError, WriteError
from trt_afdet.support.files import write_error

OVERHEAD = 64  # Bytes of an entry besides its text, roughly.
LEAST = 64 << 10  # Least bound, bytes.


class SpoolClosedError(RunError):
    """The spool was closed by another thread."""


class Entry(NamedTuple):
    """What waits."""

    id: int  # Grows from entry to entry, also over restarts.
    key: str  # Where it goes; what that means is the sink's matter.
    body: str  # JSON.


class Spool:
    """A first-in first-out queue in an SQLite file. Thread-safe; one process at a time.

    What :meth:`put` has taken survives a kill at once, and a power cut after some seconds. At most
    ``limit`` bytes wait; beyond that the oldest entries go, and are counted. The file is a little
    larger, and keeps its largest size.
    """

    def __init__(self, path: Path, limit: int = 256 << 20) -> None:
        if limit < LEAST:
            raise InvalidValueError(f"a spool must hold at least {LEAST} bytes", got=limit)
        self.path = path
        self.dropped = 0
        self._limit = limit
        self._changed = threading.Condition()
        self._database: sqlite3.Connection | None = None
        self._count = self._bytes = self._removed = 0
        self._hurried = False

    def open(self) -> None:
        """Opens the file, made if missing; AfdetError if it is in use, or no spool."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.touch(mode=0o600)
        except OSError as error:
            raise write_error(self.path, error) from error
        database = sqlite3.connect(
            self.path, timeout=0, isolation_level=None, check_same_thread=False
        )
        try:
            # Exclusive: a second process is refused, and no shared memory is needed.
            database.execute("PRAGMA locking_mode = EXCLUSIVE")
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = NORMAL")
            database.execute("BEGIN EXCLUSIVE")
            database.execute(
                "CREATE TABLE IF NOT EXISTS entries (id INTEGER PRIMARY KEY AUTOINCREMENT,"
                " key TEXT NOT NULL, body TEXT NOT NULL, size INTEGER NOT NULL)"
            )
            row = database.execute("SELECT count(*), total(size) FROM entries").fetchone()
            database.execute("COMMIT")
        except sqlite3.Error as error:
            database.close()
            raise self._translated(error) from error
        self._database = database
        self._count, self._bytes = map(int, row)

    def put(self, items: Iterable[tuple[str, str]]) -> None:
        """Appends keys with their bodies, all or none; WriteError if the disk is full or broken.

        One that is larger than the spool is dropped and counted; the others lose nothing by it.
        """
        found = [(k, b, len(k.encode()) + len(b.encode()) + OVERHEAD) for k, b in items]
        rows = [row for row in found if row[2] <= self._limit]
        self.dropped += len(found) - len(rows)
        if not rows:
            return
        with self._changed:
            database = self._open_database()
            size, dropped = self._bytes + sum(row[2] for row in rows), 0
            try:
                database.execute("BEGIN")
                # Not deleted when they were delivered: one transaction is cheaper than two.
                database.execute("DELETE FROM entries WHERE id <= ?", (self._removed,))
                database.executemany("INSERT INTO entries (key, body, size) VALUES (?, ?, ?)", rows)
                if size > self._limit:
                    through = 0
                    for row in database.execute("SELECT id, size FROM entries ORDER BY id"):
                        if size <= self._limit:
                            break
                        through, size, dropped = row[0], size - row[1], dropped + 1
                    database.execute("DELETE FROM entries WHERE id <= ?", (through,))
                database.execute("COMMIT")
            except sqlite3.Error as error:
                if database.in_transaction:
                    database.execute("ROLLBACK")
                raise self._translated(error) from error
            self._count += len(rows) - dropped
            self._bytes = size
            self.dropped += dropped
            self._changed.notify_all()

    def head(self, most: int, *, wait: float = 0.0, full: float = 0.0) -> list[Entry]:
        """The oldest entries, at most ``most``; they stay until they are removed.

        Waits up to ``wait`` seconds for the first, then ``full`` seconds for more.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._count or self._hurried, wait)
            if full and 0 < self._count < most:
                self._changed.wait_for(lambda: self._count >= most or self._hurried, full)
            query = "SELECT id, key, body FROM entries WHERE id > ? ORDER BY id LIMIT ?"
            rows = self._open_database().execute(query, (self._removed, most))
            return list(map(Entry._make, rows))

    def remove(self, through: int) -> None:
        """Removes all up to an id, that one included; the last may be back after a kill."""
        with self._changed:
            query = "SELECT count(*), total(size) FROM entries WHERE id > ? AND id <= ?"
            found = self._open_database().execute(query, (self._removed, through))
            count, size = map(int, found.fetchone())
            self._count, self._bytes = self._count - count, self._bytes - size
            self._removed = max(self._removed, through)

    def hurry(self) -> None:
        """From now on :meth:`head` waits for nothing."""
        with self._changed:
            self._hurried = True
            self._changed.notify_all()

    def waiting(self) -> int:
        return self._count

    def close(self) -> None:
        """Closes the file; what waits stays there. Closing twice is fine."""
        with self._changed:
            database, self._database = self._database, None
            self._hurried = True
            self._changed.notify_all()
            if database is None:
                return
            try:
                database.execute("DELETE FROM entries WHERE id <= ?", (self._removed,))
            except sqlite3.Error as error:
                raise self._translated(error) from error
            finally:
                database.close()

    def _open_database(self) -> sqlite3.Connection:
        if self._database is None:
            raise SpoolClosedError("the spool is closed", got=self.path)
        return self._database

    def _translated(self, error: sqlite3.Error) -> AfdetError:
        text = str(error)
        if "locked" in text:
            what = "another process uses this spool"
            return RunError(what, got=self.path, hint="give each its own by spool=FILE")
        if re.search("not a database|malformed|no such column", text):
            what = "the file is not a spool, or damaged"
            return CorruptFileError(what, got=self.path, hint="move it away")
        hint = "the disk is full" if "full" in text or "disk I/O" in text else None
        return WriteError("the spool cannot be written", got=f"{self.path}: {text}", hint=hint)


def default_spool(target: str) -> Path:
    """Where what waits for a target is kept if nobody says: in the service's or user's state."""
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    state = os.environ.get("STATE_DIRECTORY", "").partition(":")[0] or Path(home, "trt-afdet")
    name = hashlib.sha256(target.encode()).hexdigest()[:16]
    return Path(state, "spool", f"{target.partition(':')[0]}-{name}.sqlite")
