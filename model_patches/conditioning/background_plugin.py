"""The background plugin of XL: a second network reads a background picture once, the picture's U-Net reads its banks.

The reference net (background/reference_net.py) answers one bank of tokens for every transformer block of the U-Net's
decoder, whose self-attention reads it in every step (model/attention.py). Banks ride in the conditioning like
everything else of a run. The checkpoint's background weights were trained with the plugin and for the whole picture, so
they are switched on with it. Source: CVPR 2026 paper (low-level injection) and the released code.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import comfy.latent_formats
import torch

from ...colorize.counts import check_counts
from ...colorize.modes import REFERENCE_THRESHOLD, with_plugin
from ...colorize.pictures import images
from ...colorize.pictures.figure_masks import check_mask, without_figure
from ...colorize.pictures.masks import squash
from ...colorize.pictures.sides import sides_of
from ..checkpoint.colorizer import Colorizer
from ..features import Banks, PlanCache
from ..payload import Payload
from .latents import size_of


def read_background(
    colorizer: Colorizer,
    vae: Any,  # ComfyUI's VAE
    conditioning: list,
    image: torch.Tensor,
    latent: dict,
    figure_mask: torch.Tensor | None = None,
    mask_threshold: float = REFERENCE_THRESHOLD,
) -> Banks:
    """Banks of background pictures for the drawings of a conditioning, for pictures of the size of `latent`.

    image: comfy pictures (B, H, W, C); figure_mask: (B or 1, h, w) 0..1, their figures, which are painted white where
    it is not below mask_threshold. Pictures are squashed to the size with antialiasing (the released code has none) and
    encoded to the mean of the VAE's answer (released: a sample). Raises ValueError, naming what is missing.
    """
    if colorizer.plugin is None:
        raise ValueError(
            f"{colorizer.file_name} is {colorizer.family.title}, without background plugin. Load an XL checkpoint with "
            "plugin (official file names begin with 'xlv2'), or leave Apply Background Plugin out."
        )
    figure = figure_of(conditioning)
    if figure is None:
        raise ValueError(
            "The plugin needs to know where the figure is in the drawing. Set mode of Apply Reference to masked "
            "vanilla and connect figure_mask there (an empty mask for drawings without a figure)."
        )
    height, width = size_of(latent)
    picture = images.comfy_image_to_model(image, name="image")
    mask = torch.zeros(1, *picture.shape[-2:])
    if figure_mask is not None:
        mask = check_mask(figure_mask, "figure_mask")
        picture = without_figure(picture, mask, mask_threshold)
    check_counts({"backgrounds": len(picture), "figure masks of the drawing": len(figure)})
    squashed = images.model_image_to_comfy(images.resize(picture, height, width))
    scaled = comfy.latent_formats.SDXL().process_in(vae.encode(squashed).float())
    return Banks(colorizer.plugin.read(scaled, squash(figure, height, width), mask[:, None], sides_of(picture)))


def figure_of(conditioning: list) -> torch.Tensor | None:
    """(B, 1, H, W): where any figure of a conditioning of Apply Reference is in the drawing; None in vanilla mode."""
    masks = [mask for _, options in conditioning for mask in _payload(options).masks]
    if not masks:
        return None
    size = tuple(max(mask.shape[dimension] for mask in masks) for dimension in (-2, -1))
    rows = max(map(len, masks))
    planes = [
        torch.nn.functional.interpolate(mask[:, None].float(), size, mode="bilinear", align_corners=False)
        for mask in masks
    ]
    return torch.stack([plane.expand(rows, -1, -1, -1) for plane in planes]).amax(dim=0)


def with_banks(conditioning: list, banks: Banks) -> list:
    """A conditioning that offers the banks, with the background weights on for every region."""
    answer = []
    for tokens, options in conditioning:
        payload = _payload(options)
        settings = payload.settings
        if settings.split is not None:
            settings = replace(settings, split=with_plugin(settings.split), plans=PlanCache())
        answer.append([tokens, {**options, **replace(payload, settings=settings, features=banks).entry()}])
    return answer


def _payload(options: dict) -> Payload:
    payload = Payload.of(options)
    if payload is None:
        raise ValueError(
            "The conditioning is not one of Apply Reference with figure masks. Set mode of Apply Reference to masked "
            "vanilla, connect figure_mask there, and connect its positive and negative here."
        )
    return payload
