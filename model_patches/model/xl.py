"""The XL U-Net inside ComfyUI: a Stable Diffusion XL network with our cross-attention and a small label embedding.

Beside the reference it is told two numbers, the picture's size and an aesthetic score. Its decoder's self-attention can
also read the banks of the background plugin (plugin.py). Source: Towards High-resolution and Disentangled
Reference-based Sketch Colorization (CVPR 2026) and the released files.
"""

from __future__ import annotations

import comfy.latent_formats
import torch
from comfy.ldm.modules.attention import BasicTransformerBlock, CrossAttention, optimized_attention

from ...colorize import families, names
from ...colorize.pictures.images import PIXELS_PER_LATENT
from ...colorize.unet import size_embedding
from ...colorize.unet.region_lora import XL_KINDS
from ...colorize.unet.split_attention import split_attention
from ..conditioning.conditioning import PAYLOAD, Guide
from .model import ColorizeBase, ColorizeModel, ColorizeUNet, stored_attention

SCALARS = 2  # size and aesthetic score


class BankAttention(CrossAttention):
    """ComfyUI's self-attention, which also reads one bank of the background plugin when the `Guide` brings banks.

    Without figure masks every query sees its own picture and the bank; with them a query of the figure sees the picture
    only, one of the background the bank only, as the plugin was trained.
    """

    def __init__(self, plain: CrossAttention, number: int):
        """Takes over the layers and attributes of `plain`. number: of this layer among the decoder's."""
        torch.nn.Module.__init__(self)
        self.__dict__.update(plain.__dict__)
        self.number = number

    def forward(self, x, context=None, value=None, mask=None, transformer_options={}):  # noqa: B006 - as inherited
        guide: Guide | None = transformer_options.get(PAYLOAD)
        if guide is None or not guide.banks:
            return super().forward(x, context, value=value, mask=mask, transformer_options=transformer_options)
        own = x if context is None else context
        bank = guide.banks[self.number].to(x.dtype)

        def attend(q, k, v):
            # The bank of a single background is projected once for all rows.
            k, v = (tokens.expand(len(q), -1, -1) for tokens in (k, v))
            return optimized_attention(
                q, k, v, self.heads, attn_precision=self.attn_precision, transformer_options=transformer_options,
                **stored_attention(self),
            )  # fmt: skip

        if guide.bank_split is None:
            keys = [self.to_k(own), self.to_k(bank).expand(len(x), -1, -1)]
            values = [self.to_v(own if value is None else value), self.to_v(bank).expand(len(x), -1, -1)]
            attended = attend(self.to_q(x), torch.cat(keys, dim=1), torch.cat(values, dim=1))
        else:
            size = tuple(transformer_options["activations_shape"][-2:])
            attended = split_attention(self, x, guide.bank_split.with_tokens((own, bank)), size, attend)
        return self.to_out(attended)

    def project(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """The projection `name` (see colorize.unet.split_attention.Layer)."""
        return getattr(self, name)(x)

    def term(self, name: str, x: torch.Tensor, kind: str | None) -> torch.Tensor | None:
        """Self-attention has no region weights (see colorize.unet.split_attention.Layer)."""
        return None


class XLUNet(ColorizeUNet):
    """`ColorizeUNet` whose decoder can read banks."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        blocks = [module for module in self.output_blocks.modules() if isinstance(module, BasicTransformerBlock)]
        for number, block in enumerate(blocks):
            block.attn1 = BankAttention(block.attn1, number)


class ColorizeXLModel(ColorizeModel):
    """The diffusion model of the families xl and xl-plugin."""

    network_class = XLUNet
    region_names = XL_KINDS
    banks_node = "Apply Background Plugin"

    def encode_adm(self, **kwargs):
        """The vector `y` (1, 2 * width): size and aesthetic score of the payload, else the picture's size and 7."""
        height, width = (PIXELS_PER_LATENT * side for side in kwargs["noise"].shape[-2:])
        payload = kwargs.get(PAYLOAD)
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
    def matches(cls, unet_config, state_dict=None, unet_key_prefix=None):
        return families.is_xl_unet(unet_config, state_dict, unet_key_prefix)

    def process_unet_state_dict(self, state_dict):
        used = {key: value for key, value in state_dict.items() if not key.startswith(names.UNUSED)}
        return super().process_unet_state_dict(used)
