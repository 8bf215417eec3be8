"""Words of ``trt-afdet run`` in every order that people write them."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from trt_afdet.cli import build_parser, main
from trt_afdet.cli.run import _named, collect_sources
from trt_afdet.stream.config.schema import WebConfig, is_config_file

WEB = WebConfig.address


@pytest.mark.parametrize(
    ("source", "file"),
    [
        ("cameras.yaml", True),
        ("A.YML", True),
        ("http://host/cameras.yaml", False),
        ("a.mp4", False),
    ],
)
def test_a_configuration_is_a_file_not_an_address(source: str, file: bool) -> None:
    assert is_config_file(source) is file


def parsed(line: str) -> argparse.Namespace:
    args = build_parser("run").parse_args(["run", *line.split()])
    collect_sources(args)
    return args


@pytest.mark.parametrize(
    ("line", "sources", "web"),
    [
        ("--web rtsp://h/x", ["rtsp://h/x"], WEB),
        ("rtsp://h/x --web", ["rtsp://h/x"], WEB),
        ("--web rtsp://h/x rtsp://h/y", ["rtsp://h/x", "rtsp://h/y"], WEB),
        ("--web 8081 rtsp://h/x", ["rtsp://h/x"], "8081"),
        ("--web 0.0.0.0:8081 a.mp4", ["a.mp4"], "0.0.0.0:8081"),
        ("--web [::1]:8081 a.mp4", ["a.mp4"], "[::1]:8081"),
        ("--web camera.local:8081 a.mp4", ["a.mp4"], "camera.local:8081"),
        ("--web=127.0.0.1:0 a.mp4", ["a.mp4"], "127.0.0.1:0"),
        ("--web a.mp4", ["a.mp4"], WEB),
        ("--web door=rtsp://h/x", ["door=rtsp://h/x"], WEB),
        ("--web cameras.yaml", ["cameras.yaml"], WEB),
        ("--web /dev/video0", ["/dev/video0"], WEB),
        ("--track --web test://", ["test://"], WEB),
        ("a.mp4 b.mp4", ["a.mp4", "b.mp4"], None),
        ("--classes imp rtsp://h/x", ["rtsp://h/x"], None),
        ("--classes imp barrel a.mp4 b.mp4", ["a.mp4", "b.mp4"], None),
        ("a.mp4 --classes imp barrel", ["a.mp4"], None),
    ],
)
def test_sources_are_found(line: str, sources: list[str], web: str | None) -> None:
    args = parsed(line)
    assert args.source == sources
    assert args.web == web


def test_words_that_stand_apart_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "a.mp4", "--track", "b.mp4"]) == 2
    assert "unexpected word b.mp4" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "name", "uri"),
    [
        ("1=v.mp4", "1", "v.mp4"),
        ("01=v.mp4", "01", "v.mp4"),
        ("door=rtsp://h/x?a=b", "door", "rtsp://h/x?a=b"),
        ("front.door=/dev/video0", "front.door", "/dev/video0"),
        ("_x=v.mp4", "_x", "v.mp4"),
        ("rtsp://h/x?a=b", None, "rtsp://h/x?a=b"),
        ("=v.mp4", None, "=v.mp4"),
        ("door=", None, "door="),
    ],
)
def test_a_source_may_have_a_name(word: str, name: str | None, uri: str) -> None:
    found = _named(word)
    assert (found.get("name"), found["uri"]) == (name, uri)


def test_a_file_whose_name_looks_so_is_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "1=v.mp4").touch()
    assert _named("1=v.mp4") == {"uri": "1=v.mp4"}


@pytest.mark.parametrize("line", ["", "--web", "--track", "--web 8080"])
def test_no_source_is_one_line(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", *line.split()]) == 2
    said = capsys.readouterr().err
    assert "required: SOURCE" in said
    assert said.count("\n") == 1
