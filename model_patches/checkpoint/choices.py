"""Which files a loader offers: those whose tensor names say that it can load them.

ComfyUI's folder of checkpoints holds everything that anybody loads as one, and a list that begins with somebody else's
model is the first thing that fails. Only the headers of .safetensors files are read, once per file and change.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from functools import lru_cache

import folder_paths

from ...colorize import families

ANIMEDIFFUSION = "animediffusion"
LARGEST_HEADER = 100_000_000  # bytes, as safetensors itself allows
TENSOR = re.compile(rb'"((?:[^"\\]|\\.)+)"\s*:\s*\{\s*"(?:dtype|shape|data_offsets)"')


def colorize_checkpoints() -> list[str]:
    """Names in models/checkpoints for Load ColorizeDiffusion Checkpoint, those that are known to fit first."""
    return _offered(lambda kind: kind != ANIMEDIFFUSION)


def animediffusion_checkpoints() -> list[str]:
    """Names in models/checkpoints for Load AnimeDiffusion, those that are known to fit first."""
    return _offered(lambda kind: kind == ANIMEDIFFUSION)


def _offered(fits: Callable[[str], bool]) -> list[str]:
    """Files of kinds that fit; then those whose names of tensors cannot be seen without loading them."""
    known, unknown = [], []
    for name in folder_paths.get_filename_list("checkpoints"):
        path = folder_paths.get_full_path("checkpoints", name)
        kind = kind_of_file(path) if path else ""
        if kind is None:
            unknown.append(name)
        elif kind and fits(kind):
            known.append(name)
    return known + unknown


def kind_of_file(path: str) -> str | None:
    """The file's kind of families.KINDS, "" for somebody else's model, None where the header tells nothing."""
    try:
        status = os.stat(path)
        return _kind(path, status.st_size, status.st_mtime_ns)
    except OSError:
        return None


@lru_cache(maxsize=4096)
def _kind(path: str, size: int, _changed: int) -> str | None:
    if not path.lower().endswith((".safetensors", ".sft")):
        return None
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(LARGEST_HEADER, size):
            return None
        found = families.find_layout(_names(file.read(length)))
    return found.name if found else ""


def _names(header: bytes) -> Iterable[str]:
    """Names of the tensors in a header; by pattern, because a JSON of 3,000 entries costs ten times as much."""
    return [name.decode("utf-8", "replace") for name in TENSOR.findall(header)]
