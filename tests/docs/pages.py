"""The code blocks of the README and of docs/."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from tests.paths import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

_FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks(*languages: str) -> list[Block]:
    """Every fenced block in one of these languages, page by page."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in _FENCE.finditer(text):
            if match[1] in languages:
                line = text.count("\n", 0, match.start()) + 1
                found.append(Block(page, line, match[1], match[2]))
    return found


def commands(block: Block) -> list[list[str]]:
    """The trt-afdet and build-engine command lines of a shell block, as words."""
    found = []
    for words in _lines(block.text.replace("\\\n", " ")):
        while words and ("=" in words[0] or words[0] == "sudo"):
            words = words[1:]
        if words and Path(words[0]).name in ("trt-afdet", "build-engine"):
            found.append([Path(words[0]).name, *words[1:]])
    return found


def _lines(text: str) -> list[list[str]]:
    """Simple commands as words; a quoted text may have several lines."""
    lines: list[list[str]] = []
    whole = ""
    for line in text.splitlines():
        whole += line
        lexer = shlex.shlex(whole, posix=True, punctuation_chars=";|<>&")
        lexer.whitespace_split = True
        try:
            words = list(lexer)
        except ValueError:  # a quotation that goes on
            whole += "\n"
            continue
        whole = ""
        lines.append([])
        for word in words:
            if set(word) <= set(";|<>&"):
                lines.append([])
            else:
                lines[-1].append(word)
    return lines
