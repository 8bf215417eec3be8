"""trt-afdet: an anchor-free object detector from PyTorch training to TensorRT on the edge."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trt_afdet.detections import Detections as Detections
    from trt_afdet.runtime.detector import Detector as Detector
    from trt_afdet.spec import ModelSpec as ModelSpec

__version__ = "0.1.0"
__all__ = ["Detections", "Detector", "ModelSpec", "__version__"]

_HOMES = {
    "Detections": "trt_afdet.detections",
    "Detector": "trt_afdet.runtime.detector",
    "ModelSpec": "trt_afdet.spec",
}


def __getattr__(name: str) -> Any:
    # Loaded on first use: OpenCV alone takes longer to import than `trt-afdet --help` may.
    if name in _HOMES:
        import importlib

        from trt_afdet.support.packages import is_ours, missing

        try:
            module = importlib.import_module(_HOMES[name])
        except ImportError as error:
            if is_ours(error):
                raise
            raise missing(error) from error
        return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
