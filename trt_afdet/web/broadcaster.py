"""Sends pictures, figures and events to the connected browsers over WebSockets.

Everything here runs in the server's event loop, except encoding, which uses separate threads. No
browser slows another one down, and nothing queues up: each connection remembers what it has sent
and sends the newest picture once the browser has confirmed the last ones.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trt_afdet.web.results import EncodedFrame, ResultStore, encode_frame, fitting_width
from trt_afdet.web.zones_store import ZonesStore

if TYPE_CHECKING:
    from starlette.websockets import WebSocket

log = logging.getLogger("trt_afdet.web")

#: Errors of a malformed message.
MALFORMED = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)

MAX_UNCONFIRMED = 2  # Pictures of a camera sent to a browser that it has not confirmed as shown.
SEND_TIMEOUT = 10.0  # Seconds after which a browser that receives nothing is disconnected.
MAX_WATCHED = 64  # Cameras that one browser may watch.
#: WebSocket close codes: try again later; protocol violation.
TRY_AGAIN, VIOLATION = 1013, 1008


@dataclass(eq=False)
class Broadcaster:
    """See the module."""

    results: ResultStore
    zones: ZonesStore
    state: Callable[[], dict[str, Any]]  # Makes the figures, JSON-able.
    most_viewers: int
    interval: float  # Seconds between pictures of a camera, at least.
    quality: int

    def __post_init__(self) -> None:
        self.encoded = self.served = 0  # Pictures encoded, and browsers served, so far.
        self.viewers: set[ViewerConnection] = set()
        self.workers: ThreadPoolExecutor | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waking = False
        self._frames: dict[tuple[str, int], EncodedFrame] = {}
        self._encoding: dict[tuple[str, int], asyncio.Future[EncodedFrame]] = {}

    async def run(self) -> None:
        """Makes the figures once a second, until it is cancelled."""
        self._loop = asyncio.get_running_loop()
        self.workers = ThreadPoolExecutor(2, thread_name_prefix="web encoder")
        self.results.listener = self._wake_soon
        try:
            while True:
                try:
                    self._tick()
                except Exception:
                    log.exception("the web page has no figures")
                await asyncio.sleep(1.0)
        finally:
            self.results.listener = None
            self.workers.shutdown(wait=False, cancel_futures=True)

    def _tick(self) -> None:
        # Also made when nobody watches: it notices a stuck detector.
        text = json.dumps(self.state(), ensure_ascii=False)
        watched = {key for viewer in self.viewers for key in viewer.watched.items()}
        self._frames = {key: frame for key, frame in self._frames.items() if key in watched}
        for viewer in self.viewers:
            viewer.state = text
        self.wake()

    def _wake_soon(self) -> None:
        """As :meth:`wake`, from the pipeline's threads."""
        if self.viewers and not self._waking and self._loop is not None:
            self._waking = True
            with suppress(RuntimeError):  # The loop has just ended.
                self._loop.call_soon_threadsafe(self.wake)

    def wake(self) -> None:
        """Has every connection look for news; from the event loop."""
        self._waking = False
        for viewer in self.viewers:
            viewer.changed.set()

    async def frame(self, camera: str, width: int, after: int) -> EncodedFrame | None:
        """The newest picture of a camera if it is newer than the one with this serial.

        However many ask, each frame is encoded once per width, and none is encoded sooner than the
        interval after the one before.
        """
        assert self._loop is not None
        key = (camera, width)
        latest = self.results.latest(camera)
        if latest is None or latest.serial <= after:
            return None
        frame = self._frames.get(key)
        now = self._loop.time()
        if frame is None or (frame.serial != latest.serial and now - frame.made >= self.interval):
            work = self._encoding.get(key)
            if work is None:
                asked = latest, width, self.quality, now
                work = self._loop.run_in_executor(self.workers, encode_frame, *asked)
                self._encoding[key] = work
                work.add_done_callback(lambda done: self._keep(key, done))
            frame = await asyncio.shield(work)
        return frame if frame.serial > after else None

    def _keep(self, key: tuple[str, int], done: asyncio.Future[EncodedFrame]) -> None:
        self._encoding.pop(key, None)
        if not done.cancelled() and done.exception() is None:
            self.encoded += 1
            self._frames[key] = done.result()

    async def serve(self, socket: WebSocket) -> None:
        await socket.accept()
        if len(self.viewers) >= self.most_viewers:
            await socket.close(TRY_AGAIN, "too many viewers")
            return
        viewer = ViewerConnection(self, socket)
        self.viewers.add(viewer)
        self.served += 1
        try:
            await viewer.run()
        finally:
            self.viewers.discard(viewer)


class ViewerConnection:
    """The WebSocket of one browser."""

    def __init__(self, broadcaster: Broadcaster, socket: WebSocket) -> None:
        self.watched: dict[str, int] = {}  # Width of the pictures it wants, by camera.
        self.state: str | None = json.dumps(broadcaster.state(), ensure_ascii=False)  # To be sent.
        self.changed = asyncio.Event()  # Set when there may be something to send.
        self.changed.set()
        self._broadcaster, self._socket = broadcaster, socket
        #: By camera: pictures the browser has not confirmed, and the serial of the last one sent.
        self._unconfirmed: Counter[str] = Counter()
        self._sent: Counter[str] = Counter()
        self._event = self._point = 0
        self._zones: object = None

    async def run(self) -> None:
        """Receives and sends until the browser disconnects, sends nonsense, or is too slow."""
        from starlette.websockets import WebSocketDisconnect

        sending = asyncio.create_task(self._send_all())
        try:
            while not sending.done():
                try:
                    self._receive(json.loads(await self._socket.receive_text()))
                except MALFORMED:
                    await self._socket.close(VIOLATION, "not understood")
                    return
        except (WebSocketDisconnect, RuntimeError):
            pass  # RuntimeError: it was closed from this side.
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    def _receive(self, message: dict[str, Any]) -> None:
        names = self._broadcaster.results.names
        if message["type"] == "watch":
            cameras = list(message["cameras"].items())[:MAX_WATCHED]
            self.watched = {n: fitting_width(int(w)) for n, w in cameras if names.source(n)}
            # What was not confirmed by now never will be.
            for table in (self._unconfirmed, self._sent):
                for camera in table.keys() - self.watched.keys():
                    del table[camera]
        elif message["type"] == "shown":
            camera = message["camera"]
            if names.source(camera) is None:
                raise ValueError(camera)
            # It may have been sent before the browser stopped watching that camera.
            self._unconfirmed[camera] = max(0, self._unconfirmed[camera] - 1)
        else:
            raise ValueError(message["type"])
        self.changed.set()

    async def _send_all(self) -> None:
        # Not asyncio.wait_for, which can swallow the cancellation before Python 3.12.
        from anyio import fail_after
        from starlette.websockets import WebSocketDisconnect

        loop = asyncio.get_running_loop()
        try:
            while True:
                await self.changed.wait()
                self.changed.clear()
                started = loop.time()
                with fail_after(SEND_TIMEOUT):
                    await self._send_texts()
                for camera, width in list(self.watched.items()):
                    if self._unconfirmed[camera] >= MAX_UNCONFIRMED:
                        continue
                    frame = await self._broadcaster.frame(camera, width, self._sent[camera])
                    if frame is not None and camera in self.watched:
                        self._sent[camera] = frame.serial
                        self._unconfirmed[camera] += 1
                        with fail_after(SEND_TIMEOUT):
                            await self._socket.send_bytes(frame.data)
                await asyncio.sleep(max(0.0, started + self._broadcaster.interval - loop.time()))
        except (TimeoutError, WebSocketDisconnect, RuntimeError) as error:
            log.debug("a browser has disconnected: %r", error)
        except Exception:
            log.exception("a browser cannot be served")
        with suppress(Exception):
            await self._socket.close(TRY_AGAIN, "try again")

    async def _send_texts(self) -> None:
        results, zones = self._broadcaster.results, self._broadcaster.zones
        if self.state is not None:
            text, self.state = self.state, None
            await self._socket.send_text(text)
        # Shapes in pixels become shares as soon as there is a picture, or one of another size.
        known = (zones.revision, results.sizes())
        if known != self._zones:
            self._zones = known
            names = {source: results.names.of(source) for source in zones.all()}
            public = {n: zones.in_shares(s, known[1].get(n)) for s, n in names.items()}
            await self._send("zones", public)
        if points := results.points_after(self._point):
            self._point = points[-1]["id"]
            await self._send("points", points)
        if events := results.events_after(self._event):
            self._event = events[-1]["id"]
            await self._send("events", events)

    async def _send(self, kind: str, news: object) -> None:
        message = json.dumps({"type": kind, kind: news}, ensure_ascii=False)
        await self._socket.send_text(message)
