"""What goes home with the animator: a layered document."""

from __future__ import annotations

import os

import torch
from comfy_api.v0_0_2 import io, ui

from ..colorize.counts import check_count
from ..colorize.pictures import artist_lines, images, layer_files, layers
from ..colorize.pictures.flat_batch import FlatBatch
from .sockets import CATEGORY, FlatsSocket, Node, output_place

FORMATS = ("psd", "ora", "psd and ora")


def documents(
    flats: FlatBatch,
    lines: torch.Tensor,
    lines_mask: torch.Tensor | None = None,
    polarity: str = "auto",
    split: str = "one layer",
    figure: torch.Tensor | None = None,
    reference: torch.Tensor | None = None,
) -> list[tuple[layers.Layer, ...]]:
    """The layers of every picture of a COLORIZE_FLATS, the lowest first."""
    images.check_image(lines, "lines")
    rows = artist_lines.line_layer(lines.cpu(), None if lines_mask is None else lines_mask.cpu(), polarity)
    masks = None if figure is None else figure.reshape(-1, *figure.shape[-2:]).float().cpu()
    for name, rows_of in (("drawings", rows), ("figure masks", masks)):
        if rows_of is not None:
            advice = "Use one drawing and mask, or as many as flats."
            check_count(name, len(rows_of), len(flats.flats), "flats", advice)
    picture = None if reference is None else images.on_white(*images.rgb_and_alpha(reference[:1], name="reference"))
    hidden = None if picture is None else picture[0].movedim(0, -1).cpu().numpy()
    made = []
    for number, (one, shading) in enumerate(zip(flats.flats, flats.shades())):
        ink = rows[number % len(rows)].movedim(0, -1).numpy()
        mask = None if masks is None else masks[number % len(masks)].numpy()
        made.append(layers.stack(one, ink, shading, split, mask, hidden))
    return made


class ColorizeSaveLayers(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ColorizeSaveLayers",
            display_name="Save Layers",
            category=CATEGORY + "/flats",
            description="Writes a layered document for Photoshop, Clip Studio and Krita: lines, light, shade, flats, "
            "the background apart where a figure mask is connected, and the reference as a hidden layer.",
            search_aliases=["psd", "photoshop", "krita", "clip studio", "openraster", "ora", "export layers"],
            is_output_node=True,
            inputs=[
                FlatsSocket.Input("flats", tooltip="From Flatten Colours or Lock to Palette."),
                io.Image.Input(
                    "lines", tooltip="The drawing that the regions were found in: it becomes the line layer."
                ),
                io.String.Input(
                    "filename_prefix",
                    default="layers",
                    tooltip="Begin of the file name in the output folder; a number is added. It may name subfolders, "
                    "and dates as %year%.",
                ),
                io.Combo.Input(
                    "format",
                    options=list(FORMATS),
                    default="psd",
                    tooltip="psd: Photoshop, Clip Studio, Krita. ora: OpenRaster, for Krita and GIMP.",
                ),
                io.Combo.Input(
                    "split",
                    options=list(layers.SPLITS),
                    default="one layer",
                    tooltip="The flats as one layer, or as a group with one layer for every colour or region.",
                ),
                io.Mask.Input(
                    "lines_mask",
                    optional=True,
                    tooltip="MASK of the drawing's Load Image node, for drawings with transparency.",
                ),
                io.Mask.Input(
                    "figure_mask",
                    optional=True,
                    tooltip="Where the figure is, at the size of the drawing: the background gets a layer of its own.",
                ),
                io.Image.Input("reference", optional=True, tooltip="Kept as a hidden layer at the bottom."),
                io.Combo.Input(
                    "polarity",
                    options=list(images.POLARITIES),
                    default="auto",
                    tooltip="How the lines are drawn; the same choice as in Prepare Sketch.",
                    advanced=True,
                ),
                io.Float.Input(
                    "dpi",
                    default=300.0,
                    min=1.0,
                    max=10000.0,
                    step=1.0,
                    tooltip="Resolution that the document states, in pixels per inch.",
                    advanced=True,
                ),
            ],
            outputs=[
                io.Image.Output(display_name="preview", tooltip="What the document shows when it is opened."),
                io.String.Output(display_name="files", tooltip="Names of the written files, one per line."),
            ],
        )

    @classmethod
    def execute(
        cls,
        flats: FlatBatch,
        lines: torch.Tensor,
        filename_prefix: str = "layers",
        format: str = "psd",
        split: str = "one layer",
        lines_mask: torch.Tensor | None = None,
        figure_mask: torch.Tensor | None = None,
        reference: torch.Tensor | None = None,
        polarity: str = "auto",
        dpi: float = 300.0,
    ) -> io.NodeOutput:
        found = documents(flats, lines, lines_mask, polarity, split, figure_mask, reference)
        written, previews = [], []
        for document in found:
            height, width = document[0].pixels.shape[:2]
            folder, name, _, subfolder = output_place(filename_prefix, "layers", width=width, height=height)
            stem = _free_name(folder, name)
            for ending in format.split(" and "):
                layer_files.save_layers(document, os.path.join(folder, f"{stem}.{ending}"), dpi)
                written.append({"filename": f"{stem}.{ending}", "subfolder": subfolder, "type": "output"})
            shown = torch.from_numpy(layers.composite(document)).float() / 255
            previews.append(shown[..., :3] * shown[..., 3:] + 1 - shown[..., 3:])
        names = "\n".join(os.path.join(row["subfolder"], row["filename"]).replace(os.sep, "/") for row in written)
        preview = torch.stack(previews)
        return io.NodeOutput(preview, names, ui={"layers": written, **ui.PreviewImage(preview, cls=cls).as_dict()})


def _free_name(folder: str, name: str) -> str:
    """NAME_00001_, or the first number that no document of this name has."""
    number = 1
    while any(os.path.exists(os.path.join(folder, f"{name}_{number:05}_{ending}")) for ending in layer_files.ENDINGS):
        number += 1
    return f"{name}_{number:05}_"
