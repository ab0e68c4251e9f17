"""Apply Advanced ControlNet (pack Advanced-ControlNet) with a sketch: its mask acts, its other options are refused.

That node hands its options to controls that have an attribute `sub_idxs`, and leaves them away for all others without a
word. The names below are what it then asks for.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from ...colorize.pictures.figure_masks import check_mask

OPTIONS = {"latent_keyframe_override": "latent keyframes", "weights_override": "weights"}


class TakesMask:
    """A control that takes a mask from Apply Advanced ControlNet, 1 = the sketch acts."""

    mask: torch.Tensor | None = None
    """(B, 1, H, W) float32 in 0..1, of the whole picture in any size"""
    allow_condhint_latents = False
    require_vae = False
    latent_keyframe_override: Any = None
    weights_override: Any = None

    @property
    def sub_idxs(self) -> None:
        """Which pictures of a batch a context window of AnimateDiff-Evolved looks at: always all."""
        return None

    @sub_idxs.setter
    def sub_idxs(self, pictures: list[int] | None) -> None:
        if pictures is not None:
            raise _refused("context windows")

    def disarm(self) -> None:
        """Nothing: any Apply node will do."""

    def set_timestep_keyframes(self, keyframes: Any) -> None:
        raise _refused("timestep keyframes")

    def verify_all_weights(self, *args: Any, **kwargs: Any) -> None:
        for name, words in OPTIONS.items():
            if getattr(self, name) is not None:
                raise _refused(words)

    def set_cond_hint_mask(self, mask: torch.Tensor) -> TakesMask:
        """mask: a comfy mask (B, H, W) or (H, W)."""
        self.mask = check_mask(mask, "mask_optional")[:, None]
        return self

    def masked(
        self, maps: list[torch.Tensor], height: int, width: int, area: tuple[int, ...] | None = None
    ) -> list[torch.Tensor]:
        """The maps of sketches of height x width pixels (or of a part of them, (h, w, y, x) in pixels) where the mask
        lets them act; without one as they are."""
        if self.mask is None:
            return maps
        mask = self.mask
        if area is not None:
            rows, columns, top, left = area
            mask = F.interpolate(mask, (height, width), mode="bilinear", antialias=True)
            mask = mask[..., top : top + rows, left : left + columns]
        weights = (F.interpolate(mask, values.shape[-2:], mode="bilinear", antialias=True) for values in maps)
        return [values * weight.to(values) for values, weight in zip(maps, weights, strict=True)]


def _refused(what: str) -> ValueError:
    return ValueError(
        f"Apply Advanced ControlNet brings {what}, which a sketch does not take: of its options only mask_optional "
        "acts. Remove them: Sketch Strength per Level weighs levels, start_percent and end_percent choose the steps."
    )
