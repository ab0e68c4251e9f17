"""The two picture encoders of v2: the input half of a U-Net that reads a clean picture once, for every output block.

The background encoder (`bg_encoder.*`) leaves tokens, which the skip connections of the drawing take up; the style
encoder (`style_encoder.*`) leaves vectors, which modulate the answers of the output blocks (decoder_guide.py). Both are
run at step 0 and are told how large the picture is against the drawing. Source: released code, observed.

Shape legend: B batch, h w size of the latent, M reference tokens, D their width, Y width of y, S_i tokens and C_i
channels of output block i.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import nn

from ..unet.config import UNetConfig, unet_config_from_state_dict, unet_weights
from ..unet.layers import Block
from ..unet.unet import UNet
from ..weight_files import reads_strange_sizes

VARIANTS = ("paper", "released")


class PictureEncoder(UNet):
    """Latent (B, 4, h, w), tokens (B, M, D), size (B, Y) -> one tensor per output block of the U-Net, in its order.

    A background encoder answers tokens (B, S_i, C_i), row by row; a style encoder vectors (B, 2 C_i).
    """

    def __init__(
        self,
        config: UNetConfig,
        style: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """config: of the colouring U-Net with the width of y, or of `unet_config_from_state_dict`."""
        self.style = style
        super().__init__(replace(config, region_ranks=None, v2=False), device, dtype)

    def _build(self, config: UNetConfig) -> None:
        super()._build(config)
        self.middle_block, self.output_blocks, self.out = Block(), nn.ModuleList(), nn.Sequential()
        per_level = config.num_res_blocks + 1
        layers = []
        for number, width in enumerate(config.skip_widths):
            modulated = 2 * config.model_channels * config.channel_mult[number // per_level]
            layers.append(nn.Linear(width, modulated) if self.style else nn.Conv2d(width, width, 1))
        self.zero_layers = nn.ModuleList(layers)

    @classmethod
    @reads_strange_sizes("picture encoder")
    def from_state_dict(
        cls,
        state_dict: Mapping[str, torch.Tensor],
        prefix: str,  # names.BACKGROUND_ENCODER or names.STYLE_ENCODER
        num_head_channels: int | None = None,
        dtype: torch.dtype | None = None,
    ) -> PictureEncoder:
        """The network whose tensors stand under `prefix`, loaded (strict). ValueError when there is none."""
        config = unet_config_from_state_dict(state_dict, prefix, num_head_channels, reads_reference=False)
        weights = unet_weights(state_dict, prefix)
        network = cls(config, style=weights["zero_layers.0.weight"].ndim == 2, device="meta")
        dtype = dtype if dtype is not None else weights["input_blocks.0.0.weight"].dtype
        network.load_state_dict({k: v.to(dtype=dtype) for k, v in weights.items()}, assign=True)
        return network.eval()

    def forward(  # type: ignore[override]  # it has a U-Net's parts and answers something else
        self, latent: torch.Tensor, context: torch.Tensor, y: torch.Tensor
    ) -> list[torch.Tensor]:
        progress = self.begin(latent, latent.new_zeros(len(latent)), y=y)
        progress, _ = self._advance(
            progress, lambda block, progress: progress.blocks == len(self.input_blocks), self.readings(context)
        )
        answers = []
        for features, layer in zip(progress.skips, self.zero_layers, strict=True):
            if self.style:
                answers.append(layer(features.mean(dim=(2, 3))))
            else:
                answers.append(layer(features).flatten(2).transpose(1, 2))
        return answers[::-1]


def background_context(
    tokens: torch.Tensor,  # (B, M, D) of the reference
    background_tokens: torch.Tensor | None,  # (B, M, D) of a background picture; None: the reference is the background
    with_style: bool = False,
    variant: str = "paper",
) -> torch.Tensor:
    """The tokens that belong to the picture of the background encoder.

    The reference's for the reference without its figure, as released, and those of a background picture for one. Beside
    a style the released code gives the reference's to a background picture too, by mistake: variant "released".
    """
    if variant not in VARIANTS:
        raise ValueError(f"Variant {variant!r} is unknown; choose one of {', '.join(VARIANTS)}.")
    mistaken = with_style and variant == "released"
    return tokens if background_tokens is None or mistaken else background_tokens


def merged_styles(
    figure: Sequence[torch.Tensor], background: Sequence[torch.Tensor], merge: float
) -> list[torch.Tensor]:
    """Style vectors of a reference, of which a share `merge` (0..1) is replaced by a background picture's."""
    return [ours * (1 - merge) + theirs * merge for ours, theirs in zip(figure, background, strict=True)]
