"""The main thread of ``trt-afdet run``: signals, console, systemd; a worker runs the pipeline."""

from __future__ import annotations

import logging
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType

from trt_afdet.cli.live import View, summary
from trt_afdet.errors import AfdetError
from trt_afdet.stream.config.schema import ConfigError
from trt_afdet.stream.monitoring.systemd import Notifier, Watchdog
from trt_afdet.stream.pipeline import Pipeline
from trt_afdet.support.threads import Worker, end_process

log = logging.getLogger("trt_afdet.stream")

#: Seconds between two checks.
TICK = 0.2
#: Seconds to wait for the end of the pipeline.
LEFT_BEHIND = 10.0
#: Seconds between two lines for ``systemctl status``.
STATUS_EVERY = 10.0


@dataclass
class Server:
    """Runs a pipeline until it ends, a signal stops it, or its time is up.

    SIGINT and SIGTERM stop it; a second SIGINT ends the process at once. SIGHUP calls ``reload`` in
    a separate thread and logs its text; without, it stops the pipeline: the terminal has closed.
    """

    pipeline: Pipeline
    reload: Callable[[], str] | None
    view: View
    notifier: Notifier
    duration: float | None = None

    def __post_init__(self) -> None:
        self._watchdog = Watchdog(self.notifier)
        # A signal handler may put into this kind of queue even during get().
        self._news: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._interrupts = 0
        self._stopped = False
        self._failure: BaseException | None = None
        self._reloading: threading.Thread | None = None
        self._reload_again = False
        self._ready = False
        self._next_status = 0.0

    def run(self) -> int:
        """Runs the pipeline to its end; raises its error.

        Returns:
            130 after SIGINT, 0 after SIGTERM; otherwise 1 if a source failed for good or could not
            be read completely, else 0.
        """
        worker = Worker(self._work, name="pipeline", on_exit=self.pipeline.stop)
        names = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows lacks SIGHUP.
        numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
        before = {number: signal.signal(number, self._on_signal) for number in numbers}
        self.view.open()
        try:
            worker.start()
            self._attend(worker)
            self.notifier.stopping()
            worker.join(LEFT_BEHIND)
            if self._reloading is not None:
                self._reloading.join(LEFT_BEHIND)
        finally:
            self.view.close()
            for number, handler in before.items():
                signal.signal(number, handler)
        if worker.is_alive():
            print("trt-afdet: error: the pipeline does not end", file=sys.stderr, flush=True)
            end_process(1)
        if self._failure is not None:
            raise self._failure
        if self._interrupts:
            return 130
        return 1 if self.pipeline.incomplete() and not self._stopped else 0

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            self._interrupts += 1
            if self._interrupts > 1:
                os._exit(130)
        self._news.put(number)

    def _work(self) -> None:
        try:
            self.pipeline.run()
        except BaseException as error:
            self._failure = error
        finally:
            self._news.put(None)

    def _attend(self, worker: threading.Thread) -> None:
        """Handles signals and checks until the pipeline ends or must stop."""
        started = time.monotonic()
        while worker.is_alive():
            if self.duration is not None and time.monotonic() - started >= self.duration:
                break
            # Sources get a state once all sinks are open.
            if not self._ready and self.pipeline.board.latest():
                self._ready = True
                started = time.monotonic()
                self.notifier.ready()
            try:
                news = self._news.get(timeout=TICK)
            except queue.Empty:
                self._look()
                continue
            if news is None or news in (signal.SIGINT, signal.SIGTERM) or self.reload is None:
                self._stopped = news is not None
                break
            self._start_reload()
        self.pipeline.stop()

    def _look(self) -> None:
        if self._reload_again:
            self._start_reload()
        if not self._ready:
            return
        status = self.notifier.watchdog is not None and time.monotonic() >= self._next_status
        if not (self.view.due or self._watchdog.due or status):
            return
        snapshot = self.pipeline.snapshot()
        if self.view.due:
            self.view.show(snapshot)
        if self._watchdog.due and not self._watchdog.look(snapshot):
            log.error("the pipeline hangs: frames wait and none is finished")
        if status:
            self._next_status = time.monotonic() + STATUS_EVERY
            self.notifier.status(summary(snapshot))

    def _start_reload(self) -> None:
        self._reload_again = self._reloading is not None and self._reloading.is_alive()
        if not self._reload_again:
            self._reloading = threading.Thread(target=self._do_reload, name="reload", daemon=True)
            self._reloading.start()

    def _do_reload(self) -> None:
        assert self.reload is not None
        self.notifier.reloading()
        try:
            log.info("reloaded: %s", self.reload())
        except AfdetError as error:
            for problem in error.problems if isinstance(error, ConfigError) else [error]:
                log.error("%s", problem)
            log.error("the configuration was not reloaded; the old one stays")
        except Exception:
            log.exception("the configuration was not reloaded")
        finally:
            self.notifier.ready()
