"""From the lines to regions, and from a soft result to flats."""

from __future__ import annotations

import numpy as np
import torch
from comfy_api.v0_0_2 import io

from ..colorize.pictures import flat_batch, images
from ..colorize.pictures.flat_batch import FlatBatch
from ..colorize.pictures.flatten import ONE_COLOUR
from ..colorize.pictures.hints import Hints
from ..colorize.pictures.palette import Palette
from ..colorize.pictures.regions import RegionMap, Regions, find_regions
from .sockets import CATEGORY, FlatsSocket, Node, PaletteSocket, RegionsSocket

PREVIEW_HUE = 0.618034  # golden ratio: neighbouring numbers get far hues


def region_colours(count: int) -> np.ndarray:
    """(count, 3) float32 sRGB 0..1: colours of chance that are far from each other."""
    hues = (np.arange(count)[:, None] * PREVIEW_HUE + np.array([0, 1 / 3, 2 / 3])) % 1
    return (0.62 + 0.33 * np.cos(2 * np.pi * hues)).astype(np.float32)


def under_lines(colours: np.ndarray, found: RegionMap) -> torch.Tensor:
    """Colours (H, W, 3) sRGB 0..1 with the lines of their drawing on top."""
    return torch.from_numpy(colours * (1 - found.ink[..., None].astype(np.float32) / 255))


def regions_preview(regions: Regions) -> torch.Tensor:
    """Comfy picture (B, H, W, 3) with a colour of its own for every region, under the lines."""
    return torch.stack([under_lines(region_colours(found.count)[found.labels], found) for found in regions.maps])


def pictures_of(batch: FlatBatch, shaded: bool) -> torch.Tensor:
    """Comfy picture (B, H, W, 3) of a COLORIZE_FLATS, with or without its shading."""
    shades = batch.shades() if shaded else [None] * len(batch.flats)
    return torch.stack(
        [torch.from_numpy(flat_batch.flat_picture(flats, shade)) for flats, shade in zip(batch.flats, shades)]
    )


def hints_of(image: torch.Tensor | None, mask: torch.Tensor | None, everywhere: bool) -> tuple[Hints | None, ...]:
    """Hints of a comfy picture (B, H, W, 3 or 4) and the MASK of its Load Image node (1 = transparent)."""
    if image is None:
        return (None,)
    colours, alpha = images.rgb_and_alpha(image, mask, "hints")
    if alpha is None:
        raise ValueError(
            "The hints are opaque everywhere. Paint dots or strokes on a transparent layer, save it as PNG, and "
            "connect IMAGE and MASK of its Load Image node to hints and hints_mask."
        )
    rgba = torch.cat([colours, alpha], dim=1).movedim(1, -1).cpu().numpy()
    return tuple(Hints(row, everywhere) for row in rgba)


class ColorizeFindRegions(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ColorizeFindRegions",
            display_name="Find Regions",
            category=CATEGORY + "/flats",
            description="Finds what a painter's bucket should fill in a line drawing, though its lines have gaps. The "
            "first step to flats: connect regions to Flatten Colours.",
            search_aliases=["line art segmentation", "flat color", "flatting", "gap closing", "bucket fill", "lasso"],
            inputs=[
                io.Image.Input(
                    "lines", tooltip="The drawing at its full size, the same that went into Prepare Sketch."
                ),
                io.Mask.Input(
                    "lines_mask",
                    optional=True,
                    tooltip="MASK of the same Load Image node, for drawings with transparency.",
                ),
                io.Float.Input(
                    "gap",
                    default=0.0,
                    min=0.0,
                    max=1000.0,
                    step=1.0,
                    tooltip="Widest gap in a line that is closed, in pixels of the drawing. 0: chosen by the drawing's "
                    "size and the width of its lines.",
                ),
                io.Combo.Input(
                    "polarity",
                    options=list(images.POLARITIES),
                    default="auto",
                    tooltip="How the lines are drawn; the same choice as in Prepare Sketch.",
                    advanced=True,
                ),
            ],
            outputs=[
                RegionsSocket.Output(display_name="regions", tooltip="Goes to Flatten Colours."),
                io.Image.Output(display_name="preview", tooltip="The regions in colours of chance, under the lines."),
            ],
        )

    @classmethod
    def execute(
        cls, lines: torch.Tensor, lines_mask: torch.Tensor | None = None, gap: float = 0.0, polarity: str = "auto"
    ) -> io.NodeOutput:
        regions = find_regions(lines.cpu(), None if lines_mask is None else lines_mask.cpu(), polarity, gap or None)
        return io.NodeOutput(regions, regions_preview(regions))


class ColorizeFlattenColors(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ColorizeFlattenColors",
            display_name="Flatten Colours",
            category=CATEGORY + "/flats",
            description="Turns a soft result into clean flats with the drawing's own edges, one colour for everything "
            "that is one thing, and shading apart. The model says which colour, the lines say where.",
            search_aliases=["flats", "flat color", "cel shading", "posterize", "flatten", "color separation", "hints"],
            inputs=[
                io.Image.Input("image", tooltip="The coloured result at any size: of VAE Decode or of Restore Size."),
                RegionsSocket.Input("regions", tooltip="From Find Regions of the same drawing."),
                io.Int.Input(
                    "colors",
                    default=0,
                    min=0,
                    max=256,
                    tooltip="How many colours the flats may have. 0: as many as the result. A palette overrules it.",
                ),
                io.Combo.Input(
                    "shading",
                    options=list(flat_batch.SHADING),
                    default="smooth",
                    tooltip="What the result adds to its flats: soft shadows and lights, one or two shadow tones with "
                    "crisp edges as in animation, or nothing.",
                ),
                PaletteSocket.Input(
                    "palette",
                    optional=True,
                    tooltip="Only these colours are used, to the bit. From Palette from Reference.",
                ),
                io.Image.Input(
                    "hints",
                    optional=True,
                    tooltip="Dots or strokes of colour on a transparent picture of the drawing's size: each sets the "
                    "colour of the region it lies on.",
                ),
                io.Mask.Input("hints_mask", optional=True, tooltip="MASK of the hints' Load Image node."),
                io.Boolean.Input(
                    "hints_everywhere",
                    default=False,
                    tooltip="A hint also sets all other regions that had the colour of the hinted one.",
                    advanced=True,
                ),
                io.Float.Input(
                    "tolerance",
                    default=ONE_COLOUR,
                    min=0.0,
                    max=0.5,
                    step=0.005,
                    tooltip="Colours of the result that lie nearer to each other become one (distance in OKLab; 0.02 "
                    "is just visible). Not used with a palette.",
                    advanced=True,
                ),
                io.Boolean.Input(
                    "together",
                    default=False,
                    tooltip="All results are of the same drawing, with different seeds: they vote on the colour of "
                    "every region, and one set of flats comes out.",
                    advanced=True,
                ),
            ],
            outputs=[
                FlatsSocket.Output(display_name="flats", tooltip="Goes to Lock to Palette or to Save Layers."),
                io.Image.Output(display_name="image", tooltip="The flats without lines, at the size of the drawing."),
                io.Image.Output(display_name="shaded", tooltip="The flats with their shading, without lines."),
                PaletteSocket.Output(display_name="palette", tooltip="The colours of the first picture's flats."),
            ],
        )

    @classmethod
    def execute(
        cls,
        image: torch.Tensor,
        regions: Regions,
        colors: int = 0,
        shading: str = "smooth",
        palette: Palette | None = None,
        hints: torch.Tensor | None = None,
        hints_mask: torch.Tensor | None = None,
        hints_everywhere: bool = False,
        tolerance: float = ONE_COLOUR,
        together: bool = False,
    ) -> io.NodeOutput:
        images.check_image(image)
        given = hints_of(hints, hints_mask, hints_everywhere)
        batch = flat_batch.flat_batch(regions, image, palette, colors or None, given, shading, tolerance, together)
        return io.NodeOutput(batch, pictures_of(batch, False), pictures_of(batch, True), batch.flats[0].palette)
