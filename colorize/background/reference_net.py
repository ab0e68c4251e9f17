"""The background plugin of ColorizeDiffusion XL: a U-Net that reads a background picture once and leaves it as tokens.

It has the layout of the XL U-Net without cross-attention, and is run on the clean background at step 0. What the
self-attention of each of its decoder blocks reads is the bank of the same block of the colouring U-Net, whose
self-attention reads it beside its own tokens at every step. Source: CVPR 2026 paper (low-level injection) and the
released files, whose tensor names (`bg_encoder.*`) are kept.

Shape legend: B batch, h w size of the latent, S tokens of a block, C its channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import nn

from .. import names
from ..unet.config import UNetConfig, unet_config_from_state_dict, unet_weights
from ..unet.unet import UNet
from ..weight_files import reads_strange_sizes

INPUT_CHANNELS = 6  # latent 4, figure mask of the sketch, figure mask of the background picture


class ReferenceNet(UNet):
    """Background (B, 6, h, w) and crop (B, Y) -> banks (B, S, C), one per transformer block of the decoder, in order.

    The decoder ends with the first block without attention, as in the released files.
    """

    def __init__(
        self, config: UNetConfig, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        """config: of the colouring U-Net, or of `unet_config_from_state_dict`; context_dim and ranks do not count."""
        super().__init__(replace(config, context_dim=0, region_ranks=None), device, dtype)

    def _build(self, config: UNetConfig) -> None:
        super()._build(config)
        self.out = nn.Sequential()
        used = sum(block.depth > 0 for block in self.decoder_blocks)
        self.output_blocks = self.output_blocks[: used + 1]

    @classmethod
    @reads_strange_sizes("background plugin")
    def from_state_dict(
        cls,
        state_dict: Mapping[str, torch.Tensor],
        prefix: str = names.BACKGROUND_ENCODER,
        num_head_channels: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> ReferenceNet:
        """The network whose tensors stand under `prefix`, loaded (strict). ValueError when there is none."""
        config = unet_config_from_state_dict(state_dict, prefix, num_head_channels, reads_reference=False)
        weights = unet_weights(state_dict, prefix)
        dtype = dtype if dtype is not None else weights["input_blocks.0.0.weight"].dtype
        network = cls(config, device="meta")
        network.load_state_dict({k: v.to(device=device, dtype=dtype) for k, v in weights.items()}, assign=True)
        return network.eval()

    @classmethod
    def from_unet(cls, unet: UNet, in_channels: int = INPUT_CHANNELS, y_width: int = 1024) -> ReferenceNet:
        """A plugin that starts as a copy of the colouring U-Net, for training.

        Weights for which the U-Net has none (masks in the first convolution, more numbers in y) start at zero.
        """
        network = cls(replace(unet.config, in_channels=in_channels, y_width=y_width))
        known, weights = unet.state_dict(), network.state_dict()
        for key, value in weights.items():
            source = known[key]
            value.zero_()
            value[tuple(slice(side) for side in source.shape)] = source[tuple(slice(side) for side in value.shape)]
        return network

    def forward(  # type: ignore[override]  # it has a U-Net's parts and answers something else
        self, background: torch.Tensor, y: torch.Tensor
    ) -> list[torch.Tensor]:
        keep = dict.fromkeys(range(self.decoder_start, len(self.attention_places)), "normed")
        progress = self.begin(background, background.new_zeros(len(background)), y=y)
        return self.finish(progress, self.readings(None, keep=keep), answer=False)[1]


def plugin_input(
    latent: torch.Tensor,  # (B, 4, h, w) scaled latent of the background picture
    sketch_mask: torch.Tensor,  # (B, 1, H, W) figure of the sketch, 0..1
    background_mask: torch.Tensor,  # (B, 1, H', W') figure of the background picture, 0..1, any size
    variant: str = "application",  # or "trainer"
) -> torch.Tensor:
    """(B, 6, h, w): latent and both masks.

    The sketch's mask is reduced to the latent by nearest neighbour; the background's is squashed to the sketch's size
    (bicubic) first, as in the released application. The released trainer squashes it to the latent at once.
    """
    size = latent.shape[-2:]
    target = size if variant == "trainer" else sketch_mask.shape[-2:]
    stretched = F.interpolate(background_mask, target, mode="bicubic", align_corners=False)
    masks = [F.interpolate(mask, size, mode="nearest") for mask in (sketch_mask, stretched)]
    return torch.cat([latent, *(mask.to(latent) for mask in masks)], dim=1)
