"""Builds an engine of the requested precision from a model.onnx, or raises and writes nothing."""

from __future__ import annotations

import hashlib
import platform
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from trt_afdet.engine.options import BuildOptions
from trt_afdet.engine.plan import BuildPlan
from trt_afdet.engine.precision.readback import (
    LEAST_SHARE,
    Precisions,
    node_blocks,
    of_engine,
    of_model,
    of_network,
)
from trt_afdet.engine.progress import BuildState
from trt_afdet.errors import AfdetError, InvalidValueError, RunError
from trt_afdet.interface import INPUT_NAME, PLUGIN_OP, PLUGIN_VERSION
from trt_afdet.support.files import atomic_path
from trt_afdet.trt.sidecar import EngineSidecar, sidecar_path

if TYPE_CHECKING:
    import onnx

    from trt_afdet.engine.onnx.model_file import Canonical
    from trt_afdet.engine.precision.implicit_calibration import ImplicitCalibration
    from trt_afdet.engine.precision.sensitivity import Sensitivity
    from trt_afdet.engine.prepare import Converted
    from trt_afdet.spec import ModelSpec

#: Seconds between two looks at a running build.
_TICK = 0.1

#: The most that TensorRT's TopK layer chooses.
LARGEST_TOPK = 3840

_NUMPY = {"FLOAT": "float32", "HALF": "float16", "INT32": "int32", "INT64": "int64"}


class Listener(Protocol):
    """Receives warnings, tables and progress of a build."""

    def warn(self, text: str) -> None:
        """A warning."""

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A report."""

    def progress(self, items: Iterable[Any], total: int, description: str) -> Iterable[Any]:
        """Passes items on and shows how far it is."""

    def building(self, state: BuildState) -> None:
        """TensorRT is building; called every tenth of a second."""


class FallbackError(RunError):
    """TensorRT built an engine of another precision than requested."""


class StillBuildingError(KeyboardInterrupt):
    """Ctrl-C during a build that this TensorRT cannot stop; it ends with the process only."""


@dataclass
class Prepared:
    """A network, parsed and configured: everything but the build.

    ``converted`` is the model in its precision, without NMS; ``planned`` the type that each ONNX
    node should compute in, ``types`` what the network says. ``io`` holds the types of input and
    outputs, as TensorRT names them, and ``alive`` what TensorRT points to and does not keep.
    """

    plan: BuildPlan
    source: Canonical
    converted: Converted
    builder: Any
    network: Any
    config: Any
    logger: Any
    planned: Mapping[str, str]
    types: Precisions
    io: Mapping[str, str]
    alive: list[Any] = field(default_factory=list)
    calibration: ImplicitCalibration | None = None


@dataclass(frozen=True)
class Built:
    """An engine in memory, and what will lie beside its file."""

    engine_bytes: memoryview
    sidecar: EngineSidecar


def prepare(plan: BuildPlan, listener: Listener) -> Prepared:
    """Converts, parses, reads precision back and configures.

    Raises:
        AfdetError: See the modules that do it.
        FallbackError: If the parsed network is not of the precision that was asked for.
    """
    from trt_afdet.engine.onnx.model_file import Canonical
    from trt_afdet.engine.onnx.nms import add_nms

    options, flavour = plan.options, plan.flavour
    # Finds faults of model and plugin before minutes of calibration.
    source = Canonical.load(options.onnx)
    canonical = source.model
    _check_batch(canonical, options.batch)
    _check_image(source.spec, options.image)
    logger = flavour.make_logger()
    if plan.plugin is not None:
        flavour.load_plugin(plan.plugin, PLUGIN_OP, PLUGIN_VERSION)
    builder = flavour.make_builder(logger)
    if (core := options.dla_core) is not None:
        cores = flavour.dla_cores(builder)
        if not 0 <= core < cores:
            raise InvalidValueError(f"this machine has {cores} DLA cores", got=f"--dla-core {core}")
    block = node_blocks(canonical)

    def parsed(source: onnx.ModelProto) -> tuple[onnx.ModelProto, Any, Any]:
        model = add_nms(source, options.nms, loop=flavour.is_rtx, file=options.onnx)
        _check_nms(plan, model)
        make = flavour.make_typed_network if plan.typed else flavour.make_untyped_network
        network = make(builder)
        data = model.SerializeToString()
        return model, network, flavour.parse(network, logger, data, model.graph.node)

    if options.precision == "int8":
        parsed(canonical)
    converted = _convert(plan, source, listener)
    model, network, parser = parsed(converted.model)
    planned: Mapping[str, str] = of_model(converted.model, block).types
    config = flavour.make_config(builder)
    profile = flavour.set_batches(builder, config, network, options.batch)
    if not plan.typed:
        floats = _keep_float(options, canonical, converted.model, model)
        planned = _untyped(options, planned, floats)
        flavour.keep_float(network, floats)
        if options.io == "float16":
            flavour.set_half_io(network)
        half = options.precision != "fp32"
        flavour.set_precision_flags(config, half=half, int8=options.precision == "int8")
    types = of_network(flavour, network, block)
    if plan.typed:
        check_precision(plan, types, planned, listener)
    _configure(plan, config, listener)
    prepared = Prepared(
        plan, source, converted, builder, network, config, logger, planned, types,
        flavour.io(network), [parser],
    )  # fmt: skip
    if options.dla_core is not None:
        report_dla(prepared, listener)
    if flavour.is_rtx and options.timing_cache is not None:
        listener.warn(f"{flavour} measures nothing when it builds, so it keeps no timings")
    if options.implicit and not options.dry_run:
        from trt_afdet.engine.precision.implicit_calibration import ImplicitCalibration

        prepared.calibration = ImplicitCalibration(plan, source, listener.progress)
        calibrator = flavour.set_calibrator(config, profile, prepared.calibration)
        prepared.alive.append(calibrator)
    return prepared


def _convert(plan: BuildPlan, source: Canonical, listener: Listener) -> Converted:
    """Writes the precision into the ONNX model, unless flags set it."""
    from trt_afdet.engine.precision.calibration import FEWEST
    from trt_afdet.engine.precision.sensitivity import save_picture
    from trt_afdet.engine.prepare import ConvertOptions, convert

    def measured(found: Sensitivity) -> None:
        columns = ("block", "layers", "output error, %", "AP lost", "stays")
        listener.table("damage by INT8, each block alone", columns, found.table())
        if options.picture is not None:
            save_picture(found, options.picture)

    options = plan.options
    by_flags = not plan.typed and (options.precision == "fp16" or options.implicit)
    precision = "fp32" if by_flags else options.precision
    wanted: dict[str, Any] = {
        "io": options.io if plan.typed else "float32",
        "keep": options.keep,
        "half": plan.typed,
        "progress": listener.progress,
        "warn": listener.warn,
    }
    if precision == "int8":
        wanted |= {
            "calibration": options.calib,
            "calibration_images": options.calib_images,
            "held_out": options.held_out,
            "max_ap_drop": options.max_ap_drop,
            "cache": plan.calib_cache,
            "measured": measured,
        }
        if options.calib_method is not None:
            wanted["method"] = options.calib_method
        if options.dry_run:  # Only the graph matters.
            wanted |= {"calibration_images": FEWEST, "held_out": 0, "cache": None}
    return convert(source, precision, ConvertOptions(**wanted))


def _check_batch(model: onnx.ModelProto, batch: tuple[int, int, int]) -> None:
    size = model.graph.input[0].type.tensor_type.shape.dim[0]
    if size.HasField("dim_value") and set(batch) != {size.dim_value}:
        raise InvalidValueError(
            f"the model has a fixed batch of {size.dim_value}",
            got=",".join(map(str, batch)),
            hint=f"--batch {size.dim_value}, or export it with a dynamic batch",
        )


def _check_image(spec: ModelSpec, image: tuple[int, ...] | None) -> None:
    own = (3, spec.height, spec.width)
    if image is not None and image != own:
        raise InvalidValueError(
            f"the model takes pictures of {'x'.join(map(str, own))}",
            got="x".join(map(str, image)),
            hint="leave the shapes to --batch, or export the model at another size",
        )


def _check_nms(plan: BuildPlan, model: onnx.ModelProto) -> None:
    """Refuses what TensorRT's parsers take without a word, or refuse without a reason."""
    if plan.options.nms == "plugin":
        node = next(node for node in model.graph.node if node.op_type == PLUGIN_OP)
        taken = plan.flavour.plugin_fields(PLUGIN_OP, PLUGIN_VERSION)
        # The ONNX parser reads two itself.
        own = {a.name for a in node.attribute} - {"plugin_version", "plugin_namespace"}
        if own != taken:
            raise InvalidValueError(
                f"{plan.plugin} is of another version of trt-afdet: its attributes differ",
                got=", ".join(sorted(own ^ taken)),
                hint="build the plugin from this version's sources",
            )
    for name, size in _top_k(model.graph):
        if size > LARGEST_TOPK:
            raise InvalidValueError(
                f"{plan.flavour} chooses at most {LARGEST_TOPK} of anything; NMS in ONNX operators "
                f"needs {size} here",
                got=f"node {name!r}",
                hint="use --nms plugin or none, or export with fewer candidates per level and "
                "detections",
            )


def _top_k(graph: onnx.GraphProto) -> Iterator[tuple[str, int]]:
    """How many each TopK chooses, in loops too."""
    from onnx import AttributeProto, numpy_helper

    stored = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "TopK" and node.input[1] in stored:
            yield node.name, int(numpy_helper.to_array(stored[node.input[1]]).max())
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from _top_k(attribute.g)


def _keep_float(
    options: BuildOptions,
    canonical: onnx.ModelProto,
    converted: onnx.ModelProto,
    model: onnx.ModelProto,
) -> set[str]:
    """Nodes that flags must leave in FP32: those FP16 breaks, those of ``keep``, and NMS."""
    from trt_afdet.engine.precision.blocks import expand
    from trt_afdet.engine.precision.fp16 import fp32_tail, out_of_range

    names = {node for found in out_of_range(canonical) for node in found.nodes}
    names |= fp32_tail(canonical)
    if options.precision == "fp16" or options.implicit:
        names |= expand(canonical, options.keep)
    before = {node.name for node in converted.graph.node}
    return names | {node.name for node in model.graph.node if node.name not in before}


def _untyped(options: BuildOptions, planned: Mapping[str, str], floats: set[str]) -> dict[str, str]:
    """The plan of a network that is typed by flags, of which the ONNX tells only Q/DQ."""
    rest = "INT8" if options.implicit else "FLOAT" if options.precision == "fp32" else "HALF"
    return {
        node: "FLOAT" if node in floats else kind if kind == "INT8" else rest
        for node, kind in planned.items()
    }


def check_precision(
    plan: BuildPlan, types: Precisions, planned: Mapping[str, str], listener: Listener
) -> tuple[str, ...]:
    """What fell back to a larger type, by block.

    Raises:
        FallbackError: If most layers did, unless that is allowed.
    """
    asked = plan.options.precision
    fallback = types.fallback(planned)
    for line in fallback:
        listener.warn(f"larger type than asked: {line}")
    share = types.share(asked, planned)
    if asked == "fp32" or share >= LEAST_SHARE:
        return fallback
    counts = ", ".join(f"{count} {kind}" for kind, count in types.layers().items())
    if not plan.options.allow_fallback:
        raise FallbackError(
            f"the {types.source} is not {asked}: {plan.flavour} made it {counts} layers",
            got=f"{share:.0%} of the {asked} layers",
            hint="--allow-fallback accepts it",
        )
    listener.warn(f"the {types.source} is not {asked}: {counts} layers")
    return fallback


def _configure(plan: BuildPlan, config: Any, listener: Listener) -> None:
    options, flavour = plan.options, plan.flavour
    if not options.tf32:
        flavour.forbid_tf32(config)
    if plan.workspace is not None:
        flavour.set_workspace(config, plan.workspace)
    if options.optimization_level is not None:
        flavour.set_optimization_level(config, options.optimization_level)
    if options.version_compatible:
        flavour.set_version_compatible(config)
    if options.hardware_compatible == "ampere_plus":
        flavour.set_ampere_plus(config)
    elif options.hardware_compatible == "same_compute_capability":
        flavour.set_same_compute_capability(config)
    if options.strip_weights:
        flavour.set_stripped(config)
    if options.without_tactics:
        flavour.set_tactics(config, options.without_tactics)
    if options.dla_core is not None:
        flavour.set_dla(config, options.dla_core, gpu_fallback=options.gpu_fallback)
    if flavour.is_rtx:
        flavour.set_compute_capabilities(config, plan.compute_capability)
    if plan.timing_cache is not None:
        known = plan.timing_cache.read_bytes() if plan.timing_cache.is_file() else b""
        if not flavour.load_timings(config, known) and known:
            listener.warn(f"{plan.timing_cache} is of another GPU or TensorRT; timing anew")


def report_dla(prepared: Prepared, listener: Listener) -> None:
    """Tells which layers the DLA cannot run, before the build.

    Raises:
        InvalidValueError: If there are any and they may not run on the GPU.
    """
    flavour, block = prepared.plan.flavour, prepared.types.block
    rows = [
        [str(layer.name), flavour.kind(layer), block.get(flavour.onnx_node(layer), "")]
        for layer in flavour.layers(prepared.network)
        if flavour.kind(layer) != "CONSTANT" and not flavour.runs_on_dla(prepared.config, layer)
    ]
    if not rows:
        return
    count = "1 layer" if len(rows) == 1 else f"{len(rows)} layers"
    listener.table(f"on the GPU, not the DLA: {count}", ("layer", "kind", "block"), rows)
    if not prepared.plan.options.gpu_fallback:
        raise InvalidValueError(
            f"the DLA cannot run {count}",
            got=f"{rows[0][0]} ({rows[0][1]})" + " and others" * (len(rows) > 1),
            hint="--gpu-fallback runs them on the GPU",
        )


def build(prepared: Prepared, listener: Listener) -> Built:
    """Builds the engine, reads its precision back if a GPU can load it, and describes it.

    Raises:
        RunError: If TensorRT fails; FallbackError if the precision is not the requested one.
        KeyboardInterrupt: After Ctrl-C, once TensorRT has stopped.
    """
    plan = prepared.plan
    state = BuildState(plan.gpu.free if plan.gpu else None)
    host = _run(prepared, state, listener)
    if prepared.calibration is not None:
        prepared.calibration.finish(listener.warn)
    if host is None:
        errors = prepared.logger.errors
        raise RunError(
            f"{plan.flavour} could not build the engine",
            got=errors[-1] if errors else None,
            hint="--verbose shows all it says; if memory ran out, a smaller --batch or --workspace "
            "helps",
        )
    if plan.timing_cache is not None:
        try:
            with atomic_path(plan.timing_cache) as temporary:
                temporary.write_bytes(plan.flavour.save_timings(prepared.config))
        except AfdetError as error:
            listener.warn(f"the timing cache is not kept: {error}")
    data = memoryview(host)
    types, fallback = _read_back(prepared, data, listener)
    return Built(data, _describe(prepared, data, types, fallback, state))


def _run(prepared: Prepared, state: BuildState, listener: Listener) -> Any:
    """Runs TensorRT in a separate thread, so that Ctrl-C works."""
    flavour, result = prepared.plan.flavour, []
    if can_stop := flavour.has("progress"):
        prepared.alive.append(flavour.set_monitor(prepared.config, state))

    # Not Thread.join: once interrupted, that takes the thread for finished.
    done = threading.Event()

    def work() -> None:
        try:
            result.append(flavour.build(prepared.builder, prepared.network, prepared.config))
        except Exception as error:  # Raised where the caller waits.
            result.append(error)
        finally:
            done.set()

    thread = threading.Thread(target=work, name="trt-afdet build", daemon=True)
    try:
        thread.start()
        while not done.wait(_TICK):
            state.look()
            listener.building(state)
    except KeyboardInterrupt:
        state.cancelled = True
        if not can_stop:
            raise StillBuildingError from None
        try:
            done.wait()
        except KeyboardInterrupt:
            raise StillBuildingError from None
        thread.join()
        raise
    thread.join()
    state.end()
    listener.building(state)
    if isinstance(result[0], Exception):
        raise RunError(f"{flavour} failed", got=result[0]) from result[0]
    return result[0]


def _read_back(
    prepared: Prepared, data: memoryview, listener: Listener
) -> tuple[Precisions, tuple[str, ...]]:
    plan, types = prepared.plan, prepared.types
    if plan.gpu is None or plan.gpu.compute_capability not in plan.compute_capability:
        return types, types.fallback(prepared.planned)
    text = plan.flavour.describe_engine(data, prepared.logger)
    try:
        types = of_engine(text, types.block)
    except RunError as error:
        if not plan.typed and not plan.options.allow_fallback:
            raise
        listener.warn(f"{error}; the types come from the network")
        return types, types.fallback(prepared.planned)
    return types, check_precision(plan, types, prepared.planned, listener)


def _describe(
    prepared: Prepared,
    data: memoryview,
    types: Precisions,
    fallback: tuple[str, ...],
    state: BuildState,
) -> EngineSidecar:
    plan, options, converted = prepared.plan, prepared.plan.options, prepared.converted
    dtypes = {name: _NUMPY.get(kind, kind.lower()) for name, kind in prepared.io.items()}
    calibrated = prepared.calibration or converted
    return EngineSidecar(
        spec=prepared.source.spec,
        tensorrt_version=plan.flavour.version,
        flavour=plan.flavour.name,
        gpu_name=plan.gpu.name if plan.gpu else None,
        compute_capability=plan.compute_capability or None,
        platform=f"{sys.platform}-{platform.machine()}",
        precision_asked=options.precision,
        precision_layers=types.layers(),
        precision_groups=types.groups(),
        precision_source=types.source,
        fallback=fallback,
        kept=tuple(dict.fromkeys((*options.keep, *converted.kept))),
        nms=options.nms,
        plugin_version=PLUGIN_VERSION if options.nms == "plugin" else None,
        onnx_file=options.onnx.name,
        onnx_sha256=prepared.source.sha256,
        engine_sha256=hashlib.sha256(data).hexdigest(),
        calibration_key=calibrated.calibration_key,
        batch=options.batch,
        input_dtype=dtypes.pop(INPUT_NAME),
        output_dtypes=dtypes,
        version_compatible=options.version_compatible,
        hardware_compatible=options.hardware_compatible,
        stripped=options.strip_weights,
        dla_core=options.dla_core,
        options=options.words(),
        build_seconds=round(state.seconds, 3),
        peak_memory=_peak_memory(),
        peak_device_memory=state.device_memory,
        verification=None,
        layer_types=dict(types.types),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )


def _peak_memory() -> int:
    """Most memory of this process so far, in bytes; 0 where the system does not say."""
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def write(built: Built, engine: Path) -> None:
    """Writes engine and sidecar; either both or none, and then it raises a WriteError."""
    # The sidecar takes its place first: beside an older engine it is refused, never believed.
    with atomic_path(engine) as plan, atomic_path(sidecar_path(engine)) as beside:
        plan.write_bytes(built.engine_bytes)
        beside.write_text(built.sidecar.to_json(), encoding="utf-8")
