"""Which block each node belongs to."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from tests.paths import ROOT
from tests.trt_afdet.engine.networks import build_network, save, without_names
from trt_afdet.engine.onnx.model_file import load_canonical
from trt_afdet.engine.precision.blocks import blocks, expand
from trt_afdet.errors import InvalidValueError

SHIPPED = ROOT / "trt_afdet" / "assets" / "model.onnx"


def test_blocks_go_by_the_names_of_weights() -> None:
    parts = blocks(build_network())
    assert list(parts) == [
        "stem",
        "stage1",
        "stage2",
        "stage3",
        "neck/inputs",
        "neck1",
        "neck2",
        "head/cls",
        "head/reg",
    ]
    assert parts["stem"] == ["n_stem", "n_stem_relu"]
    assert parts["stage2"][:4] == ["n_res1", "n_res1_relu", "n_res2", "n_residual"]
    assert parts["neck/inputs"] == ["n_left", "n_right", "n_joined"]
    # Towers without a name of their own are known by where they lead to.
    assert {"n_cls3", "n_cls3_relu", "n_cls_p3"} <= set(parts["head/cls"])
    assert {"n_reg7", "n_raw7", "n_reg_p7"} <= set(parts["head/reg"])


def test_every_node_is_in_one_block() -> None:
    model = build_network()
    names = [name for members in blocks(model).values() for name in members]
    assert sorted(names) == sorted(node.name for node in model.graph.node)


def test_without_names_blocks_go_by_stride(tmp_path: Path) -> None:
    model, _ = load_canonical(save(tmp_path / "model.onnx", without_names(build_network())))
    parts = blocks(model)
    assert {"n_stem", "n_stem_relu"} == set(parts["stride2"])
    assert "n_res1" in parts["stride4"]
    assert "n_c3" in parts["stride8"]
    assert "n_p7_in" in parts["stride128"]
    assert "n_cls3" in parts["head/cls"]
    assert "n_reg_p5" in parts["head/reg"]


def test_unnamed_weights_in_a_named_body_go_with_what_follows() -> None:
    model = build_network()
    node = next(n for n in model.graph.node if n.name == "n_left")
    for tensor in model.graph.initializer:
        if tensor.name in node.input:
            node.input[list(node.input).index(tensor.name)] = f"{tensor.name[-4:]}_1"
            tensor.name = f"{tensor.name[-4:]}_1"
    onnx.checker.check_model(model)
    assert "n_left" in blocks(model)["neck1"]


def test_the_shipped_model() -> None:
    model, _ = load_canonical(SHIPPED)
    parts = blocks(model)
    ops = {node.name: node.op_type for node in model.graph.node}
    convolutions = {b: sum(ops[n] == "Conv" for n in names) for b, names in parts.items()}
    assert convolutions == {
        "stem": 1,
        "stage1": 2,
        "stage2": 6,
        "stage3": 6,
        "stage4": 9,
        "stage5": 9,
        "stage6": 12,
        "stage7": 3,
        "neck/inputs": 3,
        "neck1": 17,
        "neck2": 16,
        "neck3": 16,
        "head/cls": 15,
        "head/reg": 15,
    }


def test_names_of_blocks_and_nodes_become_nodes() -> None:
    model = build_network()
    assert expand(model, []) == set()
    assert expand(model, ["stem", "n_c3"]) == {"n_stem", "n_stem_relu", "n_c3"}
    with pytest.raises(InvalidValueError, match="did you mean 'stage1'"):
        expand(model, ["stag1"])


def test_a_node_that_nothing_reads_is_in_a_block_too() -> None:
    model = build_network()
    model.graph.node.append(onnx.helper.make_node("Relu", ["c3"], ["idle"], name="n_idle"))
    assert "n_idle" in blocks(model)["stage3"]
