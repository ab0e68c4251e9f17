"""Load a ColorizeDiffusion checkpoint."""

from __future__ import annotations

import folder_paths
from comfy_api.v0_0_2 import io

from ..model_patches.checkpoint.choices import colorize_checkpoints
from ..model_patches.checkpoint.loading import load_checkpoint
from .known_before import offered
from .sockets import CATEGORY, ColorizerSocket, Node


class ColorizeLoadCheckpoint(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ColorizeLoadCheckpoint",
            display_name="Load ColorizeDiffusion Checkpoint",
            category=CATEGORY + "/basic",
            description="Start here: loads a ColorizeDiffusion v1, v1.5, v2 or XL model with everything that belongs "
            "to it. The bundled small model needs no download.",
            search_aliases=[
                "colorize",
                "colorizediffusion",
                "sketch colorization",
                "line art colorization",
                "load model",
            ],
            inputs=[
                io.Combo.Input(
                    "ckpt_name",
                    options=colorize_checkpoints(),
                    tooltip="File in models/checkpoints. The family is read from the file's contents, not from its "
                    "name; .safetensors files of other kinds are not listed.",
                ),
                io.Combo.Input(
                    "prediction_type",
                    options=["auto", "v", "eps"],
                    default="auto",
                    advanced=True,
                    tooltip="What the model was trained to predict. auto reads it from the file; choose by hand "
                    "only when an older file does not say it and the colours come out grey or burnt.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The colouring model. Goes to Apply Reference."),
                io.Vae.Output(display_name="vae", tooltip="Turns the sampled latent into a picture (VAE Decode)."),
                io.ControlNet.Output(
                    display_name="control_net",
                    tooltip="The sketch encoder. Goes to Apply ControlNet together with the sketch of Prepare Sketch.",
                ),
                ColorizerSocket.Output(
                    display_name="colorizer", tooltip="What Apply Reference needs to know about this checkpoint."
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, ckpt_name: str) -> bool | str:
        return offered(
            ckpt_name,
            colorize_checkpoints(),
            ("checkpoints",),
            "a ColorizeDiffusion checkpoint (README, Weights)",
            "Stable Diffusion's load with ComfyUI's Load Checkpoint, AnimeDiffusion's with Load AnimeDiffusion.",
        )

    @classmethod
    def execute(cls, ckpt_name: str, prediction_type: str = "auto") -> io.NodeOutput:
        path = folder_paths.get_full_path_or_raise("checkpoints", ckpt_name)
        return io.NodeOutput(*load_checkpoint(path, prediction_type))
