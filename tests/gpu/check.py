"""``make gpu-check``: everything that only a GPU can prove, in one report.

Builds the native parts for this GPU, runs the tests marked ``gpu`` plain and under every tool of
compute-sanitizer, the CUDA benchmarks, and, where TensorRT is, engines of every precision against
ONNX Runtime. A step that fails stops no other; one that cannot run says what is missing.

Exit status: 0 all that could run is well, 1 a step failed, 2 there is no GPU.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.paths import ROOT

BUILD = ROOT / "build" / "gpu"
MODEL = ROOT / "trt_afdet" / "assets" / "model.onnx"
CLIP = ROOT / "trt_afdet" / "assets" / "clip.mp4"

#: Seconds after which a step is given up.
TIMEOUT = 1800

#: Tests that compute-sanitizer runs: it is ten to a hundred times slower than the GPU.
SANITIZED = (
    "equals_the_detector or one_graph or overlapping_batches_do_not_mix and 0 "
    "or frames_of_any_sizes or letterbox or implementations and cuda and not slow"
)
SANITIZER_TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")

#: Engines: name, then options of build-engine.
ENGINES = {
    "fp32": ("--precision", "fp32"),
    "fp16": ("--precision", "fp16"),
    "int8-explicit": ("--precision", "int8", "--int8-mode", "explicit", "--calib", str(CLIP)),
    "int8-implicit": ("--precision", "int8", "--int8-mode", "implicit", "--calib", str(CLIP)),
}


@dataclass(frozen=True)
class Step:
    """One thing to run.

    Attributes:
        name: For the report and the log's file name.
        command: Words; a step without any only reports what is missing.
        missing: What it lacks here; empty if it can run.
    """

    name: str
    command: tuple[str, ...] = ()
    missing: str = ""


@dataclass(frozen=True)
class Outcome:
    """What became of a step.

    Attributes:
        step: Which.
        status: "ok", "failed" or "skipped".
        seconds: How long it took.
        detail: Its last line of output, or what is missing.
    """

    step: Step
    status: str
    seconds: float
    detail: str


def steps(python: str, out: Path) -> Iterator[Step]:
    """All steps, with what this machine lacks for each."""
    cmake = shutil.which("cmake", path=os.pathsep.join((str(Path(python).parent), os.defpath)))
    cmake = cmake or shutil.which("cmake")
    lacks = "" if shutil.which("nvcc") else "nvcc (set PATH to the CUDA toolkit's bin)"
    lacks = lacks or ("" if cmake else "cmake")
    options = ("-DAFDET_TESTS=ON", "-DAFDET_CUDA=ON", "-DAFDET_CUDA_ARCHITECTURES=native")
    configure = (cmake or "cmake", "-S", str(ROOT), "-B", str(BUILD), *options)
    yield Step("configure the native build", configure, lacks)
    build = (cmake or "cmake", "--build", str(BUILD), "--parallel")
    yield Step("build for this GPU", build, lacks)
    suite = (python, "-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", str(ROOT / "tests"))
    yield Step("tests on the GPU", suite)
    sanitizer = shutil.which("compute-sanitizer")
    for tool in SANITIZER_TOOLS:
        lacks = "" if sanitizer else "compute-sanitizer (comes with the CUDA toolkit)"
        check = (sanitizer or "", "--tool", tool, "--error-exitcode", "1")
        follow = ("--target-processes", "all")
        yield Step(f"{tool} over the tests", (*check, *follow, *suite, "-k", SANITIZED), lacks)
    for file in sorted((ROOT / "benchmarks").glob("bench_*cuda*.py")):
        yield Step(f"benchmark {file.stem.removeprefix('bench_')}", (python, str(file)))
    yield from engine_steps(python, out)


def engine_steps(python: str, out: Path) -> Iterator[Step]:
    """Engines of every precision: built, verified, compared and measured."""
    found = [name for name in ("tensorrt", "tensorrt_rtx") if importlib.util.find_spec(name)]
    lacks = "" if found else "TensorRT (on a Jetson it comes with JetPack; pip install tensorrt)"
    command = (python, "-m", "trt_afdet")
    engines = {name: out / f"{name}.engine" for name in ENGINES}
    for name, options in ENGINES.items():
        if not lacks and "implicit" in name and not has_calibrator(found[0]):
            yield Step(f"build {name}", missing=f"implicit INT8, which this {found[0]} has not")
            continue
        words = ("build-engine", str(MODEL), "-o", str(engines[name]), "--batch", "1,4,16")
        yield Step(f"build {name}", (*command, *words, *options), lacks)
        compare = (python, str(Path(__file__).with_name("compare_engine.py")), str(engines[name]))
        yield Step(f"compare {name} with ONNX Runtime", compare, lacks)
    measured = (*command, "bench", str(MODEL), *(str(path) for path in engines.values()))
    options = ("--batch", "1,16", "--size", "1920x1080", "--skip-missing")
    files = ("--json", str(out / "bench.json"), "--picture", str(out / "bench.png"))
    yield Step("runtime against the bare engine", (*measured, *options, *files), lacks)


def has_calibrator(module: str) -> bool:
    return hasattr(importlib.import_module(module), "IInt8EntropyCalibrator2")


def run_step(step: Step, log: Path, environment: dict[str, str]) -> Outcome:
    """Runs one step; its output goes to ``log``."""
    if step.missing:
        return Outcome(step, "skipped", 0.0, f"missing: {step.missing}")
    start = time.monotonic()
    with log.open("w") as output:
        output.write(" ".join(step.command) + "\n\n")
        output.flush()
        try:
            status = subprocess.run(
                step.command,
                cwd=ROOT,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=TIMEOUT,
                check=False,
            ).returncode
            reason = f"exit status {status}"
        except (OSError, subprocess.TimeoutExpired) as error:
            status, reason = -1, str(error)
    seconds = time.monotonic() - start
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    last = lines[-1][:160] if len(lines) > 1 else ""
    if status == 0:
        return Outcome(step, "ok", seconds, last)
    return Outcome(step, "failed", seconds, f"{reason}: {last}" if last else reason)


def machine() -> list[str] | None:
    """What the report says about this machine, one line each; None if it has no usable GPU."""
    from trt_afdet.doctor import examine

    rows = examine()
    if not any(row.name == "NVIDIA GPU" and row.status == "ok" for row in rows):
        return None
    lines = [f"{row.name}: {row.detail}" for row in rows]
    for command in (("nvidia-smi", "-L"), ("nvcc", "--version")):
        if shutil.which(command[0]):
            found = subprocess.run(command, capture_output=True, text=True, check=False)
            lines.append(f"{command[0]}: {' '.join(found.stdout.split())[-200:]}")
    return lines


def report(about: Sequence[str], outcomes: Sequence[Outcome]) -> str:
    """The report as Markdown."""
    lines = ["# GPU check", "", *(f"* {line}" for line in about), ""]
    lines += ["| step | status | seconds | detail |", "|---|---|---|---|"]
    for outcome in outcomes:
        detail = outcome.detail.replace("|", "\\|")
        cells = (outcome.step.name, outcome.status, f"{outcome.seconds:.1f}", detail)
        lines.append(f"| {' | '.join(cells)} |")
    counts = {s: sum(o.status == s for o in outcomes) for s in ("ok", "failed", "skipped")}
    lines += ["", ", ".join(f"{count} {status}" for status, count in counts.items())]
    return "\n".join(lines) + "\n"


def run_all(chosen: Sequence[Step], out: Path) -> list[Outcome]:
    """Runs steps one after another, whatever becomes of each."""
    environment = dict(os.environ)
    # Before anything else, so that an older build or an installed one is not what is tested.
    environment["TRT_AFDET_LIBRARY_PATH"] = str(BUILD / "lib")
    outcomes = []
    for number, step in enumerate(chosen, 1):
        print(f"[{number}/{len(chosen)}] {step.name} ...", end=" ", flush=True)
        log = out / f"{number:02}-{step.name.replace(' ', '-')}.log"
        outcome = run_step(step, log, environment)
        print(f"{outcome.status} ({outcome.seconds:.0f} s) {outcome.detail}", flush=True)
        outcomes.append(outcome)
    return outcomes


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "gpu-check")
    args = parser.parse_args(argv)
    about = machine()
    if about is None:
        print("gpu-check: no usable NVIDIA GPU on this machine (see `trt-afdet doctor`)")
        return 2
    args.out.mkdir(parents=True, exist_ok=True)
    outcomes = run_all(list(steps(sys.executable, args.out)), args.out)
    text = report([platform.platform(), *about], outcomes)
    (args.out / "report.md").write_text(text)
    print(f"\n{text}\nwritten to {args.out / 'report.md'}")
    return int(any(outcome.status == "failed" for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
