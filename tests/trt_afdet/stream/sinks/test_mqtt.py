"""MQTT with a real broker that goes and comes back."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest

from tests.skips import skip_test
from tests.trt_afdet.record_schema import check
from tests.trt_afdet.stream.sinks.sink_makers import result, status, wait_until
from tests.trt_afdet.stream.sinks.sink_peers import Process, free_port, mosquitto
from trt_afdet.errors import InvalidValueError, MissingFileError
from trt_afdet.stream.retry import Retry
from trt_afdet.stream.sinks.mqtt import MqttOptions, MqttSink
from trt_afdet.stream.sinks.spool import Spool
from trt_afdet.support.slug import slug

FAST = Retry(first=0.05, longest=0.3)
#: The broker keeps what its subscribers have not got over its own restart.
KEEPING = (
    "allow_anonymous true",
    "persistence true",
    "max_queued_messages 0",
    "user root",
)


class Subscriber:
    """Listens to everything, with a session that outlives the broker."""

    def __init__(self, port: int) -> None:
        self.messages: list[tuple[str, str, bool, int]] = []
        self._lock = threading.Lock()
        self._client = paho.Client(
            paho.CallbackAPIVersion.VERSION2, client_id="listener", clean_session=False
        )
        self._client.reconnect_delay_set(1, 1)
        self._client.on_message = self._on_message
        subscribed = threading.Event()
        self._client.on_connect = lambda client, *_: client.subscribe("#", qos=1)
        self._client.on_subscribe = lambda *_: subscribed.set()
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        assert subscribed.wait(20)

    def _on_message(self, client: Any, data: Any, message: Any) -> None:
        with self._lock:
            self.messages.append(
                (message.topic, message.payload.decode(), message.retain, message.qos)
            )

    def records(self, kind: str = "result") -> list[dict[str, Any]]:
        with self._lock:
            found = [json.loads(m[1]) for m in self.messages if m[1].startswith("{")]
        return [record for record in found if record["type"] == kind]

    def numbers(self) -> list[int]:
        """Sequences in the order of their first arrival."""
        return list(dict.fromkeys(record["sequence"] for record in self.records()))

    def said(self, topic: str) -> list[str]:
        with self._lock:
            return [m[1] for m in self.messages if m[0] == topic]

    def stop(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Process]:
    process = mosquitto(tmp_path, *KEEPING, f"persistence_location {tmp_path}/")
    process.start()
    yield process
    process.kill()


@pytest.fixture
def subscriber(broker: Process) -> Iterator[Subscriber]:
    listener = Subscriber(broker.port)
    yield listener
    listener.stop()


Make = Callable[..., MqttSink]


@pytest.fixture
def make(broker: Process, tmp_path: Path) -> Make:
    def make(**options: Any) -> MqttSink:
        more = {k: options.pop(k) for k in ("send", "batch") if k in options}
        limit = options.pop("limit", 1 << 24)
        options = {"host": "127.0.0.1", "port": broker.port, "timeout": 5.0, **options}
        spool = Spool(tmp_path / "spool.sqlite", limit)
        return MqttSink(MqttOptions(**options), spool, retry=FAST, **more)

    return make


@pytest.mark.parametrize("version", [None, "5", "3.1.1"])
def test_records_arrive_under_their_topics(
    make: Make, subscriber: Subscriber, version: str | None
) -> None:
    sink = make(send=("results", "events", "status"), version=version)
    sink.open()
    sink.status(status("live", "a/b+#c"))
    sink.write(result(5, "a/b+#c", events=("gate",)))
    wait_until(lambda: len(subscriber.records("event")) == 1)
    wait_until(lambda: "online" in subscriber.said("trt-afdet/availability"))
    sink.close()
    wait_until(lambda: "offline" in subscriber.said("trt-afdet/availability"))
    kinds = {m[0]: m[3] for m in subscriber.messages}
    source = slug("a/b+#c")
    assert kinds == {
        "trt-afdet/availability": 1,
        f"trt-afdet/{source}/status": 1,
        f"trt-afdet/{source}/result": 1,
        f"trt-afdet/{source}/event": 1,
    }
    for kind in ("result", "event", "status"):
        for record in subscriber.records(kind):
            check(record)
    assert subscriber.records()[0]["detections"] == result(5).detections.to_dicts()
    assert subscriber.records("event")[0]["event"] == {"kind": "other", "text": "gate"}
    # The last status says that nobody looks at the camera any more.
    assert [r["state"] for r in subscriber.records("status")] == ["live", "ended"]
    assert [r["number"] for k in ("status", "result", "event") for r in subscriber.records(k)] == [
        0, 3, 1, 2,
    ]  # fmt: skip


def retained(port: int, version: int = paho.MQTTv311) -> dict[str, str]:
    """What a subscriber that comes now is told at once."""
    told: dict[str, str] = {}
    done = threading.Event()

    def on_message(client: Any, data: Any, message: Any) -> None:
        if message.topic == "end/of/it":
            done.set()
        elif message.retain:
            told[message.topic] = message.payload.decode()

    client = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=version)
    client.on_message = on_message
    client.on_connect = lambda *_: client.subscribe("#", qos=1)
    # Retained messages come before what is published after the subscription.
    client.on_subscribe = lambda *_: client.publish("end/of/it", "", qos=1)
    client.connect("127.0.0.1", port)
    client.loop_start()
    assert done.wait(30)
    client.disconnect()
    client.loop_stop()
    return told


@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_who_comes_later_learns_the_state_of_every_source(
    make: Make, broker: Process, version: str
) -> None:
    sink = make(version=version)
    sink.open()
    for source in ("a/b", "a_b", "a+b"):
        sink.status(status("connecting", source))
        sink.status(status("live", source))
        sink.write(result(0, source))
    wait_until(lambda: sink.waiting() == 0)
    for protocol in (paho.MQTTv311, paho.MQTTv5):
        told = retained(broker.port, protocol)
        assert told.pop("trt-afdet/availability") == "online"
        records = {topic: json.loads(text) for topic, text in told.items()}
        assert {topic: r["state"] for topic, r in records.items()} == {
            f"trt-afdet/{slug(source)}/status": "live" for source in ("a/b", "a_b", "a+b")
        }
        assert {r["source"] for r in records.values()} == {"a/b", "a_b", "a+b"}
    sink.close()
    told = retained(broker.port)
    assert told.pop("trt-afdet/availability") == "offline"
    assert {json.loads(text)["state"] for text in told.values()} == {"ended"}


def test_a_broker_that_forgets_is_told_again(tmp_path: Path) -> None:
    broker = mosquitto(tmp_path, "allow_anonymous true", "persistence false")
    broker.start()
    options = MqttOptions("127.0.0.1", broker.port, timeout=5.0)
    sink = MqttSink(options, Spool(tmp_path / "spool.sqlite"), retry=FAST)
    sink.open()
    sink.status(status("live", "door"))
    wait_until(lambda: "trt-afdet/door/status" in retained(broker.port))
    broker.stop()
    broker.start()
    wait_until(lambda: "trt-afdet/door/status" in retained(broker.port))
    sink.close()
    broker.stop()


BIG, SMALL = 40, 1
#: Bytes; a record with BIG detections is longer, one with SMALL is not.
BETWEEN = 2500


@pytest.mark.parametrize("version", ["5", "3.1.1"])
@pytest.mark.parametrize("limit", ["max_packet_size", "message_size_limit"])
@pytest.mark.parametrize("behind", [0, 3])
def test_a_record_above_the_brokers_limit_holds_up_nothing(
    tmp_path: Path, limit: str, version: str, behind: int, caplog: pytest.LogCaptureFixture
) -> None:
    broker = mosquitto(tmp_path, "allow_anonymous true", f"{limit} {BETWEEN}")
    broker.start()
    listener = Subscriber(broker.port)
    options = MqttOptions("127.0.0.1", broker.port, timeout=5.0, version=version)
    sink = MqttSink(options, Spool(tmp_path / "spool.sqlite"), retry=FAST)
    sink.open()
    good = []
    for sequence in range(12):
        # Beside one another, in the middle, and last (then others come behind).
        big = sequence in (2, 3, 7, 11)
        sink.write(result(sequence, count=BIG if big else SMALL))
        if not big:
            good.append(sequence)
    # One that was tried in place of a big one comes early, and a second time.
    wait_until(lambda: sorted(listener.numbers()) == good, 120)
    for sequence in range(12, 12 + behind):
        sink.write(result(sequence, count=SMALL))
        good.append(sequence)
    # Alone at the end of the queue nothing shows that it is the record's fault (3.1.1).
    alone = 0 if behind or version == "5" or limit == "message_size_limit" else 1
    wait_until(lambda: sorted(listener.numbers()) == good and sink.waiting() == alone, 120)
    # A broker of 3.1.1 drops what is above message_size_limit, and acknowledges it.
    silent = version == "3.1.1" and limit == "message_size_limit"
    assert sink.refused == sink.dropped == (0 if silent else 4 - alone)
    texts = [r.getMessage() for r in caplog.records if "refused and dropped" in r.getMessage()]
    assert len(texts) == (0 if silent else 1)
    sink.close()
    listener.stop()
    broker.stop()


def test_a_topic_that_is_not_allowed_holds_up_nothing(tmp_path: Path) -> None:
    rules = tmp_path / "rules"
    rules.write_text(
        "topic readwrite trt-afdet/good/#\ntopic read #\ntopic write trt-afdet/availability\n"
    )
    rules.chmod(0o644)
    broker = mosquitto(tmp_path, "allow_anonymous true", f"acl_file {rules}", "user root")
    broker.start()
    listener = Subscriber(broker.port)
    sink = MqttSink(
        MqttOptions("127.0.0.1", broker.port), Spool(tmp_path / "spool.sqlite"), retry=FAST
    )
    sink.open()
    for sequence in range(10):
        sink.write(result(sequence, "bad" if sequence % 2 else "good"))
    wait_until(lambda: sink.waiting() == 0)
    wait_until(lambda: listener.numbers() == [0, 2, 4, 6, 8])
    assert sink.refused == 5
    sink.close()
    listener.stop()
    broker.stop()


def test_nothing_is_lost_while_the_broker_is_away(
    make: Make, broker: Process, subscriber: Subscriber, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "trt_afdet.stream")
    outage(make(), broker, subscriber, records=300)
    texts = [record.getMessage() for record in caplog.records]
    assert sum("records wait on disk" in text for text in texts) == 1
    assert sum("works again" in text for text in texts) == 1


@pytest.mark.slow
def test_nothing_of_a_long_outage_is_lost(
    make: Make, broker: Process, subscriber: Subscriber
) -> None:
    outage(make(), broker, subscriber, records=6000)


def outage(sink: MqttSink, broker: Process, subscriber: Subscriber, records: int) -> None:
    sink.open()
    sequence = 0

    def load(count: int) -> None:
        nonlocal sequence
        for _ in range(count):
            sink.write(result(sequence))
            sequence += 1

    load(100)
    broker.stop()
    load(records)  # None of these waits for the broker.
    assert sink.waiting() >= records
    broker.start()
    load(100)
    wait_until(lambda: sink.waiting() == 0)
    wait_until(lambda: len(subscriber.numbers()) == sequence)
    sink.close()
    assert subscriber.numbers() == list(range(sequence))
    # At least once; what was on its way when the broker went may come twice, no more.
    assert len(subscriber.records()) - sequence <= 200
    assert sink.dropped == 0


def test_a_restart_delivers_what_the_last_run_could_not(
    make: Make, broker: Process, subscriber: Subscriber
) -> None:
    broker.stop()
    first = make()
    first.open()
    for sequence in range(50):
        first.write(result(sequence))
    first.close()
    broker.start()
    second = make()
    second.open()
    second.write(result(50))
    wait_until(lambda: len(subscriber.numbers()) == 51)
    second.close()
    assert subscriber.numbers() == list(range(51))
    assert len({record["run"] for record in subscriber.records()}) == 2


def test_the_oldest_go_when_the_spool_is_full(
    make: Make, broker: Process, subscriber: Subscriber, caplog: pytest.LogCaptureFixture
) -> None:
    broker.stop()
    sink = make(limit=64 << 10)
    sink.open()
    for sequence in range(500):
        sink.write(result(sequence))
    assert sink.dropped > 100
    assert sink.waiting() == 500 - sink.dropped
    broker.start()
    wait_until(lambda: sink.waiting() == 0)
    wait_until(lambda: len(subscriber.numbers()) == 500 - sink.dropped)
    sink.close()
    assert subscriber.numbers() == list(range(sink.dropped, 500))
    assert sum("the spool is full" in r.getMessage() for r in caplog.records) == 1


def test_a_frozen_broker_holds_up_neither_writing_nor_the_end(
    make: Make, broker: Process, subscriber: Subscriber
) -> None:
    sink = make()
    sink.open()
    sink.write(result(0))
    wait_until(lambda: subscriber.numbers() == [0])
    broker.freeze()
    began = time.monotonic()
    for sequence in range(1, 200):
        sink.write(result(sequence))
    sink.close()
    assert time.monotonic() - began < 60
    broker.thaw()
    again = make()
    again.open()
    wait_until(lambda: len(subscriber.numbers()) == 200)
    again.close()
    assert sorted(subscriber.numbers()) == list(range(200))


def test_the_broker_says_so_when_the_program_vanishes(
    broker: Process, subscriber: Subscriber, tmp_path: Path
) -> None:
    script = f"""
import time
from pathlib import Path
from trt_afdet.stream.config.addresses import make_sink
sink = make_sink("mqtt://127.0.0.1:{broker.port}/site/{{source}}?spool={tmp_path}/s.sqlite")
sink.open()
time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", script])
    wait_until(lambda: subscriber.said("site/availability") == ["online"])
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_until(lambda: subscriber.said("site/availability") == ["online", "offline"])


def test_an_idle_connection_that_breaks_is_made_again(
    make: Make, broker: Process, subscriber: Subscriber
) -> None:
    sink = make()
    sink.open()
    wait_until(lambda: subscriber.said("trt-afdet/availability") == ["online"])
    broker.stop()
    broker.start()
    wait_until(lambda: subscriber.said("trt-afdet/availability").count("online") >= 2)
    sink.close()


def test_credentials_are_used_and_never_shown(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    program = shutil.which("mosquitto_passwd")
    if program is None:
        skip_test("mosquitto_passwd is not installed", "make peers")
    caplog.set_level(logging.DEBUG)
    passwords = tmp_path / "passwords"
    subprocess.run([program, "-b", "-c", str(passwords), "cam", "s3cr:t/@x"], check=True)
    passwords.chmod(0o600)
    process = mosquitto(
        tmp_path, "allow_anonymous false", f"password_file {passwords}", "user root"
    )
    process.start()

    def sink_with(password: str) -> MqttSink:
        options = MqttOptions("127.0.0.1", process.port, user="cam", password=password)
        assert password not in repr(options)
        return MqttSink(options, Spool(tmp_path / "spool.sqlite"), retry=FAST)

    wrong = sink_with("n0t-it-at-all")
    wrong.open()
    wrong.write(result(0))
    wait_until(lambda: any("the broker refuses" in r.getMessage() for r in caplog.records))
    assert wrong.waiting() == 1
    wrong.close()
    right = sink_with("s3cr:t/@x")
    right.open()
    wait_until(lambda: right.waiting() == 0)
    right.close()
    process.stop()
    assert "n0t-it-at-all" not in caplog.text
    assert "s3cr" not in caplog.text
    assert "s3cr" not in right.name


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that is its own authority."""
    if shutil.which("openssl") is None:
        skip_test("openssl is not installed", "apt-get install openssl")
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", str(key), "-out", str(cert)),
        ],
        check=True,
        capture_output=True,
    )
    return cert, key


def test_tls_trusts_only_who_it_is_told_to(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cert, key = certificate(tmp_path)
    process = mosquitto(
        tmp_path, f"certfile {cert}", f"keyfile {key}", "allow_anonymous true", "user root"
    )
    process.start()
    spool = Spool(tmp_path / "spool.sqlite")
    stranger = MqttSink(MqttOptions("127.0.0.1", process.port, tls=True), spool, retry=FAST)
    stranger.open()
    stranger.write(result(0))
    wait_until(lambda: any("TLS is not trusted" in r.getMessage() for r in caplog.records))
    stranger.close()
    assert stranger.refused == 0
    spool = Spool(tmp_path / "spool.sqlite")
    friend = MqttSink(MqttOptions("127.0.0.1", process.port, tls=True, ca=cert), spool, retry=FAST)
    friend.open()
    wait_until(lambda: friend.waiting() == 0)
    friend.close()
    process.stop()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"topic": "a/{camera}"}, "unknown placeholder"),
        ({"topic": "a/#"}, "not a topic"),
        ({"topic": "/a"}, "not a topic"),
        ({"availability": "$SYS/x"}, "not a topic"),
        ({"topic": "a" * 70_000}, "too long"),
        ({"version": "3.1"}, "unknown version"),
        ({"ca": Path("ca.pem")}, "mqtts://"),
        ({"tls": True, "cert": Path(__file__)}, "needs cert and key"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        MqttOptions("host", **options)
    with pytest.raises(MissingFileError):
        MqttOptions("host", tls=True, ca=Path("/no/such"))


@pytest.mark.parametrize(
    ("topic", "availability"),
    [
        ("trt-afdet/{source}/{type}", "trt-afdet/availability"),
        ("site/hall-{source}", "site/availability"),
        ("site/all", "site/all/availability"),
        ("{source}", "availability"),
    ],
)
def test_availability_stands_beside_the_others(topic: str, availability: str) -> None:
    assert MqttOptions("host", topic=topic).availability_topic == availability


def test_a_host_that_is_not_there_is_no_error(make: Make, tmp_path: Path) -> None:
    sink = make(port=free_port())
    sink.open()
    sink.write(result(0))
    assert sink.waiting() == 1
    sink.close()
    assert os.path.getsize(tmp_path / "spool.sqlite") > 0  # noqa: PTH202


class OldBroker:
    """In front of a real broker: knows no MQTT 5, and says so or hangs up."""

    def __init__(self, port: int, answer: bytes) -> None:
        self.refused = 0
        self._behind = port
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        hello = client.recv(65536)
        # The name of the protocol, and the byte of its version after that.
        if hello[hello.index(b"MQTT") + 4] == 5:
            self.refused += 1
            client.sendall(self._answer)
            client.close()
            return
        server = socket.create_connection(("127.0.0.1", self._behind))
        server.sendall(hello)
        threading.Thread(target=self._pump, args=(server, client), daemon=True).start()
        self._pump(client, server)

    @staticmethod
    def _pump(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()


@pytest.mark.parametrize("answer", [b"\x20\x02\x00\x01", b"\x20\x03\x00\x84\x00", b""])
def test_a_broker_that_knows_no_mqtt_5_is_spoken_to_in_3(
    broker: Process, subscriber: Subscriber, tmp_path: Path, answer: bytes
) -> None:
    old = OldBroker(broker.port, answer)
    options = MqttOptions("127.0.0.1", old.port, timeout=5.0)
    sink = MqttSink(options, Spool(tmp_path / "spool.sqlite"), retry=FAST)
    sink.open()
    for sequence in range(5):
        sink.write(result(sequence))
    wait_until(lambda: subscriber.numbers() == list(range(5)))
    assert old.refused == 1
    sink.close()
    assert sink.dropped == 0
    old.close()
