"""The rules of the house: who may import whom."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

FORBIDDEN = {
    "colorize": {"comfy", "comfy_api", "folder_paths", "nodes", "trainer"},
    "trainer": {"comfy", "comfy_api", "folder_paths", "nodes"},
}


def imported(path: Path) -> set[str]:
    """First names of everything a file imports absolutely, and of what it imports two packages up or more."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level != 1:
            names.add((node.module or "").partition(".")[0])
            names |= {alias.name for alias in node.names} if node.level and not node.module else set()
    return names


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_no_forbidden_imports(folder):
    for path in (ROOT / folder).rglob("*.py"):
        assert not imported(path) & FORBIDDEN[folder], path
