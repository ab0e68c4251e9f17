"""The sketch encoder: turns a sketch into five feature maps that the U-Net adds to its input blocks.

Source: ColorizeDiffusion v1 (arXiv 2401.01456) and the released checkpoints, whose tensor names (`control_encoder.*`)
are kept.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ..unet.layers import set_to_zero
from ..weight_files import check_fits, reads_strange_sizes

# Output widths and strides of the eight convolutions of the stem, before the last one reaches the U-Net's width.
STEM = ((16, 1), (16, 1), (32, 2), (32, 1), (96, 2), (96, 1), (256, 2))


def stem(conv: Callable[..., nn.Module], in_channels: int, model_channels: int) -> nn.Sequential:
    """Sketch (B, in_channels, H, W) -> (B, model_channels, H/8, W/8). conv(inputs, outputs, stride): a 3x3 layer."""
    layers: list[nn.Module] = []
    width = in_channels
    for outputs, stride in STEM:
        layers += [conv(width, outputs, stride), nn.SiLU()]
        width = outputs
    return nn.Sequential(*layers, conv(width, model_channels))


class SketchEncoder(nn.Module):
    """Sketch (B, in_channels, H, W) in [-1, 1], white lines (+1) on black (-1) -> five feature maps, shallow to deep.

    The maps have `model_channels` channels at H/8, then `widths[i]` at H/16, H/32, H/64 and again H/64. H and W must be
    multiples of 64. A blank sketch is -1 everywhere.
    """

    def __init__(
        self,
        widths: Sequence[int] = (320, 640, 1280, 1280),  # of the four stages after the stem
        model_channels: int = 320,  # width at H/8, the U-Net's first width
        in_channels: int = 3,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        operations: Any = nn,  # supplies Conv2d; ComfyUI passes its casting layers
    ) -> None:
        super().__init__()
        options = dict(device=device, dtype=dtype)

        def conv(inputs: int, outputs: int, stride: int = 1, size: int = 3) -> nn.Module:
            return operations.Conv2d(inputs, outputs, size, stride=stride, padding=size // 2, **options)

        self.model = stem(conv, in_channels, model_channels)
        self.zero_layer = nn.Sequential(conv(model_channels, model_channels, size=1))

        self.output_blocks = nn.ModuleList()
        self.zero_blocks = nn.ModuleList()
        width = model_channels
        for index, outputs in enumerate(widths):
            stride = 1 if index == len(widths) - 1 else 2
            stage = nn.Sequential(nn.SiLU(), conv(width, outputs, stride), nn.SiLU(), conv(outputs, outputs))
            self.output_blocks.append(stage)
            self.zero_blocks.append(nn.Sequential(conv(outputs, outputs, size=1)))
            width = outputs

    @classmethod
    @reads_strange_sizes("sketch encoder")
    def from_state_dict(
        cls,
        state_dict: Mapping[str, torch.Tensor],
        prefix: str = "",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        operations: Any = nn,
    ) -> SketchEncoder:
        """Build the encoder whose widths the tensors under `prefix` have, and load them (strict)."""
        weights = {k.removeprefix(prefix): v for k, v in state_dict.items() if k.startswith(prefix)}
        if "model.0.weight" not in weights:
            raise ValueError(f"No sketch encoder found under {prefix!r}: tensor {prefix}model.0.weight is missing.")
        stages = sum(1 for k in weights if k.startswith("zero_blocks.") and k.endswith(".weight"))
        build = functools.partial(
            cls,
            widths=[weights[f"zero_blocks.{i}.0.weight"].shape[0] for i in range(stages)],
            model_channels=weights["zero_layer.0.weight"].shape[0],
            in_channels=weights["model.0.weight"].shape[1],
            device=device,
            dtype=dtype if dtype is not None else weights["model.0.weight"].dtype,
            operations=operations,
        )
        check_fits(functools.partial(build, device="meta"), weights)
        encoder = build()
        encoder.load_state_dict(weights)
        return encoder.eval()

    def zero_projections(self) -> None:
        """Set the 1x1 output convolutions to zero: at the start of training the sketch changes nothing."""
        for layer in (self.zero_layer, *self.zero_blocks):
            set_to_zero(layer)

    def forward(self, sketch: torch.Tensor) -> list[torch.Tensor]:
        h = self.model(sketch)
        features = [self.zero_layer(h)]
        for stage, project in zip(self.output_blocks, self.zero_blocks, strict=True):
            h = stage(h)
            features.append(project(h))
        return features
