"""What the golden tests need and may not find: the files, and ComfyUI. Missing things skip a test, with the reason.

Where COLORIZE_REQUIRE_GOLDEN=1 or COLORIZE_REQUIRE_COMFYUI=1 is set (continuous integration), they fail it instead.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from . import files, runner


def _missing(reason: str, requirement: str):
    if os.environ.get(requirement) == "1":
        pytest.fail(f"{reason} ({requirement} is set)")
    pytest.skip(reason)


def golden_file(case: str) -> Path:
    """The file of a case: from the full set, else from the shipped subset."""
    for folder in (files.golden_folder(), files.SHIPPED):
        if folder is not None and (path := folder / f"{case}.safetensors").is_file():
            return path
    _missing(f"golden case {case} is not shipped; set GOLDEN_DIR to the full set", "COLORIZE_REQUIRE_GOLDEN")


def full_set() -> Path:
    """The folder with the full set of golden files."""
    folder = files.golden_folder()
    if folder is None:
        _missing("the full set of golden files is not here; set GOLDEN_DIR", "COLORIZE_REQUIRE_GOLDEN")
    return folder


def comfyui() -> Path:
    """ComfyUI's folder."""
    folder = runner.find_comfy()
    if folder is None:
        _missing("ComfyUI not found; set COMFYUI_PATH to its folder", "COLORIZE_REQUIRE_COMFYUI")
    return folder
