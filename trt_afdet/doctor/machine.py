"""The machine's files and programs, below a root folder that tests can choose."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

#: Folders of programs, below the root. nvpmodel lies in sbin, which users rarely have on PATH.
_PROGRAM_FOLDERS = ("usr/sbin", "usr/bin", "sbin", "bin", "usr/local/bin")


@dataclass(frozen=True)
class Machine:
    """A file system to look at.

    Attributes:
        root: A folder in place of ``/``.
        timeout: Seconds that a program may take.
    """

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
        """A text file without surrounding blanks and the NUL that ends device-tree strings.

        Returns:
            None if there is no such file or it may not be read.
        """
        path = self.path(name) if isinstance(name, str) else name
        try:
            return path.read_text(errors="replace").strip("\0 \n\t")
        except OSError:
            return None

    def run(self, program: str, *arguments: str) -> str | None:
        """The output of a program.

        Returns:
            None if there is no such program, it fails, or it takes too long.
        """
        for folder in _PROGRAM_FOLDERS:
            path = self.root / folder / program
            if not path.is_file():
                continue
            try:
                result = subprocess.run(
                    [str(path), *arguments],
                    capture_output=True,
                    text=True,
                    errors="replace",
                    timeout=self.timeout,
                    check=False,
                    stdin=subprocess.DEVNULL,
                )
            except (OSError, subprocess.TimeoutExpired):
                return None
            return result.stdout if result.returncode == 0 else None
        return None
