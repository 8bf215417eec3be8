"""Real proxies in front of the page, with the configurations of docs/web.md."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.paths import ROOT
from tests.trt_afdet.web.web_rig import wait_for

DOCS = ROOT / "docs" / "web.md"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def documented(kind: str) -> str:
    """A configuration as the guide shows it."""
    match = re.search(rf"```{kind}\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    assert match is not None
    return match[1]


def _program(name: str, package: str) -> str:
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if found is None:
        pytest.skip(f"{package} is not installed: make peers")
    return found


@contextmanager
def _running(command: list[str], port: int, log: Path) -> Iterator[None]:
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)

    def listens() -> bool:
        assert process.poll() is None, log.read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        wait_for(listens, command[0], 60)
        yield
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def nginx(folder: Path, upstream: int, change: tuple[tuple[str, str], ...] = ()) -> Iterator[int]:
    """nginx in front of a port of this machine; its own port.

    Args:
        folder: For its files.
        upstream: The page's port.
        change: Texts of the documented configuration and what stands in their place.
    """
    program = _program("nginx", "nginx-light")
    port = free_port()
    server = documented("nginx")
    for old, new in change:
        assert old in server
        server = server.replace(old, new)
    server = server.replace("listen 80;", f"listen 127.0.0.1:{port};")
    server = server.replace("127.0.0.1:8080", f"127.0.0.1:{upstream}")
    temporary = "\n".join(
        f"{kind}_temp_path {folder}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; pid {folder}/pid; worker_processes 1; error_log {folder}/error.log;\n"
        f"events {{}}\nhttp {{\naccess_log off;\n{temporary}\n{server}\n}}\n"
    )
    folder.chmod(0o755)
    command = [program, "-p", str(folder), "-c", str(folder / "nginx.conf")]
    with _running(command, port, folder / "nginx.log"):
        yield port


@contextmanager
def caddy(folder: Path, upstream: int) -> Iterator[int]:
    """Caddy in front of a port of this machine; its own port."""
    program = _program("caddy", "caddy")
    port = free_port()
    site = documented("caddy").replace("http://cams.example.org {", f"http://127.0.0.1:{port} {{")
    site = site.replace("127.0.0.1:8080", f"127.0.0.1:{upstream}")
    (folder / "Caddyfile").write_text(f"{{\n admin off\n}}\n{site}")
    command = [program, "run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"]
    with _running(command, port, folder / "caddy.log"):
        yield port
