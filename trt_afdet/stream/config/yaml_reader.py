"""Reads YAML with line numbers and secrets from the environment; reports duplicate keys."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from trt_afdet.errors import CorruptFileError
from trt_afdet.support.packages import missing

if TYPE_CHECKING:
    import yaml

#: Path of a value: keys and indices from the top.
Place = tuple[str | int, ...]

#: Most values in a file, each use of an alias counted; a larger file is an attack.
MOST_VALUES = 100_000

_VARIABLE = re.compile(r"\$(?:\$|\{([A-Za-z_][A-Za-z0-9_]*)\})")
# In rtsp://user:${PASSWORD}@host the password may contain a separator.
_USER_INFO = re.compile(r"(?<=://)[^/@\s]*(?=@)")


@dataclass
class Document:
    """A YAML file as read.

    Attributes:
        lines: Line of each value, from 1.
        secrets: Values from the environment, with the name of their variable.
        problems: Mistakes, as place and text.
    """

    data: Any = field(default=None, repr=False)
    lines: dict[Place, int] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict, repr=False)
    problems: list[tuple[Place, str]] = field(default_factory=list)

    def line(self, place: Place) -> int:
        """Line of a value, or of the nearest enclosing one if it is missing."""
        while place and place not in self.lines:
            place = place[:-1]
        return self.lines.get(place, 1)

    def hide(self, text: str) -> str:
        """Replaces values from the environment in a text by their variables."""
        for value in sorted(self.secrets, key=len, reverse=True):
            if len(value) >= 3:  # Shorter ones occur in every text.
                text = text.replace(value, f"${{{self.secrets[value]}}}")
        return text


def read_document(text: str, name: str, environment: Mapping[str, str] | None = None) -> Document:
    """Reads YAML; errors name the file and the line.

    Replaces ``${NAME}`` in a string by a variable of the environment, the process's by default, and
    ``$$`` by ``$``. Percent-encodes variables in the user part of an address.
    """
    try:
        import yaml
    except ImportError as error:
        raise missing(error) from error
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        document = Document()
        if node is not None:
            reader = _Reader(loader, document, os.environ if environment is None else environment)
            document.data = reader.read(node, (), node.start_mark.line + 1)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name}:{mark.line + 1}" if mark else name
        raise CorruptFileError(f"{where}: invalid YAML: {error.problem}") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise CorruptFileError(f"{name}: invalid YAML", got=str(error).split("\n")[0]) from error
    finally:
        loader.dispose()
    return document


class _Reader:
    def __init__(
        self, loader: yaml.SafeLoader, document: Document, environment: Mapping[str, str]
    ) -> None:
        self._loader = loader
        self._document = document
        self._environment = environment
        self._count = 0
        self._open: set[int] = set()

    def read(self, node: yaml.Node, place: Place, line: int) -> Any:
        import yaml

        def wrong(text: str) -> yaml.MarkedYAMLError:
            return yaml.MarkedYAMLError(problem=text, problem_mark=node.start_mark)

        self._document.lines[place] = line
        self._count += 1
        if self._count > MOST_VALUES or id(node) in self._open:
            raise wrong("aliases expand without end")
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, place)
        if node.tag not in ("tag:yaml.org,2002:seq", "tag:yaml.org,2002:map"):
            raise wrong(f"unknown tag {node.tag}")
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.SequenceNode):
                return [
                    self.read(item, (*place, i), item.start_mark.line + 1)
                    for i, item in enumerate(node.value)
                ]
            assert isinstance(node, yaml.MappingNode)
            return self._mapping(node, place)
        finally:
            self._open.discard(id(node))

    def _mapping(self, node: yaml.MappingNode, place: Place) -> dict[str, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                self._document.lines[(*place, key.value)] = key.start_mark.line + 1
                self._document.problems.append(((*place, key.value), "duplicate key"))
            seen.add(key.value if isinstance(key.value, str) else "")
        self._loader.flatten_mapping(node)  # Expands << keys.
        return {
            str(key.value): self.read(value, (*place, str(key.value)), key.start_mark.line + 1)
            for key, value in node.value
        }

    def _scalar(self, node: yaml.ScalarNode, place: Place) -> Any:
        if node.tag != "tag:yaml.org,2002:str":
            return self._loader.construct_object(node)  # type: ignore[no-untyped-call]
        text = node.value
        if "$" not in text:
            return text
        user = _USER_INFO.search(text)

        def replace(match: re.Match[str]) -> str:
            name = match[1]
            if name is None:
                return "$"
            value = self._environment.get(name)
            if value is None:
                text = f"the environment variable {name} is not set"
                self._document.problems.append((place, text))
                return ""
            self._document.secrets[value] = name
            if user is not None and user.start() <= match.start() < user.end():
                value = quote(value, safe="")
                self._document.secrets[value] = name
            return value

        return _VARIABLE.sub(replace, text)
