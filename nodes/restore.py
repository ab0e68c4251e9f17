"""Bring the result back to the drawing's size, with the artist's own lines on top."""

from __future__ import annotations

import comfy.model_management
import torch
from comfy_api.v0_0_2 import io

from ..colorize.pictures import artist_lines, images
from ..colorize.pictures.line_removal import without_model_lines
from ..colorize.pictures.transparency import check_drawing
from .sockets import CATEGORY, FrameSocket, Node, transparency_input


def restore_size(
    image: torch.Tensor,
    frame: images.Frame,
    lines: torch.Tensor | None = None,
    lines_mask: torch.Tensor | None = None,
    polarity: str = "auto",
    line_opacity: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Result and frame -> comfy pictures of the drawing's size: (B, H, W, 3) with the lines, (B, H, W, 3) without them,
    (N, H, W, 4) the lines alone as straight RGBA; all in 0..1. With lines the model's own, softer ones are taken away
    from below them."""
    images.check_image(image)
    result = image[..., :3].movedim(-1, 1).float()
    colours = images.restore(result, frame)
    picture, layer = colours, torch.ones_like(colours[:1])
    if lines is not None:
        images.check_image(lines, "lines")
        check_drawing(lines, lines_mask, polarity, "lines")
        layer = artist_lines.line_layer(lines, lines_mask, polarity)
        artist_lines.check_line_layer(picture, layer)
        drawn = layer if len(layer) == 1 else layer.repeat(len(picture) // len(layer), 1, 1, 1)  # taken in turn
        freed = images.restore(without_model_lines(result, drawn, frame), frame)
        picture = artist_lines.overlay_lines(torch.lerp(colours, freed, float(line_opacity)), drawn, line_opacity)
        colours = freed
    return picture.movedim(1, -1), colours.movedim(1, -1), artist_lines.ink_layer(layer).movedim(1, -1)


class ColorizeRestoreSize(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ColorizeRestoreSize",
            display_name="Restore Size",
            category=CATEGORY + "/basic",
            description="The last step: cuts the margins off, returns to the drawing's own size and, when lines is "
            "connected, multiplies the original lines over the colours so that none is lost.",
            search_aliases=[
                "uncrop",
                "remove padding",
                "line overlay",
                "keep lines",
                "multiply lines",
                "original size",
            ],
            inputs=[
                io.Image.Input("image", tooltip="The decoded result, also after an upscaler."),
                FrameSocket.Input("frame", tooltip="From the Prepare Sketch node whose latent was sampled."),
                io.Image.Input(
                    "lines",
                    optional=True,
                    tooltip="The original drawing, as it went into Prepare Sketch: its lines are laid over the "
                    "result at full resolution. Leave it open to keep the model's own lines.",
                ),
                transparency_input("lines_mask", "drawing", "lines' transparency"),
                io.Combo.Input(
                    "polarity",
                    options=list(images.POLARITIES),
                    default="auto",
                    tooltip="How the lines are drawn; the same choice as in Prepare Sketch.",
                    advanced=True,
                ),
                io.Float.Input(
                    "line_opacity",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="Strength of the overlaid lines: 1 as dark as drawn, 0 none.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The coloured picture at the size of the drawing."),
                io.Image.Output(
                    display_name="colors", tooltip="The colour layer: the same without the drawing's lines."
                ),
                io.Image.Output(
                    display_name="line_layer",
                    tooltip="The line layer, RGBA: the drawing's lines on transparent ground, to multiply with.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        image: torch.Tensor,
        frame: images.Frame,
        lines: torch.Tensor | None = None,
        lines_mask: torch.Tensor | None = None,
        polarity: str = "auto",
        line_opacity: float = 1.0,
    ) -> io.NodeOutput:
        device = comfy.model_management.intermediate_device()
        dtype = comfy.model_management.intermediate_dtype()
        pictures = restore_size(image, frame, lines, lines_mask, polarity, line_opacity)
        return io.NodeOutput(*(picture.to(device=device, dtype=dtype) for picture in pictures))
