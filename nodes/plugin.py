"""The background plugin of XL models."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.v0_0_2 import io

from ..model_patches.checkpoint.colorizer import Colorizer
from ..model_patches.conditioning.background_plugin import read_background, with_banks
from .sockets import CATEGORY, ColorizerSocket, Node, conditioning_outputs, share_input


class ColorizeApplyBackgroundPlugin(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ColorizeApplyBackgroundPlugin",
            display_name="Apply Background Plugin",
            category=CATEGORY + "/reference",
            description="For XL models with plugin: takes the details of a background picture over into the drawing's "
            "background, not only its colours. Behind Apply Reference in the mode masked vanilla.",
            search_aliases=["reference net", "low-level injection", "background transfer", "xlv2", "reference only"],
            inputs=[
                ColorizerSocket.Input("colorizer", tooltip="From Load ColorizeDiffusion Checkpoint."),
                io.Vae.Input("vae", tooltip="From the same Load ColorizeDiffusion Checkpoint."),
                io.Conditioning.Input(
                    "positive", tooltip="From Apply Reference, mode masked vanilla, before or after Apply ControlNet."
                ),
                io.Conditioning.Input("negative", tooltip="From the same Apply Reference."),
                io.Image.Input(
                    "image",
                    tooltip="The background: the reference with figure_mask, or another picture, the same as "
                    "background of Encode Reference. It is squashed to the drawing's size: like proportions are best.",
                ),
                io.Latent.Input("latent", tooltip="From Prepare Sketch: the size that is sampled."),
                io.Mask.Input(
                    "figure_mask",
                    optional=True,
                    tooltip="Where a figure is in image: 1 = figure, which becomes white. Leave it open for pictures "
                    "without a figure.",
                ),
                share_input(
                    "mask_threshold",
                    0.5,
                    "From which value of figure_mask on a pixel counts as figure, 0 to 1.",
                    step=0.05,
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
        image: torch.Tensor,
        latent: dict,
        figure_mask: torch.Tensor | None = None,
        mask_threshold: float = 0.5,
    ) -> io.NodeOutput:
        banks = read_background(colorizer, vae, positive, image, latent, figure_mask, mask_threshold)
        return io.NodeOutput(with_banks(positive, banks), with_banks(negative, banks))
