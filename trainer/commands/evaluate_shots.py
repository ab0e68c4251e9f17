"""`python -m trainer evaluate-shots`: colours carried from one key through procedural shots, in numbers.

Frame 0 of a shot is the coloured key; the others are drawings alone. Printed, as means over the frames with 95 %
bootstrap intervals over the shots; all shares are of the area away from lines:
    carried        right colour, every piece taking what it most likely is
    of the key     the same, of the things alone that the key shows; others can be known from no key
    sure           share that the carrier is sure of: the rest is left to the model
    right if sure  right colour of that
    overlap        right colour by the plainest transfer: the piece of the frame before that covers most of the place
    same place     the same from the key itself
    pieces         right colour if every piece took its commonest: what finding regions leaves possible
    lost: ...      what "carried" has wrong, by cause, together all of it: pieces of several colours, things that are
                   not in the key, and errors of the matching, made here or taken over from the frame before
    flicker        share whose colour is not what its thing had a frame before, where sure (carried) or by overlap
--results DIR adds "per frame": DIR/SHOT/FRAME.png (00000/0001.png, ...) are a model's pictures of the drawings, which
are brought to the key's colours one by one.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from tqdm import tqdm

from colorize.pictures.flatten import flatten
from colorize.pictures.palette import Entry, Palette
from colorize.pictures.regions import RegionMap, find_regions
from colorize.shots.carrying import SURE, carried
from colorize.shots.shapes import shapes_of
from trainer.config import ConfigError
from trainer.data.decode import open_picture
from trainer.json_file import read_object, write_report
from trainer.metrics import shots as measures
from trainer.metrics.intervals import interval
from trainer.metrics.shots import FrameTruth
from trainer.world import ShotFrame, shot_frame
from trainer.world.shot import LINES

INK = 180  # grey level of a drawing below which a pixel is line


def read_shot(
    index: int, frames: int, size: int, split: str, lines: str
) -> tuple[list[ShotFrame], list[RegionMap], list[FrameTruth]]:
    """The frames of a shot with their regions and their truth."""
    drawn = [shot_frame(index, frame, split, size, lines=lines) for frame in range(frames)]
    maps, truths, numbers = [], [], dict[str, int]()
    for one in drawn:
        maps.append(find_regions(torch.from_numpy(one.sketch.copy()).float()[None, ..., None] / 255).maps[0])
        named = np.array([numbers.setdefault(name, len(numbers)) for name in one.names])
        away = ~ndimage.binary_dilation(one.lines | (one.sketch < INK))
        truths.append(FrameTruth(maps[-1].pieces, one.materials, named[one.things], away))
    return drawn, maps, truths


def measure(maps: list[RegionMap], truths: list[FrameTruth]) -> dict[str, float]:
    """All numbers of one shot that need no model."""
    key = truths[0].entries()
    began = time.process_time()
    beliefs = carried([shapes_of(one) for one in maps], {0: key}, measures.KINDS)
    seconds = time.process_time() - began
    sure = [np.where(belief.max(axis=1) >= SURE, belief.argmax(axis=1), -1) for belief in beliefs]
    overlap = [key]
    for before, now in zip(maps, maps[1:]):
        overlap.append(measures.by_overlap(now.pieces, before.pieces, overlap[-1]))
    rows = []
    for truth, belief, certain, plain in list(zip(truths, beliefs, sure, overlap))[1:]:
        shown = np.isin(truth.things, truths[0].things)
        given = certain[truth.pieces] >= 0
        rows.append(
            {
                "carried": measures.right(belief.argmax(axis=1), truth),
                "of the key": measures.right(belief.argmax(axis=1), truth, shown),
                "sure": float(given[truth.away].mean()),
                "right if sure": measures.right(certain, truth, given),
                "overlap": measures.right(plain, truth),
                "same place": measures.right(measures.by_overlap(truth.pieces, truths[0].pieces, key), truth),
                "pieces": float(truth.table().max(axis=1).sum() / max(truth.away.sum(), 1)),
            }
        )
    means = {name: float(np.nanmean([row[name] for row in rows])) for name in rows[0]}
    likeliest = [belief.argmax(axis=1) for belief in beliefs]
    return (
        means
        | measures.lost(likeliest, truths)
        | {
            "flicker": measures.flicker(sure, truths),
            "flicker, overlap": measures.flicker(overlap, truths),
            "seconds per frame": seconds / len(maps),
        }
    )


def per_frame(
    folder: Path, drawn: list[ShotFrame], maps: list[RegionMap], truths: list[FrameTruth]
) -> dict[str, float]:
    """The numbers of a model's pictures of the frames, each brought to the key's colours by itself."""
    used = np.unique(drawn[0].materials)
    colours = [drawn[0].flats[drawn[0].materials == material][0] for material in used]
    shown = Palette(tuple(Entry(str(m), "#{:02x}{:02x}{:02x}".format(*c)) for m, c in zip(used, colours)))
    entries = [truths[0].entries()]
    for number, one in list(enumerate(maps))[1:]:
        path = folder / f"{number:04d}.png"
        try:
            picture = np.asarray(open_picture(path).convert("RGB"), np.float32) / 255
        except OSError as error:
            raise ConfigError(f"{path} cannot be read ({error}); --results wants a picture of every frame.") from None
        entries.append(used[flatten(one, picture, shown).entry].astype(int))
    scores = [measures.right(entry, truth) for entry, truth in zip(entries[1:], truths[1:])]
    return {"per frame": float(np.mean(scores)), "flicker, per frame": measures.flicker(entries, truths)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--count", type=int, default=24, help="shots (default 24)")
    parser.add_argument("--frames", type=int, default=24, help="frames of a shot, the key among them (default 24)")
    parser.add_argument("--size", type=int, default=256, help="side of the drawings in pixels (default 256)")
    parser.add_argument("--split", choices=("train", "heldout"), default="heldout")
    parser.add_argument("--lines", choices=LINES, default="drawn", help="see demo-shots (default drawn)")
    parser.add_argument("--results", metavar="DIR", help="a model's pictures of the frames")
    parser.add_argument("--json", metavar="FILE", help="keep all rows there; shots that it has are not measured again")


def _kept(file: str | None, settings: dict[str, object]) -> list[dict[str, float]]:
    """The rows of an earlier run with the same settings."""
    if not file or not Path(file).is_file():
        return []
    found = read_object(Path(file), "choose another --json")
    if any(found.get(name) != value for name, value in settings.items()):
        raise ConfigError(f"{file} holds numbers of other settings; choose another --json.")
    return found["rows"]


def run(args: argparse.Namespace) -> None:
    if args.count < 1 or args.frames < 2:
        raise ConfigError(f"--count {args.count} and --frames {args.frames}: choose 1 shot and 2 frames, or more.")
    settings = {name: getattr(args, name) for name in ("frames", "size", "split", "lines", "results")}
    rows = _kept(args.json, settings)[: args.count]
    for index in tqdm(range(len(rows), args.count), unit="shot", desc="evaluate-shots"):
        try:
            drawn, maps, truths = read_shot(index, args.frames, args.size, args.split, args.lines)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        row = measure(maps, truths)
        if args.results:
            row |= per_frame(Path(args.results) / f"{index:05d}", drawn, maps, truths)
        rows.append(row)
        if args.json:
            write_report(Path(args.json), settings | {"rows": rows})
    for name in rows[-1]:  # rows of an earlier version may have fewer
        values = np.array([row.get(name) for row in rows], np.float64)
        low, high = interval(values, np.mean)
        print(f"{name:20} {np.nanmean(values):9.4f}   ({low:.4f} to {high:.4f})")
    print(f"{len(rows)} shots of {args.frames} frames, {args.split}, lines {args.lines}, {args.size} px")
