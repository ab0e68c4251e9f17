"""Our families in ComfyUI's list of known models.

After `register()` Load Checkpoint, Load Diffusion Model and every loader built on them read our files; LoRA, fp8,
low-memory modes, previews and torch.compile follow, because the networks are ComfyUI's own.
"""

from __future__ import annotations

import inspect
from pathlib import Path

import comfy.supported_models

from .model import ColorizeV1
from .v2 import ColorizeV2
from .xl import ColorizeXL

FAMILIES = (ColorizeV1, ColorizeV2, ColorizeXL)


def register() -> None:
    """Make ComfyUI's loaders know our families. Safe to call again.

    The entries go to the front of the table because the first match wins: a narrow model of ours can have the sizes
    that the Stable Diffusion 1 entry asks for, while `matches` accepts nothing that is not ours.
    """
    table = comfy.supported_models.models
    known = {entry.__name__ for entry in table if getattr(entry, "is_colorize_family", False)}
    table[:0] = [entry for entry in FAMILIES if entry.__name__ not in known]


def copies_remark() -> str:
    """What is wrong and what to do when ComfyUI loaded another copy of this pack before this one, else "".

    Its families stand in the table under the same names: a file is read as a model of one copy and met by nodes of the
    other.
    """
    own = _folder(ColorizeV1)
    table = comfy.supported_models.models
    other = [entry for entry in table if getattr(entry, "is_colorize_family", False) and entry not in FAMILIES]
    if not other:
        return ""
    return (
        f"ComfyUI has loaded Colorize Diffusion twice, from {_folder(other[0])} and from {own}. Keep one: move the "
        "other folder out of custom_nodes and start ComfyUI again."
    )


def _folder(family: type) -> Path:
    """The pack's folder that a class comes from."""
    return Path(inspect.getfile(family)).parents[2]
