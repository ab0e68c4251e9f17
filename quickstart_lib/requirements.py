"""What an environment is made of, and the name that follows from it: other requirements, another environment."""

import ast
import hashlib
import platform
import re
import sys
from pathlib import Path

from .errors import QuickstartError

LAYOUT = "2"  # raise it when the way of installing changes, so that old environments are not reused
EXTRAS_FOR_TRAINER = ("trainer",)
EXTRAS_FOR_TESTS = ("trainer", "dev")


def requirement_lists(pyproject: str) -> dict[str, list[str]]:
    """{"": dependencies, extra: its list} from the text of our own pyproject.toml.

    Python 3.10 has no TOML reader, so this reads the one form our file uses: arrays of strings under [project] and
    [project.optional-dependencies]. A test compares it with tomllib.
    """
    lists: dict[str, list[str]] = {}
    for section, body in re.findall(r"^\[([^\]\n]+)\]\n(.*?)(?=^\[[^\]\n]+\]\n|\Z)", pyproject, re.M | re.S):
        if section not in ("project", "project.optional-dependencies"):
            continue
        for name, array in re.findall(r"^([A-Za-z0-9_-]+)\s*=\s*(\[.*?\])\s*(?:#[^\n]*)?$", body, re.M | re.S):
            if section == "project" and name != "dependencies":
                continue
            lists["" if section == "project" else name] = list(ast.literal_eval(array))
    if "" not in lists:
        raise QuickstartError(
            "pyproject.toml has no list [project] dependencies. Restore the file from the repository."
        )
    return lists


def list_key(requirements: list[str]) -> str:
    """What tells one list of requirements from another."""
    return hashlib.sha256("\0".join(requirements).encode()).hexdigest()[:16]


def environment_key(comfyui: Path, pack: Path) -> str:
    """16 hexadecimal digits that change with any input of the installation, the Python version included.

    The extras are no part of it: they are installed on top, each again when its list has changed (`list_key`), so that
    a new test package does not cost 7 GB.
    """
    lists = requirement_lists((pack / "pyproject.toml").read_text(encoding="utf-8"))
    inputs = (
        LAYOUT,
        platform.python_implementation(),
        "%d.%d" % sys.version_info[:2],
        sys.platform,
        platform.machine(),
        (pack / "constraints.txt").read_text(encoding="utf-8"),
        (comfyui / "requirements.txt").read_text(encoding="utf-8"),
        repr(lists[""]),
    )
    return hashlib.sha256("\0".join(inputs).encode()).hexdigest()[:16]
