"""Calibration: pictures through the network, and the range of every tensor that INT8 needs.

The ranges come from ONNX Runtime's own calibrators, one picture at a time, so that no more than one
picture's activations are in memory. They are kept in a file under a key of everything they depend
on.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import tempfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trt_afdet.datasets.index import ProgressLike
from trt_afdet.engine.options import CALIBRATION_METHODS
from trt_afdet.engine.sample_pictures import Pictures
from trt_afdet.errors import InvalidValueError
from trt_afdet.interface import INPUT_NAME
from trt_afdet.preprocess import preprocess
from trt_afdet.spec import ModelSpec
from trt_afdet.support.files import write_text
from trt_afdet.support.packages import missing

if TYPE_CHECKING:
    import onnx


#: Fewer pictures than this say nothing about a network's activations.
FEWEST = 16

#: Layout of the cache file, and part of the key: a change of how ranges are computed changes it.
CACHE_VERSION = 1

#: Bins of the first picture's histogram; they become more where later pictures reach further.
_BINS = 1024

#: What the percentile method keeps, in percent.
PERCENTILE = 99.99

Warn = Callable[[str], None]


@dataclass(frozen=True)
class Ranges:
    """What calibration found: the lowest and highest value to represent of each tensor.

    ``key`` is the SHA-256 of all it depends on; ``skipped`` pictures could not be read.
    """

    key: str
    method: str
    tensors: Mapping[str, tuple[float, float]]
    pictures: int
    skipped: int


def calibration_key(
    model_sha256: str, pictures: Pictures, spec: ModelSpec, method: str, tensors: Collection[str]
) -> str:
    """SHA-256 of what ranges depend on: network, pictures, preprocessing, method, tensors."""
    return _sha256(
        {
            "version": CACHE_VERSION,
            "model": model_sha256,
            "pictures": pictures.digest(),
            "spec": spec.to_json(),
            "method": method,
            "parameters": [_BINS, PERCENTILE],
            "tensors": sorted(tensors),
        }
    )


def _sha256(raw: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(raw, sort_keys=True).encode()).hexdigest()


def calibrate(
    model: onnx.ModelProto,
    spec: ModelSpec,
    pictures: Pictures,
    tensors: Collection[str],
    *,
    method: str = "minmax",
    model_sha256: str | None = None,
    cache: Path | None = None,
    progress: ProgressLike | None = None,
    warn: Warn | None = None,
) -> Ranges:
    """The range of each tensor over the pictures, of which :data:`FEWEST` must be readable.

    ``method`` is "minmax" (nothing cut off), "percentile" (a ten-thousandth) or "entropy" (as much
    as loses the least information). ``model_sha256`` is of the model's file, by default of the
    model itself. Ranges are read from ``cache`` if its key is this run's, and written to it.
    ``warn`` is told when it cannot be used, and of skipped pictures.

    Raises:
        InvalidValueError: If the method is unknown or too few pictures can be read.
        WriteError: If the cache cannot be written.
        MissingDependencyError: If onnx or onnxruntime is not installed.
    """
    if method not in CALIBRATION_METHODS:
        raise InvalidValueError(
            f"the method must be one of {', '.join(CALIBRATION_METHODS)}", got=method
        )
    digest = model_sha256 or hashlib.sha256(model.SerializeToString()).hexdigest()
    key = calibration_key(digest, pictures, spec, method, tensors)
    found = read_cache(cache, key, warn) if cache is not None else None
    if found is not None and set(found.tensors) == set(tensors):
        return found
    ranges = _run(model, spec, pictures, tensors, method, progress)
    skipped = len(pictures.skipped)
    if warn is not None:
        if pictures.truth is not None:
            for line in pictures.truth.report.lines():
                warn(f"{pictures.source}: {line}")
        if skipped:
            first = next(iter(pictures.skipped.values()))
            warn(f"{skipped} of {len(pictures)} calibration pictures skipped; the first: {first}")
    result = Ranges(key, method, ranges, len(pictures) - skipped, skipped)
    if cache is not None:
        raw = {"version": CACHE_VERSION, **vars(result), "tensors": dict(sorted(ranges.items()))}
        write_text(cache, json.dumps({**raw, "sha256": _sha256(raw)}, indent=1) + "\n")
    return result


def read_cache(path: Path, key: str, warn: Warn | None = None) -> Ranges | None:
    """The ranges in a file, if it is whole and of this key."""
    if not path.is_file():
        return None
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if raw.pop("sha256") != _sha256(raw):
            raise ValueError("it was changed")
        if raw["version"] != CACHE_VERSION or raw["key"] != key:
            return None
        tensors = {name: (float(low), float(high)) for name, (low, high) in raw["tensors"].items()}
        return Ranges(key, raw["method"], tensors, int(raw["pictures"]), int(raw["skipped"]))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        if warn is not None:
            warn(f"the calibration cache {path} is damaged ({error!r}); calibrating again")
        return None


def _run(
    model: onnx.ModelProto,
    spec: ModelSpec,
    pictures: Pictures,
    tensors: Collection[str],
    method: str,
    progress: ProgressLike | None,
) -> dict[str, tuple[float, float]]:
    import onnx

    # The calibrators print what they do; progress is ours to show.
    with tempfile.TemporaryDirectory(prefix="trt-afdet-") as folder, _silent():
        path = Path(folder) / "model.onnx"
        onnx.save(model, str(path))
        calibrator = _calibrator(method, path, tensors)
    pictures.skipped.clear()
    batch = model.graph.input[0].type.tensor_type.shape.dim[0].dim_value or 1
    used = 0
    for _, frame in pictures.shown(progress, "calibrating"):
        image = preprocess([frame], spec)[0]
        with _silent():
            calibrator.collect_data(OneInput(np.repeat(image, batch, axis=0)))
        used += 1
    if used < FEWEST:
        why = next((f"; the first skipped: {e}" for e in pictures.skipped.values()), "")
        raise InvalidValueError(
            f"calibration needs at least {FEWEST} readable pictures",
            got=f"{used} of {len(pictures)} in {pictures.source}{why}",
        )
    with _silent():
        data = calibrator.compute_data()
    result = {}
    for name in tensors:
        low, high = (float(np.asarray(v).reshape(-1)[0]) for v in data[name].range_value)
        if not (math.isfinite(low) and math.isfinite(high)):
            raise InvalidValueError(
                f"tensor {name} is not finite on the calibration pictures", got=f"{low}..{high}"
            )
        result[name] = (low, high)
    return result


def _calibrator(method: str, path: Path, tensors: Collection[str]) -> Any:
    """One of ONNX Runtime's calibrators, for these tensors alone."""
    try:
        from onnxruntime.quantization import calibrate as library
    except ImportError as error:
        raise missing(error, extra="quantize") from error
    # Not "symmetric": that counts in a slower way, and what becomes of the range is so anyway.
    percentile = {"num_bins": _BINS, "percentile": PERCENTILE, "symmetric": False}
    kinds: dict[str, tuple[Any, dict[str, Any]]] = {
        "minmax": (library.MinMaxCalibrater, {}),
        "entropy": (library.EntropyCalibrater, {"num_bins": _BINS}),
        "percentile": (library.PercentileCalibrater, percentile),
    }
    base, options = kinds[method]

    class Chosen(base):  # type: ignore[misc, valid-type]
        """The library chooses by operator type, and would calibrate three times as much."""

        def select_tensors_to_calibrate(self, model: Any) -> tuple[set[str], dict[str, Any]]:
            graph = model.graph
            values = (*graph.value_info, *graph.output, *graph.input)
            return set(tensors), {value.name: value for value in values}

    class NonZero(library.HistogramCollector):  # type: ignore[misc, name-defined]
        """Leaves out zeros, as TensorRT's own calibrator does.

        Behind a ReLU most values are zero; they fit any range, and their number hides what a small
        one cuts off.
        """

        def collect(self, values: dict[str, Any]) -> Any:
            flat = {name: np.ravel(np.asarray(value)) for name, value in values.items()}
            return super().collect({name: value[value != 0] for name, value in flat.items()})

    calibrator = Chosen(path, augmented_model_path=str(path.with_name("all.onnx")), **options)
    calibrator.augment_graph()
    calibrator.create_inference_session()
    if method == "entropy":
        calibrator.collector = NonZero(
            method="entropy",
            symmetric=False,
            num_bins=_BINS,
            num_quantized_bins=128,
            percentile=PERCENTILE,
            scenario="same",
        )
    return calibrator


class OneInput:
    """A data reader of one input, for ONNX Runtime's calibrators."""

    def __init__(self, images: Any) -> None:
        self._inputs = [{INPUT_NAME: images}]

    def get_next(self) -> dict[str, Any] | None:
        return self._inputs.pop() if self._inputs else None


def _silent() -> contextlib.AbstractContextManager[Any]:
    return contextlib.redirect_stdout(io.StringIO())
