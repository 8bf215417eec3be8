"""Being here puts this folder on the import path: its helper modules serve every test below."""

from __future__ import annotations
