"""What a file that should be a model is, and why a runtime refused it: in words, in one line."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

from trt_afdet.errors import AfdetError, CorruptFileError, InvalidValueError

#: First bytes, what such a file is, and what to do.
_EXPORT = "export it to ONNX: trt-afdet export for checkpoints of trt-afdet"
_RENAME = "give it the suffix .engine"
_MAGIC: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"ftrt", "a TensorRT engine", _RENAME),
    (0, b"\x80\x02", "a pickle of Python (a PyTorch checkpoint)", _EXPORT),
    (0, b"\x89HDF", "an HDF5 file (Keras)", "export it to ONNX"),
    (4, b"TFL3", "a TensorFlow Lite model", "give the ONNX file that it was made from"),
    (4, b"ORTM", "a model in ONNX Runtime's own format", "give the ONNX file it was made from"),
    (0, b"7767517", "an ncnn model", "give the ONNX file that it was made from"),
    (0, b"\x1f\x8b", "a gzip archive", "gunzip it"),
    (0, b"BZh", "a bzip2 archive", "bunzip2 it"),
    (0, b"\xfd7zXZ", "an xz archive", "unxz it"),
    (0, b"\x28\xb5\x2f\xfd", "a zstd archive", "unzstd it"),
    (0, b"7z\xbc\xaf", "a 7z archive", "unpack it"),
    (257, b"ustar", "a tar archive", "unpack it"),
    (0, b"\x89PNG", "a picture (PNG)", "pictures go where the command has SOURCE"),
    (0, b"\xff\xd8\xff", "a picture (JPEG)", "pictures go where the command has SOURCE"),
    (4, b"ftyp", "a video or picture", "videos go where the command has SOURCE"),
    (0, b"\x7fELF", "a program or library", ""),
    (0, b"%PDF", "a PDF", ""),
)

#: What to do about other content, by words of its description.
_HINTS = {
    "Git LFS": "git lfs pull",
    "HTML": "download the file itself, by the address of its raw content",
    "zeros": "the download or copy was not finished; get it again",
    "XML": "OpenVINO has such; give the ONNX file that it was made from",
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
    """What a file is that is no ONNX model, and what to do about it; None if nobody can tell."""
    try:
        with path.open("rb") as file:
            head = file.read(1024)
    except OSError:
        return None
    if head.startswith(b"PK\x03\x04"):
        return _archive(path)
    for offset, magic, what, hint in _MAGIC:
        if head[offset:].startswith(magic):
            return what, hint
    if int.from_bytes(head[:8], "little") < 1 << 28 and head[8:9] == b"{":
        return "a .safetensors checkpoint", "make an ONNX file of it: trt-afdet export FILE"
    try:
        from trt_afdet.media.content import looks_like
    except ImportError:
        return None
    like = looks_like(head) if head else None
    if like is None:
        return None
    return like, next((hint for mark, hint in _HINTS.items() if mark in like), _OTHERWISE)


def _archive(path: Path) -> tuple[str, str]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return "a zip archive that is cut off (PyTorch's .pt files are such)", "copy it again"
    if any(name.endswith("constants.pkl") for name in names):
        return "a TorchScript model", "give the ONNX file that it was made from"
    if any(name.endswith("data.pkl") for name in names):
        return "a PyTorch checkpoint (.pt)", _EXPORT
    inside = next((name for name in names if name.lower().endswith(".onnx")), None)
    if inside is not None:
        return "a zip archive", f"unpack it and give {inside}"
    return "a zip archive", "unpack it"


def reason(error: BaseException) -> str:
    """An error's text in one line, without the file's path and places in a library's source."""
    text = _PREFIX.sub("", str(error).strip())
    text = " ".join(_PLACE.sub("", text).split())
    text = text.replace("[ONNXRuntimeError] : 1 : FAIL : ", "")
    if len(text) > _LONGEST:
        # What went wrong stands at the end more often than at the start.
        text = f"{text[: _LONGEST // 3]} ... {text[-2 * _LONGEST // 3 :]}"
    return text or type(error).__name__


def refusal(path: Path, error: BaseException, reader: str) -> AfdetError:
    """What to raise where a library cannot open a model file.

    Args:
        path: The file; it exists and is not empty.
        error: As the library raised it.
        reader: The library, for the text.
    """
    kind = kind_of(path)
    if kind is not None:
        return CorruptFileError(
            f"{reader} cannot open {path}: it is no ONNX model but {kind[0]}", hint=kind[1] or None
        )
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
    if "rotobuf" in said or "parsing" in said.lower():
        return CorruptFileError(
            f"{reader} cannot open {path}",
            got=said,
            hint="the file is cut off or no ONNX model; export or copy it again",
        )
    return CorruptFileError(f"{reader} cannot open {path}", got=said, hint="export the model again")
