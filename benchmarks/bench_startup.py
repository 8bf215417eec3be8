"""Start-up time of whole processes (interleaved medians), compared with Python and Ultralytics."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

from table import installed, interleaved_ms, rows, show


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="in all (default: 20)")
    args = parser.parse_args()
    os.environ.setdefault("YOLO_OFFLINE", "true")
    programs = {
        "python -c pass": "pass",
        "import trt_afdet": "import trt_afdet",
        "trt-afdet --help": "from trt_afdet.cli import main; raise SystemExit(main(['--help']))",
        "import trt_afdet.runtime.detector": "import trt_afdet.runtime.detector",
    }
    if installed("ultralytics", "pip install ultralytics"):
        programs["import ultralytics"] = "import ultralytics"
        programs["from ultralytics import YOLO"] = "from ultralytics import YOLO"

    def run(code: str) -> None:
        subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)

    tasks = {name: lambda code=code: run(code) for name, code in programs.items()}
    show("start-up of a process", rows("whole process", interleaved_ms(tasks, args.seconds, 1)))


if __name__ == "__main__":
    main()
