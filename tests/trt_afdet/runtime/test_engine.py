"""Engines: what is checked before TensorRT sees them, and how its API is used.

TensorRT's part is played by ONNX Runtime on a device of host memory; its names are compared with
the real module where that is installed. On a GPU tests/gpu runs real engines.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.skips import skip_test
from tests.trt_afdet.onnx_models import SPEC, build_model, save_model
from tests.trt_afdet.runtime.host_device import HostDevice
from tests.trt_afdet.runtime.rigs import MODEL, HostRig, equal, scene
from tests.trt_afdet.runtime.tensorrt_double import MEMORY, TensorRT
from trt_afdet import native
from trt_afdet.engine.onnx.nms import add_nms
from trt_afdet.errors import (
    CorruptFileError,
    InvalidValueError,
    MissingDependencyError,
    MissingFileError,
    RunError,
)
from trt_afdet.interface import DETECTION_NAMES
from trt_afdet.runtime import engine
from trt_afdet.runtime.detector import Detector
from trt_afdet.runtime.engine import EngineMismatchError, open_engine
from trt_afdet.runtime.engine_network import TensorRTNetwork
from trt_afdet.runtime.runner import Runner
from trt_afdet.trt import sidecar
from trt_afdet.trt.sidecar import EngineSidecar
from trt_afdet.trt.versions import Flavour

real_kernels = engine._kernels

FRAMES = [scene(i, SPEC.height, SPEC.width) for i in range(4)]


def facts(**changes: Any) -> EngineSidecar:
    """The sidecar of an engine whose plan is the tiny model."""
    nms = changes.get("nms", "none")
    heads = dict.fromkeys(SPEC.output_names, "float32")
    ints = ("num_detections", "detection_classes")
    found = {name: "int32" if name in ints else "float32" for name in DETECTION_NAMES}
    values: dict[str, Any] = {
        "spec": SPEC,
        "tensorrt_version": "10.3.0",
        "flavour": "tensorrt",
        "gpu_name": "Orin",
        "compute_capability": ("8.7",),
        "platform": "linux-aarch64",
        "precision_asked": "fp16",
        "precision_layers": {"HALF": 10},
        "precision_groups": {},
        "precision_source": "engine",
        "fallback": (),
        "kept": (),
        "nms": nms,
        "plugin_version": "1" if nms == "plugin" else None,
        "onnx_file": "model.onnx",
        "onnx_sha256": hashlib.sha256(MODEL).hexdigest(),
        "engine_sha256": hashlib.sha256(MODEL).hexdigest(),
        "calibration_key": None,
        "batch": (1, 2, 4),
        "input_dtype": "float32",
        "output_dtypes": heads if nms == "none" else found,
        "version_compatible": False,
        "hardware_compatible": "none",
        "stripped": False,
        "dla_core": None,
        "options": (),
        "build_seconds": 1.0,
        "peak_memory": 1,
        "peak_device_memory": None,
        "verification": None,
        "created": "2026-11-23T00:00:00+00:00",
    }
    return EngineSidecar(**{**values, **changes})


@dataclass
class Machine:
    """A machine with TensorRT: what opening an engine finds on it."""

    device: HostDevice
    trt: TensorRT

    def open(self, folder: Path, plan: bytes = MODEL, **changes: Any) -> Runner:
        """Writes an engine with its sidecar, and opens it."""
        path = folder / "model.engine"
        path.write_bytes(plan)
        about = facts(engine_sha256=hashlib.sha256(plan).hexdigest(), **changes)
        sidecar.sidecar_path(path).write_text(about.to_json())
        return open_engine(path)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    device = HostDevice()
    made = Machine(device, TensorRT(device))
    monkeypatch.setattr(engine.versions, "load", lambda name: Flavour(made.trt))
    monkeypatch.setattr(engine, "open_device", lambda index: device)
    monkeypatch.setattr(engine, "_kernels", lambda: HostRig().kernels(device))
    yield made
    if device.closed:
        assert device.held() == []


def test_an_engine_detects_like_its_onnx_file(machine: Machine, tmp_path: Path) -> None:
    want = Detector.load(save_model(tmp_path / "model.onnx"))(FRAMES)
    machine.open(tmp_path).close()
    machine.device.closed = False
    with Detector.load(tmp_path / "model.engine") as detector:
        for _ in range(3):
            for got, right in zip(detector(FRAMES), want, strict=True):
                equal(got, right)
        equal(detector(FRAMES[0]), want[0])
    assert machine.device.closed
    assert machine.device.held() == []


def test_batch_sizes_have_own_contexts_in_shared_memory(machine: Machine, tmp_path: Path) -> None:
    runner = machine.open(tmp_path)
    for count in (1, 4, 1, 2, 1, 4, 2, 2, 1, 1):
        runner(FRAMES[:count])
    contexts = machine.trt.engines[0].contexts
    assert sorted(c.shape[0] for c in contexts if c.shape) == [1, 2, 4]
    assert len({c.memory for c in contexts}) == 1
    assert len(machine.device.view(contexts[0].memory, MEMORY)) == MEMORY
    runner.close()


def test_tensorrt_8_has_one_context_for_all_batch_sizes(machine: Machine, tmp_path: Path) -> None:
    machine.trt = TensorRT(machine.device, version="8.5.3.1", shares_profiles=False)
    want = Detector.load(save_model(tmp_path / "model.onnx"))(FRAMES)
    runner = machine.open(tmp_path, tensorrt_version="8.5.3")
    for count in (1, 1, 1, 4, 4, 4, 1, 1, 2):
        for got, right in zip(runner(FRAMES[:count]), want, strict=False):
            equal(got, right)
    assert len(machine.trt.engines[0].contexts) == 1
    runner.close()


def test_tensorrt_rtx_compiles_before_it_is_captured(machine: Machine, tmp_path: Path) -> None:
    machine.trt = TensorRT(machine.device, version="1.7.1.116", is_rtx=True)
    runner = machine.open(tmp_path, tensorrt_version="1.7.1", flavour="tensorrt-rtx")
    assert len(runner(FRAMES)) == 4
    (config,) = machine.trt.engines[0].configs
    assert config.dynamic_shapes_kernel_specialization_strategy.name == "EAGER"
    assert machine.trt.engines[0].contexts[0].memory
    runner.close()


def test_a_fixed_batch(machine: Machine, tmp_path: Path) -> None:
    machine.trt.batches = (2, 2, 2)
    runner = machine.open(tmp_path, batch=(2, 2, 2))
    assert runner.batch_size == runner.max_batch == 2
    assert len(runner(FRAMES[:3])) == 3
    runner.close()


def test_without_the_cuda_library_it_warns_once_and_uses_the_cpu(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    def missing() -> None:
        raise native.NativeMissingError("the native library libafdet_cuda.so was not found")

    monkeypatch.setattr(engine, "cuda", missing)
    monkeypatch.setattr(engine, "_kernels", real_kernels)
    with caplog.at_level(logging.WARNING):
        runner = machine.open(tmp_path)
    want = Detector.load(save_model(tmp_path / "model.onnx"))(FRAMES[0])
    equal(runner(FRAMES[:1])[0], want)
    assert [r.message for r in caplog.records] == [
        "the native library libafdet_cuda.so was not found; "
        "frames are prepared and boxes found on the CPU, slower"
    ]
    runner.close()


MISMATCHES = [
    (
        {"tensorrt_version": "8.6.1"},
        "model.engine was built with tensorrt 8.6.1, this machine has TensorRT 10.3.0",
    ),
    (
        {"tensorrt_version": "10.4.0", "version_compatible": True},
        "model.engine was built with tensorrt 10.4.0",
    ),
    (
        {"compute_capability": ("8.6",), "gpu_name": "RTX 3080"},
        "built for compute capability 8.6 (RTX 3080), this GPU has 8.7 (host memory)",
    ),
    (
        {"compute_capability": ("8.6", "8.9"), "gpu_name": None},
        "built for compute capability 8.6, 8.9, this GPU has 8.7",
    ),
    (
        {"nms": "plugin", "plugin_version": "2"},
        "version 2 of the plugin AfdetDecodeNMS, this trt-afdet has version 1",
    ),
]


@pytest.mark.parametrize(("changes", "message"), MISMATCHES)
def test_an_engine_for_another_machine(
    machine: Machine, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(EngineMismatchError) as caught:
        machine.open(tmp_path, **changes)
    assert message in str(caught.value)
    assert str(caught.value).endswith("from the model.onnx that it was built from")
    save_model(tmp_path / "model.onnx")
    with pytest.raises(EngineMismatchError) as caught:
        machine.open(tmp_path, **changes)
    assert "build it again: trt-afdet build-engine" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert machine.trt.engines == []


@pytest.mark.parametrize(
    "changes",
    [
        {"compute_capability": ("8.6", "8.7")},
        {"compute_capability": None},
        {"compute_capability": ("8.6",), "hardware_compatible": "ampere_plus"},
        {"tensorrt_version": "10.3.0.26"},
        {"tensorrt_version": "10.1.0", "version_compatible": True},
        {"tensorrt_version": "8.6.1", "version_compatible": True},
        {"dla_core": 1},
    ],
)
def test_engines_that_fit(machine: Machine, tmp_path: Path, changes: dict[str, Any]) -> None:
    machine.open(tmp_path, **changes).close()
    runtime = machine.trt.runtimes[0]
    host_code = getattr(runtime, "engine_host_code_allowed", False)
    assert host_code == changes.get("version_compatible", False)
    assert getattr(runtime, "DLA_core", None) == changes.get("dla_core")


def test_a_gpu_older_than_ampere(machine: Machine, tmp_path: Path) -> None:
    machine.device.compute_capability = (7, 5)
    with pytest.raises(
        EngineMismatchError, match=r"capability 8\.0 and newer .* this GPU has 7\.5"
    ):
        machine.open(tmp_path, compute_capability=("8.6",), hardware_compatible="ampere_plus")


def test_an_engine_without_weights(machine: Machine, tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match="lacks its weights"):
        machine.open(tmp_path, stripped=True)


def test_missing_changed_and_cut_off_files(machine: Machine, tmp_path: Path) -> None:
    path = tmp_path / "model.engine"
    with pytest.raises(MissingFileError, match="no such engine"):
        Detector.load(path)
    machine.open(tmp_path).close()
    path.write_bytes(MODEL[:-10])
    with pytest.raises(CorruptFileError, match="or it is cut off"):
        Detector.load(path)
    sidecar.sidecar_path(path).unlink()
    with pytest.raises(MissingFileError, match="sidecar is missing"):
        Detector.load(path)


def test_the_hint_is_the_command_that_builds_it_again(tmp_path: Path) -> None:
    path = tmp_path / "model.engine"
    about = facts(nms="onnx", options=("--optimization-level", "4"))
    save_model(tmp_path / "model.onnx", build_model(seed=7))
    assert engine.rebuild_command(path, about) is None
    save_model(tmp_path / "model.onnx")
    want = [
        *("build-engine", str(tmp_path / "model.onnx"), "-o", str(path)),
        *("--precision", "fp16", "--nms", "onnx", "--batch", "1,2,4"),
        *("--optimization-level", "4"),
    ]
    assert engine.rebuild_command(path, about) == want
    assert engine.rebuild_hint(path, about).endswith("trt-afdet " + " ".join(want))


def test_rebuild_runs_that_command(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    path = tmp_path / "model.engine"
    with pytest.raises(EngineMismatchError):
        machine.open(tmp_path, tensorrt_version="8.6.1")
    with pytest.raises(EngineMismatchError):  # No ONNX file to build it from.
        Detector.load(path, rebuild=True)
    save_model(tmp_path / "model.onnx")
    commands: list[list[str]] = []

    def build(command: list[str]) -> int:
        commands.append(command[3:])
        sidecar.sidecar_path(path).write_text(facts().to_json())
        return status

    monkeypatch.setattr(engine.subprocess, "call", build)
    caplog.clear()
    status = 0
    with Detector.load(path, rebuild=True) as detector:
        assert len(detector(FRAMES)) == 4
    assert [command[0] for command in commands] == ["build-engine"]
    assert "building it again" in caplog.records[0].message
    machine.device.closed = False
    sidecar.sidecar_path(path).write_text(facts(tensorrt_version="8.6.1").to_json())
    status = 1
    with pytest.raises(RunError, match="could not be built again"):
        Detector.load(path, rebuild=True)


def test_the_plugin_is_loaded_first(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[tuple[Path, str, str]] = []

    def load(self: Flavour, path: Path, name: str, version: str) -> None:
        assert machine.trt.engines == []
        loaded.append((path, name, version))

    monkeypatch.setattr(engine, "find", lambda name: f"/lib/{name}.so")
    monkeypatch.setattr(Flavour, "load_plugin", load)
    plan = add_nms(build_model(), "onnx").SerializeToString()
    runner = machine.open(tmp_path, plan, nms="plugin")
    assert loaded == [(Path("/lib/afdet_plugin.so"), "AfdetDecodeNMS", "1")]
    assert runner.has_nms
    assert len(runner(FRAMES)) == 4
    runner.close()


def test_a_plugin_that_is_missing_or_no_plugin(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "folders", lambda: [tmp_path])
    with pytest.raises(MissingDependencyError, match="plugin, which cannot be loaded") as caught:
        machine.open(tmp_path, nms="plugin")
    assert "--nms onnx" in str(caught.value)
    machine.device.closed = False
    (tmp_path / native.file_name("afdet_plugin")).write_bytes(b"no library")
    with pytest.raises(MissingDependencyError, match="plugin, which cannot be loaded"):
        machine.open(tmp_path, nms="plugin")
    assert machine.device.closed


def test_a_plan_that_tensorrt_cannot_read(machine: Machine, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"10\.3\.0 cannot read .*magicTag does not match") as caught:
        machine.open(tmp_path, b"no engine")
    assert "\n" not in str(caught.value)
    assert machine.device.closed
    assert machine.device.held() == []


def test_tensors_of_another_type_or_name(machine: Machine, tmp_path: Path) -> None:
    machine.trt.kinds = {"cls_p3": "INT8"}
    with pytest.raises(InvalidValueError, match=r"'cls_p3' has an unusable type \(got INT8\)"):
        machine.open(tmp_path)
    machine.trt.kinds = {}
    machine.device.closed = False
    other = build_model(input_name="x").SerializeToString()
    with pytest.raises(InvalidValueError, match="the input must be 'images'"):
        machine.open(tmp_path, other)
    machine.device.closed = False
    with pytest.raises(InvalidValueError, match="does not fit the model's spec"):
        machine.open(tmp_path, spec=SPEC.replace(class_names=("a",)))
    assert machine.device.held() == []


def test_a_run_that_fails_says_why(machine: Machine, tmp_path: Path) -> None:
    runner = machine.open(tmp_path)
    machine.trt.fails = True
    with pytest.raises(RunError, match=r"model.engine cannot run \(got \[E\] Cuda Runtime") as got:
        runner(FRAMES[:1])
    assert "\n" not in str(got.value)
    machine.trt.fails = False
    assert len(runner(FRAMES[:1])) == 1
    runner.close()


def test_a_batch_outside_the_profile_is_tensorrts_to_refuse(machine: Machine) -> None:
    with machine.device.active():
        flavour = Flavour(machine.trt)
        network = TensorRTNetwork(flavour, MODEL, facts(), machine.device, "model.engine")
        with pytest.raises(RunError, match=r"take a batch of 9 .*outside the profile"):
            network.prepare(9, {})
        network.close()
        network.close()
    machine.device.close()


#: What the runtime uses of TensorRT, and what only some versions have.
USED = {
    "": ("Runtime", "TensorIOMode"),
    "Runtime": ("deserialize_cuda_engine", "DLA_core"),
    "TensorIOMode": ("INPUT",),
    "DataType": ("FLOAT", "HALF", "INT32"),
    "ICudaEngine": (
        "num_io_tensors",
        "get_tensor_name",
        "get_tensor_mode",
        "get_tensor_dtype",
        "get_tensor_shape",
        "get_tensor_profile_shape",
        "create_execution_context",
    ),
    "IExecutionContext": ("set_input_shape", "set_tensor_address", "execute_async_v3"),
}
SINCE_10 = {
    "ExecutionContextAllocationStrategy": ("USER_MANAGED",),
    "ICudaEngine": ("device_memory_size_v2",),
    "IExecutionContext": ("set_device_memory",),
    "Runtime": ("engine_host_code_allowed",),
}
RTX = {
    "ICudaEngine": ("create_runtime_config",),
    "DynamicShapesKernelSpecializationStrategy": ("EAGER",),
    "IRuntimeConfig": (
        "set_execution_context_allocation_strategy",
        "dynamic_shapes_kernel_specialization_strategy",
    ),
}


def missing_names(trt: Any, names: dict[str, tuple[str, ...]]) -> list[str]:
    """Those that a TensorRT module does not have."""
    missing = []
    for owner, members in names.items():
        place = getattr(trt, owner, None) if owner else trt
        missing += [f"{owner}.{name}" for name in members if not hasattr(place, name)]
    return missing


@pytest.mark.parametrize("module", ["tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings"])
def test_every_name_exists_in_the_real_module(module: str) -> None:
    if importlib.util.find_spec(module) is None:
        skip_test(
            f"{module} is not installed", f"pip install {module}, on a machine with an NVIDIA GPU"
        )
    trt = importlib.import_module(module)
    wanted = [USED]
    if hasattr(trt, "ExecutionContextAllocationStrategy"):
        wanted.append(SINCE_10)
    if hasattr(trt, "ComputeCapability"):
        wanted.append(RTX)
    missing = [name for names in wanted for name in missing_names(trt, names)]
    assert missing == [], f"{module} {trt.__version__}"


def test_the_double_has_no_name_of_its_own(machine: Machine) -> None:
    engine = machine.trt.Runtime(None).deserialize_cuda_engine(MODEL)
    assert missing_names(engine, {"": USED["ICudaEngine"]}) == []
    context = engine.create_execution_context()
    assert missing_names(context, {"": USED["IExecutionContext"]}) == []
    assert np.dtype("float32").name == engine.network.inputs[0].dtype
