"""Writing ONNX nodes as one writes expressions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import onnx


def replace(field: Any, kept: Iterable[Any]) -> None:
    """Makes a repeated field of a graph hold these, some of which it may hold now."""
    copies = [type(item).FromString(item.SerializeToString()) for item in kept]
    del field[:]
    field.extend(copies)


class GraphWriter:
    """Collects nodes, in an order that can be run, and constants; a tensor is its name, and every
    name starts with the prefix."""

    def __init__(self, prefix: str) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._prefix = prefix
        self._written = 0

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Adds a node of one output and returns that."""
        return self.add_many(op, inputs, 1, **attributes)[0]

    def add_many(self, op: str, inputs: Sequence[str], count: int, **attributes: Any) -> list[str]:
        """Adds a node of several outputs and returns them."""
        from onnx import helper

        self._written += 1
        name = f"{self._prefix}/{op}_{self._written}"
        outputs = [name] if count == 1 else [f"{name}.{i}" for i in range(count)]
        self.nodes.append(helper.make_node(op, inputs, outputs, name=name, **attributes))
        return outputs

    def floats(self, value: npt.ArrayLike) -> str:
        """A float32 constant."""
        return self.constant(value, np.float32)

    def ints(self, value: npt.ArrayLike) -> str:
        """An int64 constant."""
        return self.constant(value, np.int64)

    def constant(self, value: npt.ArrayLike, dtype: npt.DTypeLike) -> str:
        from onnx import numpy_helper

        tensor = numpy_helper.from_array(np.asarray(value, dtype))
        for known in self.constants:
            tensor.name = known.name
            if known == tensor:
                return known.name
        tensor.name = f"{self._prefix}/constant_{len(self.constants)}"
        self.constants.append(tensor)
        return tensor.name

    def to_float(self, tensor: str) -> str:
        return self.add("Cast", tensor, to=1)  # TensorProto.FLOAT

    def to_int32(self, tensor: str) -> str:
        return self.add("Cast", tensor, to=6)  # TensorProto.INT32

    def full_like(self, tensor: str, value: float) -> str:
        """A float32 tensor of another's shape, filled with one value."""
        from onnx import numpy_helper

        fill = numpy_helper.from_array(np.array([value], np.float32))
        return self.add("ConstantOfShape", self.add("Shape", tensor), value=fill)

    def publish(self, tensor: str, name: str) -> None:
        """Renames a tensor, as the graph's outputs need it."""
        from onnx import helper

        self.nodes.append(helper.make_node("Identity", [tensor], [name], name=name))
