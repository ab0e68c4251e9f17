"""Our families in ComfyUI's list of known models.

After `register()` Load Checkpoint, Load Diffusion Model and every loader built on them read our files; LoRA, fp8,
low-memory modes, previews and torch.compile follow, because the networks are ComfyUI's own.
"""

from __future__ import annotations

import comfy.supported_models

from .model import ColorizeV1
from .v2 import ColorizeV2
from .xl import ColorizeXL


def register() -> None:
    """Make ComfyUI's loaders know our families. Safe to call again.

    The entries go to the front of the table because the first match wins: a narrow model of ours can have the sizes
    that the Stable Diffusion 1 entry asks for, while `matches` accepts nothing that is not ours.
    """
    table = comfy.supported_models.models
    known = {entry.__name__ for entry in table if getattr(entry, "is_colorize_family", False)}
    table[:0] = [entry for entry in (ColorizeV1, ColorizeV2, ColorizeXL) if entry.__name__ not in known]
