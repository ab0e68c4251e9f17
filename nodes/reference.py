"""Load the reference encoder and encode colour references."""

from __future__ import annotations

from typing import Any

import folder_paths
import torch
from comfy_api.v0_0_2 import io

from ..colorize.pictures import images
from ..colorize.pictures.figure_masks import check_mask
from ..colorize.reference.fitting import FIT_MODES
from ..model_patches.reference.encoder import LoadedReferenceEncoder, load_encoder
from ..model_patches.reference.tagger import LoadedTagger
from .known_before import offered
from .sockets import (
    CATEGORY,
    Node,
    ReferenceEncoderSocket,
    ReferenceSocket,
    TaggerSocket,
    share_input,
    transparency_input,
)

FIGURES = ("whole picture", "cut out")


class ColorizeLoadReferenceEncoder(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ColorizeLoadReferenceEncoder",
            display_name="Load Reference Encoder",
            category=CATEGORY + "/basic",
            description="Loads the image encoder that reads colour references. Official models: OpenCLIP ViT-H/14 (v1, "
            "v1.5, v2) or ViT-bigG/14 (XL); bundled small model: colorize_small_vision.",
            search_aliases=["clip vision", "open_clip", "ViT-H", "bigG", "reference encoder", "image encoder"],
            inputs=[
                io.Combo.Input(
                    "encoder_name",
                    options=folder_paths.get_filename_list("clip_vision"),
                    tooltip="File in models/clip_vision, in open_clip or Hugging Face layout, with the projection.",
                ),
            ],
            outputs=[
                ReferenceEncoderSocket.Output(
                    display_name="encoder", tooltip="The loaded encoder. Goes to Encode Reference."
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, encoder_name: str) -> bool | str:
        names = folder_paths.get_filename_list("clip_vision")
        return offered(encoder_name, names, ("clip_vision",), "the image encoder of your model (README, Weights)")

    @classmethod
    def execute(cls, encoder_name: str) -> io.NodeOutput:
        return io.NodeOutput(load_encoder(folder_paths.get_full_path_or_raise("clip_vision", encoder_name)))


class ColorizeEncodeReference(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ColorizeEncodeReference",
            display_name="Encode Reference",
            category=CATEGORY + "/basic",
            description="Turns a colour picture into a reference. Encode once and use it for as many sketches as "
            "you like; a batch of pictures gives one reference per sketch. With figure_mask or background it also "
            "holds the background on its own.",
            search_aliases=["reference image", "color reference", "style reference", "ip adapter", "encode image"],
            inputs=[
                ReferenceEncoderSocket.Input("encoder", tooltip="From Load Reference Encoder."),
                io.Image.Input("image", tooltip="The colour reference, or a batch of them. Any size."),
                io.Combo.Input(
                    "fit",
                    options=list(FIT_MODES),
                    default="stretch",
                    tooltip="How the picture becomes the encoder's square. stretch squashes it, as the models were "
                    "trained; trim first cuts margins of one colour off, for figures that are small on blank paper; "
                    "pad adds white margins and takes less of its layout along; crop reads the middle only.",
                ),
                transparency_input("mask", "picture"),
                io.Mask.Input(
                    "figure_mask",
                    optional=True,
                    tooltip="Where the figure is in the reference: 1 = figure, 0 = background; any size, it is "
                    "stretched over the picture. Adds what the background alone looks like, which fig2fig needs.",
                ),
                io.Image.Input(
                    "background",
                    optional=True,
                    tooltip="A separate picture for the background, any size. It takes the place of the reference's "
                    "own background; figure_mask belongs to the reference and then only serves figure = cut out.",
                ),
                share_input(
                    "mask_threshold",
                    0.5,
                    "From which value of figure_mask on a pixel counts as figure, 0 to 1. Lower it when a soft "
                    "mask leaves a rim of the figure in the background. Models of v1.5 are told this value.",
                    step=0.05,
                ),
                io.Combo.Input(
                    "figure",
                    options=list(FIGURES),
                    default=FIGURES[0],
                    optional=True,
                    tooltip="What the figure's colours are read from. whole picture: as in the papers. cut out: the "
                    "figure of figure_mask alone on white, for references with other people or loud things around it.",
                ),
                TaggerSocket.Input(
                    "tagger",
                    optional=True,
                    tooltip="From Load Tagger with WD v1.4 Swin V2 (.safetensors). XL models need it; others do not "
                    "read it.",
                ),
                io.Image.Input(
                    "sketch",
                    optional=True,
                    tooltip="For geometry_strength: the drawing as it goes into Prepare Sketch, one for all references "
                    "or one each. Needs tagger.",
                ),
                io.Float.Input(
                    "geometry_strength",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    optional=True,
                    advanced=True,
                    tooltip="XL with sketch: how far the reference's pose, hands, expression and framing give way to "
                    "the drawing's, 0 (off) to 1. Try 0.5 when the reference's pose shows in the result.",
                ),
                ReferenceEncoderSocket.Input(
                    "second_encoder",
                    optional=True,
                    tooltip="In the place of tagger, for XL models that were trained with two CLIP encoders: a second "
                    "Load Reference Encoder with the file that was their second tower. No published model needs it.",
                ),
            ],
            outputs=[
                ReferenceSocket.Output(
                    display_name="reference", tooltip="The encoded reference. Goes to Apply Reference."
                ),
            ],
        )

    @classmethod
    def validate_inputs(
        cls,
        figure: str | None = FIGURES[0],
        geometry_strength: float | None = 0.0,
        figure_mask: Any = "open",
        sketch: Any = "open",
        tagger: Any = "open",
    ) -> bool | str:
        """What is known before the run. A connected input arrives as None, one that is not keeps its default."""
        if figure is not None and figure not in FIGURES:
            return f"figure is {figure!r}. Choose one of {', '.join(FIGURES)}."
        if figure == FIGURES[1] and figure_mask == "open":
            return (
                "figure is cut out, but nothing says where the figure is. Connect figure_mask: a MASK of this picture, "
                "1 = figure (Segment Character, or painted in MaskEditor). Or set figure to whole picture."
            )
        if geometry_strength is not None and not 0 <= geometry_strength <= 1:
            return f"geometry_strength is {geometry_strength}. Choose a number from 0 to 1."
        if geometry_strength and sketch != "open" and tagger == "open":
            return "geometry_strength needs a tagger to read the drawing. Connect Load Tagger, or set it to 0."
        return True

    @classmethod
    def execute(
        cls,
        encoder: LoadedReferenceEncoder,
        image: torch.Tensor,
        fit: str = "stretch",
        mask: torch.Tensor | None = None,
        figure_mask: torch.Tensor | None = None,
        background: torch.Tensor | None = None,
        mask_threshold: float = 0.5,
        figure: str = FIGURES[0],
        tagger: LoadedTagger | None = None,
        sketch: torch.Tensor | None = None,
        geometry_strength: float = 0.0,
        second_encoder: LoadedReferenceEncoder | None = None,
    ) -> io.NodeOutput:
        picture = images.comfy_image_to_model(image, mask, "reference")
        if background is not None:
            background = images.comfy_image_to_model(background, name="background")
        if figure_mask is not None and (background is None or figure == FIGURES[1]):
            figure_mask = check_mask(figure_mask, "figure_mask")
        if sketch is not None:
            if tagger is None and geometry_strength > 0:
                raise ValueError(
                    "geometry_strength needs a tagger, which reads the drawing. Connect Load Tagger to tagger, or set "
                    "geometry_strength to 0."
                )
            sketch = images.invert(images.comfy_image_to_sketch(sketch))
        encoded = encoder.encode(
            picture,
            fit,
            figure_mask,
            background,
            mask_threshold,
            figure == FIGURES[1],
            tagger,
            sketch,
            geometry_strength,
            second_encoder,
        )
        return io.NodeOutput(encoded)
