"""Explains in one line why a model file cannot be opened."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

from trt_afdet.errors import AfdetError, CorruptFileError, InvalidValueError
from trt_afdet.media.content import HEAD, what_is

_EXPORT = "export it to ONNX: trt-afdet export for checkpoints of trt-afdet"
_SOURCE = "give the ONNX file that it was made from"

#: What to do about other content, by words of its description.
_REMEDIES = {
    "TensorRT engine": "give it the suffix .engine",
    "PyTorch checkpoint": _EXPORT,
    "safetensors": "make an ONNX file of it: trt-afdet export FILE",
    "HDF5": "if it is a Keras model, export it to ONNX",
    "TensorFlow Lite": _SOURCE,
    "own format": _SOURCE,
    "ncnn": _SOURCE,
    "TorchScript": _SOURCE,
    "gzip": "gunzip it",
    "bzip2": "bunzip2 it",
    "xz archive": "unxz it",
    "zstd": "unzstd it",
    "cut off": "copy it again",
    "archive": "unpack it",
    "a picture": "pictures go where the command has SOURCE",
    "a video": "videos go where the command has SOURCE",
    "Git LFS": "git lfs pull",
    "HTML": "download the file itself, by the address of its raw content",
    "zeros": "the download or copy was not finished; get it again",
    "XML": "if it is an OpenVINO model, give the ONNX file that it was made from",
}
_OTHERWISE = "give the path of an exported model.onnx"

#: The onnxruntime that reads an IR version first, where the step is known.
_IR_READERS = {9: "1.15", 10: "1.18"}

_PREFIX = re.compile(
    r"^\[ONNXRuntimeError\] : \d+ : \w+ : (?:Load model from .*? failed:)?"
    r"(?:Exception during initialization: )?",
    flags=re.DOTALL,
)
#: Where in ONNX Runtime's source it happened: a path with a line number and a C++ signature.
_PLACE = re.compile(r"\S*/onnxruntime_src/\S+:\d+ .*?\)(?: const)? (?=[A-Z\[])|\b\w+\.cc:\d+ \w+ ")
#: Longest reason that is passed on, characters.
_LONGEST = 600


def kind_of(path: Path) -> tuple[str, str] | None:
    """What a file is instead of an ONNX model, and a hint; None if unknown."""
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
    except OSError:
        return None
    what = what_is(head) if head else None
    if what == "a zip archive":
        what, inside = _archive(path)
        if inside is not None:
            return what, f"unpack it and give {inside}"
    if what is None:
        return None
    return what, next((hint for mark, hint in _REMEDIES.items() if mark in what), _OTHERWISE)


def _archive(path: Path) -> tuple[str, str | None]:
    """What a zip archive is, and the ONNX file in it."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return "a zip archive that is cut off (PyTorch's .pt files are such)", None
    if any(name.endswith("constants.pkl") for name in names):
        return "a TorchScript model", None
    if any(name.endswith("data.pkl") for name in names):
        return "a PyTorch checkpoint (.pt)", None
    return "a zip archive", next((n for n in names if n.lower().endswith(".onnx")), None)


def reason(error: BaseException) -> str:
    """An error's text in one line, without the file's path and places in a library's source."""
    text = _PREFIX.sub("", str(error).strip())
    text = " ".join(_PLACE.sub("", text).split())
    text = text.replace("[ONNXRuntimeError] : 1 : FAIL : ", "")
    if len(text) > _LONGEST:
        # The cause is at the end more often than at the start.
        text = f"{text[: _LONGEST // 3]} ... {text[-2 * _LONGEST // 3 :]}"
    return text or type(error).__name__


def refusal(path: Path, error: BaseException, reader: str) -> AfdetError:
    """What to raise where a library, the reader, cannot open a model file that is not empty."""
    if kind := kind_of(path):
        what = f"{reader} cannot open {path}: it is not an ONNX model but {kind[0]}"
        return CorruptFileError(what, hint=kind[1])
    said = reason(error)
    if found := re.search(r"IR version:? (\d+), max supported IR version:? (\d+)", said):
        needed = _IR_READERS.get(int(found[1]))
        package = f"'onnxruntime>={needed}'" if needed else "onnxruntime"
        return InvalidValueError(
            f"{path} is of ONNX IR version {found[1]}, the installed {reader} reads up to "
            f"{found[2]}",
            hint=f"pip install --upgrade {package}, or export with an older onnx",
        )
    if found := re.search(r"Opset (\d+) is under development.*? is till opset (\d+)", said):
        return InvalidValueError(
            f"{path} is of ONNX opset {found[1]}, the installed {reader} reads up to {found[2]}",
            hint="upgrade it, or export with an older opset",
        )
    if re.search(r"[Ee]xternal (?:data|initializer)", said):
        quoted = re.search(r'does not exist: "([^"]+)"|open file "?([^\s"]+)', said)
        name = Path(quoted[1] or quoted[2]).name if quoted else "a file beside it"
        return CorruptFileError(
            f"{path} keeps its weights in {name}, which is missing or incomplete",
            got=said,
            hint="copy both files into one folder",
        )
    hint = "export the model again"
    if "rotobuf" in said or "parsing" in said.lower():
        hint = "the file is cut off or no ONNX model; export or copy it again"
    return CorruptFileError(f"{reader} cannot open {path}", got=said, hint=hint)
