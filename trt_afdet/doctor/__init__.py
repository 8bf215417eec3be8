"""What this machine has of what trt-afdet can use, and how to get the rest.

Each probe looks at the real thing (loads the library, asks the driver, reads the board's files) and
yields rows. A row says which uses need it; where none of the user's own does, a missing thing is
"not needed". A probe that raises or hangs becomes a row itself and stops no other.
"""

from __future__ import annotations

from trt_afdet.doctor.examine import PROBES, Probe, examine, uses_here
from trt_afdet.doctor.machine import Machine
from trt_afdet.doctor.row import USES, Row

__all__ = ["PROBES", "USES", "Machine", "Probe", "Row", "examine", "uses_here"]
