"""Shots: one coloured key for all frames, figures followed, and a look at what is matched with what."""

from __future__ import annotations

from collections.abc import Callable

import comfy.model_management
import comfy.utils
import numpy as np
import torch
from comfy_api.v0_0_2 import io, ui

from ..colorize.pictures import images
from ..colorize.pictures.figure_masks import check_mask
from ..colorize.pictures.flat_batch import FlatBatch
from ..colorize.pictures.palette import Palette
from ..colorize.pictures.regions import Regions
from ..colorize.shots.carrying import SURE, carried
from ..colorize.shots.figures import followed
from ..colorize.shots.review import told
from ..colorize.shots.shapes import shapes_of
from ..colorize.shots.shot_flats import shot_flats
from .flats import hints_of, pictures_of, region_colours, under_lines
from .sockets import CATEGORY, FlatsSocket, Node, PaletteSocket, RegionsSocket

NO_MATCH = 0.5  # grey of what has no match


def progress_of(count: int) -> Callable[[], None]:
    """What a walk through a shot calls at every step: the node's bar moves, and an interruption ends it."""
    bar = comfy.utils.ProgressBar(count)

    def step() -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        bar.update(1)

    return step


def matches_preview(regions: Regions, key_frame: int) -> torch.Tensor:
    """Comfy picture (B, H, W, 3): the key frame's regions in colours of chance, in all frames where they were found."""
    count = len(regions.maps)
    if not 0 <= key_frame < count:
        raise ValueError(f"key_frame is {key_frame}; the drawings are numbered 0 to {count - 1}.")
    key = regions.maps[key_frame]
    shapes = [shapes_of(one) for one in regions.maps]
    beliefs = carried(shapes, {key_frame: key.region_of}, key.count, on_frame=progress_of(count - 1))
    colours = np.concatenate([region_colours(key.count), np.full((1, 3), NO_MATCH, np.float32)])
    pictures = []
    for one, belief in zip(regions.maps, beliefs):
        region = np.where(belief.max(axis=1) >= SURE, belief.argmax(axis=1), key.count)
        pictures.append(under_lines(colours[region][one.pieces], one))
    return torch.stack(pictures)


class ColorizeMatchRegions(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ColorizeMatchRegions",
            display_name="Match Regions",
            category=CATEGORY + "/flats",
            description="Shows which region of a key drawing is which in the other drawings of a shot, before anything "
            "is coloured. What is grey will be left to the model by Carry Colours.",
            search_aliases=["correspondence", "segment matching", "inclusion matching", "inbetween", "animation"],
            inputs=[
                RegionsSocket.Input("regions", tooltip="From Find Regions of all drawings of the shot as one batch."),
                io.Int.Input(
                    "key_frame", default=0, min=0, max=100000, tooltip="Number of the key drawing, counted from 0."
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="preview",
                    tooltip="Every region of the key in one colour throughout; grey where no match is sure.",
                )
            ],
        )

    @classmethod
    def execute(cls, regions: Regions, key_frame: int = 0) -> io.NodeOutput:
        return io.NodeOutput(matches_preview(regions, key_frame))


MOST_FIGURES = 4


class ColorizeFollowFigures(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        numbers = range(1, MOST_FIGURES + 1)
        return io.Schema(
            node_id="ColorizeFollowFigures",
            display_name="Follow Figures",
            category=CATEGORY + "/flats",
            description="Several characters in a shot: name each once, by a mask on one frame, and get its masks for "
            "all frames. They go to Add Region, so that every figure keeps the colours of its own reference.",
            search_aliases=["cast", "track", "several characters", "rotoscope", "mask propagation", "two characters"],
            inputs=[
                RegionsSocket.Input("regions", tooltip="From Find Regions of all drawings of the shot as one batch."),
                io.Mask.Input("mask_1", tooltip="The first figure in the key frame: 1 = figure, painted roughly."),
                *(
                    io.Mask.Input(
                        f"mask_{number}",
                        optional=True,
                        tooltip="Another figure in the same frame. Where masks overlap, the higher number counts.",
                    )
                    for number in numbers[1:]
                ),
                io.Int.Input(
                    "key_frame",
                    default=0,
                    min=0,
                    max=100000,
                    tooltip="Number of the frame that the masks were painted on, counted from 0.",
                ),
            ],
            outputs=[
                *(
                    io.Mask.Output(
                        display_name=f"figure_{number}",
                        tooltip=f"Where figure {number} is, a mask for every frame: to Add Region or Apply Reference.",
                    )
                    for number in numbers
                ),
                io.Mask.Output(display_name="unsure", tooltip="1 where it was a guess: look there."),
            ],
        )

    @classmethod
    def execute(
        cls,
        regions: Regions,
        mask_1: torch.Tensor,
        mask_2: torch.Tensor | None = None,
        mask_3: torch.Tensor | None = None,
        mask_4: torch.Tensor | None = None,
        key_frame: int = 0,
    ) -> io.NodeOutput:
        given = {number: mask for number, mask in enumerate((mask_1, mask_2, mask_3, mask_4)) if mask is not None}
        rows = [check_mask(mask, f"mask_{number + 1}")[0].cpu().numpy() for number, mask in given.items()]
        if len({row.shape for row in rows}) > 1:
            sizes = ", ".join(f"{row.shape[1]}x{row.shape[0]}" for row in rows)
            raise ValueError(f"The masks have different sizes ({sizes}); paint all over the drawing of the key frame.")
        found = followed(regions.maps, np.stack(rows), key_frame, progress_of(len(regions.maps) - 1))
        nobody = torch.zeros(found.unsure.shape)
        figures = dict(zip(given, torch.from_numpy(found.masks).unbind(1), strict=True))
        return io.NodeOutput(
            *(figures.get(number, nobody) for number in range(MOST_FIGURES)), torch.from_numpy(found.unsure)
        )


class ColorizeCarryColors(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ColorizeCarryColors",
            display_name="Carry Colours",
            category=CATEGORY + "/flats",
            description="Gives all frames of a shot the colours of one coloured key: exactly where a region is surely "
            "the same thing, and by the model's result where it is not. Says which regions to look at.",
            search_aliases=["animation", "key frame", "inbetween", "consistency", "flicker", "propagate", "shot"],
            inputs=[
                FlatsSocket.Input("flats", tooltip="From Flatten Colours of all frames of the shot as one batch."),
                io.Image.Input(
                    "key", tooltip="The coloured key, without lines or with: painted flats are kept to the bit."
                ),
                io.Int.Input(
                    "key_frame",
                    default=0,
                    min=0,
                    max=100000,
                    tooltip="Which frame the key colours, counted from 0. With key_regions: before which frame it "
                    "stands.",
                ),
                RegionsSocket.Input(
                    "key_regions",
                    optional=True,
                    tooltip="Only for a key whose drawing is not among the frames: Find Regions of that drawing.",
                ),
                PaletteSocket.Input(
                    "palette",
                    optional=True,
                    tooltip="Further colours of the shot, for things that the key does not show.",
                ),
                io.Image.Input(
                    "hints",
                    optional=True,
                    tooltip="A correction: dots of colour on a transparent picture over one frame. It is carried over "
                    "the shot.",
                ),
                io.Mask.Input("hints_mask", optional=True, tooltip="MASK of the hints' Load Image node."),
                io.Int.Input(
                    "hints_frame",
                    default=0,
                    min=0,
                    max=100000,
                    tooltip="The frame that the hints were painted on, counted from 0.",
                ),
            ],
            outputs=[
                FlatsSocket.Output(display_name="flats", tooltip="Goes to Save Layers."),
                io.Image.Output(display_name="image", tooltip="The flats without lines, at the size of the drawings."),
                io.Image.Output(display_name="shaded", tooltip="The flats with their shading, without lines."),
                io.Mask.Output(display_name="unsure", tooltip="1 where the key's colours were not carried."),
                io.Mask.Output(
                    display_name="flicker",
                    tooltip="Where a region that is surely the same has another colour than in the frame before.",
                ),
                io.String.Output(
                    display_name="report",
                    tooltip="The unsure things: in which frames, which colour, where, how large.",
                ),
                io.Image.Output(
                    display_name="sheet",
                    tooltip="All frames at a glance: unsure things outlined, with their numbers; flicker in red.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        flats: FlatBatch,
        key: torch.Tensor,
        key_frame: int = 0,
        key_regions: Regions | None = None,
        palette: Palette | None = None,
        hints: torch.Tensor | None = None,
        hints_mask: torch.Tensor | None = None,
        hints_frame: int = 0,
    ) -> io.NodeOutput:
        images.check_image(key, "key")
        picture = images.on_white(*images.rgb_and_alpha(key[:1], name="key"))[0].movedim(0, -1).cpu().numpy()
        given = hints_of(hints, hints_mask, False)[0]
        made = shot_flats(
            flats,
            picture,
            key_frame,
            key_regions.maps[0] if key_regions else None,
            palette,
            {hints_frame: given} if given else None,
            progress_of((len(flats.flats) - (key_regions is None)) * (2 if given else 1)),
        )
        text = told(made.unsure, len(flats.flats))
        return io.NodeOutput(
            made.batch,
            pictures_of(made.batch, False),
            pictures_of(made.batch, True),
            torch.from_numpy(made.masks),
            torch.from_numpy(made.flicker),
            text,
            torch.from_numpy(made.sheet.copy())[None].float() / 255,
            ui=ui.PreviewText(text),
        )
