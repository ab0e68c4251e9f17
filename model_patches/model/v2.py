"""The v2 U-Net inside ComfyUI: v1's, whose decoder also reads what two encoders saw of pictures (picture_guides.py).

ComfyUI has a seam before every output block, where its skip connection can be changed, and none behind it; so every
output block ends with an empty layer that marks the place of its modulation. The weights keep the released names.
"""

from __future__ import annotations

from functools import partial

import torch
from comfy.ldm.modules.attention import optimized_attention

from ...colorize import families
from ...colorize.unet.decoder_guide import Modulation, Warp
from ..conditioning.conditioning import PAYLOAD
from ..reference_pass.reference_pass import with_patch
from .model import ColorizeModel, ColorizeUNet, ColorizeV1

# As in the attention of v1: in half precision its products can leave the range.
ATTEND = partial(optimized_attention, attn_precision=torch.float32)


class ModulationPlace(torch.nn.Identity):
    """Behind the last layer of output block `number`."""

    def __init__(self, number: int):
        super().__init__()
        self.number = number


class V2UNet(ColorizeUNet):
    """`ColorizeUNet` whose decoder follows a `DecoderGuide`; without one it is v1's network."""

    def __init__(self, *args, device=None, operations=None, **kwargs):
        super().__init__(*args, device=device, operations=operations, **kwargs)
        options = dict(device=device, dtype=self.dtype, operations=operations)
        emb_width = self.time_embed[-1].out_features
        warps, modulations = [], []
        before = self.output_blocks[0][0].out_channels  # of the middle block, which is as wide
        for number, block in enumerate(self.output_blocks):
            warps.append(Warp(block[0].channels - before, **options))
            before = block[0].out_channels
            modulations.append(Modulation(emb_width, before, **options))
            block.append(ModulationPlace(number))
        self.warp_modules, self.style_modules = torch.nn.ModuleList(warps), torch.nn.ModuleList(modulations)

    def _forward(self, x, timesteps=None, context=None, y=None, control=None, transformer_options={}, **kwargs):  # noqa: B006
        guide = transformer_options.get(PAYLOAD)
        if guide is not None and guide.decoder is not None:
            transformer_options = with_patch(transformer_options, "output_block_patch", self._warp, first=True)
            place = (ModulationPlace, self._modulate)
            transformer_options = with_patch(transformer_options, "forward_timestep_embed_patch", place, first=True)
        return super()._forward(x, timesteps, context, y, control, transformer_options, **kwargs)

    def _warp(self, h, skip, options):
        number = options["block"][1]
        return h, options[PAYLOAD].decoder.skip(number, self.warp_modules[number], skip, ATTEND)

    def _modulate(self, place, h, emb, context, options, *others):
        return options[PAYLOAD].decoder.modulate(place.number, self.style_modules[place.number], h, emb)


class ColorizeV2Model(ColorizeModel):
    """The diffusion model of the family v2."""

    network_class = V2UNet
    banks_node = "Apply Style and Background"


class ColorizeV2(ColorizeV1):
    """ColorizeDiffusion v2 for ComfyUI's model table."""

    model_class = ColorizeV2Model

    @classmethod
    def matches(cls, unet_config, state_dict=None, unet_key_prefix=None):
        return families.is_v2_unet(unet_config, state_dict, unet_key_prefix)
