"""Writes a network's heads for one picture to a file for detect_dump.cpp.

python plugins/examples/dump_heads.py model.onnx picture.jpg heads.bin
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

from trt_afdet.media import read_picture
from trt_afdet.native import DecodeParams
from trt_afdet.preprocess import preprocess
from trt_afdet.runtime.onnxruntime import OnnxRuntimeBackend
from trt_afdet.support.files import atomic_path


def main() -> int:
    if len(sys.argv) != 4:
        print(__doc__, file=sys.stderr)
        return 2
    model, picture, out = map(Path, sys.argv[1:])
    with OnnxRuntimeBackend(model) as backend:
        images, _ = preprocess([read_picture(picture)], backend.spec)
        heads = backend.infer(images)
        params = bytes(DecodeParams.of(backend.spec))[ctypes.sizeof(ctypes.c_uint32) :]
    with atomic_path(out) as temporary:
        temporary.write_bytes(params + b"".join(head.tobytes() for head in heads))
    return 0


if __name__ == "__main__":
    sys.exit(main())
