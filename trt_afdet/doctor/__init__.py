"""What this machine has of what trt-afdet can use, and how to get the rest.

Each probe looks at the real thing (loads the library, asks the driver, reads the board's files) and
yields rows. A probe that raises or hangs becomes a warning and stops no other.
"""

from __future__ import annotations

from trt_afdet.doctor.examine import PROBES, Probe, examine
from trt_afdet.doctor.machine import Machine
from trt_afdet.doctor.row import Row

__all__ = ["PROBES", "Machine", "Probe", "Row", "examine"]
