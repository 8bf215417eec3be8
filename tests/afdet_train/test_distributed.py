"""What processes of one run agree on, with torchrun's own launcher."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys, time
from pathlib import Path
from afdet_train.distributed import process_group

out, fails = Path(sys.argv[1]), sys.argv[2] == "fails"
with process_group("cpu") as ranks:
    try:
        with ranks.first_here():
            # The others begin when the first has ended, however long it takes.
            seen = sorted(p.name for p in out.iterdir())
            if ranks.rank == 0:
                time.sleep(1)
            elif "0" not in seen:
                raise SystemExit(f"rank {ranks.rank} did not wait: {seen}")
            (out / str(ranks.rank)).touch()
            if fails:
                raise ValueError("bad data")
    except ValueError:
        (out / f"{ranks.rank} failed").touch()
"""


@pytest.mark.parametrize("fails", ["fails", "works"])
def test_the_first_process_opens_the_data_before_the_others(tmp_path: Path, fails: str) -> None:
    program, out = tmp_path / "program.py", tmp_path / "out"
    program.write_text(PROGRAM)
    out.mkdir()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=3"]
    done = subprocess.run(
        [*command, str(program), str(out), fails], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    names = {str(rank) for rank in range(3)}
    names |= {f"{rank} failed" for rank in range(3)} if fails == "fails" else set()
    assert {p.name for p in out.iterdir()} == names
