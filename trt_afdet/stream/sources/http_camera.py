"""``http://`` and ``https://`` cameras: MJPEG streams and addresses of single pictures.

FFmpeg's reader of MJPEG wants streams that follow the rules, which many cameras do not. Browsers
play them, and so does this: a JPEG says itself where it ends, so parts, boundaries, lengths and
types do not matter. Whatever is neither of the two goes to FFmpeg.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import os
import re
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from typing import Any
from urllib.parse import urljoin

from trt_afdet.errors import AfdetError, CorruptFileError, InvalidValueError
from trt_afdet.media import decode_picture
from trt_afdet.media.pyav import load_av
from trt_afdet.stream.addresses import Address, parse_address
from trt_afdet.stream.sources.av_reader import MOST_DAMAGED, JpegDecoder, status_error
from trt_afdet.stream.sources.base import GRACE, Pending, Picture, Source, SourceError, SourceInfo
from trt_afdet.stream.sources.network_options import HttpOptions

#: Bytes; more than that without a whole picture is not a stream of pictures.
MOST_BETWEEN = 32 << 20
#: Redirections that are followed.
MOST_REDIRECTS = 5
# What ends a JPEG's compressed data: any marker but a stuffed zero, a restart, or filling.
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_START = b"\xff\xd8\xff"
_FIELD = re.compile(r'(\w+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')


class JpegSplitter:
    """Finds the JPEG pictures in a stream of anything."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._place = 0  # The current position, from the start of the picture; 0 before a start.
        self._scan = False  # Whether that is inside compressed data.
        self.between = 0  # Bytes since the last picture.

    def feed(self, data: bytes) -> list[bytes]:
        """The pictures that are whole now.

        One that is followed by another, or by the end, without its end marker counts as well: some
        cameras leave it out. A decoder tells those that are cut off.
        """
        self._data += data
        self.between += len(data)
        found = []
        while (picture := self._next()) is not None:
            self.between = len(self._data)
            found.append(picture)
        return found

    def rest(self) -> list[bytes]:
        """The picture whose end marker did not come."""
        rest, whole = bytes(self._data), self._scan
        self._data, self._place, self._scan = bytearray(), 0, False
        return [rest] if whole else []

    def _next(self) -> bytes | None:
        data = self._data
        while True:
            if not self._place:
                start = data.find(_START)
                # The last bytes may be the beginning of a start.
                del data[: start if start >= 0 else max(0, len(data) - 2)]
                if start < 0:
                    return None
                self._place = 2
            end, whole = self._walk()
            if not end:
                return None
            picture = bytes(data[:end])
            del data[:end]
            self._place, self._scan = 0, False
            if whole:
                return picture

    def _walk(self) -> tuple[int, bool]:
        """Where the picture ends, and whether it is one; 0 while more of it is needed."""
        data = self._data
        while True:
            if self._scan:
                found = _MARKER.search(data, self._place)
                self._place = found.start() if found else max(2, len(data) - 1)
                if found is None:
                    return 0, False
            head = data[self._place : self._place + 4]
            if len(head) < 2:
                return 0, False
            if head[0] != 0xFF:
                return 2, False
            if head[1] == 0xFF:
                self._place += 1
            elif head[1] == 0xD9:
                return self._place + 2, self._scan
            elif head[1] == 0xD8:
                return self._place, self._scan
            elif self._scan and head[1] not in _IN_SCANS:
                self._place += 2  # Text behind a picture without an end, or damage.
            elif len(head) < 4:
                return 0, False
            elif (length := int.from_bytes(head[2:], "big")) < 2:
                return 2, False
            else:
                self._scan = head[1] == 0xDA
                self._place += 2 + length


#: Markers that may stand between two scans of one picture: DHT, DAC, SOS, DQT, DNL, DRI, COM, APPn.
_IN_SCANS = {0xC4, 0xCC, 0xDA, 0xDB, 0xDC, 0xDD, 0xFE, *range(0xE0, 0xF0)}


def _server(address: Address) -> tuple[str, str, int]:
    port = address.port or (443 if address.scheme == "https" else 80)
    return address.scheme, address.host.lower(), port


class _Connection(http.client.HTTPConnection):
    """An HTTP connection whose waiting can be ended from another thread."""

    def __init__(self, address: Address, context: ssl.SSLContext, timeout: float) -> None:
        super().__init__(address.host, _server(address)[2], timeout)
        self._tls = context if address.scheme == "https" else None
        self._place = address.place
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._ended = False

    def get(self, target: str, headers: dict[str, str]) -> http.client.HTTPResponse:
        own = {"Host": self._place, "User-Agent": "trt-afdet", "Accept": "*/*"}
        self.request("GET", target, headers=own | headers)
        return self.getresponse()

    def end(self) -> None:
        """Makes whatever waits return. From any thread."""
        with self._lock:
            self._ended = True
            if self._socket is not None:
                with contextlib.suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)

    def drop(self) -> None:
        """Closes the socket, too; ``close`` leaves it to the answer that is being read."""
        self.close()
        with self._lock:
            if self._socket is not None:
                self._socket.close()
                self._socket = None

    def _keep(self, made: socket.socket) -> None:
        """Lets :meth:`end` reach the socket."""
        with self._lock:
            self._socket = made
            if self._ended:
                raise SourceError("reading was interrupted")

    def connect(self) -> None:
        """Called by the library before a request, if there is no connection (any more)."""
        error = OSError("no address")
        found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        for family, kind, proto, _, place in found:
            made = socket.socket(family, kind, proto)
            try:
                made.settimeout(self.timeout)
                self._keep(made)
                made.connect(place)
                if self._tls is not None:
                    # In two steps, so that a handshake that is never answered can be ended.
                    made = self._tls.wrap_socket(
                        made, server_hostname=self.host, do_handshake_on_connect=False
                    )
                    self._keep(made)
                    made.do_handshake()
                self.sock = made
                return
            except BaseException as failed:
                made.close()
                if isinstance(failed, TimeoutError) or not isinstance(failed, OSError):
                    raise
                error = failed
        raise error


class _Login:
    """Answers to a server that asks who is there: Basic and Digest."""

    def __init__(self, user: str, password: str) -> None:
        self._user = user
        self._password = password
        self._basic = False
        self._challenge: dict[str, str] | None = None  # Digest's.
        self._count = 0

    def learn(self, challenges: list[str]) -> bool:
        """Chooses the best login that the server offers; False if none of them is known."""
        best = -1
        for text in re.split(r",\s*(?=(?:Basic|Digest)\s)", ", ".join(challenges), flags=re.I):
            kind, _, rest = text.strip().partition(" ")
            asked = {name.lower(): quoted or plain for name, quoted, plain in _FIELD.findall(rest)}
            if kind.lower() == "basic" and best < 0:
                best, self._basic, self._challenge = 0, True, None
            elif kind.lower() == "digest":
                algorithm = asked.get("algorithm", "MD5").upper().removesuffix("-SESS")
                rank = {"MD5": 1, "SHA-256": 2}.get(algorithm, -1)
                if rank > best:
                    best, self._basic, self._challenge = rank, False, asked
        self._count = 0
        return best >= 0

    def header(self, target: str) -> dict[str, str]:
        """The header for a request."""
        if self._basic:
            both = f"{self._user}:{self._password}".encode()
            return {"Authorization": f"Basic {base64.b64encode(both).decode()}"}
        if self._challenge is None:
            return {}
        asked = self._challenge
        algorithm = asked.get("algorithm", "MD5")
        digest = hashlib.sha256 if algorithm.upper().startswith("SHA-256") else hashlib.md5

        def h(text: str) -> str:
            return digest(text.encode()).hexdigest()

        self._count += 1
        realm, nonce = asked.get("realm", ""), asked.get("nonce", "")
        count, own = f"{self._count:08x}", os.urandom(8).hex()
        secret = h(f"{self._user}:{realm}:{self._password}")
        if algorithm.upper().endswith("-SESS"):
            secret = h(f"{secret}:{nonce}:{own}")
        what = h(f"GET:{target}")
        auth = "auth" in [q.strip() for q in asked.get("qop", "").split(",")]
        response = h(
            f"{secret}:{nonce}:{count}:{own}:auth:{what}" if auth else f"{secret}:{nonce}:{what}"
        )
        user = self._user.replace("\\", "\\\\").replace('"', '\\"')
        parts = [f'username="{user}"', f'realm="{realm}"', f'nonce="{nonce}"', f'uri="{target}"']
        parts += [f'response="{response}"', f"algorithm={algorithm}"]
        if "opaque" in asked:
            parts.append(f'opaque="{asked["opaque"]}"')
        if auth:
            parts += ["qop=auth", f"nc={count}", f'cnonce="{own}"']
        return {"Authorization": f"Digest {', '.join(parts)}"}


class HttpCamera:
    """The source behind ``http(s)://``; ``other`` reads what is neither MJPEG nor pictures."""

    live = True

    def __init__(self, address: str, name: str, options: HttpOptions, other: Source) -> None:
        self.name = name
        self.connect_timeout = options.connect_timeout
        self.timeout = options.timeout
        self._address = parse_address(address)
        self._verify = options.verify
        self._pause = 1 / options.snapshot
        self._other = other
        self._reader: Source | None = None
        self._connection: _Connection | None = None
        self._login: _Login | None = None
        self._ended = threading.Event()
        self._frames: Iterator[Pending] = iter(())
        self._damaged = 0

    def open(self) -> SourceInfo:
        with self._in_words(self.connect_timeout):
            answer = self._ask()
            body = self._body(answer)
            first = next(body, b"")
        body = chain([first], body)
        kind, start = answer.headers.get_content_type(), first.lstrip()
        picture = start.startswith(_START) or kind.startswith("image/")
        parts = kind.startswith("multipart/") or start.startswith(b"--")
        if kind == "text/html" or start[:9].lower() in (b"<!doctype", b"<html><bo"):
            raise SourceError(
                f"{self.name}: not a video that can be read",
                hint="it is a web page; look for the address of the stream or of a picture",
            )
        if not picture and not parts:
            self._drop()
            self._reader = self._other
            return self._reader.open()
        self._decoder = JpegDecoder()
        if picture and not parts and answer.length is not None:
            self._frames = self._pictures(answer, body)
            return SourceInfo(0, 0, None, "pictures")
        self._frames = self._stream(body, picture)
        return SourceInfo(0, 0, None, "mjpeg")

    def read(self) -> Picture | Pending | None:
        if self._reader is not None:
            return self._reader.read()
        with self._in_words(self.timeout):
            pending = next(self._frames, None)
        if pending is None:
            raise SourceError(f"{self.name}: the stream broke off")
        return pending

    def interrupt(self) -> None:
        self._ended.set()
        if (connection := self._connection) is not None:
            connection.end()

    def close(self) -> None:
        self._frames = iter(())
        self._drop()
        self._reader = None
        self._other.close()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.drop()

    @contextlib.contextmanager
    def _in_words(self, waited: float) -> Iterator[None]:
        """Errors as sources have them, without addresses."""
        try:
            yield
        except AfdetError:
            raise
        except TimeoutError:
            raise SourceError(f"{self.name}: silent for {waited:g} s") from None
        except socket.gaierror:
            raise SourceError(
                f"{self.name}: cannot be reached - is the host's name right?"
            ) from None
        except ssl.SSLCertVerificationError as error:
            raise SourceError(
                f"{self.name}: its certificate is not valid",
                got=error.verify_message,
                hint="add #verify=no if the camera made it itself",
            ) from None
        except (OSError, http.client.HTTPException, ValueError, zlib.error) as error:
            if self._ended.is_set():
                raise SourceError("reading was interrupted") from None
            text = getattr(error, "strerror", None) or type(error).__name__
            raise SourceError(f"{self.name}: {text}") from None

    def _ask(self) -> http.client.HTTPResponse:
        """The answer to a request, behind redirections and questions for the password."""
        refused = 0
        for _ in range(MOST_REDIRECTS + 3):
            address = self._address
            if self._connection is None:
                context = ssl.create_default_context()
                if not self._verify:
                    context.check_hostname = False
                    context.verify_mode = ssl.CERT_NONE
                limit = max(self.connect_timeout, self.timeout) + GRACE
                self._connection = _Connection(address, context, limit)
                if self._ended.is_set():
                    raise SourceError("reading was interrupted")
            target = address.target if address.path else f"/{address.target}"
            headers = self._login.header(target) if self._login else {}
            answer = self._connection.get(target, headers)
            if answer.status == 401 and refused < 2 and self._learn(answer, refused):
                refused += 1
                self._drop()
                continue
            if answer.status in (301, 302, 303, 307, 308):
                self._go_to(answer.headers.get("Location", ""))
                continue
            if not 200 <= answer.status < 300:
                raise status_error(self.name, answer.status)
            return answer
        raise SourceError(f"{self.name}: redirected too often")

    def _learn(self, answer: http.client.HTTPResponse, refused: int) -> bool:
        """Whether there is something new to answer to a 401."""
        address = self._address
        challenges = answer.headers.get_all("WWW-Authenticate") or []
        if address.user is None and address.password is None:
            return False
        if refused and "stale=true" not in ", ".join(challenges).lower().replace('"', ""):
            return False
        self._login = self._login or _Login(address.user or "", address.password or "")
        return self._login.learn(challenges)

    def _go_to(self, location: str) -> None:
        before = self._address
        bare = replace(before, user=None, password=None)
        try:
            after = parse_address(urljoin(bare.url(), location.strip()).replace(" ", "%20"))
        except InvalidValueError:
            raise SourceError(f"{self.name}: redirects to an address that is none") from None
        if after.scheme not in ("http", "https") or not location:
            raise SourceError(f"{self.name}: redirects to something that is not a web address")
        same = _server(before) == _server(after)
        # Nobody else gets this camera's password.
        if same and after.user is None:
            after = replace(after, user=before.user, password=before.password)
        else:
            self._login = None
        self._address = after
        self._drop()

    def _body(self, answer: http.client.HTTPResponse) -> Iterator[bytes]:
        """The answer as it comes; lengths are believed of single pictures only."""
        coding = answer.headers.get("Content-Encoding", "").lower()
        packed = zlib.decompressobj(47) if coding in ("gzip", "x-gzip", "deflate") else None
        multipart = answer.headers.get_content_maintype() == "multipart"
        source: Any = answer if answer.chunked or not multipart else answer.fp
        while data := source.read1(1 << 16):
            yield data if packed is None else packed.decompress(data)

    def _stream(self, body: Iterator[bytes], picture: bool) -> Iterator[Pending]:
        """Pictures one after another; a single one is asked for again and again."""
        count = 0
        for found in self._split(body):
            count += 1
            yield self._pending(found)
        if picture and count == 1:
            self._drop()
            yield from self._polled()

    def _split(self, body: Iterator[bytes]) -> Iterator[bytes]:
        splitter = JpegSplitter()
        for data in body:
            yield from splitter.feed(data)
            if splitter.between > MOST_BETWEEN:
                raise SourceError(f"{self.name}: sends garbage, not video")
        yield from splitter.rest()

    def _pictures(
        self, answer: http.client.HTTPResponse, body: Iterator[bytes]
    ) -> Iterator[Pending]:
        """The picture of an answer, then further ones."""
        yield self._single(answer, body)
        yield from self._polled()

    def _polled(self) -> Iterator[Pending]:
        """A picture, asked for at a rate."""
        due = time.monotonic()
        while True:
            due = max(due + self._pause, time.monotonic())
            if self._ended.wait(max(0.0, due - time.monotonic())):
                raise SourceError("reading was interrupted")
            reused = self._connection is not None
            try:
                answer = self._ask()
            except (ConnectionError, http.client.HTTPException):
                if not reused or self._ended.is_set():
                    raise
                # The server did not keep the connection.
                self._drop()
                answer = self._ask()
            yield self._single(answer, self._body(answer))

    def _single(self, answer: http.client.HTTPResponse, body: Iterator[bytes]) -> Pending:
        data = bytearray()
        splitter = JpegSplitter()
        for more in body:
            data += more
            if len(data) > MOST_BETWEEN:
                raise SourceError(f"{self.name}: sends garbage, not a picture")
            if data[:3] == _START and (found := splitter.feed(more)):
                data = bytearray(found[0])
                break
        if answer.will_close or not answer.isclosed():
            self._drop()
        return self._pending(bytes(data))

    def _pending(self, data: bytes) -> Pending:
        captured = time.monotonic()

        def decode() -> Picture | None:
            image = None
            if data.startswith(_START):
                image = self._decoder.decode(load_av().Packet(data))
            else:
                with contextlib.suppress(CorruptFileError, InvalidValueError):
                    image = decode_picture(data, self.name)
            if image is not None:
                self._damaged = 0
                return Picture(image, None, captured)
            self._damaged += 1
            if self._damaged > MOST_DAMAGED:
                raise SourceError(f"{self.name}: sends garbage, not video")
            return None

        return decode
