"""Heads for decode + NMS: the plain, the crowded and the absurd."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from trt_afdet.spec import ModelSpec

Heads = list[npt.NDArray[Any]]


def make_spec(classes: int = 3, height: int = 128, width: int = 256, **changes: Any) -> ModelSpec:
    names = tuple(f"c{i}" for i in range(classes))
    return ModelSpec(name="t", class_names=names, height=height, width=width, **changes)


def random_heads(
    spec: ModelSpec,
    mean: float = -2.0,
    spread: float = 1.5,
    batch: int = 1,
    seed: int = 0,
    dtype: Any = np.float32,
    distance: float = 1.2,
) -> Heads:
    """Logits normal, distances uniform in 0..distance."""
    rng = np.random.default_rng(seed)
    cls = [rng.normal(mean, spread, (batch, spec.num_classes, *g)) for g in spec.grid_sizes]
    reg = [rng.uniform(0, distance, (batch, 4, *g)) for g in spec.grid_sizes]
    return [head.astype(dtype) for head in cls + reg]


def tie_free_heads(spec: ModelSpec, mean: float, batch: int = 1, seed: int = 0) -> Heads:
    """Logits of which no two of an image are equal, for oracles with another order of ties."""
    rng = np.random.default_rng(seed)
    sizes = [spec.num_classes * rows * columns for rows, columns in spec.grid_sizes]
    total = sum(sizes)
    levels: list[list[npt.NDArray[np.float32]]] = [[] for _ in sizes]
    for _ in range(batch):
        values = np.linspace(mean - 4, mean + 4, total, dtype=np.float64)
        logits = rng.permutation(values).astype(np.float32)
        for level, part in enumerate(np.split(logits, np.cumsum(sizes)[:-1])):
            levels[level].append(part.reshape(spec.num_classes, *spec.grid_sizes[level]))
    reg = [rng.uniform(0, 1.2, (batch, 4, *g)).astype(np.float32) for g in spec.grid_sizes]
    return [np.stack(level) for level in levels] + reg


#: Named cases: (spec, heads). Small enough for the slowest implementation.
def case_matrix() -> dict[str, tuple[ModelSpec, Heads]]:
    spec = make_spec()
    cases: dict[str, tuple[ModelSpec, Heads]] = {
        "sparse": (spec, random_heads(spec, mean=-6)),
        "dense": (spec, random_heads(spec, mean=0)),
        "none": (spec, random_heads(spec, mean=-30, spread=0.1)),
        "half": (spec, random_heads(spec, dtype=np.float16)),
        "batch of 32": (spec, random_heads(spec, mean=-4, batch=32)),
        "wide": (
            make_spec(2, 128, 512),
            random_heads(make_spec(2, 128, 512), mean=-3),
        ),
        "one class": (make_spec(1), random_heads(make_spec(1), mean=-1)),
        "1000 classes": (
            make_spec(1000, 128, 128),
            random_heads(make_spec(1000, 128, 128), mean=-7),
        ),
        "1000 classes, half": (
            make_spec(1000, 128, 128),
            random_heads(make_spec(1000, 128, 128), mean=-4, dtype=np.float16),
        ),
        "more candidates than a list holds": (
            make_spec(40, 256, 256),
            random_heads(make_spec(40, 256, 256), mean=1),
        ),
    }
    for name, changes in {
        "threshold 0": {"score_threshold": 0.0},
        "threshold 1": {"score_threshold": 1.0},
        "k = 1": {"candidates_per_level": 1},
        "k = 2000": {"candidates_per_level": 2000},
        "one detection": {"max_detections": 1},
        "1000 detections": {"max_detections": 1000, "nms_iou": 0.9},
        "agnostic": {"class_agnostic": True},
        "IoU 0": {"nms_iou": 0.0},
        "IoU 1": {"nms_iou": 1.0, "max_detections": 300},
    }.items():
        changed = spec.replace(**changes)
        cases[name] = (changed, random_heads(changed))
    for name, strides in {
        "one level": (16,),
        "eight levels": tuple(2**i for i in range(1, 9)),
    }.items():
        other = make_spec(2, 256, 256, strides=strides)
        cases[name] = (other, random_heads(other, mean=-4))

    equal = random_heads(spec)
    for head in equal[:5]:
        head[:] = 0.25
    cases["all equal"] = (spec, equal)
    zeros = random_heads(spec.replace(score_threshold=0.4))
    for index, head in enumerate(zeros[:5]):
        head[:] = 0.0 if index % 2 else -0.0
    cases["zeros of both signs"] = (spec.replace(score_threshold=0.4), zeros)
    cases["absurd"] = (spec.replace(score_threshold=0.0), absurd_heads(spec, np.float32))
    cases["absurd half"] = (spec.replace(score_threshold=0.0), absurd_heads(spec, np.float16))
    cases["absurd, few"] = (
        spec.replace(candidates_per_level=9),
        absurd_heads(spec, np.float32, seed=3),
    )
    return cases


def absurd_heads(spec: ModelSpec, dtype: Any, seed: int = 0) -> Heads:
    """NaN of both signs, infinities, the extremes of the type, zero and huge distances."""
    rng = np.random.default_rng(seed)
    limits = np.finfo(dtype)
    odd = [np.nan, np.inf, -np.inf, limits.max, limits.min, limits.smallest_subnormal, 0.0, -0.0]
    heads = random_heads(spec, mean=0, seed=seed, dtype=dtype)
    for head in heads:
        flat = head.reshape(-1)
        for value in odd:
            flat[rng.random(flat.size) < 0.04] = value
        flat[rng.random(flat.size) < 0.02] = np.copysign(dtype(np.nan), dtype(-1))
    return heads


@st.composite
def problems(draw: st.DrawFn) -> tuple[ModelSpec, Heads]:
    """A spec and heads for it, of a few values each, so that ties are the rule."""
    strides = draw(st.sampled_from([(8, 16, 32, 64, 128), (32, 64, 128), (64,)]))
    spec = make_spec(
        draw(st.sampled_from([1, 2, 3, 7, 20])),
        draw(st.sampled_from([128, 256])),
        draw(st.sampled_from([128, 256])),
        strides=strides,
        score_threshold=draw(st.sampled_from([0.0, 0.05, 0.3, 0.5, 1.0])),
        candidates_per_level=draw(st.sampled_from([1, 5, 100, 1000])),
        max_detections=draw(st.sampled_from([1, 10, 100, 400])),
        nms_iou=draw(st.sampled_from([0.0, 0.3, 0.5, 1.0])),
        class_agnostic=draw(st.booleans()),
    )
    dtype = draw(st.sampled_from([np.float32, np.float16]))
    batch = draw(st.integers(1, 3))
    heads = random_heads(
        spec,
        mean=draw(st.sampled_from([-8.0, -3.0, 0.0])),
        batch=batch,
        seed=draw(st.integers(0, 2**16)),
        dtype=dtype,
        distance=draw(st.sampled_from([0.3, 1.2, 6.0])),
    )
    steps = draw(st.sampled_from([None, 1.0, 0.125]))
    if steps is not None:
        heads = [(np.round(head / steps) * steps).astype(dtype) for head in heads]
    odd = [np.nan, np.inf, -np.inf, 0.0, -0.0, 65504.0, -65504.0, 6e-8]
    for _ in range(draw(st.integers(0, 4))):
        head = heads[draw(st.integers(0, len(heads) - 1))]
        index = draw(st.integers(0, head.size - 1))
        length = draw(st.sampled_from([1, 3, 50]))
        head.reshape(-1)[index : index + length] = draw(st.sampled_from(odd))
    return spec, heads
