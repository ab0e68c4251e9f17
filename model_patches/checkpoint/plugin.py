"""The background plugin of an XL checkpoint as a managed model: it reads a background picture once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import comfy.model_patcher
import torch

from ...colorize import names
from ...colorize.background.reference_net import ReferenceNet, plugin_input
from ...colorize.pictures.images import PIXELS_PER_LATENT
from ...colorize.unet import size_embedding
from .managed import managed_unet, read_rows

NODE = "Apply Background Plugin"


@dataclass(frozen=True, eq=False)
class LoadedPlugin:
    """The reference net of a checkpoint. It is built when it is first used: it is nearly as large as the U-Net."""

    weights: Mapping[str, torch.Tensor] = field(repr=False)
    """Tensors under names.BACKGROUND_ENCODER, as the file has them."""
    num_head_channels: int
    file_name: str

    @classmethod
    def from_state_dict(
        cls, state_dict: Mapping[str, torch.Tensor], num_head_channels: int, file_name: str
    ) -> LoadedPlugin | None:
        """From a checkpoint's tensors; None when it has no plugin."""
        weights = {key: value for key, value in state_dict.items() if key.startswith(names.BACKGROUND_ENCODER)}
        return cls(weights, num_head_channels, file_name) if weights else None

    @cached_property
    def patcher(self) -> comfy.model_patcher.ModelPatcher:
        """The network and the owner of its memory. Raises CheckpointError when the file's part is not complete."""
        part = f"background plugin in {self.file_name!r}"
        prefix = names.BACKGROUND_ENCODER
        return managed_unet(ReferenceNet, self.weights, prefix, self.num_head_channels, part, NODE)

    def read(
        self,
        latent: torch.Tensor,  # (b, 4, h, w) of VAE Encode: the background squashed to the size of the picture
        sketch_mask: torch.Tensor,  # (b', 1, H, W) figure of the drawing, 0..1
        background_mask: torch.Tensor,  # (b'', 1, H', W') figure of the background picture, 0..1
        source: tuple[int, int],  # height and width of the background picture before it was squashed
    ) -> tuple[torch.Tensor, ...]:
        """The banks (B, N_i, C_i) of a background, or of one per picture, on the CPU: one per block of the decoder.

        b, b' and b'' are 1 or the number of pictures.
        """
        count = max(len(latent), len(sketch_mask), len(background_mask))
        height, width = (PIXELS_PER_LATENT * side for side in latent.shape[-2:])
        given = (latent, sketch_mask, background_mask)
        latent, sketch_mask, background_mask = (v.float().expand(count, -1, -1, -1) for v in given)
        values = plugin_input(latent, sketch_mask, background_mask)
        return read_rows(self.patcher, [values], size_embedding.crop_scalars(source, (height, width)))
