"""`python -m trainer sample`: colour one sketch with one reference, outside ComfyUI."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from trainer.config import ConfigError
from trainer.models.colorizer import MODE_HELP, MODES
from trainer.models.xl_colorizer import load


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", required=True, help="v1, v1.5 or XL model (.safetensors)")
    parser.add_argument("--encoder", required=True, help="its reference encoder (.safetensors)")
    parser.add_argument("--tagger", default="", help="the WD tagger of an XL model (.safetensors)")
    parser.add_argument("--sketch", required=True, help="picture with dark lines on white")
    parser.add_argument("--reference", required=True, help="colour picture")
    parser.add_argument(
        "--mode",
        choices=MODES,
        default="vanilla",
        help=MODE_HELP,
    )
    parser.add_argument("--mask", help="figure mask of the sketch, white = figure (all modes but vanilla)")
    parser.add_argument("--reference-mask", help="figure mask of the reference (masked and fig2fig)")
    parser.add_argument("--output", default="sample.png")
    parser.add_argument("--size", type=int, default=256, help="side of the square result in pixels, a multiple of 64")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=0)


def run(args: argparse.Namespace) -> None:
    """Write sketch, reference and result side by side."""
    from trainer.data.decode import read_given
    from trainer.pictures import contact_sheet, model_sketch, picture

    if args.size % 64 or args.size < 64:
        raise ConfigError(f"--size must be a multiple of 64, not {args.size}.")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    colorizer = load(args.checkpoint, args.encoder, args.tagger, device)

    def read(name: str) -> torch.Tensor:
        return torch.from_numpy(np.array(read_given(Path(name), args.size))).permute(2, 0, 1)[None].to(device)

    def read_mask(name: str | None) -> torch.Tensor | None:
        return read(name).float().mean(1, keepdim=True) / 255 if name else None

    sketches = model_sketch(read(args.sketch).float().mean(1, keepdim=True))
    references = picture(read(args.reference))
    regions = colorizer.regions(args.mode, references, read_mask(args.mask), read_mask(args.reference_mask))
    generator = torch.Generator().manual_seed(args.seed)
    result = colorizer.generate(sketches, colorizer.tokens(references), args.steps, args.guidance, generator, regions)
    Image.fromarray(contact_sheet([-sketches, references, result])).save(args.output)
    print("\n".join([args.output, *colorizer.notes([args.mode])]))
