"""Decode + NMS on a GPU, compared with TensorRT's EfficientNMS and torchvision's operators.

Times are medians of CUDA-graph replays in microseconds, so that the cost of launching many small
kernels does not hide differences. EfficientNMS gets decoded boxes and activated scores, so it does
less work; torchvision cannot be captured and is timed by events. The benchmark prints a line for
each missing package and continues without it.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from bench_postprocess import dense_heads, make_spec, sparse_heads, torchvision_task
from table import installed, show

from trt_afdet import native
from trt_afdet.errors import AfdetError
from trt_afdet.native import Outputs
from trt_afdet.postprocess import decode_level, logit_threshold, sigmoid
from trt_afdet.runtime.device import Device, Resources
from trt_afdet.runtime.devices import open_device
from trt_afdet.spec import ModelSpec

Arrays = list[npt.NDArray[Any]]

#: Replays between two events, because one launch is shorter than an event's resolution.
REPLAYS = 20


def upload(device: Device, resources: Resources, array: npt.NDArray[Any], stream: int) -> int:
    """The address of a copy in device memory."""
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    address = resources.memory(flat.nbytes)
    device.copy_in(address, flat, stream)
    device.synchronize(stream)
    return address


def median_us(device: Device, resources: Resources, stream: int, graph: int, rounds: int) -> float:
    """Median microseconds of one replay of a graph."""
    start, end = resources.event(), resources.event()
    times = []
    for round_ in range(rounds + 3):
        device.record(start, stream)
        for _ in range(REPLAYS):
            device.launch(graph, stream)
        device.record(end, stream)
        device.synchronize_event(end)
        if round_ >= 3:
            times.append(device.elapsed_ms(start, end) * 1e3 / REPLAYS)
    return statistics.median(times)


def ours(device: Device, heads: Arrays, spec: ModelSpec, rounds: int) -> float:
    """Microseconds of libafdet_cuda; also checks that its boxes equal the reference's."""
    library = native.cuda()
    resources = Resources(device)
    try:
        stream = resources.stream()
        dtype, batch = heads[0].dtype.name, len(heads[0])
        addresses = [upload(device, resources, head, stream) for head in heads]
        host = Outputs.empty(batch, spec)
        targets = [resources.memory(array.nbytes) for array in host]
        size = library.detect_workspace(spec, dtype, batch)
        workspace = resources.memory(size)

        def queue() -> None:
            library.detect(addresses, spec, dtype, batch, targets, workspace, size, stream)

        queue()
        number = np.empty(batch * 4, np.uint8)
        device.copy_out(number, targets[0], stream)
        device.synchronize(stream)
        want = native.host().detect(heads, spec).num_detections
        if not np.array_equal(number.view(np.int32), want[:, 0]):
            raise SystemExit("the boxes of the GPU differ from the CPU's; timing is meaningless")
        graph = device.capture(stream, queue)
        try:
            return median_us(device, resources, stream, graph, rounds)
        finally:
            device.destroy_graph(graph)
    finally:
        resources.close()


def efficient_nms(device: Device, heads: Arrays, spec: ModelSpec, rounds: int) -> float:
    """Microseconds of an engine with only EfficientNMS_TRT."""
    import tensorrt as trt

    logger = trt.Logger(trt.Logger.ERROR)
    trt.init_libnvinfer_plugins(logger, "")
    boxes, scores = decoded(heads, spec)
    builder = trt.Builder(logger)
    flag = getattr(trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH", None)
    network = builder.create_network(0 if flag is None else 1 << int(flag))
    inputs = {"boxes": boxes, "scores": scores}
    tensors = [network.add_input(name, trt.float32, a.shape) for name, a in inputs.items()]
    creator = trt.get_plugin_registry().get_plugin_creator("EfficientNMS_TRT", "1", "")
    values: list[tuple[str, npt.NDArray[Any], Any]] = [
        ("score_threshold", np.array([spec.score_threshold], "f4"), trt.PluginFieldType.FLOAT32),
        ("iou_threshold", np.array([spec.nms_iou], "f4"), trt.PluginFieldType.FLOAT32),
        ("max_output_boxes", np.array([spec.max_detections], "i4"), trt.PluginFieldType.INT32),
        ("background_class", np.array([-1], "i4"), trt.PluginFieldType.INT32),
        ("score_activation", np.array([0], "i4"), trt.PluginFieldType.INT32),
        ("box_coding", np.array([0], "i4"), trt.PluginFieldType.INT32),
    ]
    fields = trt.PluginFieldCollection([trt.PluginField(*value) for value in values])
    layer = network.add_plugin_v2(tensors, creator.create_plugin("nms", fields))
    for index in range(4):
        network.mark_output(layer.get_output(index))
    config = builder.create_builder_config()
    if hasattr(config, "set_tactic_sources"):
        config.set_tactic_sources(0)
    plan = builder.build_serialized_network(network, config)
    engine = trt.Runtime(logger).deserialize_cuda_engine(plan)
    context = engine.create_execution_context()
    resources = Resources(device)
    try:
        stream = resources.stream()
        for name, array in inputs.items():
            context.set_tensor_address(name, upload(device, resources, array, stream))
        for index in range(engine.num_io_tensors):
            name = engine.get_tensor_name(index)
            if name not in inputs:
                size = 4 * int(np.prod(engine.get_tensor_shape(name)))
                context.set_tensor_address(name, resources.memory(size))
        context.execute_async_v3(stream)
        device.synchronize(stream)
        graph = device.capture(stream, lambda: context.execute_async_v3(stream))
        try:
            return median_us(device, resources, stream, graph, rounds)
        finally:
            device.destroy_graph(graph)
    finally:
        resources.close()


def decoded(heads: Arrays, spec: ModelSpec) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Inputs of EfficientNMS: boxes float32 [N, points, 4], scores float32 [N, points, K]."""
    levels = len(spec.strides)
    boxes, scores = [], []
    for level, stride in enumerate(spec.strides):
        cls, reg = (heads[i].astype(np.float32) for i in (level, levels + level))
        rows, columns = spec.grid_sizes[level]
        y, x = np.divmod(np.arange(rows * columns), columns)
        centre = np.stack([x + 0.5, y + 0.5]) * stride
        reach = reg.reshape(len(reg), 4, -1) * (spec.regression_scale * stride)
        low = np.clip(centre - reach[:, :2], 0, None)
        high = np.minimum(centre + reach[:, 2:], np.array([[spec.width], [spec.height]]))
        boxes.append(np.concatenate([low, high], 1).transpose(0, 2, 1))
        scores.append(sigmoid(cls.reshape(len(cls), spec.num_classes, -1)).transpose(0, 2, 1))
    return (
        np.concatenate(boxes, 1).astype(np.float32),
        np.ascontiguousarray(np.concatenate(scores, 1), np.float32),
    )


def torchvision_us(heads: Arrays, spec: ModelSpec, rounds: int) -> float:
    """Microseconds of torchvision's operators on the GPU, image by image."""
    import torch

    images = [[head[i : i + 1].astype(np.float32) for head in heads] for i in range(len(heads[0]))]
    tasks = [torchvision_task(image, spec, "cuda") for image in images]
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    times = []
    for round_ in range(rounds + 3):
        start.record()
        for task in tasks:
            task()
        end.record()
        end.synchronize()
        if round_ >= 3:
            times.append(start.elapsed_time(end) * 1e3)
    return statistics.median(times)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=50, help="events per case (default: 50)")
    args = parser.parse_args()
    try:
        native.cuda()
        device = open_device()
    except AfdetError as error:
        print(f"bench_detect_cuda needs a GPU: {error}")
        return 2
    peers: dict[str, Callable[[Arrays, ModelSpec], float]] = {}
    if installed("tensorrt", "it comes with JetPack; or pip install tensorrt"):
        peers["EfficientNMS_TRT"] = lambda h, s: efficient_nms(device, h, s, args.rounds)
    if installed("torchvision", "pip install torchvision"):
        peers["torchvision CUDA"] = lambda h, s: torchvision_us(h, s, max(5, args.rounds // 5))
    lines: list[list[str]] = []
    with device.active():
        for classes in (20, 80):
            spec = make_spec(classes)
            for kind, make in (("sparse", sparse_heads), ("dense", dense_heads)):
                for batch in (1, 16):
                    frames = [make(spec, seed=seed) for seed in range(batch)]
                    heads: Arrays = [np.concatenate(level) for level in zip(*frames, strict=True)]
                    lines += case_lines(device, heads, spec, f"{kind}, batch {batch}", peers, args)
    show(f"decode + NMS on {device.name}, microseconds", lines)
    device.close()
    return 0


def case_lines(
    device: Device,
    heads: Arrays,
    spec: ModelSpec,
    name: str,
    peers: dict[str, Callable[[Arrays, ModelSpec], float]],
    args: argparse.Namespace,
) -> list[list[str]]:
    levels = len(spec.strides)
    above = sum(int((h[0] > logit_threshold(spec.score_threshold)).sum()) for h in heads[:levels])
    kept = sum(
        len(decode_level(heads[i][0], heads[levels + i][0], spec, i).logits) for i in range(levels)
    )
    case = f"{spec.num_classes} classes, {name}: {above} candidates, {kept} after the cut"
    half = [head.astype(np.float16) for head in heads]
    times = {
        "trt-afdet": ours(device, heads, spec, args.rounds),
        "trt-afdet, FP16 heads": ours(device, half, spec, args.rounds),
    }
    for peer, measure in peers.items():
        times[peer] = measure(heads, spec)
    first = times["trt-afdet"]
    return [[case, task, f"{us:.1f}", f"{us / first:.2f}"] for task, us in times.items()]


if __name__ == "__main__":
    raise SystemExit(main())
