"""The XL U-Net inside ComfyUI: a Stable Diffusion XL network with our cross-attention and a small label embedding.

Beside the reference it is told two numbers, the picture's size and an aesthetic score. Its decoder's self-attention can
also read the banks of the background plugin (colorize/background). Source: Towards High-resolution and Disentangled
Reference-based Sketch Colorization (CVPR 2026) and the released files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import comfy.latent_formats
import torch
from comfy.ldm.modules.attention import BasicTransformerBlock

from ...colorize import names, recognition
from ...colorize.pictures.images import PIXELS_PER_LATENT
from ...colorize.unet import size_embedding
from ...colorize.unet.region_lora import XL_KINDS
from ..features import Banks
from ..payload import Payload
from ..run_memory import Pairs
from .attention import BankAttention, ColorizeUNet
from .model import ColorizeBase, ColorizeModel

SCALARS = 2  # size and aesthetic score


class XLUNet(ColorizeUNet):
    """`ColorizeUNet` whose decoder can read banks."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        blocks = [module for module in self.output_blocks.modules() if isinstance(module, BasicTransformerBlock)]
        for number, block in enumerate(blocks):
            block.attn1 = BankAttention(block.attn1, number)

    def keys_and_values(self, tokens: Sequence[torch.Tensor]) -> Pairs:
        """Of the banks."""
        layers = [module for module in self.output_blocks.modules() if isinstance(module, BankAttention)]
        return [(layer.to_k(bank), layer.to_v(bank)) for layer, bank in zip(layers, tokens, strict=True)]


class ColorizeXLModel(ColorizeModel):
    """The diffusion model of the families xl and xl-plugin."""

    network_class = XLUNet
    region_names = XL_KINDS
    features_node = Banks.node

    def encode_adm(self, **kwargs: Any) -> torch.Tensor:
        """The vector `y` (1, 2 * width): size and aesthetic score of the payload, else the picture's size and 7."""
        height, width = (PIXELS_PER_LATENT * side for side in kwargs["noise"].shape[-2:])
        payload = Payload.of(kwargs)
        score = size_embedding.SCORE if payload is None else payload.score
        scalars = size_embedding.picture_scalars(height, width, score).clone()
        if payload is not None and payload.size:
            scalars[:, 0] = payload.size
        return size_embedding.embed(scalars, self.adm_channels // SCALARS)


class ColorizeXL(ColorizeBase):
    """ColorizeDiffusion XL for ComfyUI's model table; with the plugin it has a background LoRA besides."""

    unet_config = {"use_linear_in_transformer": True, "num_classes": "sequential"}
    latent_format = comfy.latent_formats.SDXL
    memory_usage_factor = 0.8  # as ComfyUI's SDXL
    model_class = ColorizeXLModel

    @classmethod
    def matches(
        cls,
        unet_config: dict[str, Any],
        state_dict: dict[str, torch.Tensor] | None = None,
        unet_key_prefix: str | None = None,
    ) -> bool:
        return recognition.is_xl_unet(unet_config, state_dict, unet_key_prefix)

    def process_unet_state_dict(self, state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        used = {key: value for key, value in state_dict.items() if not key.startswith(names.UNUSED)}
        return super().process_unet_state_dict(used)
