"""The queue on disk: first in, first out, bounded, and there again after a kill."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from trt_afdet.errors import CorruptFileError, InvalidValueError, RunError, WriteError
from trt_afdet.stream.sinks.spool import (
    LEAST,
    OVERHEAD,
    Entry,
    Spool,
    SpoolClosedError,
    default_spool,
)


def opened(path: Path, limit: int = 1 << 20) -> Spool:
    spool = Spool(path, limit)
    spool.open()
    return spool


def bodies(entries: list[Entry]) -> list[str]:
    return [entry.body for entry in entries]


def test_first_in_first_out_over_restarts(tmp_path: Path) -> None:
    path = tmp_path / "new" / "spool.sqlite"
    spool = opened(path)
    spool.put([("a", "0"), ("b", "1")])
    spool.put((str(i), str(i)) for i in range(2, 6))
    first = spool.head(3)
    assert bodies(first) == ["0", "1", "2"]
    assert [e.key for e in first] == ["a", "b", "2"]
    assert bodies(spool.head(3)) == ["0", "1", "2"]
    spool.remove(first[1].id)
    assert spool.waiting() == 4
    spool.close()
    spool.close()
    again = opened(path)
    assert bodies(again.head(9)) == ["2", "3", "4", "5"]
    again.remove(again.head(9)[-1].id)
    assert (again.head(9), again.waiting()) == ([], 0)
    again.put([("", "6")])
    # Ids grow on though the table was empty.
    assert again.head(1)[0].id > first[-1].id + 3
    again.close()
    assert path.stat().st_mode & 0o077 == 0


def test_beyond_the_bound_the_oldest_go_and_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "spool.sqlite"
    spool = opened(path, LEAST)
    body = "x" * (1000 - OVERHEAD - 1)
    for number in range(1000):
        spool.put([("k", f"{number:06d}{body[6:]}")])
    kept = [int(text[:6]) for text in bodies(spool.head(10_000))]
    assert kept == list(range(1000 - len(kept), 1000))
    assert LEAST - 1000 < len(kept) * 1000 <= LEAST
    assert spool.dropped == 1000 - len(kept)
    assert spool.waiting() == len(kept)
    # One that is too large for it is dropped and pushes nothing out.
    spool.put([("k", "y" * LEAST)])
    assert spool.waiting() == len(kept)
    assert spool.dropped == 1001 - len(kept)
    spool.put([("k", "z")])
    assert bodies(spool.head(10_000))[-1] == "z"
    spool.close()
    # The pages are used again: the file does not grow with what went through it.
    assert path.stat().st_size < 4 * LEAST


def test_what_is_dropped_while_it_is_being_sent_is_no_trouble(tmp_path: Path) -> None:
    spool = opened(tmp_path / "spool.sqlite", LEAST)
    spool.put(("", "a" * 1000) for _ in range(40))
    in_work = spool.head(20)
    spool.put(("", "b" * 1000) for _ in range(60))
    spool.remove(in_work[-1].id)
    assert spool.waiting() == len(spool.head(1000))
    spool.remove(spool.head(1000)[-1].id)
    assert spool.waiting() == 0
    spool.close()


def test_waiting_ends_with_an_entry_a_full_batch_or_hurry(tmp_path: Path) -> None:
    spool = opened(tmp_path / "spool.sqlite")
    started = time.monotonic()
    threading.Timer(0.1, spool.put, [[("", "0")]]).start()
    assert bodies(spool.head(2, wait=300)) == ["0"]
    threading.Timer(0.1, spool.put, [[("", "1")]]).start()
    assert bodies(spool.head(2, full=300)) == ["0", "1"]
    assert spool.head(9, full=0.05)
    threading.Timer(0.1, spool.hurry).start()
    assert len(spool.head(9, full=300)) == 2
    assert time.monotonic() - started < 60
    spool.close()
    with pytest.raises(SpoolClosedError):
        spool.head(1)
    with pytest.raises(SpoolClosedError):
        spool.put([("", "2")])


def test_one_process_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "spool.sqlite"
    spool = opened(path)
    with pytest.raises(RunError, match=r"another process uses this spool.*spool=FILE"):
        Spool(path).open()
    spool.put([("", "0")])
    spool.close()


def test_bad_files_and_bounds_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "letter.txt"
    path.write_text("Dear Sir or Madam, " * 1000)
    with pytest.raises(CorruptFileError, match="not a spool"):
        Spool(path).open()
    assert path.read_text().startswith("Dear")
    with pytest.raises(WriteError, match="a part of the path is a file"):
        Spool(path / "spool.sqlite").open()
    with pytest.raises(InvalidValueError, match="at least"):
        Spool(path, 1000)


def test_a_full_disk_is_a_clear_failure_and_damages_nothing(tmp_path: Path) -> None:
    path = tmp_path / "spool.sqlite"
    script = f"""
import resource
from pathlib import Path
from trt_afdet.errors import WriteError
from trt_afdet.stream.sinks.spool import Spool
spool = Spool(Path({str(path)!r})); spool.open()
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
number = 0
try:
    while True:
        spool.put([("", f"{{number}} " + "x" * 1000)])
        number += 1
except WriteError as error:
    print(number, error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert "the spool cannot be written" in done.stdout
    assert "disk is full" in done.stdout
    spool = opened(path)
    kept = [int(text.split()[0]) for text in bodies(spool.head(10_000))]
    assert kept == list(range(int(done.stdout.split()[0])))
    assert len(kept) > 10
    spool.close()


WRITER = """
import sys
from pathlib import Path
from trt_afdet.stream.sinks.spool import Spool
spool = Spool(Path(sys.argv[1]), 1 << 30); spool.open()
number = int(sys.argv[2])
while True:
    spool.put([("", str(number))])
    print(number, flush=True)
    number += 1
    if number % 3 == 0:
        first = spool.head(1)[0]
        spool.remove(first.id)
        print("removed", first.body, flush=True)
"""


def test_kills_lose_nothing_that_was_taken(tmp_path: Path) -> None:
    path = tmp_path / "spool.sqlite"
    random.seed(5)
    taken: set[int] = set()
    removed: list[int] = []
    start = 0
    for _ in range(8):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), str(start)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        seen = [process.stdout.readline()]
        time.sleep(random.uniform(0, 0.2))
        process.send_signal(signal.SIGKILL)
        seen += process.stdout.readlines()
        process.wait()
        process.stdout.close()
        for line in seen:
            if line.endswith("\n") and line.startswith("removed"):
                removed.append(int(line.split()[1]))
            elif line.endswith("\n"):
                taken.add(int(line))
        start = max(taken) + 1000
    spool = opened(path, 1 << 30)
    left = [int(text) for text in bodies(spool.head(10**6))]
    spool.close()
    assert left == sorted(set(left))
    assert taken - set(left) <= set(removed)
    # At least once: what was removed right before a kill may be there again, but only that.
    assert len(set(left) & set(removed)) <= 2 * 8
    assert len(taken) > 50


def test_the_usual_place_follows_the_service_or_the_user(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", f"{tmp_path}/service:{tmp_path}/other")
    path = default_spool("mqtt://host:1883/a")
    assert path.parent == tmp_path / "service" / "spool"
    assert path.name.startswith("mqtt-")
    assert path != default_spool("mqtt://host:1883/b")
    monkeypatch.delenv("STATE_DIRECTORY")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert default_spool("x").parent == tmp_path / "state" / "trt-afdet" / "spool"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert os.fspath(default_spool("x")).startswith(f"{tmp_path}/.local/state/")


def test_memory_stays_small_while_much_waits(tmp_path: Path) -> None:
    spool = opened(tmp_path / "spool.sqlite", 64 << 20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(300):
        spool.put(("", "x" * 10_000) for _ in range(20))
    assert spool.waiting() == 6000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20 << 10
    spool.close()


def test_one_that_is_larger_than_the_spool_pushes_nothing_out(tmp_path: Path) -> None:
    spool = opened(tmp_path / "spool.sqlite", LEAST)
    spool.put([("a", "1"), ("a", "2")])
    spool.put([("a", "x" * LEAST), ("a", "3")])
    assert bodies(spool.head(10)) == ["1", "2", "3"]
    assert spool.dropped == 1
    spool.close()
