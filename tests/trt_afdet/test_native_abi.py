"""The C ABI under fire: whatever it is given, a status, never a crash, and nothing written.

The calls run in a process of their own, so that a crash is a failure of the test and not its end.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.paths import ROOT
from tests.skips import skip_test
from trt_afdet import native

#: Random calls, most of them bad; its own program.
FUZZ = Path(__file__).with_name("abi_fuzz.py")


@pytest.mark.parametrize("kind", ["host", "emulated", "cuda"])
@pytest.mark.parametrize("seed", [1, 2])
def test_no_call_crashes(kind: str, seed: int) -> None:
    try:
        {"host": native.host, "emulated": native.emulated, "cuda": native.cuda}[kind]()
    except native.NativeMissingError as error:
        skip_test(error, "make native-host; for CUDA a GPU and make gpu-check")
    result = subprocess.run(
        [sys.executable, str(FUZZ), kind, str(seed), "4000"],
        capture_output=True,
        text=True,
        check=False,
    )
    # The last line of the output is the call that it ended in.
    assert result.returncode == 0, result.stdout[-500:] + result.stderr


def test_the_example_prints_what_the_runtime_finds(tmp_path: Path) -> None:
    import cv2

    from trt_afdet.postprocess import postprocess
    from trt_afdet.preprocess import preprocess
    from trt_afdet.runtime.onnxruntime import OnnxRuntimeBackend

    root = ROOT
    try:
        program = Path(native.host().path).parents[1] / "bin" / "detect_dump"
    except native.NativeMissingError as error:
        skip_test(error, "make native-host; for CUDA a GPU and make gpu-check")
    if not program.exists():
        skip_test(program, "make native-host")
    model = root / "trt_afdet" / "assets" / "model.onnx"
    capture = cv2.VideoCapture(str(root / "trt_afdet" / "assets" / "clip.mp4"))
    frame = np.asarray(capture.read()[1], np.uint8)
    cv2.imwrite(str(tmp_path / "frame.png"), frame)
    script = root / "plugins" / "examples" / "dump_heads.py"
    command = [sys.executable, str(script), str(model), str(tmp_path / "frame.png")]
    subprocess.run([*command, str(tmp_path / "heads.bin")], check=True)
    result = subprocess.run(
        [str(program), str(tmp_path / "heads.bin")], capture_output=True, text=True, check=True
    )
    with OnnxRuntimeBackend(model) as backend:
        want = postprocess(backend.infer(preprocess([frame], backend.spec)[0]), backend.spec)[0]
    rows = [line.split() for line in result.stdout.splitlines()]
    assert len(rows) == len(want) > 0
    for row, box, score, class_id in zip(
        rows, want.xyxy, want.confidence, want.class_id, strict=True
    ):
        assert int(row[0]) == class_id
        assert float(row[1]) == pytest.approx(score, abs=1e-4)
        assert [float(v) for v in row[2:]] == pytest.approx(box.tolist(), abs=0.01)

    whole = (tmp_path / "heads.bin").read_bytes()
    for damaged, message in {
        whole[:5000]: "cut off",
        whole[:20]: "not a dump of heads",
        b"\xff" * 5000: "invalid parameters: status 3",
    }.items():
        (tmp_path / "damaged.bin").write_bytes(damaged)
        refusal = subprocess.run(
            [str(program), str(tmp_path / "damaged.bin")],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (refusal.returncode, message in refusal.stderr) == (2, True), refusal.stderr
