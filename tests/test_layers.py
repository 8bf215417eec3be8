"""Modules import only lower layers, and never in a cycle."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.paths import ROOT

#: From the bottom to the top. Packages on one line do not import each other.
LAYERS = """
errors
assets  support
spec
geometry
preprocess  draw  interface
native  media
detections
postprocess
records  datasets
evaluation
trt
runtime
engine
stream.addresses  stream.frame  stream.options  stream.retry
stream.monitoring
stream.analysis  stream.sources
stream.sinks
stream.batcher
stream.capture
stream.pipeline
stream.config
web
live
api
doctor
cli
"""

RANK = {room: rank for rank, line in enumerate(LAYERS.split("\n")) for room in line.split()}

Edges = dict[str, set[str]]


def modules(package: Path) -> dict[str, Path]:
    """Every module of a package by its dotted name."""
    found = {}
    for path in package.rglob("*.py"):
        name = ".".join(path.relative_to(package.parent).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    return found


def imports(package: Path) -> Edges:
    """The imports of each module within its package: top-level, in functions, and for types."""
    paths = modules(package)
    edges: Edges = {name: set() for name in paths}
    for name, path in paths.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                wanted = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert not node.level, f"{path}: a relative import"
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                wanted = [full if full in paths else str(node.module) for full in names]
            else:
                continue
            edges[name].update(found for found in wanted if found in paths and found != name)
    return edges


def room(module: str) -> str:
    """The longest entry of LAYERS that contains a module; empty for the package itself."""
    parts = module.split(".")[1:]
    names = [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
    return next((name for name in names if name in RANK), "")


def upward(edges: Edges) -> list[str]:
    """Imports of packages that are not below the importing package."""
    found = []
    for module, imported in edges.items():
        for target in sorted(imported):
            here, there = room(module), room(target)
            if here and there and here != there and RANK[there] >= RANK[here]:
                found.append(f"{module} -> {target}")
    return sorted(found)


def circles(edges: Edges) -> list[list[str]]:
    """Groups of modules that import each other, directly or indirectly."""
    reach: dict[str, set[str]] = {}
    for start in edges:
        seen: set[str] = set()
        waiting = list(edges[start])
        while waiting:
            module = waiting.pop()
            if module not in seen:
                seen.add(module)
                waiting += edges[module]
        reach[start] = seen
    groups = {
        tuple(sorted({start} | {m for m in reach[start] if start in reach[m]}))
        for start in edges
        if start in reach[start]
    }
    return [list(group) for group in sorted(groups)]


@pytest.fixture(scope="module")
def runtime_edges() -> Edges:
    return imports(ROOT / "trt_afdet")


def test_every_module_has_a_layer(runtime_edges: Edges) -> None:
    homeless = {name for name in runtime_edges if not room(name)}
    assert homeless == {"trt_afdet", "trt_afdet.__main__", "trt_afdet.stream"}


def test_no_import_goes_up(runtime_edges: Edges) -> None:
    assert upward(runtime_edges) == []


@pytest.mark.parametrize("package", ["trt_afdet", "train/afdet_train"])
def test_no_circle(package: str) -> None:
    assert circles(imports(ROOT / package)) == []


def test_the_rooms_stand_in_no_circle(runtime_edges: Edges) -> None:
    """Whole folders, such as stream and web: one direction between each two."""
    between = {
        (a.split(".")[1], b.split(".")[1])
        for a, imported in runtime_edges.items()
        for b in imported
        if a.count(".") and b.count(".") and a.split(".")[1] != b.split(".")[1]
    }
    assert [pair for pair in sorted(between) if pair[::-1] in between] == []


def test_the_runtime_never_imports_the_training() -> None:
    for path in (ROOT / "trt_afdet").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert not str(node.module).startswith("afdet_train"), path
            if isinstance(node, ast.Import):
                assert not any(a.name.startswith("afdet_train") for a in node.names), path


def test_it_sees_an_arrow_back_and_a_circle(tmp_path: Path) -> None:
    """Imports inside functions and for types count, too."""
    package = tmp_path / "trt_afdet"
    for folder in ("runtime", "engine"):
        (package / folder).mkdir(parents=True)
        (package / folder / "__init__.py").write_text("")
    (package / "__init__.py").write_text("")
    (package / "runtime" / "a.py").write_text(
        "def f():\n    from trt_afdet.engine import b\n    return b\n"
    )
    (package / "engine" / "b.py").write_text(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from trt_afdet.runtime.a import f\n"
    )
    edges = imports(package)
    assert upward(edges) == ["trt_afdet.runtime.a -> trt_afdet.engine.b"]
    assert circles(edges) == [["trt_afdet.engine.b", "trt_afdet.runtime.a"]]
