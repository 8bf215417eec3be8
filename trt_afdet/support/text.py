"""Text files as people have them: with or without a byte-order mark; YAML that keeps words."""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import Any

from trt_afdet.errors import CorruptFileError, MissingDependencyError, MissingFileError

#: Longer marks first: UTF-32's begins as UTF-16's.
_MARKS = (
    ((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE), "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    ((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE), "utf-16"),
)


def marked_encoding(data: bytes) -> str | None:
    """The encoding that a byte-order mark names; None without one."""
    return next((name for mark, name in _MARKS if data.startswith(mark)), None)


def decode_text(data: bytes, name: object) -> str:
    """Bytes as UTF-8, or as their byte-order mark says; CorruptFileError if they are neither."""
    try:
        return data.decode(marked_encoding(data) or "utf-8")
    except UnicodeDecodeError as error:
        what, hint = "the file is not text in UTF-8", "save it as UTF-8"
        raise CorruptFileError(what, got=name, hint=hint) from error


def read_text(path: Path) -> str:
    """A text file; errors as of :func:`read_bytes` and :func:`decode_text`."""
    return decode_text(read_bytes(path), path)


def read_secret(path: Path) -> str:
    """The first line of a file: secrets on a command line are seen by everybody.

    Raises MissingFileError if the file cannot be read or its first line is empty.
    """
    try:
        first = read_text(path).split("\n")[0].rstrip("\r")
    except (OSError, CorruptFileError) as error:
        raise MissingFileError("no secret can be read from the file", got=path) from error
    if not first.strip():
        raise MissingFileError("the file of a secret has an empty first line", got=path)
    return first


def read_bytes(path: Path) -> bytes:
    """A file's bytes; raises FileNotFoundError, or CorruptFileError if it cannot be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise CorruptFileError("the file cannot be read", got=path, hint=error.strerror) from error


def load_yaml(text: str) -> Any:
    """Plain values of a YAML text in which yes, no, on and off stay words.

    YAML 1.1 makes booleans of them, which turns a class named "no" into False.

    Raises:
        MissingDependencyError: If PyYAML is missing.
        yaml.YAMLError, RecursionError, ValueError: If it is not YAML.
    """
    yaml = import_yaml()

    class Loader(yaml.SafeLoader):  # type: ignore[name-defined,misc]
        yaml_implicit_resolvers = {  # noqa: RUF012
            first: [(t, p) for t, p in known if t != "tag:yaml.org,2002:bool" or first in "tTfF"]
            for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

    return yaml.load(text, Loader=Loader)


def import_yaml() -> Any:
    """PyYAML; raises MissingDependencyError without it."""
    try:
        import yaml
    except ImportError as error:
        hint = 'pip install "trt-afdet[runtime]"'
        raise MissingDependencyError("reading YAML needs PyYAML", hint=hint) from error
    return yaml
