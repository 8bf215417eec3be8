"""Text files of any writer."""

from __future__ import annotations

from pathlib import Path

import pytest

from trt_afdet.errors import MissingFileError
from trt_afdet.support.text import read_secret


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("ending", ["", "\n", "\r\n", "\nmore\n"])
def test_a_secret_is_the_first_line(tmp_path: Path, encoding: str, ending: str) -> None:
    (tmp_path / "secret").write_bytes(f"pässword 1{ending}".encode(encoding))
    assert read_secret(tmp_path / "secret") == "pässword 1"


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"\xef\xbb\xbf\r\n", b" \nsecret", b"\xff\xff\xff"]
)
def test_a_file_without_a_secret_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "secret").write_bytes(content)
    for path in (tmp_path / "secret", tmp_path / "none", tmp_path):
        with pytest.raises(MissingFileError, match="secret"):
            read_secret(path)
