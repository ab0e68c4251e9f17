"""Writes a set of procedural faces for AnimeDiffusion (`python -m trainer demo-faces`).

Layout of the folder:
    color/00001.png      a face of the world of `demo-data`, head and shoulders filling the picture
    reference/00001.png  with --references: another face in the same colours, for evaluation
    manifest.json        how the set was made
Lines and warped references are made of color/ by the trainer. Pictures are drawn at twice their size and averaged.
Training and held-out sets share no face (see world/render.py).
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from spread.crew import ALONE, Crew
from trainer.config import ConfigError
from trainer.json_file import read_object
from trainer.workers import add_crew_arguments, crew_of
from trainer.world import WORLD_VERSION, Appearance, Layout, picture, seeds_of

SIZES = (32, 1024)
HALF_WIDTH = (0.27, 0.33)  # of the face, as a share of the picture's side
HEIGHT = (0.50, 0.56)  # of the head's middle, from the top
SIDEWAYS = 0.04  # largest distance of the head's middle from the picture's


def face_layout(seed: int) -> Layout:
    """The layout of this seed with its head moved to the middle and grown to fill the picture, arms down."""
    random = np.random.default_rng([seed, 0xFACE])
    return replace(
        Layout.sample(seed),
        head_unit=float(random.uniform(*HALF_WIDTH)),
        centre_x=float(0.5 + random.uniform(-SIDEWAYS, SIDEWAYS)),
        centre_y=float(random.uniform(*HEIGHT)),
        arms="down",
    )


def face(index: int, split: str = "train", size: int = 64, reference: bool = False) -> np.ndarray:
    """Face `index` of a split, or another one in its colours: (size, size, 3) uint8 sRGB. Pure function."""
    seeds = seeds_of(index, split)
    layout = face_layout(seeds["reference_layout" if reference else "layout"])
    drawn = picture(layout, Appearance.sample(seeds["appearance"]), 2 * size)
    return np.array(Image.fromarray(drawn).resize((size, size), Image.Resampling.BOX))


def write_faces(
    folder: str | Path,
    count: int,
    size: int = 64,
    split: str = "train",
    references: bool = False,
    crew: Crew = ALONE,
    progress: bool = True,
) -> Path:
    """Draw faces 0 to count - 1 of a split and return the folder. Finished files are kept, so the same call continues.

    size: side in pixels, 32..1024. Raises ConfigError for a set of other settings or an argument out of range.
    """
    folder = Path(folder)
    if count < 1:
        raise ConfigError(f"count is {count}; choose 1 or more.")
    if not SIZES[0] <= size <= SIZES[1]:
        raise ConfigError(f"size is {size}; choose {SIZES[0]} to {SIZES[1]} pixels.")
    manifest = {"world_version": WORLD_VERSION, "framing": "face", "split": split, "size": size}
    path = folder / "manifest.json"
    if path.exists() and read_object(path, "choose another --output") != manifest:
        raise ConfigError(f"{folder} holds a set made with other settings; choose another --output.")
    kinds = ("color", "reference") if references else ("color",)
    for kind in kinds:
        (folder / kind).mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    todo = [
        (folder / kind / f"{number:05d}.png", number - 1, split, size, kind == "reference")
        for number in range(1, count + 1)
        for kind in kinds
    ]
    todo = [job for job in todo if not job[0].exists()]
    with tqdm(total=len(todo), unit="picture", disable=not progress, desc=str(folder)) as bar:
        for _ in crew.map(_write, todo, handful=16):
            bar.update()
    return folder


def _write(job: tuple[Path, int, str, int, bool]) -> None:
    path, index, split, size, reference = job
    part = path.with_suffix(".part")
    Image.fromarray(face(index, split, size, reference)).save(part, format="PNG")
    os.replace(part, path)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", required=True, metavar="DIR", help="folder to write (continued when it exists)")
    parser.add_argument("--count", type=int, required=True, metavar="N", help="faces to draw")
    parser.add_argument("--size", type=int, default=64, help="side in pixels (default 64)")
    parser.add_argument(
        "--split", choices=("train", "heldout"), default="train", help="heldout shares no face with train"
    )
    parser.add_argument("--references", action="store_true", help="add another face in the same colours to each")
    add_crew_arguments(parser)


def run(args: argparse.Namespace) -> None:
    folder = write_faces(args.output, args.count, args.size, args.split, args.references, crew_of(args))
    print(f"{args.count} faces in {folder}")
