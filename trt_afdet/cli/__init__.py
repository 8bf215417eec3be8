"""The command line: ``trt-afdet COMMAND``.

A command is a module with ``SUMMARY``, ``add_arguments(parser)`` and ``run(args) -> exit status``;
it imports what it needs inside ``run``. Those of this package are listed below, others come from
the entry-point group ``trt_afdet.commands`` (the training package's do).
"""

from __future__ import annotations

import argparse
import errno
import importlib
import io
import re
import sys
from types import ModuleType
from typing import Any, NoReturn

from trt_afdet import __version__
from trt_afdet.cli.stopping import exit_status, stopping_cleanly
from trt_afdet.errors import AfdetError, MissingDependencyError, one_line
from trt_afdet.support.suggest import nearest

#: Commands of this package; a hyphen is an underscore in the module's name.
BUILTIN = (
    "bench", "build-engine", "completion", "detect", "data", "demo", "doctor", "eval", "inspect",
    "records", "run",
)  # fmt: skip

#: Commands of the training package, with what help says where it cannot be imported.
OPTIONAL = {
    "train": "train a detector from a recipe",
    "export": "turn a checkpoint into the canonical model.onnx",
}

#: The extra that a command as a whole needs, where that of the missing package says too little.
_EXTRA: dict[str | None, str] = {"build-engine": "quantize", "train": "train", "export": "train"}

EPILOG = """\
one example of each:
  trt-afdet demo
  trt-afdet doctor
  trt-afdet detect street.mp4 --model model.onnx --out annotated.mp4 --jsonl boxes.jsonl
  trt-afdet data check my-data --out sheet.png
  trt-afdet train train/recipes/doom.yaml --out runs/doom
  trt-afdet export runs/doom -o model.onnx
  trt-afdet eval model.onnx data/doom --split test --out out/eval
  trt-afdet run rtsp://10.0.0.5/stream --track --web

exit status:
  0  done
  1  the run failed (lost file, a model that does not match, unreadable pictures)
  2  bad input or usage, or nowhere to write (full disk, no permission)
  130  stopped by Ctrl-C; 143 by SIGTERM, 129 by SIGHUP

`trt-afdet COMMAND --help` explains a command. --debug shows the traceback of an error.
"""


class _Parser(argparse.ArgumentParser):
    """An ArgumentParser whose mistakes take one line and name the nearest valid word."""

    def error(self, message: str) -> NoReturn:
        words = message.split("'")
        if message.startswith("argument COMMAND: invalid choice") and len(words) > 1:
            commands = [c for a in self._actions if isinstance(a.choices, dict) for c in a.choices]
            hint = nearest(words[1], commands)
            if f"--{words[1]}" in self._option_strings():
                hint = f"did you mean '--{words[1]}'?"
            message = f"unknown command {words[1]!r}" + (f" - {hint}" if hint else "")
        elif message.startswith("unrecognized arguments:"):
            first = message.split(":", 1)[1].split()[0]
            hint = nearest(first.split("=")[0], self._option_strings())
            message = f"unknown option {first}" + (f" - {hint}" if hint else "")
            if not first.startswith("-"):
                message = f"unexpected word {first} - put all words together, before the options"
        elif "invalid choice:" in message and len(words) > 1:
            hint = nearest(words[1], re.split(r"[\s,'()]+", message.partition("choose from")[2]))
            message += f" - {hint}" if hint else ""
        print(f"trt-afdet: error: {message} (see {self.prog} --help)", file=sys.stderr)
        raise SystemExit(2)

    def _option_strings(self) -> list[str]:
        parsers: list[argparse.ArgumentParser] = [self]
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                parsers += action.choices.values()
        return [s for parser in parsers for a in parser._actions for s in a.option_strings]


def _module_name(command: str) -> str | None:
    """The module of a command; the entry points are looked up only where they are needed."""
    if command in BUILTIN:
        return f"trt_afdet.cli.{command.replace('-', '_')}"
    from importlib.metadata import entry_points

    found = entry_points(group="trt_afdet.commands", name=command)
    return next((point.value for point in found), None)


def training_missing(what: str) -> MissingDependencyError:
    """The error for a part of the training package where that is not installed."""
    what = f"{what} belongs to the training package, which is not installed"
    return MissingDependencyError(what, hint='pip install "trt-afdet[train]"')


def _import(command: str) -> ModuleType:
    module = _module_name(command)
    if module is None:
        raise training_missing(f"the command {command!r}")
    return importlib.import_module(module)


def build_parser(command: str | None) -> argparse.ArgumentParser:
    """The parser; only ``command`` gets its options, the others are names with a help line."""
    common = _Parser(add_help=False)
    common.add_argument(
        "--debug", action="store_true", default=argparse.SUPPRESS, help="show tracebacks"
    )
    shape: Any = {"formatter_class": argparse.RawDescriptionHelpFormatter, "parents": [common]}
    summary = "trt-afdet - an anchor-free object detector, from training to the edge."
    parser = _Parser(prog="trt-afdet", description=summary, epilog=EPILOG, **shape)
    parser.add_argument("--version", action="version", version=f"trt-afdet {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for name in dict.fromkeys((*BUILTIN, *OPTIONAL, *([command] if command else []))):
        # The training package is not imported only for its help line.
        summary = OPTIONAL.get(name) or _import(name).SUMMARY
        child = commands.add_parser(name, help=summary, description=summary, **shape)
        if name == command:
            module = _import(name)
            module.add_arguments(child)
            child.set_defaults(run=module.run)
    return parser


def _named_command(argv: list[str]) -> str | None:
    """The first word, if it is a command."""
    word = next((word for word in argv if not word.startswith("-")), None)
    return word if word is None or word in OPTIONAL or _module_name(word) else None


def main(argv: list[str] | None = None) -> int:
    """Runs a command line; returns the exit status.

    Without arguments it is the whole program: if threads are left inside a library that does not
    return, the process ends here, with that status.
    """
    if argv is not None:
        return _main(argv)
    status = _main(sys.argv[1:])
    threads = sys.modules.get("trt_afdet.support.threads")
    return status if threads is None else int(threads.end_process(status))


def _main(argv: list[str]) -> int:
    for stream in (sys.stdout, sys.stderr):
        # Names of files may hold bytes that are not text.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        with stopping_cleanly():
            status = _run(argv)
        sys.stdout.flush()
    except AfdetError as error:
        if "--debug" in argv:
            raise
        return _complain(str(error), error.exit_code)
    except ImportError as error:
        from trt_afdet.support.packages import is_ours, missing

        if "--debug" in argv or is_ours(error):
            raise
        return _complain(str(missing(error, extra=_EXTRA.get(_named_command(argv)))), 2)
    except KeyboardInterrupt as stop:
        return _complain(str(stop) or "stopped", exit_status(stop))
    except BrokenPipeError:
        # The reader (head, less) has gone.
        _abandon_stdout()
        return 0
    except OSError as error:
        if "--debug" in argv or error.errno not in _EXPECTED:
            raise
        if error.filename is None:
            _abandon_stdout()
        what = one_line(f"{error.strerror} (got {error.filename or 'standard output'})")
        return _complain(what, 2)
    return status


#: System errors that are not the program's fault.
_EXPECTED = (
    errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP,
    errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE,
)  # fmt: skip


def _run(argv: list[str]) -> int:
    parser = build_parser(_named_command(argv))
    try:
        args = parser.parse_args(argv)
    except SystemExit as stop:  # argparse's way out, after --help and after a mistake.
        return stop.code if isinstance(stop.code, int) else 0
    if args.command is None:
        parser.print_help()
        return 2
    return int(args.run(args))


def _abandon_stdout() -> None:
    """Lets Python exit without another try to write to stdout."""
    import os

    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(text: Any, status: int) -> int:
    print(f"trt-afdet: error: {text}".replace("\n", " "), file=sys.stderr)
    return status
