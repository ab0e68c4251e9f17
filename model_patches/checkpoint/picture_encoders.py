"""The style and the background encoder of a v2 checkpoint as managed models: they read a picture once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import comfy.model_patcher
import torch

from ...colorize import names
from ...colorize.background.picture_encoder import PictureEncoder
from .managed import managed_unet

NODE = "Apply Style and Background"


def parts_of(state_dict: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of both encoders of a v2 checkpoint."""
    prefixes = (names.BACKGROUND_ENCODER, names.STYLE_ENCODER)
    return {key: value for key, value in state_dict.items() if key.startswith(prefixes)}


@dataclass(frozen=True, eq=False)
class LoadedPictureEncoders:
    """The two encoders of a v2 checkpoint, each built when it is first used: it is a third of the U-Net."""

    weights: Mapping[str, torch.Tensor] = field(repr=False)
    """Of `parts_of`."""
    num_head_channels: int
    file_name: str

    @cached_property
    def style(self) -> comfy.model_patcher.ModelPatcher:
        """The style encoder. Raises CheckpointError when the file's part is not complete."""
        return self._build(names.STYLE_ENCODER, "style")

    @cached_property
    def background(self) -> comfy.model_patcher.ModelPatcher:
        """The background encoder. Raises CheckpointError when the file's part is not complete."""
        return self._build(names.BACKGROUND_ENCODER, "background")

    def _build(self, prefix: str, what: str) -> comfy.model_patcher.ModelPatcher:
        weights = {key: value for key, value in self.weights.items() if key.startswith(prefix)}
        part = f"{what} encoder in {self.file_name!r}"
        return managed_unet(PictureEncoder, weights, prefix, self.num_head_channels, part, NODE)
