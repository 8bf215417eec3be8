"""Tells systemd the state of the service, and feeds its watchdog (sd_notify(3))."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Mapping

from trt_afdet.stream.monitoring.snapshot import PipelineSnapshot
from trt_afdet.support.files import TEXT_ERRORS

log = logging.getLogger("trt_afdet.stream")


class Notifier:
    """Sends messages to ``$NOTIFY_SOCKET``; does nothing without it."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        #: Seconds within which systemd wants to hear from the watchdog; None if it does not.
        self.watchdog: float | None = None
        self._socket: socket.socket | None = None
        self._address = "\0" + address[1:] if address.startswith("@") else address
        if not address.startswith(("/", "@")):
            return
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)
        limit = environment.get("WATCHDOG_USEC", "")
        # The variables are inherited: they may be meant for the parent.
        meant = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        if limit.isdigit() and int(limit) > 0 and meant:
            self.watchdog = int(limit) / 1e6

    def ready(self) -> None:
        """The service works; also after a reload."""
        self._send("READY=1")

    def reloading(self) -> None:
        """The configuration is being read again; :meth:`ready` ends it."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send(f"RELOADING=1\nMONOTONIC_USEC={now}")

    def stopping(self) -> None:
        """The service ends."""
        self._send("STOPPING=1")

    def alive(self) -> None:
        """Feeds the watchdog."""
        self._send("WATCHDOG=1")

    def status(self, text: str) -> None:
        """A line for ``systemctl status``."""
        self._send("STATUS=" + " ".join(text.split()))

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, message: str) -> None:
        if self._socket is None:
            return
        try:
            self._socket.sendto(message.encode("utf-8", TEXT_ERRORS), self._address)
        except OSError as error:
            log.warning("systemd cannot be told %s: %s", message.split("=")[0], error)


class Watchdog:
    """Feeds systemd's watchdog while the pipeline finishes frames, or none are waiting.

    Cameras that are away do not restart the service.
    """

    def __init__(self, notifier: Notifier, clock: Callable[[], float] = time.monotonic) -> None:
        self._notifier = notifier
        self._clock = clock
        self._next = clock()
        self._processed = -1

    @property
    def due(self) -> bool:
        """Whether to call :meth:`look`: twice in the time that systemd allows."""
        return self._notifier.watchdog is not None and self._clock() >= self._next

    def look(self, snapshot: PipelineSnapshot) -> bool:
        """Feeds the watchdog if these figures are good; whether it did."""
        assert self._notifier.watchdog is not None
        self._next = self._clock() + self._notifier.watchdog / 2
        processed = sum(figures.processed for figures in snapshot.sources.values())
        waiting = sum(queue.waiting for queue in snapshot.queues.values())
        good = processed != self._processed or waiting == 0
        self._processed = processed
        if good:
            self._notifier.alive()
        return good
