"""Records to an MQTT broker: QoS 1; undelivered records stay on disk.

Topics follow a template: ``cameras/{source}/{type}``. ``{type}`` is result, event or status, and
``{source}`` the source's name as ``slug`` writes it, so that ``a/b`` and ``a_b`` differ; the
record holds the name itself. Status records are retained: who subscribes later learns the state of
every source. They are sent again after each connection, as a broker may forget them. Beside them
one retained topic says "online", or "offline" when this program ends or vanishes.

MQTT 5 is spoken, and 3.1.1 with brokers that know no other. Only MQTT 5 lets a broker say that it
does not take a record; a broker of 3.1.1 hangs up, or drops the record without a word.
"""

from __future__ import annotations

import math
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

from trt_afdet.errors import AfdetError, InvalidValueError
from trt_afdet.records import Record
from trt_afdet.stream.options import Timeout
from trt_afdet.stream.sinks.delivery import DeliveryError, RefusedError, SpooledSink, check_certs
from trt_afdet.stream.sinks.spool import Entry, Spool
from trt_afdet.support.slug import slug

if TYPE_CHECKING:
    from paho.mqtt.client import Client

DEFAULT_TOPIC = "trt-afdet/{source}/{type}"

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
VERSIONS = ("5", "3.1.1")  # Versions of the protocol by name.
_STATUS = '{"type": "status"'  # How a status record begins as it waits in the spool.
MOST_IN_FLIGHT = 100  # Records that wait for an acknowledgement at a time.
MOST_STATUSES = 4096  # Sources whose last status is sent again after a connection.
LONGEST_TOPIC = 65535  # Longest topic of a record, bytes, with room for the longest slug.
#: Bytes of a PUBLISH packet beside topic and payload, at most, with our properties (none).
_PACKET = 1 + 4 + 2 + 2 + 1
#: MQTT 5's reason codes that mean that a record will never be taken.
_HOPELESS = {
    0x87: "not authorized for the topic",
    0x90: "topic name invalid",
    0x95: "packet too large",
    0x99: "payload format invalid",
}
_TOO_LARGE, _PROTOCOL_ERROR, _NO_RETAIN, _UNKNOWN_VERSION = 0x95, 0x82, 0x9A, 0x84


@dataclass(frozen=True)
class MqttOptions:
    """How a broker is reached, and the template of the topics."""

    host: str
    port: int | None = None
    topic: str = DEFAULT_TOPIC
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    tls: bool = False
    ca: Path | None = None  # Certificates to trust instead of the system's.
    cert: Path | None = None  # This client's certificate, and its key.
    key: Path | None = None
    client_id: str = ""  # Unique at the broker.
    availability: str | None = None  # Topic of "online" and "offline"; by default beside the rest.
    timeout: Timeout = 10.0  # Seconds for a connection, and for acknowledgements.
    keepalive: int = 15  # Seconds after which a silent connection is given up, times 1.5.
    version: str | None = None  # Of the protocol, see VERSIONS; None: 5, else 3.1.1.

    def __post_init__(self) -> None:
        if self.version not in (None, *VERSIONS):
            hint = f"one of {', '.join(VERSIONS)}"
            raise InvalidValueError("unknown version of MQTT", got=self.version, hint=hint)
        names = _PLACEHOLDER.findall(self.topic)
        if unknown := [name for name in names if name not in ("source", "type")]:
            what = "unknown placeholder in the topic"
            raise InvalidValueError(what, got=unknown[0], hint="use {source} and {type}")
        for topic in (self.topic, self.availability or "x"):
            if not topic or re.search(r"[+#\x00]", topic) or topic.startswith(("/", "$")):
                hint = f"for example {DEFAULT_TOPIC}"
                raise InvalidValueError("not a topic to publish to", got=topic, hint=hint)
            if len(topic.encode()) + 80 * topic.count("{") > LONGEST_TOPIC:
                raise InvalidValueError("the topic is too long", got=f"{topic[:40]}...")
        check_certs(self.tls, "mqtts:// for mqtt://", self.ca, self.cert, self.key)
        if (self.cert is None) != (self.key is None):
            raise InvalidValueError("a client certificate needs cert and key")

    @property
    def its_port(self) -> int:
        return self.port or (8883 if self.tls else 1883)

    @property
    def target(self) -> str:
        return f"mqtt{'s' * self.tls}://{self.host}:{self.its_port}/{self.topic}"

    @property
    def availability_topic(self) -> str:
        if self.availability is not None:
            return self.availability
        # The part of the template that is the same for all.
        fixed = _PLACEHOLDER.split(self.topic)[0].rpartition("/")[0]
        return f"{fixed if '{' in self.topic else self.topic}/availability".lstrip("/")

    def topic_of(self, record: Record) -> str:
        values = {"source": slug(record["source"]), "type": record["type"]}
        return _PLACEHOLDER.sub(lambda match: values[match[1]], self.topic)


class MqttSink(SpooledSink):
    """Publishes records with QoS 1, waits for the acknowledgements; ``more``: of SpooledSink."""

    package = "paho.mqtt.enums"  # Of version 2, which is needed.

    def __init__(self, options: MqttOptions, spool: Spool, **more: Any) -> None:
        super().__init__(options.target, spool, key=options.topic_of, **more)
        self._options = options
        self._client: Client | None = None
        self._version = options.version or VERSIONS[0]
        self._connected = threading.Event()
        self._answered = threading.Event()
        self._aborted = threading.Event()
        self._refusal: Any = None
        self._largest, self._retains = math.inf, True  # Largest packet; if it retains messages.
        #: Messages that it takes at a time; with more its connection breaks. Known once connected.
        self._takes = 20
        #: Reason of a DISCONNECT, and of each PUBACK that is a refusal, by the packet's number.
        self._farewell = 0
        self._refusals: dict[int, int] = {}
        #: The last status of each source that the broker has acknowledged, by topic.
        self._statuses: dict[str, bytes] = {}

    def connect(self) -> None:
        from paho.mqtt.client import CallbackAPIVersion, Client, MQTTv5, MQTTv311

        options, api = self._options, CallbackAPIVersion.VERSION2
        # One that lasts lets the broker tell that this is the same client again.
        name = options.client_id or f"trt-afdet-{os.getpid()}-{id(self):x}"
        protocol = MQTTv5 if self._version == "5" else MQTTv311
        client = Client(api, name, protocol=protocol, reconnect_on_failure=False)
        client.connect_timeout = options.timeout
        client.max_inflight_messages_set(min(self._takes, MOST_IN_FLIGHT))
        if options.user is not None:
            client.username_pw_set(options.user, options.password)
        self._answered.clear()
        self._connected.clear()
        self._refusals.clear()
        self._refusal, self._farewell = None, 0
        client.on_connect, client.on_disconnect = self._on_connect, self._on_disconnect
        client.on_publish = self._on_publish
        client.will_set(options.availability_topic, "offline", qos=1, retain=self._retains)
        try:
            if options.tls:
                client.tls_set_context(self._tls())
            client.connect(options.host, options.its_port, options.keepalive)
        except ssl.SSLError as error:
            raise DeliveryError("the broker's TLS is not trusted", got=error.reason) from error
        except (OSError, ValueError) as error:
            raise DeliveryError("the broker does not answer", got=error) from error
        self._client = client
        client.loop_start()
        deadline = time.monotonic() + options.timeout
        while not self._answered.wait(0.1):
            if self._aborted.is_set() or time.monotonic() > deadline:
                raise DeliveryError("the broker does not answer", got=f"{options.timeout:g} s")
        if not self._connected.is_set():
            self._learn_from(self._refusal)
            raise DeliveryError("the broker refuses", got=self._refusal, hint="user and password?")
        if self._takes < client.max_inflight_messages:
            client.disconnect()  # The library sets this before it connects only.
            self.disconnect()
            self.connect()
            return
        client.publish(options.availability_topic, "online", qos=1, retain=self._retains)
        for topic, body in self._statuses.items():
            client.publish(topic, body, qos=1, retain=self._retains)

    def _learn_from(self, reason: Any) -> None:
        """Leaves out what the broker cannot do at the next attempt."""
        code = getattr(reason, "value", 0)
        if code == _NO_RETAIN:
            self._retains = False
        elif self._options.version is None and (reason is None or code == _UNKNOWN_VERSION):
            # Very old brokers hang up instead of an answer: then the versions take turns.
            self._version = VERSIONS[(VERSIONS.index(self._version) + 1) % len(VERSIONS)]

    def send(self, entries: Sequence[Entry]) -> None:
        client = self._client
        assert client is not None
        messages = [(entry, entry.body.encode()) for entry in entries]
        size = max(_PACKET + len(e.key.encode()) + len(payload) for e, payload in messages)
        if size > self._largest:
            what = f"the broker takes packets of at most {self._largest:g} bytes"
            raise RefusedError(what, got=size)
        self.check()
        sent = []
        deadline = time.monotonic() + self._options.timeout
        try:
            for entry, payload in messages:
                retain = self._retains and entry.body.startswith(_STATUS)
                sent.append(client.publish(entry.key, payload, qos=1, retain=retain))
        except ValueError as error:
            # The library's own limits: such a packet cannot be written.
            raise RefusedError("MQTT cannot carry it", got=error) from error
        try:
            for info in sent:
                # Short waits, as nothing wakes this one when the connection breaks.
                while not info.is_published():
                    self.check()
                    if time.monotonic() > deadline:
                        raise DeliveryError("the broker acknowledges nothing")
                    info.wait_for_publish(0.1)
        except AfdetError:
            raise
        except (RuntimeError, ValueError) as error:
            raise DeliveryError("the broker is gone") from error
        codes = [code for info in sent if (code := self._refusals.pop(info.mid, 0))]
        if hopeless := [_HOPELESS[code] for code in codes if code in _HOPELESS]:
            raise RefusedError("the broker will not take it", got=hopeless[0])
        if codes:
            raise DeliveryError("the broker does not take it", got=f"reason {codes[0]:#x}")
        for entry, payload in messages:
            known = entry.key in self._statuses or len(self._statuses) < MOST_STATUSES
            if known and entry.body.startswith(_STATUS):
                self._statuses[entry.key] = payload

    def check(self) -> None:
        if self._farewell in (_TOO_LARGE, _PROTOCOL_ERROR):
            raise RefusedError("the broker will not take it: packet too large", broken=True)
        if self._farewell == _NO_RETAIN:
            self._retains = False
        if self._aborted.is_set() or not self._connected.is_set():
            raise DeliveryError("the broker is gone")

    def disconnect(self) -> None:
        client, self._client = self._client, None
        if client is None:
            return
        if self._connected.is_set() and not self._aborted.is_set():
            topic = self._options.availability_topic
            goodbye = client.publish(topic, "offline", qos=1, retain=self._retains)
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

    def _on_connect(self, client: Client, data: Any, flags: Any, reason: Any, more: Any) -> None:
        if reason.is_failure:
            self._refusal = reason
        else:
            self._takes = getattr(more, "ReceiveMaximum", MOST_IN_FLIGHT)
            self._largest = getattr(more, "MaximumPacketSize", math.inf)
            self._retains = bool(getattr(more, "RetainAvailable", self._retains))
            self._connected.set()
        self._answered.set()

    def _on_publish(self, client: Client, data: Any, mid: int, reason: Any, more: Any) -> None:
        if reason.is_failure:
            self._refusals[mid] = reason.value

    def _on_disconnect(self, client: Client, data: Any, flags: Any, reason: Any, more: Any) -> None:
        # mosquitto 2.0 acknowledges what is above its message_size_limit with a code that no PUBACK
        # may have, which the library takes for a protocol error.
        if flags.is_disconnect_packet_from_server or reason.value == _PROTOCOL_ERROR:
            self._farewell = reason.value
        self._connected.clear()
        self._answered.set()
