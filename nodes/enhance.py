"""Take more from the reference than its tokens carry: textures by attention injection, tone by AdaIN."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from comfy_api.v0_0_2 import io

from ..colorize.counts import check_count
from ..model_patches.model.model import ColorizeModel
from ..model_patches.reference_pass import reference_pass
from ..model_patches.reference_pass.adain import AdaIN
from ..model_patches.reference_pass.attention_injection import Injection
from .sockets import CATEGORY, Node

STRONGEST_SKETCH = 2.0


def _latent() -> Any:
    return io.Latent.Input(
        "reference_latent",
        tooltip="The reference picture through VAE Encode, with the vae of Load ColorizeDiffusion Checkpoint. One, or "
        "one per sketch. About as many pixels as the sampled picture: larger ones cost time and memory.",
    )


def _share(name: str, default: float, tooltip: str) -> Any:
    return io.Float.Input(name, default=default, min=0.0, max=1.0, step=0.01, tooltip=tooltip)


def _window() -> tuple[Any, Any]:
    return (
        _share(
            "start_percent",
            0.0,
            "Acts from this share of the sampling on, 0 (first step) to 1 (off). Above 0 keeps the composition.",
        ),
        _share("end_percent", 1.0, "Acts up to this share of the sampling, 0 to 1 (last step). Less saves time."),
    )


def _model(model: Any) -> Any:
    """The MODEL, or a ValueError that says what to connect."""
    if not isinstance(getattr(model, "model", None), ColorizeModel):
        raise ValueError(
            f"The model is {type(getattr(model, 'model', None)).__name__}, not a ColorizeDiffusion model. Connect the "
            "model output of Apply Reference."
        )
    return model


class ColorizeAttentionInjection(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ColorizeAttentionInjection",
            display_name="Attention Injection",
            category=CATEGORY + "/guidance",
            description="Use it when the colours are right and the reference's texture or painting style is missing: "
            "the picture looks at the reference itself in every step. A step takes twice as long.",
            search_aliases=[
                "reference only",
                "style injection",
                "texture transfer",
                "style fidelity",
                "shared attention",
            ],
            inputs=[
                io.Model.Input("model", tooltip="From Apply Reference, LoRAs and other patches may come in between."),
                _latent(),
                _share(
                    "fidelity",
                    0.5,
                    "How much the picture keeps to itself, 0 (most of the reference's texture) to 1 (off). Raise it "
                    "when shapes of the reference appear.",
                ),
                *_window(),
                io.Float.Input(
                    "sketch_scale",
                    default=0.0,
                    min=0.0,
                    max=STRONGEST_SKETCH,
                    step=0.05,
                    tooltip="How strongly the reference's own lines hold the reference together, 0 (off) to 2. Needs "
                    "reference_sketch and control_net.",
                ),
                io.Combo.Input(
                    "variant",
                    options=["even", "released"],
                    default="even",
                    advanced=True,
                    tooltip="even: fidelity weakens the injection everywhere, 1 is off. released: as the official "
                    "application, fidelity takes it away from the negative only, so a higher one means more contrast "
                    "to it, and 1 is not off; to repeat its pictures.",
                ),
                io.Image.Input(
                    "reference_sketch",
                    optional=True,
                    tooltip="The lines of the reference picture, from Prepare Sketch (white on black). Any size, it "
                    "is stretched over the reference.",
                ),
                io.ControlNet.Input(
                    "control_net",
                    optional=True,
                    tooltip="From Load ColorizeDiffusion Checkpoint; reads reference_sketch.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The model with the reference beside it."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        reference_latent: dict,
        fidelity: float = 0.5,
        start_percent: float = 0.0,
        end_percent: float = 1.0,
        sketch_scale: float = 0.0,
        variant: str = "even",
        reference_sketch: torch.Tensor | None = None,
        control_net: Any = None,
    ) -> io.NodeOutput:
        latents = reference_pass.read_latent(_model(model), reference_latent)
        _check_sketch(sketch_scale, reference_sketch, control_net, len(latents))
        injection = Injection(reference_pass.Source(latents), fidelity, variant, start_percent, end_percent)
        if injection.off:
            return io.NodeOutput(model.clone())
        if sketch_scale > 0 and reference_sketch is not None:
            maps = reference_pass.encode_sketch(control_net, reference_sketch, latents.shape[-2:], sketch_scale)
            injection = replace(injection, source=reference_pass.Source(latents, maps))
        return io.NodeOutput(reference_pass.attach(model, injection))


def _check_sketch(scale: float, sketch: torch.Tensor | None, control_net: Any, latents: int) -> None:
    """Raise ValueError when the reference's sketch is switched on and incomplete."""
    if not 0 <= scale <= STRONGEST_SKETCH:
        raise ValueError(f"sketch_scale is {scale}; choose a number between 0 and {STRONGEST_SKETCH:g}.")
    if scale == 0:
        return
    if sketch is None or control_net is None:
        missing = "reference_sketch" if sketch is None else "control_net"
        raise ValueError(
            f"sketch_scale is {scale:g}, but {missing} is not connected. Connect the lines of the reference (Prepare "
            "Sketch) and control_net of Load ColorizeDiffusion Checkpoint, or set sketch_scale to 0."
        )
    check_count("reference sketches", len(sketch), latents, "reference latents")


class ColorizeAdaIN(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ColorizeAdaIN",
            display_name="AdaIN",
            category=CATEGORY + "/guidance",
            description="Use it when contrast, saturation or overall tone differ from the reference: gives the "
            "picture's features the mean and the spread of the reference's. A step takes twice as long; together with "
            "Attention Injection of the same latent it costs nothing extra.",
            search_aliases=["adaptive instance normalization", "reference adain", "tone", "match colors", "statistics"],
            inputs=[
                io.Model.Input("model", tooltip="From Apply Reference or Attention Injection."),
                _latent(),
                _share(
                    "strength",
                    0.5,
                    "How far to go to the reference's mean and spread, 0 (off) to 1. Lower it when flat areas turn "
                    "blotchy.",
                ),
                *_window(),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The model with the reference beside it."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        reference_latent: dict,
        strength: float = 0.5,
        start_percent: float = 0.0,
        end_percent: float = 1.0,
    ) -> io.NodeOutput:
        source = reference_pass.Source(reference_pass.read_latent(_model(model), reference_latent))
        adain = AdaIN(source, strength, start_percent, end_percent)
        return io.NodeOutput(model.clone() if adain.off else reference_pass.attach(model, adain))
