"""Join model and reference."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.v0_0_2 import io

from ..colorize.advice import encoder_advice
from ..colorize.modes import MODES
from ..colorize.pictures import images
from ..colorize.pictures.figure_masks import check_mask, on_canvas
from ..colorize.reference.types import Reference
from ..colorize.unet.size_embedding import SCORE
from ..model_patches.checkpoint.colorizer import Colorizer
from ..model_patches.conditioning.conditioning import VARIANTS, ReferenceSettings, condition
from ..model_patches.model.model import ColorizeModel
from .sockets import CATEGORY, ColorizerSocket, FrameSocket, Node, ReferenceSocket, share_input


def _strength(name: str, tooltip: str) -> Any:
    return io.Float.Input(name, default=1.0, min=0.0, max=2.0, step=0.05, optional=True, tooltip=tooltip)


class ColorizeApplyReference(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ColorizeApplyReference",
            display_name="Apply Reference",
            category=CATEGORY + "/basic",
            description="Makes the model colour like the reference. Then: Apply ControlNet with the sketch, and a "
            "sampler, whose cfg is the reference guidance (4 to 5 for official models, 2 to 3 for the small one).",
            search_aliases=["colorize", "apply color reference", "reference guidance", "conditioning"],
            inputs=[
                io.Model.Input("model", tooltip="From Load ColorizeDiffusion Checkpoint, LoRAs may come in between."),
                ColorizerSocket.Input("colorizer", tooltip="From the same Load ColorizeDiffusion Checkpoint."),
                ReferenceSocket.Input(
                    "reference", tooltip="From Encode Reference. One for all sketches, or one per sketch."
                ),
                io.Combo.Input(
                    "mode",
                    options=list(MODES),
                    default="vanilla",
                    optional=True,
                    tooltip="vanilla: one reference for the whole picture, no mask. masked vanilla: figure and "
                    "background apart, any model; the one for XL. bg2fig (v1.5): for a figure before a complicated "
                    "background; figure weights only. fig2fig (v1.5, v2): for a figure before a simple background, "
                    "which its paper names best against stray objects; needs figure_mask here and in Encode "
                    "Reference.",
                ),
                io.Mask.Input(
                    "figure_mask",
                    optional=True,
                    tooltip="Where the figure is in the drawing: 1 = figure, 0 = background. For every mode but "
                    "vanilla. Any size: stretched over the picture, or over the drawing when frame is connected.",
                ),
                FrameSocket.Input(
                    "frame",
                    optional=True,
                    tooltip="From Prepare Sketch: figure_mask was drawn for the original drawing and is placed like "
                    "it. Leave it open when the mask has the proportions of the sampled picture.",
                ),
                _strength(
                    "strength",
                    "How strongly the reference acts, 0 to 2; 1 as trained. 0.4 to 0.8 helps when shapes of the "
                    "reference appear and there is no mask.",
                ),
                _strength("figure_strength", "The same for the figure only, 0 to 2, times strength. Needs a mask."),
                _strength(
                    "background_strength", "The same for the background only, 0 to 2, times strength. Needs a mask."
                ),
                share_input(
                    "start_percent",
                    0.0,
                    "The reference acts from this share of the sampling on, 0 (first step) to 1. Above 0 the sketch "
                    "alone decides the broad colours.",
                    advanced=False,
                ),
                share_input(
                    "end_percent",
                    1.0,
                    "The reference acts up to this share of the sampling, 0 to 1 (last step).",
                    advanced=False,
                ),
                share_input("off_start", 0.0, "Start of a second window, in which the reference is off; 0 to 1."),
                share_input(
                    "off_end", 0.0, "End of the window in which the reference is off. Not above off_start: no window."
                ),
                share_input(
                    "merge",
                    0.0,
                    "How much of the background's colouring the figure takes on, 0 to 1. Raise it when the two "
                    "look pasted together. Needs a mask.",
                ),
                share_input(
                    "mask_threshold",
                    0.05,
                    "A place counts as figure when figure_mask is above this value, 0 to 1. The default is the "
                    "released one: soft rims belong to the figure.",
                ),
                io.Combo.Input(
                    "mask_edges",
                    options=["hard", "soft"],
                    default="hard",
                    optional=True,
                    advanced=True,
                    tooltip="hard: every place is figure or background, by mask_threshold, as trained. soft: the "
                    "mask's values blend the two: what XL's background plugin was trained with; else for hair, smoke "
                    "and glass.",
                ),
                share_input(
                    "noise_level",
                    0.0,
                    "Noise on the reference during this first share of the sampler's steps, 0 (off) to 1: keeps its "
                    "colours and forgets its shapes. Try 0.3 to 0.6 against stray objects without masks.",
                ),
                io.Combo.Input(
                    "variant",
                    options=list(VARIANTS),
                    default="paper",
                    optional=True,
                    advanced=True,
                    tooltip="paper: the modes as published. released: as the official application computes them (the "
                    "threshold also told to the figure, a background picture not recovered); to repeat its pictures.",
                ),
                io.Int.Input(
                    "size",
                    default=0,
                    min=0,
                    max=8192,
                    step=8,
                    optional=True,
                    advanced=True,
                    tooltip="XL only: the picture size the model is told, in pixels (root of width times height). 0: "
                    "the size that is sampled. Larger values ask for finer detail.",
                ),
                io.Float.Input(
                    "aesthetic_score",
                    default=SCORE,
                    min=0.0,
                    max=10.0,
                    step=0.1,
                    optional=True,
                    advanced=True,
                    tooltip="XL only: the aesthetic score the model is told, 0 to 10. 7 is the released default; the "
                    "training pictures had 5.5 and more.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The model for the sampler."),
                io.Conditioning.Output(
                    display_name="positive", tooltip="The reference. Goes to Apply ControlNet, then to the sampler."
                ),
                io.Conditioning.Output(
                    display_name="negative",
                    tooltip="No reference: what the guidance leads away from. Goes to Apply ControlNet, then to the "
                    "sampler.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        colorizer: Colorizer,
        reference: Reference,
        mode: str = "vanilla",
        figure_mask: torch.Tensor | None = None,
        frame: images.Frame | None = None,
        strength: float = 1.0,
        figure_strength: float = 1.0,
        background_strength: float = 1.0,
        start_percent: float = 0.0,
        end_percent: float = 1.0,
        off_start: float = 0.0,
        off_end: float = 0.0,
        merge: float = 0.0,
        mask_threshold: float = 0.05,
        mask_edges: str = "hard",
        noise_level: float = 0.0,
        variant: str = "paper",
        size: int = 0,
        aesthetic_score: float = SCORE,
    ) -> io.NodeOutput:
        check_match(getattr(model, "model", None), ColorizeModel, colorizer, reference)
        if figure_mask is not None:
            figure_mask = on_canvas(check_mask(figure_mask, "figure_mask"), frame)
        settings = ReferenceSettings(
            mode=mode,
            strength=strength,
            figure_strength=figure_strength,
            background_strength=background_strength,
            merge=merge,
            mask_threshold=mask_threshold,
            mask_edges=mask_edges,
            start=start_percent,
            end=end_percent,
            off_start=off_start,
            off_end=off_end,
            noise_level=noise_level,
            variant=variant,
            size=size,
            aesthetic_score=aesthetic_score,
        )
        positive, negative = condition(model.model, colorizer, reference, settings, figure_mask)
        return io.NodeOutput(model.clone(), positive, negative)


def check_match(model: Any, expected: type[Any], colorizer: Colorizer, reference: Reference) -> None:
    """Raise ValueError when model, colorizer and reference do not belong together."""
    if not isinstance(model, expected):
        raise ValueError(
            f"The model is {type(model).__name__}, not a ColorizeDiffusion model. "
            "Connect the model output of Load ColorizeDiffusion Checkpoint."
        )
    family = colorizer.family
    if family.context_dim != model.context_dim:
        raise ValueError(
            f"The colorizer comes from {colorizer.file_name} (reference tokens of width "
            f"{family.context_dim}), the model reads width {model.context_dim}. Connect model and "
            "colorizer of the same Load ColorizeDiffusion Checkpoint."
        )
    if reference.width != family.reference_dim:
        raise ValueError(
            f"The reference has tokens of width {reference.width}, the model {colorizer.file_name} reads width "
            f"{family.reference_dim}. Choose another encoder in Load Reference Encoder: "
            f"{encoder_advice(family.reference_dim)}."
        )
