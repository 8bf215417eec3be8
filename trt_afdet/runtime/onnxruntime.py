"""ONNX Runtime backend: the canonical ONNX file, or one with portable NMS, on any machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trt_afdet.errors import InvalidValueError, RunError
from trt_afdet.interface import (
    DETECTION_NAMES,
    INPUT_NAME,
    NMS_KEY,
    PLUGIN_OP,
    check_network,
    foreign_network,
    read_nms,
    read_spec,
)
from trt_afdet.runtime.backend import HostBackend, check_images
from trt_afdet.runtime.model_errors import reason, refusal
from trt_afdet.spec import METADATA_KEY
from trt_afdet.support.files import check_model_path
from trt_afdet.support.packages import missing

#: ONNX Runtime's severities: only what ends the process. Everything else comes as an exception.
_FATAL = 4

_ELEMENTS = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(uint8)": "uint8"}


class OnnxRuntimeBackend(HostBackend):
    """A canonical ONNX file, or one that ends in NMS of ONNX operators, opened.

    One session may be run from several threads at a time, as ONNX Runtime allows.

    Args:
        path: The file.
        threads: Threads inside an operator; ONNX Runtime's choice (the physical cores) by default.
        providers: Execution providers in order of preference; the CPU by default.
        device: Number of the GPU of ONNX Runtime's CUDA provider, or -1 for the CPU; used without
            ``providers``.

    Raises:
        MissingFileError: If there is no such file.
        CorruptFileError: If it is not a readable ONNX file.
        InvalidValueError: If it is not ours, does not fit its own spec, or ends in the TensorRT
            plugin.
        MissingDependencyError: If onnxruntime is not installed.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        threads: int | None = None,
        providers: Sequence[str] | None = None,
        device: int | None = None,
    ) -> None:
        self.path = Path(path)
        self._session: Any = _open(self.path, threads, providers, device)
        metadata = self._session.get_modelmeta().custom_metadata_map
        inputs = self._session.get_inputs()
        outputs = [(o.name, o.shape) for o in self._session.get_outputs()]
        if not metadata.get(METADATA_KEY):
            raise foreign_network(self.path, [(i.name, i.shape) for i in inputs], outputs)
        self.spec = read_spec(metadata.get(METADATA_KEY), self.path)
        self.has_nms = read_nms(metadata.get(NMS_KEY), self.path) != "none"
        self._outputs = DETECTION_NAMES if self.has_nms else self.spec.output_names
        self.batch_size = check_network(
            self.spec,
            self.path,
            [(i.name, i.shape, _ELEMENTS.get(i.type, i.type)) for i in inputs],
            outputs,
            has_nms=self.has_nms,
        )
        self._element = _ELEMENTS[inputs[0].type]

    def infer(self, images: npt.NDArray[np.float32]) -> list[npt.NDArray[Any]]:
        if self._session is None:
            raise RunError("the detector is closed", got=self.path)
        check_images(images, (3, self.spec.height, self.spec.width), self.batch_size)
        try:
            typed = images.astype(self._element, copy=False)
            outputs = self._session.run(list(self._outputs), {INPUT_NAME: typed})
        except Exception as error:  # ONNX Runtime's exceptions share no base class.
            raise RunError(f"ONNX Runtime cannot run {self.path}", got=reason(error)) from error
        return list(outputs)

    def close(self) -> None:
        self._session = None


def _open(
    path: Path, threads: int | None, providers: Sequence[str] | None, device: int | None
) -> Any:
    """An onnxruntime.InferenceSession."""
    if threads is not None and threads < 1:
        raise InvalidValueError("threads must be at least 1", got=threads)
    check_model_path(path)
    try:
        import onnxruntime
    except ImportError as error:
        raise missing(error) from error
    on_gpu = not providers and device is not None and device >= 0
    chosen = list(providers or ["CUDAExecutionProvider" if on_gpu else "CPUExecutionProvider"])
    known = onnxruntime.get_available_providers()
    if unknown := sorted(set(chosen) - set(known)):
        what = "this ONNX Runtime has no such execution provider"
        raise InvalidValueError(what, got=unknown[0], hint=f"it has {', '.join(known)}")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL
    # Q/DQ as written: fused into its integer operators, a concatenation with FP16 scales fails.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    if threads is not None:
        options.intra_op_num_threads = threads
    settings = [{"device_id": device}] if on_gpu else None
    try:
        return onnxruntime.InferenceSession(
            str(path), options, providers=chosen, provider_options=settings
        )
    except Exception as error:  # ONNX Runtime's exceptions share no base class.
        if PLUGIN_OP in str(error):
            raise InvalidValueError(
                f"{path} ends in the TensorRT plugin {PLUGIN_OP}, which ONNX Runtime does not have",
                hint="run the model it was made from, or add NMS in its onnx form",
            ) from error
        raise refusal(path, error, "ONNX Runtime") from error
