"""Writes samples of all sources into the trainer's folder layout; a sample is a function of (seed, number)."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from colorize.pictures.ranges import levels_to_model
from colorize.sketch.extractors import without_network
from trainer.art import painted, scenes
from trainer.data.decode import open_picture
from trainer.world import pair

PROCEDURAL_SIZES = ((256, 256), (256, 256), (256, 256), (256, 320), (320, 256), (384, 256), (256, 384))
BYSTANDERS, SHAPES, CROWDED = 2, 3, 0.3  # of procedural references
EXTRACTED = 0.5  # share of samples with exact lines that get extracted ones, too
XDOG_SIGMA = (0.4, 0.9)
SOURCES = ("avatars", "figures", "procedural")
CHARACTERS = {"eileen": "eileen *.png", "lucy": "lucy *.png"}
"""Figures of renpy-demo by character."""
GROUNDS = ("bg cave.jpg", "bg washington.jpg", "bg whitehouse.jpg")
IMAGES = "renpy-demo/usr/share/games/renpy/demo/game/images"


@dataclass(frozen=True)
class Plan:
    """What a set is made of."""

    folder: Path
    packages: Path
    seed: int
    split: str
    """train or heldout"""


def random_of(plan: Plan, source: str, number: int) -> np.random.Generator:
    """The random numbers of one sample."""
    return np.random.default_rng((plan.seed, number, zlib.crc32(f"{source} {plan.split}".encode())))


def write(plan: Plan, source: str, numbers: Sequence[int]) -> int:
    """Write the samples of a source that are not there yet; how many were written."""
    torch.set_num_threads(1)
    todo = [n for n in numbers if not (plan.folder / "color" / f"{source}-{n:06d}.png").is_file()]
    if source == "avatars":
        avatars = scenes.characters(plan.packages, todo, plan.seed, plan.split)
    for number in todo:
        random = random_of(plan, source, number)
        if source == "avatars":
            parts = scenes.sample(avatars[number], random)
        elif source == "figures":
            parts = painted.sample(*_figures(plan.packages), random)
        else:
            parts = _procedural(plan, number)
        save_parts(plan.folder, f"{source}-{number:06d}", _with_extracted(parts, random))
    return len(todo)


@lru_cache(maxsize=1)
def _figures(packages: Path) -> tuple[list[painted.Character], list[np.ndarray]]:
    images = packages / IMAGES
    characters = [painted.read_character(n, sorted(images.glob(pattern))) for n, pattern in CHARACTERS.items()]
    grounds = [np.asarray(open_picture(images / name).convert("RGB")) for name in GROUNDS]
    return characters, grounds


def _procedural(plan: Plan, number: int) -> scenes.Parts:
    size = PROCEDURAL_SIZES[number % len(PROCEDURAL_SIZES)]
    drawn = pair(plan.seed * 1_000_000 + number, plan.split, size, 0, "mixed", BYSTANDERS, SHAPES, CROWDED)
    drawn["color"] = drawn.pop("picture")
    return {name: drawn[name] for name in ("color", "sketch", "mask", "reference", "reference_mask")}


def _with_extracted(parts: scenes.Parts, random: np.random.Generator) -> scenes.Parts:
    """The parts with extracted drawings: both kinds where there is no exact one, else XDoG for a share of samples."""
    sigma = random.uniform(*XDOG_SIGMA)
    if "sketch" not in parts:
        parts["sketch_standard"] = extracted(parts["color"], "standard")
        parts["sketch_xdog"] = extracted(parts["color"], "xdog", sigma=sigma)
    elif random.random() < EXTRACTED:
        parts["sketch_xdog"] = extracted(parts["color"], "xdog", sigma=sigma)
    return parts


def extracted(picture: np.ndarray, method: str, **settings: float) -> np.ndarray:
    """Picture (H, W, 3) uint8 -> black lines on white (H, W) uint8, by an extractor that needs no weights."""
    values = levels_to_model(torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None].float())
    lines = without_network(values, method, 0, **settings)
    return ((1 - lines[0, 0].clamp(-1, 1)) * 127.5).round().to(torch.uint8).numpy()


def save_parts(folder: Path, name: str, parts: scenes.Parts) -> None:
    """Every part into its folder; color last, so that a sample is whole when it is there."""
    for part in sorted(parts, key=lambda part: part == "color"):
        place = folder / part / f"{name}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary = place.with_name(place.name + ".part")
        Image.fromarray(parts[part]).save(temporary, "PNG", compress_level=3)
        temporary.replace(place)
