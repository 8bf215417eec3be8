"""Links that leave the site name a file of the repository; docstrings lose their Sphinx roles."""

from __future__ import annotations

import re
from typing import Any

_OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./([^)#\s]+)(#[^)]*)?\)")


def on_page_markdown(markdown: str, config: Any, **_: Any) -> str:
    """Replaces links such as ``[deploy](../deploy/README.md)``."""
    repository = (config.repo_url or "").rstrip("/")

    def target(match: re.Match[str]) -> str:
        text, path, anchor = match[1], match[2], match[3] or ""
        if repository:
            return f"[{text}]({repository}/blob/main/{path}{anchor})"
        return text if text.strip("`") == path else f"{text} (`{path}`)"

    return _OUTSIDE.sub(target, markdown)


_ROLE = re.compile(r":(?:class|meth|func|data|mod|attr|exc):(\s*<code>)~?(?:[a-z_]\w*\.)*")


def on_page_content(html: str, **_: Any) -> str:
    """Shows ``:class:`~trt_afdet.Detector``` as ``Detector``."""
    return _ROLE.sub(r"\1", html)
