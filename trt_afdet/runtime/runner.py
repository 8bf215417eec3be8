"""Frames to detections on a device: upload, letterbox, network, boxes, download.

Two slots take turns, each with its own frame and result memory: while one batch is in the network,
the next is uploaded and the one before downloaded, on three streams tied by events.

Where the CUDA library is missing, the CPU letterboxes and finds the boxes, and the device runs the
network only.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from trt_afdet.detections import Detections
from trt_afdet.errors import InvalidValueError, RunError
from trt_afdet.geometry import Letterbox
from trt_afdet.interface import DETECTION_NAMES, FLOATS, check_network
from trt_afdet.native import CudaLibrary, FrameDescriptor
from trt_afdet.postprocess import from_outputs, postprocess
from trt_afdet.preprocess import check_frame, preprocess
from trt_afdet.runtime.backend import Frame, check_images
from trt_afdet.runtime.buffers import Block, Slot
from trt_afdet.runtime.cuda_graph import Program
from trt_afdet.runtime.device import Bytes, Device, Resources, aligned
from trt_afdet.runtime.device_array import DeviceArray, OverwrittenError
from trt_afdet.runtime.engine_network import TensorRTNetwork
from trt_afdet.spec import ModelSpec

#: A frame is staged and uploaded in pieces of about this many bytes, so that the two overlap.
_PIECE = 1 << 20

_SLOTS = 2


class DeviceDetections(NamedTuple):
    """A batch's results in device memory, which hold until two further batches are submitted.

    Attributes:
        num_detections: int32 [N, 1].
        boxes: float32 [N, M, 4], x1 y1 x2 y2 in pixels of the network's input.
        scores: float32 [N, M].
        classes: int32 [N, M].
    """

    num_detections: DeviceArray
    boxes: DeviceArray
    scores: DeviceArray
    classes: DeviceArray


class Ticket:
    """A batch on its way through the device.

    Attributes:
        count: Its frames.
        seconds: What its stages took on the device, once it is collected.
    """

    def __init__(self, runner: Runner, slot: Slot, boxes: Sequence[Letterbox], batch: int) -> None:
        self.count = len(boxes)
        self.seconds: dict[str, float] = {}
        self._runner = runner
        self._slot = slot
        self._boxes = boxes
        self._batch = batch
        self._lock = threading.Lock()
        self._outcome: list[Detections] | Exception | None = None

    def finish(self) -> None:
        """Waits for the results and takes them out of the slot; twice is fine."""
        with self._lock:
            if self._outcome is None:
                try:
                    taken = self._runner.take(self._slot, self._batch, self._boxes)
                    self._outcome, self.seconds = taken
                except Exception as error:  # Raised by detections().
                    self._outcome = error

    def detections(self) -> list[Detections]:
        """The results, in pixels of each frame; waits for them.

        Raises:
            RunError: If the device failed.
        """
        self.finish()
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return self._outcome or []

    def on_device(self) -> DeviceDetections:
        """The results in device memory; does not wait for them.

        Raises:
            RunError: If boxes are found on the CPU, or the results were overwritten.
        """
        runner, slot = self._runner, self._slot
        with runner._using() as program:
            if not runner.has_nms and not program.decodes:
                raise RunError(
                    "boxes are found on the CPU here, so none are on the device",
                    hint="install the CUDA library; see `trt-afdet doctor`",
                )
            if runner._wanted is not None:
                raise RunError(
                    "results on the device cannot be limited to some classes",
                    hint="load the detector without classes",
                )
            self.check_kept()
            arrays = {
                info.name: DeviceArray(
                    slot.results + offset,
                    (self.count, *info.shape),
                    info.dtype,
                    owner=self,
                    stream=program.stream,
                    device=(runner.device.dlpack_type, runner.device.index),
                )
                for info, offset in Block.of(program.results, self._batch).offsets.items()
            }
        return DeviceDetections(*(arrays[name] for name in DETECTION_NAMES))

    def check_kept(self) -> None:
        """See :class:`trt_afdet.runtime.device_array.Owner`."""
        if not self._runner._open or self._runner._holders[self._slot.index] is not self:
            raise OverwrittenError(
                "results on the device were overwritten or freed",
                hint=f"use them before {_SLOTS} further batches are submitted",
            )

    def order_after(self, stream: int) -> None:
        """See :class:`trt_afdet.runtime.device_array.Owner`."""
        with self._runner._using():
            self._runner.device.wait(stream, self._slot.computed)


class Runner:
    """Runs a network on frames; see the module.

    It may be used from several threads.

    Args:
        network, device: Closed with the runner.
        spec: Of the network.
        kernels: The CUDA library; without it the CPU does its work.
        graphs: Whether to capture graphs where the device can.
        file: For messages.

    Attributes:
        spec: With what :meth:`configure` changed.
        has_nms: Whether the network ends in NMS.
        batch_size: Frames per batch if the network fixes it, else None.
        max_batch: Most frames per batch.

    Raises:
        InvalidValueError: If the network's tensors are not what the spec says.
        NativeError: If there is not enough memory.
    """

    is_async = True

    def __init__(
        self,
        network: TensorRTNetwork,
        device: Device,
        spec: ModelSpec,
        kernels: CudaLibrary | None,
        *,
        graphs: bool = True,
        file: object = "the engine",
    ) -> None:
        self.network = network
        self.device = device
        self.spec = spec
        least, _, self.max_batch = network.batches
        self.batch_size = least if least == self.max_batch else None
        self._built = spec
        self._kernels = kernels
        self._use_graphs = graphs and device.has_graphs
        self._wanted: tuple[int, ...] | None = None
        self._lock = threading.RLock()
        self._frame_buffers: dict[int, Bytes] = {}
        self._turn = 0
        self._slots: list[Slot] = []
        self._holders: list[Ticket | None] = [None] * _SLOTS
        self._resources = Resources(device)
        self._program: Program | None = None
        self._open = True
        try:
            self.has_nms = _check_tensors(network, spec, file)
            with device.active():
                self._allocate()
        except BaseException:
            self.close()
            raise

    def _allocate(self) -> None:
        """Everything of fixed size; room for frames comes with the first of them."""
        self._program = program = Program(
            self._resources,
            self.network,
            self._kernels,
            has_nms=self.has_nms,
            spec=self.spec,
            wanted=self._wanted,
            graphs=self._use_graphs,
        )
        self._upload = self._resources.stream()
        self._download = self._resources.stream()
        most, size = self.max_batch, Block.of(program.results, self.max_batch).size
        self._slots = [Slot(self._resources, index, most, size) for index in range(_SLOTS)]

    def configure(self, spec: ModelSpec, classes: Sequence[int] | None) -> None:
        """Sets thresholds, limits and classes of everything submitted from now on.

        A network that ends in NMS keeps its own; its results are then cut down to the spec's score
        threshold, maximum and classes. The caller checks whether that is acceptable.

        Args:
            spec: The network's, with other ``score_threshold``, ``nms_iou``, ``max_detections``.
            classes: Ascending ids of the classes to look for; all by default.
        """
        wanted = None if classes is None else tuple(classes)
        with self._using() as program:
            if (spec, wanted) == (self.spec, self._wanted):
                return
            self._drain()
            if program.decodes:
                self._release()
                self._resources = Resources(self.device)
            self.spec, self._wanted = spec, wanted
            if program.decodes:
                self._allocate()

    def frame_buffer(self, height: int, width: int) -> Frame:
        """Pinned memory for a BGR frame, uint8 [height, width, 3], kept until the runner closes.

        A frame that lies in one is uploaded from where it is, without being copied first; it must
        stay as it is until its batch is collected.
        """
        with self._using():
            memory = self.device.allocate_pinned(height * width * 3)
            self._frame_buffers[memory.ctypes.data] = memory
        return memory.reshape(height, width, 3)

    def warm_up(self, height: int, width: int, batches: Sequence[int] = ()) -> None:
        """Makes room for frames of up to a size in pixels, and captures the graphs of batch sizes,
        the largest by default. Afterwards nothing is allocated for such frames.
        """
        black = np.zeros((height, width, 3), np.uint8)
        # The largest first: room for its frames is room for all.
        for batch in sorted(set(batches) or {self.max_batch}, reverse=True):
            for _ in range(_SLOTS * 2):
                self.submit([black] * batch).detections()

    def submit(self, frames: Sequence[Frame]) -> Ticket:
        """Sends up to the largest batch of frames on its way, without waiting for it.

        If both slots are under way, the older one is waited for; its ticket keeps its results.

        Args:
            frames: BGR uint8 [H, W, 3] of any sizes.

        Raises:
            InvalidValueError: If a frame is not what it must be, or there are too many.
            RunError: If the device fails.
        """
        if not 1 <= len(frames) <= self.max_batch:
            raise InvalidValueError(f"a batch has 1 to {self.max_batch} frames", got=len(frames))
        for frame in frames:
            check_frame(frame)
        batch = max(self.network.batches[0], len(frames))
        with self._using() as program:
            slot = self._next_slot()
            device = self.device
            device.record(slot.started, self._upload)
            boxes = self._send(slot, frames, batch)
            device.record(slot.uploaded, self._upload)
            device.wait(program.stream, slot.uploaded)
            program.run(slot, batch)
            device.record(slot.computed, program.stream)
            device.wait(self._download, slot.computed)
            self._receive(program, slot, batch)
            ticket = Ticket(self, slot, boxes, batch)
            self._holders[slot.index] = ticket
            self._turn = (self._turn + 1) % _SLOTS
            return ticket

    def __call__(self, frames: Sequence[Frame]) -> list[Detections]:
        """Detects in any number of frames; batches overlap. See :meth:`submit`."""
        most = self.max_batch
        tickets = [self.submit(frames[i : i + most]) for i in range(0, len(frames), most)]
        return [found for ticket in tickets for found in ticket.detections()]

    def _next_slot(self) -> Slot:
        """The next slot, emptied."""
        self._empty(self._turn)
        return self._slots[self._turn]

    def _empty(self, index: int) -> None:
        """Takes the results out of a slot."""
        if (holder := self._holders[index]) is not None:
            holder.finish()
            self._holders[index] = None

    def _send(self, slot: Slot, frames: Sequence[Frame], batch: int) -> list[Letterbox]:
        """Queues the upload; a batch under the smallest is filled up with its last frame."""
        if self._kernels is None:
            return self._send_images(slot, frames, batch)
        *offsets, size = accumulate((aligned(frame.nbytes) for frame in frames), initial=0)
        slot.reserve(size)
        # Filled in place: the memory is pinned, and the slot is idle.
        descriptors = (FrameDescriptor * batch).from_buffer(slot.descriptors_host.data)
        boxes = []
        for index, (frame, offset) in enumerate(zip(frames, offsets, strict=True)):
            height, width = frame.shape[:2]
            box = Letterbox.fit(height, width, self.spec.height, self.spec.width)
            # Format and color are 0: BGR.
            descriptors[index] = FrameDescriptor(
                planes=(slot.frames + offset, None),
                pitches=(width * 3, 0),
                height=height,
                width=width,
                top=box.top,
                left=box.left,
                box_height=box.height,
                box_width=box.width,
            )
            boxes.append(box)
            self._send_frame(slot, offset, frame)
        for index in range(len(frames), batch):
            descriptors[index] = descriptors[len(frames) - 1]
        self._kernels.check_frames(descriptors[:], self.spec)
        size = ctypes.sizeof(descriptors)
        self.device.copy_in(slot.descriptors, slot.descriptors_host[:size], self._upload)
        return boxes

    def _send_frame(self, slot: Slot, offset: int, frame: Frame) -> None:
        own = self._frame_buffers.get(frame.ctypes.data)
        if own is not None and frame.flags.c_contiguous and frame.nbytes <= own.nbytes:
            self.device.copy_in(slot.frames + offset, frame.reshape(-1), self._upload)
            return
        row = frame.shape[1] * 3
        step = max(1, _PIECE // row)
        for first in range(0, len(frame), step):
            piece = frame[first : first + step]
            start = offset + first * row
            target = slot.staging[start : start + piece.size]
            np.copyto(target.reshape(piece.shape), piece)
            self.device.copy_in(slot.frames + start, target, self._upload)

    def _send_images(self, slot: Slot, frames: Sequence[Frame], batch: int) -> list[Letterbox]:
        """Letterboxes on the CPU and queues the upload of the network's input."""
        images, boxes = preprocess(list(frames), self.spec)
        source = self.network.inputs[0]
        slot.reserve(source.bytes(self.max_batch))
        staged = slot.staging[: source.bytes(batch)]
        target = staged.view(source.dtype).reshape((batch, *source.shape))
        target[: len(frames)] = images
        target[len(frames) :] = images[-1]
        self.device.copy_in(slot.frames, staged, self._upload)
        return boxes

    def _receive(self, program: Program, slot: Slot, batch: int) -> None:
        """Queues the download."""
        size = Block.of(program.results, batch).size
        self.device.copy_out(slot.results_host[:size], slot.results, self._download)
        self.device.record(slot.downloaded, self._download)

    def take(
        self, slot: Slot, batch: int, boxes: Sequence[Letterbox]
    ) -> tuple[list[Detections], dict[str, float]]:
        """Waits for a slot's results: detections, and seconds of each stage."""
        program = self._check_open()
        with self.device.active():
            self.device.synchronize_event(slot.downloaded)
            seconds = self._seconds(slot, "upload", "network", "download")
        views = Block.of(program.results, batch).arrays(slot.results_host)
        arrays = {name: array[: len(boxes)] for name, array in views.items()}
        if not self.has_nms and not program.decodes:
            return postprocess(arrays, self.spec, boxes, self._wanted), seconds
        outputs = [arrays[name] for name in DETECTION_NAMES]
        classes = self._wanted
        if program.decodes and classes is not None:
            # The kernel numbered the wanted classes only; the -1 of unused rows is not read.
            outputs[-1] = np.asarray(classes, np.int32)[outputs[-1]]
            classes = None
        raised = self.has_nms and self.spec.score_threshold > self._built.score_threshold
        above = self.spec.score_threshold if raised else None
        return from_outputs(outputs, self.spec, boxes, classes, above=above), seconds

    def _seconds(self, slot: Slot, *stages: str) -> dict[str, float]:
        """Seconds from each event of a slot to the next."""
        steps = zip(stages, pairwise(slot.events), strict=True)
        return {stage: self.device.elapsed_ms(*ends) / 1e3 for stage, ends in steps}

    def stage_seconds(self, frames: Sequence[Frame]) -> dict[str, float]:
        """Seconds of every stage of one batch that runs alone, stage after stage, without a graph.

        Raises:
            InvalidValueError, RunError: See :meth:`submit`.
        """
        self.submit(frames).detections()  # Makes room, prepares the network, checks the frames.
        batch = max(self.network.batches[0], len(frames))
        with self._using() as program:
            slot = self._next_slot()
            start = time.perf_counter()
            boxes = self._send(slot, frames, batch)
            self.device.synchronize(self._upload)
            seconds = {"upload": time.perf_counter() - start}
            self.device.record(slot.started, program.stream)
            program.queue_images(slot, batch)
            self.device.record(slot.uploaded, program.stream)
            program.queue_network(batch)
            self.device.record(slot.computed, program.stream)
            program.queue_results(slot, batch)
            self.device.record(slot.downloaded, program.stream)
            self.device.synchronize(program.stream)
            seconds |= self._seconds(slot, "preprocess", "network", "postprocess")
            start = time.perf_counter()
            self._receive(program, slot, batch)
            self.take(slot, batch, boxes)
            seconds["download"] = time.perf_counter() - start
        return seconds

    def network_rate(self, batch: int, seconds: float) -> float:
        """Images a second of the network alone, replayed for some seconds, ``batch`` at a time."""
        with self._using() as program:
            self._drain()
            return program.network_rate(batch, seconds) * batch

    def infer(self, images: npt.NDArray[np.float32]) -> list[npt.NDArray[Any]]:
        """Runs the network alone; see :meth:`trt_afdet.runtime.backend.Backend.infer`."""
        source = self.network.inputs[0]
        check_images(images, source.shape)
        names = DETECTION_NAMES if self.has_nms else self._built.output_names
        least, _, most = self.network.batches
        parts = []
        for start in range(0, len(images), most):
            part = images[start : start + most].astype(source.dtype)
            filling = np.repeat(part[-1:], max(0, least - len(part)), axis=0)
            outputs = self._infer(np.concatenate([part, filling]))
            parts.append([outputs[name][: len(part)] for name in names])
        return [np.concatenate(output) for output in zip(*parts, strict=True)]

    def _infer(self, images: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
        """One batch, waited for; memory is allocated on the way."""
        with self._using() as program, closing(Resources(self.device)) as resources:
            block = Block.of(self.network.outputs, len(images))
            staged, out = resources.pinned(images.nbytes), resources.pinned(block.size)
            staged[:] = images.reshape(-1).view(np.uint8)
            program.run_network(staged, out, block)
            return {name: array.copy() for name, array in block.arrays(out).items()}

    def _drain(self) -> None:
        """Takes the results out of every slot."""
        for index in range(_SLOTS):
            self._empty(index)

    def _release(self) -> None:
        """Frees what :meth:`_allocate` and the frames took."""
        program, self._program = self._program, None
        slots, self._slots = self._slots, []
        if program is not None:
            program.forget()
        for slot in slots:
            slot.release()
        self._resources.close()

    @contextmanager
    def _using(self) -> Iterator[Program]:
        """The device in this thread's hands alone."""
        with self._lock:
            program = self._check_open()
            with self.device.active():
                yield program

    def _check_open(self) -> Program:
        if not self._open or self._program is None:
            raise RunError("the detector is closed")
        return self._program

    def close(self) -> None:
        """Collects running batches, then frees everything; twice is fine."""
        with self._lock:
            if not self._open:
                return
            with self.device.active():
                self._drain()
                self._open = False
                # A device that has failed refuses every call; the rest must still be let go.
                with suppress(RunError):
                    self._release()
                    for memory in self._frame_buffers.values():
                        self.device.free_pinned(memory)
                with suppress(RunError):
                    self.network.close()
                self._frame_buffers.clear()
            self.device.close()

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _check_tensors(network: TensorRTNetwork, spec: ModelSpec, file: object) -> bool:
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
    )
    heads = {outputs[name].dtype for name in spec.output_names if name in outputs}
    if not has_nms and (len(heads) != 1 or not heads <= set(FLOATS)):
        raise InvalidValueError(
            f"{file}: outputs must be all {' or all '.join(FLOATS)}",
            got=", ".join(sorted(heads)),
            hint="build the engine again",
        )
    return has_nms
