"""The device: one contract for all implementations, and what opening one refuses.

The contract is tried on host memory here. With ``TRT_AFDET_TEST_DEVICE`` set to the name of a
device library it is tried on that: by one test below with the real packages on a driver whose
device is host memory, and by tests/gpu on the GPU.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.skips import skip_test
from tests.trt_afdet.runtime.host_device import HostDevice
from trt_afdet.errors import InvalidValueError, MissingDependencyError
from trt_afdet.native import NativeError
from trt_afdet.runtime.device import Device, Resources, aligned
from trt_afdet.runtime.devices import open_device

LIBRARY = os.environ.get("TRT_AFDET_TEST_DEVICE")


@pytest.fixture
def device() -> Iterator[Device]:
    made: Device = open_device(library=LIBRARY) if LIBRARY else HostDevice()
    with made.active():
        yield made
    made.close()


@pytest.fixture
def resources(device: Device) -> Iterator[Resources]:
    made = Resources(device)
    yield made
    made.close()
    made.close()
    if isinstance(device, HostDevice):
        assert device.held() == []


class TestContract:
    def test_says_what_it_is(self, device: Device) -> None:
        free, total = device.memory()
        assert 0 < free <= total
        assert device.name
        assert device.library
        assert device.index == 0
        major, minor = device.compute_capability
        assert 5 <= major <= 20
        assert 0 <= minor <= 9
        assert device.dlpack_type == (2 if LIBRARY else 1)

    def test_bytes_go_in_across_and_out(self, device: Device, resources: Resources) -> None:
        size = 100_003
        first, second = resources.memory(size), resources.memory(size)
        assert first % 256 == second % 256 == 0
        stream = resources.stream()
        source, target = resources.pinned(size), resources.pinned(size)
        assert source.shape == (size,)
        assert source.dtype == np.uint8
        source[:] = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
        device.copy_in(first, source, stream)
        device.copy(second + 3, first + 7, size - 10, stream)
        device.copy_out(target[: size - 10], second + 3, stream)
        device.synchronize(stream)
        np.testing.assert_array_equal(target[: size - 10], source[7 : size - 3])

    def test_rows(self, device: Device, resources: Resources) -> None:
        wide, narrow, stream = resources.memory(60), resources.memory(60), resources.stream()
        source, target = resources.pinned(60), resources.pinned(60)
        source[:] = np.arange(60)
        target[:] = 0
        device.copy_in(wide, source, stream)
        device.copy_in(narrow, target, stream)
        device.copy_rows((narrow + 1, 8), (wide + 2, 12), 5, 4, stream)
        device.copy_out(target, narrow, stream)
        device.synchronize(stream)
        want = np.zeros(60, np.uint8)
        for row in range(4):
            want[1 + 8 * row : 6 + 8 * row] = np.arange(2 + 12 * row, 7 + 12 * row)
        np.testing.assert_array_equal(target, want)

    def test_events_order_streams(self, device: Device, resources: Resources) -> None:
        size = 1 << 20
        memory = resources.memory(size)
        source, target = resources.pinned(size), resources.pinned(size)
        first, second = resources.stream(), resources.stream()
        start, done, end = (resources.event() for _ in range(3))
        for value in range(1, 6):
            source[:] = value
            device.record(start, first)
            device.copy_in(memory, source, first)
            device.record(done, first)
            device.wait(second, done)
            device.copy_out(target, memory, second)
            device.record(end, second)
            device.synchronize_event(end)
            assert (target == value).all()
            assert device.elapsed_ms(start, end) >= device.elapsed_ms(start, done) >= 0

    def test_a_consumers_stream_can_be_made_to_wait(
        self, device: Device, resources: Resources
    ) -> None:
        event, stream = resources.event(), resources.stream()
        device.record(event, stream)
        # timing: no time but the legacy default stream, which nobody created
        device.wait(1, event)

    def test_a_graph_repeats_what_was_captured(self, device: Device, resources: Resources) -> None:
        assert device.has_graphs
        memory, stream = resources.memory(64), resources.stream()
        source, target = resources.pinned(64), resources.pinned(64)
        target[:] = 0

        def work() -> None:
            device.copy_in(memory, source, stream)
            device.copy(memory + 32, memory, 32, stream)
            device.copy_out(target, memory, stream)

        graph = device.capture(stream, work)
        device.synchronize(stream)
        assert (target == 0).all()
        for value in (5, 9):
            source[:] = value
            device.launch(graph, stream)
            device.synchronize(stream)
            assert (target == value).all()
        device.destroy_graph(graph)

    def test_a_failed_capture_leaves_the_stream_usable(
        self, device: Device, resources: Resources
    ) -> None:
        stream, memory, source = resources.stream(), resources.memory(8), resources.pinned(8)

        def work() -> None:
            device.copy_in(memory, source, stream)
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            device.capture(stream, work)
        source[:] = 3
        device.copy_in(memory, source, stream)
        device.copy_out(source, memory, stream)
        device.synchronize(stream)
        assert (source == 3).all()
        device.destroy_graph(device.capture(stream, lambda: device.copy_in(memory, source, stream)))

    def test_too_much_memory(self, device: Device, resources: Resources) -> None:
        total = device.memory()[1]
        with pytest.raises(NativeError, match=r"allocating \d+ bytes .* out of device memory"):
            resources.memory(total * 2)
        assert resources.memory(16)

    def test_other_threads_make_it_active_for_themselves(
        self, device: Device, resources: Resources
    ) -> None:
        memory, stream = resources.memory(16), resources.stream()
        source, target = resources.pinned(16), resources.pinned(16)
        source[:] = 7
        failures: list[BaseException] = []

        def work() -> None:
            try:
                with device.active(), device.active():
                    device.copy_in(memory, source, stream)
                    device.copy_out(target, memory, stream)
                    device.synchronize(stream)
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert not failures
        assert (target == 7).all()

    def test_resources_are_freed_whatever_fails_later(self, device: Device) -> None:
        before = device.memory()[0]
        made = Resources(device)
        made.memory(1 << 20)
        made.pinned(100)
        made.event()
        made.stream()
        with pytest.raises(NativeError):
            made.memory(device.memory()[1] * 2)
        made.close()
        if LIBRARY is None or "TRT_AFDET_STANDIN" in os.environ:
            assert device.memory()[0] == before
        made.close()

    @pytest.mark.skipif(LIBRARY is None, reason="needs an NVIDIA GPU: make gpu-check")
    def test_a_gpu_that_is_not_there(self) -> None:
        with pytest.raises(InvalidValueError, match="there is no GPU 99"):
            open_device(99, LIBRARY)


def test_sizes_are_rounded_up() -> None:
    assert [aligned(n) for n in (0, 1, 256, 257)] == [0, 256, 256, 512]


def test_unknown_library() -> None:
    with pytest.raises(InvalidValueError, match=r"pycuda, cuda-python \(got cupy\)"):
        open_device(library="cupy")


def test_none_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="pycuda or cuda-python") as caught:
        open_device()
    assert "pip install cuda-python" in str(caught.value)
    with pytest.raises(MissingDependencyError, match="needs pycuda, which"):
        open_device(library="pycuda")


def has_driver() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


@pytest.mark.skipif(has_driver(), reason="this machine has an NVIDIA driver: a run without one")
@pytest.mark.skipif(
    importlib.util.find_spec("cuda") is None,
    reason="cuda-python is not installed: pip install cuda-bindings",
)
def test_no_driver() -> None:
    with pytest.raises(NativeError, match="finds no NVIDIA driver") as caught:
        open_device(library="cuda-python")
    assert "trt-afdet doctor" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a libcuda.so.1 whose device is host memory."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        skip_test("a C compiler on Linux", "apt-get install gcc")
    folder = tmp_path_factory.mktemp("driver")
    source = Path(__file__).with_name("driver.c")
    options = ["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-Wl,-soname,libcuda.so.1"]
    target = folder / "libcuda.so.1"
    subprocess.run([compiler, *options, "-o", str(target), str(source), "-ldl"], check=True)
    return folder


@pytest.mark.skipif(LIBRARY is not None, reason="what this test starts: the outer run has it")
@pytest.mark.parametrize(("library", "module"), [("cuda-python", "cuda"), ("pycuda", "pycuda")])
def test_the_real_packages_keep_the_contract(driver: Path, library: str, module: str) -> None:
    if importlib.util.find_spec(module) is None:
        skip_test(f"{library} is not installed", f"pip install {library}")
    paths = [str(driver), os.environ.get("LD_LIBRARY_PATH", "")]
    options = ["-q", "-p", "no:cacheprovider", "-k", "TestContract", __file__]
    # Lazily: pycuda names functions of the driver that nobody here calls.
    program = (
        "import os, sys; sys.setdlopenflags(os.RTLD_LAZY); "
        f"import pytest; sys.exit(pytest.main({options!r}))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        env={
            **os.environ,
            "TRT_AFDET_TEST_DEVICE": library,
            "TRT_AFDET_STANDIN": "1",
            "LD_LIBRARY_PATH": os.pathsep.join(filter(None, paths)),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "11 passed" in result.stdout
