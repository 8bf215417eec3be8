"""Protocols of a network on a device and of the kernels around it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from trt_afdet.errors import InvalidValueError
from trt_afdet.interface import DETECTION_NAMES, check_network
from trt_afdet.native import FrameDescriptor
from trt_afdet.spec import ModelSpec

_FLOATS = ("float32", "float16")


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
    """An engine and its execution contexts.

    Attributes:
        inputs, outputs: Its tensors, all with the batch in front.
        batches: Smallest, best and largest batch.
        keeps_batches: Whether a batch size stays prepared while another runs.
    """

    inputs: Sequence[TensorInfo]
    outputs: Sequence[TensorInfo]
    batches: tuple[int, int, int]
    keeps_batches: bool

    def prepare(self, batch: int, addresses: Mapping[str, int]) -> None:
        """Sets a batch size and where every tensor lies; comes before ``enqueue`` of it."""
        ...

    def enqueue(self, batch: int, stream: int) -> None:
        """Queues one run."""
        ...

    def close(self) -> None:
        """Frees it; twice is fine."""
        ...


class Kernels(Protocol):
    """The methods that the runner calls of :class:`trt_afdet.native.CudaLibrary`."""

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


def check_tensors(network: Network, spec: ModelSpec, file: object) -> bool:
    """Whether the network ends in NMS, if its tensors are what the spec says.

    Raises:
        InvalidValueError: Naming the first tensor that is not.
    """
    outputs = {info.name: info for info in network.outputs}
    has_nms = set(DETECTION_NAMES) <= set(outputs)
    check_network(
        spec,
        file,
        [(info.name, ("N", *info.shape), info.dtype) for info in network.inputs],
        [(info.name, ("N", *info.shape)) for info in network.outputs],
        has_nms=has_nms,
        elements=_FLOATS,
    )
    heads = {outputs[name].dtype for name in spec.output_names if name in outputs}
    if not has_nms and (len(heads) != 1 or not heads <= set(_FLOATS)):
        raise InvalidValueError(
            f"{file}: outputs must be all {' or all '.join(_FLOATS)}",
            got=", ".join(sorted(heads)),
            hint="build the engine again",
        )
    return has_nms
