"""Writes a training set of procedural characters (`python -m trainer demo-data`).

Layout of the folder, with one pose per character (the default):
    color/00001.png      picture(A, B): layout A in the colours of appearance B, sRGB
    sketch/00001.png     sketch(A), black lines on white, grey
    reference/00001.png  picture(C, B): another layout in the same colours
    regions/00001.png    labels of A, see "regions" in manifest.json
    mask/00001.png       figure mask of A: 255 on the character and its lines, 0 on the background
    reference_regions/, reference_mask/   the same two of C
    manifest.json        how the set was made
color/ is the true answer for sketch/ coloured like reference/, in training and in evaluation alike. With several poses
per character the files are called 00001_0.png, 00001_1.png, ...; every pose has its own sketch, regions and mask, and
there is no reference/: the poses of a character are references of each other (`data.reference = "group"`,
`data.groups = "names"`).
`--bystanders` and `--shapes` crowd the references with other characters and loud shapes that the answer shows nothing
of; reference_mask/ and reference_regions/ then know the main character and the wall only.
`--lines figure` leaves the background out of the drawings, as animators do: what stands behind the figure is then known
from the reference alone, or not at all.
The same command on an existing set adds what is missing: sets from before there were masks get only those.

Training and held-out sets draw from disjoint seed ranges (see world/render.py), so they never share a layout, an
appearance or a line style.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter
from tqdm import tqdm

from spread.crew import ALONE, Crew
from trainer.config import ConfigError
from trainer.json_file import JSON_ERRORS
from trainer.workers import add_crew_arguments, crew_of
from trainer.world import (
    BACKGROUND_STYLES,
    REGION_NAMES,
    WORLD_VERSION,
    mask,
    pair,
    pose,
    pose_layout,
    regions,
    seeds_of,
)

CHARACTERS_PER_SEED = 1_000_000
"""Set number `seed` holds the characters seed * 1,000,000 up to the next set's first."""
ADDED_KEYS = {"background": "mixed", "bystanders": 0, "shapes": 0, "crowded_share": 1.0, "lines": "all"}
"""What sets say that were written before these keys were."""
LINES = ("all", "figure")
STRAY = 0.01  # share of the shorter side by which the figure's lines may leave its mask
HANDFUL = 4  # characters that a worker draws at a time
MOST_SEEDS = 2**38 // CHARACTERS_PER_SEED


def write_demo_data(
    folder: str | Path,
    count: int,
    size: int | tuple[int, int] = 256,
    seed: int = 0,
    split: str = "train",
    poses: int = 1,
    crew: Crew = ALONE,
    progress: bool = True,
    background: str = "mixed",
    bystanders: int = 0,
    shapes: int = 0,
    crowded_share: float = 1.0,
    lines: str = "all",
) -> Path:
    """Draw `count` characters in `poses` poses each and return the folder.

    size: side in pixels, or (height, width). seed: 0..274876, sets of different seeds share no character. split:
    "train" or "heldout". background: "mixed" (all kinds), "busy" (many shapes and colours) or
    "plain", for pictures and references alike. bystanders, shapes: most other characters and loud shapes of a
    reference, 0..8 (world/crowd.py), in crowded_share (0..1) of the references; for one pose only, since other sets
    have no reference/. lines: "all", or "figure" for drawings of the figure alone. Finished files are kept, so the same
    call continues after an interruption, and a larger count extends the set. Raises ConfigError when the folder holds a
    set made with other settings, or when an argument is out of range.
    """
    folder = Path(folder)
    height, width = (size, size) if isinstance(size, int) else size
    _check(count, seed, poses)
    if lines not in LINES:
        raise ConfigError(f"lines is {lines!r}; choose {' or '.join(LINES)}.")
    if poses > 1 and (bystanders or shapes):
        raise ConfigError(
            f"bystanders and shapes crowd the references, and a set of {poses} poses has none; leave --poses at 1."
        )
    try:
        seeds_of(seed * CHARACTERS_PER_SEED, split)
        pair(seed * CHARACTERS_PER_SEED, split, (height, width), 0, background, bystanders, shapes, crowded_share)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    manifest = {
        "world_version": WORLD_VERSION,
        "split": split,
        "seed": seed,
        "height": height,
        "width": width,
        "poses": poses,
        "background": background,
        "bystanders": bystanders,
        "shapes": shapes,
        "crowded_share": crowded_share,
        "lines": lines,
        "regions": list(REGION_NAMES),
    }
    _start(folder, manifest, count)
    _write_missing(folder, count, manifest, crew, progress)
    return folder


def _write_missing(folder: Path, count: int, manifest: dict[str, Any], crew: Crew, progress: bool) -> None:
    """Draw those of `count` characters that are not there."""
    poses = manifest["poses"]
    todo = [n for n in range(1, count + 1) if not all(path.exists() for path in _paths(folder, n, poses))]
    with tqdm(
        total=count * poses, initial=(count - len(todo)) * poses, unit="picture", disable=not progress, desc=str(folder)
    ) as bar:
        for _ in crew.map(functools.partial(_write_character, folder, manifest), todo, handful=HANDFUL):
            bar.update(poses)


def _check(count: int, seed: int, poses: int) -> None:
    if not 1 <= count <= CHARACTERS_PER_SEED:
        raise ConfigError(f"count is {count}; one seed gives 1 to {CHARACTERS_PER_SEED:,} characters.")
    if not 0 <= seed < MOST_SEEDS:
        raise ConfigError(f"seed is {seed}; choose 0 to {MOST_SEEDS - 1}.")
    if not 1 <= poses <= 1000:
        raise ConfigError(f"poses is {poses}; choose 1 to 1000.")


def _start(folder: Path, manifest: dict, count: int) -> None:
    """Make the folders, refuse a set of other settings, sweep up what an interruption left, write the manifest."""
    path = folder / "manifest.json"
    if path.exists():
        try:
            found = ADDED_KEYS | json.loads(path.read_text(encoding="utf-8"))
            different = [key for key in manifest if found.get(key) != manifest[key]]
            count = max(count, int(found.get("count", 0)))
        except (*JSON_ERRORS, TypeError):
            raise ConfigError(f"{path} cannot be read; choose another --output or delete the folder.") from None
        if different:
            details = ", ".join(f"{key} {found.get(key)!r} there, {manifest[key]!r} asked for" for key in different)
            raise ConfigError(f"{folder} holds a set made with other settings ({details}); choose another --output.")
    elif (folder / "color").is_dir() and any((folder / "color").iterdir()):
        raise ConfigError(f"{folder} holds pictures but no manifest.json; choose an empty folder as --output.")
    for name in _folders(manifest["poses"]):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for leftover in (folder / name).glob("*.part"):
            if re.fullmatch(r"\d{5,}(_\d+)?\.part", leftover.name):
                leftover.unlink(missing_ok=True)
    part = folder / "manifest.json.part"
    part.write_text(json.dumps(manifest | {"count": count}, indent=1), encoding="utf-8")
    part.replace(path)


def _folders(poses: int) -> tuple[str, ...]:
    shared = ("sketch", "regions", "mask", "color")
    return shared + (("reference", "reference_regions", "reference_mask") if poses == 1 else ())


def _stems(number: int, poses: int) -> list[str]:
    return [f"{number:05d}"] if poses == 1 else [f"{number:05d}_{k}" for k in range(poses)]


def _paths(folder: Path, number: int, poses: int) -> list[Path]:
    return [folder / name / f"{stem}.png" for name in _folders(poses) for stem in _stems(number, poses)]


def _save(pixels: np.ndarray, path: Path) -> None:
    part = path.with_suffix(".part")
    Image.fromarray(pixels).save(part, format="PNG", compress_level=4)
    os.replace(part, path)


def _write_character(folder: Path, manifest: dict, number: int) -> None:
    """Draw what is missing of one character; `number` counts from 1."""
    index = manifest["seed"] * CHARACTERS_PER_SEED + number - 1
    for k, stem in enumerate(_stems(number, manifest["poses"])):
        missing = [n for n in _folders(manifest["poses"]) if not (folder / n / f"{stem}.png").exists()]
        crowded = manifest["bystanders"] or manifest["shapes"]
        only_labels = set(missing) <= LABELS.keys() and not crowded
        bare = manifest["lines"] == "figure" and "sketch" in missing
        drawn = (_labels if only_labels else _pictures)(index, k, manifest, [*missing, "mask"] if bare else missing)
        if bare:
            drawn["sketch"] = figure_lines(drawn["sketch"], drawn["mask"])
        for name in missing:
            _save(drawn[name], folder / name / f"{stem}.png")


def figure_lines(sketch: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A drawing (H, W), uint8, black on white, without what lies outside the figure mask (H, W), 0 or 255."""
    reach = round(STRAY * min(mask.shape))
    near = Image.fromarray(mask).filter(ImageFilter.MaxFilter(2 * reach + 1))
    return np.where(np.asarray(near) > 0, sketch, np.uint8(255))


# What needs no colours and no lines: file kind -> (view of a layout, which pose it shows of a one-pose set).
LABELS = {"mask": (mask, 0), "reference_mask": (mask, 1), "reference_regions": (regions, 1)}


def _labels(index: int, k: int, manifest: dict, names: list[str]) -> dict[str, np.ndarray]:
    """Views of LABELS of pose k, without drawing its picture."""
    size = (manifest["height"], manifest["width"])
    layouts = {n: pose_layout(index, k + LABELS[n][1], manifest["split"], manifest["background"]) for n in names}
    return {n: LABELS[n][0](layouts[n], size) for n in names}


def _pictures(index: int, k: int, manifest: dict, names: list[str]) -> dict[str, np.ndarray]:
    """All views of pose k by folder name; in one-pose sets with those of its reference."""
    size, split, background = (manifest["height"], manifest["width"]), manifest["split"], manifest["background"]
    if manifest["poses"] == 1:
        crowd = (manifest["bystanders"], manifest["shapes"], manifest["crowded_share"])
        drawn = pair(index, split, size, 0, background, *crowd)
    else:
        drawn = dataclasses.asdict(pose(index, k, split, size, background))
    return {name: drawn["picture" if name == "color" else name] for name in names}


def _size(text: str) -> int | tuple[int, int]:
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdigit() for side in sides):
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write 256, or 384x256 for height x width")
    return int(sides[0]) if len(sides) == 1 else (int(sides[0]), int(sides[1]))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", required=True, metavar="DIR", help="folder to write (continued when it exists)")
    parser.add_argument("--count", type=int, required=True, metavar="N", help="characters to draw")
    parser.add_argument(
        "--poses", type=int, default=1, help="pictures per character; 1 (default) adds a reference each"
    )
    parser.add_argument("--size", type=_size, default=256, help="side in pixels, or HEIGHTxWIDTH (default 256)")
    parser.add_argument("--seed", type=int, default=0, help="which set: 0..274876 (default 0)")
    parser.add_argument(
        "--split", choices=("train", "heldout"), default="train", help="heldout shares no character with train"
    )
    parser.add_argument(
        "--background",
        choices=tuple(BACKGROUND_STYLES),
        default="mixed",
        help="kinds of background: mixed (default, all), busy (many shapes and colours) or plain",
    )
    parser.add_argument(
        "--bystanders", type=int, default=0, metavar="N", help="1 to N other characters in every reference (default 0)"
    )
    parser.add_argument(
        "--shapes", type=int, default=0, metavar="N", help="1 to N loud shapes in every reference (default 0)"
    )
    parser.add_argument(
        "--crowded-share", type=float, default=1.0, help="share of references with bystanders and shapes (default 1)"
    )
    parser.add_argument(
        "--lines", choices=LINES, default="all", help="what is drawn: all (default), or the figure without background"
    )
    add_crew_arguments(parser)


def run(args: argparse.Namespace) -> None:
    folder = write_demo_data(
        args.output,
        args.count,
        args.size,
        args.seed,
        args.split,
        args.poses,
        crew_of(args),
        background=args.background,
        bystanders=args.bystanders,
        shapes=args.shapes,
        crowded_share=args.crowded_share,
        lines=args.lines,
    )
    print(f"{args.count} characters in {folder}")
