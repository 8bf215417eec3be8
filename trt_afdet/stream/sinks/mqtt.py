"""Records to an MQTT broker: QoS 1, with what the broker misses kept on disk.

Topics follow a template: ``cameras/{source}/{type}``. ``{type}`` is result, event or status.
Beside them one retained topic says "online", or "offline" when this program ends or vanishes.
"""

from __future__ import annotations

import os
import re
import ssl
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trt_afdet.errors import InvalidValueError, MissingDependencyError, MissingFileError
from trt_afdet.stream.sinks.delivery import DeliveryError, SpooledSink
from trt_afdet.stream.sinks.serialise import Record
from trt_afdet.stream.sinks.spool import Entry

if TYPE_CHECKING:
    from paho.mqtt.client import Client

DEFAULT_TOPIC = "trt-afdet/{source}/{type}"

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
#: What has a meaning in a topic.
_RESERVED = re.compile(r"[/+#\x00-\x1f]")


@dataclass(frozen=True)
class MqttOptions:
    """How a broker is reached.

    Attributes:
        host, port: Of the broker.
        topic: Template of the topics.
        user, password: Credentials.
        tls: Whether to encrypt.
        ca: Certificates to trust instead of the system's.
        cert, key: This client's certificate and its key.
        client_id: Unique at the broker.
        availability: Topic of "online" and "offline"; by default beside the others.
        timeout: Seconds for a connection, and for acknowledgements.
        keepalive: Seconds after which a silent connection is given up, times 1.5.
    """

    host: str
    port: int | None = None
    topic: str = DEFAULT_TOPIC
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    tls: bool = False
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    client_id: str = ""
    availability: str | None = None
    timeout: float = 10.0
    keepalive: int = 15

    def __post_init__(self) -> None:
        for name in _PLACEHOLDER.findall(self.topic):
            if name not in ("source", "type"):
                raise InvalidValueError(
                    "unknown placeholder in the topic", got=name, hint="use {source} and {type}"
                )
        for topic in (self.topic, self.availability or "x"):
            if not topic or re.search(r"[+#\x00]", topic) or topic.startswith(("/", "$")):
                raise InvalidValueError(
                    "not a topic to publish to", got=topic, hint=f"for example {DEFAULT_TOPIC}"
                )
        if (self.ca or self.cert or self.key) and not self.tls:
            raise InvalidValueError("certificates need TLS", hint="write mqtts:// for mqtt://")
        if (self.cert is None) != (self.key is None):
            raise InvalidValueError("a client certificate needs cert and key")
        for path in (self.ca, self.cert, self.key):
            if path is not None and not path.is_file():
                raise MissingFileError("no such certificate or key", got=path)

    @property
    def target(self) -> str:
        """The broker and the topics, without credentials."""
        port = self.port or (8883 if self.tls else 1883)
        return f"mqtt{'s' if self.tls else ''}://{self.host}:{port}/{self.topic}"

    @property
    def availability_topic(self) -> str:
        if self.availability is not None:
            return self.availability
        # The part of the template that is the same for all.
        fixed = _PLACEHOLDER.split(self.topic)[0].rpartition("/")[0]
        return f"{fixed if '{' in self.topic else self.topic}/availability".lstrip("/")

    def topic_of(self, record: Record) -> str:
        """The topic of a record; what has a meaning in topics is replaced in its source's name."""
        values = {"source": _RESERVED.sub("_", record["source"]), "type": record["type"]}
        return _PLACEHOLDER.sub(lambda match: values[match[1]], self.topic)


class MqttTransport:
    """Publishes with QoS 1 and waits for the acknowledgements."""

    def __init__(self, options: MqttOptions) -> None:
        self.name = options.target
        self._options = options
        self._client: Client | None = None
        self._connected = threading.Event()
        self._answered = threading.Event()
        self._aborted = threading.Event()
        self._refusal = ""

    def connect(self) -> None:
        from paho.mqtt.client import CallbackAPIVersion, Client

        options = self._options
        client = Client(
            CallbackAPIVersion.VERSION2,
            # One that lasts lets the broker tell that this is the same client again.
            client_id=options.client_id or f"trt-afdet-{os.getpid()}-{id(self):x}",
            reconnect_on_failure=False,
        )
        client.connect_timeout = options.timeout
        client.max_inflight_messages_set(100)
        if options.user is not None:
            client.username_pw_set(options.user, options.password)
        self._answered.clear()
        self._connected.clear()
        self._refusal = ""
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.will_set(options.availability_topic, "offline", qos=1, retain=True)
        try:
            if options.tls:
                client.tls_set_context(self._tls())
            port = options.port or (8883 if options.tls else 1883)
            client.connect(options.host, port, options.keepalive)
        except ssl.SSLError as error:
            raise DeliveryError("the broker's TLS is not trusted", got=error.reason) from error
        except (OSError, ValueError) as error:
            raise DeliveryError("the broker does not answer", got=error) from error
        self._client = client
        client.loop_start()
        if not self._wait(self._answered, options.timeout):
            raise DeliveryError("the broker does not answer", got=f"{options.timeout:g} s")
        if not self._connected.is_set():
            raise DeliveryError("the broker refuses", got=self._refusal, hint="user and password?")
        client.publish(options.availability_topic, "online", qos=1, retain=True)

    def send(self, entries: Sequence[Entry]) -> None:
        client = self._client
        assert client is not None
        sent = [client.publish(e.key, e.body.encode(), qos=1) for e in entries]
        deadline = time.monotonic() + self._options.timeout
        try:
            for info in sent:
                # Short waits, as nothing wakes this one when the connection breaks.
                while not info.is_published():
                    self.check()
                    if time.monotonic() > deadline:
                        raise DeliveryError("the broker acknowledges nothing")
                    info.wait_for_publish(0.1)
        except DeliveryError:
            raise
        except (RuntimeError, ValueError) as error:
            raise DeliveryError("the broker is gone") from error

    def check(self) -> None:
        if self._aborted.is_set() or not self._connected.is_set():
            raise DeliveryError("the broker is gone")

    def close(self) -> None:
        client, self._client = self._client, None
        if client is None:
            return
        if self._connected.is_set() and not self._aborted.is_set():
            goodbye = client.publish(self._options.availability_topic, "offline", 1, retain=True)
            with suppress(RuntimeError, ValueError):  # Else the will says the same.
                goodbye.wait_for_publish(0.3)
            client.disconnect()
        self._connected.clear()
        client.on_disconnect = None
        client.loop_stop()

    def abort(self) -> None:
        self._aborted.set()

    def _tls(self) -> ssl.SSLContext:
        options = self._options
        try:
            context = ssl.create_default_context(cafile=options.ca)
            if options.cert is not None and options.key is not None:
                context.load_cert_chain(options.cert, options.key)
        except ssl.SSLError as error:
            raise DeliveryError("a certificate or key cannot be used", got=error.reason) from error
        return context

    def _wait(self, event: threading.Event, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not event.wait(0.1):
            if self._aborted.is_set() or time.monotonic() > deadline:
                return False
        return True

    def _on_connect(self, client: Client, data: Any, flags: Any, reason: Any, more: Any) -> None:
        if reason.is_failure:
            self._refusal = str(reason)
        else:
            self._connected.set()
        self._answered.set()

    def _on_disconnect(self, client: Client, data: Any, flags: Any, reason: Any, more: Any) -> None:
        self._connected.clear()
        self._answered.set()


def check_library() -> None:
    """
    Raises:
        MissingDependencyError: If paho-mqtt is not installed.
    """
    try:
        import paho.mqtt.client

        paho.mqtt.client.CallbackAPIVersion  # noqa: B018
    except (ImportError, AttributeError) as error:
        raise MissingDependencyError(
            "paho-mqtt 2 cannot be imported", got=error, hint='pip install "trt-afdet[mqtt]"'
        ) from error


class MqttSink(SpooledSink):
    """Results, events and changes of state to an MQTT broker.

    Args:
        options: The broker and its topics.
        spool: What the broker has not acknowledged yet.
        more: Of :class:`~.delivery.SpooledSink`.
    """

    def __init__(self, options: MqttOptions, spool: Any, **more: Any) -> None:
        super().__init__(MqttTransport(options), spool, key=options.topic_of, **more)

    def open(self) -> None:
        """Begins to deliver; the broker need not be there.

        Raises:
            MissingDependencyError: If paho-mqtt is not installed.
            AfdetError: If the spool cannot be opened.
        """
        check_library()
        super().open()
