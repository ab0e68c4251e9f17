"""The figure of a drawing from its lines alone."""

from __future__ import annotations

import comfy.model_management
import torch
from comfy_api.latest import io, ui

from ..colorize.pictures import images
from ..colorize.pictures.figure_masks import check_mask
from ..colorize.pictures.mask_edits import MaskEdits, edit
from ..colorize.pictures.transparency import check_drawing
from .sockets import CATEGORY, Node, transparency_input

TINT = (1.0, 0.45, 0.1)  # of the figure in the preview
STRENGTH = 0.45


def tinted(image: torch.Tensor, figure: torch.Tensor) -> torch.Tensor:
    """Comfy picture of drawings and their masks (B, H, W) -> the same picture with tinted figures (B, H, W, 3)."""
    colours, alpha = images.rgb_and_alpha(image)
    paper = images.on_white(colours, alpha).movedim(1, -1)
    share = STRENGTH * figure[..., None]
    return paper * (1 - share) + share * paper.new_tensor(TINT)


class ColorizeFigureFromDrawing(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ColorizeFigureFromDrawing",
            display_name="Figure from Drawing",
            category=CATEGORY + "/masks",
            description="The figure_mask of a drawing from its lines alone, without a network to download: for "
            "drawings with a plain background, and pages of them, panel by panel. Look at its preview; paint a rough "
            "mask where it errs.",
            has_intermediate_output=True,
            search_aliases=["figure mask", "drawing mask", "flood fill", "segment sketch", "mask without download"],
            inputs=[
                io.Image.Input("image", tooltip="The drawing as it goes into Prepare Sketch, or a batch of them."),
                io.Int.Input(
                    "gap",
                    default=0,
                    min=0,
                    max=256,
                    tooltip="Widest gap in a line that still closes it, in pixels of the drawing, 1 to 256. 0: chosen "
                    "by the drawing's size and lines. Raise it if background runs into the figure, also to close an "
                    "outline that ends before the picture's edge.",
                ),
                io.Int.Input(
                    "grow",
                    default=0,
                    min=-256,
                    max=256,
                    tooltip="Pixels by which the figure grows on every side, -256 to 256; negative shrinks it. At 0 "
                    "its edge lies in the middle of the outline.",
                ),
                io.Mask.Input(
                    "rough_mask",
                    optional=True,
                    tooltip="The figure painted roughly (MASK of the drawing's Load Image after MaskEditor): every "
                    "part that is more than half painted becomes figure up to its lines, nothing else does.",
                ),
                io.Combo.Input(
                    "polarity",
                    options=list(images.POLARITIES),
                    default="auto",
                    optional=True,
                    advanced=True,
                    tooltip="How the drawing is drawn; the same choice as in Prepare Sketch.",
                ),
                transparency_input("mask", "drawing"),
            ],
            outputs=[
                io.Mask.Output(
                    display_name="figure_mask",
                    tooltip="1 = figure, 0 = background, the size of the drawing. Goes to figure_mask of Apply "
                    "Reference, with frame.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        image: torch.Tensor,
        gap: int = 0,
        grow: int = 0,
        rough_mask: torch.Tensor | None = None,
        polarity: str = "auto",
        mask: torch.Tensor | None = None,
    ) -> io.NodeOutput:
        from ..colorize.pictures.drawn_figure import drawn_figures

        images.check_image(image)
        check_drawing(image, mask, polarity)
        if rough_mask is not None:
            rough_mask = check_mask(rough_mask, "rough_mask")
            if not bool(rough_mask.any()):  # what Load Image gives for a picture that nobody painted on
                rough_mask = None
        figure = drawn_figures(image.cpu(), None if mask is None else mask.cpu(), polarity, gap or None, rough_mask)
        figure = edit(figure, MaskEdits(grow=grow))
        preview = ui.PreviewImage(tinted(image.cpu(), figure), cls=cls)
        return io.NodeOutput(figure.to(comfy.model_management.intermediate_device()), ui=preview)
