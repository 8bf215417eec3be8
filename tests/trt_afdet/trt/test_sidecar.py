"""The engine's sidecar: written, read, and refused in every way it can be wrong."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.trt_afdet.onnx_models import SPEC, build_model
from trt_afdet.engine.onnx.model_file import load_canonical
from trt_afdet.errors import AfdetError, CorruptFileError, InvalidValueError, MissingFileError
from trt_afdet.interface import DETECTION_NAMES
from trt_afdet.trt.sidecar import EngineSidecar, _checksum, read, sidecar_path

ENGINE = b"a plan" * 1000


def example(**changes: Any) -> EngineSidecar:
    values: dict[str, Any] = {
        "spec": SPEC,
        "tensorrt_version": "10.3.0",
        "flavour": "tensorrt",
        "gpu_name": "Orin",
        "compute_capability": ("8.7",),
        "platform": "linux-aarch64",
        "precision_asked": "fp16",
        "precision_layers": {"HALF": 9, "FLOAT": 1},
        "precision_groups": {"stem": {"FLOAT": 1}, "neck1": {"HALF": 9}},
        "precision_source": "engine",
        "fallback": ("stem: 1 of 1 in FLOAT, not HALF",),
        "kept": ("head/reg",),
        "nms": "none",
        "plugin_version": None,
        "onnx_file": "model.onnx",
        "onnx_sha256": "0" * 64,
        "engine_sha256": hashlib.sha256(ENGINE).hexdigest(),
        "calibration_key": None,
        "batch": (1, 4, 8),
        "input_dtype": "float32",
        "output_dtypes": dict.fromkeys(SPEC.output_names, "float16"),
        "version_compatible": False,
        "hardware_compatible": "none",
        "stripped": False,
        "dla_core": None,
        "options": ("--io", "float16"),
        "build_seconds": 61.5,
        "peak_memory": 2**30,
        "peak_device_memory": None,
        "verification": {"passed": True, "pictures": 12},
        "created": "2026-11-23T06:00:00+00:00",
        "layer_types": {"n_stem": "FLOAT", **{f"n_{i}": "HALF" for i in range(9)}},
    }
    return EngineSidecar(**{**values, **changes})


def signed(raw: dict[str, Any]) -> str:
    """The text of changed values, as if they had been written so."""
    raw.pop("sha256", None)
    return json.dumps({**raw, "sha256": _checksum(raw)})


def raw() -> dict[str, Any]:
    return dict(json.loads(example().to_json()))


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    path = tmp_path / "model.engine"
    path.write_bytes(ENGINE)
    sidecar_path(path).write_text(example().to_json())
    return path


def test_what_is_written_is_read(engine: Path) -> None:
    assert sidecar_path(engine).name == "model.engine.json"
    assert read(engine) == example()
    assert read(str(sidecar_path(engine))) == example()
    plugin = example(
        nms="plugin", plugin_version="1", output_dtypes=dict.fromkeys(DETECTION_NAMES, "float32")
    )
    assert EngineSidecar.from_json(plugin.to_json()) == plugin


def test_it_says_how_to_build_the_engine_again() -> None:
    words = " ".join(example().arguments())
    assert words == "--precision fp16 --nms none --batch 1,4,8 --io float16"


def test_every_value_is_checked_on_writing_and_reading() -> None:
    bad: dict[str, Any] = {
        "spec": 1,
        "tensorrt_version": "ten",
        "flavour": "trt",
        "gpu_name": "",
        "compute_capability": [],
        "platform": 3,
        "precision_asked": "best",
        "precision_layers": {"HALF": -1},
        "precision_groups": {"stem": [1]},
        "layer_types": {"n_stem": "FLOAT"},
        "precision_source": "guess",
        "fallback": "stem",
        "kept": [1],
        "nms": "nms",
        "plugin_version": 1,
        "onnx_file": "/tmp/model.onnx",
        "onnx_sha256": "0" * 63,
        "engine_sha256": "G" * 64,
        "calibration_key": "x",
        "batch": [1, 8, 4],
        "input_dtype": "int8",
        "output_dtypes": {"cls_p3": "float32"},
        "version_compatible": 1,
        "hardware_compatible": "all",
        "stripped": None,
        "dla_core": -1,
        "options": "--io",
        "build_seconds": -0.1,
        "peak_memory": 1.5,
        "peak_device_memory": "much",
        "verification": [],
        "created": "today",
        "schema_version": 0,
    }
    assert set(bad) == {f.name for f in dataclasses.fields(EngineSidecar)}
    for name, value in bad.items():
        with pytest.raises((InvalidValueError, CorruptFileError), match=r"must be|must name|spec"):
            EngineSidecar.from_json(signed({**raw(), name: value}))
        value = tuple(value) if isinstance(value, list) else value
        with pytest.raises(InvalidValueError):
            example(**{name: value})


def test_versions_and_keys() -> None:
    with pytest.raises(InvalidValueError, match="schema version 2, this trt-afdet reads up to 1"):
        EngineSidecar.from_json(json.dumps({"schema_version": 2, "new": 1}))
    with pytest.raises(InvalidValueError, match="unknown key 'colour'"):
        EngineSidecar.from_json(signed({**raw(), "colour": 1}))
    short = raw()
    del short["batch"]
    with pytest.raises(InvalidValueError, match="lacks 'batch'"):
        EngineSidecar.from_json(signed(short))
    with pytest.raises(InvalidValueError, match="plugin_version goes with"):
        example(plugin_version="1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON, or it is cut off"),
        ("[]", "not an engine's sidecar"),
        ("{}", "lacks schema_version"),
        ('{"schema_version": true}', "lacks schema_version"),
        ("\x00", "not JSON"),
        ("[" * 100000, "not JSON"),
        ('{"schema_version": NaN}', "NaN is not JSON"),
        ('{"schema_version": ' + "9" * 5000 + "}", "not JSON"),
        (b"\xff\xfe\xff", "not JSON"),
    ],
)
def test_what_is_no_sidecar(text: str | bytes, message: str) -> None:
    with pytest.raises(CorruptFileError, match=message):
        EngineSidecar.from_json(text, "model.engine.json")


def test_an_edited_one_is_refused() -> None:
    text = example().to_json()
    with pytest.raises(CorruptFileError, match="changed after it was written"):
        EngineSidecar.from_json(text.replace('"fp16"', '"int8"'))
    with pytest.raises(CorruptFileError, match="changed after it was written"):
        EngineSidecar.from_json(text.replace('"sha256": "', '"sha256": "0'))


def test_every_way_of_cutting_it_off_is_refused() -> None:
    text = example().to_json()
    for length in range(len(text) - 2):
        with pytest.raises(CorruptFileError):
            EngineSidecar.from_json(text[:length])


def test_numbers_too_large_for_floats_are_refused() -> None:
    with pytest.raises(InvalidValueError):
        EngineSidecar.from_json(signed({**raw(), "build_seconds": 10**400}))
    spec = {**raw()["spec"], "mean": [10**400, 0, 0]}
    with pytest.raises(InvalidValueError):
        EngineSidecar.from_json(signed({**raw(), "spec": spec}))


def test_another_engine_beside_it_is_refused(engine: Path) -> None:
    engine.write_bytes(ENGINE[:-1])
    with pytest.raises(CorruptFileError, match="or it is cut off"):
        read(engine)
    assert read(sidecar_path(engine)) == example()


def test_what_is_missing_is_named(engine: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"there is no such engine \(got .*none.engine"):
        read(tmp_path / "none.engine")
    sidecar_path(engine).unlink()
    with pytest.raises(MissingFileError, match=r"sidecar is missing \(got .*model.engine.json"):
        read(engine)
    with sidecar_path(engine).open("wb") as file:
        file.truncate(2**25)
    with pytest.raises(CorruptFileError, match="too large for a sidecar"):
        read(engine)


def _damage(data: bytes, rng: random.Random) -> bytes:
    """Bytes changed, cut, repeated or put in."""
    result = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = rng.randrange(len(result) or 1)
        kind = rng.randrange(5)
        if kind == 0:
            result[at : at + 1] = bytes([rng.randrange(256)])
        elif kind == 1:
            result[at : at + 1] = bytes([result[at] ^ (1 << rng.randrange(8))]) if result else b""
        elif kind == 2:
            del result[at : at + rng.randrange(1, 64)]
        elif kind == 3:
            result[at:at] = result[at : at + rng.randrange(1, 32)]
        else:
            del result[at:]
    return bytes(result)


def _replace_somewhere(value: Any, rng: random.Random) -> Any:
    """The same JSON with one value somewhere inside it replaced."""
    odd: list[Any] = [None, True, -1, 10**30, 1e300, "", "\ud800", [], {}, [[]], {"a": 1}, "1"]
    if isinstance(value, dict) and value:
        key = rng.choice(list(value))
        return {**value, key: _replace_somewhere(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.7:
        at = rng.randrange(len(value))
        return [*value[:at], _replace_somewhere(value[at], rng), *value[at + 1 :]]
    return rng.choice(odd)


def _refusal(call: Callable[[], object]) -> AfdetError | None:
    """The error of a call that may raise no other kind."""
    try:
        call()
    except AfdetError as error:
        return error
    return None


def test_ten_thousand_damaged_files_end_in_clean_errors(tmp_path: Path) -> None:
    """Bytes of the sidecar, values of a sidecar signed again, bytes of an ONNX file."""
    rng = random.Random(4)
    text, plain = example().to_json().encode(), raw()
    model, path = build_model().SerializeToString(), tmp_path / "model.onnx"

    def read_damaged_model() -> None:
        path.write_bytes(_damage(model, rng))
        load_canonical(path)

    cases: tuple[tuple[int, int, Callable[[], object]], ...] = (
        # Not all damage tells: a byte may change inside white space or a weight.
        (4000, 3900, lambda: EngineSidecar.from_json(_damage(text, rng))),
        (4000, 3000, lambda: EngineSidecar.from_json(signed(_replace_somewhere(plain, rng)))),
        (2000, 500, read_damaged_model),
    )
    for count, least, call in cases:
        errors = [error for error in (_refusal(call) for _ in range(count)) if error is not None]
        assert len(errors) >= least
        assert {error.exit_code for error in errors} == {2}
        assert not [error for error in errors if "\n" in str(error)]
