"""An engine against the shipped model in ONNX Runtime, on the shipped clip: boxes and AP.

    python tests/gpu/compare_engine.py ENGINE

Exit status 1 if AP50 differs by more than the engine's precision may cost.
"""

from __future__ import annotations

import sys
from pathlib import Path

from trt_afdet.assets import ASSETS, SHIPPED_MODEL
from trt_afdet.datasets import open_dataset
from trt_afdet.evaluation import evaluate_coco
from trt_afdet.media import open_inputs
from trt_afdet.runtime.detector import Detector
from trt_afdet.trt.sidecar import read

#: Points of AP50 (of 100) that a precision may cost on a clip this short.
MOST_LOST = {"fp32": 0.2, "fp16": 0.5, "int8": 2.0}


def main(engine: Path) -> int:
    truth = open_dataset(ASSETS / "clip.json")
    with open_inputs(ASSETS / "clip.mp4") as source:
        frames = [frame.image for frame in source]
    scores = []
    for path in (SHIPPED_MODEL, engine):
        with Detector.load(path, conf=0.05) as detector:
            found = [detector(frame) for frame in frames]
        scores.append(evaluate_coco(truth, found))
    lost = 100 * (scores[0].ap50 - scores[1].ap50)
    precision = read(engine).precision_asked
    print(
        f"{engine.name}: AP50 {scores[1].ap50:.4f}, ONNX Runtime {scores[0].ap50:.4f}: "
        f"{lost:+.2f} points lost, {MOST_LOST[precision]} allowed"
    )
    return int(lost > MOST_LOST[precision])


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
