"""Head tensors for tests: random, tied, with holes, at one probability scale."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from trt_afdet.spec import ModelSpec

Heads = list[npt.NDArray[Any]]


def make_spec(classes: int = 3, height: int = 256, width: int = 384, **changes: Any) -> ModelSpec:
    names = tuple(f"class {i}" for i in range(classes))
    return ModelSpec(name="test", class_names=names, height=height, width=width, **changes)


def random_heads(
    spec: ModelSpec,
    *,
    seed: int = 0,
    batch: int = 1,
    bias: float = -2.0,
    spread: float = 2.0,
    reach: float = 1.0,
    steps: float | None = None,
) -> Heads:
    """Normal logits and exponential distances.

    Args:
        spec: Gives shapes.
        seed: Of the numbers.
        batch: Images.
        bias, spread: Mean and standard deviation of the logits.
        reach: Mean distance, in units of S * stride.
        steps: Round to multiples of this: logits and boxes then tie.
    """
    rng = np.random.default_rng(seed)
    sizes = [(batch, spec.num_classes, *size) for size in spec.grid_sizes]
    heads: Heads = [rng.normal(bias, spread, size).astype(np.float32) for size in sizes]
    sizes = [(batch, 4, *size) for size in spec.grid_sizes]
    heads += [rng.exponential(reach, size).astype(np.float32) for size in sizes]
    if steps is not None:
        heads = [(np.round(head / steps) * steps).astype(np.float32) for head in heads]
    return heads
