"""``python -m afdet_train RECIPE`` is ``trt-afdet train RECIPE``, as torchrun needs a module."""

from __future__ import annotations

import sys

from trt_afdet.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
