"""A folder of drawings in the colours of one key, from files to files, with a few frames in memory at a time.

quickstart runs `main` with an environment's Python. Its job is a JSON file: {"key": FILE, "key_frame": NUMBER,
"frames": [{"sketch": FILE, "picture": FILE, "target": FILE}, ...]}: a coloured key, which of the drawings it colours,
and for every drawing the model's picture and where to write the new one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from ..pictures import images
from ..pictures.flatten import Flats
from ..pictures.layers import composite, stack
from ..pictures.palette import Palette
from ..pictures.regions import RegionMap, find_regions
from .carrying import Carrier, known
from .shapes import shapes_of
from .shot_flats import Unsure, key_flats, settled, unsure_regions


def comfy_picture(file: Path) -> torch.Tensor:
    """(1, H, W, 3 or 4) in 0..1 of a picture file, turned as ComfyUI's Load Image turns it, which made the model's
    pictures; four channels where it has transparency."""
    with Image.open(file) as image:
        clear = "A" in image.getbands() or "transparency" in image.info
        levels = np.array(ImageOps.exif_transpose(image).convert("RGBA" if clear else "RGB"))
    return torch.from_numpy(levels).float()[None] / 255


def _regions(drawing: torch.Tensor) -> RegionMap:
    return find_regions(drawing).maps[0]


def _colours(file: Path) -> np.ndarray:
    picture = comfy_picture(file)
    return images.on_white(*images.rgb_and_alpha(picture))[0].movedim(0, -1).numpy()


def carry_folder(key: Path, key_frame: int, frames: list[dict[str, str]]) -> Iterator[tuple[int, list[Unsure]]]:
    """Write every frame's picture; yields (frame, its unsure regions) as they are made, outwards from the key.

    Raises ValueError where a frame cannot be matched, and OSError for files.
    """
    drawing = comfy_picture(Path(frames[key_frame]["sketch"]))
    regions = _regions(drawing)
    painted = key_flats(regions, _colours(key))
    _write(painted, drawing, Path(frames[key_frame]["target"]))
    yield key_frame, []
    shapes, belief = shapes_of(regions), known(painted.entry, len(painted.palette.entries))
    for direction in (range(key_frame + 1, len(frames)), range(key_frame - 1, -1, -1)):
        carrier = Carrier(shapes, belief)
        for number in direction:
            yield number, _carried(carrier, painted.palette, frames[number], number)


def _carried(carrier: Carrier, palette: Palette, frame: dict[str, str], number: int) -> list[Unsure]:
    drawing = comfy_picture(Path(frame["sketch"]))
    regions = _regions(drawing)
    belief = carrier.next(shapes_of(regions))
    flats, sure = settled(regions, _colours(Path(frame["picture"])), palette, belief)
    _write(flats, drawing, Path(frame["target"]))
    return unsure_regions(flats, sure, number)


def _write(flats: Flats, drawing: torch.Tensor, target: Path) -> None:
    """The flats under the drawing's lines; the name appears when the file is whole."""
    lines = images.line_layer(drawing, None, "auto")[0].movedim(0, -1).numpy()
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        Image.fromarray(composite(stack(flats, lines))[..., :3]).save(part, format="PNG")
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def main(job_file: str, told_file: str) -> None:
    """Do a job; every finished frame is a JSON line in the file that tells."""
    job = json.loads(Path(job_file).read_text(encoding="utf-8"))
    with open(told_file, "w", encoding="utf-8") as told:
        for frame, unsure in carry_folder(Path(job["key"]), job["key_frame"], job["frames"]):
            told.write(json.dumps({"frame": frame, "unsure": [asdict(one) for one in unsure]}) + "\n")
            told.flush()
