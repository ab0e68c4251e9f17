"""Standard line art: what is darker than its surroundings. No weights.

Source: the mode "lineart_standard" of the WebUI's ControlNet extension, which the released application calls
"invert-webui". Works on colour pictures and on scans of drawings.
"""

from __future__ import annotations

import torch

from ...pictures import blur
from ...pictures.ranges import levels_to_model, model_to_levels

SIGMA = 6.0  # pixels
THRESHOLD = 8.0  # of 0..255; weaker lines do not count for the strength of the drawing
LEAST_STRENGTH = 16.0  # of 0..255; a drawing is not amplified further than if its typical line had this strength
LINE = 127.0  # of 0..255; what a typical line becomes


def standard(picture: torch.Tensor, sigma: float = SIGMA, threshold: float = THRESHOLD) -> torch.Tensor:
    """Picture (B, 3, H, W) in -1..1 -> model sketch (B, 1, H, W): 256 levels from -1 (blank) to +1.

    In units of 0..255: v = min over channels of blur(x) - x, not below 0; lines = 127 v / max(16, median of the v above
    `threshold`), not above 255, rounded down. A flat picture, of which the released code takes the median of nothing,
    becomes blank.

    sigma: of the Gaussian, in pixels, above 0; larger values keep wider lines. threshold: 0..255.
    """
    sketches = []
    for row in model_to_levels(picture.float().nan_to_num(0.0).clamp(-1, 1)):
        depth = torch.full_like(row[0], 255.0)
        for colour in row:  # one after the other: less memory for large pictures
            depth = torch.minimum(depth, blur.gaussian(colour[None, None], sigma)[0, 0] - colour)
        depth = depth.clamp_min(0)
        visible = depth[depth > threshold]
        strength = max(LEAST_STRENGTH, _median(visible)) if visible.numel() else LEAST_STRENGTH
        sketches.append((depth / strength * LINE).clamp(0, 255).floor())
    return levels_to_model(torch.stack(sketches)[:, None])


def _median(values: torch.Tensor) -> float:
    """Middle value; the mean of the two middle ones for an even count."""
    count = values.numel()
    middle = [values.kthvalue((count + 1 + offset) // 2).values.double().item() for offset in {0, (count + 1) % 2}]
    return sum(middle) / len(middle)
