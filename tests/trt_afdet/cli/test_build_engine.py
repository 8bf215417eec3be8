"""`trt-afdet build-engine`: its words, what it refuses and when, and what it leaves behind."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import pty
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import helper

from tests.paths import ROOT
from tests.plugins.tensorrt_parts import (
    PartMissingError,
    TensorRT,
    build_plugins,
    headers_folder,
    version_key,
)
from tests.skips import skip_test
from tests.trt_afdet.engine.engine_commands import SMS, only, run
from tests.trt_afdet.engine.networks import SPEC, build_network, save, write_pictures
from trt_afdet.cli import build_parser, main
from trt_afdet.cli.build_engine import options_of
from trt_afdet.engine.options import BuildOptions
from trt_afdet.trt.sidecar import EngineSidecar, read

SHIPPED = ROOT / "trt_afdet" / "assets" / "model.onnx"
GUIDE = ROOT / "docs" / "build-engine.md"
SM89 = ["--compute-capability", "8.9"]


def parse(*words: str) -> BuildOptions:
    return options_of(build_parser("build-engine").parse_args(["build-engine", *words]))


def small(*words: str) -> BuildOptions:
    return parse("m.onnx", "-o", "m.engine", *words)


# Words


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--fp16"], {"precision": "fp16"}),
        (["--int8", "--fp16", "--calib=x"], {"precision": "int8", "calib": "x"}),
        (["--best"], {"precision": "best"}),
        ([], {"precision": "fp16", "batch": (1, 1, 1), "image": None, "tf32": True}),
        (["--batch", "4"], {"batch": (4, 4, 4)}),
        (["--batch", "1, 2 ,8"], {"batch": (1, 2, 8)}),
        (["--shapes=images:4x3x128x256"], {"batch": (4, 4, 4), "image": (3, 128, 256)}),
        (["--minShapes='images':1x3x8x8"], {"batch": (1, 1, 1), "image": (3, 8, 8)}),
        (
            ["--minShapes=images:1x3x8x8", "--maxShapes=images:8x3x8x8"],
            {"batch": (1, 8, 8)},
        ),
        (["--optShapes=images:4x3x8x8"], {"batch": (4, 4, 4)}),
        (["--workspace=2048"], {"workspace": 2**31}),
        (["--workspace", "1.5G"], {"workspace": 3 * 2**29}),
        (["--workspace", "512MiB"], {"workspace": 2**29}),
        (["--memPoolSize=workspace:100"], {"workspace": 100 * 2**20}),
        (["--timingCacheFile=t"], {"timing_cache": Path("t"), "use_timing_cache": True}),
        (["--noTimingCache"], {"timing_cache": None, "use_timing_cache": False}),
        (["--builderOptimizationLevel=4"], {"optimization_level": 4}),
        (
            ["--useDLACore=1", "--allowGPUFallback"],
            {"dla_core": 1, "gpu_fallback": True},
        ),
        (["--vc"], {"version_compatible": True}),
        (["--versionCompatible"], {"version_compatible": True}),
        (["--hardwareCompatibilityLevel=ampere+"], {"hardware_compatible": "ampere_plus"}),
        (
            ["--hardwareCompatibilityLevel=sameComputeCapability"],
            {"hardware_compatible": "same_compute_capability"},
        ),
        (["--stripWeights"], {"strip_weights": True}),
        (["--noTF32"], {"tf32": False}),
        (["--dynamicPlugins=p.so", "--nms", "plugin"], {"plugin": Path("p.so")}),
        (["--tacticSources=-CUDNN,-CUBLAS"], {"without_tactics": ("CUDNN", "CUBLAS")}),
        (["--compute-capability", "sm86,SM_89,12.0"], {"compute_capability": SMS}),
        (
            ["--verify=x", "--verify-limits", "matched=0.98, ap_drop=1"],
            {"verify_limits": (("matched", 0.98), ("ap_drop", 1.0))},
        ),
        (["--stronglyTyped", "--skipInference", "--buildOnly", "--explicitBatch"], {}),
        (["--profilingVerbosity=detailed", "--precisionConstraints=obey"], {}),
    ],
)
def test_words_and_those_of_trtexec(words: list[str], expected: dict[str, Any]) -> None:
    options = small(*words)
    assert {name: getattr(options, name) for name in expected} == expected


def test_trtexecs_files() -> None:
    options = parse("--onnx=a.onnx", "--saveEngine=b.plan")
    assert (options.onnx, options.output) == (Path("a.onnx"), Path("b.plan"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no model is given - trt-afdet build-engine MODEL -o ENGINE"),
        (["m.onnx"], "no engine is named - -o model.engine"),
        (["m.onnx", "--onnx=n.onnx", "-o", "e"], "MODEL and --onnx contradict"),
        (["m.onnx", "-o", "e", "--int8", "--precision=fp16"], "--precision and --int8 contradict"),
        (["m.onnx", "-o", "e", "--workspace=1", "--memPoolSize=workspace:2"], "contradict"),
        (["m.onnx", "-o", "e", "--workspace", "-5"], "a size is a number of MiB"),
        (["m.onnx", "-o", "e", "--workspace=-5"], "a size is a number of MiB"),
        (["m.onnx", "-o", "e", f"--workspace={'9' * 400}"], "a size is a number of MiB"),
        (["m.onnx", "-o", "e", "--workspace=9999999G"], "above 0 and at most 1073741824 MiB"),
        (["m.onnx", "-o", "e", "--workspace=0"], "above 0"),
        (["m.onnx", "-o", "e", f"--batch={'9' * 5000}"], "--batch takes one number"),
        (["m.onnx", "-o", "e", "--batch=1,2"], "--batch takes one number or MIN,OPT,MAX (got 1,2)"),
        (["m.onnx", "-o", "e", "--batch=1,x,4"], "--batch takes one number"),
        (["m.onnx", "-o", "e", "--batch="], "--batch takes one number"),
        (["m.onnx", "-o", "e", "--batch=٣"], "--batch takes one number"),
        (["m.onnx", "-o", "e", "--batch=0"], "must ascend from 1 on"),
        (["m.onnx", "-o", "e", "--batch=-1,1,1"], "must ascend from 1 on"),
        (["m.onnx", "-o", "e", "--batch=1,1,99999"], "a batch is at most 32768"),
        (["m.onnx", "-o", "e", "--batch=1", "--shapes=images:1x3x8x8"], "shapes contradict"),
        (
            ["m.onnx", "-o", "e", "--minShapes=images:1x3x8x8", "--shapes=images:1x3x8x8"],
            "--shapes and --minShapes.. contradict",
        ),
        (
            ["m.onnx", "-o", "e", "--minShapes=images:1x3x8x8", "--maxShapes=images:1x3x16x8"],
            "only the batch of a shape can vary",
        ),
        (["m.onnx", "-o", "e", "--shapes=images:1x3x8"], "a shape is written images:Nx3xHxW"),
        (["m.onnx", "-o", "e", "--optimization-level=9"], "the optimization level is 0 to 5"),
        (["m.onnx", "-o", "e", "--calib=x"], "go with --precision int8 or best (got fp16)"),
        (["m.onnx", "-o", "e", "--int8"], "INT8 needs calibration pictures"),
        (["m.onnx", "-o", "e", "--gpu-fallback"], "--gpu-fallback goes with --dla-core"),
        (["m.onnx", "-o", "e", "--verify-images=3"], "there is nothing to verify on"),
        (["m.onnx", "-o", "e", "--verify=x", "--verify-limits=matched"], "is written NAME=VALUE"),
        (["m.onnx", "-o", "e", "--verify=x", "--verify-limits=ap=1"], "must be one of output_err"),
        (["m.onnx", "-o", "e", "--verify=x", "--verify-limits=matched=nan"], "must be 0 or more"),
        (["m.onnx", "-o", "e", "--timing-cache=t", "--no-timing-cache"], "contradict (got t)"),
        (["m.onnx", "-o", "e", "--tacticSources=+CUDNN"], "can only be left out here"),
        (["m.onnx", "-o", "e", "--hardware-compatible=all"], "hardware-compatible must be one of"),
        (["m.onnx", "-o", "e", "--precission=fp16"], "did you mean '--precision'"),
        (["m.onnx", "-o", "e", "--nms=fast"], "invalid choice: 'fast'"),
    ],
)
def test_words_that_cannot_be_meant_take_one_line(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["build-engine", *words]) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert said.err.startswith("trt-afdet: error: ")
    assert said.err.count("\n") == 1
    assert said.out == ""


def _actions() -> Iterator[argparse.Action]:
    parser = argparse.ArgumentParser()
    from trt_afdet.cli import build_engine

    build_engine.add_arguments(parser)
    return (action for action in parser._actions if action.option_strings)


def test_the_guide_names_every_option() -> None:
    guide = GUIDE.read_text(encoding="utf-8")
    named = set(re.findall(r"(?<![\w-])--?[A-Za-z][\w-]*", guide))
    options = {name for action in _actions() for name in action.option_strings}
    assert sorted(options - named - {"-h", "--help"}) == []
    others = {"--debug", "--layers"}  # Of every command, and of inspect.
    assert {name for name in named if name.startswith("--")} <= options | others


def test_without_tensorrt_it_says_what_to_install(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    engine = tmp_path / "m.engine"
    assert main(["build-engine", str(save(tmp_path / "m.onnx")), "-o", str(engine)]) == 2
    assert "TensorRT is not installed - on a Jetson it comes with" in capsys.readouterr().err
    assert only(tmp_path) == {"m.onnx"}


# Engines, by TensorRT-RTX


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("model") / "model.onnx")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures"), 24)


def int8(pictures: Path, *more: object) -> list[object]:
    return ["--precision", "int8", "--calib", pictures, "--calib-images", "16", *more]


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_every_precision_with_and_without_portable_nms_for_every_gpu(
    rtx: TensorRT, model: Path, pictures: Path, tmp_path: Path, precision: str
) -> None:
    words: list[object] = ["--precision", precision, "--batch", "1,2,4"]
    if precision == "int8":
        words = [*words, *int8(pictures, "--held-out", "0")]
    cases = [*((sm, "none") for sm in SMS), (",".join(SMS), "onnx")]
    commands = [
        [
            "--compute-capability",
            sm,
            "--nms",
            nms,
            *words,
            model,
            "-o",
            tmp_path / f"{sm}{nms}.engine",
        ]
        for sm, nms in cases
    ]
    for (sm, nms), outcome in zip(cases, run(rtx, *commands), strict=True):
        assert outcome.status == 0, outcome.err
        engine = tmp_path / f"{sm}{nms}.engine"
        sidecar = read(engine)
        assert (sidecar.flavour, sidecar.gpu_name) == ("tensorrt-rtx", None)
        assert (sidecar.compute_capability, sidecar.nms) == (tuple(sm.split(",")), nms)
        assert (sidecar.precision_asked, sidecar.fallback) == (precision, ())
        assert (sidecar.spec, sidecar.batch) == (SPEC, (1, 2, 4))
        assert sidecar.build_seconds > 0
        assert sidecar.peak_memory > 2**20
        assert (sidecar.calibration_key is not None) == (precision == "int8")
        # Read back from the parsed network, layer by layer.
        assert sidecar.precision_source == "network"
        weighted = {n.name for n in build_network().graph.node if "Conv" in n.op_type}
        assert set(sidecar.layer_types) == weighted
        if precision == "int8":
            # What is too small for INT8 and the last convolutions of the heads is FP16.
            assert sidecar.precision_layers == {"INT8": 24, "HALF": 13}
            assert sidecar.precision_groups["head/cls"] == {"INT8": 5, "HALF": 5}
            assert sidecar.layer_types["n_res1"] == "INT8"
        else:
            assert sidecar.precision_layers == {"FLOAT" if precision == "fp32" else "HALF": 37}
        kind = {"fp32": "FLOAT", "fp16": "HALF", "int8": "INT8"}[precision]
        assert f"{sidecar.precision_layers[kind]} {kind}" in outcome.out
        assert "read back from the network" in outcome.out
        assert f"({engine.stat().st_size / 1e6:.1f} MB)" in outcome.out
    names = [f"{sm}{nms}.engine" for sm, nms in cases]
    ends = ["", ".json", *([".calibration.json"] if precision == "int8" else [])]
    assert only(tmp_path) == {name + end for name in names for end in ends}


def without_times(sidecar: EngineSidecar) -> EngineSidecar:
    return dataclasses.replace(sidecar, build_seconds=0, peak_memory=0, created=CREATED)


CREATED = "2026-01-01T00:00:00+00:00"


def test_the_words_in_the_sidecar_build_the_same_again(
    rtx: TensorRT, model: Path, pictures: Path, tmp_path: Path
) -> None:
    words = [*int8(pictures, "--held-out", "0"), "--keep", "stem", "--no-tf32", "--nms", "onnx"]
    words += ["--optimization-level", "2", "--workspace", "64", "--batch", "2,3,4"]
    first, second = tmp_path / "1" / "m.engine", tmp_path / "2" / "m.engine"
    assert run(rtx, [model, "-o", first, *words, *SM89])[0].status == 0
    again = read(first).arguments()
    assert run(rtx, [model, "-o", second, *again, *SM89])[0].status == 0
    one, two = read(first), read(second)
    same = dataclasses.replace(two, engine_sha256=one.engine_sha256)
    assert without_times(one) == without_times(same)
    assert "--no-tf32" in one.options


def test_hardware_compatible_engines(rtx: TensorRT, model: Path, tmp_path: Path) -> None:
    levels = ("ampere_plus", "same_compute_capability")
    commands = [
        [model, "-o", tmp_path / f"{level}.engine", "--hardware-compatible", level, *SM89]
        for level in levels
    ]
    for level, outcome in zip(levels, run(rtx, *commands), strict=True):
        assert outcome.status == 0, outcome.err
        sidecar = read(tmp_path / f"{level}.engine")
        assert sidecar.hardware_compatible == level
        assert sidecar.arguments()[-2:] == ["--hardware-compatible", level]


def test_what_rtx_has_only_a_name_for_is_refused_at_once(
    rtx: TensorRT, model: Path, tmp_path: Path
) -> None:
    cases = (
        (["--version-compatible"], "brings no lean runtime"),
        (["--strip-weights"], "leaves weights out only on a machine with a GPU"),
        (["--dla-core", "0"], "has no DLA - leave out --dla-core"),
        (["--flavour", "tensorrt"], "TensorRT is not installed"),
    )
    commands = [[model, "-o", tmp_path / "m.engine", *words] for words, _ in cases]
    for (_, message), outcome in zip(cases, run(rtx, *commands), strict=True):
        assert message in outcome.complaint()
        assert outcome.status == 2
    assert only(tmp_path) == set()


def test_a_timing_cache_that_rtx_does_not_need_is_told(
    rtx: TensorRT, model: Path, tmp_path: Path
) -> None:
    command = [model, "-o", tmp_path / "m.engine", "--timing-cache", tmp_path / "t", *SM89]
    (outcome,) = run(rtx, command)
    assert outcome.status == 0
    assert "measures nothing when it builds, so it keeps no timings" in outcome.err
    assert only(tmp_path) == {"m.engine", "m.engine.json"}


def test_shapes_that_are_not_the_models_are_refused(
    rtx: TensorRT, model: Path, tmp_path: Path
) -> None:
    wrong, right = run(
        rtx,
        [model, "-o", tmp_path / "m.engine", "--shapes=images:2x3x128x128", *SM89],
        [model, "-o", tmp_path / "m.engine", "--shapes=images:2x3x128x256", *SM89],
    )
    assert "the model takes pictures of 3x128x256 (got 3x128x128)" in wrong.complaint()
    assert (wrong.status, right.status) == (2, 0)
    assert read(tmp_path / "m.engine").batch == (2, 2, 2)


def test_more_candidates_than_topk_can_choose_are_refused(rtx: TensorRT, tmp_path: Path) -> None:
    """TensorRT's TopK layer chooses up to 3840."""
    spec = dataclasses.replace(SPEC, height=512, width=512, candidates_per_level=3841)
    over = save(tmp_path / "over.onnx", build_network(spec))
    spec = dataclasses.replace(spec, candidates_per_level=3840)
    within = save(tmp_path / "within.onnx", build_network(spec))
    out = tmp_path / "out"
    refused, built, heads = run(
        rtx,
        [over, "-o", out / "m.engine", "--nms", "onnx", *SM89],
        [within, "-o", out / "n.engine", "--nms", "onnx", *SM89],
        [over, "-o", out / "h.engine", *SM89],
    )
    assert "chooses at most 3840 of anything; NMS in ONNX operators needs 3841" in refused.err
    assert "use --nms plugin or none, or export with fewer" in refused.complaint()
    assert (refused.status, built.status, heads.status) == (2, 0, 0), built.err + heads.err
    assert not (out / "m.engine").exists()


def unsupported(path: Path) -> Path:
    """A network with an operator that ONNX has and TensorRT does not."""
    network = build_network()
    node = next(n for n in network.graph.node if n.output[0] == "cls3_relu")
    node.output[0] = "before"
    network.graph.node.insert(
        list(network.graph.node).index(node) + 1,
        helper.make_node("Bernoulli", ["before"], ["cls3_relu"], name="odd_one"),
    )
    onnx.checker.check_model(network, full_check=True)
    return save(path, network)


def test_what_tensorrt_does_not_take_shows_before_calibration(
    rtx: TensorRT, pictures: Path, tmp_path: Path
) -> None:
    odd, out = unsupported(tmp_path / "odd.onnx"), tmp_path / "out"
    command = [odd, "-o", out / "m.engine", *SM89]
    outcomes = run(rtx, [*command, *int8(pictures)], [*command, "--dry-run"])
    for outcome in outcomes:
        assert "does not take Bernoulli (node 'odd_one')" in outcome.complaint()
        assert outcome.status == 2
    # Nor is a cache of ranges left.
    assert not out.exists()


def test_files_that_would_replace_one_another_are_refused(
    rtx: TensorRT, model: Path, pictures: Path, tmp_path: Path
) -> None:
    own = save(tmp_path / "own.onnx")
    engine = tmp_path / "m.engine"
    beside = tmp_path / "m.engine.json"
    cases: list[tuple[list[object], str]] = [
        ([own, "-o", engine, "--timing-cache", own], f"have one name (got {own})"),
        ([own, "-o", engine, *int8(pictures), "--calib-cache", beside], "have one name"),
        ([own, "-o", engine, *int8(pictures), "--picture", engine], "have one name"),
        ([own, "-o", tmp_path / "n.onnx"], "an engine's name must not end in .onnx"),
        ([own, "-o", tmp_path / "n.json"], "an engine's name must not end in .json"),
    ]
    outcomes = run(rtx, *([*words, *SM89] for words, _ in cases))
    for (_, message), outcome in zip(cases, outcomes, strict=True):
        assert message in outcome.complaint()
        assert outcome.status == 2
    assert only(tmp_path) == {"own.onnx"}
    assert own.read_bytes() == model.read_bytes()


UNWRITABLE = """
import os, sys
from trt_afdet.engine import builder
from trt_afdet.cli import main

def prepare(*arguments):
    raise AssertionError("it began")

builder.prepare = prepare
access = os.access
os.access = lambda path, mode: str(path) != sys.argv[3] and access(path, mode)
words = ["build-engine", sys.argv[1], "-o", sys.argv[2], "--compute-capability", "8.9"]
print("status", main(words))
"""


def test_a_name_that_is_too_long(rtx: TensorRT, model: Path, tmp_path: Path) -> None:
    (outcome,) = run(rtx, [model, "-o", tmp_path / ("m" * 300), *SM89])
    assert "File name too long" in outcome.complaint()
    assert outcome.status == 2
    assert only(tmp_path) == set()


def test_a_folder_that_cannot_be_written_shows_before_the_build(
    rtx: TensorRT, model: Path, tmp_path: Path
) -> None:
    """Whoever runs the tests may be root, whom no folder refuses; so the answer is put in."""
    result = rtx.run(UNWRITABLE, model, tmp_path / "a" / "m.engine", tmp_path)
    assert result.stdout == "status 2\n"
    assert f"the folder {tmp_path} is not writable" in result.stderr
    assert only(tmp_path) == set()


ON_A_SMALL_DISK = """
import os, sys
from trt_afdet.cli import main
folder = sys.argv[2]
words = ["build-engine", sys.argv[1], "-o", folder + "/m.engine", "--compute-capability", "8.9"]
print("status", main(words), os.listdir(folder))
"""


def test_a_full_disk_is_one_line_and_leaves_nothing(
    rtx: TensorRT, model: Path, tmp_path: Path
) -> None:
    """A real disk of 256 KiB, mounted in a name space of its own."""
    mount = "mount -t tmpfs -o size=256k none"
    tried = (
        subprocess.run(
            ["unshare", "-rm", "sh", "-c", f"{mount} '{tmp_path}'"],
            capture_output=True,
            check=False,
        )
        if shutil.which("unshare")
        else None
    )
    if tried is None or tried.returncode:
        skip_test(
            "the right to mount a disk (unshare -rm)", "a run as root, or with user namespaces"
        )
    script = f"{mount} '{tmp_path}' && exec \"$@\""
    command = [rtx.python, "-c", ON_A_SMALL_DISK, str(model), str(tmp_path)]
    result = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, "sh", *command],
        capture_output=True,
        text=True,
        check=False,
        env=rtx.env,
    )
    assert result.stdout == "status 2 []\n", result.stderr
    assert result.stderr.count("\n") == 1
    assert "cannot write (got" in result.stderr
    assert "the disk is full" in result.stderr


def test_the_gate_refuses_before_the_build_and_leaves_nothing(
    rtx: TensorRT, model: Path, pictures: Path, tmp_path: Path
) -> None:
    command = [model, "-o", tmp_path / "m.engine", "--verify", pictures, "--verify-images", "4"]
    strict, lax = run(
        rtx,
        [*command, "--verify-limits", "output_error=1e-7", *SM89],
        [*command, "--verify-limits", "output_error=0.5,matched=0.5,ap_drop=3", *SM89],
    )
    assert strict.status == 1
    assert "the converted model is too far from the canonical model" in strict.err
    assert "output_error: " in strict.err
    assert "--verify-limits" in strict.err
    assert lax.status == 0, lax.err
    verification = read(tmp_path / "m.engine").verification
    assert verification is not None
    assert verification["limits"] == {"output_error": 0.5, "matched": 0.5, "ap_drop": 3.0}
    assert verification["passed"] is True
    assert only(tmp_path) == {"m.engine", "m.engine.json"}


def test_what_int8_hurts_is_told_as_a_table_and_a_picture(
    rtx: TensorRT, model: Path, pictures: Path, tmp_path: Path
) -> None:
    command = [model, "-o", tmp_path / "m.engine", *int8(pictures, "--held-out", "6"), *SM89]
    lax = [*command, "--max-ap-drop", "90", "--picture", tmp_path / "lax.png"]
    strict = [*command, "--max-ap-drop", "1e-9", "--picture", tmp_path / "strict.png"]
    kept, refused = run(rtx, lax, strict)
    assert kept.status == 0, kept.err
    for outcome, name in ((kept, "lax.png"), (refused, "strict.png")):
        assert "damage by INT8, each block alone" in outcome.out
        assert "neck/inputs" in outcome.out
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert refused.status == 1
    assert "INT8 loses more than 1e-09 points of AP" in refused.complaint()
    assert read(tmp_path / "m.engine").precision_asked == "int8"


def test_best_without_pictures_is_fp16_and_says_so(
    rtx: TensorRT, model: Path, tmp_path: Path
) -> None:
    (outcome,) = run(rtx, [model, "-o", tmp_path / "m.engine", "--best", *SM89])
    assert outcome.status == 0
    assert "warning: the best is fp16: INT8 needs calibration pictures (--calib)" in outcome.err
    assert read(tmp_path / "m.engine").precision_asked == "fp16"


def test_unreadable_pictures_are_counted(rtx: TensorRT, model: Path, tmp_path: Path) -> None:
    some = write_pictures(tmp_path / "some", 20)
    for path in sorted(some.iterdir())[:3]:
        path.write_bytes(b"no picture")
    words = ["--precision", "int8", "--calib", some, "--held-out", "0", *SM89]
    (outcome,) = run(rtx, [model, "-o", tmp_path / "m.engine", *words])
    assert outcome.status == 0, outcome.err
    assert "3 of 20 calibration pictures skipped; the first: " in outcome.err


def test_a_terminal_gets_a_bar_with_phases(rtx: TensorRT, tmp_path: Path) -> None:
    master, slave = pty.openpty()
    words = [str(SHIPPED), "-o", str(tmp_path / "m.engine"), "--precision", "fp32", *SM89]
    code = "import sys; from trt_afdet.cli import main; "
    code += "sys.exit(main(['build-engine', *sys.argv[1:]]))"
    process = subprocess.Popen(
        [rtx.python, "-c", code, *words],
        stdout=subprocess.DEVNULL,
        stderr=slave,
        env={**rtx.env, "TERM": "xterm", "COLUMNS": "120"},
    )
    os.close(slave)
    said = b""
    while True:
        try:
            piece = os.read(master, 4096)
        except OSError:  # What a terminal says once its other end is closed.
            break
        if not piece:
            break
        said += piece
    os.close(master)
    assert process.wait() == 0
    assert re.search(rb"\d%.*\d:\d\d:\d\d", said), said[-500:]
    assert b"error" not in said


# The plugin, where headers are at hand


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plugin, built against the newest headers at hand."""
    try:
        headers = headers_folder()
        newest = max(
            (p.parents[1].name for p in headers.glob("*/include/NvInfer.h")), key=version_key
        )
        chosen = tmp_path_factory.mktemp("headers")
        (chosen / newest).symlink_to(headers / newest)
        return build_plugins(chosen, tmp_path_factory.mktemp("plugin"))[newest]
    except PartMissingError as error:
        skip_test(error, error.brings)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_every_precision_with_the_plugin(
    rtx: TensorRT, model: Path, pictures: Path, plugin: Path, tmp_path: Path, precision: str
) -> None:
    words: list[object] = ["--precision", precision, "--nms", "plugin", "--plugin", plugin]
    if precision == "int8":
        words = [*words, *int8(pictures, "--held-out", "0")]
    commands = [
        [model, "-o", tmp_path / f"{sm}.engine", *words, "--compute-capability", sm] for sm in SMS
    ]
    for sm, outcome in zip(SMS, run(rtx, *commands), strict=True):
        assert outcome.status == 0, outcome.err
        sidecar = read(tmp_path / f"{sm}.engine")
        assert (sidecar.nms, sidecar.plugin_version) == ("plugin", "1")
        named = sidecar.options.index("--plugin") + 1
        assert sidecar.options[named] == str(plugin)


#: Builds with a node that names its attributes otherwise.
ODD_NODE = """
import sys
from trt_afdet.engine.onnx import nms
from trt_afdet.cli import main

append = nms._append_plugin

def odd(model, spec):
    append(model, spec)
    node = model.graph.node[-1]
    change = sys.argv[4]
    for attribute in list(node.attribute):
        if attribute.name == "nms_iou" and change == "rename":
            attribute.name = "nms_threshold"
        elif attribute.name == "nms_iou" and change == "remove":
            node.attribute.remove(attribute)

nms._append_plugin = odd
words = ["build-engine", sys.argv[1], "-o", sys.argv[2], "--compute-capability", "8.9"]
print("status", main([*words, "--nms", "plugin", "--plugin", sys.argv[3]]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "differ"), [("rename", "nms_iou, nms_threshold"), ("remove", "nms_iou")]
)
def test_attributes_that_the_plugin_does_not_have_are_refused(
    rtx: TensorRT, model: Path, plugin: Path, tmp_path: Path, change: str, differ: str
) -> None:
    """RTX's parser drops them without a word."""
    result = rtx.run(ODD_NODE, model, tmp_path / "m.engine", plugin, change)
    assert result.stdout == "status 2\n", result.stderr
    assert f"its attributes differ (got {differ})" in result.stderr
    assert only(tmp_path) == set()


@pytest.mark.slow
def test_rtx_libraries_without_the_name_that_the_parser_opens(
    rtx: TensorRT, model: Path, plugin: Path, tmp_path: Path
) -> None:
    """Without this check the process ends there."""
    folder = Path(rtx.environment["LD_LIBRARY_PATH"].partition(":")[0])
    versioned, out = tmp_path / "lib", tmp_path / "out"
    versioned.mkdir()
    for library in folder.glob("*.so.1"):
        (versioned / library.name).symlink_to(library.resolve())
    environment = {**rtx.environment, "LD_LIBRARY_PATH": str(versioned)}
    bare = dataclasses.replace(rtx, environment=environment)
    words = ["--nms", "plugin", "--plugin", plugin]
    refused, heads = run(
        bare,
        [model, "-o", out / "p.engine", *words, *SM89],
        [model, "-o", out / "m.engine", *SM89],
    )
    assert "plugins of TensorRT-RTX need libtensorrt_rtx.so by that name" in refused.complaint()
    assert (refused.status, heads.status) == (2, 0)


def test_the_sidecar_is_json_that_anybody_reads(rtx: TensorRT, model: Path, tmp_path: Path) -> None:
    assert run(rtx, [model, "-o", tmp_path / "m.engine", *SM89])[0].status == 0
    raw = json.loads((tmp_path / "m.engine.json").read_text(encoding="utf-8"))
    assert raw["precision_layers"] == {"HALF": 37}
    assert raw["spec"]["class_names"] == list(SPEC.class_names)
    assert raw["onnx_file"] == "model.onnx"
    assert len(raw["layer_types"]) == 37
