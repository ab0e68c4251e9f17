"""What can be said before a run: files that are not there, sizes that cannot be sampled.

ComfyUI shows an answer of `validate_inputs` beside the node before anything runs, and stops checking the inputs that it
names; so each of these checks all of what it names. A connected input arrives as None.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import folder_paths

from ..colorize.pictures import canvas

REFRESH = "Then press R in the window, which lists the files again."


def within(path: str, folder: str) -> bool:
    """Whether an absolute path lies below a folder: names of files may lead elsewhere."""
    return path.startswith(os.path.join(os.path.abspath(folder), ""))


def offered(name: str, names: Sequence[str], folders: Sequence[str], fits: str, elsewhere: str = "") -> bool | str:
    """True when a file is one of those a loader offers, else what to do.

    fits: what the loader needs, "a ColorizeDiffusion checkpoint". elsewhere: where other files of the folder belong.
    """
    if name is None or name in names:
        return True
    places = " or ".join(f"models/{folder}" for folder in folders)
    choices = f"Choose one of: {', '.join(names[:8])}{' ...' if len(names) > 8 else ''}." if names else ""
    if any(folder_paths.get_full_path(folder, name) for folder in folders):
        return " ".join(filter(None, [f"{name} is in {places}, but it is not {fits}.", choices, elsewhere]))
    return " ".join(filter(None, [f"There is no file {name} in {places}. Put {fits} there.", REFRESH, choices]))


def sampled_size(width: int | None, height: int | None, least: int = 64, most: int = 8192) -> bool | str:
    """True for sides that can be sampled (None: not known yet), else what to do."""
    for side, pixels in (("width", width), ("height", height)):
        if pixels is None:
            continue
        if not least <= pixels <= most:
            return f"{side} is {pixels} pixels. Choose {least} to {most}, in steps of {canvas.STEP}."
        if pixels % canvas.STEP:
            nearest = canvas.nearest_side(pixels)
            return f"{side} is {pixels} pixels, not divisible by {canvas.STEP}. The nearest is {nearest}."
    return True
