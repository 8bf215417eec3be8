"""A file that is not a model of ours is named for what it is, with the reason and the way out."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from tests.trt_afdet.onnx_models import build_model, save_model
from trt_afdet.engine.onnx.model_file import load_canonical
from trt_afdet.errors import AfdetError, CorruptFileError, InvalidValueError
from trt_afdet.runtime.detector import Detector
from trt_afdet.runtime.model_errors import kind_of, reason
from trt_afdet.runtime.onnxruntime import OnnxRuntimeBackend

ONNX = build_model().SerializeToString()


def zipped(*names: str) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return data.getvalue()


def safetensors() -> bytes:
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(4)


#: Content of a file called model.onnx, and what is said of it.
OTHERS: dict[str, tuple[bytes, str, str]] = {
    "LFS pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        "Git LFS pointer",
        "git lfs pull",
    ),
    "web page": (b"\n<!DOCTYPE html><html><head>", "HTML", "raw"),
    "PyTorch": (zipped("best/data.pkl", "best/data/0"), "PyTorch checkpoint", "trt-afdet export"),
    "old PyTorch": (pickle.dumps({"a": 1}, protocol=2), "PyTorch checkpoint", "trt-afdet export"),
    "TorchScript": (zipped("m/data.pkl", "m/constants.pkl"), "TorchScript", "ONNX file"),
    "zip": (zipped("a/model.onnx"), "zip archive", "give a/model.onnx"),
    "cut zip": (zipped("best/data.pkl", "x" * 99)[:60], "cut off", "copy it again"),
    "engine": (b"ftrt" + bytes(60), "TensorRT engine", ".engine"),
    "safetensors": (safetensors(), "safetensors", "trt-afdet export"),
    "gzip": (gzip.compress(ONNX), "gzip", "gunzip"),
    "zeros": (bytes(5000), "zeros", "again"),
    "PNG": (b"\x89PNG\r\n\x1a\n" + bytes(40), "picture", "SOURCE"),
    "Keras": (b"\x89HDF\r\n\x1a\n", "Keras", "export"),
    "TFLite": (b"\x1c\0\0\0TFL3" + bytes(20), "TensorFlow Lite", "ONNX file"),
    "OpenVINO": (b'<?xml version="1.0"?><net/>', "XML", "OpenVINO"),
    "text": (b"hello\n", "text", "model.onnx"),
    "JSON": (b'{"spec": 1}', "JSON", "model.onnx"),
}


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("open_it", [OnnxRuntimeBackend, load_canonical], ids=["run", "build"])
def test_another_file_is_named(
    tmp_path: Path, name: str, open_it: Callable[[Path], object]
) -> None:
    data, what, way_out = OTHERS[name]
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    with pytest.raises(CorruptFileError, match="not an ONNX model") as caught:
        open_it(path)
    said = str(caught.value)
    assert what in said
    assert way_out in said
    assert "\n" not in said


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors", "", ".onnx.gz"])
def test_another_suffix_is_named_too(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"best{suffix}"
    path.write_bytes(OTHERS["PyTorch"][0])
    with pytest.raises(InvalidValueError, match="PyTorch checkpoint"):
        Detector.load(path)


@pytest.mark.parametrize("share", [0.01, 0.3, 0.5, 0.9, 0.999])
def test_a_model_that_is_cut_off_is_no_other_file(tmp_path: Path, share: float) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(ONNX[: max(12, int(share * len(ONNX)))])
    assert kind_of(path) is None
    with pytest.raises(CorruptFileError, match="cut off") as caught:
        OnnxRuntimeBackend(path)
    assert "rotobuf" in str(caught.value)


def test_a_long_path_hides_no_reason(tmp_path: Path) -> None:
    folder = tmp_path / ("d" * 120) / ("e" * 120)
    folder.mkdir(parents=True)
    path = folder / "model.onnx"
    path.write_bytes(ONNX[: len(ONNX) // 2])
    with pytest.raises(CorruptFileError) as caught:
        OnnxRuntimeBackend(path)
    assert "(got Protobuf parsing failed.)" in str(caught.value)


def test_a_newer_ir_version_names_the_package(tmp_path: Path) -> None:
    model = build_model()
    model.ir_version = 99
    with pytest.raises(InvalidValueError, match=r"IR version 99, .* reads up to \d+") as caught:
        OnnxRuntimeBackend(save_model(tmp_path / "model.onnx", model))
    assert "pip install --upgrade onnxruntime" in str(caught.value)


def test_ir_10_names_the_release_that_reads_it(tmp_path: Path) -> None:
    from trt_afdet.runtime.model_errors import refusal

    path = save_model(tmp_path / "model.onnx")
    text = (
        f"[ONNXRuntimeError] : 1 : FAIL : Load model from {path} failed:/onnxruntime_src/"
        "onnxruntime/core/graph/model.cc:180 onnxruntime::Model::Model(onnx::ModelProto&&, const "
        "ModelOptions&) Unsupported model IR version: 10, max supported IR version: 9\n"
    )
    said = str(refusal(path, RuntimeError(text), "ONNX Runtime"))
    assert "pip install --upgrade 'onnxruntime>=1.18'" in said


def test_a_newer_opset(tmp_path: Path) -> None:
    model = build_model()
    model.opset_import[0].version = 99
    with pytest.raises(InvalidValueError, match=r"opset 99, .* reads up to \d+"):
        OnnxRuntimeBackend(save_model(tmp_path / "model.onnx", model))


@pytest.mark.parametrize("content", [None, b"1234"])
def test_weights_beside_the_model(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "model.onnx"
    onnx.save_model(
        build_model(), path, save_as_external_data=True, location="w.bin", size_threshold=0
    )
    assert OnnxRuntimeBackend(path).spec.name == "tiny"
    weights = tmp_path / "w.bin"
    weights.unlink()
    if content is not None:
        weights.write_bytes(content)
    with pytest.raises(CorruptFileError, match="keeps its weights in") as caught:
        OnnxRuntimeBackend(path)
    assert "copy both files" in str(caught.value)
    assert "w.bin" in str(caught.value) or content is not None


def test_an_unknown_operator_is_named(tmp_path: Path) -> None:
    model = build_model()
    model.graph.node[0].op_type = "NoSuchOp"
    with pytest.raises(CorruptFileError, match="NoSuchOp"):
        OnnxRuntimeBackend(save_model(tmp_path / "model.onnx", model))


@pytest.mark.parametrize(
    ("outputs", "like"),
    [
        ({"output0": [1, 84, 8400]}, "YOLO"),
        ({"output": [1, 25200, 85]}, "YOLO"),
        ({"pred_logits": [1, 100, 92], "pred_boxes": [1, 100, 4]}, "DETR"),
        ({"boxes": [100, 4], "labels": [100], "scores": [100]}, "torchvision"),
        ({"logits": [1, 1000]}, "not a trt-afdet model"),
    ],
)
def test_a_model_of_others_tells_what_it_has(
    tmp_path: Path, outputs: dict[str, list[int]], like: str
) -> None:
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in outputs.items()]
    nodes = [
        helper.make_node(
            "ConstantOfShape",
            ["size" + name],
            [name],
            value=helper.make_tensor("v", TensorProto.FLOAT, [1], [0.0]),
        )
        for name in outputs
    ]
    sizes = [
        onnx.numpy_helper.from_array(np.array(shape, np.int64), "size" + name)
        for name, shape in outputs.items()
    ]
    source = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 640, 640])
    graph = helper.make_graph(nodes, "foreign", [source], values, sizes)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    with pytest.raises(InvalidValueError, match="not a trt-afdet model") as caught:
        OnnxRuntimeBackend(save_model(tmp_path / "model.onnx", model))
    said = str(caught.value)
    assert like in said
    assert "input images [1, 3, 640, 640]" in said
    assert next(iter(outputs)) in said
    assert "cls_p3" in said


@settings(max_examples=2000, deadline=None)
@given(st.binary(max_size=300))
def test_any_content_has_an_answer(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.onnx"
    path.write_bytes(data)
    found = kind_of(path)
    assert found is None or (found[0] and "\n" not in found[0])


@settings(max_examples=500, deadline=None)
@given(st.text(max_size=2000))
def test_any_reason_is_one_line(text: str) -> None:
    said = reason(RuntimeError(text))
    assert said
    assert len(said.splitlines()) == 1
    assert len(said) < 700


def test_every_refusal_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    for cut in range(1, len(ONNX), max(1, len(ONNX) // 60)):
        path.write_bytes(ONNX[:cut] + b"\xff" * 7)
        with pytest.raises(AfdetError) as caught:
            OnnxRuntimeBackend(path)
        assert "\n" not in str(caught.value)
