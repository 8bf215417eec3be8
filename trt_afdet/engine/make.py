"""The whole way: options, TensorRT and GPU to an engine and its sidecar on disk."""

from __future__ import annotations

import dataclasses

from trt_afdet.engine import gate
from trt_afdet.engine.builder import Built, Listener, build, prepare, write
from trt_afdet.engine.plan import BuildOptions, make_plan
from trt_afdet.engine.precision.readback import Precisions
from trt_afdet.errors import InvalidValueError, RunError
from trt_afdet.trt.gpu import Gpu, find_gpu
from trt_afdet.trt.sidecar import EngineSidecar
from trt_afdet.trt.versions import Flavour, load


def make_engine(
    options: BuildOptions, listener: Listener, *, flavour: str = "auto"
) -> EngineSidecar | None:
    """Builds an engine, verifies it if that is asked for, and writes it.

    Args:
        options: What to build.
        listener: Told how it goes.
        flavour: See :func:`trt_afdet.trt.versions.load`.

    Returns:
        What was written beside it; None for a dry run.

    Raises:
        AfdetError: See the modules that do it. Nothing is written then.
        KeyboardInterrupt: After Ctrl-C; nothing is written then.
    """
    gpu = find_gpu()
    trt = load(flavour, gpu=gpu is not None)
    if options.precision == "best":
        built = _best(options, trt, gpu, listener)
    else:
        built = _make(options, trt, gpu, listener)
    if built is None:
        return None
    write(built, options.output)
    return built.sidecar


def _make(
    options: BuildOptions, flavour: Flavour, gpu: Gpu | None, listener: Listener
) -> Built | None:
    plan = make_plan(options, flavour, gpu)
    listener.table("plan", ("what", "how"), plan.rows())
    pictures = gate.open_verification(options)
    prepared = prepare(plan, listener)
    if options.dry_run:
        _show(prepared.types, listener)
        return None
    results = []
    # Flags leave no converted model that ONNX Runtime could run.
    by_flags = not plan.typed and prepared.converted.precision == "fp32"
    if pictures is not None and not by_flags:
        results.append(gate.verify_converted(options, prepared.converted, pictures, listener))
    built = build(prepared, listener)
    if pictures is not None:
        if options.strip_weights:
            listener.warn("the engine itself is not verified: its weights are left out")
        elif gpu is not None and gpu.compute_capability in plan.compute_capability:
            results.append(gate.verify_engine(options, built, pictures, listener))
        else:
            listener.warn("the engine itself is not verified: this machine has no GPU for it")
    verified = gate.merged(results)
    if verified is None:
        return built
    sidecar = dataclasses.replace(built.sidecar, verification=verified.to_json())
    return dataclasses.replace(built, sidecar=sidecar)


def _show(types: Precisions, listener: Listener) -> None:
    kinds = tuple(types.layers())
    rows = [
        [block, *(str(counts.get(kind, 0)) for kind in kinds)]
        for block, counts in types.groups().items()
    ]
    listener.table("layers with weights, by type", ("block", *kinds), rows)


def _best(
    options: BuildOptions, flavour: Flavour, gpu: Gpu | None, listener: Listener
) -> Built | None:
    """FP16, or INT8 where it is measured to be faster and passes its gates.

    INT8 is no promise of speed: where a network leaves and enters it often, FP16 is faster.
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
    rates = {"fp16": gate.network_rate(options, built), "int8": gate.network_rate(options, other)}
    rows = [[name, f"{rate:.1f}"] for name, rate in rates.items()]
    listener.table("measured", ("precision", "images/s"), rows)
    return other if rates["int8"] > rates["fp16"] else built
