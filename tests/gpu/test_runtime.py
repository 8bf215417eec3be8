"""The runtime's tests on a GPU: the device's contract, and the whole runner."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.gpu.gpu_rig import why_not
from tests.skips import skip_test
from tests.trt_afdet.runtime import test_runner
from tests.trt_afdet.runtime.test_runner import *  # noqa: F403 - its tests, with this folder's rig.
from tests.trt_afdet.runtime.test_runner_in_pipeline import *  # noqa: F403

pytestmark = pytest.mark.gpu

CONTRACT = Path(test_runner.__file__).with_name("test_device.py")


@pytest.mark.parametrize(("library", "module"), [("cuda-python", "cuda"), ("pycuda", "pycuda")])
def test_the_devices_contract(library: str, module: str) -> None:
    if why_not():
        skip_test(why_not(), "make gpu-check")
    if importlib.util.find_spec(module) is None:
        skip_test(f"{library} is not installed", f"pip install {library}")
    # Its own process: the two packages should not share a context in a test of either.
    options = ["-q", "-p", "no:cacheprovider", "-k", "TestContract"]
    result = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(CONTRACT)],
        env={**os.environ, "TRT_AFDET_TEST_DEVICE": library},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_results_on_the_device_go_to_torch(rig: object) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install -e .[train]")
    if not torch.cuda.is_available():
        skip_test("torch sees no GPU", "pip install torch, for this CUDA")
    runner = rig.runner()  # type: ignore[attr-defined]
    ticket = runner.submit([test_runner.exact(1)])
    on_device = ticket.on_device()
    scores = torch.from_dlpack(on_device.scores)
    same = torch.as_tensor(on_device.scores, device="cuda")
    found = ticket.detections()[0]
    assert scores.is_cuda
    assert scores.data_ptr() == same.data_ptr() == on_device.scores.address
    assert scores[0, : len(found)].cpu().numpy().tolist() == found.confidence.tolist()
