"""The systemd unit, the script that builds bindings, and the broker's configuration."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

import pytest

from tests.paths import ROOT
from tests.skips import skip_test
from tests.waiting import LIMIT, wait_until

DEPLOY = ROOT / "deploy"
UNIT = DEPLOY / "systemd" / "trt-afdet.service"
SCRIPT = DEPLOY / "jetson" / "build_bindings.sh"


def program(name: str, package: str) -> str:
    # Servers lie in sbin, which is not on every PATH.
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if found is None:
        skip_test(f"{name} is not installed", f"make peers, or the Debian package {package}")
    return found


def settings(path: Path) -> dict[str, list[str]]:
    found = defaultdict(list)
    for line in path.read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found[name].append(value)
    return found


class TestUnit:
    def test_systemd_has_nothing_to_say(self, tmp_path: Path) -> None:
        analyze = program("systemd-analyze", "the systemd package")
        copy = tmp_path / UNIT.name
        # It looks whether the program exists, which is not installed here; any other one will do
        # whose path has no spaces.
        there = program("true", "coreutils")
        copy.write_text(UNIT.read_text().replace("/opt/trt-afdet/bin/trt-afdet", there))
        result = subprocess.run(
            [analyze, "verify", "--man=no", str(copy)], capture_output=True, text=True, check=False
        )
        mine = [line for line in result.stderr.splitlines() if "trt-afdet" in line]
        assert (result.returncode, mine) == (0, [])

    def test_little_is_exposed(self) -> None:
        analyze = program("systemd-analyze", "the systemd package")
        result = subprocess.run(
            [analyze, "security", "--offline=yes", "--threshold=30", str(UNIT)],
            capture_output=True,
            text=True,
            check=False,
        )
        if "unrecognized option" in result.stderr:
            skip_test("systemd-analyze has no --offline", "systemd 250 or newer")
        assert result.returncode == 0, result.stdout[-300:] + result.stderr

    def test_it_is_watched_restarted_and_reloaded(self) -> None:
        found = settings(UNIT)
        assert found["Type"] == ["notify"]
        assert found["Restart"] == ["always"]
        assert found["StartLimitIntervalSec"] == ["0"]
        assert float(found["WatchdogSec"][0]) > 0
        assert found["ExecReload"] == ["/bin/kill -HUP $MAINPID"]
        assert found["ExecStart"][0].endswith("trt-afdet run /etc/trt-afdet/cameras.yaml")
        assert "video" in found["SupplementaryGroups"][0].split()
        # These would hide cameras, see the unit.
        assert not {"PrivateTmp", "PrivateDevices", "ProtectClock", "DeviceAllow"} & found.keys()

    def test_its_user_is_made_by_sysusers(self, tmp_path: Path) -> None:
        sysusers = program("systemd-sysusers", "the systemd package")
        file = DEPLOY / "systemd" / "sysusers.conf"
        (tmp_path / "etc").mkdir()
        result = subprocess.run(
            [sysusers, f"--root={tmp_path}", str(file)], capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stderr
        users = (tmp_path / "etc" / "passwd").read_text()
        groups = (tmp_path / "etc" / "group").read_text()
        assert re.search(
            r"^trt-afdet:.*:/var/lib/trt-afdet:/usr/sbin/nologin$", users, re.MULTILINE
        )
        for group in ("video", "render"):
            assert re.search(rf"^{group}:.*\btrt-afdet$", groups, re.MULTILINE)
        found = settings(UNIT)
        assert found["User"] == found["Group"] == ["trt-afdet"]

    def test_the_environment_file_is_plain(self) -> None:
        lines = (DEPLOY / "etc" / "trt-afdet.env").read_text().splitlines()
        for line in lines:
            assert line.startswith("#") or re.fullmatch(r"[A-Z_]+=[\w-]+", line), line


class Manager:
    """What systemd does with the unit, as far as the program sees it.

    Attributes:
        process: The main process.
    """

    def __init__(self, folder: Path) -> None:
        self._unit = {name: values[-1] for name, values in settings(UNIT).items()}
        config = folder / "cameras.yaml"
        config.write_text("sources: ['test://?fps=10&width=160&height=120']\n")
        command = self._unit["ExecStart"].replace("/etc/trt-afdet/cameras.yaml", str(config))
        program, *words = command.split()
        assert program == "/opt/trt-afdet/bin/trt-afdet"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(folder / "notify"))
        self._socket.settimeout(0.5)
        watchdog = float(self._unit["WatchdogSec"]) * 1e6
        self.process = subprocess.Popen(
            [sys.executable, "-m", "trt_afdet", *words],
            env={
                **os.environ,
                "NOTIFY_SOCKET": str(folder / "notify"),
                "WATCHDOG_USEC": f"{watchdog:.0f}",
            },
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def limit(self, name: str) -> float:
        return float(self._unit[name])

    def wait_for(self, message: str, seconds: float) -> None:
        """Until the program sends this."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:  # timing: the limit is the unit's own
            if self.process.poll() is not None:
                raise AssertionError(f"it ended: {self.process.communicate()[1]}")
            with suppress(TimeoutError):
                if message in self._socket.recv(4096).decode().splitlines():
                    return
        raise AssertionError(f"no {message} within {seconds} s")

    def reload(self) -> None:
        if not Path("/bin/kill").exists():
            skip_test("/bin/kill is not installed", "apt-get install procps")
        command = self._unit["ExecReload"].replace("$MAINPID", str(self.process.pid))
        subprocess.run(["sh", "-c", command], check=True)

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        self._socket.close()


@pytest.mark.slow
def test_the_program_keeps_what_the_unit_says(tmp_path: Path) -> None:
    """Ready, alive, reloaded and stopped, each within the time that the unit gives."""
    manager = Manager(tmp_path)
    try:
        manager.wait_for("READY=1", manager.limit("TimeoutStartSec"))
        manager.wait_for("WATCHDOG=1", manager.limit("WatchdogSec"))
        manager.reload()
        manager.wait_for("RELOADING=1", LIMIT)
        manager.wait_for("READY=1", LIMIT)
        manager.wait_for("WATCHDOG=1", manager.limit("WatchdogSec"))
        manager.process.terminate()
        assert manager.process.wait(manager.limit("TimeoutStopSec")) == 0
    finally:
        manager.close()


class TestBindings:
    def test_shellcheck_has_nothing_to_say(self) -> None:
        shellcheck = program("shellcheck", "the shellcheck package")
        result = subprocess.run([shellcheck, str(SCRIPT)], capture_output=True, text=True)
        assert result.returncode == 0, result.stdout

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [program("bash", "the bash package"), str(SCRIPT), *arguments],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def test_what_is_missing_is_named(self, tmp_path: Path) -> None:
        usage = self.run()
        assert (usage.returncode, "usage" in usage.stderr) == (2, True)
        missing = self.run(str(tmp_path / "python3.99"), str(tmp_path / "out"))
        assert (missing.returncode, "no such Python" in missing.stderr) == (2, True)
        headers = self.run(sys.executable, str(tmp_path), TENSORRT_INCLUDE=str(tmp_path))
        assert (headers.returncode, "apt-get install nvidia-jetpack" in headers.stderr) == (1, True)

    def test_it_asks_nvidias_build_for_this_python(self, tmp_path: Path) -> None:
        """With stand-ins for GitHub and for NVIDIA's build, which notes what it was given."""
        (tmp_path / "include").mkdir()
        (tmp_path / "include" / "NvInferVersion.h").write_text(
            "#define NV_TENSORRT_MAJOR 8 //!< TensorRT major version.\n"
            "#define NV_TENSORRT_MINOR 5 //!< TensorRT minor version.\n"
            "#define NV_TENSORRT_PATCH 2 //!< TensorRT patch version.\n"
        )
        (tmp_path / "include" / "NvOnnxParser.h").write_text("")
        # As a Python with headers and a pip that installs into --target, without a network.
        python_headers = tmp_path / "headers"
        python_headers.mkdir()
        (python_headers / "Python.h").write_text("")
        python = tmp_path / "python3.10"
        python.write_text(
            "#!/bin/sh\n"
            f'case "$1" in -c) echo 3 10 {python_headers};;\n'
            '-m) while [ "$1" != --target ]; do shift; done; mkdir -p "$2/pybind11/include";;\n'
            "esac\n"
        )
        build = (
            "set -eu; [ -f ../parsers/onnx/NvOnnxParser.h ]; [ -f ../include/NvInferVersion.h ]; "
            '[ -e "$EXT_PATH/python3.10/include/Python.h" ]; '
            '[ -d "$EXT_PATH/pybind11/include" ]; [ "$(command -v python3)" != /usr/bin/python3 ]; '
            "mkdir -p build/dist; "
            'touch "build/dist/tensorrt-8.5.2-cp$PYTHON_MAJOR_VERSION$PYTHON_MINOR_VERSION'
            '-$TARGET_ARCHITECTURE.whl"'
        )
        programs = tmp_path / "bin"
        programs.mkdir()
        (programs / "git").write_text(
            f'#!/bin/sh\necho "$@" > {tmp_path}/git.txt\nfor last; do :; done\n'
            'mkdir -p "$last/python" "$last/include"\n'
            f'cat > "$last/python/build.sh" <<\'END\'\ncd "$TRT_OSSPATH/python"\n{build}\nEND\n'
        )
        for path in (python, programs / "git"):
            path.chmod(0o755)
        out = tmp_path / "wheels"
        result = self.run(
            str(python),
            str(out),
            TENSORRT_INCLUDE=str(tmp_path / "include"),
            PATH=f"{programs}{os.pathsep}{os.environ['PATH']}",
        )
        assert result.returncode == 0, result.stdout + result.stderr
        assert [path.name for path in out.iterdir()] == [
            f"tensorrt-8.5.2-cp310-{os.uname().machine}.whl"
        ]
        asked = (tmp_path / "git.txt").read_text()
        assert "--branch release/8.5 https://github.com/NVIDIA/TensorRT.git" in asked
        assert "TensorRT 8.5.2 for Python 3.10" in result.stdout


def test_the_broker_starts_with_its_configuration(tmp_path: Path) -> None:
    mosquitto = program("mosquitto", "the mosquitto package")
    text = (DEPLOY / "compose" / "mosquitto" / "mosquitto.conf").read_text()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    text = text.replace("listener 1883", f"listener {port} 127.0.0.1")
    text = text.replace("/mosquitto/data/", f"{tmp_path}/")
    (tmp_path / "mosquitto.conf").write_text(text + "user root\n" * (os.getuid() == 0))
    command = [mosquitto, "-c", str(tmp_path / "mosquitto.conf")]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as server:
        try:
            # CONNECT of MQTT 3.1.1 with the client name "t", and the CONNACK that accepts it.
            hello = bytes.fromhex("100d00044d5154540402003c000174")
            assert _ask(port, hello, server).startswith(bytes.fromhex("20020000"))
        finally:
            server.terminate()
            output, _ = server.communicate(timeout=LIMIT)
    assert "rror" not in output, output


def _ask(port: int, data: bytes, server: subprocess.Popen[str]) -> bytes:
    def answer() -> bytes:
        assert server.poll() is None, "it ended"
        address = ("127.0.0.1", port)
        with (
            suppress(ConnectionRefusedError),
            socket.create_connection(address, timeout=LIMIT) as connection,
        ):
            connection.sendall(data)
            return connection.recv(16)
        return b""

    return wait_until(answer, "an answer")
