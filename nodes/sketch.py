"""Prepare a sketch: polarity, size, line strength."""

from __future__ import annotations

import comfy.model_management
import torch
from comfy_api.v0_0_2 import io, ui

from ..colorize.pictures import canvas, images
from ..colorize.pictures.sides import sides_of
from ..colorize.pictures.transparency import check_drawing
from ..colorize.sketch.extractors import lineart
from .known_before import sampled_size
from .sockets import CATEGORY, FrameSocket, Node, transparency_input

GIVEN, FOLLOW = canvas.SIZES
PREVIEWS = 4  # of a batch, shown on the node: frames of a video would fill the disk
CLEAN_PAPER_SIDE = 2048  # clean_paper compares with the next few pixels: lines must not be much wider than those


def prepare_sketch(
    image: torch.Tensor,
    width: int,
    height: int,
    fit: str = "pad",
    polarity: str = "auto",
    line_contrast: float = 1.0,
    clean_paper: bool = False,
    mask: torch.Tensor | None = None,
    size: str = GIVEN,
) -> tuple[torch.Tensor, images.Frame]:
    """Comfy picture of a drawing -> (model sketch (B, 3, canvas height, canvas width) in -1..1, images.Frame)."""
    check_size(width, height)
    check_drawing(image, mask, polarity)
    sketch = images.comfy_image_to_sketch(image, mask, polarity)
    source = sides_of(sketch)
    if size == FOLLOW:
        width, height = canvas.following(source[0], source[1], width * height)
    if clean_paper:
        sketch = lineart.standard(images.invert(images.reduced(sketch, CLEAN_PAPER_SIDE))).expand(-1, 3, -1, -1)
    sketch, frame = images.place(sketch, height, width, fit, source=source)
    return images.line_contrast(sketch, line_contrast), frame  # after resizing, which thins the lines


def check_size(width: int, height: int) -> None:
    """Raise ValueError for a size that cannot be sampled."""
    if width % canvas.STEP or height % canvas.STEP:
        raise ValueError(
            f"The size must be divisible by {canvas.STEP}, not {width}x{height}. "
            f"The nearest is {canvas.nearest_side(width)}x{canvas.nearest_side(height)}."
        )


class ColorizePrepareSketch(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ColorizePrepareSketch",
            display_name="Prepare Sketch",
            category=CATEGORY + "/basic",
            description="Use it on every drawing: brings it to white lines on black and to the size to sample. "
            "The node shows what the model sees.",
            has_intermediate_output=True,
            search_aliases=["line art", "lineart", "sketch", "invert sketch", "resize sketch", "polarity"],
            inputs=[
                io.Image.Input(
                    "image", tooltip="The drawing, or a batch of them. Colour, grey and RGBA pictures are accepted."
                ),
                io.Int.Input(
                    "width",
                    default=512,
                    min=64,
                    max=8192,
                    step=canvas.STEP,
                    tooltip="Width to sample in pixels, or of the square whose area size keeps. Official models: 512 "
                    "(up to 768), XL 1024; bundled small model: 256.",
                ),
                io.Int.Input(
                    "height", default=512, min=64, max=8192, step=canvas.STEP, tooltip="Height to sample, likewise."
                ),
                io.Combo.Input(
                    "fit",
                    options=list(images.FITS),
                    default="pad",
                    tooltip="pad shows the whole drawing with blank margins, which Restore Size removes; crop fills "
                    "the size and cuts off the rest; stretch changes the proportions.",
                ),
                io.Combo.Input(
                    "polarity",
                    options=list(images.POLARITIES),
                    default="auto",
                    tooltip="How the drawing is drawn. auto recognises dark lines on light paper, light on dark, "
                    "and transparent line layers (connect transparency). Choose by hand when the preview shows it "
                    "the wrong way round.",
                ),
                io.Float.Input(
                    "line_contrast",
                    default=1.0,
                    min=0.25,
                    max=4.0,
                    step=0.05,
                    tooltip="Strength of the lines, times. 1 leaves them as drawn; 1.5 to 3 helps with faint pencil.",
                ),
                io.Boolean.Input(
                    "clean_paper",
                    default=False,
                    advanced=True,
                    tooltip="For photographed or scanned paper: removes shades and yellowing and keeps what is "
                    "darker than its surroundings. Large black areas become outlines.",
                ),
                transparency_input("mask", "drawing"),
                io.Combo.Input(
                    "size",
                    options=list(canvas.SIZES),
                    default=FOLLOW,
                    optional=True,
                    tooltip="follow the drawing: the drawing's own proportions at the area of width x height, so that "
                    "nothing is spent on margins; give the square that the model was trained at. width x height: that "
                    "canvas, as fit says; API prompts that name no size mean this.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="sketch",
                    tooltip="What the model sees: white lines on black. Goes to Apply ControlNet.",
                ),
                io.Latent.Output(
                    display_name="latent", tooltip="Empty latent of the same size and count, for the sampler."
                ),
                FrameSocket.Output(
                    display_name="frame", tooltip="Where the drawing lies on the canvas. Goes to Restore Size."
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, width: int | None, height: int | None) -> bool | str:
        return sampled_size(width, height)

    @classmethod
    def execute(
        cls,
        image: torch.Tensor,
        width: int,
        height: int,
        fit: str = "pad",
        polarity: str = "auto",
        line_contrast: float = 1.0,
        clean_paper: bool = False,
        mask: torch.Tensor | None = None,
        size: str = GIVEN,
    ) -> io.NodeOutput:
        sketch, frame = prepare_sketch(image, width, height, fit, polarity, line_contrast, clean_paper, mask, size)
        device = comfy.model_management.intermediate_device()
        dtype = comfy.model_management.intermediate_dtype()
        latent = torch.zeros(sketch.shape[0], 4, frame.height // 8, frame.width // 8, device=device, dtype=dtype)
        picture = images.model_image_to_comfy(sketch).to(device=device, dtype=dtype)
        shown = ui.PreviewImage(picture[:PREVIEWS], cls=cls)
        return io.NodeOutput(picture, {"samples": latent, "downscale_ratio_spacial": 8}, frame, ui=shown)
