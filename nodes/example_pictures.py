"""The pictures that our templates load, in ComfyUI's input folder: a template runs at once on a fresh installation."""

from __future__ import annotations

import logging
import os
import shutil

KINDS = (".png", ".mp4")
PREFIX = "colorize_"  # before the names in workflows/examples: among a user's pictures they say whose they are


def offer(source: str, target: str) -> list[str]:
    """Copy the pictures and videos of folder `source` into folder `target` and return the new names.

    A file that is there already stays as it is, whoever it belongs to. A folder that cannot be written costs only the
    pictures: the pack loads, and a line in the log says why the templates ask for pictures.
    """
    made = []
    try:
        os.makedirs(target, exist_ok=True)
        for name in sorted(os.listdir(source)):
            file = os.path.join(target, PREFIX + name)
            if not name.endswith(KINDS) or os.path.lexists(file):
                continue
            part = f"{file}.{os.getpid()}.part"
            shutil.copyfile(os.path.join(source, name), part)
            os.replace(part, file)  # whole or not at all, also when two servers start at once
            made.append(PREFIX + name)
    except OSError as error:
        logging.warning(
            "Colorize Diffusion: its example pictures could not be copied into %s (%s). Copy them by hand from %s, "
            "with %s before their names, or choose your own pictures in the templates.", target, error, source, PREFIX
        )  # fmt: skip
    return made
