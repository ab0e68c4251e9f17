"""The sketch encoder, transcribed convolution by convolution."""

from __future__ import annotations

from .layers import conv, silu

# (index in the stem, output width, stride); SiLU after each but the last.
STEM = ((0, 16, 1), (2, 16, 1), (4, 32, 2), (6, 32, 1), (8, 96, 2), (10, 96, 1), (12, 256, 2))


def sketch_encoder(w, sketch, widths=(320, 640, 1280, 1280), model_channels=320):
    """sketch (B, 3, H, W), lines +1 on -1 -> five maps at H/8, H/16, H/32, H/64, H/64."""
    h = sketch
    for index, outputs, stride in STEM:
        h = silu(conv(w, f"model.{index}", h, outputs, stride=stride))
    h = conv(w, "model.14", h, model_channels)
    maps = [conv(w, "zero_layer.0", h, model_channels, size=1)]
    for stage, outputs in enumerate(widths):
        h = conv(w, f"output_blocks.{stage}.1", silu(h), outputs, stride=1 if stage == 3 else 2)
        h = conv(w, f"output_blocks.{stage}.3", silu(h), outputs)
        maps.append(conv(w, f"zero_blocks.{stage}.0", h, outputs, size=1))
    return maps
