"""Runs the probes, each on its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from trt_afdet.doctor import gpu, jetson, software, system
from trt_afdet.doctor.machine import Machine
from trt_afdet.doctor.row import Row, first_line

#: Seconds that a probe may take.
LIMIT = 2.0

#: Seconds for one that imports a large package: from a cold SD card that takes long.
IMPORT_LIMIT = 20.0


@dataclass(frozen=True)
class Probe:
    """Something to look at.

    Attributes:
        name: For the row of a probe that raised or hung.
        look: Yields the rows; none where the question makes no sense (a PC's power mode).
        limit: Seconds it may take.
    """

    name: str
    look: Callable[[Machine], Iterable[Row]]
    limit: float = LIMIT


#: In the order a reader would ask for them.
PROBES: tuple[Probe, ...] = (
    Probe("Python", software.python),
    Probe("packages", software.packages, IMPORT_LIMIT),
    Probe("OpenCV video", software.opencv_video, IMPORT_LIMIT),
    Probe("OpenCV windows", software.opencv_windows, IMPORT_LIMIT),
    Probe("GStreamer", software.gstreamer, IMPORT_LIMIT),
    Probe("PyAV", software.pyav, IMPORT_LIMIT),
    Probe("ONNX Runtime", software.onnxruntime, IMPORT_LIMIT),
    Probe("stream packages", software.stream_packages),
    Probe("native parts", gpu.native_parts, IMPORT_LIMIT),
    Probe("TensorRT", gpu.tensorrt, IMPORT_LIMIT),
    Probe("CUDA packages", gpu.cuda_packages),
    Probe("NVIDIA GPU", gpu.driver),
    Probe("Jetson", jetson.board),
    Probe("JetPack", jetson.jetpack),
    Probe("power mode", jetson.power_mode),
    Probe("clocks", jetson.clocks),
    Probe("cameras", system.cameras),
    Probe("disk", system.disk),
    Probe("memory", system.memory),
    Probe("swap", system.swap),
    Probe("time", system.time_sync),
)


def examine(machine: Machine | None = None, probes: Sequence[Probe] = PROBES) -> list[Row]:
    """All rows of all probes.

    Args:
        machine: Whose files are looked at; this one's by default.
        probes: Which.
    """
    machine = machine or Machine()
    return [row for probe in probes for row in _run(probe, machine)]


def _run(probe: Probe, machine: Machine) -> list[Row]:
    found: list[Row] = []
    raised: list[BaseException] = []

    def look() -> None:
        try:
            found.extend(probe.look(machine))
        except BaseException as error:  # A broken binary package raises anything it likes.
            raised.append(error)

    # A thread, as a driver that hangs cannot be interrupted; a daemon, so that it holds up no exit.
    thread = threading.Thread(target=look, name=f"doctor {probe.name}", daemon=True)
    thread.start()
    thread.join(probe.limit)
    rows = list(found)
    if thread.is_alive():
        fix = "run `trt-afdet doctor` again; if it stays so, look at the end of `sudo dmesg`"
        rows.append(Row("warn", probe.name, f"no answer within {probe.limit:g} s", fix))
    elif raised:
        detail = f"could not be looked at: {type(raised[0]).__name__}: {first_line(raised[0])}"
        rows.append(Row("warn", probe.name, detail, "report it, with this line"))
    return rows
