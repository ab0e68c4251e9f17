"""Palettes: taken from a reference, edited as text, kept in files; flats that use nothing else."""

from __future__ import annotations

import os

import folder_paths
import numpy as np
import torch
from comfy_api.v0_0_2 import io, ui

from ..colorize.pictures import images
from ..colorize.pictures import palette as palettes
from ..colorize.pictures.flat_batch import FlatBatch
from ..colorize.pictures.palette import Palette
from ..colorize.reference.types import Reference
from .flats import pictures_of
from .known_before import within
from .sockets import CATEGORY, FlatsSocket, Node, PaletteSocket, ReferenceSocket, plain_name

FOLDER = "palettes"  # in ComfyUI's output folder
SWATCH = 64  # pixels


def palette_file(name: str) -> str:
    """Path of a palette in ComfyUI's input folder or in output/palettes. Raises ValueError where there is none."""
    for folder in (folder_paths.get_input_directory(), os.path.join(folder_paths.get_output_directory(), FOLDER)):
        path = os.path.abspath(os.path.join(folder, name))
        if within(path, folder) and os.path.isfile(path):
            return path
    raise ValueError(
        f"There is no palette {name!r} in ComfyUI's input folder or in output/{FOLDER}. Put the .gpl or .json file "
        "there, or leave the name empty to take the colours from the picture."
    )


def swatches(palette: Palette) -> torch.Tensor:
    """Comfy picture (1, H, W, 3): a square of every colour, eight in a row, on white."""
    colours = torch.from_numpy(palette.srgb.astype(np.float32) / 255)
    rows = -(-len(colours) // 8)
    grid = torch.ones(rows * 8, 3)
    grid[: len(colours)] = colours
    grid = grid.reshape(rows, 8, 3).repeat_interleave(SWATCH, 0).repeat_interleave(SWATCH, 1)
    return grid[None]


def palette_of_image(image: torch.Tensor, mask: torch.Tensor | None = None, colors: int = 0) -> Palette:
    """The palette of the first picture of a comfy batch, of what is opaque and of what the MASK counts (1 = counted).

    colors: how many, 0 = as many as there are.
    """
    colours, alpha = images.rgb_and_alpha(image[:1], name="image")
    counted = None if alpha is None else alpha[0, 0].cpu().numpy()
    if mask is not None:
        figure = mask.reshape(-1, *mask.shape[-2:])[0].float().cpu().numpy()
        counted = figure if counted is None else counted * figure
    return palettes.palette_of(colours[0].movedim(0, -1).cpu().numpy(), counted, colors or None)


def find_palette(
    text: str,
    file_name: str,
    reference: Reference | None,
    image: torch.Tensor | None,
    mask: torch.Tensor | None,
    colors: int,
) -> Palette:
    """The palette of the first of these that is given: text, file, picture, reference card."""
    if text.strip():
        return palettes.from_text(text)
    if file_name.strip():
        return palettes.load(palette_file(file_name.strip()))
    if image is not None:
        return palette_of_image(image, mask, colors)
    if reference is not None and reference.palette:
        return palettes.from_text("\n".join(reference.palette))
    raise ValueError(
        "There is nothing to take a palette from: connect the reference picture to image, or a reference card that was "
        "saved with its picture, write colours into text, or name a palette file."
    )


class ColorizePaletteFromReference(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ColorizePaletteFromReference",
            display_name="Palette from Reference",
            category=CATEGORY + "/flats",
            description="The colours of a character: taken from a reference or a character sheet, from a file, or "
            "written as text. With Lock to Palette every drawing of a shot gets exactly these.",
            search_aliases=["palette", "color palette", "gpl", "swatches", "character colors", "extract colors"],
            inputs=[
                io.Image.Input("image", optional=True, tooltip="The reference or character sheet, as drawn."),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Where the figure is, 1 = counted, as Segment Character gives it. Without one all of the "
                    "picture counts.",
                ),
                ReferenceSocket.Input(
                    "reference",
                    optional=True,
                    tooltip="A reference whose card has a palette; used where no picture is connected.",
                ),
                io.Int.Input(
                    "colors",
                    default=0,
                    min=0,
                    max=256,
                    tooltip="How many colours are taken from the picture, the most common first. 0: as many as it has.",
                ),
                io.String.Input(
                    "text",
                    default="",
                    multiline=True,
                    tooltip="When not empty, this is the palette: one line per colour, #rrggbb and a name. Copy the "
                    "text output here to change it.",
                ),
                io.String.Input(
                    "file_name",
                    default="",
                    tooltip="When not empty and text is empty: a .gpl or .json palette in ComfyUI's input folder or in "
                    "output/palettes.",
                    advanced=True,
                ),
                io.String.Input(
                    "save_as",
                    default="",
                    tooltip="When not empty: the palette is written to output/palettes under this name, as .gpl for "
                    "Krita, GIMP and Clip Studio and as .json. An older one of the same name is replaced.",
                    advanced=True,
                ),
            ],
            outputs=[
                PaletteSocket.Output(display_name="palette", tooltip="Goes to Lock to Palette or to Flatten Colours."),
                io.String.Output(display_name="text", tooltip="The palette as text, one line per colour."),
                io.Image.Output(display_name="swatches", tooltip="The colours, the most common first."),
            ],
        )

    @classmethod
    def execute(
        cls,
        image: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
        reference: Reference | None = None,
        colors: int = 0,
        text: str = "",
        file_name: str = "",
        save_as: str = "",
    ) -> io.NodeOutput:
        if image is not None:
            images.check_image(image)
        palette = find_palette(text, file_name, reference, image, mask, colors)
        if save_as.strip():
            folder = os.path.join(folder_paths.get_output_directory(), FOLDER)
            name = os.path.basename(save_as.strip().removesuffix(".gpl").removesuffix(".json"))
            if not plain_name(name):
                raise ValueError(
                    f"save_as is {save_as!r:.120}, which is no name of a file; write a plain one, for example: hero"
                )
            os.makedirs(folder, exist_ok=True)
            for ending in (".gpl", ".json"):
                palettes.save(palette, os.path.join(folder, name + ending))
        shown = palettes.to_text(palette)
        return io.NodeOutput(palette, shown, swatches(palette), ui=ui.PreviewText(shown))


class ColorizeLockToPalette(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ColorizeLockToPalette",
            display_name="Lock to Palette",
            category=CATEGORY + "/flats",
            description="Gives flats exactly the colours of a palette: which one a region takes is decided by the "
            "result's colours, its neighbours and how common the colour is in the reference.",
            search_aliases=["palette", "snap to palette", "exact colors", "color match", "quantize"],
            inputs=[
                FlatsSocket.Input("flats", tooltip="From Flatten Colours."),
                PaletteSocket.Input("palette", tooltip="From Palette from Reference."),
            ],
            outputs=[
                FlatsSocket.Output(display_name="flats", tooltip="Goes to Save Layers."),
                io.Image.Output(display_name="image", tooltip="The flats without lines, at the size of the drawing."),
                io.Image.Output(display_name="shaded", tooltip="The flats with their shading, without lines."),
            ],
        )

    @classmethod
    def execute(cls, flats: FlatBatch, palette: Palette) -> io.NodeOutput:
        batch = flats.locked(palette)
        return io.NodeOutput(batch, pictures_of(batch, False), pictures_of(batch, True))
