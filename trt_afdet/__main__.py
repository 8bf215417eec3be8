"""``python -m trt_afdet`` is ``trt-afdet``."""

import sys

from trt_afdet.cli import main

if __name__ == "__main__":
    sys.exit(main())
