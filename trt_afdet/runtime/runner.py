"""Frames to detections on a device: upload, letterbox, network, boxes, download.

Two slots take turns, each with its own frame and result memory: while one batch is in the network,
the next is uploaded and the one before downloaded, on three streams tied by events. What lies
between upload and download is captured in one graph per slot and batch size. The network's own
tensors are shared, as networks run one after another.

Where the CUDA library is missing, the CPU letterboxes and finds the boxes, and the device runs the
network only.
"""

from __future__ import annotations

import ctypes
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from trt_afdet.detections import Detections
from trt_afdet.errors import InvalidValueError, RunError
from trt_afdet.geometry import Letterbox
from trt_afdet.native import CudaLibrary
from trt_afdet.native import Frame as FrameDescriptor
from trt_afdet.postprocess import postprocess
from trt_afdet.preprocess import check_frame, preprocess
from trt_afdet.runtime.backend import INPUT_NAME
from trt_afdet.runtime.device import Bytes, Device, Resources, aligned
from trt_afdet.runtime.device_array import DeviceArray, OverwrittenError, byte_size
from trt_afdet.spec import ModelSpec

Frame = npt.NDArray[np.uint8]

#: A frame is staged and uploaded in pieces of about this many bytes, so that the two overlap.
_PIECE = 1 << 20

_SLOTS = 2


class DeviceDetections(NamedTuple):
    """A batch's results in device memory, as the decode kernel writes them.

    They hold until the runner has taken as many further batches as it has slots.

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
        self._found: list[Detections] | None = None
        self._error: Exception | None = None

    def finish(self) -> None:
        """Waits for the results and takes them out of the slot; twice is fine."""
        with self._lock:
            if self._found is None and self._error is None:
                try:
                    self._found, self.seconds = self._runner.take(
                        self._slot, self._batch, self._boxes
                    )
                except Exception as error:
                    self._error = error

    def detections(self) -> list[Detections]:
        """The results, in pixels of each frame.

        Raises:
            RunError: If the device failed.
        """
        self.finish()
        if self._error is not None:
            raise self._error
        return self._found or []

    def on_device(self) -> DeviceDetections:
        """The results in device memory; see :class:`DeviceDetections`.

        Raises:
            RunError: If boxes are found on the CPU, or the results were overwritten.
        """
        return self._runner.device_detections(self, self._slot, self._batch)

    def check_kept(self) -> None:
        if self._slot.ticket is not self:
            raise OverwrittenError(
                "results on the device hold other frames by now",
                hint=f"use them before {_SLOTS} further batches are submitted",
            )

    def order_after(self, stream: int) -> None:
        self._runner.order_after(stream, self._slot.computed)


class Runner:
    """Runs a network on frames; see the module.

    It may be used from several threads.

    Args:
        network: Closed with the runner.
        device: Closed with the runner.
        spec: Of the network.
        kernels: The CUDA library; without it the CPU does what it would do.
        graphs: Whether to capture graphs where the device can.

    Raises:
        InvalidValueError: If the network's tensors are not what the spec says.
        NativeError: If there is not enough memory.
    """

    def __init__(
        self,
        network: Network,
        device: Device,
        spec: ModelSpec,
        kernels: Kernels | CudaLibrary | None,
        *,
        graphs: bool = True,
    ) -> None:
        self.network = network
        self.device = device
        self.base = spec
        self.spec = spec
        self.batch_size = network.batches[2] if network.batches[0] == network.batches[2] else None
        self.finished = check_tensors(network, spec)
        self._kernels = kernels
        self._graphs_wanted = graphs and device.has_graphs
        self._graphs: dict[tuple[int, int], int] = {}
        self._warm: set[int] = set()
        self._wanted: tuple[int, ...] | None = None
        self._lock = threading.RLock()
        self._pinned: dict[int, Bytes] = {}
        self._turn = 0
        self._resources = Resources(device)
        self._open = True
        try:
            with device.active():
                self._allocate()
        except BaseException:
            self.close()
            raise

    @property
    def decodes(self) -> bool:
        """Whether the decode kernel turns heads into boxes."""
        return not self.finished and self._kernels is not None

    def configure(self, spec: ModelSpec, classes: Sequence[int] | None) -> None:
        """Sets thresholds, limits and classes of everything submitted from now on.

        Args:
            spec: The network's, with other ``score_threshold``, ``nms_iou``, ``max_detections``.
            classes: Ascending ids of the classes to look for; all by default.

        Raises:
            InvalidValueError: If the network finds its boxes itself, otherwise than asked for.
        """
        if self.finished:
            check_baked(self.base, spec)
        wanted = None if classes is None else tuple(classes)
        with self._lock, self.device.active():
            if (spec, wanted) == (self.spec, self._wanted):
                return
            self._drain()
            self._forget_graphs()
            self._free_slots()
            self._resources.close()
            self._resources = Resources(self.device)
            self.spec, self._wanted = spec, wanted
            self._allocate()

    def _allocate(self) -> None:
        """Everything of fixed size; frames' room follows with the first frames."""
        most = self.network.batches[2]
        resources = self._resources
        self._upload, self._compute, self._download = (resources.stream() for _ in range(3))
        source = self.network.inputs[0]
        self._images = resources.memory(byte_size((most, *source.shape), source.dtype))
        self._tensors = {INPUT_NAME: self._images}
        for info in self.network.outputs:
            size = byte_size((most, *info.shape), info.dtype)
            self._tensors[info.name] = resources.memory(size)
        self._wanted_heads: dict[str, int] = {}
        self._workspace_bytes = 0
        if self.decodes:
            assert self._kernels is not None
            dtype = self.network.outputs[0].dtype
            self._decode_spec = self._spec_of_wanted()
            if self._wanted is not None:
                for name in self._class_heads():
                    shape = (most, len(self._wanted), *self._output(name).shape[1:])
                    self._wanted_heads[name] = resources.memory(byte_size(shape, dtype))
            self._workspace_bytes = self._kernels.detect_workspace(self._decode_spec, dtype, most)
        self._workspace = resources.memory(self._workspace_bytes)
        largest = Block.of(self._results(), most).size
        self._slots = [Slot(resources, i, most, largest) for i in range(_SLOTS)]

    def _class_heads(self) -> tuple[str, ...]:
        return self.spec.output_names[: len(self.spec.strides)]

    def _output(self, name: str) -> TensorInfo:
        return next(info for info in self.network.outputs if info.name == name)

    def _spec_of_wanted(self) -> ModelSpec:
        """The decode kernel sees the wanted classes only, as if the network had no other."""
        if self._wanted is None:
            return self.spec
        names = self.spec.class_names
        return self.spec.replace(class_names=tuple(names[i] for i in self._wanted))

    def _results(self) -> tuple[TensorInfo, ...]:
        """What a slot takes home."""
        if not self.decodes:
            return tuple(self.network.outputs)
        most = self.spec.max_detections
        shapes = ((1,), (most, 4), (most,), (most,))
        dtypes = ("int32", "float32", "float32", "int32")
        return tuple(
            TensorInfo(name, dtype, shape)
            for name, dtype, shape in zip(DETECTION_NAMES, dtypes, shapes, strict=True)
        )

    def frame_buffer(self, height: int, width: int) -> Frame:
        """Pinned memory for a BGR frame, uint8 [height, width, 3], kept until the runner closes.

        A frame that lies in one is uploaded from where it is, without being copied first; it must
        stay as it is until its batch is collected.
        """
        with self._lock, self.device.active():
            self._check_open()
            memory = self.device.allocate_pinned(height * width * 3)
            self._pinned[memory.ctypes.data] = memory
        return memory.reshape(height, width, 3)

    def warm_up(self, height: int, width: int, batches: Sequence[int] = ()) -> None:
        """Makes room for frames of a size, and captures the graphs of batch sizes.

        Afterwards nothing is allocated for such frames.

        Args:
            height, width: Of the largest frames, pixels.
            batches: The largest by default.
        """
        black = np.zeros((height, width, 3), np.uint8)
        # The largest first: room for its frames is room for all.
        for batch in sorted(batches or (self.network.batches[2],), reverse=True):
            for _ in range(_SLOTS * 2):
                self.submit([black] * batch).finish()

    def submit(self, frames: Sequence[Frame]) -> Ticket:
        """Sends up to the largest batch of frames on its way, without waiting for it.

        A slot whose results were not collected is emptied first; nothing is lost.

        Args:
            frames: BGR uint8 [H, W, 3] of any sizes.

        Raises:
            InvalidValueError: If a frame is not what it must be, or there are too many.
            RunError: If the device fails.
        """
        least, _, most = self.network.batches
        if not 1 <= len(frames) <= most:
            raise InvalidValueError(f"a batch has 1 to {most} frames", got=len(frames))
        for frame in frames:
            check_frame(frame)
        batch = max(least, len(frames))
        with self._lock, self.device.active():
            self._check_open()
            slot = self._slots[self._turn]
            if slot.ticket is not None:
                slot.ticket.finish()
            # Whatever happens next, what the slot held is not there any more.
            slot.ticket = None
            self.device.record(slot.started, self._upload)
            boxes = self._send(slot, frames, batch)
            self.device.record(slot.uploaded, self._upload)
            self.device.wait(self._compute, slot.uploaded)
            self._run(slot, batch)
            self.device.record(slot.computed, self._compute)
            self.device.wait(self._download, slot.computed)
            block = Block.of(self._results(), batch)
            self.device.copy_out(slot.results_host[: block.size], slot.results, self._download)
            self.device.record(slot.downloaded, self._download)
            ticket = Ticket(self, slot, boxes, batch)
            slot.ticket = ticket
            self._turn = (self._turn + 1) % _SLOTS
            return ticket

    def collect(self, ticket: Ticket) -> list[Detections]:
        """The detections of a batch; see :meth:`Ticket.detections`."""
        return ticket.detections()

    def __call__(self, frames: Sequence[Frame]) -> list[Detections]:
        """Detects in any number of frames, the batches overlapping."""
        most = self.network.batches[2]
        tickets = [self.submit(frames[i : i + most]) for i in range(0, len(frames), most)]
        return [found for ticket in tickets for found in ticket.detections()]

    def _send(self, slot: Slot, frames: Sequence[Frame], batch: int) -> list[Letterbox]:
        """Queues the upload; a batch under the smallest is filled up with its last frame."""
        if self._kernels is None:
            return self._send_images(slot, frames, batch)
        sizes = [aligned(frame.nbytes) for frame in frames]
        slot.reserve(self.device, sum(sizes))
        # Filled in place: the buffer is pinned, and the slot is idle.
        descriptors = (FrameDescriptor * batch).from_buffer(slot.descriptors_host)
        boxes, offset = [], 0
        for index, (frame, size) in enumerate(zip(frames, sizes, strict=True)):
            height, width = frame.shape[:2]
            box = Letterbox.fit(height, width, self.spec.height, self.spec.width)
            boxes.append(box)
            self._send_frame(slot, offset, frame)
            _describe(descriptors[index], slot.frames + offset, box)
            offset += size
        for index in range(len(frames), batch):
            ctypes.pointer(descriptors[index])[0] = descriptors[len(frames) - 1]
        self._kernels.check_frames(descriptors[:batch], self.spec)
        size = batch * ctypes.sizeof(FrameDescriptor)
        self.device.copy_in(slot.descriptors, slot.descriptors_host[:size], self._upload)
        return boxes

    def _send_frame(self, slot: Slot, offset: int, frame: Frame) -> None:
        if self._is_pinned(frame):
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

    def _is_pinned(self, frame: Frame) -> bool:
        memory = self._pinned.get(frame.ctypes.data)
        return memory is not None and frame.flags.c_contiguous and frame.nbytes <= memory.nbytes

    def _send_images(self, slot: Slot, frames: Sequence[Frame], batch: int) -> list[Letterbox]:
        """Letterboxes on the CPU and queues the upload of the network's input."""
        images, boxes = preprocess(list(frames), self.spec)
        shape = (batch, *images.shape[1:])
        source = self.network.inputs[0]
        slot.reserve(self.device, byte_size((self.network.batches[2], *shape[1:]), source.dtype))
        size = byte_size(shape, source.dtype)
        target = slot.staging[:size].view(source.dtype).reshape(shape)
        target[: len(frames)] = images
        target[len(frames) :] = images[-1]
        self.device.copy_in(slot.frames, slot.staging[:size], self._upload)
        return boxes

    def _run(self, slot: Slot, batch: int) -> None:
        """Queues letterbox, network and boxes: as a graph once the batch size has run."""
        if not self.network.keeps_batches and batch not in self._warm:
            self._forget_graphs()
        graph = self._graphs.get((slot.index, batch))
        if graph is None and self._graphs_wanted and batch in self._warm:
            graph = self._capture(slot, batch)
        if graph is not None:
            self.device.launch(graph, self._compute)
            return
        if batch not in self._warm:
            self.network.prepare(batch, self._tensors)
            self._warm.add(batch)
        self._queue(slot, batch)

    def _capture(self, slot: Slot, batch: int) -> int | None:
        self.device.synchronize(self._compute)
        try:
            graph = self.device.capture(self._compute, lambda: self._queue(slot, batch))
        except RunError as error:
            logging.getLogger("trt_afdet").warning(
                "%s; running without CUDA graphs, a little slower", error
            )
            self._graphs_wanted = False
            return None
        self._graphs[slot.index, batch] = graph
        return graph

    def _queue(self, slot: Slot, batch: int) -> None:
        self._queue_images(slot, batch)
        self.network.enqueue(batch, self._compute)
        self._queue_results(slot, batch)

    def _queue_images(self, slot: Slot, batch: int) -> None:
        source = self.network.inputs[0]
        if self._kernels is not None:
            self._kernels.letterbox(
                slot.descriptors, batch, self.spec, self._images, source.dtype, self._compute
            )
            return
        size = byte_size((batch, *source.shape), source.dtype)
        self.device.copy(self._images, slot.frames, size, self._compute)

    def _queue_results(self, slot: Slot, batch: int) -> None:
        block = Block.of(self._results(), batch)
        targets = block.addresses(slot.results)
        if not self.decodes:
            for info, target in zip(block.infos, targets, strict=True):
                size = byte_size((batch, *info.shape), info.dtype)
                self.device.copy(target, self._tensors[info.name], size, self._compute)
            return
        assert self._kernels is not None
        self._pick_wanted(batch)
        heads = {**self._tensors, **self._wanted_heads}
        self._kernels.detect(
            [heads[name] for name in self.spec.output_names],
            self._decode_spec,
            self.network.outputs[0].dtype,
            batch,
            targets,
            self._workspace,
            self._workspace_bytes,
            self._compute,
        )

    def _pick_wanted(self, batch: int) -> None:
        """Copies the wanted classes' maps together: exactly as if there were no others."""
        for name, target in self._wanted_heads.items():
            assert self._wanted is not None
            info = self._output(name)
            plane = byte_size(info.shape[1:], info.dtype)
            for place, class_id in enumerate(self._wanted):
                self.device.copy_rows(
                    target + place * plane,
                    len(self._wanted) * plane,
                    self._tensors[name] + class_id * plane,
                    info.shape[0] * plane,
                    plane,
                    batch,
                    self._compute,
                )

    def take(
        self, slot: Slot, batch: int, boxes: Sequence[Letterbox]
    ) -> tuple[list[Detections], dict[str, float]]:
        """Waits for a slot's results and makes detections of them, and seconds of its events."""
        with self.device.active():
            self._check_open()
            self.device.synchronize_event(slot.downloaded)
            events = (slot.started, slot.uploaded, slot.computed, slot.downloaded)
            seconds = {
                stage: self.device.elapsed_ms(first, second) / 1e3
                for stage, first, second in zip(
                    ("upload", "network", "download"), events[:-1], events[1:], strict=True
                )
            }
        block = Block.of(self._results(), batch)
        arrays = [array[: len(boxes)] for array in block.arrays(slot.results_host, batch)]
        if not self.finished and not self.decodes:
            by_name = {info.name: array for info, array in zip(block.infos, arrays, strict=True)}
            return postprocess(by_name, self.spec, boxes, self._wanted), seconds
        return self._detections(dict(zip(_names(block), arrays, strict=True)), boxes), seconds

    def _detections(
        self, arrays: Mapping[str, npt.NDArray[Any]], boxes: Sequence[Letterbox]
    ) -> list[Detections]:
        """Boxes in input pixels to detections in pixels of each frame."""
        found = []
        number, corners, scores, classes = (arrays[name] for name in DETECTION_NAMES)
        for image, box in enumerate(boxes):
            count = int(number[image, 0])
            # Copies: the slot's memory takes the next batch.
            xyxy = box.to_frame(corners[image, :count])
            confidence = scores[image, :count].astype(np.float32)
            class_id = classes[image, :count].astype(np.int32)
            keep = (xyxy[:, 2] > xyxy[:, 0]) & (xyxy[:, 3] > xyxy[:, 1])
            if self._wanted is not None:
                if self.finished:
                    keep &= np.isin(class_id, self._wanted)
                else:
                    class_id = np.asarray(self._wanted, np.int32)[class_id]
            if self.finished:
                keep &= confidence > np.float32(self.spec.score_threshold)
            rows = np.flatnonzero(keep)[: self.spec.max_detections]
            found.append(
                Detections(xyxy[rows], confidence[rows], class_id[rows], self.spec.class_names)
            )
        return found

    def device_detections(self, ticket: Ticket, slot: Slot, batch: int) -> DeviceDetections:
        """A ticket's results in device memory; see :meth:`Ticket.on_device`."""
        if not self.finished and not self.decodes:
            raise RunError(
                "boxes are found on the CPU here, so none are on the device",
                hint="install the CUDA library; see `trt-afdet doctor`",
            )
        if self._wanted is not None:
            raise RunError(
                "results on the device number the wanted classes, not the model's",
                hint="load the detector without classes",
            )
        ticket.check_kept()
        block = Block.of(self._results(), batch)
        arrays = {
            info.name: DeviceArray(
                address,
                (ticket.count, *info.shape),
                info.dtype,
                owner=ticket,
                stream=self._compute,
                device=(self.device.dlpack_type, self.device.index),
            )
            for info, address in zip(block.infos, block.addresses(slot.results), strict=True)
        }
        return DeviceDetections(*(arrays[name] for name in DETECTION_NAMES))

    def order_after(self, stream: int, event: int) -> None:
        """Makes a consumer's stream wait for an event."""
        with self.device.active():
            self.device.wait(stream, event)

    def stage_seconds(self, frames: Sequence[Frame]) -> dict[str, float]:
        """Seconds of every stage of one batch, run by itself and without a graph.

        Raises:
            InvalidValueError, RunError: See :meth:`submit`.
        """
        batch = max(self.network.batches[0], len(frames))
        self.submit(frames).finish()
        with self._lock, self.device.active():
            slot = self._slots[self._turn]
            if slot.ticket is not None:
                slot.ticket.finish()
            slot.ticket = None
            marks = [slot.started, slot.uploaded, slot.computed, slot.downloaded]
            begin = time.perf_counter()
            self._send(slot, frames, batch)
            self.device.synchronize(self._upload)
            seconds = {"upload": time.perf_counter() - begin}
            stages: dict[str, Callable[[], None]] = {
                "preprocess": lambda: self._queue_images(slot, batch),
                "network": lambda: self.network.enqueue(batch, self._compute),
                "postprocess": lambda: self._queue_results(slot, batch),
            }
            self.device.record(marks[0], self._compute)
            for mark, work in zip(marks[1:], stages.values(), strict=True):
                work()
                self.device.record(mark, self._compute)
            self.device.synchronize(self._compute)
            for name, first, second in zip(stages, marks[:-1], marks[1:], strict=True):
                seconds[name] = self.device.elapsed_ms(first, second) / 1e3
        return seconds

    def network_rate(self, batch: int, seconds: float) -> float:
        """Images a second of the network alone, replayed without anything around it."""
        with self._lock, self.device.active():
            self._check_open()
            self._drain()
            if batch not in self._warm:
                if not self.network.keeps_batches:
                    self._forget_graphs()
                self.network.prepare(batch, self._tensors)
                self._warm.add(batch)

            def queue() -> None:
                self.network.enqueue(batch, self._compute)

            queue()
            self.device.synchronize(self._compute)
            graph = self.device.capture(self._compute, queue) if self._graphs_wanted else None
            try:
                return _rate(self.device, self._compute, graph, queue, seconds) * batch
            finally:
                if graph is not None:
                    self.device.destroy_graph(graph)

    def _drain(self) -> None:
        for slot in getattr(self, "_slots", ()):
            if slot.ticket is not None:
                slot.ticket.finish()
                slot.ticket = None

    def _forget_graphs(self) -> None:
        if self._graphs:
            self.device.synchronize(self._compute)
        for graph in self._graphs.values():
            self.device.destroy_graph(graph)
        self._graphs.clear()
        self._warm.clear()

    def _free_slots(self) -> None:
        for slot in getattr(self, "_slots", ()):
            slot.release(self.device)

    def _check_open(self) -> None:
        if not self._open:
            raise RunError("the detector is closed")

    def close(self) -> None:
        """Collects what is on its way, then frees everything; twice is fine."""
        with self._lock:
            if not self._open:
                return
            with self.device.active():
                self._drain()
                # A device that has failed refuses every call; the rest must still be let go.
                with suppress(RunError):
                    self._forget_graphs()
                    self._free_slots()
                    for memory in self._pinned.values():
                        self.device.free_pinned(memory)
                    self._resources.close()
                self._pinned.clear()
                self.network.close()
            self._open = False
            self.device.close()


def _rate(
    device: Device, stream: int, graph: int | None, queue: Callable[[], None], seconds: float
) -> float:
    """Runs a second, a hundred at a time."""
    done = 0
    start = time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds or not done:
        for _ in range(100):
            if graph is None:
                queue()
            else:
                device.launch(graph, stream)
        device.synchronize(stream)
        done += 100
    elapsed = time.perf_counter() - start
    return done / elapsed


def _names(block: Block) -> list[str]:
    return [info.name for info in block.infos]


def _describe(descriptor: FrameDescriptor, address: int, box: Letterbox) -> None:
    """Fills in the descriptor of a BGR frame."""
    descriptor.planes[0], descriptor.planes[1] = address, None
    descriptor.pitches[0], descriptor.pitches[1] = box.frame_width * 3, 0
    descriptor.height, descriptor.width = box.frame_height, box.frame_width
    descriptor.format = descriptor.color = 0
    descriptor.top, descriptor.left = box.top, box.left
    descriptor.box_height, descriptor.box_width = box.height, box.width
