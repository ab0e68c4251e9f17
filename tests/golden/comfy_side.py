"""The comfy side of the golden runner, inside the process of comfy_process.py: answers files, writes the outcomes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from .runner import run_side


def main(arguments: Sequence[str]) -> None:
    """arguments: the file to write the outcomes to (JSON), then the golden files."""
    answer, *golden_files = arguments
    outcomes = run_side([Path(path) for path in golden_files], "comfy")
    Path(answer).write_text(json.dumps([outcome.to_dict() for outcome in outcomes]), encoding="utf-8")
