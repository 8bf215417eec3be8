"""``trt-afdet completion``: a shell's completion script, made from the parsers of all commands."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterable, Iterator

SUMMARY = "print a script that completes commands and options in bash, zsh or fish"

EPILOG = """\
examples:
  eval "$(trt-afdet completion bash)"                 # in ~/.bashrc
  eval "$(trt-afdet completion zsh)"                  # in ~/.zshrc, after compinit
  trt-afdet completion fish > ~/.config/fish/completions/trt-afdet.fish
"""

_BASH = """\
_trt_afdet() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD-1]}}
    local at= names= options= word
    for word in "${{COMP_WORDS[@]:1:$((COMP_CWORD-1))}}"; do
        case "$at $word" in
            {paths}) at="${{at:+$at }}$word" ;;
        esac
    done
    COMPREPLY=()
    case "$at $prev" in
{values}
    esac
    case "$at" in
{words}
    esac
    if [[ $cur == -* ]]; then names=$options; fi
    COMPREPLY=($(compgen -W "$names" -- "$cur"))
}}
complete -o bashdefault -o default -F _trt_afdet trt-afdet
"""

#: The words that lead to a parser, such as ("data", "check"), and the parser.
Parsers = list[tuple[tuple[str, ...], argparse.ArgumentParser]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    parser.add_argument("shell", metavar="SHELL", choices=_SCRIPTS, help="bash, zsh or fish")


def run(args: argparse.Namespace) -> int:
    print(_SCRIPTS[args.shell](list(_all_parsers())), end="")
    return 0


def _all_parsers() -> Iterator[tuple[tuple[str, ...], argparse.ArgumentParser]]:
    from trt_afdet.cli import BUILTIN, OPTIONAL, build_parser

    top = build_parser(None)
    yield (), top
    for name in (*BUILTIN, *OPTIONAL):
        try:
            commands = _subcommands(build_parser(name))
        except ImportError:  # A command whose package is not installed has no options to complete.
            continue
        yield (name,), commands[name]
        yield from (((name, kind), child) for kind, child in _subcommands(commands[name]).items())


def _subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    found = [a.choices for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    return dict(found[0]) if found else {}


def _names(parser: argparse.ArgumentParser) -> list[str]:
    """Words without a dash: subcommands or choices."""
    actions = [a for a in parser._actions if not a.option_strings and a.choices is not None]
    return [str(choice) for action in actions for choice in action.choices or ()]


def _options(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    shown = [a for a in parser._actions if a.help != argparse.SUPPRESS]
    return [a for a in shown if a.option_strings]


def _words(words: Iterable[object]) -> str:
    return shlex.quote(" ".join(map(str, words)))


def _bash(parsers: Parsers) -> str:
    paths = [f'"{" ".join(path[:-1])} {path[-1]}"' for path, _ in parsers if path]
    values, words = [], []
    for path, parser in parsers:
        at = " ".join(path)
        options = _options(parser)
        for action in options:
            if action.nargs != 0:  # Without choices, the shell completes the names of files.
                case = "|".join(f'"{at} {name}"' for name in action.option_strings)
                reply = f'COMPREPLY=($(compgen -W {_words(action.choices or ())} -- "$cur")); '
                values.append(f"        {case}) {reply if action.choices else ''}return ;;")
        flags = _words(name for action in options for name in action.option_strings)
        words.append(f'        "{at}") names={_words(_names(parser))} options={flags} ;;')
    return _BASH.format(paths=" | ".join(paths), values="\n".join(values), words="\n".join(words))


def _zsh(parsers: Parsers) -> str:
    return "autoload -U +X bashcompinit && bashcompinit\n" + _bash(parsers)


def _fish(parsers: Parsers) -> str:
    lines = []
    for path, parser in parsers:
        names = _names(parser)
        conditions = [f"__fish_seen_subcommand_from {word}" for word in path]
        if names:
            conditions.append(f"not __fish_seen_subcommand_from {' '.join(names)}")
            lines.append(_complete(conditions, f"-xa {_quoted(' '.join(names))}"))
        formatter = parser._get_formatter()
        for action in _options(parser):
            flags = [f"-{'sl'[name[1] == '-']} {name.strip('-')}" for name in action.option_strings]
            if action.choices:
                flags.append(f"-xa {_quoted(' '.join(map(str, action.choices)))}")
            elif action.nargs != 0:
                flags.append("-x" if action.type in (int, float) else "-rF")
            flags.append(f"-d {_quoted(formatter._expand_help(action))}")
            lines.append(_complete(conditions, " ".join(flags)))
    return "\n".join(lines) + "\n"


def _complete(conditions: list[str], what: str) -> str:
    when = f"-n {_quoted('; and '.join(conditions))} " if conditions else ""
    return f"complete -c trt-afdet {when}{what}"


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


_SCRIPTS = {"bash": _bash, "zsh": _zsh, "fish": _fish}
