"""``python -m trt_afdet`` is ``trt-afdet``."""

from __future__ import annotations

import sys

from trt_afdet.cli import main

if __name__ == "__main__":
    sys.exit(main())
