"""A small detector with every structure that precision has rules for, and pictures for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from trt_afdet.spec import METADATA_KEY, ModelSpec

SPEC = ModelSpec(name="tiny", class_names=("imp", "zombie", "barrel"), height=128, width=256)


class _Writer:
    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, onnx.TensorProto] = {}

    def add(self, op: str, inputs: list[str], out: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [out], name=f"n_{out}", **attributes))
        return out

    def weight(self, name: str, *shape: int, scale: float = 1.0) -> str:
        if name not in self.weights:
            values = self.rng.normal(0, scale, shape).astype(np.float32)
            self.weights[name] = numpy_helper.from_array(values, name)
        return name

    def conv(self, x: str, out: str, ins: int, outs: int, name: str, **options: Any) -> str:
        """A convolution with bias; ``kernel``, ``stride`` and ``group`` as wished."""
        kernel, stride = options.get("kernel", 3), options.get("stride", 1)
        group, scale = options.get("group", 1), options.get("scale", 1.0)
        fan_in = ins // group * kernel * kernel
        shape = (outs, ins // group, kernel, kernel)
        w = self.weight(f"{name}.weight", *shape, scale=scale * (2 / fan_in) ** 0.5)
        b = self.weight(f"{name}.bias", outs, scale=0.1)
        pad = kernel // 2
        return self.add(
            "Conv",
            [x, w, b],
            out,
            kernel_shape=[kernel] * 2,
            strides=[stride] * 2,
            pads=[pad] * 4,
            group=group,
        )


def build_network(
    spec: ModelSpec = SPEC, *, seed: int = 0, opset: int = 18, batch: int | str = "N"
) -> onnx.ModelProto:
    """Stem, depthwise, residual, squeeze-and-excite, SiLU, concatenation, transposed convolution,
    shared heads with softplus."""
    w = _Writer(seed)
    x = w.conv("images", "stem", 3, 16, "backbone.conv_stem", stride=2)
    x = w.add("Relu", [x], "stem_relu")
    x = w.conv(x, "dw", 16, 16, "backbone.blocks.0.dw", group=16, stride=2)
    x = w.add("Relu", [x], "dw_relu")
    block = w.conv(x, "pw", 16, 32, "backbone.blocks.0.pw", kernel=1)
    y = w.conv(block, "res1", 32, 32, "backbone.blocks.1.a")
    y = w.add("Relu", [y], "res1_relu")
    y = w.conv(y, "res2", 32, 32, "backbone.blocks.1.b", scale=0.5)
    x = w.add("Add", [y, block], "residual")
    gate = w.add("GlobalAveragePool", [x], "pooled")
    gate = w.conv(gate, "se_down", 32, 16, "backbone.blocks.2.se.down", kernel=1)
    gate = w.add("Relu", [gate], "se_relu")
    gate = w.conv(gate, "se_up", 16, 32, "backbone.blocks.2.se.up", kernel=1)
    gate = w.add("Sigmoid", [gate], "se_gate")
    x = w.add("Mul", [x, gate], "excited")
    x = w.conv(x, "c3", 32, 32, "backbone.blocks.2.out", stride=2)
    sigmoid = w.add("Sigmoid", [x], "c3_sigmoid")
    x = w.add("Mul", [x, sigmoid], "c3_silu")
    left = w.conv(x, "left", 32, 16, "neck.inputs.left", kernel=1)
    right = w.conv(x, "right", 32, 16, "neck.inputs.right", kernel=1)
    x = w.add("Concat", [left, right], "joined", axis=1)
    maps = [w.conv(x, "p3_in", 32, 32, "neck.layers.0.p3")]
    for level in spec.levels[1:]:
        name = f"p{level}_in"
        maps.append(w.conv(maps[-1], name, 32, 32, f"neck.layers.0.p{level}", stride=2))
    up = w.weight("neck.layers.1.up.weight", 32, 24, 2, 2, scale=0.1)
    up = w.add("ConvTranspose", [maps[1], up], "up", kernel_shape=[2, 2], strides=[2, 2])
    up = w.conv(up, "up_out", 24, 32, "neck.layers.1.out", kernel=1)
    maps[0] = w.add("Add", [maps[0], up], "p3_sum")
    for level, x in zip(spec.levels, maps, strict=True):
        # Folding batch norm per level leaves weights without their module's name.
        c = w.conv(x, f"cls{level}", 32, 32, f"_v_{level}")
        c = w.add("Relu", [c], f"cls{level}_relu")
        w.conv(c, f"cls_p{level}", 32, spec.num_classes, "heads.cls_out", scale=0.5)
        r = w.conv(x, f"reg{level}", 32, 32, f"_w_{level}")
        r = w.add("Relu", [r], f"reg{level}_relu")
        r = w.conv(r, f"raw{level}", 32, 4, "heads.reg_out", scale=0.2)
        w.add("Softplus", [r], f"reg_p{level}")
    return _finish(w, spec, opset, batch)


def _finish(w: _Writer, spec: ModelSpec, opset: int, batch: int | str) -> onnx.ModelProto:
    outputs = []
    for name, size in zip(spec.output_names, spec.grid_sizes * 2, strict=True):
        depth = spec.num_classes if name.startswith("cls") else 4
        shape = [batch, depth, *size]
        outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    source = [batch, 3, spec.height, spec.width]
    inputs = [helper.make_tensor_value_info("images", TensorProto.FLOAT, source)]
    graph = helper.make_graph(w.nodes, "tiny", inputs, outputs, list(w.weights.values()))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    helper.set_model_props(model, {METADATA_KEY: spec.to_json()})
    onnx.checker.check_model(model, full_check=True)
    return model


def without_names(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same with weights called w0, w1 and so on."""
    names = {t.name: f"w{i}" for i, t in enumerate(model.graph.initializer)}
    for tensor in model.graph.initializer:
        tensor.name = names[tensor.name]
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = names.get(name, name)
    return model


def save(path: Path, model: onnx.ModelProto | None = None) -> Path:
    path.write_bytes((model or build_network()).SerializeToString())
    return path


def picture(seed: int) -> np.ndarray:
    """Blocks of colour, BGR uint8 [96, 160, 3]."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 10, 3), dtype=np.uint8)
    return np.kron(small, np.ones((16, 16, 1), np.uint8))


def write_pictures(folder: Path, count: int, first: int = 0) -> Path:
    """PNG files 0.png, 1.png and so on; the same seeds give the same pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        assert cv2.imwrite(str(folder / f"{index:03}.png"), picture(first + index))
    return folder


def run(model: onnx.ModelProto, images: np.ndarray) -> dict[str, np.ndarray]:
    """A model's outputs by ONNX Runtime, by name."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"images": images}), strict=True))


def images(count: int = 1, spec: ModelSpec = SPEC) -> np.ndarray:
    from trt_afdet.preprocess import preprocess

    return preprocess([picture(1000 + i) for i in range(count)], spec)[0]


def error(want: dict[str, np.ndarray], got: dict[str, np.ndarray]) -> float:
    """The largest root mean square error of any output, over the output's own."""

    def rms(x: np.ndarray) -> float:
        return float(np.sqrt(np.square(x.astype(np.float64)).mean()))

    return max(rms(got[name].astype(np.float64) - want[name]) / rms(want[name]) for name in want)
