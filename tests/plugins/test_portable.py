"""The portable form of decode + NMS in real TensorRT-RTX, which builds engines without a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest

from tests.paths import ASSETS
from tests.plugins.tensorrt_parts import TensorRT
from trt_afdet.engine.onnx.nms import add_nms, check_canonical
from trt_afdet.spec import METADATA_KEY

MODEL = ASSETS / "model.onnx"

pytestmark = pytest.mark.slow

#: Parses a model, says its outputs, builds an engine for one architecture.
BUILD = """
import sys
import tensorrt_rtx as trt

model, architecture = sys.argv[1:]

class Logger(trt.ILogger):
    def __init__(self):
        trt.ILogger.__init__(self)

    def log(self, severity, text):
        if severity <= trt.ILogger.ERROR:
            print("log:", text, flush=True)

logger = Logger()
builder = trt.Builder(logger)
network = builder.create_network(0)
parser = trt.OnnxParser(network, logger)
if not parser.parse_from_file(model):
    sys.exit(3)
for i in range(network.num_outputs):
    tensor = network.get_output(i)
    print("output:", tensor.name, tuple(tensor.shape), str(tensor.dtype).rpartition(".")[2])
config = builder.create_builder_config()
config.num_compute_capabilities = 1
config.set_compute_capability(getattr(trt.ComputeCapability, architecture), 0)
profile = builder.create_optimization_profile()
images = network.get_input(0)
shape = tuple(images.shape)[1:]
profile.set_shape(images.name, (1, *shape), (4, *shape), (8, *shape))
config.add_optimization_profile(profile)
engine = builder.build_serialized_network(network, config)
print("engine:", 0 if engine is None else engine.nbytes)
sys.exit(0 if engine is not None else 4)
"""


def shipped(**changes: Any) -> onnx.ModelProto:
    """The shipped detector with a different spec."""
    model = onnx.load(MODEL)
    spec = check_canonical(model).replace(**changes)
    onnx.helper.set_model_props(model, {METADATA_KEY: spec.to_json()})
    return model


@pytest.mark.parametrize(
    ("architecture", "changes"),
    [
        ("SM86", {}),
        ("SM89", {}),
        ("SM120", {}),
        ("SM89", {"class_agnostic": True, "score_threshold": 0.0}),
        ("SM89", {"candidates_per_level": 3, "score_threshold": 1.0}),
        ("SM89", {"candidates_per_level": 3840, "max_detections": 3840}),
    ],
)
def test_rtx_builds_the_loop(
    rtx: TensorRT, tmp_path: Path, architecture: str, changes: dict[str, Any]
) -> None:
    path = tmp_path / "loop.onnx"
    onnx.save(add_nms(shipped(**changes), "onnx", loop=True), path)
    result = rtx.run(BUILD, path, architecture)
    assert result.returncode == 0, result.stdout + result.stderr[-2000:]
    most = changes.get("max_detections", 100)
    lines = [line for line in result.stdout.splitlines() if line.startswith("output: ")]
    assert lines == [
        "output: num_detections (-1, 1) INT32",
        f"output: detection_boxes (-1, {most}, 4) FLOAT",
        f"output: detection_scores (-1, {most}) FLOAT",
        f"output: detection_classes (-1, {most}) INT32",
    ]
    assert int(result.stdout.rpartition("engine: ")[2]) > 0.9 * MODEL.stat().st_size


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loop": False}, "NonMaxSuppression"),
        ({"loop": True, "candidates_per_level": 3841}, "exceeds the maximum value allowed (3840)"),
    ],
)
def test_what_rtx_does_not_build(
    rtx: TensorRT, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    """The reasons for the loop and for its documented limit."""
    changes = {key: value for key, value in options.items() if key != "loop"}
    path = tmp_path / "model.onnx"
    onnx.save(add_nms(shipped(**changes), "onnx", loop=options["loop"]), path)
    result = rtx.run(BUILD, path, "SM89")
    assert result.returncode == 4, result.stdout + result.stderr[-2000:]
    assert message in result.stdout
