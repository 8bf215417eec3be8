"""Alerts and dashboard: every figure they name is one that a running server gives."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import yaml

from tests.paths import ROOT
from tests.skips import skip_test
from tests.trt_afdet.stream.detectors import FunctionDetector
from tests.waiting import wait_until
from trt_afdet.detections import Detections
from trt_afdet.stream.pipeline import Pipeline, PipelineOptions, SourceSpec
from trt_afdet.stream.retry import Retry
from trt_afdet.stream.sources.base import Picture, SourceError, SourceInfo
from trt_afdet.stream.sources.test_pattern import TestPatternSource

COMPOSE = ROOT / "deploy" / "compose"
PROMETHEUS = COMPOSE / "prometheus"
DASHBOARD = COMPOSE / "grafana" / "dashboards" / "trt-afdet.json"
TOKEN = "a-token-of-the-test"

CLASSES = ("person", "car")


class Dead:
    """A camera that never answers."""

    name = "dead"
    live = True

    def open(self) -> SourceInfo:
        raise SourceError("no answer")

    def read(self) -> Picture | None:
        return None

    def interrupt(self) -> None:
        """Nothing blocks."""

    def close(self) -> None:
        """Nothing is open."""


@FunctionDetector
def detector(frames: Sequence[npt.NDArray[np.uint8]]) -> list[Detections]:
    boxes = np.array([[8, 8, 40, 40]], np.float32)
    scores, classes = np.array([0.9], np.float32), np.array([0], np.int32)
    return [Detections(boxes, scores, classes, CLASSES) for _ in frames]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """``host:port`` of a page with a camera that runs, one that is dead, and a token."""
    from trt_afdet.web.server import WebServer

    web = WebServer("127.0.0.1:0", TOKEN, announce=lambda line: None)
    source = TestPatternSource("test://?width=160&height=120&fps=20")
    plans = [
        SourceSpec("door", lambda: source),
        SourceSpec("dead", Dead, retry=Retry(first=0.2, longest=0.2)),
    ]
    pipeline = Pipeline(detector, plans, [web], PipelineOptions(batch=2))
    web.attach(pipeline)
    thread = threading.Thread(target=pipeline.run)
    thread.start()
    try:
        wait_until(lambda: web.running, "the server")
        wait_until(lambda: pipeline.snapshot().sources.get("door"), "a frame")
        wait_until(lambda: pipeline.snapshot().reconnects.get("dead", 0) > 1, "a lost camera")
        yield f"127.0.0.1:{web.port}"
    finally:
        pipeline.stop()
        thread.join(20)


def get(url: str, token: str | None = None) -> str:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(url, headers=headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        text: str = answer.read().decode()
    return text


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return found


def alerts() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def expressions() -> dict[str, str]:
    """Every query of the dashboard and the alerts, by what it is for."""
    found = {f"alert {rule['alert']}": rule["expr"] for rule in alerts()}
    for panel in panels():
        for target in panel["targets"]:
            found[f"panel {panel['title']} {target['refId']}"] = target["expr"]
    dashboard = json.loads(DASHBOARD.read_text())
    for annotation in dashboard["annotations"]["list"]:
        found[f"annotation {annotation['name']}"] = annotation["expr"]
    for variable in dashboard["templating"]["list"]:
        query = variable["query"]["query"]
        inner = re.fullmatch(r"label_values\((.*), (\w+)\)", query)
        assert inner, query
        found[f"variable {variable['name']}"] = f"count by ({inner[2]}) ({inner[1]})"
    return found


def names_in(expression: str) -> set[str]:
    return set(re.findall(r"\b((?:trt_afdet|process)_\w+|up)\b", expression))


def test_every_name_is_one_that_the_server_gives(server: str) -> None:
    text = get(f"http://{server}/metrics", TOKEN)
    given = set(re.findall(r"^(\w+)(?:\{| )", text, flags=re.MULTILINE)) | {"up"}
    asked = {name for text in expressions().values() for name in names_in(text)}
    assert len(asked) > 15
    assert asked - given == set()


def test_labels_are_those_that_the_server_gives(server: str) -> None:
    text = get(f"http://{server}/metrics", TOKEN)
    labels = set(re.findall(r'[{,](\w+)="', text)) | {"instance", "job"}
    for name, expression in expressions().items():
        used = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", expression))
        for group in re.findall(r"(?:by|on) \(([\w, ]+)\)", expression):
            used |= {word.strip() for word in group.split(",")}
        assert used <= labels, name
    for panel in panels():
        for target in panel["targets"]:
            assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= labels


def test_states_are_those_of_the_server() -> None:
    from typing import get_args

    from trt_afdet.stream.monitoring.status import State

    named = set()
    for expression in expressions().values():
        for value in re.findall(r'state(?:=~|!~|=)"([\w|]+)"', expression):
            named |= set(value.split("|"))
    assert named
    assert named <= set(get_args(State))


def test_dashboard_is_whole() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    (source,) = yaml.safe_load(
        (COMPOSE / "grafana/provisioning/datasources/prometheus.yaml").read_text()
    )["datasources"]
    assert len({panel["id"] for panel in panels()}) == len(panels()) > 10
    for panel in panels():
        assert panel["datasource"]["uid"] == source["uid"]
        assert panel["title"]
        assert all(target["datasource"]["uid"] == source["uid"] for target in panel["targets"])
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
    for first, second in combinations([panel["gridPos"] for panel in panels()], 2):
        apart = (
            first["x"] + first["w"] <= second["x"]
            or second["x"] + second["w"] <= first["x"]
            or first["y"] + first["h"] <= second["y"]
            or second["y"] + second["h"] <= first["y"]
        )
        assert apart, (first, second)
    compose = yaml.safe_load((COMPOSE / "compose.yaml").read_text())["services"]
    port = compose["prometheus"]["ports"][0].rpartition(":")[2]
    assert source["url"] == f"http://prometheus:{port}"
    (provider,) = yaml.safe_load(
        (COMPOSE / "grafana/provisioning/dashboards/trt-afdet.yaml").read_text()
    )["providers"]
    mounts = [volume.split(":")[1] for volume in compose["grafana"]["volumes"]]
    assert provider["options"]["path"] in mounts
    home = compose["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{provider['options']['path']}/{DASHBOARD.name}"
    assert dashboard["uid"]


def promtool(*words: str) -> None:
    found = shutil.which("promtool")
    if found is None:
        skip_test("promtool is not installed", "make peers")
    result = subprocess.run(
        [found, *words], capture_output=True, text=True, check=False, cwd=PROMETHEUS, timeout=60
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_rules_and_configuration_are_valid() -> None:
    promtool("check", "rules", "--lint-fatal", "alerts.yml")
    promtool("check", "config", "--syntax-only", "prometheus.yml")


def test_alerts_fire_when_they_must_and_only_then() -> None:
    promtool("test", "rules", "alerts.test.yml")
    tested = yaml.safe_load((PROMETHEUS / "alerts.test.yml").read_text())["tests"]
    fired: set[str] = set()
    silent: set[str] = set()
    for case in tested:
        for test in case["alert_rule_test"]:
            (fired if test["exp_alerts"] else silent).add(test["alertname"])
    assert fired == silent == {rule["alert"] for rule in alerts()}
    for rule in alerts():
        assert {"summary", "action"} <= rule["annotations"].keys()


@pytest.fixture(scope="module")
def prometheus(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Prometheus that scrapes the server as the compose file's does."""
    program = shutil.which("prometheus")
    if program is None:
        skip_test("prometheus is not installed", "make peers")
    folder = tmp_path_factory.mktemp("prometheus")
    configuration = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    configuration["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    (job,) = configuration["scrape_configs"]
    assert job["authorization"]["credentials_file"] == "/run/secrets/web_token"
    job["authorization"]["credentials_file"] = str(folder / "web_token")
    assert job["static_configs"] == [{"targets": ["trt-afdet:8080"]}]
    job["static_configs"] = [{"targets": [server]}]
    (folder / "web_token").write_text(f"{TOKEN}\n")
    (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    shutil.copy(PROMETHEUS / "alerts.yml", folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [
        program,
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=error",
    ]
    with (folder / "log").open("w") as log, subprocess.Popen(command, stderr=log) as process:
        try:
            wait_until(lambda: _answers(f"{url}/-/ready"), "Prometheus")
            # Rates need a few scrapes.
            wait_until(
                lambda: query(url, "count_over_time(up[1h]) > 3 and up == 1"), "some scrapes", 90
            )
            yield url
        finally:
            process.terminate()
            process.wait(30)


def _answers(url: str) -> bool:
    try:
        get(url)
    except (urllib.error.URLError, ConnectionError):
        return False
    return True


def query(url: str, expression: str) -> list[dict[str, Any]]:
    """The series that an expression gives now."""
    answer = json.loads(get(f"{url}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"))
    assert answer["status"] == "success"
    found: list[dict[str, Any]] = answer["data"]["result"]
    return found


@pytest.mark.slow
def test_every_panel_shows_something(prometheus: str) -> None:
    """Each query as Grafana would send it, to a Prometheus with a few seconds of real figures."""
    for name, expression in expressions().items():
        if name.startswith("alert"):
            continue
        filled = expression.replace("$__rate_interval", "1m").replace("[1h]", "[1m]")
        filled = re.sub(r"\$(instance|source)\b", ".*", filled).replace("< 10", "< 1e9")
        found = query(prometheus, filled)
        assert found, (name, filled)
        values = [float(series["value"][1]) for series in found]
        assert not all(np.isnan(values)), (name, filled)


@pytest.mark.slow
def test_prometheus_takes_the_alerts_and_sees_the_dead_camera(prometheus: str) -> None:
    def pending() -> bool:
        groups = json.loads(get(f"{prometheus}/api/v1/rules"))["data"]["groups"]
        rules = {rule["name"]: rule for group in groups for rule in group["rules"]}
        assert rules.keys() == {rule["alert"] for rule in alerts()}
        assert not [rule for rule in rules.values() if rule.get("lastError")]
        seen = [a["labels"]["source"] for a in rules["TrtAfdetCameraAway"]["alerts"]]
        away = [a["state"] for a in rules["TrtAfdetAway"]["alerts"]]
        return seen[:1] == ["dead"] and away == []

    wait_until(pending, "the alert of the dead camera")


def test_without_the_token_there_are_no_figures(server: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        get(f"http://{server}/metrics")
    assert caught.value.code == 401
    assert json.loads(get(f"http://{server}/healthz"))["status"] in ("ok", "degraded")
