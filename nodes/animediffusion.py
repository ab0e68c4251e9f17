"""AnimeDiffusion: colour faces in pixel space, from loading to sampling."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import comfy.utils
import folder_paths
import latent_preview
import torch
from comfy_api.v0_0_2 import io

from ..colorize.pictures import images
from ..model_patches.animediffusion import inputs
from ..model_patches.animediffusion.inputs import LINE_KINDS
from ..model_patches.animediffusion.model import load_animediffusion
from ..model_patches.animediffusion.sampling import METHODS, NOISES, STARTS, Walk, sample, steps_of
from ..model_patches.checkpoint.choices import animediffusion_checkpoints
from .known_before import offered
from .sockets import CATEGORY, FrameSocket, Node, transparency_input

STEP = 8  # pixels; the published network halves a picture three times


def _placed(picture: torch.Tensor) -> torch.Tensor:
    """A picture where ComfyUI keeps values between nodes."""
    return picture.to(
        device=comfy.model_management.intermediate_device(), dtype=comfy.model_management.intermediate_dtype()
    )


class ColorizeLoadAnimeDiffusion(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ColorizeLoadAnimeDiffusion",
            display_name="Load AnimeDiffusion",
            category=CATEGORY + "/AnimeDiffusion",
            description="Start here to colour faces with an AnimeDiffusion model: a small, fast network that works on "
            "pixels. The bundled one needs no download; larger ones you train yourself, nobody has published any.",
            search_aliases=["animediffusion", "anime diffusion", "face colorization", "pixel diffusion", "load model"],
            inputs=[
                io.Combo.Input(
                    "ckpt_name",
                    options=animediffusion_checkpoints(),
                    tooltip="File in models/checkpoints, of this pack's trainer (.safetensors) or of the released one "
                    "(ep_N.model.pth, trained.model.pth, .pt, .pkl). Sizes are read from the file.",
                ),
            ],
            outputs=[
                io.Model.Output(
                    display_name="model", tooltip="The model. Goes to AnimeDiffusion Sampler, or to KSampler."
                ),
                io.Vae.Output(
                    display_name="vae",
                    tooltip="ComfyUI's own pixel-space VAE: the latents are pixels. Goes to VAE Decode.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, ckpt_name: str) -> bool | str:
        names = animediffusion_checkpoints()
        elsewhere = "ColorizeDiffusion's load with Load ColorizeDiffusion Checkpoint."
        return offered(ckpt_name, names, ("checkpoints",), "an AnimeDiffusion model", elsewhere)

    @classmethod
    def execute(cls, ckpt_name: str) -> io.NodeOutput:
        return io.NodeOutput(*load_animediffusion(folder_paths.get_full_path_or_raise("checkpoints", ckpt_name)))


class ColorizeAnimeDiffusionConditioning(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ColorizeAnimeDiffusionConditioning",
            display_name="AnimeDiffusion Conditioning",
            category=CATEGORY + "/AnimeDiffusion",
            description="Brings a drawing and a colour reference to what AnimeDiffusion reads. Give a batch of "
            "drawings (frames of a video) with one reference, one drawing with several references, or as many of both.",
            search_aliases=["animediffusion", "line art", "xdog", "recolor", "reference"],
            inputs=[
                io.Image.Input(
                    "sketch", tooltip="The drawing, or a batch of them; or coloured pictures, to recolour them."
                ),
                io.Image.Input("reference", tooltip="The picture whose colours to take: a face that fills it."),
                io.Int.Input(
                    "width",
                    default=256,
                    min=32,
                    max=2048,
                    step=STEP,
                    tooltip="Width to sample in pixels: what the model was trained at. Published configuration: 256; "
                    "bundled small model: 64.",
                ),
                io.Int.Input("height", default=256, min=32, max=2048, step=STEP, tooltip="Height, likewise."),
                io.Combo.Input(
                    "lines",
                    options=list(LINE_KINDS),
                    default="xdog",
                    tooltip="xdog: draws the lines again, black and white, as the model saw them in training (the "
                    "paper does this with every drawing). as_drawn: keeps them. xdog_of_picture: takes the lines out "
                    "of coloured pictures, to recolour them.",
                ),
                io.Combo.Input(
                    "fit",
                    options=list(images.FITS),
                    default="crop",
                    tooltip="How the drawing fills the size. crop cuts off the rest, as in training; pad adds margins, "
                    "which Restore Size removes; stretch changes the proportions.",
                ),
                io.Combo.Input(
                    "reference_fit",
                    options=list(images.FITS),
                    default="crop",
                    tooltip="The same for the reference. Faces should lie about where those of the drawing lie.",
                ),
                io.Float.Input(
                    "line_sigma",
                    default=0.4,
                    min=0.1,
                    max=3.0,
                    step=0.1,
                    optional=True,
                    advanced=True,
                    tooltip="Width of the xdog lines, in pixels of the size to sample. Training: 0.3, 0.4 and 0.5.",
                ),
                io.Combo.Input(
                    "polarity",
                    options=list(images.POLARITIES),
                    default="auto",
                    optional=True,
                    advanced=True,
                    tooltip="How the drawing is drawn; auto recognises it. Not read for xdog_of_picture.",
                ),
                transparency_input("mask", "drawing"),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="Drawing and reference. Goes to the sampler."),
                io.Conditioning.Output(
                    display_name="negative",
                    tooltip="The same, for KSampler, which wants one. The model knows no guidance: set cfg to 1.",
                ),
                io.Latent.Output(display_name="latent", tooltip="Empty latent of the same size and count."),
                io.Image.Output(display_name="lines", tooltip="The drawing as the model sees it."),
                FrameSocket.Output(
                    display_name="frame", tooltip="Where the drawing lies on the canvas. Goes to Restore Size."
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        sketch: torch.Tensor,
        reference: torch.Tensor,
        width: int,
        height: int,
        lines: str = "xdog",
        fit: str = "crop",
        reference_fit: str = "crop",
        line_sigma: float = 0.4,
        polarity: str = "auto",
        mask: torch.Tensor | None = None,
    ) -> io.NodeOutput:
        drawn, frame = inputs.place_lines(sketch, mask, height, width, fit, lines, line_sigma, polarity)
        shown = inputs.place_reference(reference, height, width, reference_fit)
        conditioning = inputs.conditioning(drawn, shown)
        latent = _placed(torch.zeros(max(len(drawn), len(shown)), 3, height, width))
        preview = _placed(images.model_image_to_comfy(drawn.expand(-1, 3, -1, -1)))
        return io.NodeOutput(
            conditioning, conditioning, {"samples": latent, "downscale_ratio_spacial": 1}, preview, frame
        )


class ColorizeAnimeDiffusionSampler(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ColorizeAnimeDiffusionSampler",
            display_name="AnimeDiffusion Sampler",
            category=CATEGORY + "/AnimeDiffusion",
            description="Samples AnimeDiffusion in the paper's steps, batch by batch: use it in place of KSampler for "
            "the steps the model was trained for, and for many frames with one reference.",
            search_aliases=["animediffusion", "ddim", "ddpm", "video colorization", "batch colorization"],
            inputs=[
                io.Model.Input("model", tooltip="From Load AnimeDiffusion."),
                io.Conditioning.Input("positive", tooltip="From AnimeDiffusion Conditioning."),
                io.Latent.Input(
                    "latent", tooltip="From AnimeDiffusion Conditioning: size and number of pictures are taken from it."
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="Every random number comes from it.",
                ),
                io.Int.Input(
                    "steps",
                    default=0,
                    min=0,
                    max=999,
                    tooltip="Steps of ddim. 0: as many as the second phase of the model's training was made for, which "
                    "its file says; without a word the paper's 10.",
                ),
                io.Float.Input(
                    "eta",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="Share of fresh noise in each step of ddim, 0 to 1. 0: none (paper); 1: as the released "
                    "application.",
                ),
                io.Combo.Input(
                    "start",
                    options=list(STARTS),
                    default="noise",
                    tooltip="noise: plain noise. reference: the reference turned into noise by the model (the paper's "
                    "deterministic forward), twice the time. It draws the result towards the reference's shapes: use "
                    "it where the reference shows the same face in the same place.",
                ),
                io.Combo.Input(
                    "method",
                    options=list(METHODS),
                    default="ddim",
                    optional=True,
                    advanced=True,
                    tooltip="ddim: as many steps as set. ddpm: the whole chain of a thousand steps with noise in each, "
                    "to compare; steps and eta are not read.",
                ),
                io.Combo.Input(
                    "batch_noise",
                    options=list(NOISES),
                    default="same",
                    optional=True,
                    advanced=True,
                    tooltip="same: all pictures of the batch start from one noise, which keeps the frames of a video "
                    "alike. different: each has its own.",
                ),
                io.Int.Input(
                    "at_once",
                    default=8,
                    min=1,
                    max=256,
                    optional=True,
                    advanced=True,
                    tooltip="Pictures computed at once. Less needs less memory; the result is the same.",
                ),
            ],
            outputs=[io.Latent.Output(display_name="latent", tooltip="The pictures. Goes to VAE Decode.")],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: list,
        latent: dict,
        seed: int,
        steps: int = 0,
        eta: float = 0.0,
        start: str = "noise",
        method: str = "ddim",
        batch_noise: str = "same",
        at_once: int = 8,
    ) -> io.NodeOutput:
        walk = Walk(method, steps or steps_of(model), eta, start, seed, batch_noise, at_once)
        samples = latent["samples"]
        show = latent_preview.prepare_callback(model, len(samples) * walk.calls)

        def progress(picture: torch.Tensor, done: int, total: int) -> None:
            show(done - 1, picture, None, total)

        return io.NodeOutput(
            {"samples": sample(model, positive, samples, walk, progress), "downscale_ratio_spacial": 1}
        )
