"""cameras.yaml: what it may say, and that every mistake is named with its line and nearest key."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.paths import ROOT
from trt_afdet.errors import InvalidValueError, MissingFileError
from trt_afdet.stream.analysis.per_source import AnalysisOptions
from trt_afdet.stream.analysis.shapes import Zone
from trt_afdet.stream.analysis.tracking import TrackOptions
from trt_afdet.stream.config.schema import (
    Config,
    ConfigError,
    WebConfig,
    config_from,
    load_config,
)
from trt_afdet.stream.pipeline import PipelineOptions
from trt_afdet.stream.retry import Retry

FULL = """\
model: model.onnx
backend: onnxruntime
providers: [CPUExecutionProvider]
threads: 2
batch: 4
conf: 0.25
iou: 0.5
max_det: 50
defaults:
  every: 2
  track: {lost: 2}
  retry: {stall: 3, first: 0.1}
  conf: {default: 0.4, person: 0.6}
sources:
  - test://
  - name: door
    uri: rtsp://me:${CAMERA_PASSWORD}@10.0.0.3/live
    options: {transport: tcp, timeout: 5}
    retry: {stall: 8}
    policy: drop-newest
    queue: 3
    every: 1
    track: true
    classes: person
    min_size: 20
    max_size: [0.5, 0.9]
    region: [[0, 0], [1, 0], [1, 1]]
    zones:
      zones: [{name: mat, polygon: [[0, 0], [0.5, 0], [0.5, 0.5]]}]
      lines: [{name: sill, points: [[0, 0.5], [1, 0.5]]}]
    events: {anchor: center, dwell: 30}
  - uri: clip.mp4
    realtime: true
    track: false
    every: 1
    conf: 0.1
sinks:
  - jsonl:found.jsonl
  - uri: mqtt://broker/cameras
    options: {qos: 1}
web: {address: "0.0.0.0:8080", token_env: WEB_TOKEN, hosts: [cams.example.org]}
metrics: 9100
options: {max_age: 0.5, fail_fast: true}
"""
ENVIRONMENT = {"CAMERA_PASSWORD": "p@ss/word"}


def write(folder: Path, text: str) -> Path:
    path = folder / "cameras.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def load(folder: Path, text: str, environment: dict[str, str] | None = None) -> Config:
    return load_config(write(folder, text), environment or {}).config


def problems(folder: Path, text: str, environment: dict[str, str] | None = None) -> list[str]:
    path = write(folder, text)
    with pytest.raises(ConfigError) as caught:
        load_config(path, environment or {})
    return [problem.replace(str(path), "F") for problem in caught.value.problems]


def test_everything_a_file_can_say(tmp_path: Path) -> None:
    config = load(tmp_path, FULL, ENVIRONMENT)
    plain, door, clip = config.sources
    assert (config.model, config.threads, config.pipeline_options.batch, config.iou) == (
        "model.onnx",
        2,
        4,
        0.5,
    )
    assert plain.uri == "test://"
    assert (plain.name, plain.every, plain.track) == (None, 2, TrackOptions(lost=2))
    assert door.uri == "rtsp://me:p%40ss%2Fword@10.0.0.3/live"
    assert door.options == {"transport": "tcp", "timeout": 5}
    assert door.retry == Retry(stall=8, first=0.1)
    assert (door.policy, door.queue, door.every) == ("drop-newest", 3, 1)
    assert door.track == TrackOptions(lost=2)
    options = door.analysis
    assert options.filters.classes == ("person",)
    assert (options.filters.conf, options.filters.class_conf) == (0.4, {"person": 0.6})
    assert (options.filters.min_size, options.filters.max_size) == ((20, 20), (0.5, 0.9))
    assert (options.zones.anchor, options.zones.dwell) == ("center", 30)
    assert door.shapes.zones == (Zone("mat", ((0, 0), (0.5, 0), (0.5, 0.5)), "shares"),)
    assert (clip.track, clip.realtime, clip.conf) == (None, True, 0.1)
    assert [sink.uri for sink in config.sinks] == ["jsonl:found.jsonl", "mqtt://broker/cameras"]
    assert config.sinks[1].options == {"qos": 1}
    assert config.web == WebConfig(
        address="0.0.0.0:8080", token_env="WEB_TOKEN", hosts=("cams.example.org",)
    )
    assert config.metrics == "9100"
    assert config.pipeline_options == PipelineOptions(
        batch=4, max_age=0.5, fail_fast=True, stop_within=config.options.stop_within
    )


def test_the_confidence_at_the_top_holds_for_sources_that_do_not_say(tmp_path: Path) -> None:
    text = "conf: ${CONF}\nsources:\n- a\n- {uri: b, conf: 0.7}\n- {uri: c, conf: {imp: 0.1}}\n"
    config = load(tmp_path, text, {"CONF": "0.5"})
    assert [source.conf for source in config.sources] == [0.5, 0.7, 0.5]
    assert config.lowest_conf == 0.1
    assert problems(tmp_path, text, {"CONF": "2"}) == ["F:1: conf: must be at most 1 (got 2)"]


def test_the_least_a_file_can_say(tmp_path: Path) -> None:
    config = load(tmp_path, "sources: ['test://', 'test://', 'test://']")
    assert config == Config(sources=config.sources)
    assert config.pipeline_options.batch == 3
    assert config.sources[0].analysis.filters.conf == 0.3
    assert config_from({"sources": ["test://"] * 3}).config == config
    assert load(tmp_path, "sources: ['test://']\nweb: true").web == WebConfig()
    assert load(tmp_path, "sources: ['test://']\nweb: 81\noptions:\n").web == WebConfig(
        address="81"
    )


#: Mistakes of a file, and what is said of them.
MISTAKES = [
    ("modle: x\nsources: [a]", ["F:1: modle: unknown key - did you mean 'model'?"]),
    (
        "sources:\n - uri: a\n   evry: 2\n",
        ["F:3: sources[0].evry: unknown key - did you mean 'every'?"],
    ),
    (
        "sources: [a]\ndefaults:\n  track:\n    lots: 1\n",
        ["F:4: defaults.track.lots: unknown key - did you mean 'lost'?"],
    ),
    (
        "sources: [a]\nsinks:\n - jsonl:x\n - url: y\n",
        ["F:4: sinks[1].url: unknown key - did you mean 'uri'?"],
    ),
    ("sources: [a]\nweb:\n  tokn: x", ["F:3: web.tokn: unknown key - did you mean 'token'?"]),
    ("sources: [a]\nthreads: 0", ["F:2: threads: must be at least 1 (got 0)"]),
    ("sources: [a]\nconf: 1.5", ["F:2: conf: must be at most 1 (got 1.5)"]),
    ("sources: [a]\nconf: .nan", ["F:2: conf: must be at least 0 (got nan)"]),
    ("sources: []", ["F:1: sources: at least one source is needed"]),
    ("model: x", ["F:1: sources: is missing"]),
    ("sources:\n - name: x\n", ["F:2: sources[0].uri: is missing"]),
    ("- a\n", ["F:1: must be a mapping with the key sources"]),
    ("", ["F:1: must be a mapping with the key sources"]),
    (
        "sources: [a]\nbackend: onnx",
        [
            "F:2: backend: must be one of onnxruntime, tensorrt (got onnx)"
            " - did you mean 'onnxruntime'?"
        ],
    ),
    (
        "sources:\n - {uri: a, policy: wait}\n - {uri: b, policy: drop}\n",
        [
            "F:3: sources[1].policy: must be one of drop-oldest, drop-newest, wait (got drop)"
            " - did you mean 'drop-oldest'?"
        ],
    ),
    (
        "sources:\n- {uri: a, name: x}\n- {uri: b, name: x}\n",
        ["F:3: sources[1].name: sources[0] has the same name (got x)"],
    ),
    (
        "defaults: {retry: {stall: -1}}\nsources: [a, b]",
        ["F:1: defaults.retry.stall: must be above 0 (got -1)"],
    ),
    (
        "sources:\n- uri: a\n  every: 2\n  track: false\n",
        ["F:4: sources[0].track: every above 1 needs tracking"],
    ),
    (
        "sources:\n- uri: a\n  events: {anchor: botom}\n",
        [
            "F:3: sources[0].events.anchor: must be one of bottom, center, top, left, right"
            " (got botom) - did you mean 'bottom'?"
        ],
    ),
    (
        "sources:\n- uri: a\n  zones:\n    zones:\n    - {name: z, polygon: [[0, 0]]}\n",
        ["F:3: sources[0].zones: the zones: zone z must have at least 3 corners (got 1)"],
    ),
    (
        "sources:\n- uri: a\n  zones: {}\nzones: z.json\n",
        ["F:3: sources[0].zones: zones at the top names a file for all sources - use one"],
    ),
    (
        "web: {token: a, token_env: b}\nsources: [a]",
        ["F:1: web.token_env: token is set too - use one"],
    ),
    ("sources: [a]\nsources: [b]\n", ["F:2: sources: duplicate key"]),
    (
        "defaults: {uri: x}\nsources: [a]",
        ["F:1: defaults.uri: set this for each source, not for all"],
    ),
    ("defaults: 3\nsources: [a]", ["F:1: defaults: must be a mapping"]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), MISTAKES)
def test_mistakes_are_named_with_line_and_key(
    tmp_path: Path, text: str, expected: list[str]
) -> None:
    assert problems(tmp_path, text) == expected


def test_all_mistakes_are_named_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = "modle: x\nsources:\n - uri: a\n   evry: 2\nsinsk: []\n"
    assert [line.split(":")[1] for line in problems(tmp_path, text)] == ["1", "4", "5"]
    text = "threads: 0\nsources:\n - uri: a\n   every: 0\nbatch: 0\n"
    assert [line.split(":")[1] for line in problems(tmp_path, text)] == ["1", "4", "5"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sources: [a\nmodel: b", "F:2: invalid YAML"),
        ("sources:\n\t- a", "F:2: invalid YAML"),
        ("a: &a [*a]", "invalid YAML"),
        ("a: *nothing", "F:1: invalid YAML"),
        ("sources: !!python/object:os.system [a]", "F:1: invalid YAML"),
        ("sources: !mine [a]", "unknown tag"),
    ],
)
def test_what_is_no_yaml_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    (line,) = problems(tmp_path, text)
    assert message in line
    assert "\n" not in line


def test_a_bomb_of_aliases_is_refused(tmp_path: Path) -> None:
    text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    for level in range(1, 10):
        text += f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]\n"
    assert "aliases" in problems(tmp_path, text)[0]
    (line,) = problems(tmp_path, "# " + "x" * (1 << 20))
    assert "longer than 1 MiB" in line
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_config(tmp_path / "binary.yaml")


def test_anchors_and_merges_work(tmp_path: Path) -> None:
    text = "sources:\n- &one {uri: a, every: 3}\n- {<<: *one, uri: b}\n"
    assert [(s.uri, s.every) for s in load(tmp_path, text).sources] == [("a", 3), ("b", 3)]


def test_secrets_come_from_the_environment_and_never_out_again(tmp_path: Path) -> None:
    text = "sources:\n- name: $${x}\n  uri: ${WHOLE}\n  every: ${EVERY}\n"
    environment = {"WHOLE": "rtsp://u:hunter2@h/x", "EVERY": "2"}
    (source,) = load(tmp_path, text, environment).sources
    assert (source.name, source.uri, source.every) == ("${x}", "rtsp://u:hunter2@h/x", 2)
    assert problems(tmp_path, text, {"WHOLE": "x"}) == [
        "F:4: sources[0].every: the environment variable EVERY is not set"
    ]
    loaded = load_config(write(tmp_path, text), environment)
    line = loaded.problem(("sources", 0, "uri"), "cannot open rtsp://u:hunter2@h/x")
    assert line.endswith("cameras.yaml:3: sources[0].uri: cannot open ${WHOLE}")
    # A value cannot bring keys of its own.
    (source,) = load(tmp_path, "sources:\n- uri: ${A}\n", {"A": "x\n  every: 3"}).sources
    assert source.every == 1
    text = "sources: [a]\nthreads: ${SECRET}\nbackend: ${SECRET}\n"
    assert not any("hunter2" in line for line in problems(tmp_path, text, {"SECRET": "hunter2"}))


def test_the_token_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert WebConfig().read_token() is None
    assert WebConfig(token="abc").read_token() == "abc"
    (tmp_path / "token").write_text("from-file\n")
    assert WebConfig(token_file=str(tmp_path / "token")).read_token() == "from-file"
    with pytest.raises(MissingFileError):
        WebConfig(token_file=str(tmp_path / "none")).read_token()
    monkeypatch.setenv("PAGE_TOKEN", "from-env")
    assert WebConfig(token_env="PAGE_TOKEN").read_token() == "from-env"
    monkeypatch.delenv("PAGE_TOKEN")
    with pytest.raises(InvalidValueError, match="PAGE_TOKEN"):
        WebConfig(token_env="PAGE_TOKEN").read_token()


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError):
        load_config(tmp_path / "none.yaml")
    with pytest.raises(MissingFileError):
        load_config(tmp_path)


def test_the_example_is_valid() -> None:
    path = ROOT / "examples" / "cameras.yaml"
    environment = {"CAMERA_PASSWORD": "x", "WEB_TOKEN": "y" * 20}
    assert len(load_config(path, environment).config.sources) >= 3


def test_the_file_has_no_defaults_of_its_own() -> None:
    """What a file leaves out is what the parts themselves take."""
    config = config_from({"sources": ["test://"]}).config
    assert config.sources[0].retry == Retry()
    assert config.pipeline_options == PipelineOptions()
    assert config.sources[0].analysis == AnalysisOptions()
