"""``trt-afdet detect`` and ``demo`` on real little models, pictures and videos."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.trt_afdet.onnx_models import build_model, save_model
from trt_afdet.cli import demo, main
from trt_afdet.cli import detect as command
from trt_afdet.media import VideoWriter, open_inputs, read_picture, write_picture
from trt_afdet.runtime.detector import Detector


def scene(seed: int) -> npt.NDArray[np.uint8]:
    small = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return np.kron(small, np.ones((40, 40, 1), np.uint8))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model") / "model.onnx")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    for index in range(3):
        write_picture(folder / f"{index}.png", scene(index))
    return folder


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "video.mp4"
    with VideoWriter(path, 20) as writer:
        for index in range(7):
            writer.write(scene(index))
    return path


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def detect(source: object, model: Path, *options: object) -> int:
    return main(["detect", str(source), "--model", str(model), *map(str, options)])


def test_video(model: Path, video: Path, tmp_path: Path, capsys: Any) -> None:
    out, jsonl = tmp_path / "new" / "out.mp4", tmp_path / "new" / "out.jsonl"
    assert detect(video, model, "--out", out, "--jsonl", jsonl, "--batch", 3) == 0
    with open_inputs(out) as written:
        assert (written.total, written.rates) == (7, {out: 20})
    got = lines(jsonl)
    assert [line["sequence"] for line in got] == list(range(7))
    assert [line["position"] for line in got] == [i / 20 for i in range(7)]
    with Detector.load(model, conf=0.3) as detector, open_inputs(video) as source:
        for frame, line in zip(source, got, strict=True):
            assert (line["source"], line["width"], line["height"]) == (str(video), 160, 120)
            assert line["detections"] == detector(frame.image).to_dicts()
    assert sum(len(line["detections"]) for line in got) > 7
    text = capsys.readouterr().out
    for stage in ("decode", "preprocess", "network", "postprocess", "write"):
        assert stage in text
    assert "7 frames in" in text
    assert str(out) in text


def test_picture_to_a_file_is_the_drawn_frame(model: Path, pictures: Path, tmp_path: Path) -> None:
    assert detect(pictures / "1.png", model, "--out", tmp_path / "one.png") == 0
    frame = read_picture(pictures / "1.png")
    want = Detector.load(model, conf=0.3)(frame).draw(frame)
    np.testing.assert_array_equal(read_picture(tmp_path / "one.png"), want)


def test_folder_and_glob_to_a_folder(model: Path, pictures: Path, tmp_path: Path) -> None:
    assert detect(pictures, model, "--out", tmp_path / "a") == 0
    assert files(tmp_path / "a") == ["0.png", "1.png", "2.png"]
    pattern = pictures / "[12].png"
    assert detect(pattern, model, "--out", tmp_path / "b", "--jsonl", tmp_path / "b.jsonl") == 0
    assert files(tmp_path / "b") == ["1.png", "2.png"]
    assert [Path(line["source"]).name for line in lines(tmp_path / "b.jsonl")] == ["1.png", "2.png"]


def test_pictures_of_one_name_in_two_folders_both_come_out(model: Path, tmp_path: Path) -> None:
    for name in ("a/x.png", "b/x.png"):
        write_picture(tmp_path / "in" / name, scene(0))
    assert detect(tmp_path / "in" / "*" / "x.png", model, "--out", tmp_path / "out") == 0
    assert files(tmp_path / "out") == ["a/x.png", "b/x.png"]


def test_options_reach_the_detector(model: Path, pictures: Path, tmp_path: Path) -> None:
    jsonl = tmp_path / "o.jsonl"
    options = ["--conf", 0.5, "--max-det", 4, "--classes", "imp", "2", "--threads", 1]
    assert detect(pictures, model, "--jsonl", jsonl, *options) == 0
    found = [d for line in lines(jsonl) for d in line["detections"]]
    assert found
    assert max(len(line["detections"]) for line in lines(jsonl)) <= 4
    assert {d["class"] for d in found} <= {"imp", "barrel"}
    assert min(d["confidence"] for d in found) > 0.5


def test_an_unreadable_picture_is_named_and_the_others_are_done(
    model: Path, pictures: Path, tmp_path: Path, capsys: Any
) -> None:
    (pictures / "1.png").write_bytes(b"no picture")
    assert detect(pictures, model, "--out", tmp_path / "out") == 1
    assert files(tmp_path / "out") == ["0.png", "2.png"]
    warning = capsys.readouterr().err
    assert warning.count("\n") == 1
    assert str(pictures / "1.png") in warning


def test_sources_are_never_overwritten(model: Path, pictures: Path, video: Path) -> None:
    before = {p: p.read_bytes() for p in (*pictures.iterdir(), video)}
    assert detect(pictures, model, "--out", pictures) == 2
    assert detect(pictures / "0.png", model, "--out", pictures / "0.png") == 2
    assert detect(video, model, "--out", video.parent) == 2
    assert {p: p.read_bytes() for p in before} == before


@pytest.mark.parametrize(
    ("source", "options", "words"),
    [
        ("none.mp4", [], ["none.mp4"]),
        ("empty.png", [], ["empty.png", "0 bytes"]),
        ("text.mp4", [], ["text.mp4"]),
        ("text.png", [], ["text.png"]),
        ("folder", [], ["folder", "no picture"]),
        ("*.gif", [], ["*.gif", "no picture"]),
        ("good.png", ["--model", "none.onnx"], ["none.onnx"]),
        ("good.png", ["--model", "text.onnx"], ["text.onnx"]),
        ("good.png", ["--model", "cut.onnx"], ["cut.onnx"]),
        ("good.png", ["--model", "foreign.onnx"], ["foreign.onnx", "not a trt-afdet model"]),
        ("good.png", ["--model", "newer.onnx"], ["newer.onnx", "upgrade"]),
        ("good.png", ["--model", "x.engine"], ["x.engine", "sidecar"]),
        ("good.png", ["--conf", "1.5"], ["0..1", "1.5"]),
        ("good.png", ["--max-det", "0"], ["max_detections", "0"]),
        ("good.png", ["--batch", "0"], ["--batch", "0"]),
        ("good.png", ["--threads", "0"], ["threads", "0"]),
        ("good.png", ["--classes", "imq"], ["imq", "did you mean 'imp'"]),
        ("good.png", ["--out", "o.mp4"], ["o.mp4", "does not fit"]),
        ("good.mp4", ["--out", "o.png"], ["o.png", "does not fit"]),
        ("good.mp4", ["--out", "o.wmv"], ["o.wmv", ".mp4"]),
    ],
)
def test_bad_input_takes_one_line_and_leaves_nothing(
    source: str,
    options: list[str],
    words: list[str],
    tmp_path: Path,
    video: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Captured at the file descriptor, so that what the libraries print counts too."""
    video.rename(tmp_path / "good.mp4")
    write_picture(tmp_path / "good.png", scene(0))
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    for name in ("text.mp4", "text.png", "text.onnx", "x.engine"):
        (tmp_path / name).write_text("nothing of the kind\n" * 9)
    save_model(tmp_path / "m.onnx")
    (tmp_path / "cut.onnx").write_bytes((tmp_path / "m.onnx").read_bytes()[:-200])
    save_model(tmp_path / "foreign.onnx", build_model(metadata=None))
    save_model(tmp_path / "newer.onnx", build_model(metadata='{"schema_version": 99}'))
    before = files(tmp_path)
    monkeypatch.chdir(tmp_path)
    capfd.readouterr()
    assert main(["detect", source, "--model", "m.onnx", "--jsonl", "o.jsonl", *options]) == 2
    complaint = capfd.readouterr().err
    assert complaint.count("\n") == 1, complaint
    assert complaint.startswith("trt-afdet: error: ")
    for word in words:
        assert word in complaint
    assert files(tmp_path) == before


@pytest.mark.parametrize("target", ["--out", "--jsonl"])
def test_a_folder_that_cannot_be_made(
    target: str, model: Path, video: Path, tmp_path: Path, capsys: Any
) -> None:
    (tmp_path / "file").write_text("in the way")
    before = files(tmp_path)
    assert detect(video, model, target, tmp_path / "file" / "o.mp4") == 2
    assert "cannot write" in capsys.readouterr().err
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    ("options", "limit"), [(["--out", "o.mp4"], 6000), (["--jsonl", "o.jsonl"], 2000)]
)
def test_full_disk_takes_one_line_and_leaves_nothing(
    options: list[str], limit: int, model: Path, video: Path, tmp_path: Path
) -> None:
    """A limit on the size of a file stands for the full disk: writing fails in its middle."""
    before = files(tmp_path)
    code = f"""
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
from trt_afdet.cli import main
sys.exit(main(sys.argv[1:]))
"""
    result = subprocess.run(
        [sys.executable, "-c", code, "detect", video.name, "--model", str(model), *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2, result.stderr
    assert result.stderr.count("\n") == 1, result.stderr
    assert f"cannot write (got {options[1]}" in result.stderr
    assert files(tmp_path) == before


def test_old_results_survive_a_failed_run(
    model: Path, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, jsonl = tmp_path / "o.mp4", tmp_path / "o.jsonl"
    out.write_text("old")
    jsonl.write_text("old")
    real = command.frame_record

    def stop_at_the_third(frame: Any, found: Any) -> dict[str, Any]:
        if frame.index == 3:
            raise KeyboardInterrupt
        return real(frame, found)

    monkeypatch.setattr(command, "frame_record", stop_at_the_third)
    assert detect(video, model, "--out", out, "--jsonl", jsonl) == 130
    assert (out.read_text(), jsonl.read_text()) == ("old", "old")
    assert files(tmp_path) == ["o.jsonl", "o.mp4", "video.mp4"]


def test_demo_leaves_its_files_and_scores_the_clip(
    model: Path, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """With assets of our own; the truth is what the model finds, so AP50 is 1."""
    assets = tmp_path / "assets"
    assets.mkdir()
    video.rename(assets / "clip.mp4")
    truth: dict[str, Any] = {"images": [], "annotations": [], "categories": []}
    with Detector.load(model, conf=0.05) as detector, open_inputs(assets / "clip.mp4") as source:
        truth["categories"] = [
            {"id": i + 1, "name": name} for i, name in enumerate(detector.spec.class_names)
        ]
        for frame in source:
            height, width = frame.image.shape[:2]
            image = {"id": frame.index + 1, "frame_index": frame.index, "file_name": "clip.mp4"}
            truth["images"].append({**image, "width": width, "height": height})
            for entry in detector(frame.image).to_coco(frame.index + 1):
                entry["id"] = len(truth["annotations"]) + 1
                entry["area"] = entry["bbox"][2] * entry["bbox"][3]
                truth["annotations"].append({**entry, "iscrowd": 0})
    (assets / "clip.json").write_text(json.dumps(truth))
    monkeypatch.setattr(demo, "ASSETS", assets)
    monkeypatch.setattr("trt_afdet.assets.SHIPPED_MODEL", model)
    assert main(["demo", "--out", str(tmp_path / "demo")]) == 0
    assert files(tmp_path / "demo") == ["annotated.mp4", "detections.jsonl", "preview.jpg"]
    assert len(lines(tmp_path / "demo" / "detections.jsonl")) == 7
    text = capsys.readouterr().out
    assert "AP50" in text
    assert "1.000" in text


@pytest.mark.slow
def test_demo_with_what_is_shipped(tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "demo"
    assert main(["demo", "--out", str(out), "--threads", "1"]) == 0
    assert files(out) == ["annotated.mp4", "detections.jsonl", "preview.jpg"]
    with open_inputs(demo.ASSETS / "clip.mp4") as clip:
        frames = list(clip)
    with open_inputs(out / "annotated.mp4") as annotated:
        assert len(list(annotated)) == len(frames) == len(lines(out / "detections.jsonl"))
    assert read_picture(out / "preview.jpg").std() > 5
    text = capsys.readouterr().out
    row = next(line for line in text.splitlines() if "AP50" in line)
    (ap50,) = re.findall(r"\d\.\d+", row)
    assert 0.3 < float(ap50) <= 1
