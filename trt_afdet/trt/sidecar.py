"""The engine's sidecar: ``model.engine.json`` beside ``model.engine``.

The engine file stays a plain TensorRT engine. The sidecar holds what the engine does not reveal, or
reveals only to the TensorRT and GPU that built it, so that a reader can check that first.
"""

import dataclasses
import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args

from trt_afdet.errors import CorruptFileError, InvalidValueError, MissingFileError
from trt_afdet.interface import DETECTION_NAMES, FLOATS, NMS_FORMS
from trt_afdet.spec import ModelSpec
from trt_afdet.support.files import file_sha256

#: Version of the JSON layout. A reader refuses anything newer than this.
SCHEMA_VERSION = 1

#: TensorRT, and TensorRT for RTX, whose engines fit a family of GPUs.
FLAVOURS = ("tensorrt", "tensorrt-rtx")

#: Precisions that can be asked for; "best" becomes one of these when it is built.
PRECISIONS = ("fp32", "fp16", "int8")

#: Which GPUs besides the one that built it an engine runs on.
COMPATIBILITIES = ("none", "same_compute_capability", "ampere_plus")

_LARGEST_FILE = 16 * 2**20
_REBUILD = "build the engine again"

#: What a value must be, checked on writing and on reading.
Rule = tuple[Callable[[Any], bool], str]


def _count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**62


def _seconds(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and value >= 0


def _text(value: Any) -> bool:
    return isinstance(value, str) and bool(value) and value.isprintable()


def _texts(value: Any) -> bool:
    return isinstance(value, tuple) and all(map(_text, value))


def _batches(value: Any) -> bool:
    three = isinstance(value, tuple) and len(value) == 3 and all(map(_count, value))
    return three and 1 <= value[0] <= value[1] <= value[2]


def _capabilities(value: Any) -> bool:
    return _texts(value) and bool(value) and all(map(_matches(r"\d+\.\d+"), value))


def _map_of(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: (
        isinstance(value, Mapping) and all(_text(k) and fits(v) for k, v in value.items())
    )


def _matches(pattern: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None


def _one_of(*choices: str) -> Rule:
    return lambda value: isinstance(value, str) and value in choices, " or ".join(choices)


def _or_none(rule: Rule) -> Rule:
    fits, what = rule
    return lambda value: value is None or fits(value), f"{what}, or null"


_TEXT: Rule = (_text, "text")
_COUNT: Rule = (_count, "a whole number, 0 or more")
_HASH: Rule = (_matches(r"[0-9a-f]{64}"), "64 hexadecimal digits")
_COUNTS = _map_of(_count)

_Texts = Annotated[tuple[str, ...], (_texts, "a list of texts")]
_Flag = Annotated[bool, (lambda value: isinstance(value, bool), "true or false")]
_Hash = Annotated[str, _HASH]


@dataclass(frozen=True, kw_only=True)
class EngineSidecar:
    """Describes an engine and where it runs.

    Attributes:
        spec: The model's.
        tensorrt_version: As the module says it: "10.3.0".
        flavour: One of :data:`FLAVOURS`.
        gpu_name: The GPU it was built on; None if it was built without one.
        compute_capability: Those it was built for, such as ("8.7",); TensorRT-RTX takes several.
        platform: Operating system and processor: "linux-aarch64".
        precision_asked: One of :data:`PRECISIONS`.
        precision_layers: Layers with weights by the type they compute in, as TensorRT names it:
            {"HALF": 170}.
        precision_groups: The same for each block of the network.
        layer_types: ONNX node -> type, of every layer counted there; empty if it was not noted.
        precision_source: ``"engine"`` if the built engine was asked, ``"network"`` if only the
            typed network that it was built from (there was no GPU to load the engine).
        fallback: Layers that compute in a larger type than asked, by block: "neck1: 2 in FLOAT".
        kept: Blocks and nodes that were kept in a larger type on purpose.
        nms: One of :data:`trt_afdet.interface.NMS_FORMS`.
        plugin_version: Of the plugin that an engine with ``nms="plugin"`` needs, else None.
        onnx_file: Name of the ONNX file it was built from, without its folder.
        onnx_sha256, engine_sha256: Of the ONNX and the engine file, hexadecimal.
        calibration_key: Of the INT8 ranges; None without.
        batch: Smallest, best and largest batch.
        input_dtype: Of ``images``: "float32" or "float16".
        output_dtypes: Output name -> NumPy's name of its type.
        version_compatible: Whether newer versions of TensorRT may load it.
        hardware_compatible: One of :data:`COMPATIBILITIES`.
        stripped: Whether its weights were left out, to be refitted before it runs.
        dla_core: The DLA core it was built for, or None.
        options: Words of the command line that repeat the build, besides :meth:`arguments`' own.
        build_seconds: Time of the build alone.
        peak_memory: Most host memory of the process in bytes.
        peak_device_memory: Most device memory that the build took, in bytes; None without a GPU.
        verification: :meth:`trt_afdet.engine.verify.VerifyResult.to_json`, or None.
        created: Time, ISO 8601 in UTC.
        schema_version: Layout of the file.

    Raises:
        InvalidValueError: If a value is not of its type or out of range.
    """

    spec: Annotated[ModelSpec, (lambda value: isinstance(value, ModelSpec), "a spec")]
    tensorrt_version: Annotated[str, (_matches(r"\d+(\.\d+){1,3}\w*"), "a version")]
    flavour: Annotated[str, _one_of(*FLAVOURS)]
    gpu_name: Annotated[str | None, _or_none(_TEXT)]
    compute_capability: Annotated[
        tuple[str, ...] | None, _or_none((_capabilities, "a list such as 8.9"))
    ]
    platform: Annotated[str, _TEXT]
    precision_asked: Annotated[str, _one_of(*PRECISIONS)]
    precision_layers: Annotated[Mapping[str, int], (_COUNTS, "counts by type")]
    precision_groups: Annotated[
        Mapping[str, Mapping[str, int]], (_map_of(_COUNTS), "counts by block and type")
    ]
    precision_source: Annotated[str, _one_of("engine", "network")]
    fallback: _Texts
    kept: _Texts
    nms: Annotated[str, _one_of(*NMS_FORMS)]
    plugin_version: Annotated[str | None, _or_none(_TEXT)]
    onnx_file: Annotated[
        str, (lambda value: _text(value) and Path(value).name == value, "a file's name")
    ]
    onnx_sha256: _Hash
    engine_sha256: _Hash
    calibration_key: Annotated[str | None, _or_none(_HASH)]
    batch: Annotated[tuple[int, int, int], (_batches, "three ascending numbers from 1 on")]
    input_dtype: Annotated[str, _one_of(*FLOATS)]
    output_dtypes: Annotated[
        Mapping[str, str], (_map_of(_one_of(*FLOATS, "int32")[0]), "types by output")
    ]
    version_compatible: _Flag
    hardware_compatible: Annotated[str, _one_of(*COMPATIBILITIES)]
    stripped: _Flag
    dla_core: Annotated[int | None, _or_none(_COUNT)]
    options: _Texts
    build_seconds: Annotated[float, (_seconds, "seconds")]
    peak_memory: Annotated[int, _COUNT]
    peak_device_memory: Annotated[int | None, _or_none(_COUNT)]
    verification: Annotated[
        Mapping[str, Any] | None, _or_none((lambda value: isinstance(value, Mapping), "an object"))
    ]
    created: Annotated[str, (_matches(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00"), "a time in UTC")]
    layer_types: Annotated[Mapping[str, str], (_map_of(_text), "types by layer")] = (
        dataclasses.field(default_factory=dict)
    )
    schema_version: Annotated[int, (lambda value: value == SCHEMA_VERSION, str(SCHEMA_VERSION))] = (
        SCHEMA_VERSION
    )

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _, (fits, what) = get_args(field.type)
            value = getattr(self, field.name)
            if not fits(value):
                raise InvalidValueError(f"{field.name} must be {what}", got=repr(value)[:80])
        names = DETECTION_NAMES if self.nms != "none" else self.spec.output_names
        if set(self.output_dtypes) != set(names):
            raise InvalidValueError(
                "output_dtypes must name the outputs", got=", ".join(self.output_dtypes)[:80]
            )
        if self.layer_types and Counter(self.layer_types.values()) != self.precision_layers:
            raise InvalidValueError("layer_types must be as counted in precision_layers")
        if (self.nms == "plugin") != (self.plugin_version is not None):
            raise InvalidValueError("plugin_version goes with nms 'plugin'", got=self.nms)

    def arguments(self) -> list[str]:
        """Options of ``trt-afdet build-engine`` that make the same engine again."""
        batch = ",".join(map(str, self.batch))
        chosen = ["--precision", self.precision_asked, "--nms", self.nms, "--batch", batch]
        return [*chosen, *self.options]

    def to_json(self) -> str:
        """The file's text, with a checksum over all the rest."""
        raw = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        raw["spec"] = json.loads(self.spec.to_json())
        return json.dumps({**raw, "sha256": _checksum(raw)}, indent=2, default=dict) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, file: object = "the sidecar") -> "EngineSidecar":
        """Reads the JSON form.

        Args:
            text: The file's content.
            file: What messages call it.

        Raises:
            CorruptFileError: If it is cut off, no JSON, or was changed after it was written.
            InvalidValueError: If it is of a newer layout, or a value is not what it must be.
        """
        raw = _parse(text, file)
        version = raw["schema_version"]
        if version > SCHEMA_VERSION:
            raise InvalidValueError(
                f"{file} has schema version {version}, this trt-afdet reads up to {SCHEMA_VERSION}",
                hint="upgrade trt-afdet, or build the engine again",
            )
        if raw.pop("sha256", None) != _checksum(raw):
            raise CorruptFileError(f"{file} was changed after it was written", hint=_REBUILD)
        fields = {f.name for f in dataclasses.fields(cls)}
        odd = sorted(fields.symmetric_difference(raw))
        if odd:
            what = "lacks" if odd[0] in fields else "has the unknown key"
            raise InvalidValueError(f"{file} {what} {odd[0][:80]!r}", hint=_REBUILD)
        try:
            lists = {key: tuple(value) for key, value in raw.items() if isinstance(value, list)}
            return cls(**{**raw, **lists, "spec": ModelSpec.from_json(json.dumps(raw["spec"]))})
        except InvalidValueError as error:
            raise InvalidValueError(
                f"{file}: {error.what}", got=error.got, hint=error.hint or _REBUILD
            ) from error
        except OverflowError as error:  # An integer too large for a float.
            raise InvalidValueError(
                f"{file} has a number that is too large", hint=_REBUILD
            ) from error


def sidecar_path(engine: Path) -> Path:
    """Where an engine's sidecar lies: ``model.engine`` -> ``model.engine.json``."""
    return engine.with_name(f"{engine.name}.json")


def read(path: str | Path) -> EngineSidecar:
    """Reads a sidecar.

    Args:
        path: Of the engine, which is then checked to be the one described; or of the sidecar itself
            (its name ends in .json), and then the engine is not looked for.

    Raises:
        MissingFileError: If it is not there.
        CorruptFileError: If the engine is another or cut off; and see
            :meth:`EngineSidecar.from_json`.
        InvalidValueError: See there.
    """
    path = Path(path)
    alone = path.suffix == ".json"
    if not alone and not path.is_file():
        raise MissingFileError("there is no such engine", got=path)
    file = path if alone else sidecar_path(path)
    if not file.is_file():
        raise MissingFileError(
            "the engine's sidecar is missing",
            got=file,
            hint="copy it beside the engine; `trt-afdet build-engine` writes both",
        )
    if file.stat().st_size > _LARGEST_FILE:
        raise CorruptFileError(f"{file} is too large for a sidecar", got=file.stat().st_size)
    sidecar = EngineSidecar.from_json(file.read_bytes(), file)
    if not alone and file_sha256(path) != sidecar.engine_sha256:
        raise CorruptFileError(
            f"{path} is not the engine that its sidecar describes, or it is cut off",
            hint="copy both files again, or build the engine again",
        )
    return sidecar


def _parse(text: str | bytes, file: object) -> dict[str, Any]:
    try:
        # Python would take NaN and Infinity, which no other reader of JSON does.
        raw = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        line = next(iter(str(error).splitlines()), "")[:120]
        raise CorruptFileError(
            f"{file} is not JSON, or it is cut off", got=line, hint=_REBUILD
        ) from error
    if not isinstance(raw, dict) or type(raw.get("schema_version")) is not int:
        lack = ": it lacks schema_version" if isinstance(raw, dict) else ""
        raise CorruptFileError(f"{file} is not an engine's sidecar{lack}", hint=_REBUILD)
    return raw


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def _checksum(raw: Mapping[str, Any]) -> str:
    text = json.dumps(raw, sort_keys=True, separators=(",", ":"), default=dict)
    return hashlib.sha256(text.encode()).hexdigest()
