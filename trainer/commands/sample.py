"""`python -m trainer sample`: colour one sketch with one reference, or with none, outside ComfyUI."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from trainer.config import ConfigError
from trainer.models.colorizer import MODE_HELP, MODES
from trainer.models.denoising import SAMPLERS, Denoising
from trainer.models.xl_colorizer import load


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", required=True, help="v1, v1.5 or XL model (.safetensors)")
    parser.add_argument("--encoder", required=True, help="its reference encoder (.safetensors)")
    parser.add_argument("--tagger", default="", help="the WD tagger of an XL model (.safetensors)")
    parser.add_argument("--sketch", required=True, help="picture with dark lines on white")
    parser.add_argument("--reference", help="colour picture; without it the model colours as it likes")
    parser.add_argument("--mode", choices=MODES, default="vanilla", help=MODE_HELP)
    parser.add_argument("--mask", help="figure mask of the sketch, white = figure (all modes but vanilla)")
    parser.add_argument("--reference-mask", help="figure mask of the reference (masked and fig2fig)")
    parser.add_argument("--output", default="sample.png")
    parser.add_argument("--size", type=int, default=256, help="side of the square result in pixels, a multiple of 64")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=2.0, help="reference guidance scale, 1: none (default 2)")
    parser.add_argument("--sketch-guidance", type=float, default=1.0, help="sketch guidance scale (default 1: none)")
    parser.add_argument(
        "--noise-level", type=float, default=0.0, help="share of the steps that see the reference with noise, 0..1"
    )
    parser.add_argument("--sampler", choices=SAMPLERS, default="dpmpp_2m", help="default dpmpp_2m")
    parser.add_argument("--seed", type=int, default=0)


def run(args: argparse.Namespace) -> None:
    """Write sketch, reference and result side by side."""
    from trainer.data.decode import read_given
    from trainer.pictures import contact_sheet, model_sketch, picture

    if args.size % 64 or args.size < 64:
        raise ConfigError(f"--size must be a multiple of 64, not {args.size}.")
    if not args.reference and args.mode != "vanilla":
        raise ConfigError(f"Mode {args.mode} says what reads the reference: give --reference, or --mode vanilla.")
    how = Denoising(
        args.steps,
        args.guidance if args.reference else 1.0,
        args.sketch_guidance,
        args.noise_level if args.reference else 0.0,
        args.sampler,
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    colorizer = load(args.checkpoint, args.encoder, args.tagger, device)

    def read(name: str) -> torch.Tensor:
        return torch.from_numpy(np.array(read_given(Path(name), args.size))).permute(2, 0, 1)[None].to(device)

    def read_mask(name: str | None) -> torch.Tensor | None:
        return read(name).float().mean(1, keepdim=True) / 255 if name else None

    sketches = model_sketch(read(args.sketch).float().mean(1, keepdim=True))
    references = picture(read(args.reference)) if args.reference else torch.ones_like(sketches)
    regions = colorizer.regions(args.mode, references, read_mask(args.mask), read_mask(args.reference_mask))
    tokens = colorizer.tokens(references)
    tokens = tokens if args.reference else torch.zeros_like(tokens)
    result = colorizer.generate(sketches, tokens, how, torch.Generator().manual_seed(args.seed), regions)
    Image.fromarray(contact_sheet([-sketches, *([references] if args.reference else []), result])).save(args.output)
    print("\n".join([args.output, *colorizer.notes([args.mode])]))
