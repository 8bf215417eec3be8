"""The JSON Schema of cameras.yaml and its reader accept and refuse the same files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from tests.paths import ROOT
from tests.trt_afdet.stream.config.test_deployment_refused import BAD, configuration
from tests.trt_afdet.stream.config.test_schema import ENVIRONMENT, FULL, MISTAKES
from trt_afdet.cli import main
from trt_afdet.errors import AfdetError
from trt_afdet.stream.config.deployment import resolve
from trt_afdet.stream.config.json_schema import json_schema
from trt_afdet.stream.config.schema import load_config

EXAMPLE = ROOT / "examples" / "cameras.yaml"

VALID = [
    FULL,
    EXAMPLE.read_text(),
    "sources: ['test://', 'test://', 'test://']",
    "sources: ['test://']\nweb: true",
    "sources: ['test://']\nweb: false",
    "sources: ['test://']\nweb: 81\noptions:\n",
    "sources: ['test://']\nweb: {token: 0123456789abcdef, token_env: }",
    "sources:\n- &one {uri: a.mp4, every: 3}\n- {<<: *one, uri: b.mp4}\n",
    "sources:\n- {uri: '${WHOLE}', every: '${EVERY}', realtime: '${YES}'}\nconf: ${CONF}",
    "sources: [RTSP://cam/1, ./a.mp4, /dev/video0]\nsinks: [JSONL:x, 'window:']",
    "sources: [{uri: a.mp4, name: , classes: , retry: , track: , zones: }]\nsinks:\ndefaults:\n",
    "sources: [{uri: a.mp4, zones: {units: pixels, lines: []}, events: {dwell: null}}]",
    "sources: [{uri: a.mp4, track: false, every: 1, zones: {}}]",
    "defaults: {conf: {a: 0.2}, min_size: [3, 4]}\nsources: [{uri: a.mp4, class_conf: {x: 1}}]",
    "sources: [a.mp4]\nzones: zones.json\nmetrics: 9100\nproviders: [CPUExecutionProvider]",
]

INVALID = {
    **{text: text for text, _ in MISTAKES},
    "number as a list": "sources: [a]\niou: [0.5]",
    "retry of a word": "sources: [{uri: a, retry: never}]",
    "class_conf too high": "sources: [{uri: a, conf: {person: 2}}]",
    "size of three": "sources: [{uri: a, min_size: [1, 2, 3]}]",
    "negative size": "sources: [{uri: a, min_size: -1}]",
    "region of two": "sources: [{uri: a, region: [[0, 0], [1, 1]]}]",
    "zone without a name": "sources: [{uri: a, zones: {zones: [{polygon: [[0,0],[1,0],[1,1]]}]}}]",
    "units of inches": "sources: [{uri: a, zones: {units: inches}}]",
    "options as a list": "sources: [{uri: a, options: [transport]}]",
    "sink of no kind": "sources: [a]\nsinks: [out.jsonl]",
    "unknown scheme": "sources: [rstp://cam/1]",
    "three tokens": "sources: [a]\nweb: {token: a, token_file: b}",
    "tracking refused that zones need": "sources: [{uri: a, track: false, zones: "
    "{zones: [{name: z, polygon: [[0,0],[1,0],[1,1]]}]}}]",
    "null where a number stands": "sources: [{uri: a, retry: {stall: null}}]",
}

#: What a JSON Schema cannot say: how keys hang together over the file, what only YAML's text
#: shows, geometry, and what exists.
BEYOND = {
    "sources:\n- {uri: a, name: x}\n- {uri: b, name: x}\n": "uniqueness of one key among items",
    "sources: [a]\nsources: [b]\n": "a key given twice is gone when YAML has been read",
    "sources: [a]\nconf: .nan": "JSON has no NaN",
}
BEYOND_RELOAD = {
    "unknown option of a sink": "options inside an address",
    "wrong option of a sink": "options inside an address",
    "port in use": "what exists",
    "unknown host": "what exists",
    "others could watch": "a rule of a sink about its address",
    "port in use, others before it": "what exists",
    "file of something else": "what exists",
    "file in a file": "what exists",
    "folder as file": "what exists",
    "spool of something else": "what exists",
    "one place for two sinks": "uniqueness of what addresses mean",
    "one spool for two sinks": "uniqueness of what addresses mean",
    "options of a sink that stays, and a port in use": "what exists",
    "missing model": "what exists",
    "bad address of the page": "an address to listen on may be any name of a host",
    "bad proxy": "a rule of the page about networks",
    "short token": "a rule of the page about its token",
    "missing token": "what exists",
    "bad address of the metrics": "an address to listen on may be any name of a host",
    "names twice": "uniqueness of one key among items",
    "unknown class": "the model's classes",
    "bow tie": "geometry",
    "zone of no area": "geometry",
    "zone of nan": "JSON has no NaN",
    "zone in neither": "geometry",
    "same names of zones": "uniqueness of one key among items",
    "bad region": "geometry",
    "file of zones: no JSON": "another file",
    "file of zones: no text": "another file",
    "file of zones: a bow tie": "another file",
    "file of zones: a camera twice": "another file",
}


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    schema = json_schema()
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def values(path: Path) -> Any:
    """What an editor sees: no variable is replaced."""
    return yaml.safe_load(path.read_text())


@pytest.mark.parametrize("text", VALID)
def test_what_the_reader_takes_is_valid(
    text: str, validator: Draft202012Validator, tmp_path: Path
) -> None:
    path = tmp_path / "cameras.yaml"
    path.write_text(text)
    environment = {"WHOLE": "a.mp4", "EVERY": "2", "YES": "yes", "CONF": "0.5", **ENVIRONMENT}
    load_config(path, environment)
    assert list(validator.iter_errors(values(path))) == []


@pytest.mark.parametrize("name", INVALID)
def test_what_the_reader_refuses_is_invalid(
    name: str, validator: Draft202012Validator, tmp_path: Path
) -> None:
    path = tmp_path / "cameras.yaml"
    path.write_text(INVALID[name])
    with pytest.raises(AfdetError):
        resolve(load_config(path), None)
    assert validator.is_valid(values(path)) == (name in BEYOND)


@pytest.mark.parametrize("name", BAD)
def test_what_a_reload_refuses_is_invalid(
    name: str, validator: Draft202012Validator, tmp_path: Path
) -> None:
    data = configuration(tmp_path)
    assert validator.is_valid(data)
    BAD[name](data, tmp_path, 8081)
    assert validator.is_valid(data) == (name in BEYOND_RELOAD)


def test_the_command_prints_it_and_editors_can_use_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert schema == json_schema()
    # The copy beside the example, for editors.
    assert json.loads(EXAMPLE.with_name("cameras.schema.json").read_text()) == schema
    file = tmp_path / "cameras.schema.json"
    file.write_text(json.dumps(schema))
    for arguments in (["--check-metaschema", file], ["--schemafile", file, EXAMPLE]):
        checked = subprocess.run(
            [sys.executable, "-m", "check_jsonschema", *map(str, arguments)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_key_is_described_and_has_the_default_of_the_runtime() -> None:
    schema = json_schema()
    for name, kind in {"": schema, **schema["$defs"]}.items():
        for key, value in kind.get("properties", {}).items():
            assert value.get("description"), f"{name}.{key}"
    retry = schema["$defs"]["Retry"]["properties"]
    assert (retry["stall"]["default"], retry["factor"]["anyOf"][0]["minimum"]) == (5.0, 1)
    assert schema["$defs"]["Scheduling"]["properties"]["stop_within"]["default"] == 0.8
    assert "None" not in json.dumps(schema)
