"""TensorRT's Python API as far as the runtime uses it, over ONNX Runtime on a host device.

A plan is an ONNX file. What TensorRT forbids is checked: a context that runs must have a shape and
all addresses, and with USER_MANAGED memory of the engine's size; a captured one must not change.
"""

from __future__ import annotations

import enum
from functools import partial
from types import SimpleNamespace
from typing import Any

from tests.trt_afdet.runtime.host_device import HostDevice, OrtNetwork

MEMORY = 12_345


class TensorIOMode(enum.Enum):
    INPUT = 1
    OUTPUT = 2


class Strategy(enum.Enum):
    STATIC = 0
    ON_PROFILE_CHANGE = 1
    USER_MANAGED = 2


class Logger:
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class Context:
    def __init__(self, engine: Engine, managed: bool) -> None:
        self._engine = engine
        self._needs_memory = managed
        self.memory = 0
        self.shape: tuple[int, ...] | None = None
        self.addresses: dict[str, int] = {}
        self.captured = False

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        least, _, most = self._engine.network.batches
        if self.captured and shape != self.shape and self._engine.trt.strict:
            raise AssertionError("a captured context changes its shape")
        if name != "images" or not least <= shape[0] <= most:
            self._engine.logger.log(Logger.ERROR, f"[E] batch {shape[0]} is outside the profile")
            return False
        self.shape = tuple(shape)
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return address % 256 == 0

    def set_device_memory(self, address: int, size: int) -> None:
        self._engine.device.view(address, size)
        assert size >= self._engine.device_memory_size_v2
        self.memory = address

    def execute_async_v3(self, stream: int) -> bool:
        if self._engine.trt.fails:
            self._engine.logger.log(Logger.ERROR, "[E] Cuda Runtime (out of luck)\nmore of it")
            return False
        assert self.shape is not None
        assert not self._needs_memory or self.memory
        network = self._engine.network
        assert set(self.addresses) == {i.name for i in (*network.inputs, *network.outputs)}
        self.captured |= self._engine.device._capturing is not None
        network.keeps_batches = True
        network.prepare(self.shape[0], self.addresses)
        network.enqueue(self.shape[0], stream)
        return True


class Engine:
    device_memory_size_v2 = MEMORY

    def __init__(self, trt: TensorRT, network: OrtNetwork, logger: Any) -> None:
        self.trt = trt
        self.network = network
        self.logger = logger
        self.device = trt.device
        self.contexts: list[Context] = []
        self.configs: list[Any] = []
        if trt.is_rtx:
            self.create_runtime_config = self._runtime_config
        self._infos = {i.name: i for i in (*network.inputs, *network.outputs)}

    @property
    def num_io_tensors(self) -> int:
        return len(self._infos)

    def get_tensor_name(self, index: int) -> str:
        return list(self._infos)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        is_input = name in [i.name for i in self.network.inputs]
        return TensorIOMode.INPUT if is_input else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> str:
        kinds = {"float32": "FLOAT", "float16": "HALF", "int32": "INT32"}
        return f"DataType.{self.trt.kinds.get(name) or kinds[self._infos[name].dtype]}"

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        least, _, most = self.network.batches
        return (least if least == most else -1, *self._infos[name].shape)

    def get_tensor_profile_shape(self, name: str, index: int) -> list[tuple[int, ...]]:
        assert (name, index) == ("images", 0)
        return [(batch, *self._infos[name].shape) for batch in self.network.batches]

    def _runtime_config(self) -> Any:
        config = SimpleNamespace()
        config.set_execution_context_allocation_strategy = partial(setattr, config, "strategy")
        self.configs.append(config)
        return config

    def create_execution_context(self, strategy: Any = None) -> Context:
        strategy = getattr(strategy, "strategy", strategy)
        assert self.trt.shares_profiles or not self.contexts, "one context per profile"
        context = Context(self, strategy is Strategy.USER_MANAGED)
        self.contexts.append(context)
        return context


class TensorRT:
    """Stands for the module.

    Args:
        device: A host device.
        shares_profiles: Whether it is TensorRT 10 or newer.
        is_rtx: Whether it is TensorRT-RTX.

    Attributes:
        engines: Those deserialised.
        fails: Whether runs fail.
        kinds: Element types to show instead of the real ones, by tensor.
        runtimes: Those made, with what was set on them.
    """

    TensorIOMode = TensorIOMode
    ILogger = Logger

    def __init__(
        self,
        device: HostDevice,
        *,
        version: str = "10.3.0",
        shares_profiles: bool = True,
        is_rtx: bool = False,
        batches: tuple[int, int, int] = (1, 2, 4),
    ) -> None:
        self.__version__ = version
        self.device = device
        self.shares_profiles = shares_profiles
        self.strict = shares_profiles
        self.is_rtx = is_rtx
        if is_rtx:
            self.ComputeCapability = enum.Enum("ComputeCapability", ["SM87"])
            self.DynamicShapesKernelSpecializationStrategy = enum.Enum(
                "DynamicShapesKernelSpecializationStrategy", ["LAZY", "EAGER", "NONE"]
            )
        self.batches = batches
        self.engines: list[Engine] = []
        self.fails = False
        self.kinds: dict[str, str] = {}
        if shares_profiles:
            self.ExecutionContextAllocationStrategy = Strategy
        self.runtimes: list[Any] = []

    def Runtime(self, logger: Any) -> Any:  # noqa: N802 - TensorRT's name.
        def deserialize(plan: bytes) -> Engine | None:
            try:
                network = OrtNetwork(self.device, plan, self.batches)
            except Exception:
                logger.log(Logger.ERROR, "[E] Serialization (magicTag does not match)\n")
                return None
            self.engines.append(Engine(self, network, logger))
            return self.engines[-1]

        self.runtimes.append(SimpleNamespace(deserialize_cuda_engine=deserialize))
        return self.runtimes[-1]
