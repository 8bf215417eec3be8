"""The doctor tells what is there, and how to get what is not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import onnxruntime as runtime
import pytest

from tests.skips import skip_test
from trt_afdet import doctor, native
from trt_afdet.doctor import Machine, Probe, Row, gpu, jetson, software, system


def rows_by_name(machine: Machine | None = None) -> dict[str, Row]:
    return {row.name: row for row in doctor.examine(machine)}


def the_row(rows: Iterator[Row]) -> Row:
    (row,) = rows
    return row


# Files as real boards have them: their texts are those of boards whose owners published them.

XAVIER_NX_JETPACK_5 = {
    "/etc/nv_tegra_release": "# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref, "
    "EABI: aarch64, DATE: Tue Aug  1 19:57:35 UTC 2023\n",
    "/proc/device-tree/model": "NVIDIA Jetson Xavier NX Developer Kit\0",
    "/etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=MODE_15W_2CORE >\n"
    "< POWER_MODEL ID=2 NAME=MODE_15W_6CORE >\n< POWER_MODEL ID=8 NAME=MODE_20W_6CORE >\n"
    "< PM_CONFIG DEFAULT=2 >\n",
    "/var/lib/nvpmodel/status": "pmode:0002 fmode:quiet\n",
    "/usr/lib/aarch64-linux-gnu/libnvinfer.so.8.5.2": "",
    "/usr/local/cuda-11.4/targets/aarch64-linux/lib/libcudart.so.11.4.298": "",
    "/sys/class/devfreq/17000000.gv11b/min_freq": "114750000\n",
    "/sys/class/devfreq/17000000.gv11b/max_freq": "1109250000\n",
}

ORIN_NANO_JETPACK_6 = {
    "/etc/nv_tegra_release": "# R36 (release), REVISION: 4.7, GCID: 42132812, BOARD: generic, "
    "EABI: aarch64, DATE: Thu Sep 18 22:54:44 UTC 2025\n# KERNEL_VARIANT: oot\n"
    "TARGET_USERSPACE_LIB_DIR=nvidia\n"
    "TARGET_USERSPACE_LIB_DIR_PATH=usr/lib/aarch64-linux-gnu/nvidia\n",
    "/proc/device-tree/model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit "
    "Super\0",
    "/etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=15W >\nCPU_ONLINE CORE_0 1\n"
    "< POWER_MODEL ID=1 NAME=25W >\n< POWER_MODEL ID=2 NAME=MAXN_SUPER >\n"
    "< POWER_MODEL ID=3 NAME=7W >\n# mandatory section\n< PM_CONFIG DEFAULT=1 >\n",
    "/var/lib/nvpmodel/status": "pmode:0000\n",
    "/usr/lib/aarch64-linux-gnu/libnvinfer.so.10.3.0": "",
    "/usr/local/cuda-12.6/targets/aarch64-linux/lib/libcudart.so.12.6.68": "",
    "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "schedutil\n",
    "/sys/devices/system/cpu/cpu0/cpufreq/scaling_min_freq": "1728000\n",
    "/sys/devices/system/cpu/cpu0/cpufreq/scaling_max_freq": "1728000\n",
    "/sys/class/devfreq/17000000.gpu/min_freq": "1020000000\n",
    "/sys/class/devfreq/17000000.gpu/max_freq": "1020000000\n",
}

THOR_JETPACK_7 = {
    "/etc/nv_tegra_release": "# R38 (release), REVISION: 2.0, GCID: 41844464, BOARD: generic, "
    "EABI: aarch64, DATE: Fri Aug 22 00:55:42 UTC 2025\n# KERNEL_VARIANT: oot\n"
    "TARGET_USERSPACE_LIB_DIR=nvidia\n"
    "TARGET_USERSPACE_LIB_DIR_PATH=usr/lib/aarch64-linux-gnu/nvidia\nINSTALL_TYPE=\n",
    "/proc/device-tree/model": "NVIDIA Jetson AGX Thor Developer Kit\0",
    "/etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=1 NAME=120W >\n",
    "/sys/class/devfreq/gpu-gpc-0/min_freq": "315000000\n",
    "/sys/class/devfreq/gpu-gpc-0/max_freq": "1575000000\n",
}


def lay_out(root: Path, files: dict[str, str]) -> Machine:
    for name, text in files.items():
        path = root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Machine(root)


def add_program(machine: Machine, name: str, script: str) -> None:
    path = machine.path(f"/usr/sbin/{name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_this_machine_can_run_it() -> None:
    rows = rows_by_name()
    assert rows["Python"].status == rows["numpy"].status == rows["cv2"].status == "ok"
    assert not [row for row in rows.values() if row.status == "fix" and "detect" in row.uses]
    # Whatever is not fine comes with a way to mend it.
    assert all(row.fix for row in rows.values() if row.status != "ok")
    assert {"OpenCV video", "OpenCV windows", "cameras", "disk", "memory", "swap"} <= rows.keys()


def test_a_pc_has_no_rows_of_a_jetson() -> None:
    if jetson.release_of(Machine()):
        skip_test("this is a Jetson", "a run on another machine")
    assert not {"Jetson", "JetPack", "power mode", "clocks"} & rows_by_name().keys()


class TestNativeParts:
    def test_they_say_how_they_were_built(self) -> None:
        try:
            library = native.host()
        except native.NativeMissingError as error:
            skip_test(error, "make native-host")
        detail = rows_by_name()["host library"].detail
        assert library.build_info in detail
        assert library.path in detail

    def test_a_missing_part_is_a_warning_with_a_fix(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def missing(name: str) -> str:
            raise native.NativeMissingError(f"the native library {name} was not found")

        native.host.cache_clear()
        monkeypatch.setattr(native, "find", missing)
        row = next(gpu.native_parts(Machine()))
        assert row.status == "fix"
        assert "the native library afdet_host was not found" in row.detail
        assert row.uses == ()
        assert "compiler" in row.fix


class TestIsolation:
    def test_a_probe_that_raises_stops_no_other(self) -> None:
        def broken(machine: Machine) -> Iterator[Row]:
            yield Row("ok", "first", "seen before it broke")
            raise OSError("libGL.so.1: cannot open shared object file\nsecond line")

        def fine(machine: Machine) -> Iterator[Row]:
            yield Row("ok", "last", "seen")

        rows = doctor.examine(probes=[Probe("broken", broken), Probe("fine", fine)])
        assert [(row.status, row.name) for row in rows] == [
            ("ok", "first"),
            ("fix", "broken"),
            ("ok", "last"),
        ]
        assert "libGL.so.1" in rows[1].detail
        assert "second line" not in rows[1].detail

    def test_a_probe_that_hangs_is_left_behind(self) -> None:
        release = threading.Event()

        def hangs(machine: Machine) -> Iterator[Row]:
            release.wait(60)
            yield Row("ok", "late", "never seen")

        start = time.monotonic()
        rows = doctor.examine(probes=[Probe("hangs", hangs, limit=0.1)])
        assert time.monotonic() - start < 30
        release.set()
        assert [(row.status, row.name, row.detail) for row in rows] == [
            ("fix", "hangs", "no answer within 0.1 s")
        ]

    def test_every_probe_survives_an_empty_and_a_senseless_file_system(
        self, tmp_path: Path
    ) -> None:
        names = {**XAVIER_NX_JETPACK_5, **ORIN_NANO_JETPACK_6, **THOR_JETPACK_7}
        names |= {"/proc/meminfo": "", "/sys/class/video4linux/video0/index": ""}
        for text in (None, "", "\0", "MemTotal: kB\nR (release)", "# R99 (release), REVISION: x"):
            root = tmp_path / str(abs(hash(text)))
            root.mkdir()
            if text is not None:
                lay_out(root, dict.fromkeys(names, text))
            for row in doctor.examine(Machine(root)):
                assert "could not be looked at" not in row.detail, (text, row)


class TestPackages:
    def test_a_broken_package_is_reported_not_raised(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(name: str) -> object:
            raise OSError("libGL.so.1: cannot open shared object file\nsecond line")

        monkeypatch.setattr(software.importlib, "import_module", broken)
        rows = {row.name: row for row in software.packages(Machine())}
        assert rows["cv2"].status == "fix"
        assert "libGL.so.1" in rows["cv2"].detail
        assert "second line" not in rows["cv2"].detail
        assert rows["onnx"].status == "fix"
        assert "trt-afdet[onnx]" in rows["onnx"].fix
        for probe in (software.pyav, software.onnxruntime):
            assert the_row(probe(Machine())).status == "fix"

    def test_opencv_is_asked_for_its_abilities(self) -> None:
        import cv2

        information = software.build_information()
        assert information["FFMPEG"].startswith("YES" if "FFMPEG: " in _squeezed(cv2) else "NO")
        row = the_row(software.opencv_video(Machine()))
        assert f"GStreamer {information['GStreamer']}" in row.detail
        assert row.status == ("ok" if information["FFMPEG"].startswith("YES") else "fix")

    def test_gstreamer_is_what_streams_would_take(self) -> None:
        import cv2

        from trt_afdet.errors import MissingDependencyError
        from trt_afdet.stream.sources import gstreamer

        row = the_row(software.gstreamer(Machine()))
        try:
            gstreamer.load_gst()
        except MissingDependencyError:
            opened = cv2.VideoCapture(
                "videotestsrc num-buffers=1 ! videoconvert ! appsink", cv2.CAP_GSTREAMER
            ).isOpened()
            assert row.status == ("ok" if opened else "fix")
        else:
            assert row.status == "ok"
            assert "PyGObject" in row.detail

    def test_gstreamer_of_a_system_python(self, tmp_path: Path) -> None:
        """With the real bindings, which only Debian's own Python sees here."""
        python = shutil.which("python3", path="/usr/bin")
        wanted = tuple(sys.version_info[:2])
        check = f"import sys, gi; sys.exit(sys.version_info[:2] != {wanted})"
        if python is None or subprocess.run([python, "-c", check], capture_output=True).returncode:
            skip_test(
                f"no python3-gi for Python {'.'.join(map(str, wanted))}",
                "make peers, with Debian's Python",
            )
        (tmp_path / "gi").symlink_to("/usr/lib/python3/dist-packages/gi")
        (row,) = examine_elsewhere("GStreamer", PYTHONPATH=str(tmp_path))
        assert row["status"] == "ok", row
        assert row["detail"].startswith("1.")

    @pytest.mark.parametrize(
        ("toolkit", "status", "detail"),
        [
            ("NONE", "not needed", "headless"),
            ("QT5", "ok", "QT5"),
            ("GTK3", "ok", "GTK3"),
        ],
    )
    def test_windows(
        self,
        monkeypatch: pytest.MonkeyPatch,
        toolkit: str,
        status: str,
        detail: str,
    ) -> None:
        text = f"General configuration for OpenCV 4.10.0\n  GUI:              {toolkit}\n"
        monkeypatch.setattr("cv2.getBuildInformation", lambda: text)
        row = the_row(software.opencv_windows(Machine()))
        assert row.status == status
        assert detail in row.detail

    @pytest.mark.parametrize(
        ("variable", "value", "status"),
        [
            ("DISPLAY", "", "not needed"),
            ("DISPLAY", ":0", "ok"),
            ("WAYLAND_DISPLAY", "wayland-0", "ok"),
        ],
    )
    def test_display(
        self, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, status: str
    ) -> None:
        for name in ("WAYLAND_DISPLAY", "DISPLAY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv(variable, value)
        monkeypatch.setattr(sys, "platform", "linux")
        assert the_row(system.display(Machine())).status == status

    def test_compiler(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(shutil, "which", lambda name: None)
        monkeypatch.setattr(system.importlib.util, "find_spec", lambda name: None)
        row = the_row(system.compiler(Machine()))
        assert row.status == "not needed"
        assert "apt-get install -y g++" in row.fix
        assert "pip install ziglang" in row.fix
        monkeypatch.setattr(system.importlib.util, "find_spec", lambda name: object())
        assert the_row(system.compiler(Machine())).status == "ok"

    def test_pyav_and_onnxruntime_say_what_they_can(self) -> None:
        assert "h264" in the_row(software.pyav(Machine())).detail
        row = the_row(software.onnxruntime(Machine()))
        assert runtime.__version__ in row.detail
        assert "CPU" in row.detail


def _squeezed(cv2: object) -> str:
    return " ".join(cv2.getBuildInformation().split())  # type: ignore[attr-defined]


class TestJetson:
    @pytest.mark.parametrize(
        ("files", "model", "jetpack"),
        [
            (XAVIER_NX_JETPACK_5, "Xavier NX", "5.1.2, Jetson Linux 35.4.1"),
            (ORIN_NANO_JETPACK_6, "Orin Nano", "6.2.1, Jetson Linux 36.4.7"),
            (THOR_JETPACK_7, "AGX Thor", "7.0, Jetson Linux 38.2.0"),
        ],
    )
    def test_model_and_release(
        self, tmp_path: Path, files: dict[str, str], model: str, jetpack: str
    ) -> None:
        machine = lay_out(tmp_path, files)
        board = the_row(jetson.board(machine))
        assert board.status == "ok"
        assert model in board.detail
        assert "\0" not in board.detail
        assert jetpack in the_row(jetson.jetpack(machine)).detail

    def test_a_raspberry_pi_is_none(self, tmp_path: Path) -> None:
        machine = lay_out(tmp_path, {"/proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0"})
        assert not list(jetson.board(machine))
        assert not list(jetson.jetpack(machine))
        assert not list(jetson.power_mode(machine))
        assert not list(jetson.clocks(machine))

    def test_the_installed_package_knows_better_than_the_table(self, tmp_path: Path) -> None:
        entry = (
            "Package: nvidia-jetpack\nStatus: install ok installed\nArchitecture: arm64\n"
            "Version: 6.2.2+b24\n\nPackage: other\nStatus: install ok installed\nVersion: 1\n"
        )
        files = {**ORIN_NANO_JETPACK_6, "/var/lib/dpkg/status": entry}
        row = the_row(jetson.jetpack(lay_out(tmp_path, files)))
        assert row.status == "ok"
        assert row.detail.startswith("6.2.2, ")

    def test_an_unknown_release_is_not_guessed_at(self, tmp_path: Path) -> None:
        text = "# R36 (release), REVISION: 9.9, GCID: 1, BOARD: generic, EABI: aarch64\n"
        row = the_row(jetson.jetpack(lay_out(tmp_path, {"/etc/nv_tegra_release": text})))
        assert "6 (by its series), Jetson Linux 36.9.9" in row.detail

    def test_an_image_without_the_libraries(self, tmp_path: Path) -> None:
        row = the_row(jetson.jetpack(lay_out(tmp_path, THOR_JETPACK_7)))
        assert row.status == "fix"
        assert "apt-get install -y nvidia-jetpack" in row.fix

    def test_jetpack_4_is_too_old(self, tmp_path: Path) -> None:
        text = "# R32 (release), REVISION: 7.1, GCID: 29689809, BOARD: t186ref, EABI: aarch64\n"
        row = the_row(jetson.jetpack(lay_out(tmp_path, {"/etc/nv_tegra_release": text})))
        assert (row.status, "flash JetPack" in row.fix) == ("fix", True)

    def test_the_fastest_mode_is_not_that_of_the_highest_or_lowest_id(self, tmp_path: Path) -> None:
        nano = the_row(jetson.power_mode(lay_out(tmp_path / "nano", ORIN_NANO_JETPACK_6)))
        assert nano.detail == "15W; the fastest is MAXN_SUPER"
        assert (nano.status, nano.fix) == ("ok", "sudo nvpmodel -m 2")
        xavier = the_row(jetson.power_mode(lay_out(tmp_path / "xavier", XAVIER_NX_JETPACK_5)))
        assert xavier.detail == "MODE_15W_6CORE; the fastest is MODE_20W_6CORE"
        assert xavier.fix == "sudo nvpmodel -m 8"

    def test_at_full_speed(self, tmp_path: Path) -> None:
        files = {**ORIN_NANO_JETPACK_6, "/var/lib/nvpmodel/status": "pmode:0002\n"}
        row = the_row(jetson.power_mode(lay_out(tmp_path, files)))
        assert (row.status, row.detail) == ("ok", "MAXN_SUPER")

    def test_nvpmodel_is_asked_where_its_files_say_nothing(self, tmp_path: Path) -> None:
        machine = lay_out(tmp_path, THOR_JETPACK_7)
        add_program(machine, "nvpmodel", "printf 'NV Power Mode: 120W\\n1\\n'")
        row = the_row(jetson.power_mode(machine))
        assert (row.status, row.detail) == ("ok", "120W; the fastest is MAXN")

    @pytest.mark.parametrize("script", ["exit 255", "exec sleep 60"])
    def test_nvpmodel_that_fails_or_hangs(self, tmp_path: Path, script: str) -> None:
        machine = Machine(lay_out(tmp_path, THOR_JETPACK_7).root, timeout=0.2)
        add_program(machine, "nvpmodel", script)
        row = the_row(jetson.power_mode(machine))
        assert (row.status, row.fix) == ("fix", "sudo nvpmodel -q")

    def test_clocks(self, tmp_path: Path) -> None:
        fixed = the_row(jetson.clocks(lay_out(tmp_path / "fixed", ORIN_NANO_JETPACK_6)))
        assert fixed.status == "ok"
        assert "governor schedutil, GPU up to 1020 MHz" in fixed.detail
        for name, files in (("xavier", XAVIER_NX_JETPACK_5), ("thor", THOR_JETPACK_7)):
            row = the_row(jetson.clocks(lay_out(tmp_path / name, files)))
            assert (row.status, row.fix) == ("ok", "sudo jetson_clocks")

    def test_tensorrt_without_bindings_says_what_that_jetpack_needs(self, tmp_path: Path) -> None:
        if rows_by_name()["TensorRT"].detail != "not installed":
            skip_test("TensorRT is installed", "a run without it")
        old = the_row(gpu.tensorrt(lay_out(tmp_path / "old", XAVIER_NX_JETPACK_5)))
        assert "8.5.2" in old.detail
        assert "deploy/jetson/build_bindings.sh" in old.fix
        new = the_row(gpu.tensorrt(lay_out(tmp_path / "new", ORIN_NANO_JETPACK_6)))
        assert "10.3.0" in new.detail
        assert "--system-site-packages" in new.fix
        bare = the_row(gpu.tensorrt(lay_out(tmp_path / "bare", THOR_JETPACK_7)))
        assert "nvidia-jetpack" in bare.fix


class TestSystem:
    def test_cameras_by_the_names_that_their_uris_have(self, tmp_path: Path) -> None:
        devices = {
            "video0": ("vi-output, imx219 9-0010", "0"),
            "video1": ("vi-output, imx219 10-0010", "0"),
            "video2": ("HD Pro Webcam C920", "0"),
            "video3": ("HD Pro Webcam C920", "1"),
            "video10": ("USB Capture HDMI", "0"),
        }
        files = {}
        for device, (name, index) in devices.items():
            files[f"/sys/class/video4linux/{device}/name"] = f"{name}\n"
            files[f"/sys/class/video4linux/{device}/index"] = f"{index}\n"
            files[f"/dev/{device}"] = ""
        machine = lay_out(tmp_path, files)
        row = the_row(system.cameras(machine))
        assert row.status == "ok"
        assert row.detail.split("; ") == [
            "csi://0 imx219 9-0010",
            "csi://1 imx219 10-0010",
            "/dev/video2 HD Pro Webcam C920",
            "/dev/video10 USB Capture HDMI",
        ]
        # A container that was not given the device sees it in /sys all the same.
        machine.path("/dev/video2").unlink()
        row = the_row(system.cameras(machine))
        assert row.status == "fix"
        assert "no permission for /dev/video2" in row.detail
        assert "usermod -aG video" in row.fix

    def test_a_camera_says_what_it_offers(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its driver's answers are made up: there is no camera where the tests run."""
        from trt_afdet.stream.sources import v4l2_cameras

        modes = (
            v4l2_cameras.Mode("YUYV", 640, 480, (30.0,)),
            v4l2_cameras.Mode("MJPG", 1920, 1080, (30.0, 24.0)),
        )
        files = {"/sys/class/video4linux/video0/name": "HD Pro Webcam C920\n", "/dev/video0": ""}
        machine = lay_out(tmp_path, files)
        camera = v4l2_cameras.Camera(str(machine.path("/dev/video0")), "C920", "usb", modes)
        monkeypatch.setattr(v4l2_cameras, "list_cameras", lambda folder: [camera])
        row = the_row(system.cameras(machine))
        assert row.detail == "/dev/video0 HD Pro Webcam C920 MJPG 1920x1080 at 30, 24 fps"

    def test_no_camera(self, tmp_path: Path) -> None:
        assert the_row(system.cameras(Machine(tmp_path))).status == "not needed"
        row = the_row(system.cameras(lay_out(tmp_path, ORIN_NANO_JETPACK_6)))
        assert "jetson-io" in row.fix

    @pytest.mark.parametrize(
        ("total", "available", "swap", "memory_status", "swap_status"),
        [
            (7802880, 5953500, 3901440, "ok", "ok"),  # Orin Nano 8 GB with its zram
            (3964936, 2203000, 0, "ok", "fix"),  # 4 GB without
            (3964936, 403000, 0, "fix", "fix"),
            (125829120, 99999999, 0, "ok", "ok"),  # Thor has none and needs none
        ],
    )
    def test_memory_and_swap(
        self,
        tmp_path: Path,
        total: int,
        available: int,
        swap: int,
        memory_status: str,
        swap_status: str,
    ) -> None:
        text = (
            f"MemTotal:     {total:>10} kB\nMemFree:         18444 kB\n"
            f"MemAvailable: {available:>10} kB\nSwapTotal: {swap:>10} kB\n"
        )
        machine = lay_out(tmp_path, {"/proc/meminfo": text})
        assert the_row(system.memory(machine)).status == memory_status
        assert the_row(system.swap(machine)).status == swap_status

    def test_a_full_disk(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        usage = shutil.disk_usage(tmp_path)
        assert f"{usage.total / 2**30:.0f} GiB" in the_row(system.disk(Machine(tmp_path))).detail
        little = usage._replace(free=2**20)
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: little)
        assert the_row(system.disk(Machine(tmp_path))).status == "fix"

    @pytest.mark.skipif(sys.platform != "linux", reason="adjtimex is only in Linux: a run on Linux")
    def test_time_is_that_of_the_kernel(self) -> None:
        row = the_row(system.time_sync(Machine()))
        kernel = (
            shutil.which("timedatectl")
            and subprocess.run(
                ["timedatectl", "show", "--property=NTPSynchronized", "--value"],
                capture_output=True,
                text=True,
                check=False,
            ).stdout.strip()
        )
        if kernel in ("yes", "no"):
            assert bool(row.fix) == {"yes": False, "no": True}[kernel]
        assert row.status == "ok"


Compile = Callable[[str, str], Path]


@pytest.fixture
def compile_library(tmp_path: Path) -> Compile:
    """Makes a shared library, named as it is in its folder, from C source."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        skip_test("a C compiler on Linux", "apt-get install gcc")

    def compile_it(name: str, source: str) -> Path:
        (tmp_path / "source.c").write_text(source)
        target = tmp_path / name
        command = [compiler, "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", str(target)]
        subprocess.run([*command, str(tmp_path / "source.c")], check=True)
        return target

    return compile_it


def examine_elsewhere(probe: str, **environment: str) -> list[dict[str, str]]:
    """One probe's rows in a process of its own, where libraries and packages may be others."""
    program = (
        "import json; from trt_afdet import doctor; "
        f"probes = [p for p in doctor.PROBES if p.name == {probe!r}]; "
        "print(json.dumps([vars(row) for row in doctor.examine(None, probes, doctor.USES)]))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    rows: list[dict[str, str]] = json.loads(result.stdout)
    return rows


DRIVER = """
#include <stdio.h>
#include <unistd.h>
int cuInit(unsigned flags) { %s }
int cuDriverGetVersion(int* version) { *version = 12060; return 0; }
int cuDeviceGetCount(int* count) { *count = 1; return 0; }
int cuDeviceGet(int* device, int index) { *device = index; return 0; }
int cuDeviceGetName(char* text, int size, int device) { return snprintf(text, size, "Orin") < 0; }
int cuDeviceGetAttribute(int* value, int attribute, int device) {
  *value = attribute == 75 ? 8 : attribute == 76 ? 7 : -1;
  return 0;
}
int cuDeviceTotalMem_v2(size_t* bytes, int device) { *bytes = 8000000000u; return 0; }
"""


class TestDriver:
    def test_a_gpu(self, compile_library: Compile) -> None:
        folder = compile_library("libcuda.so.1", DRIVER % "return 0;").parent
        (row,) = examine_elsewhere("NVIDIA GPU", LD_LIBRARY_PATH=str(folder))
        assert (row["status"], row["detail"]) == (
            "ok",
            "Orin, compute 8.7, 7 GiB, driver for CUDA 12.6",
        )

    def test_a_driver_without_its_gpu(self, compile_library: Compile) -> None:
        folder = compile_library("libcuda.so.1", DRIVER % "return 100;").parent
        (row,) = examine_elsewhere("NVIDIA GPU", LD_LIBRARY_PATH=str(folder))
        assert row["status"] == "fix"
        assert "CUDA error 100" in row["detail"]

    def test_a_driver_that_hangs(self, compile_library: Compile) -> None:
        folder = compile_library("libcuda.so.1", DRIVER % "sleep(600); return 0;").parent
        (row,) = examine_elsewhere("NVIDIA GPU", LD_LIBRARY_PATH=str(folder))
        assert row["status"] == "fix"
        assert row["detail"] == "no answer within 2 s"


class TestBindings:
    @pytest.mark.parametrize(("library", "status"), [(8502, "ok"), (8601, "fix"), (100300, "fix")])
    def test_the_library_is_asked_for_its_version(
        self, compile_library: Compile, tmp_path: Path, library: int, status: str
    ) -> None:
        source = f"int getInferLibVersion(void) {{ return {library}; }}"
        path = compile_library("libnvinfer.so.8", source)
        (tmp_path / "tensorrt").mkdir()
        (tmp_path / "tensorrt" / "__init__.py").write_text(
            f"import ctypes\nctypes.CDLL({str(path)!r})\n__version__ = '8.5.2.2'\n"
        )
        (row, *_) = examine_elsewhere("TensorRT", PYTHONPATH=str(tmp_path))
        assert row["status"] == status
        assert f"library of {gpu.version_of(library)}" in row["detail"] or status == "ok"
        assert "8.5.2.2" in row["detail"]

    def test_bindings_without_their_library(self, tmp_path: Path) -> None:
        (tmp_path / "tensorrt").mkdir()
        (tmp_path / "tensorrt" / "__init__.py").write_text(
            "import ctypes\nctypes.CDLL('libnvinfer_of_another_age.so.7')\n"
        )
        (row, *_) = examine_elsewhere("TensorRT", PYTHONPATH=str(tmp_path))
        assert row["status"] == "fix"
        assert "libnvinfer_of_another_age.so.7" in row["detail"]

    def test_versions_as_numbers(self) -> None:
        assert gpu.version_of(8502) == "8.5.2"
        assert gpu.version_of(101303) == "10.13.3"


class TestUses:
    """Only what the machine is used for is to be fixed."""

    ROWS = (
        Row("fix", "everybody's", "missing", "get it"),
        Row("fix", "the page's", "missing", "get it", ("web",)),
        Row("fix", "nobody's", "missing", "get it", ()),
        Row("ok", "there", "there"),
    )

    @pytest.mark.parametrize(
        ("uses", "fixes"),
        [(("detect",), 1), (("web",), 2), (("detect", "web"), 2), (doctor.USES, 2)],
    )
    def test_a_row_counts_where_it_is_needed(self, uses: tuple[str, ...], fixes: int) -> None:
        probe = Probe("rows", lambda machine: self.ROWS)
        rows = doctor.examine(probes=[probe], uses=uses)
        assert [row.name for row in rows] == [row.name for row in self.ROWS]
        assert sum(row.status == "fix" for row in rows) == fixes
        assert rows[2].status == "not needed"

    @pytest.mark.parametrize("use", doctor.USES)
    def test_each_use_can_be_asked_for(self, use: str) -> None:
        rows = doctor.examine(uses=[use])
        assert {row.status for row in rows} <= {"ok", "fix", "not needed"}
        assert all(use in row.uses for row in rows if row.status == "fix")

    def test_what_is_installed_says_what_it_is_for(self, tmp_path: Path) -> None:
        assert "detect" in doctor.uses_here()
        assert "build-engine" in doctor.uses_here(lay_out(tmp_path, ORIN_NANO_JETPACK_6))
