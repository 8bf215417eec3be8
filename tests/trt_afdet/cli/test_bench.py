"""``trt-afdet bench``: real little models, side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.trt_afdet.onnx_models import build_model, save_model
from tests.trt_afdet.runtime.rigs import HostRig, scene
from trt_afdet.assets import SHIPPED_MODEL
from trt_afdet.cli import bench, main
from trt_afdet.engine.onnx.half_weights import store_half
from trt_afdet.engine.onnx.nms import add_nms
from trt_afdet.errors import InvalidValueError
from trt_afdet.media import read_picture, write_picture
from trt_afdet.runtime.detector import Detector


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("models")
    save_model(made / "model.onnx")
    save_model(made / "fixed.onnx", build_model(batch=2))
    onnx.save(add_nms(build_model(), "onnx"), str(made / "nms.onnx"))
    for index in range(3):
        write_picture(made / "pictures" / f"{index}.png", scene(index))
    return made


def run(*words: object) -> int:
    return main(["bench", *map(str, words)])


def test_table_json_and_picture(folder: Path, tmp_path: Path, capsys: Any) -> None:
    figures, picture = tmp_path / "bench.json", tmp_path / "bench.png"
    models = (folder / "model.onnx", folder / "nms.onnx")
    options = ("--batch", "4,1", "--frames", "12", "--size", "320x200", "--threads", "1")
    files = ("--json", figures, "--picture", picture, "--source", folder / "pictures")
    assert run(*models, *options, *files) == 0
    out = capsys.readouterr().out
    assert "frames of 320x200" in out
    assert "frames/s" in out
    found = json.loads(figures.read_text())
    assert found["frame_size"] == [320, 200]
    assert found["machine"]["found"][0]["name"] == "Python"
    rows = found["results"]
    assert [(r["model"], r["batch"]) for r in rows] == [
        ("model.onnx", 1),
        ("nms.onnx", 1),
        ("model.onnx", 4),
        ("nms.onnx", 4),
    ]
    for row in rows:
        assert row["batches"] == (12 if row["batch"] == 1 else 5)
        latency = row["latency_ms"]
        assert 0 < latency["p50"] <= latency["p90"] <= latency["p95"] <= latency["p99"]
        assert list(row["stages_ms"]) == ["preprocess", "network", "postprocess"]
        # Stages are parts of the whole.
        assert sum(row["stages_ms"].values()) <= latency["p99"] * 1.01
        slowest = row["batch"] / latency["p99"] * 1e3
        assert slowest <= row["frames_per_second"] * 1.01
        assert row["backend"] == "cpu"
        assert row["precision"] == "fp32"
        assert row["bare_frames_per_second"] is None
    assert read_picture(picture).shape[1] > 500


def test_a_fixed_batch_is_measured_at_that_only(folder: Path, capsys: Any) -> None:
    options = ("--batch", "1,2", "--frames", "5", "--source", folder / "pictures")
    assert run(folder / "fixed.onnx", folder / "model.onnx", *options) == 0
    captured = capsys.readouterr()
    assert captured.err.count("fixed.onnx takes batches of 2, so 1 is left out") == 1


def test_a_runner_beside_onnx_runtime(folder: Path, capsys: Any) -> None:
    """Engines are measured stage by stage, pipelined and bare; here on a device of host memory."""
    with HostRig() as rig, Detector.load(folder / "model.onnx") as cpu:
        runner = rig.runner(batches=(1, 2, 2))
        contenders = [
            bench.Contender("model.onnx", "fp32", "cpu", cpu),
            bench.Contender("model.engine", "fp16", "TensorRT", Detector(runner)),
        ]
        results = bench.measure(contenders, [scene(1), scene(2)], [1, 2, 4], 5)
    assert "model.engine takes batches of up to 2, so 4 is left out" in capsys.readouterr().err
    assert [(r.model, r.batch) for r in results] == [
        ("model.onnx", 1),
        ("model.engine", 1),
        ("model.onnx", 2),
        ("model.engine", 2),
        ("model.onnx", 4),
    ]
    engine = results[1]
    assert list(engine.stage_ms()) == [
        "upload",
        "preprocess",
        "network",
        "postprocess",
        "download",
    ]
    assert len(engine.rates) == len(engine.bare) == len(engine.latencies) == 5
    row = engine.as_dict()
    assert row["share_of_bare"] == pytest.approx(
        row["frames_per_second"] / row["bare_frames_per_second"]
    )
    columns, rows = bench.latency_table(results)
    assert columns[-2:] == ["bare", "share"]
    assert [bool(cells[-1]) for cells in rows] == [False, True, False, True, False]
    assert all(len(cells) == len(columns) for cells in rows)


def test_percentiles_and_rates_of_known_times() -> None:
    result = bench.Result("m", "fp32", "cpu", 2, latencies=[0.1, 0.2, 0.3, 0.4, 1.0])
    assert result.latency_ms(0.5) == pytest.approx(300)
    assert result.latency_ms(1.0) == pytest.approx(1000)
    assert result.frames_per_second() == pytest.approx(10 / 2.0)
    result.rates, result.bare = [40.0, 60.0, 50.0], [100.0]
    assert result.as_dict()["share_of_bare"] == pytest.approx(0.5)


def test_precision_of_an_onnx_file(folder: Path, tmp_path: Path) -> None:
    assert bench.onnx_precision(folder / "model.onnx") == "fp32"
    half = build_model()
    for tensor in half.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    half.SerializeToString()
    (tmp_path / "half.onnx").write_bytes(half.SerializeToString())
    assert bench.onnx_precision(tmp_path / "half.onnx") == "fp16"
    node = onnx.helper.make_node("DequantizeLinear", ["a", "b"], ["c"])
    half.graph.node.append(node)
    (tmp_path / "int8.onnx").write_bytes(half.SerializeToString())
    assert bench.onnx_precision(tmp_path / "int8.onnx") == "int8"


def test_weights_stored_in_fp16_are_no_fp16_model(tmp_path: Path) -> None:
    model = onnx.load(SHIPPED_MODEL)
    store_half(model)
    path = save_model(tmp_path / "half.onnx", model)
    assert path.stat().st_size < 0.53 * SHIPPED_MODEL.stat().st_size
    assert bench.onnx_precision(path) == "fp32"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--batch", "0"], "numbers such as 1,4,16 (got 0)"),
        (["--batch", "1,x"], "(got 1,x)"),
        (["--size", "1920"], "WIDTHxHEIGHT"),
        (["--frames", "0"], "--frames must be at least 1"),
        (["--backend", "tpu"], "no such backend (got tpu) - it has"),
        (["--source", "nowhere.png"], "nowhere.png"),
        (["--threads", "0"], "threads must be at least 1"),
    ],
)
def test_bad_options_take_one_line(
    folder: Path, options: list[str], message: str, capsys: Any
) -> None:
    assert run(folder / "model.onnx", *options) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_missing_and_foreign_models(folder: Path, capsys: Any) -> None:
    assert run(folder / "none.onnx") == 2
    assert "no such model" in capsys.readouterr().err
    assert run(folder / "model.pt") == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_batches_are_sorted_and_unique() -> None:
    assert bench.parse_batches("4, 1,4") == [1, 4]
    assert bench.parse_size("1920x1080") == (1920, 1080)
    with pytest.raises(InvalidValueError):
        bench.parse_size("x1080")
