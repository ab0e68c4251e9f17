"""The v2 U-Net inside ComfyUI: v1's, whose decoder also reads what two encoders saw of pictures.

ComfyUI has a seam before every output block, where its skip connection can be changed, and none behind it; so every
output block ends with an empty layer that marks the place of its modulation. The weights keep the released names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from comfy.ldm.modules.attention import optimized_attention

from ...colorize import recognition
from ...colorize.unet.decoder_guide import DecoderGuide, Modulation, Warp
from ..features import StyleAndBackground
from ..payload import Guide, with_patch
from ..run_memory import Pairs
from .attention import ColorizeUNet
from .model import ColorizeModel, ColorizeV1

# As in the attention of v1: in half precision its products can leave the range.
ATTEND = partial(optimized_attention, attn_precision=torch.float32)


class ModulationPlace(torch.nn.Identity):
    """Behind the last layer of output block `number`."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


class V2UNet(ColorizeUNet):
    """`ColorizeUNet` whose decoder follows a `DecoderGuide`; without one it is v1's network."""

    def __init__(
        self, *args: Any, device: torch.device | str | None = None, operations: Any = None, **kwargs: Any
    ) -> None:
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

    def keys_and_values(self, tokens: Sequence[torch.Tensor]) -> Pairs:
        """Of the backgrounds."""
        warps = [cast(Warp, warp).attn for warp in self.warp_modules]
        return [(attn.to_k(own), attn.to_v(own)) for attn, own in zip(warps, tokens, strict=True)]

    def _forward(
        self,
        x: torch.Tensor,
        timesteps: torch.Tensor | None = None,
        context: torch.Tensor | None = None,
        y: torch.Tensor | None = None,
        control: Any = None,
        transformer_options: dict[str, Any] = {},  # noqa: B006 - as inherited
        **kwargs: Any,
    ) -> torch.Tensor:
        if _decoder(transformer_options) is not None:
            transformer_options = with_patch(transformer_options, "output_block_patch", self._warp, first=True)
            place = (ModulationPlace, self._modulate)
            transformer_options = with_patch(transformer_options, "forward_timestep_embed_patch", place, first=True)
        return super()._forward(x, timesteps, context, y, control, transformer_options, **kwargs)

    def _warp(self, h: torch.Tensor, skip: torch.Tensor, options: Any) -> tuple[torch.Tensor, torch.Tensor]:
        number = options["block"][1]
        guide = _decoder(options)
        return h, skip if guide is None else guide.skip(number, cast(Warp, self.warp_modules[number]), skip, ATTEND)

    def _modulate(
        self, place: Any, h: torch.Tensor, emb: torch.Tensor, context: torch.Tensor | None, options: Any, *others: Any
    ) -> torch.Tensor:
        guide = _decoder(options)
        if guide is None:
            return h
        return guide.modulate(place.number, cast(Modulation, self.style_modules[place.number]), h, emb)


def _decoder(options: Mapping[str, Any]) -> DecoderGuide | None:
    """What the decoder reads of pictures in this step; None where there are none."""
    guide = Guide.of(options)
    return None if guide is None else guide.decoder


class ColorizeV2Model(ColorizeModel):
    """The diffusion model of the family v2."""

    network_class = V2UNet
    features_node = StyleAndBackground.node


class ColorizeV2(ColorizeV1):
    """ColorizeDiffusion v2 for ComfyUI's model table."""

    model_class = ColorizeV2Model

    @classmethod
    def matches(
        cls,
        unet_config: dict[str, Any],
        state_dict: dict[str, torch.Tensor] | None = None,
        unet_key_prefix: str | None = None,
    ) -> bool:
        return recognition.is_v2_unet(unet_config, state_dict, unet_key_prefix)
