"""The machine's files and programs, below a root folder that tests can choose."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

#: Folders of programs, below the root. nvpmodel lies in sbin, which users rarely have on PATH.
_PROGRAM_FOLDERS = ("usr/sbin", "usr/bin", "sbin", "bin", "usr/local/bin")


@dataclass(frozen=True)
class Machine:
    """A file system to look at; a program may take ``timeout`` seconds."""

    root: Path = Path("/")
    timeout: float = 1.5

    @property
    def is_this_one(self) -> bool:
        """Whether system calls describe this machine (a test's root has none)."""
        return self.root == Path("/")

    def path(self, name: str) -> Path:
        """A path below the root, from one such as ``"/etc/nvpmodel.conf"``."""
        return self.root / name.lstrip("/")

    def glob(self, pattern: str) -> list[Path]:
        """Paths below the root, sorted, from a pattern such as ``"/sys/class/*/name"``."""
        return sorted(self.root.glob(pattern.lstrip("/")))

    def read(self, name: str | Path) -> str | None:
        """A text file without blanks or NULs around it; None where it cannot be read."""
        path = self.path(name) if isinstance(name, str) else name
        try:
            return path.read_text(errors="replace").strip("\0 \n\t")
        except OSError:
            return None

    def run(self, program: str, *arguments: str) -> str | None:
        """The output of a program; None if there is none, it fails, or it takes too long."""
        paths = [self.root / folder / program for folder in _PROGRAM_FOLDERS]
        path = next((str(path) for path in paths if path.is_file()), None)
        if path is None:
            return None
        none, command = subprocess.DEVNULL, [path, *arguments]
        try:
            said = subprocess.check_output(command, stderr=none, stdin=none, timeout=self.timeout)
        except (OSError, subprocess.SubprocessError):
            return None
        return said.decode(errors="replace")
