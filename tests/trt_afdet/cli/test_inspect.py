"""`trt-afdet inspect`: what it tells of ONNX files, engines and sidecars, and what it refuses."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.plugins.tensorrt_parts import TensorRT
from tests.trt_afdet.engine.engine_commands import run
from tests.trt_afdet.engine.networks import SPEC, build_network, save, write_pictures
from trt_afdet.cli import main
from trt_afdet.cli.inspect import examine
from trt_afdet.engine.onnx.half_weights import store_half
from trt_afdet.engine.onnx.nms import add_nms
from trt_afdet.engine.prepare import ConvertOptions, convert
from trt_afdet.errors import AfdetError
from trt_afdet.trt.sidecar import EngineSidecar, read, sidecar_path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("model") / "model.onnx")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures"), 24)


@pytest.fixture(scope="module")
def quantized(model: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """INT8 with FP16, ending in NMS."""
    options = ConvertOptions(calibration=pictures, calibration_images=16, held_out=0)
    converted = convert(model, "int8", options).model
    return save(tmp_path_factory.mktemp("int8") / "int8.onnx", add_nms(converted, "onnx"))


@pytest.fixture(scope="module")
def engine(
    rtx: TensorRT, model: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("engine") / "m.engine"
    words = ["--precision", "int8", "--calib", pictures, "--calib-images", "16", "--held-out", "0"]
    words += ["--verify", pictures, "--verify-images", "4", "--verify-limits"]
    words += ["output_error=1,matched=0,ap_drop=100", "--keep", "stem", "--batch", "1,2,4"]
    (outcome,) = run(rtx, [model, "-o", path, *words, "--compute-capability", "8.9,12.0"])
    assert outcome.status == 0, outcome.err
    return path


def told(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert main(["inspect", *map(str, words)]) == 0
    # A table may break its lines anywhere.
    return re.sub(r"\s+", " ", re.sub("[│┃]", " ", capsys.readouterr().out))


def test_an_exported_model(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = told(capsys, model)
    assert "ONNX model" in text
    assert hashlib.sha256(model.read_bytes()).hexdigest() in text
    assert "images input float32 [N, 3, 128, 256]" in text
    assert "cls_p3 output float32 [N, 3, 16, 32]" in text
    assert "3: imp, zombie, barrel" in text
    assert "score threshold" in text
    found = examine(model)
    assert found.spec == SPEC
    assert set(found.layers.values()) == {"FLOAT"}
    assert found.groups["stem"] == {"FLOAT": 1}
    assert sum(n for counts in found.groups.values() for n in counts.values()) == 37


def test_a_converted_model_with_nms(quantized: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = told(capsys, quantized, "--layers")
    assert "num_detections output int32 [N, 1]" in text
    assert "n_res1 INT8" in text
    found = examine(quantized)
    assert found.groups["head/cls"] == {"INT8": 5, "HALF": 5}
    assert ["NMS", "onnx"] in found.facts


@pytest.mark.parametrize("nms", ["none", "onnx"])
def test_weights_stored_in_fp16_compute_in_fp32(tmp_path: Path, nms: str) -> None:
    whole = add_nms(build_network(), nms)
    stored = type(whole).FromString(whole.SerializeToString())
    store_half(stored)
    assert any(node.op_type == "Cast" and ".half" in node.input[0] for node in stored.graph.node)
    found = examine(save(tmp_path / "half.onnx", stored))
    full = examine(save(tmp_path / "full.onnx", whole))
    assert set(found.layers.values()) == {"FLOAT"}
    assert (found.layers, found.groups) == (full.layers, full.groups)
    assert found.tensors == full.tensors


def test_the_shipped_model(capsys: pytest.CaptureFixture[str]) -> None:
    import trt_afdet

    text = told(capsys, Path(trt_afdet.__file__).parent / "assets" / "model.onnx")
    assert "head/cls" in text
    assert "neck/inputs" in text


def test_an_engine_and_its_sidecar_tell_the_same(
    engine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = told(capsys, engine)
    assert "tensorrt-rtx 1.7" in text
    assert "8.9, 12.0" in text
    assert "built without one" in text
    assert "int8, read back from the network" in text
    assert "passed, 4 pictures" in text
    assert "1 to 4, best 2" in text
    assert "images input float32 [N, 3, 128, 256]" in text
    assert "reg_p7 output float32 [N, 4, 1, 2]" in text
    digests = (read(engine).onnx_sha256, hashlib.sha256(engine.read_bytes()).hexdigest())
    assert all(digest in text.replace(" ", "") for digest in digests)
    assert "--precision int8 --nms none --batch 1,2,4" in text
    assert examine(engine) == examine(sidecar_path(engine))
    layers = examine(engine).layers
    assert len(layers) == 37
    assert layers == read(engine).layer_types
    every = told(capsys, sidecar_path(engine), "--layers")
    assert all(f"{node} {kind}" in every for node, kind in layers.items())


def test_a_picture_of_the_precisions(
    engine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "p.png"
    assert f"wrote {picture}" in told(capsys, engine, "--picture", picture)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_files_that_cannot_be_told_of(
    engine: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone, cut, edited = tmp_path / "alone.engine", tmp_path / "cut.engine", tmp_path / "e.json"
    alone.write_bytes(engine.read_bytes())
    cut.write_bytes(engine.read_bytes()[:-1])
    text = sidecar_path(engine).read_text()
    sidecar_path(cut).write_text(text)
    edited.write_text(text.replace('"8.9"', '"8.7"'))
    short = tmp_path / "short.onnx"
    short.write_bytes(model.read_bytes()[:4000])
    foreign = build_network()
    del foreign.metadata_props[:]
    cases = [
        (tmp_path / "none.onnx", "there is no such model"),
        (tmp_path / "none.engine", "there is no such engine"),
        (tmp_path, "there is no such engine"),
        (alone, "the engine's sidecar is missing"),
        (cut, "is not the engine that its sidecar describes, or it is cut off"),
        (edited, "was changed after it was written"),
        (short, "is not an ONNX model, or it is cut off"),
        (save(tmp_path / "foreign.onnx", foreign), "is not a trt-afdet model"),
    ]
    for path, message in cases:
        assert main(["inspect", str(path)]) == 2
        said = capsys.readouterr()
        assert message in said.err
        assert said.err.count("\n") == 1
        assert said.out == ""


#: Bytes at either end of a file that damage falls on.
ENDS = 12_000


def damaged(data: bytes, rng: random.Random) -> bytes:
    """One to seven bytes changed, pieces lost or put in; sometimes cut off.

    Near the ends: between them an ONNX file holds weights, which may be anything.
    """
    result = bytearray(data)
    for _ in range(rng.randrange(1, 8)):
        at = rng.randrange(min(len(result), ENDS))
        if rng.random() < 0.5:
            at = len(result) - 1 - at
        kind = rng.randrange(4)
        if kind == 0:
            result[at] = rng.randrange(256)
        elif kind == 1:
            result[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            del result[at : at + rng.randrange(1, 200)]
        else:
            result[at:at] = rng.randbytes(rng.randrange(1, 20))
        if rng.random() < 0.02:
            del result[at:]
        if not result:
            return b"x"
    return bytes(result)


def _refusal(call: Callable[[], object]) -> AfdetError | None:
    """The error of a call that may raise no other kind."""
    try:
        call()
    except AfdetError as error:
        return error
    return None


@pytest.mark.slow
def test_ten_thousand_damaged_files_end_in_clean_errors(
    model: Path, quantized: Path, engine: Path, tmp_path: Path
) -> None:
    """Exported and converted ONNX files, and a real engine's sidecar."""
    rng = random.Random(20)
    text = sidecar_path(engine).read_bytes()
    target = tmp_path / "damaged.onnx"

    def of_model(source: bytes) -> Callable[[], object]:
        def look() -> object:
            target.write_bytes(damaged(source, rng))
            return examine(target)

        return look

    cases: tuple[tuple[int, int, Callable[[], object]], ...] = (
        (2500, 1200, of_model(model.read_bytes())),
        (2500, 1200, of_model(quantized.read_bytes())),
        (5000, 4900, lambda: EngineSidecar.from_json(damaged(text, rng))),
    )
    for count, least, look in cases:
        errors = [error for error in (_refusal(look) for _ in range(count)) if error is not None]
        assert len(errors) >= least
        assert {error.exit_code for error in errors} == {2}
        assert not [error for error in errors if "\n" in str(error)]
