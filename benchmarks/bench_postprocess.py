"""Heads to boxes, compared with torchvision, Ultralytics, OpenCV and ONNX Runtime.

All get the same numbers, each in its own layout, and the same score threshold, IoU and limits.
The frames are two synthetic ones (sparse, and crowded beyond all limits), one of the shipped clip
through the shipped detector, and a batch of 16. "C ABI" is only the call of the library, as from
C++; the row above it is ``postprocess`` in Python.

The peers differ by design. Ultralytics decodes in the network, so one row includes that step and
one does not; both take every class of a point (``multi_label``) as ours does, "best class" only
one. OpenCV and ONNX Runtime do not decode or cut per level and get the boxes and scores that pass
our cut, so these rows measure only NMS. Times are medians of interleaved runs. Each task has
separate tensors, so the other tasks evict its data from the caches, as a network would.
"""

from __future__ import annotations

import argparse
import ctypes
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from table import installed, interleaved_ms, rows, show

from trt_afdet import native
from trt_afdet.postprocess import decode_and_suppress, decode_level, postprocess, sigmoid
from trt_afdet.spec import ModelSpec

Task = Callable[[], object]
Heads = list[npt.NDArray[np.float32]]


def make_spec(classes: int) -> ModelSpec:
    names = tuple(f"class {i}" for i in range(classes))
    return ModelSpec(name="bench", class_names=names, height=512, width=512)


def sparse_heads(spec: ModelSpec, objects: int = 12, seed: int = 0) -> Heads:
    """A few objects, each a peak over neighbouring points of a level; some hundred candidates."""
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
    """1000 candidates on every level that has enough pairs."""
    rng = np.random.default_rng(seed)
    cls = [rng.normal(-2, 1, (1, spec.num_classes, *g)).astype(np.float32) for g in spec.grid_sizes]
    reg = [rng.uniform(0.2, 1.2, (1, 4, *g)).astype(np.float32) for g in spec.grid_sizes]
    return cls + reg


def point_centres(spec: ModelSpec) -> list[Any]:
    """The points of each level: tensors [points, 2], x and y in pixels."""
    import torch

    centres = []
    for (height, width), stride in zip(spec.grid_sizes, spec.strides, strict=True):
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        centres.append((torch.stack([x, y], -1).reshape(-1, 2) + 0.5) * stride)
    return centres


def torchvision_task(heads: Heads, spec: ModelSpec, device: str = "cpu") -> Task:
    """torchvision's FCOS after its heads: sigmoid, per-level topk, batched_nms."""
    import torch
    from torchvision.ops import batched_nms, clip_boxes_to_image

    count = len(spec.strides)
    tensors = [torch.from_numpy(head).to(device) for head in heads]
    centres = [centre.to(device) for centre in point_centres(spec)]

    def detect(image: int) -> Any:
        boxes, scores, labels = [], [], []
        for level, stride in enumerate(spec.strides):
            score = tensors[level][image].permute(1, 2, 0).reshape(-1).sigmoid()
            above = torch.where(score > spec.score_threshold)[0]
            best, order = score[above].topk(min(spec.candidates_per_level, len(above)))
            point = above[order] // spec.num_classes
            reach = tensors[count + level][image].reshape(4, -1)[:, point].T
            reach = reach * (spec.regression_scale * stride)
            centre = centres[level][point]
            box = torch.cat([centre - reach[:, :2], centre + reach[:, 2:]], 1)
            boxes.append(clip_boxes_to_image(box, (spec.height, spec.width)))
            scores.append(best)
            labels.append(above[order] % spec.num_classes)
        box, score, label = torch.cat(boxes), torch.cat(scores), torch.cat(labels)
        keep = batched_nms(box, score, label, spec.nms_iou)[: spec.max_detections]
        return box[keep], score[keep], label[keep]

    @torch.inference_mode()
    def run() -> Any:
        return [detect(image) for image in range(len(tensors[0]))]

    return run


def ultralytics_tasks(heads: Heads, spec: ModelSpec) -> dict[str, Task]:
    """non_max_suppression of centre boxes and probabilities, with and without the decode."""
    import torch
    from ultralytics.utils.nms import non_max_suppression

    count = len(spec.strides)
    tensors = [torch.from_numpy(head) for head in heads]
    centres = torch.cat(point_centres(spec)).T[None]

    def decode() -> Any:
        """[1, 4 + K, points], the output of the last layer of its networks."""
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
        # The function may change its input in place, so each run needs a copy.
        "ultralytics NMS only": lambda: suppress(decoded.clone(), True),
        "ultralytics best class": lambda: suppress(decoded.clone(), False),
    }


def opencv_task(heads: Heads, spec: ModelSpec) -> Task:
    """cv2.dnn.NMSBoxesBatched on our decoded boxes: only NMS."""
    count = len(spec.strides)
    levels = [decode_level(heads[i][0], heads[count + i][0], spec, i) for i in range(count)]
    corners = np.concatenate([level.boxes for level in levels])
    # The function accepts arrays, although its signature names sequences.
    boxes: Any = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1).astype(float)
    scores: Any = sigmoid(np.concatenate([level.logits for level in levels]))
    class_id: Any = np.concatenate([level.class_id for level in levels]).astype(np.int32)

    def run() -> Any:
        kept = cv2.dnn.NMSBoxesBatched(boxes, scores, class_id, spec.score_threshold, spec.nms_iou)
        return kept[: spec.max_detections]

    return run


def onnxruntime_task(heads: Heads, spec: ModelSpec) -> Task:
    """A graph of one NonMaxSuppression node, on our decoded boxes."""
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper

    count = len(spec.strides)
    levels = [decode_level(heads[i][0], heads[count + i][0], spec, i) for i in range(count)]
    boxes = np.concatenate([level.boxes for level in levels])[None, :, [1, 0, 3, 2]]
    class_id = np.concatenate([level.class_id for level in levels])
    scores = np.zeros((1, spec.num_classes, boxes.shape[1]), np.float32)
    scores[0, class_id, np.arange(len(class_id))] = sigmoid(
        np.concatenate([level.logits for level in levels])
    )
    names = ["boxes", "scores", "most", "iou", "score"]
    node = helper.make_node("NonMaxSuppression", names, ["kept"])
    constants = [
        helper.make_tensor("most", TensorProto.INT64, [1], [spec.max_detections]),
        helper.make_tensor("iou", TensorProto.FLOAT, [1], [spec.nms_iou]),
        helper.make_tensor("score", TensorProto.FLOAT, [1], [spec.score_threshold]),
    ]
    inputs = [
        helper.make_tensor_value_info("boxes", TensorProto.FLOAT, boxes.shape),
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, scores.shape),
    ]
    output = helper.make_tensor_value_info("kept", TensorProto.INT64, [None, 3])
    graph = helper.make_graph([node], "nms", inputs, [output], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    feed = {"boxes": np.ascontiguousarray(boxes), "scores": scores}
    return lambda: session.run(None, feed)


def library_task(heads: Sequence[npt.NDArray[Any]], spec: ModelSpec, threads: int = 1) -> Task:
    """A call of the C ABI's function with prepared arguments."""
    library = native.host()
    outputs = native.Outputs.empty(len(heads[0]), spec)
    addresses = (ctypes.c_void_p * len(heads))(*(head.ctypes.data for head in heads))
    out = native.DetectionsOut(*(array.ctypes.data for array in outputs))
    params = native.DecodeParams.of(spec)
    dtype, batch = native.DTYPES[heads[0].dtype.name], len(heads[0])

    def run() -> object:
        native.check_status(
            library._detect(params, addresses, dtype, batch, None, threads, out), "decoding"
        )
        return heads, outputs  # They must live as long as the task.

    return run


#: Peers that do all of the work; the others only do NMS.
WHOLE = ("torchvision FCOS", "ultralytics + decode")

PYTHON, LIBRARY = "trt-afdet", "trt-afdet, C ABI"


def copies(heads: Heads, dtype: type = np.float32) -> list[npt.NDArray[Any]]:
    """A copy of the heads."""
    return [np.array(head, dtype) for head in heads]


def tasks_for(heads: Heads, spec: ModelSpec, peers: dict[str, bool]) -> dict[str, Task]:
    """The tasks of one frame."""
    half = copies(heads, np.float16)
    flat = [head[0] for head in copies(heads)]
    tasks: dict[str, Task] = {}
    if peers["library"]:
        tasks[LIBRARY] = library_task(copies(heads), spec)
    tasks[PYTHON] = lambda: postprocess(heads, spec)
    # A peer runs between ours, because the second of two tasks with the same code is faster.
    if peers["torchvision"]:
        tasks["torchvision FCOS"] = torchvision_task(copies(heads), spec)
    if peers["library"]:
        tasks[f"{LIBRARY}, FP16"] = library_task(copies(half, np.float16), spec)
        tasks[f"{PYTHON}, FP16"] = lambda: postprocess(half, spec)
    tasks[f"{PYTHON}, NumPy alone"] = lambda: decode_and_suppress(flat, spec)
    if peers["ultralytics"]:
        tasks |= ultralytics_tasks(copies(heads), spec)
    tasks["cv2 NMSBoxesBatched"] = opencv_task(heads, spec)
    if peers["onnx"] and peers["onnxruntime"]:
        tasks["onnxruntime NMS"] = onnxruntime_task(heads, spec)
    return tasks


def batch_tasks(
    spec: ModelSpec, frames: Sequence[Heads], peers: dict[str, bool]
) -> dict[str, Task]:
    """The tasks of a batch; ours on one thread and on two."""
    heads = [np.concatenate(level) for level in zip(*frames, strict=True)]
    tasks: dict[str, Task] = {}
    if peers["library"]:
        for name, dtype in ((LIBRARY, np.float32), (f"{LIBRARY}, FP16", np.float16)):
            for threads in (1, 2):
                task = library_task(copies(heads, dtype), spec, threads)
                tasks[f"{name}, {threads} thread(s)"] = task
    tasks[PYTHON] = lambda: postprocess(heads, spec)
    if peers["torchvision"]:
        tasks["torchvision FCOS"] = torchvision_task(copies(heads), spec)
    if peers["ultralytics"]:
        whole = "ultralytics + decode"
        tasks[whole] = ultralytics_tasks(copies(heads), spec)[whole]
    return tasks


def verdicts(case: str, medians: Mapping[str, float]) -> list[str]:
    """Speed of ours relative to the fastest peers."""
    peers = {name: ms for name, ms in medians.items() if not name.startswith(PYTHON)}
    ours = [name for name in (LIBRARY, f"{LIBRARY}, 1 thread(s)", PYTHON) if name in medians]
    lines = []
    for kind, names in (("that does it all", WHOLE), ("of any kind", tuple(peers))):
        best = min((name for name in names if name in peers), key=peers.__getitem__, default=None)
        if best is not None:
            times = ", ".join(f"{name} {peers[best] / medians[name]:.1f} x" for name in ours)
            lines.append(f"{case}: the fastest peer {kind} is {best}; {times} as fast")
    return lines


def real_heads() -> tuple[ModelSpec, Heads]:
    """Heads of the shipped detector for a frame of its clip, with evaluation's threshold."""
    from trt_afdet.assets import ASSETS, SHIPPED_MODEL
    from trt_afdet.media import FrameReader
    from trt_afdet.preprocess import preprocess
    from trt_afdet.runtime.onnxruntime import OnnxRuntimeBackend

    frame = FrameReader().read(ASSETS / "clip.mp4", 59)
    with OnnxRuntimeBackend(SHIPPED_MODEL) as backend:
        spec = backend.spec.replace(score_threshold=0.01)
        images, _ = preprocess([np.asarray(frame, np.uint8)], spec)
        return spec, [np.asarray(head, np.float32) for head in backend.infer(images)]


def has_library() -> bool:
    """Whether the native code is available; prints a line if it is not."""
    try:
        native.host()
    except native.NativeMissingError as error:
        print(f"only NumPy is measured: {error}")
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=8.0, help="per case (default: 8)")
    parser.add_argument("--threads", type=int, default=1, help="of torch and OpenCV (default: 1)")
    args = parser.parse_args()
    os.environ.setdefault("YOLO_OFFLINE", "true")
    cv2.setNumThreads(args.threads)
    names = ("torchvision", "ultralytics", "onnx", "onnxruntime")
    peers = {name: installed(name, f"pip install {name}") for name in names}
    peers["library"] = has_library()
    if peers["torchvision"]:
        import torch

        torch.set_num_threads(args.threads)
    cases: dict[str, tuple[ModelSpec, Heads]] = {}
    if peers["onnxruntime"]:
        cases["shipped detector"] = real_heads()
    for classes in (20, 80):
        spec = make_spec(classes)
        cases[f"{classes} classes, sparse"] = spec, sparse_heads(spec)
        cases[f"{classes} classes, dense"] = spec, dense_heads(spec)
    lines: list[list[str]] = []
    notes: list[str] = []
    for name, (spec, heads) in cases.items():
        count = len(spec.strides)
        found = sum(
            len(decode_level(heads[i][0], heads[count + i][0], spec, i).logits)
            for i in range(count)
        )
        case = f"{name}, {found} boxes"
        medians = interleaved_ms(tasks_for(heads, spec, peers), args.seconds)
        lines += rows(case, medians)
        notes += verdicts(case, medians)
    spec = make_spec(80)
    frames = [sparse_heads(spec, seed=seed) for seed in range(16)]
    medians = interleaved_ms(batch_tasks(spec, frames, peers), args.seconds)
    lines += rows("80 classes, sparse, batch of 16", medians)
    notes += verdicts("80 classes, sparse, batch of 16", medians)
    show(f"postprocess, {args.threads} thread(s)", lines)
    print("\n".join(notes))


if __name__ == "__main__":
    main()
