"""The records of one sink: which ones it sends, and their numbers."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import Annotated, Literal, get_args

from trt_afdet.errors import InvalidValueError
from trt_afdet.records import Record, iso_time, make_record, result_fields
from trt_afdet.stream.frame import StreamResult
from trt_afdet.stream.monitoring.status import StatusEvent
from trt_afdet.support.suggest import nearest

#: Kinds of records: every processed frame; only frames with a detection or an event; single
#: events; changes of state.
Content = Literal["results", "detections", "events", "status"]


def new_run() -> str:
    """An id that sorts by time: ``20260131T235959Z-1a2b3c4d``."""
    return f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{secrets.token_hex(4)}"


def parse_contents(text: object) -> tuple[Content, ...]:
    """``results,status`` as the contents they name; InvalidValueError for unknown or none."""
    known: tuple[Content, ...] = get_args(Content)
    names = [name.strip() for name in str(text).split(",") if name.strip()]
    for name in names:
        if name not in known:
            hint = nearest(name, known) or f"known: {', '.join(known)}"
            raise InvalidValueError("a sink cannot send that", got=name, hint=hint)
    if not names:
        raise InvalidValueError("a sink needs something to send", hint=", ".join(known))
    return tuple(names)  # type: ignore[arg-type]


Contents = Annotated[tuple[Content, ...], parse_contents]  # The annotation of such an option.


class Recorder:
    """Makes the records of one sink, of the kinds ``contents``, and numbers them."""

    def __init__(self, contents: Sequence[Content] = ("results", "status")) -> None:
        self.run = new_run()
        self._contents = frozenset(contents)
        self._number = 0

    def result(self, result: StreamResult) -> list[Record]:
        frame = result.frame
        events: list[Record] = [
            event.to_json() if hasattr(event, "to_json") else {"kind": "other", "text": str(event)}
            for event in result.events
        ]
        place = frame.source, frame.sequence, frame.position
        fields = result_fields(result.detections, frame.image, *place)
        records: list[Record] = []
        wanted = "detections" if len(result.detections) or events else "results"
        if {"results", wanted} & self._contents:
            latency = round(result.finished - frame.captured, 6)
            more = {"latency": latency, "detected": result.detected, "events": events}
            records.append(self._numbered("result", frame.wall_time, fields | more))
        if "events" in self._contents:
            where = {name: fields[name] for name in ("source", "sequence", "position")}
            for event in events:
                records.append(self._numbered("event", frame.wall_time, where | {"event": event}))
        return records

    def status(self, event: StatusEvent) -> list[Record]:
        if "status" not in self._contents:
            return []
        fields = {"source": event.source, "state": event.state, "detail": event.detail}
        return [self._numbered("status", event.wall_time, fields)]

    def _numbered(self, kind: str, wall_time: float, fields: Record) -> Record:
        stamp = {"run": self.run, "number": self._number, "time": iso_time(wall_time)}
        self._number += 1
        return make_record(kind, stamp | fields)
