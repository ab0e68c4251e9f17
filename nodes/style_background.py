"""Style and background of v2 models."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.v0_0_2 import io

from ..colorize.reference.types import Reference
from ..model_patches.checkpoint.colorizer import Colorizer
from ..model_patches.conditioning.style_background import Pictures, StyleSettings, read_pictures, with_features
from .sockets import CATEGORY, ColorizerSocket, Node, ReferenceSocket, conditioning_outputs, share_input


class ColorizeApplyStyleBackground(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ColorizeApplyStyleBackground",
            display_name="Apply Style and Background",
            category=CATEGORY + "/reference",
            description="For v2 models: draws in the style of a picture, takes over the details of a background "
            "picture, or both. Behind Apply Reference; without pictures nothing changes.",
            search_aliases=["style transfer", "style enhance", "background enhance", "colorizediffusion v2", "warp"],
            inputs=[
                ColorizerSocket.Input("colorizer", tooltip="From Load ColorizeDiffusion Checkpoint, a v2 file."),
                io.Vae.Input("vae", tooltip="From the same Load ColorizeDiffusion Checkpoint."),
                io.Conditioning.Input(
                    "positive",
                    tooltip="From Apply Reference, before or after Apply ControlNet. Mode vanilla for a style alone, "
                    "fig2fig for a background.",
                ),
                io.Conditioning.Input("negative", tooltip="From the same Apply Reference."),
                ReferenceSocket.Input("reference", tooltip="The same REFERENCE as in Apply Reference."),
                io.Latent.Input("latent", tooltip="From Prepare Sketch: the size that is sampled."),
                io.Image.Input(
                    "style_image",
                    optional=True,
                    tooltip="The picture whose style is taken: the one of Encode Reference, as trained. Leave it open "
                    "for no style.",
                ),
                io.Image.Input(
                    "background",
                    optional=True,
                    tooltip="The background: the reference with figure_mask, or another picture, the same as "
                    "background of Encode Reference. It is squashed to the drawing's size: like proportions are best.",
                ),
                io.Mask.Input(
                    "figure_mask",
                    optional=True,
                    tooltip="Where a figure is in background: 1 = figure, which becomes white. Leave it open for "
                    "pictures without a figure.",
                ),
                io.Float.Input(
                    "background_factor",
                    default=1.0,
                    min=0.0,
                    max=2.0,
                    step=0.05,
                    optional=True,
                    tooltip="How strongly the details of background act, 0 to 2; 1 as trained. To switch them off, "
                    "leave background open: 0 still replaces the drawing's own details there.",
                ),
                share_input(
                    "merge",
                    0.0,
                    "How much of the style comes from background instead of style_image, 0 to 1. Needs both, "
                    "and background in Encode Reference.",
                    step=0.05,
                    advanced=False,
                ),
                share_input(
                    "mask_threshold",
                    0.5,
                    "From which value of figure_mask on a pixel counts as figure, 0 to 1. Where the figure is "
                    "in the drawing is set in Apply Reference (mask_threshold, mask_edges).",
                    step=0.05,
                ),
                io.Combo.Input(
                    "variant",
                    options=["paper", "released"],
                    default="paper",
                    optional=True,
                    advanced=True,
                    tooltip="paper: a background picture is read with its own tokens. released: beside a style it is "
                    "read with the reference's, as the official application does by mistake; to repeat its pictures.",
                ),
            ],
            outputs=conditioning_outputs(),
        )

    @classmethod
    def execute(
        cls,
        colorizer: Colorizer,
        vae: Any,
        positive: list,
        negative: list,
        reference: Reference,
        latent: dict,
        style_image: torch.Tensor | None = None,
        background: torch.Tensor | None = None,
        figure_mask: torch.Tensor | None = None,
        background_factor: float = 1.0,
        merge: float = 0.0,
        mask_threshold: float = 0.5,
        variant: str = "paper",
    ) -> io.NodeOutput:
        settings = StyleSettings(mask_threshold, background_factor, merge, variant)
        pictures = Pictures(style_image, background, figure_mask)
        seen = read_pictures(colorizer, vae, positive, reference, latent, pictures, settings)
        return io.NodeOutput(with_features(positive, seen), with_features(negative, seen, empty=True))
