"""Real engines by TensorRT-RTX, without a GPU: precisions, NMS, refusals, Ctrl-C, a full disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import helper

from tests.paths import ROOT
from tests.plugins.tensorrt_parts import (
    TensorRT,
)
from tests.trt_afdet.engine.engine_commands import SMS, only, run
from tests.trt_afdet.engine.networks import build_network, save, write_pictures
from trt_afdet.interface import DETECTION_NAMES
from trt_afdet.trt.sidecar import read, sidecar_path

SHIPPED = ROOT / "trt_afdet" / "assets" / "model.onnx"
CLIP = ROOT / "trt_afdet" / "assets" / "clip.mp4"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("model") / "model.onnx")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures"), 24)


def test_an_int8_cache_is_used_again(
    rtx: TensorRT, model: Path, pictures: Path, tmp_path: Path
) -> None:
    command = [model, "-o", tmp_path / "m.engine", "--precision", "int8", "--calib", pictures]
    command += ["--calib-images", "16", "--held-out", "0", "--compute-capability", "8.9"]
    first, second = run(rtx, command, command)
    assert (first.status, second.status) == (0, 0)
    cache = tmp_path / "m.engine.calibration.json"
    stamp = cache.stat().st_mtime_ns
    key = read(tmp_path / "m.engine").calibration_key
    assert key == json.loads(cache.read_text())["key"]
    write_pictures(tmp_path / "others", 24, first=100)
    command[5 + command[5:].index(pictures)] = tmp_path / "others"
    assert run(rtx, command)[0].status == 0
    assert cache.stat().st_mtime_ns != stamp
    assert read(tmp_path / "m.engine").calibration_key != key


def test_one_engine_for_several_gpus_with_fp16_inputs_and_nms(
    rtx: TensorRT, model: Path, tmp_path: Path
) -> None:
    engine = tmp_path / "m.engine"
    words = ["--fp16", "--nms", "onnx", "--io", "float16", "--batch", "4"]
    capabilities = ["--compute-capability", "sm86,89,12.0"]
    (outcome,) = run(rtx, [model, "-o", engine, *words, *capabilities])
    assert outcome.status == 0, outcome.err
    sidecar = read(engine)
    assert sidecar.compute_capability == SMS
    assert sidecar.batch == (4, 4, 4)
    assert sidecar.input_dtype == "float16"
    assert sidecar.output_dtypes == dict(
        zip(DETECTION_NAMES, ("int32", "float32", "float32", "int32"), strict=True)
    )
    assert sidecar.arguments()[-2:] == ["--io", "float16"]


def test_trtexecs_words(rtx: TensorRT, model: Path, tmp_path: Path) -> None:
    engine = tmp_path / "deep" / "m.plan"
    image = "3x128x256"
    words = [
        f"--onnx={model}",
        f"--saveEngine={engine}",
        "--fp16",
        "--stronglyTyped",
        "--skipInference",
        "--profilingVerbosity=detailed",
        f"--minShapes=images:1x{image}",
        f"--optShapes=images:2x{image}",
        f"--maxShapes=images:8x{image}",
        "--memPoolSize=workspace:512",
        "--builderOptimizationLevel=2",
        "--hardwareCompatibilityLevel=ampere+",
        "--tacticSources=-EDGE_MASK_CONVOLUTIONS",
        f"--timingCacheFile={tmp_path / 'timing'}",
        "--compute-capability=8.9",
    ]
    (outcome,) = run(rtx, words)
    assert outcome.status == 0, outcome.err
    sidecar = read(engine)
    assert sidecar.batch == (1, 2, 8)
    assert sidecar.hardware_compatible == "ampere_plus"
    assert {"--optimization-level", "536870912B", "EDGE_MASK_CONVOLUTIONS"} <= set(sidecar.options)


def test_a_dry_run_shows_plan_and_layers_and_writes_nothing(
    rtx: TensorRT, model: Path, pictures: Path, tmp_path: Path
) -> None:
    half, int8 = run(
        rtx,
        [model, "-o", tmp_path / "m.engine", "--dry-run", "--compute-capability", "8.9"],
        [model, "-o", tmp_path / "m.engine", "--dry-run", "--int8", "--calib", pictures],
    )
    assert (half.status, int8.status) == (0, 0), half.err + int8.err
    assert "TensorRT-RTX 1.7" in half.out
    assert "compute capability 8.9 (no GPU here)" in half.out
    assert "8.0, 8.6, 8.9, 12.0, 12.1" in int8.out
    assert "head/cls" in int8.out
    assert only(tmp_path) == set()


def test_kept_blocks_are_told(rtx: TensorRT, model: Path, tmp_path: Path) -> None:
    command = [model, "-o", tmp_path / "m.engine", "--keep", "stem,head/reg"]
    (outcome,) = run(rtx, [*command, "--compute-capability", "8.9"])
    sidecar = read(tmp_path / "m.engine")
    assert sidecar.kept == ("stem", "head/reg")
    assert sidecar.precision_groups["stem"] == {"FLOAT": 1}
    assert set(sidecar.precision_groups["neck1"]) == {"HALF"}
    assert sidecar.fallback == ()
    assert "kept on purpose: stem, head/reg" in outcome.out


def test_the_gate_writes_its_result_into_the_sidecar(
    rtx: TensorRT, model: Path, pictures: Path, tmp_path: Path
) -> None:
    command = [model, "-o", tmp_path / "m.engine", "--verify", pictures, "--verify-images", "4"]
    (outcome,) = run(rtx, [*command, "--compute-capability", "8.9"])
    assert outcome.status == 0, outcome.err
    assert "verified on 4 pictures" in outcome.out
    assert "the engine itself is not verified: this machine has no GPU" in outcome.err
    verification = read(tmp_path / "m.engine").verification
    assert verification is not None
    assert verification["passed"] is True
    assert [c["name"] for c in verification["candidates"]] == ["the converted model"]


#: Counts how often the model's file is parsed.
COUNTING = """
import sys
import onnx
from trt_afdet import build_engine
read = onnx.load
count = []
def load(path, *arguments, **options):
    count.append(str(path))
    return read(path, *arguments, **options)
onnx.load = load
made = build_engine(sys.argv[1], precision=sys.argv[2], compute_capability=("8.9",),
                    **({"calib": sys.argv[3], "held_out": 0} if sys.argv[2] == "int8" else {}))
print(count.count(sys.argv[1]), made.path.exists(), made.sidecar.precision_asked)
print(made)
"""


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_model_is_read_once_and_python_needs_no_listener(
    rtx: TensorRT, model: Path, precision: str
) -> None:
    result = rtx.run(COUNTING, model, precision, CLIP)
    assert result.returncode == 0, result.stderr
    first, *summary = result.stdout.splitlines()
    assert first == f"1 True {precision}"
    assert "layers, read back from the network" in "\n".join(summary)


#: Builds with a converter that forgets to convert.
FORGETFUL = """
import sys
import dataclasses
from trt_afdet.engine import builder
from trt_afdet.engine.prepare import convert
from trt_afdet.cli import main

def forgetful(plan, source, listener):
    return convert(plan.options.onnx, "fp32")

builder._convert = forgetful
words = ["build-engine", sys.argv[1], "-o", sys.argv[2], "--compute-capability", "8.9"]
print("refused:", main(words), flush=True)
print("allowed:", main([*words, "--allow-fallback"]))
"""


def test_a_silent_fp32_engine_is_refused(rtx: TensorRT, model: Path, tmp_path: Path) -> None:
    result = rtx.run(FORGETFUL, model, tmp_path / "m.engine")
    assert "refused: 1" in result.stdout
    assert "allowed: 0" in result.stdout
    refusal, *warned = result.stderr.splitlines()
    assert "the network is not fp16: TensorRT-RTX" in refusal
    assert "made it 37 FLOAT layers (got 0% of the fp16 layers) - --allow-fallback" in refusal
    assert any("warning: the network is not fp16" in line for line in warned)
    assert read(tmp_path / "m.engine").precision_layers == {"FLOAT": 37}


#: A network that RTX parsed; only the answer of a DLA, which no machine here has, is put in.
DLA = """
import dataclasses, sys
from pathlib import Path
from trt_afdet.engine import builder
from trt_afdet.trt.versions import Flavour, load
from trt_afdet.engine.options import BuildOptions
from trt_afdet.engine.plan import make_plan
from trt_afdet.cli.build_engine import Display
from trt_afdet.errors import AfdetError

options = BuildOptions(onnx=Path(sys.argv[1]), output=Path(sys.argv[2]))
flavour = load("rtx")
display = Display()
prepared = builder.prepare(make_plan(options, flavour, None), display)
Flavour.runs_on_dla = lambda self, config, layer: self.kind(layer) != sys.argv[3]
for fallback in (False, True):
    chosen = dataclasses.replace(options, dla_core=0, gpu_fallback=fallback)
    prepared.plan = dataclasses.replace(prepared.plan, options=chosen)
    try:
        builder.report_dla(prepared, display)
        print("goes on")
    except AfdetError as error:
        print("refused:", error)
"""


def test_what_a_dla_cannot_run_is_listed_before_the_build(
    rtx: TensorRT, model: Path, tmp_path: Path
) -> None:
    result = rtx.run(DLA, model, tmp_path / "m.engine", "DECONVOLUTION")
    said = " ".join(result.stdout.split())
    assert said.count("on the GPU, not the DLA: 1 layer") == 2, result.stderr
    assert result.stdout.count("neck2") == 2
    assert "refused: the DLA cannot run 1 layer (got n_up (DECONVOLUTION)) - --gpu" in result.stdout
    assert result.stdout.endswith("goes on\n")
    nothing = rtx.run(DLA, model, tmp_path / "m.engine", "NOTHING").stdout
    assert nothing == "goes on\ngoes on\n"


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


def test_bad_input_takes_one_line_and_leaves_nothing(
    rtx: TensorRT, model: Path, pictures: Path, tmp_path: Path
) -> None:
    out, bad = tmp_path / "out", tmp_path / "bad"
    out.mkdir()
    bad.mkdir()
    (bad / "text.onnx").write_text("this is not a model")
    (bad / "short.onnx").write_bytes(model.read_bytes()[:5000])
    (bad / "folder").mkdir()
    foreign = build_network()
    del foreign.metadata_props[:]
    save(bad / "foreign.onnx", foreign)
    save(bad / "fixed.onnx", build_network(batch=2))
    unsupported(bad / "unsupported.onnx")
    few = write_pictures(bad / "few", 17)
    for path in list(few.iterdir())[:3]:
        path.write_bytes(b"no picture")
    plugin = ["--nms", "plugin", "--plugin"]
    int8 = ["--precision", "int8", "--calib-images", "32", "--held-out", "0", "--calib"]
    cases: list[tuple[Path, list[Any], str]] = [
        (bad / "none.onnx", [], "there is no such model (got"),
        (bad / "text.onnx", [], "is not an ONNX model but a text file"),
        (bad / "short.onnx", [], "is not an ONNX model, or it is cut off"),
        (bad / "foreign.onnx", [], "is not a trt-afdet model"),
        (bad / "fixed.onnx", ["--batch", "1,2,4"], "the model has a fixed batch of 2 (got 1,2,4)"),
        (bad / "unsupported.onnx", ["--fp16"], "does not take Bernoulli (node 'odd_one')"),
        (model, ["--batch", "8,4,1"], "batch range must ascend from 1 on"),
        (model, ["--batch", "many"], "--batch takes one number or MIN,OPT,MAX"),
        (model, ["--precision", "fp32", "--fp16"], "--precision and --fp16 contradict"),
        (model, ["--workspace", "lots"], "a size is a number of MiB"),
        (model, ["--memPoolSize=tacticDram:1"], "only the pool workspace can be set"),
        (model, ["--minShapes=input:1x3x8x8"], "a shape is written images:Nx3xHxW"),
        (model, ["--tacticSources=+CUDNN"], "can only be left out here"),
        (model, ["--without-tactics", "CUDNN"], "has no such tactic source (got CUDNN)"),
        (model, ["--keep", "stm"], "no block or node of that name (got stm) - did you mean 'stem'"),
        (model, ["--compute-capability", "8.7"], "no such compute capability (got 8.7)"),
        (model, ["--dla-core", "0"], "has no DLA"),
        (model, ["--int8", "--calib", "x", "--int8-mode", "implicit"], "no implicit INT8"),
        (model, ["--best", "--calib", pictures], "found by measuring, and there is no GPU"),
        (model, [*int8, bad / "folder"], "the folder holds no picture"),
        (model, [*int8, bad / "none"], "no such pictures"),
        (model, [*int8, few], "needs at least 16 readable pictures (got 14 of 17"),
        (model, ["--verify", bad / "none"], "no such pictures"),
        (model, [*plugin, bad / "none.so"], "no such plugin library"),
        (model, [*plugin, bad / "text.onnx"], "the plugin library cannot be loaded"),
    ]
    commands = [[path, "-o", out / "m.engine", *words] for path, words, _ in cases]
    for (_, _, message), outcome in zip(cases, run(rtx, *commands), strict=True):
        assert message in outcome.complaint()
        assert outcome.status == 2, outcome.err
    assert only(out) == set()


def test_outputs_that_are_in_the_way(rtx: TensorRT, model: Path, tmp_path: Path) -> None:
    folder, text, file = tmp_path / "folder", tmp_path / "notes.txt", tmp_path / "file"
    folder.mkdir()
    text.write_text("keep me")
    file.write_text("")
    copy = save(tmp_path / "copy.onnx")
    rest = ["--compute-capability", "8.9"]
    outcomes = run(
        rtx,
        [model, "-o", folder, *rest],
        [model, "-o", text, *rest],
        [copy, "-o", copy, *rest],
        [model, "-o", file / "m.engine", *rest],
        [model, "-o", text, "--force", *rest],
        [model, "-o", text, *rest],
    )
    assert "Is a directory) - name a file in it" in outcomes[0].complaint()
    assert "it is not an engine of trt-afdet" in outcomes[1].complaint()
    assert "would replace its own model" in outcomes[2].complaint()
    assert "cannot write" in outcomes[3].complaint()
    # An engine of ours is replaced without a word.
    assert [o.status for o in outcomes] == [2, 2, 2, 2, 0, 0]
    assert copy.read_bytes() == model.read_bytes()
    assert read(text).precision_asked == "fp16"


LIMITED = """
import resource, signal, sys
from trt_afdet.cli import main
words = ["build-engine", sys.argv[1], "-o", sys.argv[2], "--compute-capability", "8.9"]
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
print("status", main(words))
"""


def test_no_room_on_the_disk_is_one_line_and_leaves_the_old_engine(
    rtx: TensorRT, model: Path, tmp_path: Path
) -> None:
    """A limit on the size of files stands for a full disk: writing fails in the middle."""
    engine = tmp_path / "m.engine"
    result = rtx.run(LIMITED, model, engine)
    assert result.stdout == "status 2\n"
    assert result.stderr.count("\n") == 1
    assert "cannot write (got" in result.stderr
    assert only(tmp_path) == set()
    assert run(rtx, [model, "-o", engine, "--compute-capability", "8.9"])[0].status == 0
    before = engine.read_bytes(), sidecar_path(engine).read_bytes()
    assert rtx.run(LIMITED, model, engine).stdout == "status 2\n"
    assert (engine.read_bytes(), sidecar_path(engine).read_bytes()) == before


INTERRUPTED = """
import os, signal, sys, threading
from trt_afdet.engine.progress import BuildState
from trt_afdet.cli import main

step = BuildState.step
sent = []

def interrupt(self, name, index):
    if not sent:
        sent.append(name)
        os.kill(os.getpid(), signal.SIGINT)
    return step(self, name, index)

BuildState.step = interrupt
words = ["build-engine", sys.argv[1], "-o", sys.argv[2], "--compute-capability", "8.9"]
print("status", main(words), len(sent))
print("threads", [t.name for t in threading.enumerate()])
"""


def test_ctrl_c_stops_tensorrt_and_leaves_nothing(
    rtx: TensorRT, model: Path, tmp_path: Path
) -> None:
    result = rtx.run(INTERRUPTED, model, tmp_path / "m.engine")
    assert result.stdout.splitlines() == ["status 130 1", "threads ['MainThread']"], result.stderr
    assert result.stderr.splitlines()[-1] == "trt-afdet: error: stopped"
    assert only(tmp_path) == set()


UNSTOPPABLE = """
import os, signal, sys, time
from trt_afdet.trt.versions import Flavour
from trt_afdet.cli import main

build, has = Flavour.build, Flavour.has

def slow(self, *parts):
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(30)

Flavour.build = slow
Flavour.has = lambda self, feature: feature != "progress" and has(self, feature)
print("status", main(["build-engine", sys.argv[1], "-o", sys.argv[2]]))
"""


def test_ctrl_c_leaves_a_build_that_cannot_be_stopped(
    rtx: TensorRT, model: Path, tmp_path: Path
) -> None:
    """TensorRT 8.5 asks nobody whether to go on: the process ends around it."""
    result = rtx.run(UNSTOPPABLE, model, tmp_path / "m.engine")
    assert result.returncode == 130
    assert result.stderr.splitlines()[-1] == "trt-afdet: error: stopped"
    assert result.stdout == ""
    assert only(tmp_path) == set()


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_shipped_detector(rtx: TensorRT, tmp_path: Path, precision: str) -> None:
    options = ["--precision", precision, "--batch", "1,4,8"]
    if precision == "int8":
        options += ["--calib", str(CLIP), "--calib-images", "16", "--held-out", "0"]
        options += ["--calib-cache", str(tmp_path / "ranges.json")]
    commands: list[list[Any]] = []
    for nms, gpus in (*(("none", sm) for sm in SMS), ("onnx", ",".join(SMS))):
        engine = tmp_path / f"{nms}{gpus}.engine"
        chosen = ["--nms", nms, "--compute-capability", gpus]
        commands.append([SHIPPED, "-o", engine, *options, *chosen])
    for outcome, command in zip(run(rtx, *commands), commands, strict=True):
        assert outcome.status == 0, outcome.err
        sidecar = read(command[2])
        layers = sidecar.precision_layers
        if precision == "int8":
            assert layers == {"INT8": 119, "HALF": 11}
        else:
            assert layers == {"FLOAT" if precision == "fp32" else "HALF": 130}
        assert Path(command[2]).stat().st_size > 10e6


@pytest.mark.skipif(
    not Path("/dev/nvidiactl").exists(), reason="needs an NVIDIA GPU: make gpu-check"
)
@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_on_a_gpu_the_engine_itself_is_asked(model: Path, tmp_path: Path, precision: str) -> None:
    trt = pytest.importorskip("tensorrt", reason="tensorrt is not installed: pip install tensorrt")
    from trt_afdet.cli import main

    engine = tmp_path / "m.engine"
    # cuDNN and cuBLAS are extra packages, and later versions have no such sources.
    sources = ["CUDNN", "CUBLAS", "CUBLAS_LT"]
    known = [name for name in sources if hasattr(trt.TacticSource, name)]
    without = ["--without-tactics", ",".join(known)] if known else []
    assert (
        main(["build-engine", str(model), "-o", str(engine), "--precision", precision, *without])
        == 0
    )
    sidecar = read(engine)
    assert sidecar.precision_source == "engine"
    assert sidecar.peak_device_memory is not None
    assert (tmp_path / "m.engine.timing").stat().st_size > 0
