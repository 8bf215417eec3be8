"""trt-afdet: an anchor-free object detector from PyTorch training to TensorRT on the edge."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trt_afdet.support.version import VERSION

if TYPE_CHECKING:
    from trt_afdet.api import Detector as Detector
    from trt_afdet.detections import Detection as Detection
    from trt_afdet.detections import Detections as Detections
    from trt_afdet.engine.make import build_engine as build_engine
    from trt_afdet.errors import AfdetError as AfdetError
    from trt_afdet.evaluation import evaluate as evaluate
    from trt_afdet.live.watch import watch as watch
    from trt_afdet.spec import ModelSpec as ModelSpec
    from trt_afdet.stream.analysis.tracking import Tracker as Tracker
    from trt_afdet.stream.analysis.zones import Zones as Zones

__version__ = VERSION

#: Where each public name lives. These are the public API; every other module may change.
_HOMES = {
    "AfdetError": "trt_afdet.errors",
    "Detection": "trt_afdet.detections",
    "Detections": "trt_afdet.detections",
    "Detector": "trt_afdet.api",
    "ModelSpec": "trt_afdet.spec",
    "Tracker": "trt_afdet.stream.analysis.tracking",
    "Zones": "trt_afdet.stream.analysis.zones",
    "build_engine": "trt_afdet.engine.make",
    "evaluate": "trt_afdet.evaluation",
    "watch": "trt_afdet.live.watch",
}

# fmt: off
__all__ = [
    "AfdetError", "Detection", "Detections", "Detector", "ModelSpec", "Tracker", "Zones",
    "__version__", "build_engine", "evaluate", "watch",
]
# fmt: on

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        # Loaded on first use: OpenCV alone takes longer to import than `trt-afdet --help` may.
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        import importlib

        from trt_afdet.support.packages import is_ours, missing

        try:
            return getattr(importlib.import_module(_HOMES[name]), name)
        except ImportError as error:
            if is_ours(error):
                raise
            raise missing(error) from error

    def __dir__() -> list[str]:
        return sorted([*globals(), *_HOMES])
