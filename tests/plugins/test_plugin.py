"""The TensorRT plugin: built against every version, loaded by real TensorRT without a GPU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from tests.plugins.tensorrt_parts import BRINGS_HEADERS, ROOT, TensorRT, version_key
from tests.skips import skip_test
from trt_afdet.engine.onnx.nms import add_nms
from trt_afdet.spec import ModelSpec

MODEL = ROOT / "trt_afdet" / "assets" / "model.onnx"

#: How BUILD ends if the model was not parsed.
NOT_PARSED = 3

pytestmark = pytest.mark.slow

#: Loads a plugin, parses a model, says what was found, builds an engine for one architecture.
BUILD = """
import sys
import tensorrt_rtx as trt

library, model, architecture = sys.argv[1:]

class Logger(trt.ILogger):
    def __init__(self):
        trt.ILogger.__init__(self)

    def log(self, severity, text):
        if severity <= trt.ILogger.ERROR:
            print("log:", text, flush=True)

logger = Logger()
registry = trt.get_plugin_registry()
assert registry.load_library(library) is not None
names = [c.name for c in registry.all_creators]
print("creators:", names.count("AfdetDecodeNMS"))
builder = trt.Builder(logger)
network = builder.create_network(0)
parser = trt.OnnxParser(network, logger)
parsed = parser.parse_from_file(model)
print("parsed:", parsed)
if not parsed:
    for i in range(parser.num_errors):
        print("error:", parser.get_error(i).desc())
    sys.exit(3)
for i in range(network.num_outputs):
    tensor = network.get_output(i)
    print("output:", tensor.name, tuple(tensor.shape), str(tensor.dtype).rpartition(".")[2])
config = builder.create_builder_config()
config.num_compute_capabilities = 1
config.set_compute_capability(getattr(trt.ComputeCapability, architecture), 0)
profile = builder.create_optimization_profile()
for i in range(network.num_inputs):
    tensor = network.get_input(i)
    shape = tuple(tensor.shape)[1:]
    profile.set_shape(tensor.name, (1, *shape), (4, *shape), (8, *shape))
config.add_optimization_profile(profile)
engine = builder.build_serialized_network(network, config)
print("engine:", 0 if engine is None else engine.nbytes)
sys.exit(0 if engine is not None else 4)
"""


def heads_model(path: Path, element: int = TensorProto.FLOAT, **attributes: Any) -> Path:
    """A model with only the op, its heads as inputs; `attributes` replace or (None) remove."""
    spec = ModelSpec(name="t", class_names=("a", "b"), height=128, width=256)
    values: dict[str, Any] = {
        "height": spec.height,
        "width": spec.width,
        "strides": list(spec.strides),
        "regression_scale": spec.regression_scale,
        "score_threshold": spec.score_threshold,
        "candidates_per_level": spec.candidates_per_level,
        "nms_iou": spec.nms_iou,
        "class_agnostic": 0,
        "max_detections": 7,
        "plugin_version": "1",
        "plugin_namespace": "",
    }
    values.update(attributes)
    depths = [spec.num_classes] * 5 + [4] * 5
    inputs = [
        helper.make_tensor_value_info(name, element, ["N", depth, *size])
        for name, depth, size in zip(spec.output_names, depths, spec.grid_sizes * 2, strict=True)
    ]
    shapes = {"num_detections": [1], "detection_boxes": [7, 4]}
    shapes |= {"detection_scores": [7], "detection_classes": [7]}
    outputs = [
        helper.make_tensor_value_info(
            name,
            TensorProto.INT32
            if name in ("num_detections", "detection_classes")
            else TensorProto.FLOAT,
            ["N", *shape],
        )
        for name, shape in shapes.items()
    ]
    kept = {k: v for k, v in values.items() if v is not None}
    node = helper.make_node(
        "AfdetDecodeNMS", spec.output_names, list(shapes), domain="trt_afdet", **kept
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("trt_afdet", 1)]
    graph = helper.make_graph([node], "heads", inputs, outputs)
    onnx.save(helper.make_model(graph, opset_imports=opsets), path)
    return path


def newest(plugins: dict[str, Path]) -> Path:
    return plugins[max(plugins, key=version_key)]


def of_major(plugins: dict[str, Path], *majors: int) -> dict[str, Path]:
    found = {v: p for v, p in plugins.items() if int(v.partition(".")[0]) in majors}
    if not found:
        skip_test(f"headers of TensorRT {' or '.join(map(str, majors))}", BRINGS_HEADERS)
    return found


def test_loads_without_tensorrt_and_shows_nothing_else(plugins: dict[str, Path]) -> None:
    code = (
        "import ctypes, os, sys; library = ctypes.CDLL(sys.argv[1], mode=os.RTLD_NOW); "
        "library.afdet_plugin_build_info.restype = ctypes.c_char_p; "
        "print(library.afdet_plugin_build_info().decode())"
    )
    allowed = {"getCreators", "getPluginCreators", "setLoggerFinder"}
    allowed |= {"afdet_plugin_abi_version", "afdet_plugin_build_info"}
    for version, path in plugins.items():
        result = subprocess.run(
            [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False
        )
        adapter = "IPluginV2DynamicExt" if version.startswith("8.") else "IPluginV3"
        assert result.stdout.startswith(f"TensorRT {version}, {adapter}, CUDA "), result.stderr
        listed = subprocess.run(
            ["nm", "-D", "--defined-only", str(path)], capture_output=True, text=True, check=True
        )
        shown = {line.split()[-1] for line in listed.stdout.splitlines()}
        assert shown <= allowed
        if version != "8.5":
            assert ("getPluginCreators" if version.startswith("8.") else "getCreators") in shown
            assert "setLoggerFinder" in shown


@pytest.mark.parametrize("element", [TensorProto.FLOAT, TensorProto.FLOAT16])
def test_rtx_builds_an_engine_with_the_op(
    plugins: dict[str, Path], rtx: TensorRT, tmp_path: Path, element: int
) -> None:
    model = heads_model(tmp_path / "heads.onnx", element)
    for version, path in of_major(plugins, 10, 11).items():
        result = rtx.run(BUILD, path, model, "SM89")
        assert result.returncode == 0, (version, result.stdout, result.stderr[-2000:])
        assert "creators: 1" in result.stdout
        assert "output: num_detections (-1, 1) INT32" in result.stdout
        assert "output: detection_boxes (-1, 7, 4) FLOAT" in result.stdout
        assert "output: detection_scores (-1, 7) FLOAT" in result.stdout
        assert "output: detection_classes (-1, 7) INT32" in result.stdout


@pytest.mark.parametrize("architecture", ["SM86", "SM89", "SM120"])
def test_rtx_builds_the_shipped_detector_with_the_op(
    plugins: dict[str, Path], rtx: TensorRT, tmp_path: Path, architecture: str
) -> None:
    path = newest(of_major(plugins, 10, 11))
    onnx.save(add_nms(onnx.load(MODEL), "plugin"), tmp_path / "plugin.onnx")
    result = rtx.run(BUILD, path, tmp_path / "plugin.onnx", architecture)
    assert result.returncode == 0, result.stdout + result.stderr[-2000:]
    size = int(result.stdout.rpartition("engine: ")[2])
    assert size > 0.9 * MODEL.stat().st_size


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"nms_iou": 1.5}, "attribute nms_iou must be within 0..1 (got 1.5) - such as 0.5"),
        ({"score_threshold": None}, "attribute score_threshold is missing"),
        ({"strides": [8, 16, 32, 64, 100]}, "strides must be ascending powers of two (got 8, 16,"),
        ({"height": 130}, "height and width must be multiples of every stride (got 130 x 256"),
        ({"height": "128"}, "attribute height must be a whole number (got another type)"),
        ({"height": 128.5}, "attribute height must be a whole number (got 128.5)"),
        ({"height": [128, 128]}, "attribute height must be a whole number (got 2 values)"),
        ({"strides": list(range(9))}, "must be a list of whole numbers (got 9 values) - give 1 to"),
        ({"max_detections": 0}, "attribute max_detections must be within 1.."),
        ({"regression_scale": -1.0}, "regression_scale must be above 0 and finite (got -1)"),
        ({"class_agnostic": 2}, "class_agnostic must be 0 or 1 (got 2)"),
        # These need the heads' shapes.
        ({"width": 128}, "the cls input of stride 8 must have 16 as columns (got 32)"),
        ({"strides": [8, 16, 32, 64]}, "per stride (got 10 inputs and 4 strides)"),
    ],
)
def test_rtx_does_not_parse_bad_attributes_and_says_why(
    plugins: dict[str, Path],
    rtx: TensorRT,
    tmp_path: Path,
    attributes: dict[str, Any],
    message: str,
) -> None:
    model = heads_model(tmp_path / "bad.onnx", **attributes)
    result = rtx.run(BUILD, newest(of_major(plugins, 10, 11)), model, "SM89")
    # A crash would be negative.
    assert result.returncode == NOT_PARSED, result.stdout + result.stderr[-2000:]
    lines = [line for line in result.stdout.splitlines() if "log: AfdetDecodeNMS: " in line]
    assert any(message in line for line in lines), result.stdout


@pytest.mark.parametrize(
    ("attributes", "domain", "parses"),
    [
        # What the README says of parsers: which attributes and domains they look at.
        ({"plugin_version": None, "plugin_namespace": None}, "trt_afdet", True),
        ({}, "", True),
        ({}, "another", True),
        ({"nms_iuo": 0.5}, "trt_afdet", True),
        ({"plugin_version": "2"}, "trt_afdet", False),
        ({"plugin_namespace": "trt_afdet"}, "trt_afdet", False),
    ],
)
def test_how_rtx_finds_the_op(
    plugins: dict[str, Path],
    rtx: TensorRT,
    tmp_path: Path,
    attributes: dict[str, Any],
    domain: str,
    parses: bool,
) -> None:
    path = heads_model(tmp_path / "heads.onnx", **attributes)
    model = onnx.load(path)
    model.graph.node[0].domain = domain
    onnx.save(model, path)
    result = rtx.run(BUILD, newest(of_major(plugins, 10, 11)), path, "SM89")
    assert result.returncode == (0 if parses else NOT_PARSED), result.stdout + result.stderr[-2000:]
    assert parses or "Plugin not found" in result.stdout


#: Makes the op known in the ways named, and says after each how often it is known.
LOAD = """
import ctypes
import os
import sys
import tensorrt_rtx as trt

registry = trt.get_plugin_registry()
library, *ways = sys.argv[1:]
for way in ways:
    if way == "open":
        result = ctypes.CDLL(library, mode=os.RTLD_GLOBAL | os.RTLD_NOW)
    elif way == "load":
        result = registry.load_library(library)
        handle = result or handle
    else:
        result = registry.deregister_library(handle)  # Returns nothing.
    known = [c.name for c in registry.all_creators].count("AfdetDecodeNMS")
    print(way, result is not None, known, flush=True)
"""


@pytest.mark.parametrize(
    ("ways", "told"),
    [
        (["open"], ["open True 1"]),
        (["load"], ["load True 1"]),
        # TensorRT refuses to load a library with an op that it knows.
        (["open", "load", "load"], ["open True 1", "load True 1", "load False 1"]),
        (["load", "open"], ["load True 1", "open True 1"]),
        (["load", "remove", "load"], ["load True 1", "remove False 0", "load True 1"]),
    ],
)
def test_rtx_knows_it_once_however_it_is_loaded(
    plugin_for_rtx: Path, rtx: TensorRT, ways: list[str], told: list[str]
) -> None:
    result = rtx.run(LOAD, plugin_for_rtx, *ways)
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.splitlines() == told


def test_rtx_is_left_alone_by_a_library_for_another_tensorrt(
    plugins: dict[str, Path], rtx: TensorRT
) -> None:
    for version, path in plugins.items():
        result = rtx.run(LOAD, path, "open")
        assert (result.returncode, result.stdout) == (0, "open True 0\n"), version


def test_driven_as_an_engine_does(headers: Path, plugins: dict[str, Path], tmp_path: Path) -> None:
    """Serialisation, shapes, types, workspace and failures; in TensorRT these need a GPU."""
    source = ROOT / "tests/plugins/drive_plugin.cpp"
    # 8.5 has no loadLibrary, so its library shows no creators: see the next test.
    for version in plugins.keys() - {"8.5"}:
        driver = tmp_path / f"drive-{version}"
        includes = ["-isystem", str(headers / version / "include"), f"-I{ROOT / 'plugins/tests'}"]
        # nvcc, because it knows where CUDA's headers are.
        command = ["nvcc", "-std=c++17", "-cudart=none", "-Xcompiler=-Wall,-Wextra,-Werror"]
        command += [*includes, str(source), "-o", str(driver), "-ldl"]
        subprocess.run(command, check=True)
        result = subprocess.run(
            [str(driver), str(plugins[version])], capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, (version, result.stdout, result.stderr)


#: Registers the plugin in TensorRT 8.5.3, makes one from fields, writes it and reads it back.
REGISTER = """
import ctypes
import os
import sys

import numpy as np
import tensorrt as trt

class Logger(trt.ILogger):
    def __init__(self):
        trt.ILogger.__init__(self)

    def log(self, severity, text):
        if "AfdetDecodeNMS" in text:
            print("log:", text, flush=True)

logger = Logger()
trt.init_libnvinfer_plugins(logger, "")
ctypes.CDLL(sys.argv[1], mode=os.RTLD_GLOBAL | os.RTLD_NOW)
registry = trt.get_plugin_registry()
creator = registry.get_plugin_creator("AfdetDecodeNMS", "1", "")
print("fields:", ",".join(field.name for field in creator.field_names))

kept = []  # A field points to its array and does not keep it.

def field(name, values, kind):
    kept.append(np.array(values, np.int32 if kind == "i" else np.float32))
    types = trt.PluginFieldType
    return trt.PluginField(name, kept[-1], types.INT32 if kind == "i" else types.FLOAT32)

def make(listed):
    fields = trt.PluginFieldCollection([field(*value) for value in listed])
    return creator.create_plugin("nms", fields)

values = [
    ("height", [512], "i"), ("width", [384], "i"), ("strides", [8, 16, 32, 64, 128], "i"),
    ("regression_scale", [4.0], "f"), ("score_threshold", [0.05], "f"),
    ("candidates_per_level", [1000], "i"), ("nms_iou", [0.5], "f"), ("class_agnostic", [0], "i"),
    ("max_detections", [100], "i"),
]
plugin = make(values)
print("plugin:", plugin.plugin_type, plugin.plugin_version, plugin.num_outputs)
data = bytes(plugin.serialize())
again = creator.deserialize_plugin("nms", data)
print("same:", bytes(again.serialize()) == data)
print("clone:", bytes(plugin.clone().serialize()) == data)
print("refused:", creator.deserialize_plugin("nms", data[:-3]), make(values[1:]))
print("unknown:", make(values + [("nms_iuo", [0.5], "f")]))
"""


def test_the_real_8_5_3_registers_makes_writes_and_reads_it(
    plugins: dict[str, Path], trt85: TensorRT
) -> None:
    if "8.5" not in plugins:
        skip_test("headers of TensorRT 8.5", BRINGS_HEADERS)
    result = trt85.run(REGISTER, plugins["8.5"])
    assert result.returncode == 0, result.stdout + result.stderr[-2000:]
    lines = result.stdout.splitlines()
    assert (
        "fields: height,width,strides,regression_scale,score_threshold,candidates_per_level,"
        "nms_iou,class_agnostic,max_detections" in lines
    )
    assert "plugin: AfdetDecodeNMS 1 4" in lines
    assert "same: True" in lines
    assert "clone: True" in lines
    assert "refused: None None" in lines
    assert "unknown: None" in lines
    assert "plugin data are cut off" in result.stdout + result.stderr
    assert "attribute height is missing" in result.stdout + result.stderr
    assert "no such attribute (got nms_iuo)" in result.stdout + result.stderr
