"""Join model and reference."""

import torch
from comfy_api.latest import io

from .sockets import CATEGORY, ColorizerSocket, ReferenceSocket


class ColorizeApplyReference(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="ColorizeApplyReference",
            display_name="Apply Reference",
            category=CATEGORY,
            description="Makes the model colour like the reference. Then: Apply ControlNet with the sketch, and a "
            "sampler, whose cfg is the reference guidance (4 to 5 for official models, 2 to 3 for the small one).",
            search_aliases=["colorize", "apply color reference", "reference guidance", "conditioning"],
            inputs=[
                io.Model.Input("model", tooltip="From Load ColorizeDiffusion Checkpoint, LoRAs may come in between."),
                ColorizerSocket.Input("colorizer", tooltip="From the same Load ColorizeDiffusion Checkpoint."),
                ReferenceSocket.Input(
                    "reference", tooltip="From Encode Reference. One for all sketches, or one per sketch."
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
    def execute(cls, model, colorizer, reference):
        from ..model_patches.unet import ColorizeModel

        check_match(getattr(model, "model", None), ColorizeModel, colorizer, reference)
        tokens = reference.local_tokens
        return io.NodeOutput(model.clone(), [[tokens, {}]], [[torch.zeros_like(tokens), {}]])


def check_match(model, expected, colorizer, reference):
    """Raise ValueError when model, colorizer and reference do not belong together."""
    if not isinstance(model, expected):
        raise ValueError(
            f"The model is {type(model).__name__}, not a ColorizeDiffusion model. "
            "Connect the model output of Load ColorizeDiffusion Checkpoint."
        )
    if colorizer.family.context_dim != model.context_dim:
        raise ValueError(
            f"The colorizer comes from {colorizer.file_name} (reference tokens of width "
            f"{colorizer.family.context_dim}), the model reads width {model.context_dim}. Connect model and "
            "colorizer of the same Load ColorizeDiffusion Checkpoint."
        )
    if reference.width != model.context_dim:
        raise ValueError(
            f"The reference has tokens of width {reference.width}, the model {colorizer.file_name} reads width "
            f"{model.context_dim}. Choose another encoder in Load Reference Encoder: "
            f"{encoder_advice(model.context_dim)}."
        )


def encoder_advice(width):
    if width == 1024:
        return "OpenCLIP ViT-H/14 (laion2b_s32b_b79k), for official v1 models"
    return f"the one this model was trained with, projecting to {width} values (bundled model: colorize_small_vision)"
