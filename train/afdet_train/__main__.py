"""``python -m afdet_train RECIPE``: the same as ``trt-afdet train RECIPE``, for torchrun."""

from __future__ import annotations

import sys

from trt_afdet.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
