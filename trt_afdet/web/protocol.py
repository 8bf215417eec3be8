"""HTTP for people who do not have all day."""

from __future__ import annotations

from typing import Any

#: Seconds within which a request must be complete, head and body.
PATIENCE = 15.0
#: Connections that may be open; more are closed as they come.
MOST_CONNECTIONS = 192


def protocol_class() -> type[Any]:
    """uvicorn's HTTP/1.1 that hangs up on clients who begin a request and do not finish it.

    Without that, connections that say nothing would in the end keep everybody else out.
    """
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Impatient(H11Protocol):
        _deadline: Any = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if len(self.connections) > MOST_CONNECTIONS:
                # Descriptors are needed for cameras, too.
                transport.abort()
                return
            self._expect()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._expect()

        def connection_lost(self, exc: Exception | None) -> None:
            self._relax()
            super().connection_lost(exc)

        def _expect(self) -> None:
            """Starts the clock while a request is incomplete, stops it when it is whole."""
            cycle = self.cycle
            whole = cycle is not None and not cycle.more_body and not cycle.response_complete
            if whole or self.transport.get_protocol() is not self:
                self._relax()
            elif self._deadline is None:
                self._deadline = self.loop.call_later(PATIENCE, self._give_up)

        def _relax(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

        def _give_up(self) -> None:
            if self.transport.get_protocol() is self:
                self.transport.abort()

    return Impatient
