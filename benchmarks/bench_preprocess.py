"""A 1920x1080 BGR frame to a 512x512 network input, compared with the peers' functions.

Ultralytics and OpenCV only divide by 255; torchvision and ours also subtract the mean. Times are
medians of interleaved runs.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from table import installed, interleaved_ms, rows, show

from trt_afdet.preprocess import letterbox, preprocess
from trt_afdet.spec import ModelSpec

Frame = npt.NDArray[np.uint8]
Task = Callable[[], Any]

SPEC = ModelSpec(name="bench", class_names=("any",), height=512, width=512)


def film_frame() -> Frame:
    """A frame of smooth colour with noise, so that no part is constant."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (27, 48, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(small, (1920, 1080), interpolation=cv2.INTER_CUBIC), np.uint8)


def ultralytics_task(frame: Frame) -> Task:
    """LetterBox, then the predictor's steps: stack, BGR to RGB, NCHW, torch, float, / 255."""
    import torch
    from ultralytics.data.augment import LetterBox

    place = LetterBox((SPEC.height, SPEC.width), auto=False)

    def run() -> Any:
        batch = np.stack([place(image=frame)])[..., ::-1].transpose((0, 3, 1, 2))
        return torch.from_numpy(np.ascontiguousarray(batch)).float() / 255

    return run


def torchvision_task(frame: Frame) -> Task:
    """transforms.v2: resize without antialiasing (as OpenCV), pad, scale, normalise."""
    import torch
    from torchvision.transforms import v2

    height = round(SPEC.width * frame.shape[0] / frame.shape[1])
    top = (SPEC.height - height) // 2
    chain = v2.Compose(
        [
            v2.Resize((height, SPEC.width), antialias=False),
            v2.Pad([0, top, 0, SPEC.height - height - top], fill=SPEC.pad_value),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(SPEC.mean, SPEC.std),
        ]
    )

    @torch.inference_mode()
    def run() -> Any:
        rgb = torch.from_numpy(frame).permute(2, 0, 1).flip(0)
        return chain(rgb)[None]

    return run


def opencv_task(frame: Frame) -> Task:
    """Our letterbox, then cv2.dnn.blobFromImage."""

    def run() -> Any:
        canvas, _ = letterbox(frame, SPEC.height, SPEC.width, SPEC.pad_value)
        return cv2.dnn.blobFromImage(canvas, 1 / 255, swapRB=True)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=8.0, help="in all (default: 8)")
    parser.add_argument("--threads", type=int, default=1, help="of torch and OpenCV (default: 1)")
    args = parser.parse_args()
    os.environ.setdefault("YOLO_OFFLINE", "true")
    frame = film_frame()
    tasks: dict[str, Task] = {"trt-afdet": lambda: preprocess([frame], SPEC)}
    if installed("ultralytics", "pip install ultralytics"):
        tasks["ultralytics LetterBox"] = ultralytics_task(frame)
    if installed("torchvision", "pip install torchvision"):
        import torch

        torch.set_num_threads(args.threads)
        tasks["torchvision v2"] = torchvision_task(frame)
    tasks["cv2 letterbox + blobFromImage"] = opencv_task(frame)
    cv2.setNumThreads(args.threads)  # After the imports, because Ultralytics sets it to 0.
    medians = interleaved_ms(tasks, args.seconds)
    show(f"preprocess, {args.threads} thread(s)", rows("1920x1080 to 512x512", medians))


if __name__ == "__main__":
    main()
