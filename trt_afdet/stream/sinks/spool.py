"""A bounded queue on disk for undelivered records; it survives restarts."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from trt_afdet.errors import AfdetError, CorruptFileError, InvalidValueError, RunError, WriteError
from trt_afdet.support.files import write_error

#: Bytes of an entry besides its text, roughly.
OVERHEAD = 64
#: Least bound, bytes.
LEAST = 64 << 10


class SpoolClosedError(RunError):
    """The spool was closed by another thread."""


@dataclass(frozen=True)
class Entry:
    """What waits.

    Attributes:
        id: Grows from entry to entry, also over restarts.
        key: Where it goes; what that means is the sink's matter.
        body: JSON.
    """

    id: int
    key: str
    body: str


class Spool:
    """A first-in first-out queue in an SQLite file. Thread-safe; one process at a time.

    What :meth:`put` has taken survives a kill at once, and a power cut after some seconds.

    Args:
        path: The file; it and its folder are created if missing.
        limit: Bytes that may wait; beyond that the oldest entries go, and are counted. The file is
            a little larger, and keeps its largest size.
    """

    def __init__(self, path: Path, limit: int = 256 << 20) -> None:
        if limit < LEAST:
            raise InvalidValueError(f"a spool must hold at least {LEAST} bytes", got=limit)
        self.path = path
        self.dropped = 0
        self._limit = limit
        self._changed = threading.Condition()
        self._database: sqlite3.Connection | None = None
        self._count = 0
        self._bytes = 0
        self._removed = 0
        self._hurried = False

    def open(self) -> None:
        """Opens the file.

        Raises:
            WriteError: If it cannot be opened.
            CorruptFileError: If it is not a spool.
            RunError: If another process uses it.
        """
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
        self._count, self._bytes = int(row[0]), int(row[1])

    def put(self, items: Iterable[tuple[str, str]]) -> None:
        """Appends keys with their bodies, all of them or none.

        One that is larger than the spool is dropped and counted; the others lose nothing by it.

        Raises:
            WriteError: If the disk is full or broken.
            SpoolClosedError: If it is closed.
        """
        rows = [(k, b, len(k.encode()) + len(b.encode()) + OVERHEAD) for k, b in items]
        fitting = [row for row in rows if row[2] <= self._limit]
        self.dropped += len(rows) - len(fitting)
        rows = fitting
        if not rows:
            return
        with self._changed:
            database = self._open_database()
            count, size, dropped = self._count, self._bytes, 0
            try:
                database.execute("BEGIN")
                # Not deleted when they were delivered: one transaction is cheaper than two.
                database.execute("DELETE FROM entries WHERE id <= ?", (self._removed,))
                database.executemany("INSERT INTO entries (key, body, size) VALUES (?, ?, ?)", rows)
                count += len(rows)
                size += sum(row[2] for row in rows)
                while size > self._limit:
                    oldest = database.execute(
                        "SELECT id, size FROM entries ORDER BY id LIMIT 256"
                    ).fetchall()
                    through = 0
                    for through, its_size in oldest:  # noqa: B007
                        size -= its_size
                        dropped += 1
                        if size <= self._limit:
                            break
                    database.execute("DELETE FROM entries WHERE id <= ?", (through,))
                database.execute("COMMIT")
            except sqlite3.Error as error:
                if database.in_transaction:
                    database.execute("ROLLBACK")
                raise self._translated(error) from error
            self._count, self._bytes = count - dropped, size
            self.dropped += dropped
            self._changed.notify_all()

    def head(self, most: int, *, wait: float = 0.0, full: float = 0.0) -> list[Entry]:
        """The oldest entries, at most ``most``; they stay until they are removed.

        Args:
            wait: Seconds to wait for the first.
            full: Seconds to wait for more once there is one.

        Raises:
            SpoolClosedError: If it is closed.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._count or self._hurried, wait)
            if full and 0 < self._count < most:
                self._changed.wait_for(lambda: self._count >= most or self._hurried, full)
            rows = self._open_database().execute(
                "SELECT id, key, body FROM entries WHERE id > ? ORDER BY id LIMIT ?",
                (self._removed, most),
            )
            return [Entry(*row) for row in rows]

    def remove(self, through: int) -> None:
        """Removes all entries up to an id, that one included.

        After a kill right then, the last ones may be there again.
        """
        with self._changed:
            query = "SELECT count(*), total(size) FROM entries WHERE id > ? AND id <= ?"
            found = self._open_database().execute(query, (self._removed, through))
            count, size = found.fetchone()
            self._count -= int(count)
            self._bytes -= int(size)
            self._removed = max(self._removed, through)

    def hurry(self) -> None:
        """From now on :meth:`head` waits for nothing."""
        with self._changed:
            self._hurried = True
            self._changed.notify_all()

    def waiting(self) -> int:
        """Entries that wait."""
        with self._changed:
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
        if "not a database" in text or "malformed" in text or "no such column" in text:
            what = "the file is not a spool, or damaged"
            return CorruptFileError(what, got=self.path, hint="move it away")
        hint = "the disk is full" if "full" in text or "disk I/O" in text else None
        return WriteError("the spool cannot be written", got=f"{self.path}: {text}", hint=hint)


def default_spool(target: str) -> Path:
    """Where what waits for a target is kept if nobody says: in the service's or user's state."""
    state = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    if not state:
        home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
        state = str(Path(home) / "trt-afdet")
    name = hashlib.sha256(target.encode()).hexdigest()[:16]
    return Path(state) / "spool" / f"{target.partition(':')[0]}-{name}.sqlite"
