"""Which canvas for a drawing that is not square: `python -m tests.bench canvas [--count 16] [--shapes 16:9 2:3]`.

Held-out characters of the procedural world are drawn in every shape, coloured by a model on each canvas, and brought
back to the drawing's size. Printed is the colour error over the regions that the reference shows (CIELAB, mean over the
pairs), and its difference to the square with margins, pair by pair, with 95 % bootstrap intervals.

    square     side x side, the drawing on it with blank margins
    area       the drawing's proportions, the area of the square
    short      the drawing's proportions, the short side of the square, at most twice its area
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import numpy as np
import torch

from colorize.pictures import images
from trainer.metrics.intervals import interval
from trainer.metrics.regions import region_errors, shown_regions
from trainer.models.colorizer import V1Colorizer
from trainer.models.denoising import Denoising
from trainer.pictures import contact_sheet, model_sketch, picture
from trainer.world import REGION_NAMES, pair

STEP = 64
MOST = 2.0  # times the area of the square
SHAPES = ("16:9", "3:2", "2:3", "9:16")
SHOWN = 4  # pairs of a shape in its sheet


def rounded(pixels: float) -> int:
    return max(STEP, round(pixels / STEP) * STEP)


def canvases(width: int, height: int, side: int) -> dict[str, tuple[int, int]]:
    """Name -> (width, height) of the canvases to compare for a drawing."""
    root = math.sqrt(width / height)
    grown = min(max(root, 1 / root), math.sqrt(MOST))
    return {
        "square": (side, side),
        "area": (rounded(side * root), rounded(side / root)),
        "short": (rounded(side * grown * root), rounded(side * grown / root)),
    }


def coloured(
    model: V1Colorizer, sketch: torch.Tensor, tokens: torch.Tensor, canvas: tuple[int, int], steps: int, seed: int
) -> torch.Tensor:
    """Model sketch (1, 3, H, W) coloured on a canvas (width, height) and brought back: (1, 3, H, W) in -1..1."""
    placed, frame = images.place(sketch, canvas[1], canvas[0])
    result = model.generate(placed, tokens, Denoising(steps, 2.0), torch.Generator().manual_seed(seed))
    return images.restore((result + 1) / 2, frame) * 2 - 1


def measure(model: V1Colorizer, shape: str, args: argparse.Namespace) -> dict[str, list[float]]:
    """Errors of every canvas, pair by pair; writes the sheet of the shape."""
    across, down = map(int, shape.split(":"))
    scale = args.drawing / math.sqrt(across * down)
    width, height = round(across * scale), round(down * scale)
    tried = canvases(width, height, args.side)
    errors: dict[str, list[float]] = {name: [] for name in tried}
    rows: list[list[torch.Tensor]] = []
    for index in range(args.count):
        drawn = {k: torch.from_numpy(np.atleast_3d(v).copy()).permute(2, 0, 1)[None]
                 for k, v in pair(index, "heldout", (height, width)).items()}  # fmt: skip
        sketch, truth, shown = model_sketch(drawn["sketch"]), picture(drawn["picture"]), picture(drawn["reference"])
        known = shown_regions(drawn["reference_regions"], REGION_NAMES)[0]
        tokens = model.tokens(shown)
        made = []
        for name, canvas in tried.items():
            made.append(coloured(model, sketch, tokens, canvas, args.steps, index))
            found = region_errors(made[-1], truth, drawn["regions"], len(REGION_NAMES))[0]
            errors[name].append(found[known].nanmean().item())
        rows.append([-sketch, shown, *made, truth])
    if args.sheets:
        columns = [torch.cat(column) for column in zip(*rows[:SHOWN])]
        from PIL import Image

        args.sheets.mkdir(parents=True, exist_ok=True)
        Image.fromarray(contact_sheet(columns)).save(args.sheets / f"{across}x{down}.png")
    for name, values in errors.items():
        against = np.array(values) - np.array(errors["square"])
        low, high = interval(against, np.mean)
        size = "{}x{}".format(*tried[name])
        print(
            f"{shape:6}{name:8}{size:10}{np.mean(values):7.2f}{against.mean():8.2f}  ({low:.2f} to {high:.2f})",
            flush=True,
        )
    return errors


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench canvas", description=__doc__)
    models = Path(__file__).resolve().parents[2] / "models"
    parser.add_argument("--checkpoint", default=str(models / "checkpoints" / "colorize_small.safetensors"))
    parser.add_argument("--encoder", default=str(models / "clip_vision" / "colorize_small_vision.safetensors"))
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), metavar="W:H")
    parser.add_argument("--count", type=int, default=16, help="characters a shape")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--side", type=int, default=256, help="the model's training side")
    parser.add_argument("--drawing", type=int, default=512, help="root of the drawings' area, pixels")
    parser.add_argument(
        "--sheets", type=Path, metavar="DIR", help="a sheet a shape: sketch, reference, canvases, truth"
    )
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(arguments)
    model = V1Colorizer.from_files(args.checkpoint, args.encoder, torch.device("cpu"))
    print("shape canvas  size        error  minus square")
    found = {shape: measure(model, shape, args) for shape in args.shapes}
    if args.json:
        args.json.write_text(json.dumps(found), encoding="utf-8")
    return 0
