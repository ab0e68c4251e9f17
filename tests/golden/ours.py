"""Importing our own modules from a case.

The torch side runs from the repository root, where `model_patches` and `trainer` are top-level packages. The comfy side
runs inside the pack, loaded under a package name as ComfyUI does it, because the repository's `nodes/` must not hide
ComfyUI's own module `nodes`. `ours("colorize.unet.unet")` gives the right module in both.
"""

from __future__ import annotations

import importlib
from types import ModuleType

_PREFIX = __name__.partition("tests.golden")[0]


def ours(name: str) -> ModuleType:
    """The module of this repository with the given dotted name."""
    return importlib.import_module(_PREFIX + name)
