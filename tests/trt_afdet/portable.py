"""The portable ONNX form of decode + NMS, run in ONNX Runtime on heads as they are."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from tests.trt_afdet.onnx_models import build_model, heads_as_inputs
from trt_afdet.engine.onnx.nms import add_nms
from trt_afdet.interface import DETECTION_NAMES
from trt_afdet.spec import ModelSpec

Arrays = tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]


@lru_cache(maxsize=16)
def _session(spec: ModelSpec, half: bool, loop: bool) -> onnxruntime.InferenceSession:
    canonical = build_model(spec, half=half)
    model = heads_as_inputs(add_nms(canonical, "onnx", loop=loop), canonical)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


def run_portable(
    heads: Sequence[npt.NDArray[Any]], spec: ModelSpec, *, loop: bool = False
) -> Arrays:
    """Runs what ``add_nms(model, "onnx", loop=loop)`` adds.

    Args:
        heads: In the order of ``spec.output_names``, all float32 or all float16, N in front.
        spec: Gives thresholds, scale and sizes.
        loop: Which way of suppression.

    Returns:
        num_detections int32 [N, 1], boxes float32 [N, M, 4], scores float32 [N, M], classes int32
        [N, M].
    """
    session = _session(spec, heads[0].dtype == np.float16, loop)
    inputs = dict(zip(spec.output_names, heads, strict=True))
    count, boxes, scores, classes = session.run(list(DETECTION_NAMES), inputs)
    return count, boxes, scores, classes
