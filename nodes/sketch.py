"""Prepare a sketch: polarity, size, line strength."""

import comfy.model_management
import torch
from comfy_api.v0_0_2 import io

from ..colorize.pictures import images
from ..colorize.pictures.transparency import check_drawing
from ..colorize.sketch.extractors import lineart
from .sockets import CATEGORY, FrameSocket, Node, transparency_input

STEP = 64  # the deepest feature map is 1/64 of the picture
CLEAN_PAPER_SIDE = 2048  # clean_paper compares with the next few pixels: lines must not be much wider than those


def prepare_sketch(image, width, height, fit="pad", polarity="auto", line_contrast=1.0, clean_paper=False, mask=None):
    """Comfy picture of a drawing -> (model sketch (B, 3, height, width) in -1..1, images.Frame)."""
    if width % STEP or height % STEP:
        raise ValueError(
            f"The size must be divisible by {STEP}, not {width}x{height}. "
            f"The nearest is {nearest_size(width)}x{nearest_size(height)}."
        )
    check_drawing(image, mask, polarity)
    sketch = images.comfy_image_to_sketch(image, mask, polarity)
    source = sketch.shape[-2:]
    if clean_paper:
        sketch = lineart.standard(images.invert(images.reduced(sketch, CLEAN_PAPER_SIDE))).expand(-1, 3, -1, -1)
    sketch, frame = images.place(sketch, height, width, fit, source=source)
    return images.line_contrast(sketch, line_contrast), frame  # after resizing, which thins the lines


def nearest_size(size):
    return max(STEP, round(size / STEP) * STEP)


class ColorizePrepareSketch(Node):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="ColorizePrepareSketch",
            display_name="Prepare Sketch",
            category=CATEGORY + "/basic",
            description="Use it on every drawing: brings it to white lines on black and to the size to sample. "
            "Preview the sketch output to see what the model sees.",
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
                    step=STEP,
                    tooltip="Width to sample in pixels. Official models: 512 (up to 768); bundled small model: 256.",
                ),
                io.Int.Input("height", default=512, min=64, max=8192, step=STEP, tooltip="Height to sample in pixels."),
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
    def execute(cls, image, width, height, fit="pad", polarity="auto", line_contrast=1.0, clean_paper=False, mask=None):
        sketch, frame = prepare_sketch(image, width, height, fit, polarity, line_contrast, clean_paper, mask)
        device = comfy.model_management.intermediate_device()
        dtype = comfy.model_management.intermediate_dtype()
        latent = torch.zeros(sketch.shape[0], 4, height // 8, width // 8, device=device, dtype=dtype)
        picture = images.model_image_to_comfy(sketch).to(device=device, dtype=dtype)
        return io.NodeOutput(picture, {"samples": latent, "downscale_ratio_spacial": 8}, frame)
