"""What the runtime may import: NumPy and OpenCV; and never torch."""

from __future__ import annotations

import ast
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import trt_afdet

PACKAGE = Path(trt_afdet.__file__).parent
MODULES = ["trt_afdet"] + [
    m.name for m in pkgutil.walk_packages([str(PACKAGE)], "trt_afdet.") if "__main__" not in m.name
]

# Imports every module where only the standard library, NumPy, OpenCV and this package exist.
BARE = """
import importlib.abc, sys

class OnlyTheCore(importlib.abc.MetaPathFinder):
    allowed = sys.stdlib_module_names | {{"numpy", "cv2", "trt_afdet"}}

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in self.allowed:
            raise ModuleNotFoundError(f"not in a bare environment: {{name}}", name=name)

assert not {{m.partition(".")[0] for m in sys.modules}} & {{"torch", "onnxruntime", "rich"}}
sys.meta_path.insert(0, OnlyTheCore())
for name in {modules!r}:
    importlib.import_module(name)
from trt_afdet.cli import main
assert main(["--help"]) == 0
"""


def test_every_module_imports_with_numpy_and_opencv_only() -> None:
    assert "trt_afdet.cli.detect" in MODULES
    assert "trt_afdet.runtime.onnxruntime" in MODULES
    result = subprocess.run(
        [sys.executable, "-c", "import importlib\n" + BARE.format(modules=MODULES)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: p.name)
def test_no_file_names_torch_or_the_training_package_in_an_import(path: Path) -> None:
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            imported.add((node.module or "").partition(".")[0])
    assert not imported & {"torch", "torchvision", "timm", "afdet_train"}
