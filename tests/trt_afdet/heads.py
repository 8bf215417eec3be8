"""Heads for decode + NMS: the plain, the crowded and the absurd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from trt_afdet.postprocess import logit_threshold
from trt_afdet.spec import ModelSpec

Heads = list[npt.NDArray[Any]]
Problem = tuple[ModelSpec, Heads]

#: Candidates of a level that the kernels list; if there are more, they read the logits again.
LIST_CAPACITY = 24576


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
    with np.errstate(over="ignore"):
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


def filled_heads(
    spec: ModelSpec, logit: float, distance: float, dtype: Any = np.float32, batch: int = 1
) -> Heads:
    """One logit and one distance everywhere."""
    cls = [np.full((batch, spec.num_classes, *g), logit, dtype) for g in spec.grid_sizes]
    return cls + [np.full((batch, 4, *g), distance, dtype) for g in spec.grid_sizes]


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


def zeros_of_both_signs(spec: ModelSpec) -> Heads:
    heads = random_heads(spec)
    for index, logits in enumerate(heads[: len(spec.strides)]):
        logits[:] = 0.0 if index % 2 else -0.0
        logits[:, ::2] *= -1
    return heads


def subnormal_heads(spec: ModelSpec, dtype: Any) -> Heads:
    """Logits and distances that a processor flushing subnormals takes for zero."""
    rng = np.random.default_rng(0)
    tiny = float(np.finfo(dtype).tiny)
    cls = [rng.uniform(-tiny, tiny, (1, spec.num_classes, *g)) for g in spec.grid_sizes]
    reg = [rng.uniform(0, 1, (1, 4, *g)) for g in spec.grid_sizes]
    for head in reg:
        head[:, :2] *= tiny
    return [head.astype(dtype) for head in cls + reg]


def threshold_heads(spec: ModelSpec) -> Heads:
    """Logits at the threshold, one step above it, one below."""
    limit = logit_threshold(spec.score_threshold)
    infinity = np.float32(np.inf)
    values = np.array([limit, np.nextafter(limit, infinity), np.nextafter(limit, -infinity)])
    heads = random_heads(spec)
    for logits in heads[: len(spec.strides)]:
        logits[:] = np.resize(values, logits.shape)
    return heads


def chain_heads(spec: ModelSpec) -> Heads:
    """Rows of boxes of which each removes the next one only, so that every second one stays."""
    heads = filled_heads(spec, -20, 0.0)
    rows, columns = spec.grid_sizes[0]
    heads[0][:] = np.linspace(3, 2, rows * columns).reshape(rows, columns)
    # 40 pixels wide, 8 apart: an IoU of 32/48 with the next one, of 24/56 with the one after.
    heads[len(spec.strides)][:] = np.array([20, 3, 20, 3]).reshape(4, 1, 1) / (
        spec.strides[0] * spec.regression_scale
    )
    return heads


def case_matrix() -> dict[str, Callable[[], Problem]]:
    """Named cases, made when called. Small enough for the slowest implementation."""
    cases: dict[str, Callable[[], Problem]] = {}

    def add(name: str, spec: ModelSpec, make: Callable[..., Heads], *args: Any, **kw: Any) -> None:
        cases[name] = lambda: (spec, make(spec, *args, **kw))

    spec = make_spec()
    add("sparse", spec, random_heads, mean=-6)
    add("dense", spec, random_heads, mean=0)
    add("none", spec, random_heads, mean=-30, spread=0.1)
    add("half", spec, random_heads, dtype=np.float16)
    add("batch of 32", spec, random_heads, mean=-4, batch=32)
    # 1 x 1 points of one class: the images start where vectors may not.
    add("batch of 32, half, odd", make_spec(1, 128, 128), random_heads, 0, batch=32, dtype="f2")
    add("wide", make_spec(2, 128, 512), random_heads, mean=-3)
    add("tall", make_spec(2, 512, 128), random_heads, mean=-3)
    add("one class", make_spec(1), random_heads, mean=-1)
    thousand = make_spec(1000, 128, 128)
    add("1000 classes", thousand, random_heads, mean=-7)
    add("1000 classes, half", thousand, random_heads, mean=-4, dtype=np.float16)
    add("1000 classes, agnostic", thousand.replace(class_agnostic=True), random_heads, mean=-4)
    many = make_spec(40, 256, 256)
    assert many.num_classes * many.grid_sizes[0][0] * many.grid_sizes[0][1] > LIST_CAPACITY
    add("more candidates than a list holds", many, random_heads, mean=1)
    add("more equal candidates than a list holds", many, filled_heads, 1.5, 0.4)
    most = many.replace(candidates_per_level=9000, max_detections=1000)
    add("9000 of more candidates than a list holds", most, random_heads, mean=1)
    changed: dict[str, dict[str, Any]] = {
        "threshold 0": {"score_threshold": 0.0},
        "threshold 1": {"score_threshold": 1.0},
        "k = 1": {"candidates_per_level": 1},
        "k = 1025": {"candidates_per_level": 1025},
        "k = 4096": {"candidates_per_level": 4096},
        "one detection": {"max_detections": 1},
        "1000 detections": {"max_detections": 1000, "nms_iou": 0.9},
        "agnostic": {"class_agnostic": True},
        "IoU 0": {"nms_iou": 0.0},
        "IoU 1": {"nms_iou": 1.0, "max_detections": 300},
        "scale 0.01": {"regression_scale": 0.01},
    }
    for name, changes in changed.items():
        add(name, spec.replace(**changes), random_heads)
    for name, strides in {
        "one level": (16,),
        "three levels": (4, 32, 64),
        "eight levels": tuple(2**i for i in range(1, 9)),
    }.items():
        add(name, make_spec(2, 256, 256, strides=strides), random_heads, mean=-4)

    add("all equal", spec, filled_heads, 0.25, 0.5)
    half = spec.replace(score_threshold=0.5)
    low = spec.replace(score_threshold=0.4)
    add("zeros of both signs", low, zeros_of_both_signs)
    add("zeros at the threshold", half, zeros_of_both_signs)
    add("at the threshold", spec.replace(score_threshold=0.3), threshold_heads)
    add("subnormal", half, subnormal_heads, np.float32)
    add("subnormal half", half, subnormal_heads, np.float16)
    add("NaN alone", spec, filled_heads, np.nan, np.nan)
    add("infinity alone", spec, filled_heads, np.inf, 0.5)
    add("minus infinity alone", spec.replace(score_threshold=0), filled_heads, -np.inf, 0.5)
    add("65504 alone", spec, filled_heads, 65504, 65504, np.float16)
    add("distances of zero", spec, random_heads, distance=0)
    add("huge distances", spec, random_heads, distance=1e4)
    add("distances that overflow", spec, random_heads, distance=3e38)
    add("distances that overflow half", spec, random_heads, distance=1e5, dtype=np.float16)
    add("a chain", make_spec(1, 128, 512), chain_heads)
    add("absurd", spec.replace(score_threshold=0.0), absurd_heads, np.float32)
    add("absurd half", spec.replace(score_threshold=0.0), absurd_heads, np.float16)
    add("absurd, few", spec.replace(candidates_per_level=9), absurd_heads, np.float32, seed=3)
    return cases


def large_cases() -> dict[str, Callable[[], Problem]]:
    """Cases of real size and beyond."""
    coco = make_spec(80, 512, 512)
    wide = make_spec(20, 1024, 2048)
    thousand = make_spec(1000, 512, 512, score_threshold=0.3)
    return {
        "80 classes, dense": lambda: (coco, random_heads(coco, mean=-1, seed=9)),
        "80 classes, batch of 32": lambda: (coco, random_heads(coco, -6, batch=32, dtype="f2")),
        "1024 x 2048": lambda: (wide, random_heads(wide, mean=-4)),
        "1000 classes, dense": lambda: (thousand, random_heads(thousand, 0, dtype=np.float16)),
    }


@st.composite
def problems(draw: st.DrawFn, most_points: int = 50_000, most_values: int = 100_000) -> Problem:
    """A spec and heads for it, of a few values each, so that ties are the rule.

    Args:
        most_points: Of all levels; at least 4.
        most_values: Logits of the batch; at least as many.
    """
    sides = st.sampled_from([128, 256, 384])
    strides = [(8, 16, 32, 64, 128), (32, 64, 128), (64,), (4, 8), tuple(2**i for i in range(8))]
    height, width, levels = draw(
        st.tuples(sides, sides, st.sampled_from(strides)).filter(
            lambda t: sum(t[0] // s * (t[1] // s) for s in t[2]) <= most_points
        )
    )
    points = sum(height // s * (width // s) for s in levels)
    classes = draw(
        st.sampled_from([c for c in (1, 2, 3, 7, 20, 80, 1000) if c * points <= most_values])
    )
    batches = [b for b in (1, 2, 3, 7, 32) if b * classes * points <= most_values]
    spec = make_spec(
        classes,
        height,
        width,
        strides=levels,
        score_threshold=draw(st.sampled_from([0.05, 0.0, 0.3, 0.5, 1.0])),
        candidates_per_level=draw(st.sampled_from([1000, 1, 5, 100, 5000])),
        max_detections=draw(st.sampled_from([100, 1, 10, 400, 1000])),
        nms_iou=draw(st.sampled_from([0.5, 0.0, 0.3, 1.0])),
        class_agnostic=draw(st.booleans()),
    )
    dtype = draw(st.sampled_from([np.float32, np.float16]))
    heads = random_heads(
        spec,
        mean=draw(st.sampled_from([-3.0, -8.0, 0.0])),
        batch=draw(st.sampled_from(batches)),
        seed=draw(st.integers(0, 2**16)),
        dtype=dtype,
        distance=draw(st.sampled_from([1.2, 0.3, 6.0, 1e5])),
    )
    steps = draw(st.sampled_from([None, 1.0, 0.125]))
    if steps is not None:
        with np.errstate(all="ignore"):
            heads = [(np.round(head / steps) * steps).astype(dtype) for head in heads]
    odd = [np.nan, np.inf, -np.inf, 0.0, -0.0, 65504.0, -65504.0, 6e-8]
    for _ in range(draw(st.integers(0, 4))):
        head = heads[draw(st.integers(0, len(heads) - 1))]
        index = draw(st.integers(0, head.size - 1))
        length = draw(st.sampled_from([1, 3, 50, 2000]))
        head.reshape(-1)[index : index + length] = draw(st.sampled_from(odd))
    return spec, heads
