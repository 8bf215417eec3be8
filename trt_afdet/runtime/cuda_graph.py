"""Runs letterbox, network and boxes, between upload and download.

Queued on one stream and captured in one graph per slot and batch size. The network's tensors are
shared by the slots, as networks run one after another.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from trt_afdet.errors import RunError
from trt_afdet.interface import INPUT_NAME, output_shapes
from trt_afdet.native import CudaLibrary
from trt_afdet.runtime.buffers import Block, Slot, TensorInfo
from trt_afdet.runtime.device import Bytes, Resources
from trt_afdet.runtime.engine_network import TensorRTNetwork
from trt_afdet.spec import ModelSpec

#: Runs of a network queued between two waits, when its rate is measured.
_REPLAYS = 20


class Program:
    """The stages of one network with one set of thresholds and classes.

    Without kernels the input arrives letterboxed and the heads leave unchanged. ``wanted`` are ids
    of the classes to look for, None for all.

    Attributes:
        stream: Where everything is queued.
        decodes: Whether the decode kernel turns heads into boxes.
        results: What comes out.
    """

    def __init__(
        self,
        resources: Resources,
        network: TensorRTNetwork,
        kernels: CudaLibrary | None,
        *,
        has_nms: bool,
        spec: ModelSpec,
        wanted: tuple[int, ...] | None,
        graphs: bool,
    ) -> None:
        self._device = resources.device
        self._network = network
        self._kernels = kernels
        self._spec = spec
        self._wanted = wanted
        self._graphs_wanted = graphs
        self._graphs: dict[tuple[int, int], int] = {}
        self._warm: set[int] = set()
        self.stream = resources.stream()
        self.decodes = kernels is not None and not has_nms
        self.results = tuple(network.outputs)
        most = network.batches[2]
        self.tensors = {
            info.name: resources.memory(info.bytes(most))
            for info in (*network.inputs, *network.outputs)
        }
        if self.decodes:
            self._prepare_decoder(resources, most)

    def _prepare_decoder(self, resources: Resources, most: int) -> None:
        assert self._kernels is not None
        spec, tensors = self._spec, dict(self.tensors)
        self._head_dtype = self._network.outputs[0].dtype
        self._picked: list[tuple[TensorInfo, int]] = []
        if self._wanted is not None:
            # The kernel sees the wanted classes only, as if the network had no other.
            spec = spec.replace(class_names=tuple(spec.class_names[i] for i in self._wanted))
            for info in self._network.outputs:
                if info.name in spec.output_names[: len(spec.strides)]:
                    share = info.bytes(most) // info.shape[0] * len(self._wanted)
                    tensors[info.name] = resources.memory(share)
                    self._picked.append((info, tensors[info.name]))
        self._decode_spec = spec
        self._heads = [tensors[name] for name in spec.output_names]
        self._workspace_bytes = self._kernels.detect_workspace(spec, self._head_dtype, most)
        self._workspace = resources.memory(self._workspace_bytes)
        dtypes = ("int32", "float32", "float32", "int32")
        self.results = tuple(
            TensorInfo(name, dtype, shape)
            for (name, shape), dtype in zip(output_shapes(spec, True).items(), dtypes, strict=True)
        )

    def run(self, slot: Slot, batch: int) -> None:
        """Queues all stages: as a graph once the batch size has run."""
        self._prepare(batch)
        key = (slot.index, batch)
        if key not in self._graphs and self._graphs_wanted and batch in self._warm:
            self._capture(slot, batch)
        if key in self._graphs:
            self._device.launch(self._graphs[key], self.stream)
        else:
            self._queue(slot, batch)
            self._warm.add(batch)

    def _queue(self, slot: Slot, batch: int) -> None:
        self.queue_images(slot, batch)
        self.queue_network(batch)
        self.queue_results(slot, batch)

    def _prepare(self, batch: int) -> None:
        if batch in self._warm:
            return
        if not self._network.keeps_batches:
            # The captured graphs refer to a state of the network that is about to change.
            self.forget()
        self._network.prepare(batch, self.tensors)

    def _capture(self, slot: Slot, batch: int) -> None:
        try:
            graph = self._device.capture(self.stream, lambda: self._queue(slot, batch))
        except RunError as error:
            self._graphs_wanted = False
            logging.getLogger("trt_afdet").warning(
                "%s; running without CUDA graphs, a little slower", error
            )
        else:
            self._graphs[slot.index, batch] = graph

    def queue_images(self, slot: Slot, batch: int) -> None:
        """Frames to the network's input."""
        target, source = self.tensors[INPUT_NAME], self._network.inputs[0]
        if self._kernels is not None:
            self._kernels.letterbox(
                slot.descriptors, batch, self._spec, target, source.dtype, self.stream
            )
        else:
            self._device.copy(target, slot.frames, source.bytes(batch), self.stream)

    def queue_network(self, batch: int) -> None:
        self._network.enqueue(batch, self.stream)

    def queue_results(self, slot: Slot, batch: int) -> None:
        """The network's outputs to the slot's results."""
        offsets = Block.of(self.results, batch).offsets
        if self.decodes:
            self._queue_decoder([slot.results + offset for offset in offsets.values()], batch)
            return
        for info, offset in offsets.items():
            target, source = slot.results + offset, self.tensors[info.name]
            self._device.copy(target, source, info.bytes(batch), self.stream)

    def _queue_decoder(self, targets: Sequence[int], batch: int) -> None:
        assert self._kernels is not None
        wanted = self._wanted or ()
        for info, memory in self._picked:
            plane = info.bytes(1) // info.shape[0]
            for place, class_id in enumerate(wanted):
                target = (memory + place * plane, len(wanted) * plane)
                source = (self.tensors[info.name] + class_id * plane, info.shape[0] * plane)
                self._device.copy_rows(target, source, plane, batch, self.stream)
        self._kernels.detect(
            self._heads,
            self._decode_spec,
            self._head_dtype,
            batch,
            targets,
            self._workspace,
            self._workspace_bytes,
            self.stream,
        )

    def run_network(self, images: Bytes, outputs: Bytes, block: Block) -> None:
        """Runs the network alone, on pinned host memory, and waits for it."""
        self._prepare(block.batch)
        self._device.copy_in(self.tensors[INPUT_NAME], images, self.stream)
        self.queue_network(block.batch)
        self._warm.add(block.batch)
        for info, offset in block.offsets.items():
            target = outputs[offset : offset + info.bytes(block.batch)]
            self._device.copy_out(target, self.tensors[info.name], self.stream)
        self._device.synchronize(self.stream)

    def network_rate(self, batch: int, seconds: float) -> float:
        """Runs a second of the network alone, replayed without anything around it."""
        self._prepare(batch)
        self.queue_network(batch)
        self._warm.add(batch)
        self._device.synchronize(self.stream)
        graph = None
        if self._graphs_wanted:
            graph = self._device.capture(self.stream, lambda: self.queue_network(batch))
        try:
            done, start = 0, time.perf_counter()
            while not done or time.perf_counter() - start < seconds:
                for _ in range(_REPLAYS):
                    if graph is None:
                        self.queue_network(batch)
                    else:
                        self._device.launch(graph, self.stream)
                self._device.synchronize(self.stream)
                done += _REPLAYS
            return done / (time.perf_counter() - start)
        finally:
            if graph is not None:
                self._device.destroy_graph(graph)

    def forget(self) -> None:
        """Drops every graph."""
        graphs = list(self._graphs.values())
        self._graphs.clear()
        self._warm.clear()
        if graphs:
            self._device.synchronize(self.stream)
        for graph in graphs:
            self._device.destroy_graph(graph)
