"""Sends pictures, figures and events to the browsers that watch.

Everything here runs in the server's event loop, except encoding, which has threads of its own. No
browser slows another one down or makes anything queue up: each has a cursor into what the hub keeps
and takes the newest picture when it has shown the last ones.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from trt_afdet.web.hub import Hub
from trt_afdet.web.picture import Packet, encode, fitting_width
from trt_afdet.web.zones_store import ZonesStore, in_pixels

if TYPE_CHECKING:
    from starlette.websockets import WebSocket

log = logging.getLogger("trt_afdet.web")

#: Pictures of a camera that may be on their way to a browser; it confirms each one it has shown.
UNDER_WAY = 2
#: Seconds after which a browser that takes nothing is given up.
PATIENCE = 10.0
#: Cameras that one browser may watch.
MOST_WATCHED = 64
#: WebSocket close codes: try again later; broken rules.
FULL, MISBEHAVED = 1013, 1008


class Feed:
    """See the module.

    Args:
        hub: Where pictures and events come from.
        zones: Sent to every browser, again after each change.
        state: Makes the figures, a JSON-able dict.
        most_viewers: Browsers that may watch at once.
        most_fps: Pictures per second and camera.
        quality: Of the JPEGs, 1 to 100.
    """

    def __init__(
        self,
        hub: Hub,
        zones: ZonesStore,
        state: Callable[[], dict[str, Any]],
        *,
        most_viewers: int,
        most_fps: float,
        quality: int,
    ) -> None:
        self.hub = hub
        self.zones = zones
        self.interval = 1 / most_fps
        #: Pictures encoded so far.
        self.encoded = 0
        #: Browsers served so far.
        self.served = 0
        self.viewers: set[Viewer] = set()
        self.workers: ThreadPoolExecutor | None = None
        self.figures = state
        self._most_viewers = most_viewers
        self._quality = quality
        self._loop: asyncio.AbstractEventLoop | None = None
        self._poked = False
        self._packets: dict[tuple[str, int], Packet] = {}
        self._under_way: dict[tuple[str, int], asyncio.Future[Packet]] = {}

    async def run(self) -> None:
        """Makes the figures once a second, until it is cancelled."""
        self._loop = asyncio.get_running_loop()
        self.workers = ThreadPoolExecutor(2, thread_name_prefix="web encoder")
        self.hub.listener = self._poke
        try:
            while True:
                try:
                    self._tick()
                except Exception:
                    log.exception("the web page has no figures")
                await asyncio.sleep(1.0)
        finally:
            self.hub.listener = None
            self.workers.shutdown(wait=False, cancel_futures=True)

    def _tick(self) -> None:
        # Also made when nobody watches: it notices a detector that stands still.
        text = json.dumps(self.figures(), ensure_ascii=False)
        watched = {key for viewer in self.viewers for key in viewer.watched.items()}
        for key in [key for key in self._packets if key not in watched]:
            del self._packets[key]
        for viewer in self.viewers:
            viewer.state = text
            viewer.changed.set()

    def _poke(self) -> None:
        """Something is new; called from the pipeline's threads."""
        if self.viewers and not self._poked and self._loop is not None:
            self._poked = True
            with suppress(RuntimeError):  # The loop has just ended.
                self._loop.call_soon_threadsafe(self.wake)

    def wake(self) -> None:
        """Has every viewer look for news; from the event loop."""
        self._poked = False
        for viewer in self.viewers:
            viewer.changed.set()

    async def packet(self, camera: str, width: int, after: int) -> Packet | None:
        """The newest picture of a camera if it is newer than the one with this serial.

        However many ask, each frame is encoded once per width, and none is encoded sooner than the
        interval after the one before.
        """
        assert self._loop is not None
        key = (camera, width)
        slot = self.hub.latest(camera)
        if slot is None or slot.serial <= after:
            return None
        packet = self._packets.get(key)
        if packet is None or (
            packet.serial != slot.serial and self._loop.time() - packet.made >= self.interval
        ):
            work = self._under_way.get(key)
            if work is None:
                now = self._loop.time()
                work = self._loop.run_in_executor(
                    self.workers, encode, slot, width, self._quality, now
                )
                self._under_way[key] = work
                work.add_done_callback(lambda done: self._keep(key, done))
            packet = await asyncio.shield(work)
        return packet if packet.serial > after else None

    def _keep(self, key: tuple[str, int], done: asyncio.Future[Packet]) -> None:
        self._under_way.pop(key, None)
        if not done.cancelled() and done.exception() is None:
            self.encoded += 1
            self._packets[key] = done.result()

    async def serve(self, socket: WebSocket) -> None:
        """Serves a browser until it goes."""
        await socket.accept()
        if len(self.viewers) >= self._most_viewers:
            await socket.close(FULL, "too many viewers")
            return
        viewer = Viewer(self, socket)
        self.viewers.add(viewer)
        self.served += 1
        try:
            await viewer.run()
        finally:
            self.viewers.discard(viewer)


class Viewer:
    """One browser.

    Attributes:
        watched: Width of the pictures it wants, by camera.
        state: Figures to be sent, or None.
        changed: Set when there may be something to send.
    """

    def __init__(self, feed: Feed, socket: WebSocket) -> None:
        self.watched: dict[str, int] = {}
        self.state: str | None = json.dumps(feed.figures(), ensure_ascii=False)
        self.changed = asyncio.Event()
        self.changed.set()
        self._feed = feed
        self._socket = socket
        self._under_way: dict[str, int] = {}
        self._seen: dict[str, int] = {}
        self._event = self._point = 0
        self._zones: object = None

    async def run(self) -> None:
        """Listens and sends until the browser goes, breaks the rules, or takes nothing."""
        from starlette.websockets import WebSocketDisconnect

        sending = asyncio.create_task(self._send_all())
        try:
            while True:
                try:
                    text = await self._socket.receive_text()
                    self._obey(json.loads(text))
                except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                    await self._socket.close(MISBEHAVED, "not understood")
                    return
                if sending.done():
                    return
        except (WebSocketDisconnect, RuntimeError):
            pass  # RuntimeError: it was closed from this side.
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    def _obey(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        if kind == "watch":
            cameras = list(message["cameras"].items())[:MOST_WATCHED]
            known = self._feed.hub.names
            self.watched = {
                name: fitting_width(int(width)) for name, width in cameras if known.source(name)
            }
            # What was not confirmed by now never will be.
            self._under_way = {n: c for n, c in self._under_way.items() if n in self.watched}
            self._seen = {n: s for n, s in self._seen.items() if n in self.watched}
        elif kind == "shown":
            camera = message["camera"]
            if self._feed.hub.names.source(camera) is None:
                raise ValueError(camera)
            # It may have been on its way when the browser stopped watching that camera.
            self._under_way[camera] = max(0, self._under_way.get(camera, 0) - 1)
        else:
            raise ValueError(kind)
        self.changed.set()

    async def _send_all(self) -> None:
        from starlette.websockets import WebSocketDisconnect

        loop = asyncio.get_running_loop()
        try:
            while True:
                await self.changed.wait()
                self.changed.clear()
                started = loop.time()
                await asyncio.wait_for(self._send_text(), PATIENCE)
                for camera, width in list(self.watched.items()):
                    if self._under_way.get(camera, 0) >= UNDER_WAY:
                        continue
                    packet = await self._feed.packet(camera, width, self._seen.get(camera, 0))
                    if packet is not None and camera in self.watched:
                        self._seen[camera] = packet.serial
                        self._under_way[camera] = self._under_way.get(camera, 0) + 1
                        await asyncio.wait_for(self._socket.send_bytes(packet.data), PATIENCE)
                await asyncio.sleep(max(0.0, self._feed.interval - (loop.time() - started)))
        except (asyncio.TimeoutError, WebSocketDisconnect, RuntimeError) as error:
            log.debug("a viewer has gone: %r", error)
        except Exception:
            log.exception("a viewer cannot be served")
        with suppress(Exception):
            await self._socket.close(FULL, "try again")

    async def _send_text(self) -> None:
        hub, zones = self._feed.hub, self._feed.zones
        if self.state is not None:
            text, self.state = self.state, None
            await self._socket.send_text(text)
        revision, table = zones.revision, zones.all()
        # Shapes in pixels become shares as soon as there is a picture, or one of another size.
        pixels = [source for source, value in table.items() if in_pixels(value)]
        sizes = hub.sizes() if pixels else {}
        known = (revision, [sizes.get(hub.names.of(source)) for source in pixels])
        if known != self._zones:
            self._zones = known
            names = {source: hub.names.of(source) for source in table}
            public = {n: zones.in_shares(s, sizes.get(n)) for s, n in names.items()}
            await self._send({"type": "zones", "zones": public})
        if points := hub.points_after(self._point):
            self._point = points[-1]["id"]
            await self._send({"type": "points", "points": points})
        if events := hub.events_after(self._event):
            self._event = events[-1]["id"]
            await self._send({"type": "events", "events": events})

    async def _send(self, message: dict[str, Any]) -> None:
        await self._socket.send_text(json.dumps(message, ensure_ascii=False))
