"""Reading model.onnx: whole and ours, or a clean refusal."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.trt_afdet import onnx_models
from tests.trt_afdet.engine.networks import build_network, save
from trt_afdet.engine.onnx.model_file import load_canonical, save_model
from trt_afdet.engine.onnx.nms import add_nms
from trt_afdet.engine.precision.fp16 import to_half
from trt_afdet.errors import (
    AfdetError,
    CorruptFileError,
    InvalidValueError,
    MissingFileError,
    WriteError,
)
from trt_afdet.support.files import file_sha256


def test_a_model_comes_with_spec_shapes_and_a_name_for_each_node(tmp_path: Path) -> None:
    plain = onnx_models.build_model()
    assert not any(node.name for node in plain.graph.node)
    model, spec = load_canonical(save(tmp_path / "model.onnx", plain))
    assert spec == onnx_models.SPEC
    names = [node.name for node in model.graph.node]
    assert all(names)
    assert len(set(names)) == len(names)
    assert {v.name for v in model.graph.value_info} >= {"pool3", "raw_p7"}


def test_repeated_node_names_are_told_apart(tmp_path: Path) -> None:
    model = build_network()
    model.graph.node[3].name = model.graph.node[2].name
    loaded, _ = load_canonical(save(tmp_path / "model.onnx", model))
    names = [node.name for node in loaded.graph.node]
    assert len(set(names)) == len(names)


def test_sha256_is_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc" * 100_000)
    assert file_sha256(path) == hashlib.sha256(b"abc" * 100_000).hexdigest()
    with pytest.raises(MissingFileError, match="no such file"):
        file_sha256(tmp_path / "none")


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    model = build_network()
    save_model(model, tmp_path / "new" / "model.onnx")
    assert onnx.load(str(tmp_path / "new" / "model.onnx")) == model
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["model.onnx"]
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError):
        save_model(model, tmp_path / "file" / "model.onnx")


def test_missing_empty_foreign_and_truncated_files(tmp_path: Path) -> None:
    for missing in (tmp_path / "none.onnx", tmp_path):
        with pytest.raises(MissingFileError, match="no such model"):
            load_canonical(missing)
    bad = tmp_path / "bad.onnx"
    data = build_network().SerializeToString()
    bad.write_bytes(b"")
    with pytest.raises(CorruptFileError, match="empty"):
        load_canonical(bad)
    for content in (data[: len(data) // 2], b"no model at all", b"\x00" * 100, data[:5]):
        bad.write_bytes(content)
        with pytest.raises(CorruptFileError) as caught:
            load_canonical(bad)
        assert str(bad) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_models_that_are_not_canonical(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    model = build_network()
    del model.metadata_props[:]
    with pytest.raises(InvalidValueError, match="is not a trt-afdet model"):
        load_canonical(save(path, model))
    with pytest.raises(InvalidValueError, match="already ends in NMS"):
        load_canonical(save(path, add_nms(build_network(), "onnx")))
    with pytest.raises(InvalidValueError, match=r"another precision already \(got float16\)"):
        load_canonical(save(path, to_half(build_network())))
    model = build_network()
    model.graph.node[5].op_type = "Sin"
    model.graph.node[5].domain = "elsewhere"
    with pytest.raises(InvalidValueError, match=r"no operator elsewhere::Sin \(got node 'n_res1'"):
        load_canonical(save(path, model))
    model = build_network()
    model.opset_import[0].version = 999
    with pytest.raises(InvalidValueError, match="opset 999, the installed onnx knows up to"):
        load_canonical(save(path, model))


def test_a_quantized_model_is_refused(tmp_path: Path) -> None:
    model = build_network()
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(1), "s"))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.int8(0), "z"))
    node = helper.make_node("QuantizeLinear", ["images", "s", "z"], ["q"], name="first")
    model.graph.node.insert(0, node)
    with pytest.raises(InvalidValueError, match=r"another precision already \(got QuantizeLinear"):
        load_canonical(save(tmp_path / "model.onnx", model))


def test_graphs_that_do_not_hang_together(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    model = build_network()
    model.graph.node[4].input[0] = "nowhere"
    with pytest.raises(CorruptFileError, match="not a valid ONNX model"):
        load_canonical(save(path, model))
    model = build_network()
    del model.graph.node[:]
    with pytest.raises(CorruptFileError, match="holds no graph"):
        load_canonical(save(path, model))


def test_damaged_files_end_in_our_errors(tmp_path: Path) -> None:
    """Bytes flipped, cut out and put in, mostly in the structure and not in the weights."""
    rng = np.random.default_rng(0)
    whole = bytearray(onnx_models.build_model().SerializeToString())
    path = tmp_path / "model.onnx"
    lines = []
    for _ in range(400):
        data = bytearray(whole)
        for _ in range(rng.integers(1, 6)):
            at = int(rng.integers(len(data)))
            kind = rng.integers(3)
            if kind == 0:
                data[at] = int(rng.integers(256))
            elif kind == 1:
                del data[at : at + int(rng.integers(1, 40))]
            else:
                data[at:at] = rng.integers(0, 256, rng.integers(1, 20), dtype=np.uint8).tobytes()
        path.write_bytes(data)
        try:
            load_canonical(path)
        except AfdetError as error:
            lines.append(str(error))
    assert len(lines) > 200
    assert not any("\n" in line for line in lines)
