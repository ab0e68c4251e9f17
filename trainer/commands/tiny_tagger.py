"""`python -m trainer tiny-tagger`: a small tower in the layout of the WD tagger, for small XL models.

XL models read the patch features of a tagger beside CLIP tokens. The published one is as large as a small model's whole
training; this one has its layout, names and metadata, and random weights that follow from the seed. Untrained Swin V2
blocks pass their input on, so its features are linear in the colours of each patch: enough for a small model to find
colours in, and frozen like the published tower. Its tags are empty names.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from colorize.reference.wd_tagger import WDTagger
from trainer.models import checkpoint

SIZES: dict[str, Any] = dict(
    classes=4, embed_dim=32, depths=(1, 1), heads=(1, 2), image_size=112, window=7, patch_size=4
)
"""14 x 14 features of width 64, as many as the published tagger has; for the bundled encoder of 197 tokens."""


def tiny_tagger(seed: int = 0) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata of the file."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = WDTagger(**SIZES)
    names = "".join(f"{number},untrained_{number},0,0\n" for number in range(SIZES["classes"]))
    return network.model.state_dict(), {
        "colorize.image_size": str(SIZES["image_size"]),
        "colorize.window_size": str(SIZES["window"]),
        "colorize.selected_tags": "tag_id,name,category,count\n" + names,
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", required=True, help="the .safetensors file to write")
    parser.add_argument("--seed", type=int, default=0, help="of its weights (default 0)")


def run(args: argparse.Namespace) -> None:
    checkpoint.write_tensors(Path(args.output), *tiny_tagger(args.seed))
    print(f"{args.output}: a tagger of {SIZES['image_size']} pixels with features of width {2 * SIZES['embed_dim']}")
