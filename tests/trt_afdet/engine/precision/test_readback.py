"""Types of layers, read from ONNX and from what TensorRT's engine inspector says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest

from tests.trt_afdet.engine.networks import build_network, save, write_pictures
from trt_afdet.engine.onnx.nms import add_nms
from trt_afdet.engine.precision.fp16 import to_half
from trt_afdet.engine.precision.placement import place
from trt_afdet.engine.precision.readback import Precisions, node_blocks, of_engine, of_model
from trt_afdet.engine.prepare import ConvertOptions, convert
from trt_afdet.errors import RunError


@pytest.fixture(scope="module")
def network() -> onnx.ModelProto:
    return build_network()


def test_blocks_are_in_the_order_of_the_network(network: onnx.ModelProto) -> None:
    block = node_blocks(network)
    assert list(dict.fromkeys(block.values()))[:3] == ["stem", "stage1", "stage2"]
    assert block["n_se_up"] == "stage3"
    assert "n_stem_relu" not in block
    assert len(block) == 37


def test_fp32_and_fp16_models(network: onnx.ModelProto) -> None:
    assert of_model(network).layers() == {"FLOAT": 37}
    half = of_model(to_half(network, ["n_stem", "n_up"]))
    assert half.layers() == {"HALF": 35, "FLOAT": 2}
    assert half.types["n_stem"] == half.types["n_up"] == "FLOAT"
    assert half.groups()["stem"] == {"FLOAT": 1}


@pytest.mark.parametrize("half", [True, False])
def test_int8_models(tmp_path: Path, half: bool) -> None:
    path = save(tmp_path / "model.onnx")
    options = ConvertOptions(
        calibration=write_pictures(tmp_path / "pictures", 16),
        calibration_images=16,
        held_out=0,
        half=half,
        method="minmax",
    )
    converted = convert(path, "int8", options)
    block = node_blocks(onnx.load(path))
    types = of_model(converted.model, block)
    assert types.layers()["INT8"] == len(place(build_network()).nodes)
    assert types.layers()["HALF" if half else "FLOAT"] == 37 - types.layers()["INT8"]
    operators = [node.op_type for node in converted.model.graph.node]
    assert operators.count("DequantizeLinear") > types.layers()["INT8"]
    # Decode and NMS add nodes of no interest here.
    with_nms = add_nms(converted.model, "onnx", loop=True)
    assert of_model(with_nms, block).types == types.types


def types(**kinds: str) -> Precisions:
    block = {"a": "stem", "b": "stem", "c": "neck1", "d": "neck1"}
    return Precisions(kinds, block, "network")


def test_what_fell_back_is_told_by_block() -> None:
    planned = {"a": "HALF", "b": "FLOAT", "c": "INT8", "d": "INT8"}
    got = types(a="FLOAT", b="FLOAT", c="HALF", d="HALF")
    assert got.fallback(planned) == (
        "stem: 1 of 2 in FLOAT, not HALF",
        "neck1: 2 of 2 in HALF, not INT8",
    )
    assert got.groups() == {"stem": {"FLOAT": 2}, "neck1": {"HALF": 2}}
    assert types(a="INT8", b="HALF", c="INT8", d="INT8").fallback(planned) == ()
    assert types(a="?").fallback(planned) == ("stem: 1 of 1 in ?, not HALF",)


def test_the_share_that_is_as_asked() -> None:
    planned = {"a": "HALF", "b": "HALF", "c": "HALF", "d": "FLOAT"}
    assert types(a="HALF", b="INT8", c="FLOAT", d="FLOAT").share("fp16", planned) == 2 / 3
    assert types(a="HALF", b="HALF", c="HALF", d="FLOAT").share("int8", planned) == 0
    assert types(a="FLOAT").share("fp32", dict.fromkeys("abcd", "FLOAT")) == 1
    # Layers that TensorRT does not tell of say nothing.
    assert types(a="HALF").share("fp16", planned) == 1


BLOCK = {"conv1": "stem", "conv2": "stem", "conv3": "neck1", "conv4": "neck1", "conv5": "head/cls"}


def layer(name: str, written: str, **more: Any) -> dict[str, Any]:
    tensor = {"Name": "x", "Dimensions": [1, 3, 8, 8], "Format/Datatype": written}
    return {"Name": name, "LayerType": "CaskConvolution", "Inputs": [tensor], **more}


def test_what_tensorrt_8_says_of_an_engine() -> None:
    """Names of fused layers are joined by a plus, formats are written out."""
    text = json.dumps(
        {
            "Layers": [
                layer("Reformatting CopyNode for conv1", "Row major linear FP32 format")
                | {"LayerType": "Reformat"},
                layer("conv1 + relu1", "Row major linear FP32 format"),
                layer("conv2", "Channel major FP16 format where channel % 8 == 0"),
                layer(
                    "conv3 + add + relu",
                    "Thirty-two wide channel vectorized row major Int8 format",
                ),
                layer("conv4", "Row major linear FP32", Weights={"Type": "Half", "Count": 9}),
                layer("pool", "Row major linear FP32 format"),
            ]
        }
    )
    found = of_engine(text, BLOCK)
    assert found.types == {"conv1": "FLOAT", "conv2": "HALF", "conv3": "INT8", "conv4": "HALF"}
    assert found.source == "engine"


def test_what_tensorrt_10_says_of_an_engine() -> None:
    """ONNX nodes are in the metadata; the type has a key of its own."""
    nodes = ("conv1", "relu1", "conv4", "conv5")
    metadata = "\x1e".join(f"[ONNX Layer: {node}]" for node in nodes)
    tensor = {"Name": "x", "Format": "Channel major", "Datatype": "Half"}
    layers = [
        {"Name": "__myl_Conv_1", "LayerType": "gemm", "Inputs": [tensor], "Metadata": metadata},
        {"Name": "__myl_2", "LayerType": "kgen", "Inputs": [], "Metadata": "[ONNX Layer: conv2]"},
    ]
    found = of_engine(json.dumps({"Layers": layers}), BLOCK)
    assert found.types == {"conv1": "HALF", "conv4": "HALF", "conv5": "HALF"}


def test_an_engine_that_tells_of_few_layers_is_no_proof() -> None:
    text = json.dumps({"Layers": [layer("conv1", "FP16"), layer("conv2", "FP16")]})
    with pytest.raises(RunError, match=r"of too few layers \(got 2 of 5 with weights\)"):
        of_engine(text, BLOCK)


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"Layers": []}', '{"Layers": ["conv1", "conv2"]}', '{"Layers": [{}]}']
)
def test_an_engine_that_tells_nothing_is_no_proof(text: str) -> None:
    with pytest.raises(RunError, match="engine inspector"):
        of_engine(text, BLOCK)
