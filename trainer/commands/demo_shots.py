"""Writes shots of procedural characters with their true colours (`python -m trainer demo-shots`).

Layout of the folder, one folder per shot:
    00001/sketch/0000.png   frame 0, black lines on white: the frames of a cut, in order
    00001/flats/0000.png    its flats: one colour per material, the same in all frames; frame 0 can serve as the key
    00001/color/0000.png    the shaded picture
    00001/things/0000.png   16 bits: which thing lies at every pixel, see things.json
    00001/mask/0000.png     255 on the figure and what passes before it
    00001/things.json       names of the things; a number means the same thing in all frames of the shot
    manifest.json           how the set was made
Finished frames are kept, so the same command continues, and a larger count extends the set.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from spread.crew import ALONE, Crew
from trainer.config import ConfigError
from trainer.json_file import read_object
from trainer.workers import add_crew_arguments, crew_of
from trainer.world import WORLD_VERSION, shot_frame
from trainer.world.shot import LINES

KINDS = ("sketch", "flats", "color", "things", "mask")
MOST_FRAMES = 1000


def write_shots(
    folder: str | Path,
    count: int,
    frames: int = 24,
    size: int = 256,
    split: str = "train",
    lines: str = "drawn",
    crew: Crew = ALONE,
    progress: bool = True,
) -> Path:
    """Draw the shots of characters 0 to count - 1 of a split and return the folder.

    size: side in pixels. lines: "drawn" or "clean", see world/shot.py. Raises ConfigError for a set of other settings
    or an argument out of range.
    """
    folder = Path(folder)
    if count < 1 or not 1 <= frames <= MOST_FRAMES:
        raise ConfigError(f"count {count} and frames {frames}: choose 1 or more, and at most {MOST_FRAMES} frames.")
    try:
        shot_frame(count - 1, 0, split, size, lines=lines)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    manifest = {"world_version": WORLD_VERSION, "split": split, "size": size, "frames": frames, "lines": lines}
    path = folder / "manifest.json"
    if path.exists() and read_object(path, "choose another --output") != manifest:
        raise ConfigError(f"{folder} holds a set made with other settings; choose another --output.")
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    todo = [n for n in range(1, count + 1) if not _is_complete(folder / f"{n:05d}", frames)]
    with tqdm(total=len(todo), unit="shot", disable=not progress, desc=str(folder)) as bar:
        for _ in crew.map(functools.partial(_write_shot, folder, manifest), todo):
            bar.update()
    return folder


def _is_complete(shot: Path, frames: int) -> bool:
    """The names are written last."""
    files = (shot / kind / f"{frame:04d}.png" for kind in KINDS for frame in range(frames))
    return (shot / "things.json").is_file() and all(file.is_file() for file in files)


def _write_shot(folder: Path, manifest: dict[str, Any], number: int) -> None:
    shot = folder / f"{number:05d}"
    for kind in KINDS:
        (shot / kind).mkdir(parents=True, exist_ok=True)
    known: dict[str, int] = {}
    for frame in range(manifest["frames"]):
        drawn = shot_frame(number - 1, frame, manifest["split"], manifest["size"], lines=manifest["lines"])
        numbers = np.array([known.setdefault(name, len(known)) for name in drawn.names], np.uint16)
        views = {"sketch": drawn.sketch, "flats": drawn.flats, "color": drawn.picture, "mask": drawn.mask}
        for kind, pixels in (views | {"things": numbers[drawn.things]}).items():
            path = shot / kind / f"{frame:04d}.png"
            part = path.with_suffix(".part")
            Image.fromarray(pixels).save(part, format="PNG")
            os.replace(part, path)
    (shot / "things.json").write_text(json.dumps(list(known), indent=1), encoding="utf-8")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", required=True, metavar="DIR", help="folder to write (continued when it exists)")
    parser.add_argument("--count", type=int, required=True, metavar="N", help="shots to draw")
    parser.add_argument("--frames", type=int, default=24, help="frames of a shot (default 24)")
    parser.add_argument("--size", type=int, default=256, help="side in pixels (default 256)")
    parser.add_argument(
        "--split", choices=("train", "heldout"), default="train", help="heldout shares no character with train"
    )
    parser.add_argument(
        "--lines", choices=LINES, default="drawn", help="drawn (default) as by a pencil, or clean as after clean-up"
    )
    add_crew_arguments(parser)


def run(args: argparse.Namespace) -> None:
    folder = write_shots(args.output, args.count, args.frames, args.size, args.split, args.lines, crew_of(args))
    print(f"{args.count} shots of {args.frames} frames in {folder}")
