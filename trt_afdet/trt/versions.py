"""TensorRT 8.5 to 11 and TensorRT-RTX: every difference between them, in one place.

:data:`FEATURES` says what exists where. A feature is asked for by name, never by version. A method
of :class:`Flavour` that uses a name which not all versions have is marked with :func:`needs`; the
tests hold both against the real bindings of every version in :data:`VERSIONS`.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import importlib.util
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from trt_afdet.errors import InvalidValueError, MissingDependencyError, MissingFileError, RunError
from trt_afdet.support.suggest import nearest

VERSIONS = ("8.5", "8.6", "10.3", "10.13", "10.16", "11.4", "RTX 1.7")


class Feature(NamedTuple):
    """Something that only some versions have.

    ``asked`` is the name below the module whose presence tells, ``exists`` one mark for each of
    :data:`VERSIONS`, "x" where it is, and ``what`` what a message says is not there.
    """

    asked: str
    exists: str
    what: str


#: Features by this package's name.
FEATURES = {
    "typed_networks": Feature(
        "NetworkDefinitionCreationFlag.STRONGLY_TYPED", "..xxxxx", "strongly typed networks"
    ),
    "explicit_batch": Feature(
        "NetworkDefinitionCreationFlag.EXPLICIT_BATCH", "xxxxx..", "flag for explicit batch"
    ),
    "precision_flags": Feature("BuilderFlag.FP16", "xxxxx..", "precision flags"),
    "calibrator": Feature("IInt8EntropyCalibrator2", "xxxxx..", "implicit INT8 calibration"),
    "progress": Feature("IProgressMonitor", "..xxxxx", "progress monitor"),
    "optimization_level": Feature(
        "IBuilderConfig.builder_optimization_level", ".xxxxxx", "optimization levels"
    ),
    "version_compatible": Feature(
        "BuilderFlag.VERSION_COMPATIBLE", ".xxxxxx", "version-compatible engines"
    ),
    "ampere_plus": Feature(
        "HardwareCompatibilityLevel.AMPERE_PLUS", ".xxxxxx", "hardware-compatible engines"
    ),
    "same_compute_capability": Feature(
        "HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY",
        "...xxxx",
        "engines for all GPUs of a compute capability",
    ),
    "strip_weights": Feature("BuilderFlag.STRIP_PLAN", "..xxxxx", "engines without weights"),
    "plugin_v3": Feature("IPluginRegistry.get_creator", "..xxxxx", "plugins of version 3"),
    "plugin_list": Feature(
        "IPluginRegistry.plugin_creator_list", "xxxxx..", "list of plugins of version 2"
    ),
    "compute_capabilities": Feature(
        "ComputeCapability", "......x", "engines for GPUs other than this machine's"
    ),
    "node_names": Feature("ParserError.node_name", "..xxxxx", "names of nodes in errors"),
    "layer_metadata": Feature("ILayer.metadata", ".xxxxxx", "metadata of layers"),
}

#: What to do where a feature is missing.
_INSTEAD = {
    "precision_flags": "leave out what asks for an untyped network",
    "calibrator": "use --int8-mode explicit",
    "optimization_level": "leave out --optimization-level",
    "version_compatible": "build with the version that will run it",
    "ampere_plus": "build on the GPU that will run it",
    "same_compute_capability": "use --hardware-compatible ampere_plus, or build on the GPU that "
    "will run it",
    "strip_weights": "leave out --strip-weights",
    "compute_capabilities": "build on the GPU that will run it, or with TensorRT-RTX (--flavour "
    "rtx)",
}

#: Modules by what --flavour calls them.
MODULES = {"tensorrt": ("tensorrt",), "rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings")}

_Method = TypeVar("_Method", bound=Callable[..., Any])


def needs(feature: str) -> Callable[[_Method], _Method]:
    """Marks a method that uses names of a feature; where it is missing, it raises."""

    def mark(method: _Method) -> _Method:
        @functools.wraps(method)
        def checked(self: Flavour, *args: Any, **options: Any) -> Any:
            self.require(feature)
            return method(self, *args, **options)

        return checked  # type: ignore[return-value]

    return mark


class Progress(Protocol):
    """Is told how far a build is, from any thread; ``step`` says whether to go on."""

    def start(self, name: str, parent: str | None, steps: int) -> None: ...
    def step(self, name: str, index: int) -> bool: ...
    def finish(self, name: str) -> None: ...


class CalibrationBatches(Protocol):
    """Batches of ``size`` pictures on the device: where the next one lies, None after the last."""

    size: int

    def next_address(self) -> int | None: ...
    def read_cache(self) -> bytes | None: ...
    def write_cache(self, cache: bytes) -> None: ...


class Flavour:
    """One TensorRT module, and all that is asked of it to build.

    Attributes:
        trt: The module.
        name: "tensorrt" or "tensorrt-rtx".
        version: Such as "10.3.0".
        features: Those of :data:`FEATURES` that it has.
    """

    def __init__(self, trt: Any) -> None:
        self.trt = trt
        self.version = str(trt.__version__)
        self.features = frozenset(name for name, f in FEATURES.items() if _has(trt, f.asked))
        self.name = "tensorrt-rtx" if self.has("compute_capabilities") else "tensorrt"

    def __str__(self) -> str:
        return f"{'TensorRT-RTX' if self.is_rtx else 'TensorRT'} {self.version}"

    def has(self, feature: str) -> bool:
        return feature in self.features

    def require(self, feature: str) -> None:
        """Raises InvalidValueError if a feature is missing."""
        if feature not in self.features:
            what = f"{self} has no {FEATURES[feature].what}"
            raise InvalidValueError(what, hint=_INSTEAD.get(feature))

    @property
    def is_rtx(self) -> bool:
        """RTX builds without measuring: it needs no GPU, and does not use its timing cache. It
        has no NonMaxSuppression and no DLA. Its kernels are compiled where the engine runs."""
        return self.name == "tensorrt-rtx"

    # Builder and network

    def make_logger(self) -> Any:
        """Into the log "trt_afdet.tensorrt"; ``errors`` holds the first lines of errors."""
        trt = self.trt
        target = logging.getLogger("trt_afdet.tensorrt")
        failures = (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR)
        told = (*failures, trt.ILogger.WARNING)

        class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)
                self.errors: list[str] = []

            def log(self, severity: Any, text: str) -> None:
                if severity in failures:
                    self.errors.append(first_line(text))
                target.log(logging.INFO if severity in told else logging.DEBUG, "%s", text)

        return Logger()

    def make_builder(self, logger: Any) -> Any:
        """Raises RunError if TensorRT cannot make one, as without a GPU."""
        try:
            return self.trt.Builder(logger)
        except TypeError as error:  # The bindings turn a null pointer into this.
            raise RunError(
                f"{self} cannot start a build on this machine",
                got=next(iter(logger.errors), None),
                hint="it needs an NVIDIA GPU and a driver new enough, see `trt-afdet doctor`",
            ) from error

    @needs("typed_networks")
    def make_typed_network(self, builder: Any) -> Any:
        """A network whose types are those of the ONNX."""
        flag = self.trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
        return builder.create_network(1 << int(flag))

    @needs("explicit_batch")
    def make_untyped_network(self, builder: Any) -> Any:
        """A network whose types the builder chooses, as flags and constraints allow."""
        flag = self.trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH
        return builder.create_network(1 << int(flag))

    def parse(self, network: Any, logger: Any, data: bytes, nodes: Sequence[Any]) -> Any:
        """Fills an empty network from a serialized ONNX model, of which these are the nodes.

        Returns:
            The parser: it owns the network's weights, so it must live as long.

        Raises:
            InvalidValueError: Naming node and operator that TensorRT does not take.
        """
        parser = self.trt.OnnxParser(network, logger)
        if parser.parse(data):
            return parser
        # The first error is the cause; later ones are of nodes that miss its output.
        error = parser.get_error(0) if parser.num_errors else None
        name, operator = ("", "") if error is None else self._failed_node(error, nodes)
        got = next(iter(logger.errors), None) if error is None else first_line(error.desc())
        raise InvalidValueError(
            f"{self} does not take {operator or 'the model'}" + (f" (node {name!r})" * bool(name)),
            got=got,
            hint="use a network without it, or another version of TensorRT",
        )

    def _failed_node(self, error: Any, nodes: Sequence[Any]) -> tuple[str, str]:
        name, operator = self._told_node(error) if self.has("node_names") else ("", "")
        index = error.node()
        if not operator and 0 <= index < len(nodes):
            return nodes[index].name, nodes[index].op_type
        return name, operator

    @needs("node_names")
    def _told_node(self, error: Any) -> tuple[str, str]:
        return error.node_name(), error.node_operator()

    def layers(self, network: Any) -> Iterator[Any]:
        return (network.get_layer(index) for index in range(network.num_layers))

    def kind(self, layer: Any) -> str:
        """A layer's type, such as "CONVOLUTION"."""
        return enum_name(layer.type)

    def onnx_node(self, layer: Any) -> str:
        """The ONNX node that a layer was made from, as far as TensorRT tells."""
        told = self._metadata(layer) if self.has("layer_metadata") else ""
        _, found, rest = told.partition("[ONNX Layer: ")
        return rest.partition("]")[0] if found else str(layer.name)

    @needs("layer_metadata")
    def _metadata(self, layer: Any) -> str:
        return str(layer.metadata)

    def inputs(self, layer: Any) -> list[Any]:
        """A layer's input tensors; None for one that is not there."""
        return [layer.get_input(index) for index in range(layer.num_inputs)]

    def outputs(self, layer: Any) -> list[Any]:
        """A layer's output tensors."""
        return [layer.get_output(index) for index in range(layer.num_outputs)]

    def io(self, network: Any) -> dict[str, str]:
        """Type by name of the network's only input, then of its outputs: {"images": "HALF"}."""
        return {tensor.name: enum_name(tensor.dtype) for tensor in self._io(network)}

    def _io(self, network: Any) -> list[Any]:
        outputs = (network.get_output(index) for index in range(network.num_outputs))
        return [network.get_input(0), *outputs]

    # Configuration

    def make_config(self, builder: Any) -> Any:
        """A configuration whose engine can be asked about its layers."""
        config = builder.create_builder_config()
        config.profiling_verbosity = self.trt.ProfilingVerbosity.DETAILED
        return config

    def set_batches(
        self, builder: Any, config: Any, network: Any, batch: tuple[int, int, int]
    ) -> Any:
        """Adds a profile of the smallest, best and largest batch."""
        tensor = network.get_input(0)
        shape = tuple(tensor.shape)[1:]
        profile = builder.create_optimization_profile()
        profile.set_shape(tensor.name, *((size, *shape) for size in batch))
        if config.add_optimization_profile(profile) < 0:
            raise RunError(f"{self} refuses batches of {', '.join(map(str, batch))}")
        return profile

    def forbid_tf32(self, config: Any) -> None:
        """FP32 stays FP32: without this, tensor cores may round its products to 10 bits."""
        config.clear_flag(self.trt.BuilderFlag.TF32)

    def set_workspace(self, config: Any, size: int) -> None:
        """Most scratch memory of a kernel, in bytes."""
        config.set_memory_pool_limit(self.trt.MemoryPoolType.WORKSPACE, size)

    @needs("precision_flags")
    def set_precision_flags(self, config: Any, *, half: bool, int8: bool) -> None:
        """Lets the builder use FP16 and INT8 where no constraint forbids it."""
        if half:
            config.set_flag(self.trt.BuilderFlag.FP16)
        if int8:
            config.set_flag(self.trt.BuilderFlag.INT8)
        config.set_flag(self.trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)

    @needs("precision_flags")
    def keep_float(self, network: Any, nodes: Iterable[str]) -> None:
        """Constrains the layers of these ONNX nodes to FP32."""
        wanted, single = set(nodes), self.trt.DataType.FLOAT
        for layer in self.layers(network):
            computes = self.kind(layer) not in ("CONSTANT", "SHAPE")
            floats = all(tensor.dtype == single for tensor in self.outputs(layer))
            if computes and floats and self.onnx_node(layer) in wanted:
                layer.precision = single
                for index in range(layer.num_outputs):
                    layer.set_output_type(index, single)

    @needs("precision_flags")
    def set_half_io(self, network: Any) -> None:
        """FP16 for the input and the float outputs of an untyped network."""
        for tensor in self._io(network):
            if tensor.dtype == self.trt.DataType.FLOAT:
                tensor.dtype = self.trt.DataType.HALF

    @needs("calibrator")
    def set_calibrator(self, config: Any, profile: Any, batches: CalibrationBatches) -> Any:
        """Implicit INT8: TensorRT runs the pictures itself. Keep a reference to the result."""
        trt = self.trt

        class Calibrator(trt.IInt8EntropyCalibrator2):  # type: ignore[misc, name-defined]
            def get_batch_size(self) -> int:
                return batches.size

            def get_batch(self, names: Sequence[str]) -> list[int] | None:
                address = batches.next_address()
                return None if address is None else [address]

            def read_calibration_cache(self) -> bytes | None:
                return batches.read_cache()

            def write_calibration_cache(self, cache: Any) -> None:
                batches.write_cache(bytes(cache))

        calibrator = Calibrator()
        config.int8_calibrator = calibrator
        config.set_calibration_profile(profile)
        return calibrator

    @needs("optimization_level")
    def set_optimization_level(self, config: Any, level: int) -> None:
        config.builder_optimization_level = level

    @needs("version_compatible")
    def set_version_compatible(self, config: Any) -> None:
        config.set_flag(self.trt.BuilderFlag.VERSION_COMPATIBLE)

    @needs("ampere_plus")
    def set_ampere_plus(self, config: Any) -> None:
        config.hardware_compatibility_level = self.trt.HardwareCompatibilityLevel.AMPERE_PLUS

    @needs("same_compute_capability")
    def set_same_compute_capability(self, config: Any) -> None:
        level = self.trt.HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY
        config.hardware_compatibility_level = level

    @needs("strip_weights")
    def set_stripped(self, config: Any) -> None:
        config.set_flag(self.trt.BuilderFlag.STRIP_PLAN)

    @needs("compute_capabilities")
    def compute_capabilities(self) -> dict[str, Any]:
        """Compute capabilities that it can build for: {"8.9": ComputeCapability.SM89}."""
        kinds = self.trt.ComputeCapability
        numbers = sorted(int(n[2:]) for n in dir(kinds) if n.startswith("SM") and n[2:].isdigit())
        return {f"{n // 10}.{n % 10}": getattr(kinds, f"SM{n}") for n in numbers}

    @needs("compute_capabilities")
    def set_compute_capabilities(self, config: Any, wanted: Sequence[str]) -> None:
        known = self.compute_capabilities()
        config.num_compute_capabilities = len(wanted)
        for index, name in enumerate(wanted):
            config.set_compute_capability(known[name], index)

    def set_tactics(self, config: Any, without: Iterable[str]) -> None:
        """Leaves out sources of kernels, such as "CUDNN" and "CUBLAS"."""
        kinds = self.trt.TacticSource
        known = [name for name in dir(kinds) if name.isupper()]
        sources = config.get_tactic_sources()
        for name in without:
            if name not in known:
                raise InvalidValueError(
                    f"{self} has no such tactic source",
                    got=name,
                    hint=nearest(name, known) or f"it has {', '.join(known)}",
                )
            sources &= ~(1 << int(getattr(kinds, name)))
        config.set_tactic_sources(sources)

    def load_timings(self, config: Any, data: bytes) -> bool:
        """Uses a timing cache; False if it is another GPU's or version's, and then starts anew."""
        cache = config.create_timing_cache(data)
        if cache is not None and config.set_timing_cache(cache, False):
            return True
        config.set_timing_cache(config.create_timing_cache(b""), False)
        return False

    def save_timings(self, config: Any) -> bytes:
        """The timing cache after a build."""
        cache = config.get_timing_cache()
        return b"" if cache is None else bytes(cache.serialize())

    def dla_cores(self, builder: Any) -> int:
        return int(builder.num_DLA_cores)

    def set_dla(self, config: Any, core: int, *, gpu_fallback: bool) -> None:
        config.default_device_type = self.trt.DeviceType.DLA
        config.DLA_core = core
        if gpu_fallback:
            config.set_flag(self.trt.BuilderFlag.GPU_FALLBACK)

    def runs_on_dla(self, config: Any, layer: Any) -> bool:
        return bool(config.can_run_on_DLA(layer))

    @needs("progress")
    def set_monitor(self, config: Any, progress: Progress) -> Any:
        """Reports the progress of a build. Keep a reference to the result."""
        trt = self.trt

        class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
            def phase_start(self, name: str, parent: str | None, steps: int) -> None:
                progress.start(name, parent, steps)

            def step_complete(self, name: str, step: int) -> bool:
                return progress.step(name, step)

            def phase_finish(self, name: str) -> None:
                progress.finish(name)

        monitor = Monitor()
        config.progress_monitor = monitor
        return monitor

    # Engines and plugins

    def build(self, builder: Any, network: Any, config: Any) -> Any:
        """The plan as a buffer; None if the build failed or was cancelled."""
        return builder.build_serialized_network(network, config)

    def describe_engine(self, plan: Any, logger: Any) -> str:
        """The built engine's report on its layers, as JSON; RunError without a GPU that runs it."""
        runtime = self.trt.Runtime(logger)
        if self.has("version_compatible"):
            self._allow_host_code(runtime)
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            got = next(iter(logger.errors), None)
            raise RunError(f"{self} cannot load the engine it built", got=got)
        inspector = engine.create_engine_inspector()
        return str(inspector.get_engine_information(self.trt.LayerInformationFormat.JSON))

    @needs("version_compatible")
    def _allow_host_code(self, runtime: Any) -> None:
        """A version-compatible engine contains a runtime, which is code."""
        runtime.engine_host_code_allowed = True

    def load_plugin(self, path: Path, name: str, version: str) -> None:
        """Loads a plugin library and checks that it brings the plugin.

        Raises:
            MissingFileError: If there is no such library.
            InvalidValueError: If it cannot be loaded, or is for another TensorRT.
        """
        if not path.is_file():
            raise MissingFileError("no such plugin library", got=path)
        if self.is_rtx:
            _check_rtx_library()
        about = _plugin_info(path)
        if not self._takes_plugin(about):
            raise InvalidValueError(
                f"{path} was built for another TensorRT than {self}",
                got=about.partition(", IPlugin")[0],
                hint="build the plugin with this TensorRT's headers",
            )
        if self._creator(name, version) is None:
            self._load_library(path)
        if self._creator(name, version) is None:
            what = f"the plugin library brings no {name} of version {version}"
            raise InvalidValueError(what, got=path)

    def _takes_plugin(self, about: str) -> bool:
        """Whether a library, by what it says of itself ("TensorRT 10.3, IPluginV3, ..."), was built
        for this major version; those of 10 and 11 serve RTX too."""
        if ("IPluginV3" in about) != self.has("plugin_v3"):
            return False
        return self.is_rtx or about.startswith(f"TensorRT {self.version.partition('.')[0]}.")

    def plugin_fields(self, name: str, version: str) -> frozenset[str]:
        """Attributes that a loaded plugin takes. TensorRT-RTX's parser drops others silently."""
        return frozenset(field.name for field in self._creator(name, version).field_names)

    def _creator(self, name: str, version: str) -> Any:
        find = self._creator_v3 if self.has("plugin_v3") else self._creator_v2
        return find(name, version)

    @needs("plugin_v3")
    def _creator_v3(self, name: str, version: str) -> Any:
        return self.trt.get_plugin_registry().get_creator(name, version, "")

    @needs("plugin_list")
    def _creator_v2(self, name: str, version: str) -> Any:
        creators = self.trt.get_plugin_registry().plugin_creator_list
        return next((c for c in creators if (c.name, c.plugin_version) == (name, version)), None)

    def _load_library(self, path: Path) -> None:
        if self.has("plugin_v3"):
            self._load_v3(path)
        else:  # This registers it, in 8.6 too, where ``load_library`` would do it again.
            ctypes.CDLL(str(path), mode=os.RTLD_GLOBAL | os.RTLD_NOW)

    @needs("plugin_v3")
    def _load_v3(self, path: Path) -> None:
        self.trt.get_plugin_registry().load_library(str(path))


def _has(trt: Any, dotted: str) -> bool:
    try:
        functools.reduce(getattr, dotted.split("."), trt)
    except AttributeError:
        return False
    return True


def enum_name(value: Any) -> str:
    """An enum value's own name: "HALF" of DataType.HALF."""
    return str(value).rpartition(".")[2]


def first_line(text: str) -> str:
    """Of a message of TensorRT's, at most 300 characters."""
    lines = text.strip().splitlines()
    return lines[0][:300] if lines else "no message"


def _check_rtx_library() -> None:
    """RTX's parser opens its library by the name without a version when it meets a plugin, and ends
    the process if that is not found."""
    if not sys.platform.startswith("linux"):
        return
    try:
        ctypes.CDLL("libtensorrt_rtx.so")
    except OSError as error:
        raise MissingDependencyError(
            "plugins of TensorRT-RTX need libtensorrt_rtx.so by that name",
            got=first_line(str(error)),
            hint="link it to libtensorrt_rtx.so.1 in a folder on LD_LIBRARY_PATH, or use "
            "--nms onnx",
        ) from error


def _plugin_info(path: Path) -> str:
    """The plugin library's build information."""
    try:
        library = ctypes.CDLL(str(path))
        library.afdet_plugin_build_info.restype = ctypes.c_char_p
        return str(library.afdet_plugin_build_info().decode())
    except OSError as error:
        raise InvalidValueError("the plugin library cannot be loaded", got=error) from error
    except AttributeError as error:
        raise InvalidValueError("this is not trt-afdet's plugin library", got=path) from error


def load(flavour: str = "auto", *, gpu: bool = True) -> Flavour:
    """The TensorRT of this machine.

    Args:
        flavour: "tensorrt", "rtx" or "auto": TensorRT before TensorRT-RTX, but the other way round
            without a GPU, where only RTX builds.
        gpu: Whether there is a GPU.

    Raises:
        InvalidValueError: If the flavour is unknown.
        MissingDependencyError: If it is not installed, or its libraries are not.
    """
    if flavour not in ("auto", *MODULES):
        raise InvalidValueError("the flavour is auto, tensorrt or rtx", got=flavour)
    order = [flavour] if flavour != "auto" else ["tensorrt", "rtx"] if gpu else ["rtx", "tensorrt"]
    broken = None
    for name in (module for key in order for module in MODULES[key]):
        if importlib.util.find_spec(name) is None:
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                return Flavour(importlib.import_module(name))
        except (ImportError, OSError, RuntimeError) as error:  # Bindings without their libraries.
            broken = broken or MissingDependencyError(
                f"{name} is installed but cannot be imported",
                got=first_line(str(error)),
                hint="install TensorRT's libraries of that version",
            )
    extra = "rtx" if flavour == "rtx" else "tensorrt"
    raise broken or MissingDependencyError(
        f"{'TensorRT-RTX' if flavour == 'rtx' else 'TensorRT'} is not installed",
        hint=f'on a Jetson it comes with JetPack; elsewhere: pip install "trt-afdet[{extra}]"',
    )
