"""Show what a place of a picture looks at inside the model, with the reference and without."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io, ui

from ..colorize.pictures import images
from ..colorize.pictures.place_sheet import NAMES, rows_of, sheet
from ..model_patches.model.place_views import views
from .sockets import CATEGORY, Node


class ColorizePlaceViews(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ColorizePlaceViews",
            display_name="Show What a Place Looks At",
            category=CATEGORY + "/tools",
            description="Use it to see why shapes of the reference get into a result: which other places a point of "
            "the picture is alike to (Gram matrix) and looks at (self-attention), with the reference and without it.",
            search_aliases=["gram matrix", "attention map", "self attention", "spatial entanglement", "query point"],
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="The model that the sampler got."),
                io.Conditioning.Input("positive", tooltip="The same as the sampler's: reference and sketch."),
                io.Conditioning.Input(
                    "negative", tooltip="The same as the sampler's: the sketch without the reference, to compare with."
                ),
                io.Latent.Input("samples", tooltip="The sampler's result, before VAE Decode."),
                io.Float.Input(
                    "x", default=0.5, min=0.0, max=1.0, step=0.01, tooltip="Where the point is, 0 (left) to 1 (right)."
                ),
                io.Float.Input(
                    "y", default=0.5, min=0.0, max=1.0, step=0.01, tooltip="Where the point is, 0 (top) to 1 (bottom)."
                ),
                io.Float.Input(
                    "progress",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    advanced=True,
                    tooltip="At which moment of the sampling, 0 (all noise) to 1 (finished). Shapes are decided in the "
                    "first half.",
                ),
                io.Int.Input(
                    "seed", default=0, min=0, max=2**64 - 1, advanced=True, tooltip="Of the noise that is added."
                ),
                io.Image.Input(
                    "image", optional=True, tooltip="The decoded result: it is shown with the point. Same batch."
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="image",
                    tooltip="A sheet per picture. Upper row: Gram matrix, lower row: attention; encoder and decoder, "
                    "each with and without the reference.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: list,
        negative: list,
        samples: dict,
        x: float = 0.5,
        y: float = 0.5,
        progress: float = 0.5,
        seed: int = 0,
        image: torch.Tensor | None = None,
    ) -> io.NodeOutput:
        pictures = None if image is None else images.comfy_image_to_model(image, name="image")
        count = len(samples["samples"])
        if pictures is not None and len(pictures) != count:
            raise ValueError(
                f"There are {len(pictures)} pictures in image and {count} in samples. Connect to image what VAE "
                "Decode makes of samples, or leave it open."
            )
        shown = [views(model, conditioning, samples, (x, y), progress, seed) for conditioning in (positive, negative)]
        found = list(zip(NAMES, shown, strict=True))
        out = torch.stack(
            [sheet(None if pictures is None else pictures[row], rows_of(found, row), (x, y)) for row in range(count)]
        )
        return io.NodeOutput(out, ui=ui.PreviewImage(out, cls=cls))
