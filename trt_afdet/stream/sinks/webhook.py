"""Records to somebody's HTTP server.

``POST`` of a JSON object: ``{"records": [...]}``, oldest first. Anything but
a 2xx answer is tried again, later and later; redirects are not followed. 400, 413, 415, 422 and 431
mean that a record will never be taken: the batch is sent again one by one, and the culprit is
dropped and counted (``delivery.py``, also for other answers that only one record gets).

Headers: ``Idempotency-Key`` is the same when the same batch is sent again. With a secret,
``X-Trt-Afdet-Signature`` is ``sha256=`` and the hexadecimal HMAC-SHA256 of the body.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import socket
import ssl
from base64 import b64encode
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from trt_afdet.errors import InvalidValueError, MissingFileError
from trt_afdet.stream.options import Timeout
from trt_afdet.stream.sinks.delivery import DeliveryError, RefusedError, SpooledSink
from trt_afdet.stream.sinks.spool import Entry, Spool

HOPELESS = frozenset({400, 413, 415, 422, 431})  # Answers that trying again cannot change.
LONGEST_WAIT = 600.0  # A server may ask for patience, but not for more seconds than this.


@dataclass(frozen=True)
class WebhookOptions:
    """Where to post, and how."""

    url: str = field(repr=False)  # User and password in it are sent as Basic authentication.
    secret: str | None = field(default=None, repr=False)  # Key of the signature.
    token: str | None = field(default=None, repr=False)  # Sent as ``Authorization: Bearer``.
    ca: Path | None = None  # Certificates to trust instead of the system's.
    timeout: Timeout = 10.0  # Seconds for a connection, and for an answer.

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InvalidValueError("a webhook's address is http://HOST/... or https://HOST/...")
        if not self.timeout > 0:
            raise InvalidValueError("timeout must be above 0 seconds", got=self.timeout)
        if self.ca is not None and not self.ca.is_file():
            raise MissingFileError("no such certificate", got=self.ca)
        if self.token is not None and parts.username is not None:
            raise InvalidValueError("a webhook takes a token, or user and password, not both")

    @property
    def target(self) -> str:
        """The address without credentials and without its query, which often holds some."""
        parts = urlsplit(self.url)
        port = f":{parts.port}" if parts.port else ""
        return f"webhook+{parts.scheme}://{parts.hostname}{port}{parts.path}"


class WebhookSink(SpooledSink):
    """Posts records to an HTTP server over one connection; ``more`` is of SpooledSink."""

    def __init__(self, options: WebhookOptions, spool: Spool, **more: Any) -> None:
        super().__init__(options.target, spool, **more)
        self._options = options
        self._connection: http.client.HTTPConnection | None = None
        parts = urlsplit(options.url)
        self._path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._headers = {"Content-Type": "application/json", "User-Agent": "trt-afdet"}
        if options.token is not None:
            self._headers["Authorization"] = f"Bearer {options.token}"
        if parts.username is not None:
            login = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
            self._headers["Authorization"] = f"Basic {b64encode(login).decode()}"

    def connect(self) -> None:
        parts = urlsplit(self._options.url)
        place: Any = {"host": parts.hostname, "port": parts.port, "timeout": self._options.timeout}
        try:
            if parts.scheme == "https":
                context = ssl.create_default_context(cafile=self._options.ca)
                self._connection = http.client.HTTPSConnection(**place, context=context)
            else:
                self._connection = http.client.HTTPConnection(**place)
        except ssl.SSLError as error:
            raise DeliveryError("the certificate cannot be used", got=error.reason) from error
        try:
            self._connection.connect()
        except OSError as error:
            raise DeliveryError("the server does not answer", got=error) from error

    def send(self, entries: Sequence[Entry]) -> None:
        connection = self._connection
        assert connection is not None
        body = ('{"records": [' + ",\n".join(e.body for e in entries) + "]}").encode()
        headers = {**self._headers, "Idempotency-Key": hashlib.sha256(body).hexdigest()[:32]}
        if self._options.secret is not None:
            digest = hmac.new(self._options.secret.encode(), body, hashlib.sha256).hexdigest()
            headers["X-Trt-Afdet-Signature"] = f"sha256={digest}"
        try:
            connection.request("POST", self._path, body, headers)
            answer = connection.getresponse()
            answer.read(1 << 20)
            if not answer.isclosed():  # The rest of a longer answer is not needed.
                connection.close()
        except (BrokenPipeError, ConnectionResetError) as error:
            # A server that finds a body too long may answer and hang up before it is sent.
            status = self._early_answer()
            if status in HOPELESS:
                what = "the server will not take it"
                raise RefusedError(what, got=status, broken=True) from error
            raise DeliveryError("the server hung up", got=error) from error
        except (OSError, http.client.HTTPException) as error:
            got = str(error) or type(error).__name__
            raise DeliveryError("the server does not answer", got=got) from error
        if 200 <= answer.status < 300:
            return
        said = f"{answer.status} {answer.reason}"
        if answer.status in HOPELESS:
            raise RefusedError("the server will not take it", got=said)
        after = (answer.getheader("Retry-After") or "").strip()
        wait = min(float(after), LONGEST_WAIT) if after.isdigit() else 0.0
        raise DeliveryError("the server does not take it", got=said, wait=wait)

    def _early_answer(self) -> int | None:
        """The status of an answer that came before the request was sent."""
        sock = self._connection.sock if self._connection is not None else None
        with suppress(OSError, ValueError, IndexError):
            if sock is not None:
                sock.settimeout(1.0)
                return int(sock.recv(64).split()[1])
        return None

    def check(self) -> None:
        # Servers close an idle connection sooner or later; that must not look like a failure.
        self.disconnect()

    def disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()

    def abort(self) -> None:
        connection = self._connection
        if connection is not None and (sock := connection.sock) is not None:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
