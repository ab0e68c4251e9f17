"""What one file of a data set shows: its size, hashes that duplicates share, and what is wrong with it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from colorize.pictures import masks
from colorize.pictures.line_measures import FLAT, measure_lines
from spread.crew import Crew
from trainer.data.decode import PICTURE_ERRORS, open_picture, read_rgb, upright, why
from trainer.data.sources import FolderSource, ShardSource
from trainer.prepare.layout import Set

MEASURED_SIDE = 512  # pixels; larger files are measured on a reduced copy
GREY_SHARE = 0.01  # of a mask's pixels; more than an antialiased outline leaves
HANDFUL = 8  # files that a worker looks at, at a time


@dataclass(frozen=True)
class Measure:
    """What one file shows."""

    key: str
    problem: str = ""
    """Why it cannot be read; the rest is then empty."""
    size: tuple[int, int] = (0, 0)
    """width, height in pixels"""
    content: int = 0
    """64 bits of a hash of the file's bytes; of color/"""
    look: int = 0
    """64 bits that similar pictures share, see `look_of`; of color/"""
    marks: tuple[str, ...] = ()
    """Of a sketch: "inverted", "blank", "coloured". Of a mask: "empty", "full", "inverted", "grey"."""


def look_of(image: Image.Image) -> int:
    """Difference hash: 8 x 8 signs of the horizontal slope of a 9 x 8 grey copy (box filtered)."""
    small = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX), np.int16)
    return int.from_bytes(np.packbits(small[:, 1:] > small[:, :-1]).tobytes(), "big")


def sketch_marks(image: Image.Image) -> tuple[str, ...]:
    """What is wrong with a sketch, an RGB picture of at most MEASURED_SIDE pixels."""
    lines = measure_lines(torch.from_numpy(np.array(image))[None].float() / 255)[0]
    if lines.spread < FLAT:
        return ("blank",)
    found = ["inverted"] if lines.polarity == "light_on_dark" else []
    return (*found, "coloured") if lines.coloured > 0.05 else tuple(found)


def mask_marks(values: np.ndarray) -> tuple[str, ...]:
    """What is wrong with a mask (H, W) uint8."""
    figure = torch.from_numpy(values > 127).float()[None]
    share = figure.mean().item()
    found = [name for name, is_so in (("empty", share == 0), ("full", share == 1)) if is_so]
    if masks.looks_inverted(figure):
        found.append("inverted")
    if ((values > 8) & (values < 247)).mean() > GREY_SHARE:
        found.append("grey")
    return tuple(found)


def measure(source: FolderSource | ShardSource, part: str, key: str) -> Measure:
    """Read one file of a part and look at it."""
    kind = part.partition("/")[0].partition("_")[0] if part != "reference_mask" else "mask"
    try:
        with source.open(part, key) as file:
            content = file.read()
            file.seek(0)
            if kind == "mask":
                with open_picture(file) as opened:
                    seen = upright(opened)
                    return Measure(key, size=seen.size, marks=mask_marks(np.asarray(seen.convert("L"))))
            image = read_rgb(file)
    except PICTURE_ERRORS as error:
        return Measure(key, problem=why(error))
    size = image.size
    if kind == "sketch":
        image.thumbnail((MEASURED_SIDE, MEASURED_SIDE))
        return Measure(key, size=size, marks=sketch_marks(image))
    hashed = int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big")
    return Measure(key, size=size, content=hashed, look=look_of(image))


def measure_all(
    data: Set, keys: Mapping[str, Sequence[str]], crew: Crew, progress: bool
) -> Iterator[tuple[str, list[Measure]]]:
    """Files of some parts, part by part, each in the order of its keys."""
    jobs = ((part, key) for part, there in keys.items() for key in there)
    found = crew.map(partial(_measure, data.source), jobs, HANDFUL)
    for part, there in keys.items():
        shown = tqdm(total=len(there), unit="file", desc=f"{part}/", disable=not progress, dynamic_ncols=True)
        with shown as bar:
            measures = []
            for measured in islice(found, len(there)):
                measures.append(measured)
                bar.update()
        yield part, measures


def _measure(source: FolderSource | ShardSource, job: tuple[str, str]) -> Measure:
    return measure(source, *job)
