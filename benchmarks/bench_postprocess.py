"""Heads to boxes, per frame: ours beside torchvision's, Ultralytics' and OpenCV's.

All get the same numbers of one 512x512 frame, in the layout each of them reads, and the same score
threshold, IoU and limits. What differs by their design: Ultralytics decodes in the network, so
there is one row with that step and one without; both take every class of a point (``multi_label``)
as ours does, "best class" only one. OpenCV's has no decode or per-level cut and gets the boxes and
scores that pass ours: that row is NMS alone. Median of interleaved runs.
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

from trt_afdet.postprocess import decode_level, postprocess, sigmoid
from trt_afdet.spec import ModelSpec

Task = Callable[[], object]
Heads = list[npt.NDArray[np.float32]]


def make_spec(classes: int) -> ModelSpec:
    names = tuple(f"class {i}" for i in range(classes))
    return ModelSpec(name="bench", class_names=names, height=512, width=512)


def sparse_heads(spec: ModelSpec, objects: int = 12, seed: int = 0) -> Heads:
    """A few objects, each a peak over neighbouring points of one level: some hundred candidates."""
    rng = np.random.default_rng(seed)
    cls = [rng.normal(-8, 1, (1, spec.num_classes, *g)).astype(np.float32) for g in spec.grid_sizes]
    reg = [rng.uniform(0.2, 1.2, (1, 4, *g)).astype(np.float32) for g in spec.grid_sizes]
    for _ in range(objects):
        level = int(rng.integers(0, 3))
        size = spec.grid_sizes[level][0]
        row, column = rng.integers(3, size - 3, 2)
        class_id = rng.integers(spec.num_classes)
        patch = cls[level][0, class_id, row - 2 : row + 3, column - 2 : column + 3]
        patch[:] = rng.normal(0.5, 1.0, patch.shape)
    return cls + reg


def dense_heads(spec: ModelSpec, seed: int = 0) -> Heads:
    """Every level that has as many pairs passes 1000 candidates."""
    rng = np.random.default_rng(seed)
    cls = [rng.normal(-2, 1, (1, spec.num_classes, *g)).astype(np.float32) for g in spec.grid_sizes]
    reg = [rng.uniform(0.2, 1.2, (1, 4, *g)).astype(np.float32) for g in spec.grid_sizes]
    return cls + reg


def point_centres(spec: ModelSpec) -> list[Any]:
    """Where each level's points sit: tensors [points, 2], x and y in pixels."""
    import torch

    centres = []
    for (height, width), stride in zip(spec.grid_sizes, spec.strides, strict=True):
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        centres.append((torch.stack([x, y], -1).reshape(-1, 2) + 0.5) * stride)
    return centres


def torchvision_task(heads: Heads, spec: ModelSpec) -> Task:
    """What torchvision's FCOS does after its heads: sigmoid, per-level topk, batched_nms."""
    import torch
    from torchvision.ops import batched_nms, clip_boxes_to_image

    count = len(spec.strides)
    tensors = [torch.from_numpy(head) for head in heads]
    centres = point_centres(spec)

    @torch.inference_mode()
    def run() -> Any:
        boxes, scores, labels = [], [], []
        for level, stride in enumerate(spec.strides):
            score = tensors[level][0].permute(1, 2, 0).reshape(-1).sigmoid()
            above = torch.where(score > spec.score_threshold)[0]
            best, order = score[above].topk(min(spec.candidates_per_level, len(above)))
            point = above[order] // spec.num_classes
            reach = tensors[count + level][0].reshape(4, -1)[:, point].T
            reach = reach * (spec.regression_scale * stride)
            centre = centres[level][point]
            box = torch.cat([centre - reach[:, :2], centre + reach[:, 2:]], 1)
            boxes.append(clip_boxes_to_image(box, (spec.height, spec.width)))
            scores.append(best)
            labels.append(above[order] % spec.num_classes)
        box, score, label = torch.cat(boxes), torch.cat(scores), torch.cat(labels)
        keep = batched_nms(box, score, label, spec.nms_iou)[: spec.max_detections]
        return box[keep], score[keep], label[keep]

    return run


def ultralytics_tasks(heads: Heads, spec: ModelSpec) -> dict[str, Task]:
    """non_max_suppression of centre boxes and probabilities, after its decode and without it."""
    import torch
    from ultralytics.utils.nms import non_max_suppression

    count = len(spec.strides)
    tensors = [torch.from_numpy(head) for head in heads]
    centres = torch.cat(point_centres(spec)).T[None]

    def decode() -> Any:
        """[1, 4 + K, points], as the last layer of its networks gives it."""
        score = torch.cat([head.flatten(2) for head in tensors[:count]], 2).sigmoid()
        units = [spec.regression_scale * stride for stride in spec.strides]
        reach = torch.cat(
            [head.flatten(2) * u for head, u in zip(tensors[count:], units, strict=True)], 2
        )
        low, high = centres - reach[:, :2], centres + reach[:, 2:]
        return torch.cat([(low + high) / 2, high - low, score], 1)

    @torch.inference_mode()
    def suppress(decoded: Any, multi_label: bool) -> Any:
        return non_max_suppression(
            decoded,
            conf_thres=spec.score_threshold,
            iou_thres=spec.nms_iou,
            max_det=spec.max_detections,
            nc=spec.num_classes,
            multi_label=multi_label,
            max_nms=spec.candidates_per_level * len(spec.strides),
            max_time_img=60,
        )

    decoded = decode()
    return {
        "ultralytics + decode": torch.inference_mode()(lambda: suppress(decode(), True)),
        # It may change its input in place: each run needs a copy.
        "ultralytics NMS only": lambda: suppress(decoded.clone(), True),
        "ultralytics best class": lambda: suppress(decoded.clone(), False),
    }


def opencv_task(heads: Heads, spec: ModelSpec) -> Task:
    """cv2.dnn.NMSBoxesBatched on the boxes that our decode leaves: NMS alone."""
    count = len(spec.strides)
    levels = [decode_level(heads[i][0], heads[count + i][0], spec, i) for i in range(count)]
    corners = np.concatenate([level.boxes for level in levels])
    # Arrays are as good as the sequences that its signature names.
    boxes: Any = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1).astype(float)
    scores: Any = sigmoid(np.concatenate([level.logits for level in levels]))
    class_id: Any = np.concatenate([level.class_id for level in levels]).astype(np.int32)

    def run() -> Any:
        kept = cv2.dnn.NMSBoxesBatched(boxes, scores, class_id, spec.score_threshold, spec.nms_iou)
        return kept[: spec.max_detections]

    return run


def tasks_for(heads: Heads, spec: ModelSpec, peers: dict[str, bool]) -> dict[str, Task]:
    tasks: dict[str, Task] = {"trt-afdet": lambda: postprocess(heads, spec)}
    if peers["torchvision"]:
        tasks["torchvision FCOS"] = torchvision_task(heads, spec)
    if peers["ultralytics"]:
        tasks |= ultralytics_tasks(heads, spec)
    tasks["cv2 NMSBoxesBatched"] = opencv_task(heads, spec)
    return tasks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=8.0, help="per case (default: 8)")
    parser.add_argument("--threads", type=int, default=1, help="of torch and OpenCV (default: 1)")
    args = parser.parse_args()
    os.environ.setdefault("YOLO_OFFLINE", "true")
    cv2.setNumThreads(args.threads)
    peers = {
        name: installed(name, f"pip install {name}") for name in ("torchvision", "ultralytics")
    }
    if peers["torchvision"]:
        import torch

        torch.set_num_threads(args.threads)
    lines: list[list[str]] = []
    for classes in (20, 80):
        spec = make_spec(classes)
        for heads in (sparse_heads(spec), dense_heads(spec)):
            count = len(spec.strides)
            found = sum(
                len(decode_level(heads[i][0], heads[count + i][0], spec, i).logits)
                for i in range(count)
            )
            medians = interleaved_ms(tasks_for(heads, spec, peers), args.seconds)
            lines += rows(f"{classes} classes, {found} boxes", medians)
    show(f"postprocess, sparse and dense 512x512 frame, {args.threads} thread(s)", lines)


if __name__ == "__main__":
    main()
