"""Runs command lines where only some of the installed distributions can be seen.

As a program: ``python hidden_packages.py JSON`` with ``{"visible": [...], "commands": [[...]]}``
runs each command line in a process forked before anything was imported, and prints what became of
them as JSON. Python's own finder is replaced by one that does not see the others: ``import``,
``find_spec`` and ``importlib.metadata`` then answer as in an environment that lacks them.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterable
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

#: Distributions that are the same package under another name.
SAME = {"opencv-python-headless": "opencv-python"}
#: What is not a package of the project: tools that every environment has.
ALWAYS = {"pip", "setuptools", "wheel", "trt-afdet"}


def normal(name: str) -> str:
    """A distribution's name as package indexes compare it."""
    name = re.sub(r"[-_.]+", "-", name).lower()
    return SAME.get(name, name)


def closure(requirements: Iterable[str], own: dict[str, list[str]]) -> set[str]:
    """The installed distributions that requirements bring, with theirs.

    Args:
        requirements: As in ``pyproject.toml``; ``trt-afdet[extra]`` stands for that extra.
        own: The project's extras.
    """
    from packaging.requirements import Requirement

    found: set[str] = set()
    done: set[tuple[str, frozenset[str]]] = set()
    waiting = [Requirement(text) for text in requirements]
    while waiting:
        wanted = waiting.pop()
        name = normal(wanted.name)
        key = (name, frozenset(wanted.extras))
        if key in done:
            continue
        done.add(key)
        if name == "trt-afdet":
            waiting += [Requirement(text) for extra in wanted.extras for text in own[extra]]
            continue
        distribution = _installed(name)
        if distribution is None:
            continue
        found.add(name)
        for text in distribution.requires or []:
            need = Requirement(text)
            extras = [{"extra": extra} for extra in ("", *wanted.extras)]
            if need.marker is None or any(need.marker.evaluate(extra) for extra in extras):
                waiting.append(need)
    return found


def _installed(name: str) -> importlib.metadata.Distribution | None:
    names = [name, *(other for other, same in SAME.items() if same == name)]
    for candidate in names:
        try:
            return importlib.metadata.distribution(candidate)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def hidden_modules(visible: set[str]) -> set[str]:
    """Top-level names that only distributions outside ``visible`` bring."""
    return {
        module
        for module, owners in importlib.metadata.packages_distributions().items()
        if not {normal(owner) for owner in owners} & (visible | ALWAYS)
    }


def hide(visible: set[str]) -> None:
    """Makes everything but ``visible`` unseen in this process."""
    modules = hidden_modules(visible)
    seen = visible | ALWAYS

    class Finder(PathFinder):
        @classmethod
        def find_spec(
            cls, fullname: str, path: Any = None, target: Any = None
        ) -> ModuleSpec | None:
            if fullname.partition(".")[0] in modules:
                return None
            return super().find_spec(fullname, path, target)

        @classmethod
        def find_distributions(cls, *args: Any, **kwargs: Any) -> Any:
            for found in super().find_distributions(*args, **kwargs):
                if normal(found.metadata["Name"] or "") in seen:
                    yield found

    sys.meta_path[:] = [Finder if f is PathFinder else f for f in sys.meta_path]
    for name in list(sys.modules):
        if name.partition(".")[0] in modules:
            del sys.modules[name]


def run_forked(arguments: list[str], limit: float = 120.0) -> dict[str, Any]:
    """Runs ``trt-afdet ARGUMENTS`` in a fork; its exit status and what it printed."""
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder, name) for name in ("stdout", "stderr")]
        child = os.fork()
        if child == 0:
            status = 70
            try:
                import faulthandler
                import signal

                for number, path in enumerate(outputs, 1):
                    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
                faulthandler.dump_traceback_later(limit, exit=True)
                signal.signal(signal.SIGINT, signal.default_int_handler)
                from trt_afdet.cli import main

                status = main(arguments)
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        _, waited = os.waitpid(child, 0)
        texts = [path.read_text(errors="replace") if path.exists() else "" for path in outputs]
    return {
        "arguments": arguments,
        "status": os.waitstatus_to_exitcode(waited),
        "stdout": texts[0],
        "stderr": texts[1],
    }


if __name__ == "__main__":
    order = json.loads(sys.argv[1])
    hide(set(order["visible"]))
    json.dump([run_forked(command) for command in order["commands"]], sys.stdout)
