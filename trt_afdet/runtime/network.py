"""What the runner needs of a network on a device, and of the kernels around it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from trt_afdet.errors import InvalidValueError
from trt_afdet.interface import DETECTION_NAMES, check_network
from trt_afdet.native import Frame as FrameDescriptor
from trt_afdet.spec import ModelSpec


@dataclass(frozen=True)
class TensorInfo:
    """One input or output of a network.

    Attributes:
        name: Its name.
        dtype: NumPy's name of its element type.
        shape: Without the batch.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]


class Network(Protocol):
    """What the runner needs of an engine and its execution contexts.

    Attributes:
        inputs, outputs: Its tensors, all with the batch in front.
        batches: Smallest, best and largest batch.
        keeps_batches: Whether what was prepared for one batch size stays so while another runs.
    """

    inputs: Sequence[TensorInfo]
    outputs: Sequence[TensorInfo]
    batches: tuple[int, int, int]
    keeps_batches: bool

    def prepare(self, batch: int, addresses: Mapping[str, int]) -> None:
        """Sets a batch size and where every tensor lies; called before ``enqueue`` of it."""
        ...

    def enqueue(self, batch: int, stream: int) -> None:
        """Queues one run."""
        ...

    def close(self) -> None: ...


class Kernels(Protocol):
    """What the runner needs of :class:`trt_afdet.native.CudaLibrary`."""

    def detect_workspace(self, spec: ModelSpec, dtype: str, batch: int) -> int: ...

    def detect(
        self,
        heads: Sequence[int],
        spec: ModelSpec,
        dtype: str,
        batch: int,
        outputs: Sequence[int],
        workspace: int,
        workspace_bytes: int,
        stream: int = 0,
    ) -> None: ...

    def check_frames(self, frames: Sequence[FrameDescriptor], spec: ModelSpec) -> None: ...

    def letterbox(
        self, frames: int, count: int, spec: ModelSpec, output: int, dtype: str, stream: int = 0
    ) -> None: ...


def check_tensors(network: Network, spec: ModelSpec) -> bool:
    """Whether the network finds its boxes itself, if its tensors are what the spec says.

    Raises:
        InvalidValueError: Naming the first tensor that is not.
    """
    names = [info.name for info in network.inputs]
    if names != [INPUT_NAME]:
        raise InvalidValueError(
            f"the engine's only input must be {INPUT_NAME!r}", got=", ".join(names)
        )
    outputs = {info.name: info for info in network.outputs}
    finished = set(FINISHED_NAMES) <= set(outputs)
    want: dict[str, tuple[int, ...]] = {INPUT_NAME: (3, spec.height, spec.width)}
    if finished:
        most = outputs["detection_scores"].shape[-1] if outputs["detection_scores"].shape else 0
        if most != spec.max_detections:
            raise InvalidValueError(
                f"the engine returns {most} boxes, its spec says {spec.max_detections}"
            )
        shapes: tuple[tuple[int, ...], ...] = ((1,), (most, 4), (most,), (most,))
        want.update(zip(FINISHED_NAMES, shapes, strict=True))
    else:
        depths = [spec.num_classes] * len(spec.strides) + [4] * len(spec.strides)
        for name, depth, size in zip(spec.output_names, depths, spec.grid_sizes * 2, strict=True):
            want[name] = (depth, *size)
    have = {info.name: info for info in (*network.inputs, *network.outputs)}
    for name, shape in want.items():
        if name not in have:
            raise InvalidValueError(
                f"the engine has no tensor {name!r}", got=", ".join(have), hint="build it again"
            )
        if have[name].shape != shape:
            raise InvalidValueError(
                f"the engine's {name!r} does not fit its spec, expected [N, "
                f"{', '.join(map(str, shape))}]",
                got=list(have[name].shape),
                hint="build it again",
            )
    element = have[INPUT_NAME].dtype
    heads = {have[name].dtype for name in want if name != INPUT_NAME}
    if element not in ("float32", "float16") or (
        not finished and (len(heads) != 1 or not heads <= {"float32", "float16"})
    ):
        raise InvalidValueError(
            "the engine's input and heads must be float32 or float16, all heads of one type",
            got=", ".join(sorted({element, *heads})),
            hint="build it again",
        )
    return finished


def check_baked(base: ModelSpec, asked: ModelSpec) -> None:
    """Refuses what a network that finds its boxes itself cannot do.

    A higher score threshold and fewer boxes are applied to its results.

    Raises:
        InvalidValueError: Naming the value that is built in.
    """
    hint = "build the engine with --nms none, or with this value in the model"
    if asked.nms_iou != base.nms_iou:
        raise InvalidValueError(
            f"NMS IoU {base.nms_iou} is built into this engine", got=asked.nms_iou, hint=hint
        )
    if asked.score_threshold < base.score_threshold:
        raise InvalidValueError(
            f"boxes below confidence {base.score_threshold} are left out by this engine",
            got=asked.score_threshold,
            hint=hint,
        )
    if asked.max_detections > base.max_detections:
        raise InvalidValueError(
            f"this engine returns at most {base.max_detections} boxes",
            got=asked.max_detections,
            hint=hint,
        )
