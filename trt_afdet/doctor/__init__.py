"""What this machine has of what trt-afdet can use, and how to get the rest.

Each probe looks at the real thing (loads the library, asks the driver, reads the board's files) and
yields rows. A row says which uses need it; where none of the user's own does, a missing thing is
"not needed". A probe that raises or hangs becomes a row itself and stops no other.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import NamedTuple

from trt_afdet.doctor import gpu, jetson, software, system
from trt_afdet.doctor.machine import Machine
from trt_afdet.doctor.row import ENGINES, USES, Row, first_line
from trt_afdet.support.threads import Worker

#: Seconds that a probe may take.
LIMIT = 2.0

#: Seconds for one that imports a large package: from a cold SD card that takes long.
IMPORT_LIMIT = 20.0


class Probe(NamedTuple):
    """Something to look at; ``look`` yields no row where the question makes no sense.

    ``name`` and ``uses`` are for the row of one that raises or takes longer than ``limit`` seconds.
    """

    name: str
    look: Callable[[Machine], Iterable[Row]]
    limit: float = LIMIT
    uses: tuple[str, ...] = USES


#: In the order a reader would ask for them.
PROBES: tuple[Probe, ...] = (
    Probe("Python", software.python),
    Probe("packages", software.packages, IMPORT_LIMIT),
    Probe("OpenCV video", software.opencv_video, IMPORT_LIMIT),
    Probe("OpenCV windows", software.opencv_windows, IMPORT_LIMIT, ()),
    Probe("GStreamer", software.gstreamer, IMPORT_LIMIT, ()),
    Probe("PyAV", software.pyav, IMPORT_LIMIT),
    Probe("ONNX Runtime", software.onnxruntime, IMPORT_LIMIT),
    Probe("other packages", software.other_packages),
    Probe("native parts", gpu.native_parts, IMPORT_LIMIT),
    Probe("TensorRT", gpu.tensorrt, IMPORT_LIMIT, ENGINES),
    Probe("CUDA packages", gpu.cuda_packages, LIMIT, ENGINES),
    Probe("NVIDIA GPU", gpu.driver, LIMIT, ENGINES),
    Probe("Jetson", jetson.board),
    Probe("JetPack", jetson.jetpack),
    Probe("power mode", jetson.power_mode),
    Probe("clocks", jetson.clocks),
    Probe("compiler", system.compiler, LIMIT, ()),
    Probe("display", system.display, LIMIT, ()),
    Probe("cameras", system.cameras, LIMIT, ("run", "web")),
    Probe("disk", system.disk),
    Probe("memory", system.memory),
    Probe("swap", system.swap),
    Probe("time", system.time_sync),
)


def uses_here(machine: Machine | None = None) -> tuple[str, ...]:
    """The uses of this machine: detecting always, the others by installed extras."""
    machine = machine or Machine()

    def installed(*modules: str) -> bool:
        return all(find_spec(module) is not None for module in modules)

    found = {
        "detect": True,
        "run": installed("pydantic", "trackers"),
        "web": installed("fastapi", "uvicorn"),
        "train": installed("torch", "timm"),
        "build-engine": installed("tensorrt")
        or installed("tensorrt_rtx")
        or jetson.release_of(machine) is not None,
    }
    return tuple(use for use in USES if found[use])


def examine(
    machine: Machine | None = None,
    probes: Sequence[Probe] = PROBES,
    uses: Collection[str] | None = None,
) -> list[Row]:
    """All rows of all probes; what no use of the machine needs is "not needed".

    Args:
        machine: Whose files are looked at; this one's by default.
        probes: Which.
        uses: Of :data:`USES`; by default :func:`uses_here`.
    """
    machine = machine or Machine()
    wanted = set(uses_here(machine) if uses is None else uses)
    rows = [row for probe in probes for row in _run(probe, machine)]
    return [
        replace(row, status="not needed")
        if row.status == "fix" and not wanted & set(row.uses)
        else row
        for row in rows
    ]


def _run(probe: Probe, machine: Machine) -> list[Row]:
    found: list[Row] = []
    raised: list[BaseException] = []

    def look() -> None:
        try:
            found.extend(probe.look(machine))
        except BaseException as error:  # A broken binary package raises anything it likes.
            raised.append(error)

    # A thread, as a driver that hangs cannot be interrupted; a daemon, so that it holds up no exit.
    thread = Worker(look, name=f"doctor {probe.name}")
    thread.start()
    thread.join(probe.limit)
    rows = list(found)
    if thread.is_alive():
        fix = "run `trt-afdet doctor` again; if it stays so, look at the end of `sudo dmesg`"
        rows.append(Row("fix", probe.name, f"no answer within {probe.limit:g} s", fix, probe.uses))
    elif raised:
        detail = f"could not be looked at: {type(raised[0]).__name__}: {first_line(raised[0])}"
        rows.append(Row("fix", probe.name, detail, "report it, with this line", probe.uses))
    return rows
