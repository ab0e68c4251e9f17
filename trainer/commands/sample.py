"""`python -m trainer sample`: colour one sketch, or one face (AnimeDiffusion), outside ComfyUI."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from colorize.animediffusion.unet import network_prefix
from colorize.reference.fitting import FIT_MODES
from trainer import workers
from trainer.commands import evaluate_faces
from trainer.config import ConfigError
from trainer.models import checkpoint
from trainer.models.colorizer import MODE_HELP, MODES
from trainer.models.denoising import SAMPLERS, Denoising
from trainer.models.loras import LORA_HELP
from trainer.models.xl_colorizer import load


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", required=True, help="v1, v1.5, XL or AnimeDiffusion model (.safetensors)")
    parser.add_argument("--encoder", default="", help="its reference encoder (.safetensors); AnimeDiffusion has none")
    parser.add_argument(
        "--tagger",
        default="",
        help="an XL model's WD tagger, or the second CLIP of one without (.safetensors)",
    )
    parser.add_argument("--lora", nargs="+", default=[], metavar="FILE", help=LORA_HELP)
    parser.add_argument("--sketch", required=True, help="picture with dark lines on white")
    parser.add_argument(
        "--reference", help="colour picture; without it the model colours as it likes (AnimeDiffusion needs one)"
    )
    parser.add_argument("--mode", choices=MODES, default="vanilla", help=MODE_HELP)
    parser.add_argument("--mask", help="figure mask of the sketch, white = figure (all modes but vanilla)")
    parser.add_argument("--reference-mask", help="figure mask of the reference (masked and fig2fig)")
    parser.add_argument("--fit", choices=FIT_MODES, default="stretch", help="fit of Encode Reference (default stretch)")
    parser.add_argument("--output", default="sample.png")
    parser.add_argument("--size", type=int, default=256, help="side of the square result in pixels, a multiple of 64")
    parser.add_argument("--steps", type=int, help="default 20; AnimeDiffusion: as its file says, else 10")
    parser.add_argument("--guidance", type=float, default=2.0, help="reference guidance scale, 1: none (default 2)")
    parser.add_argument("--sketch-guidance", type=float, default=1.0, help="sketch guidance scale (default 1: none)")
    parser.add_argument(
        "--noise-level", type=float, default=0.0, help="share of the steps that see the reference with noise, 0..1"
    )
    parser.add_argument(
        "--sampler",
        choices=dict.fromkeys((*SAMPLERS, *evaluate_faces.SAMPLERS)),
        help="default dpmpp_2m; AnimeDiffusion: ddim, or ddpm for all of its 1000 steps",
    )
    parser.add_argument("--seed", type=int, default=0)


def run(args: argparse.Namespace) -> None:
    """Write sketch, reference and result side by side."""
    from trainer.pictures import contact_sheet, model_sketch, picture

    if args.size % 64 or args.size < 64:
        raise ConfigError(f"--size must be a multiple of 64, not {args.size}.")
    if not args.reference and args.mode != "vanilla":
        raise ConfigError(f"Mode {args.mode} says what reads the reference: give --reference, or --mode vanilla.")
    device = workers.device()
    if network_prefix(dict.fromkeys(checkpoint.read_names(Path(args.checkpoint)))) is not None:
        return run_face(args, device)
    if not args.encoder:
        raise ConfigError(f"{args.checkpoint} reads tokens of a reference encoder: name its file with --encoder.")
    how = Denoising(
        20 if args.steps is None else args.steps,
        args.guidance if args.reference else 1.0,
        args.sketch_guidance,
        args.noise_level if args.reference else 0.0,
        args.sampler or "dpmpp_2m",
    )
    colorizer = load(args.checkpoint, args.encoder, args.tagger, device, args.lora)
    colorizer.fit = args.fit

    def read_mask(name: str | None) -> torch.Tensor | None:
        return read(name, args.size, device).float().mean(1, keepdim=True) / 255 if name else None

    sketches = model_sketch(read(args.sketch, args.size, device).float().mean(1, keepdim=True))
    references = picture(read(args.reference, args.size, device)) if args.reference else torch.ones_like(sketches)
    regions = colorizer.regions(args.mode, references, read_mask(args.mask), read_mask(args.reference_mask))
    tokens = colorizer.tokens(references)
    tokens = tokens if args.reference else torch.zeros_like(tokens)
    result = colorizer.generate(sketches, tokens, how, torch.Generator().manual_seed(args.seed), regions)
    Image.fromarray(contact_sheet([-sketches, *([references] if args.reference else []), result])).save(args.output)
    print("\n".join([args.output, *colorizer.notes([args.mode])]))


def read(name: str, size: int, device: torch.device) -> torch.Tensor:
    """(1, 3, size, size) uint8 of a picture's file."""
    from trainer.data.decode import read_given

    return torch.from_numpy(np.array(read_given(Path(name), size))).permute(2, 0, 1)[None].to(device)


def run_face(args: argparse.Namespace, device: torch.device) -> None:
    """The same with an AnimeDiffusion model, whose lines are the drawing itself."""
    from trainer.pictures import contact_sheet, picture

    if not args.reference:
        raise ConfigError("AnimeDiffusion takes its colours from a reference: give --reference.")
    if args.mode != "vanilla" or args.sketch_guidance != 1 or args.noise_level or args.lora:
        raise ConfigError(
            "AnimeDiffusion has no modes, no guidance, no reference tokens and no LoRAs: leave those options out."
        )
    if (sampler := args.sampler or "ddim") not in evaluate_faces.SAMPLERS:
        raise ConfigError(f"AnimeDiffusion is sampled with ddim or ddpm, not {sampler}.")
    how = evaluate_faces.Sampling(args.steps, sampler=sampler)
    model = evaluate_faces.load(args.checkpoint, device)
    lines = picture(read(args.sketch, args.size, device).float().mean(1, keepdim=True))
    references = picture(read(args.reference, args.size, device))
    generator = torch.Generator().manual_seed(args.seed)
    result = evaluate_faces.colour(model, lines, references, how, generator).clamp(-1, 1)
    Image.fromarray(contact_sheet([lines, references, result])).save(args.output)
    print(args.output)
