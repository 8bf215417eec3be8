"""The cost of the block policy: registers, shared memory and code size of the kernels, compared
with hand-written versions. Compiles both for each architecture. Needs nvcc and readelf, not a GPU.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from trt_afdet.cli import ui

ROOT = Path(__file__).parents[2]

#: Kernels by ptxas's names.
KERNELS = {
    "scan, FP32": "scan_kernelIf",
    "scan, FP16": "scan_kernelIN5afdet4HalfE",
    "suppress, FP32": "suppress_kernelIf",
    "suppress, FP16": "suppress_kernelIN5afdet4HalfE",
}


def compile_kernels(
    source: Path, architecture: str, folder: Path
) -> dict[str, tuple[int, int, int]]:
    """(registers, bytes of shared memory, instructions) of each kernel by its mangled name."""
    cubin = folder / f"{source.stem}-{architecture}.cubin"
    command = ["nvcc", "-std=c++17", "-O3", "-cubin", f"-arch={architecture}", "-Xptxas", "-v"]
    command += [f"-I{ROOT}/plugins", f"-I{ROOT}/plugins/include", '-DAFDET_ARCHITECTURES="x"']
    log = subprocess.run(
        [*command, str(source), "-o", str(cubin)], capture_output=True, text=True, check=True
    ).stderr
    found = {}
    for block in log.split("Compiling entry function '")[1:]:
        name = block.partition("'")[0]
        registers = re.search(r"Used (\d+) registers", block)
        shared = re.search(r"(\d+) bytes smem", block)
        found[name] = (int(registers[1]) if registers else 0, int(shared[1]) if shared else 0)
    # Each kernel's code is in a separate section; an instruction takes 16 bytes.
    listing = subprocess.run(
        ["readelf", "--wide", "--section-headers", str(cubin)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    sizes = {
        name: int(size, 16) // 16
        for name, size in re.findall(r" \.text\.(\S+)\s+\S+\s+\S+\s+\S+\s+(\S+)", listing)
    }
    return {name: (*numbers, sizes.get(name, 0)) for name, numbers in found.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("architectures", nargs="*", default=["sm_87", "sm_90"])
    args = parser.parse_args()
    if not (shutil.which("nvcc") and shutil.which("readelf")):
        print("cannot compare: nvcc and readelf must be on PATH")
        return 2
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for architecture in args.architectures:
            policy = compile_kernels(ROOT / "plugins/cuda/detect.cu", architecture, Path(folder))
            hand = compile_kernels(
                Path(__file__).with_name("hand_written.cu"), architecture, Path(folder)
            )
            for title, part in KERNELS.items():
                # Mangling abbreviates a kernel's types inside its namespace.
                short = part.replace("IN5afdet4HalfE", "INS_4HalfE")
                ours = next(v for k, v in policy.items() if short in k)
                theirs = next(v for k, v in hand.items() if f"hand_{part}" in k)
                pairs = [f"{a} / {b}" for a, b in zip(ours, theirs, strict=True)]
                lines.append([architecture, title, *pairs])
    columns = ["architecture", "kernel", "registers", "shared bytes", "instructions"]
    ui.table("block policy / by hand", columns, lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
