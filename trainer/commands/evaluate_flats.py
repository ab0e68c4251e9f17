"""`python -m trainer evaluate-flats`: the flats of a model's results in numbers, where the true flats are known.

Held-out characters of the procedural world are drawn at --size, coloured by the model at --model-size with another pose
as reference, and flattened at the drawing's size. Printed, as means with 95 % bootstrap intervals over the characters:
    soft, medians, flats, locked   mean CIELAB distance to the true flats away from lines; medians are the plainest
                                   flats, one median per region; locked are flats in the palette of the reference
    regions, pieces                share of the area in a region (a piece) whose commonest material is its own
    palette                        share of the area that has the palette entry nearest to the true colour;
    palette where shown, shown     the same of the area whose true colour the reference's palette has, and that area
    hints                          error of the flats after 0, 1, ... --hints dots of the true colour
--sheet FILE shows the first SHEET_ROWS characters: drawing, reference, soft result, flats, locked flats, and the layers
together (locked flats, one shadow tone, lines).
--results DIR reads DIR/00000.png, 00001.png, ... in place of the model's results, and writes those that are missing.
--votes N lets N results of a character vote on its flats (00000_1.png, ... are the further ones); soft is their mean
error, and medians are of the first.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from tqdm import tqdm

from colorize.pictures.flatten import flatten
from colorize.pictures.layers import composite, stack
from colorize.pictures.palette import palette_of
from colorize.pictures.ranges import model_to_levels
from colorize.pictures.regions import RegionMap, find_regions
from colorize.pictures.shade import shade
from trainer import workers
from trainer.config import ConfigError
from trainer.data.decode import open_picture
from trainer.metrics import flats as measures
from trainer.metrics.flats import Truth
from trainer.metrics.intervals import interval
from trainer.models.colorizer import V1Colorizer
from trainer.models.denoising import SAMPLERS, Denoising
from trainer.models.loras import LORA_HELP
from trainer.models.xl_colorizer import XLColorizer, load
from trainer.pictures import model_sketch, picture
from trainer.world import Appearance, LineStyle, pose_layout, render, seeds_of, true_flats

INK = 180  # grey level of a drawing below which a pixel is line
SHEET_ROWS, SHEET_SIDE = 4, 320
MOST_VOTES, NEXT_SEED = 64, 1_000_000
PARTS = ("all", "figure", "background")


@dataclass(frozen=True, eq=False)
class HeldOut:
    """One held-out character: arrays (H, W, ...) uint8."""

    sketch: np.ndarray
    reference: np.ndarray
    reference_mask: np.ndarray
    truth: Truth


def character(index: int, size: int, split: str = "heldout") -> HeldOut:
    """Character `index` of a split at size x size pixels: pose 0 drawn, pose 1 as reference."""
    seeds = seeds_of(index, split)
    look = Appearance.sample(seeds["appearance"])
    drawn = render(pose_layout(index, 0, split), look, LineStyle.sample(seeds["line_style"]), size)
    shown = render(pose_layout(index, 1, split), look, LineStyle.clean(), size)
    answer = true_flats(pose_layout(index, 0, split), look, size)
    away = ~ndimage.binary_dilation(answer.lines | (drawn.sketch < INK))
    truth = Truth(answer.colours, answer.materials, away, drawn.mask > 0)
    return HeldOut(drawn.sketch, shown.picture, shown.mask, truth)


def measure(one: HeldOut, soft: np.ndarray, hints: int = 0) -> dict[str, float]:
    """All numbers of one character and its soft result (h, w, 3) uint8, or of several, (N, h, w, 3), that vote."""
    began = time.perf_counter()
    regions: RegionMap = find_regions(torch.from_numpy(one.sketch.copy()).float()[None, ..., None] / 255).maps[0]
    found_after = time.perf_counter() - began
    picture = soft.astype(np.float32) / 255
    size, results = one.sketch.shape[::-1], soft if soft.ndim == 4 else soft[None]
    large = [np.asarray(Image.fromarray(result).resize(size, Image.Resampling.BICUBIC)) for result in results]
    palette = palette_of(one.reference / 255)
    locked = flatten(regions, picture, palette)
    made = {
        "soft": large,
        "medians": [measures.median_flats(regions, large[0])],
        "flats": [flatten(regions, picture).picture],
        "locked": [locked.picture],
    }
    row: dict[str, float] = {}
    for name, shown in made.items():
        errors = np.mean([measures.colour_error(result, one.truth) for result in shown], axis=0)
        row |= {f"{name} {part}": float(error) for part, error in zip(PARTS, errors)}
    row["regions"] = measures.region_accuracy(regions.labels, one.truth)
    row["pieces"] = measures.region_accuracy(regions.pieces, one.truth)
    found = measures.palette_accuracy(locked.entries, palette, one.truth)
    row |= dict(zip(("palette", "palette where shown", "shown"), found))
    row |= {"number of regions": regions.count, "palette entries": len(palette.entries), "region seconds": found_after}
    if hints:
        hinted = measures.hinted_errors(regions, picture, one.truth, hints)
        row |= {f"hints {number}": error for number, error in enumerate(hinted)}
    return row


def sheet_row(one: HeldOut, soft: np.ndarray) -> np.ndarray:
    """(SHEET_SIDE, 6 * SHEET_SIDE, 3) uint8: what went in, what came out."""
    regions = find_regions(torch.from_numpy(one.sketch.copy()).float()[None, ..., None] / 255).maps[0]
    picture = soft.astype(np.float32) / 255
    locked = flatten(regions, picture, palette_of(one.reference / 255))
    lines = np.repeat(one.sketch[..., None].astype(np.float32) / 255, 3, axis=2)
    layers = composite(stack(locked, lines, shade(locked, picture, 1)))[..., :3]
    drawing = np.repeat(one.sketch[..., None], 3, axis=2)
    shown = (
        drawing,
        one.reference,
        soft if soft.ndim == 3 else soft[0],
        flatten(regions, picture).picture,
        locked.picture,
        layers,
    )
    size = (SHEET_SIDE, SHEET_SIDE)
    return np.concatenate(
        [np.asarray(Image.fromarray(p).resize(size, Image.Resampling.LANCZOS)) for p in shown], axis=1
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", help="v1 or v1.5 model (.safetensors); not needed where --results has all")
    parser.add_argument("--encoder", help="its reference encoder (.safetensors)")
    parser.add_argument("--lora", nargs="+", default=[], metavar="FILE", help=LORA_HELP)
    parser.add_argument("--results", metavar="DIR", help="soft results, read where they are and written where not")
    parser.add_argument("--count", type=int, default=64, help="characters (default 64)")
    parser.add_argument("--size", type=int, default=512, help="side of the drawings in pixels (default 512)")
    parser.add_argument("--model-size", type=int, default=256, help="side at which the model colours (default 256)")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--sampler", choices=SAMPLERS, default="dpmpp_2m", help="default dpmpp_2m")
    parser.add_argument("--votes", type=int, default=1, metavar="N", help="results of a character (default 1)")
    parser.add_argument("--hints", type=int, default=0, metavar="N", help="also with 1 to N hints (default 0)")
    parser.add_argument("--sheet", metavar="FILE", help="write a picture of the first characters there")
    parser.add_argument("--json", metavar="FILE", help="write all rows there")


def run(args: argparse.Namespace) -> None:
    if args.model_size % 64 or not 64 <= args.model_size <= args.size <= 2048:
        raise ConfigError(
            f"--model-size {args.model_size} and --size {args.size}: the first is a multiple of 64 and at most the "
            "second, the second at most 2048."
        )
    if not 1 <= args.votes <= MOST_VOTES:
        raise ConfigError(f"{args.votes} results cannot vote; choose --votes from 1 to {MOST_VOTES}.")
    folder = Path(args.results) if args.results else None
    colour = _colouriser(args)
    rows, shown = [], []
    for index in tqdm(range(args.count), unit="character", desc="evaluate-flats"):
        one = character(index, args.size)
        results = [_soft(one, index, number, folder, colour) for number in range(args.votes)]
        soft = results[0] if args.votes == 1 else np.stack(results)
        rows.append(measure(one, soft, args.hints))
        if args.sheet and index < SHEET_ROWS:
            shown.append(sheet_row(one, soft))
            Image.fromarray(np.concatenate(shown)).save(args.sheet)
    for name in rows[0]:
        values = np.array([row[name] for row in rows], np.float64)
        values = values[np.isfinite(values)]
        low, high = interval(values, np.mean)
        print(f"{name:22} {values.mean():9.4f}   ({low:.4f} to {high:.4f})")
    plain, flat, locked = (np.mean([row[f"{name} all"] for row in rows]) for name in ("soft", "flats", "locked"))
    print(f"flats / soft {flat / plain:.3f}, locked / soft {locked / plain:.3f}, {len(rows)} characters")
    if args.json:
        Path(args.json).write_text(json.dumps(rows, indent=1), encoding="utf-8")


Colouriser = Callable[[int, HeldOut], np.ndarray]
"""Seed, character -> soft result (h, w, 3) uint8."""


def _colouriser(args: argparse.Namespace) -> Colouriser:
    """The model, which is read when it is first needed."""
    how = Denoising(args.steps, args.guidance, sampler=args.sampler)
    loaded: list[tuple[V1Colorizer | XLColorizer, torch.device]] = []

    def colour(seed: int, one: HeldOut) -> np.ndarray:
        if not loaded:
            if not (args.checkpoint and args.encoder):
                raise ConfigError("Give --checkpoint and --encoder, or --results with a picture of every character.")
            device = workers.device()
            loaded.append((load(args.checkpoint, args.encoder, "", device, args.lora), device))
        (colorizer, device), side = loaded[0], (args.model_size, args.model_size)
        sketch = np.asarray(Image.fromarray(one.sketch).resize(side, Image.Resampling.BICUBIC))
        shown = np.asarray(Image.fromarray(one.reference).resize(side, Image.Resampling.LANCZOS))
        sketches = model_sketch(torch.from_numpy(sketch.copy())[None, None].float()).to(device)
        references = picture(torch.from_numpy(shown.copy()).permute(2, 0, 1)[None]).to(device)
        noise = torch.Generator().manual_seed(seed)
        tokens = colorizer.tokens(references)
        result = colorizer.generate(sketches, tokens, how, noise)
        return model_to_levels(result[0].float().cpu().clamp(-1, 1)).round().byte().permute(1, 2, 0).numpy()

    return colour


def _soft(one: HeldOut, index: int, number: int, folder: Path | None, colour: Colouriser) -> np.ndarray:
    """A soft result of a character: of the folder, or of the model, which is then kept in the folder."""
    path = folder / (f"{index:05d}_{number}.png" if number else f"{index:05d}.png") if folder else None
    if path is not None and path.is_file():
        try:
            return np.asarray(open_picture(path).convert("RGB"))
        except OSError as error:
            raise ConfigError(f"{path} cannot be read ({error}); remove it, and it is made anew.") from None
    result = colour(index + number * NEXT_SEED, one)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(result).save(path)
    return result
