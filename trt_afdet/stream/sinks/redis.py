"""Records to a Redis stream.

Each record is an entry of the stream (``XADD``) with the fields ``record`` (the JSON), ``type``,
``source``, ``run`` and ``number``. An entry that was added when the answer got lost is added again;
``run`` and ``number`` tell.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trt_afdet.errors import InvalidValueError
from trt_afdet.stream.options import Timeout
from trt_afdet.stream.sinks.delivery import DeliveryError, RefusedError, SpooledSink, check_certs
from trt_afdet.stream.sinks.spool import Entry, Spool

#: The server's answers to a record longer than its ``proto-max-bulk-len``, or than a string may be.
HOPELESS = ("invalid bulk length", "invalid multibulk length", "too big", "exceeds maximum allowed")


@dataclass(frozen=True)
class RedisOptions:
    """How a Redis server is reached, and the key of the stream."""

    host: str
    stream: str
    port: int | None = None
    db: int = 0
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    tls: bool = False
    ca: Path | None = None  # Certificates to trust instead of the system's.
    maxlen: int = 100_000  # Entries the stream keeps, at least; the server drops older ones.
    timeout: Timeout = 5.0  # Seconds for a connection, and for an answer.

    def __post_init__(self) -> None:
        if not self.stream:
            what = "the address lacks the name of the stream"
            raise InvalidValueError(what, hint="redis://host/STREAM")
        if self.maxlen < 1:
            raise InvalidValueError("maxlen must be at least 1", got=self.maxlen)
        check_certs(self.tls, "rediss:// for redis://", self.ca)

    @property
    def target(self) -> str:
        return f"redis{'s' * self.tls}://{self.host}:{self.port or 6379}/{self.stream}"


class RedisSink(SpooledSink):
    """Adds records to a Redis stream, in pipelines; ``more`` is of :class:`SpooledSink`."""

    package = "redis"

    def __init__(self, options: RedisOptions, spool: Spool, **more: Any) -> None:
        super().__init__(options.target, spool, **more)
        self._options = options
        self._client: Any = None

    def connect(self) -> None:
        import redis

        options = self._options
        tls: Any = {"ssl": True, "ssl_ca_certs": options.ca and str(options.ca)}
        self._client = redis.Redis(
            host=options.host,
            port=options.port or 6379,
            db=options.db,
            username=options.user,
            password=options.password,
            socket_timeout=options.timeout,
            socket_connect_timeout=options.timeout,
            # Trying again is the spool's matter: a lost answer must not block for minutes.
            retry=redis.retry.Retry(redis.backoff.NoBackoff(), 0),
            **(tls if options.tls else {}),
        )
        self.check()

    def send(self, entries: Sequence[Entry]) -> None:
        import redis

        # Not MULTI: the server may take some records and refuse others.
        pipeline = self._client.pipeline(transaction=False)
        stream, most = self._options.stream, self._options.maxlen
        for entry in entries:
            record = json.loads(entry.body)
            fields = {name: record[name] for name in ("type", "source", "run", "number")}
            pipeline.xadd(stream, {"record": entry.body, **fields}, maxlen=most)
        try:
            pipeline.execute()
        except redis.RedisError as error:
            text = _text(error)
            if any(said in text.lower() for said in HOPELESS):
                # It hangs up after a request that is too long.
                raise RefusedError("the server will not take it", got=text, broken=True) from error
            raise DeliveryError("the server does not take it", got=text) from error
        except OSError as error:
            raise DeliveryError("the server is gone", got=error) from error

    def check(self) -> None:
        import redis

        try:
            self._client.ping()
        except redis.AuthenticationError as error:
            raise DeliveryError("the server refuses", hint="user and password?") from error
        except (redis.RedisError, OSError) as error:
            raise DeliveryError("the server does not answer", got=_text(error)) from error

    def disconnect(self) -> None:
        if self._client is not None:
            self._client.close()

    def abort(self) -> None:
        if self._client is not None:
            self._client.connection_pool.disconnect()


def _text(error: Exception) -> str:
    """A server's answer, without the command that it may repeat."""
    text = str(error)
    return text.partition("Command #")[0].strip() or text.rpartition("caused error: ")[2]
