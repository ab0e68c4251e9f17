"""Line extractors with few channels and random weights, for tests that need a file or a network."""

from __future__ import annotations

import torch

from colorize.sketch.extractors.anime2sketch import Anime2Sketch
from colorize.sketch.extractors.lineart_sk import LineartSk
from colorize.sketch.extractors.manga_line import MangaLine
from colorize.sketch.extractors.sketchkeras import SketchKeras

BUILDERS = {
    "sketchkeras": lambda: SketchKeras((2, 4, 8, 16, 32)),
    "anime2sketch": lambda: Anime2Sketch((4, 8, 8, 8)),
    "manga_line": lambda: MangaLine((2, 3, 4, 5, 6, 5, 4, 3, 2, 2), (1, 2, 1, 1, 2, 1, 2, 1, 1, 1)),
    "lineart_sk": lambda: LineartSk(4, residuals=1),
}
NAMES = tuple(BUILDERS)


def weights(name: str, seed: int = 0) -> dict[str, torch.Tensor]:
    """State dict with the released names; every tensor random, statistics of batch norm included."""
    generator = torch.Generator().manual_seed(seed)
    out = {}
    for key, value in BUILDERS[name]().state_dict().items():
        if not value.is_floating_point():
            out[key] = value
            continue
        noise = torch.randn(value.shape, generator=generator)
        if value.ndim > 1:
            out[key] = noise / value[0].numel() ** 0.5
        elif key.endswith("running_var"):
            out[key] = 1 + 0.1 * noise.abs()
        else:
            out[key] = 0.1 * noise + (1 if key.endswith("weight") else 0)
    if name == "manga_line":  # grey levels: around the middle of 0..255
        out["conv15.model.2.bias"] = out["conv15.model.2.bias"] + 128
    return out


def picture(height: int = 64, width: int = 64, batch: int = 1, seed: int = 0) -> torch.Tensor:
    """(B, 3, H, W) in -1..1: smooth colours with a few dark lines."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.rand(batch, 3, 4, 4, generator=generator)
    colours = torch.nn.functional.interpolate(small, (height, width), mode="bilinear").mul(1.2).sub(0.4)
    colours[..., height // 3, :] = -1
    colours[..., :, width // 2] = -1
    return (colours + 0.02 * torch.randn(colours.shape, generator=generator)).clamp(-1, 1)
