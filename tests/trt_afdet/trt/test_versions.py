"""Every name that is asked of TensorRT exists in the real bindings of every version."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import trt_afdet
from tests.plugins.tensorrt_parts import TensorRT
from tests.skips import skip_test
from trt_afdet.trt import versions
from trt_afdet.trt.versions import FEATURES, VERSIONS

PACKAGE = Path(trt_afdet.__file__).parent
ROOT = str(PACKAGE.parent)

#: In versions.py a variable is named by what it is.
CLASSES = {
    "builder": "Builder",
    "config": "IBuilderConfig",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "profile": "IOptimizationProfile",
    "registry": "IPluginRegistry",
    "layer": "ILayer",
    "tensor": "ITensor",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "inspector": "EngineInspector",
    "cache": "ITimingCache",
    "c": "IPluginCreator",
    "field": "PluginField",
}
#: "error" is also Python's.
ERROR_CALLS = ("desc", "node", "node_name", "node_operator")

PRESENT = """
import functools, importlib, importlib.util, json, sys, warnings
warnings.simplefilter("ignore")
name = "tensorrt" if importlib.util.find_spec("tensorrt") else "tensorrt_rtx"
trt = importlib.import_module(name)

def there(dotted):
    try:
        functools.reduce(getattr, dotted.split("."), trt)
        return True
    except AttributeError:
        return False

print(json.dumps({n: there(n) for n in json.loads(sys.argv[1])}))
"""


@dataclass
class Use:
    """The names that a function asks of TensorRT, and the features it is marked to need."""

    function: str
    needs: set[str] = field(default_factory=set)
    names: set[str] = field(default_factory=set)


def uses() -> list[Use]:
    tree = ast.parse((PACKAGE / "trt" / "versions.py").read_text())
    flavour = next(
        n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == versions.Flavour.__name__
    )
    found = []
    for function in flavour.body:
        if isinstance(function, ast.FunctionDef):
            use = Use(function.name)
            for mark in function.decorator_list:
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "needs":
                    use.needs.add(ast.literal_eval(mark.args[0]))
            use.names = set(_names(function))
            found.append(use)
    return found


def _names(function: ast.FunctionDef) -> Iterator[str]:
    for node in ast.walk(function):
        if isinstance(node, ast.Attribute):
            root, _, rest = ast.unparse(node).removeprefix("self.").partition(".")
            if "(" in rest or "[" in rest:
                continue
            if root == "trt" and rest and not rest.startswith("__"):
                yield rest.partition(".__")[0]
            elif root in CLASSES and "." not in rest:
                yield f"{CLASSES[root]}.{rest}"
            elif root == "error" and rest in ERROR_CALLS:
                yield f"ParserError.{rest}"
        elif isinstance(node, ast.ClassDef):
            base = ast.unparse(node.bases[0]).removeprefix("trt.")
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and method.name != "__init__":
                    yield f"{base}.{method.name}"


def marks(feature: str) -> dict[str, bool]:
    return dict(zip(VERSIONS, (m == "x" for m in FEATURES[feature].exists), strict=True))


def present(tensorrt: TensorRT, names: set[str]) -> dict[str, bool]:
    result = tensorrt.run(PRESENT, json.dumps(sorted(names)))
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def test_the_scan_of_the_source_sees_what_it_should() -> None:
    by_name = {use.function: use for use in uses()}
    assert by_name["set_precision_flags"].needs == {"precision_flags"}
    assert {"BuilderFlag.FP16", "IBuilderConfig.set_flag"} <= by_name["set_precision_flags"].names
    assert "IInt8EntropyCalibrator2.get_batch" in by_name["set_calibrator"].names
    assert "IProgressMonitor.step_complete" in by_name["set_monitor"].names
    assert "OnnxParser.parse" in by_name["parse"].names
    assert sum(len(use.names) for use in uses()) > 80


def test_every_feature_is_asked_for() -> None:
    source = "".join(
        p.read_text() for room in ("engine", "trt") for p in (PACKAGE / room).rglob("*.py")
    )
    unused = [name for name in FEATURES if source.count(f'"{name}"') < 2]
    assert unused == []


def test_the_table_is_true(any_tensorrt: tuple[str, TensorRT]) -> None:
    version, tensorrt = any_tensorrt
    there = present(tensorrt, {feature.asked for feature in FEATURES.values()})
    wrong = [
        f"{version}: {feature.asked} {'exists' if there[feature.asked] else 'is missing'}"
        for name, feature in FEATURES.items()
        if there[feature.asked] != marks(name)[version]
    ]
    assert wrong == []


def test_every_name_exists_where_it_is_used(any_tensorrt: tuple[str, TensorRT]) -> None:
    version, tensorrt = any_tensorrt
    there = present(tensorrt, {name for use in uses() for name in use.names})
    missing = [
        f"{version}: {name} in {use.function}"
        for use in uses()
        if all(marks(feature)[version] for feature in use.needs)
        for name in use.names
        if not there[name]
    ]
    assert missing == []


def test_the_runtime_asks_for_no_name_that_no_version_has(
    every_tensorrt: dict[str, TensorRT],
) -> None:
    """A name there may be guarded; one that is misspelt is in no version at all."""
    names = set()
    for path in (PACKAGE / "runtime").glob("engine*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                root, _, rest = ast.unparse(node).removeprefix("self._").partition(".")
                if root == "trt" and "_" not in rest and rest.replace(".", "").isidentifier():
                    names.add(rest)
    assert "Runtime" in names
    found = [present(tensorrt, names) for tensorrt in every_tensorrt.values()]
    assert [name for name in names if not any(there[name] for there in found)] == []


ACT = """
import sys
import json, types, warnings
warnings.simplefilter("ignore")
from trt_afdet.trt import versions
from trt_afdet.engine.progress import BuildState
from trt_afdet.errors import AfdetError

flavour = versions.load()
print("name:", flavour.name, flavour)
logger = flavour.make_logger()
logger.log(flavour.trt.ILogger.ERROR, "first\\nsecond")
logger.log(flavour.trt.ILogger.WARNING, "no error")
print("errors:", logger.errors)
config = types.SimpleNamespace(set_calibration_profile=lambda profile: None)
state = BuildState()
if flavour.has("progress"):
    monitor = flavour.set_monitor(config, state)
    monitor.phase_start("all", None, 4)
    print("goes on:", monitor.step_complete("all", 1), state.fraction)
    state.cancelled = True
    print("goes on:", monitor.step_complete("all", 2))
else:
    try:
        flavour.set_monitor(config, state)
    except AfdetError as error:
        print("refused:", error)

class Batches:
    size = 2
    addresses = [7]
    def next_address(self):
        return self.addresses.pop() if self.addresses else None
    def read_cache(self):
        return None
    def write_cache(self, cache):
        print("cache:", cache)

try:
    calibrator = flavour.set_calibrator(config, None, Batches())
    print("batches:", calibrator.get_batch(["images"]), calibrator.get_batch(["images"]))
    calibrator.write_calibration_cache(memoryview(b"abc"))
except AfdetError as error:
    print("refused:", error)
try:
    flavour.make_builder(logger)
    print("builder")
except AfdetError as error:
    print("refused:", type(error).__name__, error)
"""


def test_classes_derived_from_tensorrts_are_taken(any_tensorrt: tuple[str, TensorRT]) -> None:
    version, tensorrt = any_tensorrt
    result = tensorrt.run(ACT)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    is_rtx = version.startswith("RTX")
    assert lines[0].startswith("name: tensorrt-rtx" if is_rtx else "name: tensorrt TensorRT ")
    assert "errors: ['first']" in lines
    if version.startswith("8."):
        assert any("has no progress monitor" in line for line in lines)
    else:
        assert "goes on: True 0.5" in lines
        assert "goes on: False" in lines
    if marks("calibrator")[version]:
        assert "batches: [7] None" in lines
        assert "cache: b'abc'" in lines
    else:
        assert any("has no implicit INT8 calibration - use --int8-mode ex" in x for x in lines)


def test_without_a_gpu_only_rtx_makes_a_builder(any_tensorrt: tuple[str, TensorRT]) -> None:
    version, tensorrt = any_tensorrt
    if version == "8.5" and Path("/dev/nvidia0").exists():
        skip_test("this machine has a GPU", "a run without one")
    result = tensorrt.run(ACT)
    last = result.stdout.splitlines()[-1]
    if version.startswith("RTX"):
        assert last == "builder"
    else:
        assert last.startswith("refused: RunError TensorRT ")
        assert "it needs an NVIDIA GPU and a driver" in last


PLAN = """
import sys
import json, warnings
from pathlib import Path
warnings.simplefilter("ignore")
from trt_afdet.trt import versions
from trt_afdet.trt.gpu import Gpu
from trt_afdet.engine.options import BuildOptions
from trt_afdet.engine.plan import make_plan
from trt_afdet.errors import AfdetError

class Orin(Gpu):
    def free(self):
        return 4 * 2**30

flavour = versions.load()
gpu = Orin("Orin", "8.7" if not flavour.is_rtx else "8.9", 8 * 2**30, True)
for words in json.loads(sys.argv[1]):
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in words.items()}
    here = given.pop("gpu", True)
    try:
        options = BuildOptions(onnx=Path("m.onnx"), output=Path("none/m.engine"), **given)
        plan = make_plan(options, flavour, gpu if here else None)
        print(json.dumps(["typed" if plan.typed else "flags", plan.workspace,
                          plan.compute_capability, str(plan.timing_cache)]))
    except AfdetError as error:
        print(json.dumps([type(error).__name__, str(error), error.exit_code]))
"""


def plans(tensorrt: TensorRT, *options: dict[str, object]) -> list[list[object]]:
    result = tensorrt.run(PLAN, json.dumps(options))
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_how_each_version_types_a_network(any_tensorrt: tuple[str, TensorRT]) -> None:
    version, tensorrt = any_tensorrt
    half, int8, implicit, dla, dla_int8, alone = plans(
        tensorrt,
        {"precision": "fp16"},
        {"precision": "int8", "calib": "x"},
        {"precision": "int8", "calib": "x", "int8_mode": "implicit"},
        {"precision": "fp16", "dla_core": 0},
        {"precision": "int8", "calib": "x", "dla_core": 0},
        {"gpu": False},
    )
    is_rtx = version.startswith("RTX")
    old = version.startswith("8.")
    assert half[0] == int8[0] == ("flags" if old else "typed")
    assert half[1] == 2 * 2**30
    assert half[2] == (["8.9"] if is_rtx else ["8.7"])
    assert half[3] == ("None" if is_rtx else "none/m.engine.timing")
    if marks("calibrator")[version]:
        assert implicit[0] == "flags"
        assert dla[0] == "flags"
    else:
        assert "no implicit INT8 calibration" in str(implicit[1])
    if is_rtx:
        assert "has no DLA" in str(dla[1])
        assert alone[2] == ["8.0", "8.6", "8.9", "12.0", "12.1"]
    else:
        assert alone[0] == "RunError"
        assert alone[2] == 1
        assert "run this command on that machine" in str(alone[1])
    if version.startswith("10"):
        assert "takes INT8 only with --int8-mode implicit" in str(dla_int8[1])
    if version == "11.4":
        assert dla[0] == dla_int8[0] == "typed"


def test_what_a_version_lacks_is_refused_by_name(any_tensorrt: tuple[str, TensorRT]) -> None:
    version, tensorrt = any_tensorrt
    asked: dict[str, dict[str, object]] = {
        "optimization_level": {"optimization_level": 5},
        "version_compatible": {"version_compatible": True},
        "ampere_plus": {"hardware_compatible": "ampere_plus"},
        "same_compute_capability": {"hardware_compatible": "same_compute_capability"},
        "strip_weights": {"strip_weights": True},
        "compute_capabilities": {"compute_capability": ["8.9"]},
    }
    for (feature, _), answer in zip(asked.items(), plans(tensorrt, *asked.values()), strict=True):
        if feature == "version_compatible" and version.startswith("RTX"):
            # It has the name, and not the library that such an engine holds.
            assert "brings no lean runtime" in str(answer[1])
        elif marks(feature)[version]:
            assert answer[0] in ("typed", "flags"), (version, feature, answer)
        else:
            assert answer[0] == "InvalidValueError", (version, feature)
            assert FEATURES[feature].what in str(answer[1])
            assert answer[2] == 2


STAND_IN = """
const char* afdet_plugin_build_info(void) { return "@, the rest"; }
"""

LOAD = """
import sys
import warnings
warnings.simplefilter("ignore")
from pathlib import Path
from trt_afdet.trt import versions
from trt_afdet.errors import AfdetError

flavour = versions.load()
for path in sys.argv[1:]:
    try:
        flavour.load_plugin(Path(path), "AfdetDecodeNMS", "1")
    except AfdetError as error:
        print(type(error).__name__, error)
"""


def test_a_plugin_of_another_major_version_is_refused_before_it_is_loaded(
    any_tensorrt: tuple[str, TensorRT], tmp_path: Path
) -> None:
    """The libraries only say what they were built for: nothing else of them is asked."""
    version, tensorrt = any_tensorrt
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        skip_test("a C compiler", "apt-get install gcc")
    major = version.partition(".")[0]
    others = [
        built
        for built in (
            "TensorRT 8.5, IPluginV2DynamicExt",
            "TensorRT 10.3, IPluginV3",
            "TensorRT 11.1, IPluginV3",
            "TensorRT 1.7, IPluginV3",
        )
        if not built.startswith(f"TensorRT {major}.")
        and not (version.startswith("RTX") and "IPluginV3" in built)
    ]
    paths = [tmp_path / f"{index}.so" for index in range(len(others))]
    for path, built in zip(paths, others, strict=True):
        source = STAND_IN.replace("@", built)
        command = [compiler, "-shared", "-fPIC", "-x", "c", "-o", str(path), "-"]
        subprocess.run(command, input=source, text=True, check=True)
    strange = tmp_path / "strange.so"
    empty = [compiler, "-shared", "-fPIC", "-x", "c", "-o", str(strange), "-"]
    subprocess.run(empty, input="int nothing;\n", text=True, check=True)
    result = tensorrt.run(LOAD, *paths, strange, tmp_path / "none.so")
    *lines, foreign, missing = result.stdout.splitlines()
    assert len(lines) == len(others), result.stdout + result.stderr
    for line, built in zip(lines, others, strict=True):
        assert "was built for another TensorRT than TensorRT" in line
        assert f"(got {built.partition(',')[0]})" in line
    assert foreign.startswith("InvalidValueError this is not trt-afdet's plugin library")
    assert missing.startswith("MissingFileError no such plugin library")


def test_nothing_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    if any(versions.importlib.util.find_spec(n) for ns in versions.MODULES.values() for n in ns):
        skip_test("TensorRT is installed", "a run without it")
    with pytest.raises(ImportError, match="TensorRT is not installed - on a Jetson"):
        versions.load()
    with pytest.raises(ImportError, match="TensorRT-RTX is not installed"):
        versions.load("rtx")
    with pytest.raises(ValueError, match="auto, tensorrt or rtx"):
        versions.load("trt")


def test_bindings_without_libraries_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "tensorrt_rtx"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('libnvinfer.so.10: cannot open')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt_rtx", raising=False)
    with pytest.raises(ImportError, match=r"cannot be imported \(got libnvinfer.so.10"):
        versions.load("rtx")
