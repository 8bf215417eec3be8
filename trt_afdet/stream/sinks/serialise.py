"""What leaves the pipeline as JSON: one definition for files, brokers and webhooks.

A record is a JSON object. Every record has

* ``type``: "result" (a processed frame), "event" (what a zone or line said) or "status",
* ``run`` and ``number``: the id of this opening of the sink, and the record's number in it from 0.
  Together they are unique: a reader tells restarts apart by ``run``, sees gaps in ``number``, and
  drops what a network sink delivered twice,
* ``source``: the camera's name,
* ``time``: ISO 8601 in UTC with milliseconds, of the frame's capture or of the change.

A result also has ``sequence`` (number of the frame in its source), ``position`` (seconds into a
file; null for live sources), ``width`` and ``height`` (pixels), ``latency`` (seconds from capture
to the detections), ``detected`` (false if the tracker carried the boxes on), ``detections`` (see
:meth:`trt_afdet.detections.Detections.to_dicts`: box as x1 y1 x2 y2 in pixels, confidence,
class_id, class, and tracker_id where something tracks) and ``events`` (see ``zone_events.py``).
An event has ``sequence``, ``position`` and ``event``. A status has ``state`` and ``detail``.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any, Literal, get_args

from trt_afdet.errors import InvalidValueError
from trt_afdet.stream.frame import StreamResult
from trt_afdet.stream.monitoring.status import StatusEvent
from trt_afdet.support.files import TEXT_ERRORS
from trt_afdet.support.suggest import nearest

Record = dict[str, Any]

#: What a sink may be asked to send: every processed frame; only those with a detection or an event;
#: each event by itself; changes of state.
Content = Literal["results", "detections", "events", "status"]

#: Every JSON record begins so.
JSON_START = b'{"type": "'


def new_run() -> str:
    """An id that sorts by time: ``20260131T235959Z-1a2b3c4d``."""
    return f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{secrets.token_hex(4)}"


def iso_time(seconds: float) -> str:
    """Seconds since 1970 as ``2026-01-31T23:59:59.123Z``."""
    moment = datetime.fromtimestamp(round(seconds, 3), timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def result_fields(result: StreamResult) -> Record:
    """The fields of a result but ``type``, ``run`` and ``number``."""
    frame = result.frame
    height, width = frame.image.shape[:2]
    return {
        "source": frame.source,
        "sequence": frame.sequence,
        "time": iso_time(frame.wall_time),
        "position": _position(result),
        "width": width,
        "height": height,
        "latency": round(result.finished - frame.captured, 6),
        "detected": result.detected,
        "detections": result.detections.to_dicts(),
        "events": [event_fields(event) for event in result.events],
    }


def _position(result: StreamResult) -> float | None:
    position = result.frame.position
    return None if position is None else round(position, 6)


def event_fields(event: object) -> Record:
    """An event of a zone or line."""
    to_json = getattr(event, "to_json", None)
    return to_json() if to_json is not None else {"kind": "other", "text": str(event)}


def status_fields(event: StatusEvent) -> Record:
    """The fields of a change of state but ``type``, ``run`` and ``number``."""
    return {
        "source": event.source,
        "time": iso_time(event.wall_time),
        "state": event.state,
        "detail": event.detail,
    }


def dumps(record: Record) -> str:
    """One line of JSON, without its end."""
    line = json.dumps(record, ensure_ascii=False)
    return line.encode("utf-8", TEXT_ERRORS).decode()


def parse_contents(text: str) -> tuple[Content, ...]:
    """``results,status`` as the contents they name.

    Raises:
        InvalidValueError: If one is unknown, or there is none.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in get_args(Content):
            hint = nearest(name, get_args(Content)) or f"known: {', '.join(get_args(Content))}"
            raise InvalidValueError("a sink cannot send that", got=name, hint=hint)
    if not names:
        raise InvalidValueError("a sink needs something to send", hint=", ".join(get_args(Content)))
    return tuple(names)  # type: ignore[arg-type]


class Recorder:
    """Makes the records of one sink and numbers them.

    Args:
        contents: What it is to send.
    """

    def __init__(self, contents: Sequence[Content] = ("results", "status")) -> None:
        self.run = new_run()
        self._contents = frozenset(contents)
        self._number = 0

    def result(self, result: StreamResult) -> list[Record]:
        """The records of a processed frame."""
        records: list[Record] = []
        if "results" in self._contents or (
            "detections" in self._contents and (len(result.detections) or result.events)
        ):
            records.append(self._numbered("result", result_fields(result)))
        if "events" in self._contents:
            common = {
                "source": result.frame.source,
                "sequence": result.frame.sequence,
                "time": iso_time(result.frame.wall_time),
                "position": _position(result),
            }
            records += [
                self._numbered("event", {**common, "event": event_fields(event)})
                for event in result.events
            ]
        return records

    def status(self, event: StatusEvent) -> list[Record]:
        """The record of a change of state, if it is to be sent."""
        if "status" not in self._contents:
            return []
        return [self._numbered("status", status_fields(event))]

    def _numbered(self, kind: str, fields: Record) -> Record:
        record = {"type": kind, "run": self.run, "number": self._number, **fields}
        self._number += 1
        return record
