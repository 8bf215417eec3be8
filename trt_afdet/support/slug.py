"""Source names for places that do not take every character: topics, file names, paths."""

from __future__ import annotations

import hashlib
import re

LONGEST = 60  #: Names of letters, digits, ``-`` and ``_`` up to this length stay as they are.
#: The end of a replaced name; a name with such an end is replaced, too.
_HASHED = re.compile(r"(?:^|-)[0-9a-f]{12}$")


def slug(source: str) -> str:
    """A source's name for topics, file names and paths: letters, digits, ``-`` and ``_``.

    Different names give different slugs. A name of these characters, at most :data:`LONGEST` of
    them, is its own slug. In any other, each run of other characters becomes ``-``, and ``-`` and
    the first 12 hexadecimal digits of the SHA-256 of the name (UTF-8) follow: ``a/b`` becomes
    ``a-b-c14cddc033f6``. Upper and lower case differ, except on file systems that ignore case.
    """
    if re.fullmatch(rf"[A-Za-z0-9_-]{{1,{LONGEST}}}", source) and not _HASHED.search(source):
        return source
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", source)[:LONGEST].strip("-")
    digest = hashlib.sha256(source.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return f"{plain}-{digest}" if plain else digest
