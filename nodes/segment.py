"""Figure masks: load a segmentation network, find the character."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import torch
from comfy_api.v0_0_2 import io

from ..colorize.pictures.mask_edits import MaskEdits, edit
from ..colorize.pictures.masks import WORKING_SIZE
from ..model_patches.inputs.segment import (
    ROUTES,
    cut_out,
    figure_masks,
    load_segmenter,
    segmenter_files,
    segmenter_path,
)
from .known_before import offered
from .sockets import CATEGORY, Node, provider_input, transparency_input

SegmenterSocket = io.Custom(
    "BACKGROUND_REMOVAL"
)  # ComfyUI's own type: model_patches.inputs.segment.LoadedSegmenter, BiRefNet


class ColorizeLoadSegmenter(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ColorizeLoadSegmenter",
            display_name="Load Segmenter",
            category=CATEGORY + "/masks",
            description="Loads a network that finds the character in anime pictures (isnetis) or in line drawings "
            "(sketch-segment). For Segment Character; ComfyUI's Remove Background runs it too.",
            search_aliases=["anime segmentation", "isnet", "background removal", "figure mask", "load segmentation"],
            inputs=[
                io.Combo.Input(
                    "segmenter_name",
                    options=segmenter_files(),
                    tooltip="File in models/background_removal: ISNet as .safetensors, .ckpt or .pth, or .onnx "
                    "(needs onnxruntime). Addresses are on the help page.",
                ),
                io.Combo.Input(
                    "made_for",
                    options=list(ROUTES),
                    default="pictures",
                    tooltip="What the file was trained on. pictures: isnetis, fed as its author does. drawings: "
                    "sketch-segment, for line art of any polarity. pictures (released): isnetis fed with inverted "
                    "colours, to repeat masks of the official application.",
                ),
                io.Int.Input(
                    "working_size",
                    default=WORKING_SIZE,
                    min=256,
                    max=2048,
                    step=64,
                    optional=True,
                    advanced=True,
                    tooltip="Side in pixels of the square the network reads, 256 to 2048. 1024 as trained; 640 is 2.5 "
                    "times faster and coarser. An .onnx file may fix its own size.",
                ),
                provider_input(),
            ],
            outputs=[
                SegmenterSocket.Output(
                    display_name="segmenter",
                    tooltip="The network. Goes to Segment Character or to ComfyUI's Remove Background.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, segmenter_name: str) -> bool | str:
        fits = "an ISNet (this node's help page has addresses; Figure from Drawing needs no file)"
        return offered(segmenter_name, segmenter_files(), ("background_removal",), fits)

    @classmethod
    def execute(
        cls, segmenter_name: str, made_for: str = "pictures", working_size: int = 1024, provider: str = "auto"
    ) -> io.NodeOutput:
        return io.NodeOutput(load_segmenter(segmenter_path(segmenter_name), made_for, working_size, provider))


class ColorizeSegmentCharacter(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ColorizeSegmentCharacter",
            display_name="Segment Character",
            category=CATEGORY + "/masks",
            description="Finds the figure of a reference or a drawing: the figure_mask that fig2fig needs, made by a "
            "network and repaired by hand-set rules. Also gives the cut-out figure.",
            search_aliases=["figure mask", "remove background", "anime mask", "cut out character", "matting"],
            inputs=[
                SegmenterSocket.Input(
                    "segmenter",
                    tooltip="From Load Segmenter, or from ComfyUI's Load Background Removal Model (BiRefNet).",
                ),
                io.Image.Input(
                    "image", tooltip="Pictures or drawings, any size, RGBA and grey too; one mask for each."
                ),
                io.Combo.Input(
                    "edges",
                    options=["soft", "hard"],
                    default="soft",
                    tooltip="soft keeps the network's values, for hair and blurred outlines. hard makes 0 and 1 of "
                    "them at threshold.",
                ),
                io.Float.Input(
                    "threshold",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="A pixel above this value counts as figure, 0 to 1: for hard edges, for parts and for "
                    "holes. Lower it when limbs or hair are missing.",
                ),
                io.Int.Input(
                    "keep_largest",
                    default=0,
                    min=0,
                    max=64,
                    tooltip="Number of separate parts to keep, the largest first; 0 keeps all. 1 for one character "
                    "with stray spots, 2 for two characters.",
                ),
                io.Float.Input(
                    "fill_holes",
                    default=0.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="Holes of the figure up to this share of the picture, in percent, are filled; 0 none, 100 "
                    "all. 0.5 to 1 closes spots inside clothes and keeps the gap between arm and body.",
                ),
                io.Int.Input(
                    "grow",
                    default=0,
                    min=-256,
                    max=256,
                    tooltip="Pixels by which the figure grows on every side, -256 to 256; negative shrinks it. The "
                    "released masks of references grow by 5, so that no rim of the figure stays in the background.",
                ),
                io.Int.Input(
                    "feather",
                    default=0,
                    min=0,
                    max=256,
                    tooltip="Width in pixels of a soft rim, 0 (none) to 256, half inside and half outside. Use it "
                    "with mask_edges soft in Apply Reference.",
                ),
                io.Combo.Input(
                    "ground",
                    options=["white", "black", "transparent"],
                    default="white",
                    optional=True,
                    advanced=True,
                    tooltip="What replaces the background in cut_out. transparent gives four channels, which some "
                    "nodes do not take.",
                ),
                transparency_input("mask", "picture"),
            ],
            outputs=[
                io.Mask.Output(
                    display_name="figure_mask",
                    tooltip="1 = figure, 0 = background, the size of the picture. Goes to figure_mask of Encode "
                    "Reference, Apply Reference (with frame, for drawings) or Add Region.",
                ),
                io.Image.Output(display_name="cut_out", tooltip="The figure alone, on the chosen ground."),
            ],
        )

    @classmethod
    def execute(
        cls,
        segmenter: Any,
        image: torch.Tensor,
        edges: str = "soft",
        threshold: float = 0.5,
        keep_largest: int = 0,
        fill_holes: float = 0.0,
        grow: int = 0,
        feather: int = 0,
        ground: str = "white",
        mask: torch.Tensor | None = None,
    ) -> io.NodeOutput:
        edits = MaskEdits(threshold, edges, keep_largest, fill_holes, grow, feather)
        figure = edit(figure_masks(segmenter, image, mask), edits)
        device = comfy.model_management.intermediate_device()
        return io.NodeOutput(figure.to(device), cut_out(image, figure, ground, mask).to(device))
