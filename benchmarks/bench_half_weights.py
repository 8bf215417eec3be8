"""Weights stored in FP16: file size, AP on the shipped clip, time to open and time per frame.

The shipped model as it is, and with its weights as ``trt-afdet export --half-weights`` stores them;
ONNX Runtime, one thread, the two in turns.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from table import interleaved_ms, rows, show

from trt_afdet import Detector, evaluate
from trt_afdet.assets import ASSETS, SHIPPED_MODEL
from trt_afdet.engine.onnx.half_weights import store_half
from trt_afdet.engine.onnx.model_file import save_model


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        half = Path(folder) / "half.onnx"
        model = onnx.load(SHIPPED_MODEL)
        store_half(model)
        save_model(model, half)
        files = {"FP32 weights": SHIPPED_MODEL, "FP16 weights": half}
        for name, path in files.items():
            with Detector(path, conf=0.01) as detector:
                result = evaluate(detector, str(ASSETS / "clip.json"))
            size = path.stat().st_size / 1e6
            print(f"{name}: {size:.2f} MB, AP {100 * result.ap:.2f}, AP50 {100 * result.ap50:.2f}")
        frame = np.random.default_rng(0).integers(0, 255, (480, 640, 3), dtype=np.uint8)

        def open_and_close(path: Path) -> None:
            Detector(path, threads=1).close()

        opening = {name: partial(open_and_close, path) for name, path in files.items()}
        lines = rows("open", interleaved_ms(opening, 10))
        detectors = {name: Detector(path, threads=1) for name, path in files.items()}
        frames = {name: partial(detector, frame) for name, detector in detectors.items()}
        lines += rows("one frame", interleaved_ms(frames, 10))
        show("weights stored in FP16", lines)


if __name__ == "__main__":
    main()
