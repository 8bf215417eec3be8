"""What a user's own code may look like."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from trt_afdet import (
    AfdetError,
    Detection,
    Detections,
    Detector,
    ModelSpec,
    Tracker,
    Zones,
    build_engine,
    evaluate,
    watch,
)


def largest(found: Detections) -> Detection | None:
    areas = (found.xyxy[:, 2:] - found.xyxy[:, :2]).prod(axis=1)
    return found[int(areas.argmax())] if len(found) else None


def look(path: Path) -> list[str]:
    spec: ModelSpec
    with Detector(conf=0.4, classes=["imp"]) as detector:
        spec = detector.spec
        one: Detections = detector(path)
        several: list[Detections] = detector([path, str(path)])
    drawn: npt.NDArray[np.uint8] = one.draw(path)
    names: list[str] = several[0].names
    return [*names, str(spec.width), str(drawn.shape)]


def follow(source: str) -> None:
    tracker = Tracker()
    zones = Zones({"door": [(0, 0), (0.5, 0), (0.5, 1)]}, size=(640, 480))
    for frame, found in Detector.load("model.onnx").stream(source):
        height: int = frame.shape[0]
        events = zones.update(tracker.update(found))
        print(height, len(events), zones.counts)


def run() -> float:
    watch("cameras.yaml", on_result=lambda result: print(result.source, len(result.detections)))
    try:
        engine = build_engine("model.onnx", precision="fp16")
        print(engine.path.name, engine.sidecar.precision_asked)
    except AfdetError as error:
        print(error)
    return evaluate(Detector(conf=0.01), "data").ap50
