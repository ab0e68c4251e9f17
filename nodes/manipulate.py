"""Edit a reference with words, and see where the words act."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import folder_paths
import torch
from comfy_api.v0_0_2 import io, ui

from ..colorize.pictures import images
from ..colorize.reference import correlation_change
from ..colorize.reference.correlation import preview
from ..colorize.reference.edits import LARGEST_RATIO, LARGEST_SCALE, PARTS, Edit, manipulate_global, manipulate_local
from ..colorize.reference.manipulation import RATIO, THRESHOLDS, VARIANTS
from ..colorize.reference.types import Reference
from ..model_patches.reference.text import LoadedTextEncoder, load_text_encoder
from .known_before import offered
from .sockets import CATEGORY, Node, ReferenceSocket

TextEncoderSocket = io.Custom("REFERENCE_TEXT_ENCODER")  # model_patches.reference.text.LoadedTextEncoder
ThresholdsSocket = io.Custom("COLORIZE_THRESHOLDS")  # four floats

TEXT_FOLDERS = ("text_encoders", "clip_vision")  # in which CLIP files may lie; the first one wins
THRESHOLD_NAMES = ("threshold_away", "threshold_start", "threshold_half", "threshold_full")
"""Ids of the paper's thresholds 0 to 3. They keep these words, which fit badly, because saved graphs name them."""
THRESHOLD_TITLES = ("most related up to", "related up to", "unrelated from", "most unrelated from")


# -- inputs that several nodes share -----------------------------------------------------------------------------------


def _reference_input() -> Any:
    return ReferenceSocket.Input(
        "reference", tooltip="From Encode Reference, Load Reference, or another Manipulate Reference: edits add up."
    )


def _text_encoder_input() -> Any:
    return TextEncoderSocket.Input("text_encoder", tooltip="From Load Text Encoder, of the same CLIP as the reference.")


def _target_input() -> Any:
    return io.String.Input(
        "target",
        default="",
        tooltip="What it should become, in a few English words: blonde hair. At most 77 tokens, about 50 words.",
    )


def _target_scale_input(tooltip: str) -> Any:
    return io.Float.Input(
        "target_scale", default=8.0, min=0.0, max=LARGEST_SCALE, step=0.25, round=0.01, tooltip=tooltip
    )


def _anchor_input() -> Any:
    return io.String.Input(
        "anchor",
        default="",
        tooltip="What it is now: black hair. The edit then leads from anchor to target and touches other things less. "
        "Empty or none: no anchor (with variant released only none; empty is an empty text there).",
    )


def _part_input() -> Any:
    return io.Combo.Input(
        "part",
        options=list(PARTS),
        default="reference",
        advanced=True,
        tooltip="Which tokens are edited. reference: those of the picture, which colour the figure, or everything in "
        "vanilla mode. background: those made by figure_mask or background of Encode Reference. both: all.",
    )


def _variant_input() -> Any:
    return io.Combo.Input(
        "variant",
        options=list(VARIANTS),
        default="paper",
        advanced=True,
        tooltip="paper: Algorithms 1 and 2 as published. released: as the official application computes them; to "
        "repeat its pictures.",
    )


def _threshold_inputs() -> list:
    texts = (
        "Threshold 0 of the paper, 0 to 1. Places with a correlation up to here are what the control prompt means: "
        "they are edited, strength_ratio times.",
        "Threshold 1, 0 to 1. What the control prompt means ends here: the edit fades from the threshold before to "
        "this one.",
        "Threshold 2, 0 to 1. From here on places have little to do with the control prompt: they move the other way "
        "by half of the edit or more.",
        "Threshold 3, 0 to 1. From here on places have nothing to do with the control prompt: they move the other way "
        "by the whole edit, once. 1 for this and the one before leaves them alone as far as possible.",
    )
    return [
        io.Float.Input(
            name,
            display_name=title,
            default=default,
            min=0.0,
            max=1.0,
            step=0.01,
            round=0.001,
            advanced=True,
            tooltip=f"{text} Not below the threshold before.",
        )
        for name, title, default, text in zip(THRESHOLD_NAMES, THRESHOLD_TITLES, THRESHOLDS, texts, strict=True)
    ]


# -- nodes -------------------------------------------------------------------------------------------------------------


class ColorizeLoadTextEncoder(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ColorizeLoadTextEncoder",
            display_name="Load Text Encoder",
            category=CATEGORY + "/editing",
            description="Loads the text encoder with which references are edited and searched. It must be the text "
            "side of the CLIP that encodes the references; official models: OpenCLIP ViT-H/14.",
            search_aliases=["clip text", "open_clip", "ViT-H", "text encoder", "prompt encoder"],
            inputs=[
                io.Combo.Input(
                    "encoder_name",
                    options=text_encoder_files(),
                    tooltip="File in models/text_encoders or models/clip_vision with a text tower and its projection: "
                    "a whole CLIP in open_clip or Hugging Face layout.",
                ),
            ],
            outputs=[
                TextEncoderSocket.Output(
                    display_name="text_encoder",
                    tooltip="The loaded text encoder. Goes to Manipulate Reference and Correlation Preview.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, encoder_name: str) -> bool | str:
        fits = "a CLIP with a text tower (official models: OpenCLIP ViT-H/14)"
        return offered(encoder_name, text_encoder_files(), TEXT_FOLDERS, fits)

    @classmethod
    def execute(cls, encoder_name: str) -> io.NodeOutput:
        found = (folder_paths.get_full_path(folder, encoder_name) for folder in TEXT_FOLDERS)
        path = next((path for path in found if path), None)
        if path is None:
            raise FileNotFoundError(
                f"There is no file {encoder_name!r} in models/{' or models/'.join(TEXT_FOLDERS)}. Put it there, "
                "refresh the node list (R) and choose again."
            )
        return io.NodeOutput(load_text_encoder(path))


def text_encoder_files() -> list[str]:
    """Files of all folders that may hold a text tower, each name once."""
    return list(dict.fromkeys(name for folder in TEXT_FOLDERS for name in folder_paths.get_filename_list(folder)))


class ColorizeManipulateGlobal(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ColorizeManipulateGlobal",
            display_name="Manipulate Reference (Global)",
            category=CATEGORY + "/editing",
            description="Use it to change a reference as a whole with words, for a model that reads the class token "
            "(trained with model.tokens = cls). For all other models the paper calls it ineffective: use Manipulate "
            "Reference (Local). Chain several edits in order.",
            search_aliases=["text manipulation", "edit reference", "prompt", "change style", "text guided"],
            inputs=[
                _reference_input(),
                _text_encoder_input(),
                _target_input(),
                _target_scale_input(
                    "How strongly, 0 to 15; the paper uses 4 to 15. Without anchor and enhance the reference gets "
                    "exactly this much of the target, and 0 takes it away. To switch the edit off, bypass the node."
                ),
                _anchor_input(),
                io.Boolean.Input(
                    "enhance",
                    default=False,
                    tooltip="Stronger. With an anchor: what the reference has of it is taken out first. Without: the "
                    "target is added to what is there.",
                ),
                _part_input(),
                _variant_input(),
            ],
            outputs=[
                ReferenceSocket.Output(
                    display_name="reference",
                    tooltip="The edited reference. Goes to Apply Reference or to the next Manipulate Reference.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        reference: Reference,
        text_encoder: LoadedTextEncoder,
        target: str = "",
        target_scale: float = 8.0,
        anchor: str = "",
        enhance: bool = False,
        part: str = "reference",
        variant: str = "paper",
    ) -> io.NodeOutput:
        edit = Edit(target, target_scale, anchor, enhance, part, variant)
        return io.NodeOutput(manipulate_global(reference, text_encoder, edit))


class ColorizeManipulateLocal(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ColorizeManipulateLocal",
            display_name="Manipulate Reference (Local)",
            category=CATEGORY + "/editing",
            description="Use it to change one thing of a reference with words: the hair becomes blonde, the rest "
            "stays. Look with Correlation Preview where the control prompt is found. Chain several edits in order.",
            search_aliases=["text manipulation", "edit reference", "change hair color", "recolor", "prompt"],
            inputs=[
                _reference_input(),
                _text_encoder_input(),
                _target_input(),
                _target_scale_input(
                    "How strongly, 0 to 15; the paper uses 4 to 15. With an anchor it is what the reference should "
                    "reach and must lie above what it has (class token in Correlation Preview). To switch the edit "
                    "off, bypass the node."
                ),
                _anchor_input(),
                io.String.Input(
                    "control",
                    default="",
                    tooltip="Where, in a few English words: hair. The places of the reference that it means are "
                    "edited: those with low correlation, blue in Correlation Preview. Empty or everything: all places "
                    "alike (with variant released both are plain prompts).",
                ),
                io.Boolean.Input(
                    "enhance",
                    default=False,
                    tooltip="Stronger, with an anchor only: what each place has of the anchor is also moved.",
                ),
                *_threshold_inputs(),
                io.Float.Input(
                    "strength_ratio",
                    default=RATIO,
                    min=0.0,
                    max=LARGEST_RATIO,
                    step=0.1,
                    round=0.01,
                    advanced=True,
                    tooltip="How strongly the places that the control prompt means are edited, times, 0 to 15; 2 as "
                    "published. 0 leaves exactly those places alone.",
                ),
                _part_input(),
                _variant_input(),
                ThresholdsSocket.Input(
                    "thresholds",
                    optional=True,
                    tooltip="From Correlation Preview: takes the place of the four thresholds.",
                ),
            ],
            outputs=[
                ReferenceSocket.Output(
                    display_name="reference",
                    tooltip="The edited reference. Goes to Apply Reference or to the next Manipulate Reference.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        reference: Reference,
        text_encoder: LoadedTextEncoder,
        target: str = "",
        target_scale: float = 8.0,
        anchor: str = "",
        control: str = "",
        enhance: bool = False,
        threshold_away: float = THRESHOLDS[0],
        threshold_start: float = THRESHOLDS[1],
        threshold_half: float = THRESHOLDS[2],
        threshold_full: float = THRESHOLDS[3],
        strength_ratio: float = RATIO,
        part: str = "reference",
        variant: str = "paper",
        thresholds: Sequence[float] | None = None,
    ) -> io.NodeOutput:
        edit = Edit(target, target_scale, anchor, enhance, part, variant)
        chosen = thresholds or (threshold_away, threshold_start, threshold_half, threshold_full)
        return io.NodeOutput(manipulate_local(reference, text_encoder, edit, control, chosen, strength_ratio))


class ColorizeCorrelationPreview(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ColorizeCorrelationPreview",
            display_name="Correlation Preview",
            category=CATEGORY + "/editing",
            description="Use it before Manipulate Reference (Local): shows where a reference fits a prompt, in five "
            "bands, and suggests thresholds. Blue places are what the words mean and are edited, red ones have nothing "
            "to do with them.",
            search_aliases=[
                "heat map",
                "heatmap",
                "attention map",
                "dscale",
                "where does the prompt act",
                "thresholds",
            ],
            is_output_node=True,
            inputs=[
                ReferenceSocket.Input(
                    "reference", tooltip="From Encode Reference, or from a Manipulate Reference to see what it did."
                ),
                _text_encoder_input(),
                io.String.Input(
                    "control",
                    default="",
                    tooltip="What to look for, in a few English words: hair. The control prompt of the edit.",
                ),
                io.Combo.Input(
                    "thresholds_from",
                    options=["suggested", "widgets"],
                    default="suggested",
                    tooltip="suggested: the low side of the histogram's deepest valley is edited, the rest left alone "
                    "as far as possible. widgets: the four numbers below.",
                ),
                *_threshold_inputs(),
                io.Combo.Input(
                    "part",
                    options=["reference", "background"],
                    default="reference",
                    advanced=True,
                    tooltip="Which tokens to look at: those of the picture, or those of its background (figure_mask or "
                    "background of Encode Reference).",
                ),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="The picture that was encoded: it is shown under the bands. One, or one per reference.",
                ),
                ReferenceSocket.Input(
                    "before",
                    optional=True,
                    tooltip="The reference before an edit, or of another picture of the same size: the drawing then "
                    "shows what changed. Blue places show more of what the words mean, red ones less.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="Heat map, histogram and numbers, one per reference."),
                ThresholdsSocket.Output(
                    display_name="thresholds",
                    tooltip="The thresholds that are shown. Goes to thresholds of Manipulate Reference (Local).",
                ),
                io.String.Output(display_name="text", tooltip="The numbers as text."),
            ],
        )

    @classmethod
    def execute(
        cls,
        reference: Reference,
        text_encoder: LoadedTextEncoder,
        control: str = "",
        thresholds_from: str = "suggested",
        threshold_away: float = THRESHOLDS[0],
        threshold_start: float = THRESHOLDS[1],
        threshold_half: float = THRESHOLDS[2],
        threshold_full: float = THRESHOLDS[3],
        part: str = "reference",
        image: torch.Tensor | None = None,
        before: Reference | None = None,
    ) -> io.NodeOutput:
        chosen = (threshold_away, threshold_start, threshold_half, threshold_full)
        below = None if image is None else images.comfy_image_to_model(image, name="image")
        wanted = None if thresholds_from == "suggested" else chosen
        pictures, thresholds, text = preview(reference, text_encoder, control, wanted, below, part)
        if before is not None:
            pictures, text = correlation_change.preview(reference, before, text_encoder, control, below, part)
        return io.NodeOutput(pictures, thresholds, text, ui=ui.PreviewImage(pictures, cls=cls))
