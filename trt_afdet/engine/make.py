"""The whole way: options, TensorRT and GPU to an engine and its sidecar on disk."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from trt_afdet.engine.builder import Built, Listener, build, prepare, write
from trt_afdet.engine.compare import in_onnxruntime
from trt_afdet.engine.options import BuildOptions
from trt_afdet.engine.plan import make_plan
from trt_afdet.engine.precision.fp16 import emulate_half
from trt_afdet.engine.progress import BuildState
from trt_afdet.engine.sample_pictures import open_pictures
from trt_afdet.engine.verify import check, opened
from trt_afdet.errors import InvalidValueError, RunError
from trt_afdet.support.suggest import nearest
from trt_afdet.trt.gpu import Gpu, find_gpu
from trt_afdet.trt.sidecar import EngineSidecar
from trt_afdet.trt.versions import Flavour, load


@dataclasses.dataclass(frozen=True)
class BuildResult:
    """An engine on disk.

    Attributes:
        path: The engine; its sidecar lies beside it.
        sidecar: Precision of every block, TensorRT version, GPUs, verification.
    """

    path: Path
    sidecar: EngineSidecar

    def lines(self) -> list[str]:
        """A summary in a few lines."""
        facts = self.sidecar
        counts = ", ".join(f"{count} {kind}" for kind, count in facts.precision_layers.items())
        memory = f"{facts.peak_memory / 2**20:.0f} MiB of memory"
        if facts.peak_device_memory is not None:
            memory += f", {facts.peak_device_memory / 2**20:.0f} MiB on the GPU"
        size = self.path.stat().st_size / 1e6
        source = facts.precision_source
        lines = [
            f"wrote {self.path} ({size:.1f} MB) and {self.path.name}.json",
            f"{facts.precision_asked}: {counts} layers, read back from the {source}",
            f"built in {facts.build_seconds:.1f} s, at most {memory}",
        ]
        if facts.fallback:
            lines.append(f"larger than asked: {'; '.join(facts.fallback)}")
        if facts.kept:
            lines.append(f"kept on purpose: {', '.join(facts.kept)}")
        return lines

    def __str__(self) -> str:
        return "\n".join(self.lines())


def build_engine(
    onnx: str | Path, output: str | Path | None = None, *, flavour: str = "auto", **options: Any
) -> BuildResult:
    """Builds a TensorRT engine from an exported model and checks its precision.

    Example: ``build_engine("model.onnx", precision="int8", calib="pictures/")``.

    Args:
        onnx: The model, as ``trt-afdet export`` writes it.
        output: The engine; by default the model's name with ``.engine``.
        flavour: "tensorrt", "rtx", or "auto" for the installed one.
        options: Any of :class:`~trt_afdet.engine.plan.BuildOptions`: ``precision``, ``nms``,
            ``batch`` (one number, or smallest, best and largest), ``calib``, ``verify`` ...

    Returns:
        The engine's path and its description.

    Raises:
        AfdetError: If an option is wrong, a file cannot be read, TensorRT is not installed, or the
            engine has another precision than requested. Nothing is written then.
    """
    known = {field.name for field in dataclasses.fields(BuildOptions)}
    known -= {"onnx", "output", "dry_run"}
    for name in options:
        if name not in known:
            raise InvalidValueError("unknown build option", got=name, hint=nearest(name, known))
    batch = options.get("batch")
    if isinstance(batch, int):
        options["batch"] = (batch, batch, batch)
    target = Path(onnx).with_suffix(".engine") if output is None else Path(output)
    asked = BuildOptions(onnx=Path(onnx), output=target, **options)
    sidecar = make_engine(asked, _Quiet(), flavour=flavour)
    assert sidecar is not None
    return BuildResult(target, sidecar)


class _Quiet:
    """A listener that logs warnings and shows nothing else."""

    def warn(self, text: str) -> None:
        logging.getLogger("trt_afdet").warning("%s", text)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None: ...

    def progress(self, items: Iterable[Any], total: int, description: str) -> Iterable[Any]:
        return items

    def building(self, state: BuildState) -> None: ...


def make_engine(
    options: BuildOptions, listener: Listener, *, flavour: str = "auto"
) -> EngineSidecar | None:
    """Builds an engine, verifies it if that is asked for, and writes it.

    Returns:
        The sidecar; None for a dry run.

    Raises:
        AfdetError: See the modules that do it. Nothing is written then.
        KeyboardInterrupt: After Ctrl-C; nothing is written then.
    """
    gpu = find_gpu()
    trt = load(flavour, gpu=gpu is not None)
    make = _best if options.precision == "best" else _make
    built = make(options, trt, gpu, listener)
    if built is None:
        return None
    write(built, options.output)
    return built.sidecar


def _make(
    options: BuildOptions, flavour: Flavour, gpu: Gpu | None, listener: Listener
) -> Built | None:
    plan = make_plan(options, flavour, gpu)
    listener.table("plan", ("what", "how"), plan.rows())
    pictures = None
    if options.verify is not None:
        pictures = open_pictures(options.verify, split="val")
        pictures = pictures.spread(options.verify_images or len(pictures))
    prepared = prepare(plan, listener)
    if options.dry_run:
        kinds = prepared.types.layers()
        rows = [
            [block, *(str(counts.get(kind, 0)) for kind in kinds)]
            for block, counts in prepared.types.groups().items()
        ]
        listener.table("layers with weights, by type", ("block", *kinds), rows)
        return None
    results = []
    # Flags leave no converted model that ONNX Runtime could run.
    by_flags = not plan.typed and prepared.converted.precision == "fp32"
    if pictures is not None and not by_flags:
        # Its CPU provider leaves out FP16's rounding.
        with in_onnxruntime(emulate_half(prepared.converted.model)) as converted:
            found = check(options, "the converted model", converted, pictures, listener)
        results.append(found)
    built = build(prepared, listener)
    if pictures is not None:
        if options.strip_weights:
            listener.warn("the engine itself is not verified: its weights are left out")
        elif gpu is not None and gpu.compute_capability in plan.compute_capability:
            with opened(built, options.output.parent) as runner:
                results.append(check(options, "the engine", runner, pictures, listener))
        else:
            listener.warn("the engine itself is not verified: this machine has no GPU for it")
    if not results:
        return built
    candidates = tuple(candidate for result in results for candidate in result.candidates)
    verified = dataclasses.replace(results[0], candidates=candidates).to_json()
    return Built(built.engine_bytes, dataclasses.replace(built.sidecar, verification=verified))


def _best(
    options: BuildOptions, flavour: Flavour, gpu: Gpu | None, listener: Listener
) -> Built | None:
    """FP16, or INT8 where it is measured to be faster and passes its gates.

    INT8 is not always faster: a network that often changes between types may run faster in FP16.
    """
    half = dataclasses.replace(options, precision="fp16", calib=None, picture=None)
    if options.calib is None:
        listener.warn("the best is fp16: INT8 needs calibration pictures (--calib) to compete")
    if options.calib is None or options.dry_run:
        return _make(half, flavour, gpu, listener)
    if options.strip_weights:
        raise InvalidValueError(
            "an engine without weights cannot be measured", got="--precision best --strip-weights"
        )
    if gpu is None:
        raise InvalidValueError(
            "the best of fp16 and int8 is found by measuring, and there is no GPU",
            got="--precision best",
            hint="choose --precision fp16 or int8",
        )
    built = _make(half, flavour, gpu, listener)
    try:
        other = _make(dataclasses.replace(options, precision="int8"), flavour, gpu, listener)
    except RunError as error:
        listener.warn(f"fp16 it is: {error}")
        return built
    assert built is not None
    assert other is not None
    rates = []
    for engine in (built, other):
        with opened(engine, options.output.parent) as runner:
            rates.append(runner.network_rate(options.batch[1], seconds=1))
    rows = [[name, f"{rate:.1f}"] for name, rate in zip(("fp16", "int8"), rates, strict=True)]
    listener.table("measured", ("precision", "images/s"), rows)
    return other if rates[1] > rates[0] else built
