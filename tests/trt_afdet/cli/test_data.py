"""`trt-afdet data check` and `data convert`: by the command line, without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from trt_afdet.cli import main


def write_data(root: Path) -> Path:
    for split in ("train", "val"):
        for i in range(3):
            file = root / "images" / split / f"{i}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (64, 48)).save(file)
            label = root / "labels" / split / f"{i}.txt"
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text("1 .5 .5 .25 .5\n")
    (root / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [cat, dog]\n")
    return root


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return write_data(tmp_path / "data")


def test_check_prints_what_is_there_and_draws_a_sheet(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet = tmp_path / "sheet.png"
    assert main(["data", "check", str(data), "--out", str(sheet)]) == 0
    said = capsys.readouterr().out
    assert all(word in said for word in ("train", "val", "dog", "nothing is wrong"))
    with Image.open(sheet) as picture:
        assert picture.size[0] >= 320


def test_check_names_faults_and_strict_refuses(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (data / "images/train/1.jpg").write_bytes(b"no picture")
    assert main(["data", "check", str(data)]) == 0
    assert "1 pictures left out" in capsys.readouterr().out
    assert main(["data", "check", str(data), "--strict"]) == 2


@pytest.mark.parametrize("form", ["coco", "voc", "yolo"])
@pytest.mark.parametrize("link", [[], ["--link"]])
def test_convert_writes_all_splits(
    data: Path, tmp_path: Path, form: str, link: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "new"
    assert main(["data", "convert", str(data), str(target), "--to", form, *link]) == 0
    assert main(["data", "check", str(target), "--strict"]) == 0
    assert "dog" in capsys.readouterr().out
    assert any(p.is_symlink() for p in target.rglob("*")) == bool(link)
    assert not list(tmp_path.glob(".new*"))
    assert main(["data", "convert", str(data), str(target), "--to", form]) == 2


def test_data_needs_no_torch(data: Path) -> None:
    code = (
        "import sys\nsys.modules['torch'] = None\nfrom trt_afdet.cli import main\n"
        f"raise SystemExit(main(['data', 'check', {str(data)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_nothing_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
