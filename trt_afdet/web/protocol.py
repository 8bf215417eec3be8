"""uvicorn's HTTP/1.1 that disconnects slow clients and closes surplus connections.

uvicorn limits idle connections (``timeout_keep_alive``) and concurrent requests, but neither the
time that a request takes to arrive nor the number of connections: clients that begin a request and
do not finish it would in the end keep everybody else out.
"""

from __future__ import annotations

from typing import Any

#: Seconds within which a request must be complete, head and body.
REQUEST_TIMEOUT = 15.0
#: Connections that may be open; more are closed as they come.
MAX_CONNECTIONS = 192


def protocol_class() -> type[Any]:
    """The class for ``uvicorn.Config(http=...)``."""
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class LimitedProtocol(H11Protocol):
        _deadline: Any = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if len(self.connections) > MAX_CONNECTIONS:
                transport.abort()  # Cameras need file descriptors, too.
            else:
                self._set_deadline()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._set_deadline()

        def connection_lost(self, exc: Exception | None) -> None:
            self._clear_deadline()
            super().connection_lost(exc)

        def _set_deadline(self) -> None:
            cycle = self.cycle
            whole = cycle is not None and not cycle.more_body and not cycle.response_complete
            if whole or self.transport.get_protocol() is not self:
                self._clear_deadline()
            elif self._deadline is None:
                self._deadline = self.loop.call_later(REQUEST_TIMEOUT, self._disconnect)

        def _clear_deadline(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

        def _disconnect(self) -> None:
            # A WebSocket has another protocol by now.
            if self.transport.get_protocol() is self:
                self.transport.abort()

    return LimitedProtocol
