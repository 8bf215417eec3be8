"""What the page remembers is bounded, in order, and free of passwords."""

from __future__ import annotations

import json
import struct
from dataclasses import replace

import cv2
import numpy as np
import pytest

from tests.trt_afdet.web.web_rig import detections, result
from trt_afdet.detections import Detections
from trt_afdet.stream.analysis.zones import LineCrossed, ObjectEntered, ZoneCount
from trt_afdet.stream.monitoring.public_names import PublicNames
from trt_afdet.stream.monitoring.status import State, StatusEvent
from trt_afdet.support.redact import redact
from trt_afdet.web import results as results_module
from trt_afdet.web.results import ResultStore, encode_frame, fitting_width


@pytest.mark.parametrize(
    ("text", "secrets"),
    [
        ("rtsp://admin:hunter2@cam.local/live", ["admin", "hunter2"]),
        ("rtsp://admin:p@ss:w0rd@cam.local/live", ["p@ss", "w0rd"]),
        ("lost http://10.0.0.1/video?user=bob&password=hunter2&w=5 again", ["bob", "hunter2"]),
        ("gst://rtspsrc location=rtsp://a user-id=bob user-pw=hunter2 ! decodebin", ["hunter2"]),
        ("https://host/stream?access_token=hunter2", ["hunter2"]),
    ],
)
def test_credentials_are_taken_out(text: str, secrets: list[str]) -> None:
    public = redact(text)
    assert not [secret for secret in secrets if secret in public]
    assert "***" in public


def test_harmless_names_stay_as_they_are() -> None:
    for name in ("front door", "rtsp://cam.local:554/live?channel=1", "/dev/video0", "a@b"):
        assert redact(name) == name


def test_public_names_are_unique_and_lead_back() -> None:
    names = PublicNames()
    first, second = "rtsp://a:1@host/x", "rtsp://b:2@host/x"
    assert names.of(first) == "rtsp://***@host/x"
    assert names.of(second) == "rtsp://***@host/x (2)"
    assert names.of(first) == "rtsp://***@host/x"
    assert names.source("rtsp://***@host/x (2)") == second
    assert names.source(first) is None


def test_events_are_bounded_and_read_by_cursor() -> None:
    results = ResultStore()
    for number in range(results_module.EVENTS + 50):
        results.add_result(
            result(sequence=number, events=(ObjectEntered("cam", 1.0, f"z{number}", 7, "person"),))
        )
    events = results.events_after(0)
    assert len(events) == results_module.EVENTS
    assert events[-1]["zone"] == f"z{results_module.EVENTS + 49}"
    assert events[-1]["camera"] == "cam"
    assert results.events_after(events[-2]["id"]) == events[-1:]
    assert [e["id"] for e in events] == sorted(e["id"] for e in events)


def test_counts_of_zones_are_figures_and_crossings_both() -> None:
    results = ResultStore()
    for count in range(50):
        results.add_result(
            result(events=(ZoneCount("cam", 1.0, "door", count, {"car": count}, 60),))
        )
    results.add_result(result(events=(LineCrossed("cam", 1.0, "gate", 1, "car", "out", 4, 2),)))
    assert results.tallies("cam") == {"door": [49], "gate": [4, 2]}
    assert [e["kind"] for e in results.events_after(0)] == ["cross"]
    results.reset_tallies("cam")
    assert results.tallies("cam") == {}


def test_tracks_travel_with_their_boxes() -> None:
    results = ResultStore()
    found = replace(detections([[0, 0, 9, 9], [9, 9, 20, 20]]), tracker_id=np.array([12, -1]))
    results.add_result(result(found=found))
    latest = results.latest("cam")
    assert latest is not None
    data = encode_frame(latest, 160, 80, 0.0).data
    boxes = json.loads(data[4 : data.index(b"\xff\xd8")])["boxes"]
    assert [box.get("track") for box in boxes] == [12, None]


def test_a_camera_that_is_tried_for_hours_is_one_event() -> None:
    results = ResultStore()

    def tell(state: State) -> None:
        results.add_status(StatusEvent("cam", state, "no answer from rtsp://u:hunter2@h", 1.0))

    for _ in range(500):
        tell("connecting")
        tell("lost")
    tell("live")
    tell("lost")
    assert [e["state"] for e in results.events_after(0)] == ["lost", "live", "lost"]
    assert "hunter2" not in json.dumps(results.events_after(0))


def test_counts_over_time_are_means_per_frame() -> None:
    now = [1000.0]
    results = ResultStore(clock=lambda: now[0])
    two = detections([[0, 0, 9, 9], [20, 20, 40, 40]])
    none = Detections.empty(("person", "car", "dog"))
    results.add_result(result(found=two))
    results.add_result(result(found=none))
    now[0] += results_module.BUCKET
    results.add_result(result(found=two))
    (point,) = results.points_after(0)
    assert point["counts"] == {"person": 0.5, "car": 0.5}
    assert point["time"] == 1000.0
    for _ in range(results_module.POINTS + 20):
        now[0] += results_module.BUCKET
        results.add_result(result(found=two))
    assert len(results.points_after(0)) == results_module.POINTS


def test_removed_cameras_are_forgotten() -> None:
    results = ResultStore()
    results.add_result(result("a"))
    results.add_result(result("b"))
    results.keep_only({"b"})
    assert results.latest("a") is None
    assert results.latest("b") is not None
    assert set(results.sizes()) == {"b"}


def test_a_packet_holds_the_picture_and_its_boxes() -> None:
    results = ResultStore()
    results.add_result(result(found=detections([[0, 0, 320, 180]]), size=(360, 640), sequence=5))
    latest = results.latest("cam")
    assert latest is not None
    frame = encode_frame(latest, 320, 80, 1.5)
    (length,) = struct.unpack(">I", frame.data[:4])
    header = json.loads(frame.data[4 : 4 + length])
    assert header["size"] == [640, 360]
    assert header["sequence"] == 5
    assert header["boxes"] == [{"box": [0, 0, 0.5, 0.5], "name": "person", "confidence": 0.9}]
    picture = cv2.imdecode(np.frombuffer(frame.data[4 + length :], np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    assert picture.shape == (180, 320, 3)
    assert abs(int(picture.mean()) - 90) <= 1
    assert frame.made == 1.5


def test_widths_are_few_and_never_larger_than_the_picture() -> None:
    assert [fitting_width(w) for w in (-5, 1, 320, 321, 10**9)] == [160, 160, 320, 480, 1920]
    results = ResultStore()
    results.add_result(result(size=(64, 96)))
    latest = results.latest("cam")
    assert latest is not None
    data = encode_frame(latest, 1920, 80, 0.0).data
    picture = cv2.imdecode(
        np.frombuffer(data[data.index(b"\xff\xd8") :], np.uint8), cv2.IMREAD_COLOR
    )
    assert picture is not None
    assert picture.shape[:2] == (64, 96)
