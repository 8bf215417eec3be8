"""A TensorRT engine as the runner sees it.

The same calls serve TensorRT 8.5 to 11 and TensorRT-RTX; where they differ, the feature is asked
for by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trt_afdet.errors import InvalidValueError, RunError
from trt_afdet.interface import INPUT_NAME
from trt_afdet.runtime.buffers import TensorInfo
from trt_afdet.runtime.device import Device
from trt_afdet.trt.sidecar import EngineSidecar
from trt_afdet.trt.versions import Flavour, enum_name

_DTYPES = {"FLOAT": "float32", "HALF": "float16", "INT32": "int32", "INT64": "int64"}


class TensorRTNetwork:
    """An engine with its execution contexts.

    A context that has been captured in a graph must not change its shape, so each batch size gets
    an own one; as they never run at once, they share their device memory. Before TensorRT 10 a
    profile has room for one context, which then changes from batch size to batch size.

    Args:
        flavour: The TensorRT to use.
        plan: The engine file's content.
        sidecar: What the engine is.
        device: Where its memory comes from; must be active.
        file: For messages.

    Attributes:
        inputs, outputs: Its tensors, all with the batch in front.
        batches: Smallest, best and largest batch.
        keeps_batches: Whether a batch size stays prepared while another runs.

    Raises:
        RunError: If TensorRT cannot read the plan or make a context.
        InvalidValueError: If the engine has no input named as ours, or a tensor of another type.
    """

    def __init__(
        self, flavour: Flavour, plan: bytes, sidecar: EngineSidecar, device: Device, file: object
    ) -> None:
        self._trt = trt = flavour.trt
        self._device = device
        self._file = file
        self._logger = flavour.make_logger()
        self._runtime: Any = trt.Runtime(self._logger)
        if sidecar.dla_core is not None:
            self._runtime.DLA_core = sidecar.dla_core
        if sidecar.version_compatible:
            self._runtime.engine_host_code_allowed = True
        self._engine: Any = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise RunError(
                f"{flavour} cannot read {file}",
                got=self._last_error(),
                hint="build it again on this machine",
            )
        infos: dict[bool, list[TensorInfo]] = {True: [], False: []}
        for index in range(self._engine.num_io_tensors):
            name = self._engine.get_tensor_name(index)
            is_input = self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
            infos[is_input].append(self._info(name))
        self.inputs: Sequence[TensorInfo] = infos[True]
        self.outputs: Sequence[TensorInfo] = infos[False]
        names = [info.name for info in self.inputs]
        if names != [INPUT_NAME]:
            what = f"{file}: the input must be {INPUT_NAME!r}"
            raise InvalidValueError(what, got=", ".join(names))
        fixed = self._engine.get_tensor_shape(INPUT_NAME)[0]
        self.batches: tuple[int, int, int] = (fixed, fixed, fixed)
        if fixed < 0:
            least, best, most = self._engine.get_tensor_profile_shape(INPUT_NAME, 0)
            self.batches = (least[0], best[0], most[0])
        # The strategy came with the rule that contexts may share a profile.
        self.keeps_batches = hasattr(trt, "ExecutionContextAllocationStrategy")
        self._contexts: dict[int, Any] = {}
        self._memory = 0

    def _info(self, name: str) -> TensorInfo:
        kind = enum_name(self._engine.get_tensor_dtype(name))
        if kind not in _DTYPES:
            raise InvalidValueError(f"{self._file}: tensor {name!r} has an unusable type", got=kind)
        shape = tuple(self._engine.get_tensor_shape(name))
        return TensorInfo(name, _DTYPES[kind], shape[1:])

    def prepare(self, batch: int, addresses: Mapping[str, int]) -> None:
        """Sets a batch size and where every tensor lies, before ``enqueue`` of it; raises RunError
        if TensorRT refuses."""
        if self.keeps_batches:
            context = self._contexts.get(batch) or self._sharing_context()
        else:
            known = next(iter(self._contexts.values()), None)
            context = known or self._engine.create_execution_context()
            self._contexts.clear()
        if context is None:
            raise self._error("make an execution context")
        self._contexts[batch] = context
        shape = (batch, *self.inputs[0].shape)
        if not context.set_input_shape(INPUT_NAME, shape):
            raise self._error(f"take a batch of {batch}")
        for name, address in addresses.items():
            if not context.set_tensor_address(name, address):
                raise self._error(f"bind tensor {name!r}")

    def _sharing_context(self) -> Any:
        """A context that runs in the memory of all the others."""
        manual = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if hasattr(self._engine, "create_runtime_config"):
            # TensorRT-RTX compiles kernels for the shape at the first run. By default it would use
            # others until they are there, and those would be captured.
            config = self._engine.create_runtime_config()
            config.set_execution_context_allocation_strategy(manual)
            if hasattr(self._trt, "DynamicShapesKernelSpecializationStrategy"):
                eager = self._trt.DynamicShapesKernelSpecializationStrategy.EAGER
                config.dynamic_shapes_kernel_specialization_strategy = eager
            context = self._engine.create_execution_context(config)
        else:
            context = self._engine.create_execution_context(manual)
        if context is not None:
            size = max(1, self._engine.device_memory_size_v2)
            if not self._memory:
                self._memory = self._device.allocate(size)
            context.set_device_memory(self._memory, size)
        return context

    def enqueue(self, batch: int, stream: int) -> None:
        """Queues one run; raises RunError if TensorRT refuses."""
        if not self._contexts[batch].execute_async_v3(stream):
            raise self._error("run")

    def _error(self, action: str) -> RunError:
        return RunError(f"{self._file} cannot {action}", got=self._last_error())

    def _last_error(self) -> str | None:
        return self._logger.errors[-1] if self._logger.errors else None

    def close(self) -> None:
        """Frees engine, contexts and their memory; twice is fine."""
        self._contexts.clear()
        self._engine = self._runtime = None
        memory, self._memory = self._memory, 0
        if memory:
            self._device.free(memory)
