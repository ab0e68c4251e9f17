"""Check the inputs of a graph before sampling."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.v0_0_2 import io, ui

from ..colorize.modes import MODES
from ..colorize.pictures import images
from ..colorize.pictures.images import PIXELS_PER_LATENT
from ..colorize.preflight.examine import Inputs, examine, report
from ..colorize.preflight.preview import preview
from ..colorize.preflight.samplers import samplers_of
from ..colorize.reference.types import Reference
from ..model_patches import core
from ..model_patches.checkpoint.colorizer import Colorizer
from ..model_patches.model.model import ColorizeModel
from ..model_patches.model.students import student_of
from .sockets import CATEGORY, ColorizerSocket, FrameSocket, Node, ReferenceSocket, share_input


def _picture(name: str, tooltip: str) -> Any:
    return io.Image.Input(name, optional=True, tooltip=tooltip)


def _mask(name: str, tooltip: str) -> Any:
    return io.Mask.Input(name, optional=True, tooltip=tooltip)


def _size(name: str, tooltip: str) -> Any:
    return io.Int.Input(name, default=512, min=64, max=8192, step=64, tooltip=tooltip)


class ColorizePreflight(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ColorizePreflight",
            display_name="Preflight",
            category=CATEGORY + "/tools",
            description="Use it when a result looks wrong, or before a long batch: checks sketch, reference, masks and "
            "model against each other and says how to mend what it finds. Samples nothing.",
            search_aliases=["check inputs", "diagnose", "doctor", "debug", "why is my result wrong", "validate"],
            is_output_node=True,
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],  # the graph, where the sampler is
            inputs=[
                _size("width", "Width you sample at, in pixels: the one of Prepare Sketch."),
                _size("height", "Height you sample at, in pixels: the one of Prepare Sketch."),
                io.Combo.Input(
                    "mode", options=list(MODES), default="vanilla", tooltip="The mode you chose in Apply Reference."
                ),
                _picture("sketch", "The drawing as it goes into Prepare Sketch, not what comes out of it."),
                _mask("sketch_mask", "MASK of the same Load Image node, for transparent drawings (1 = transparent)."),
                _mask("figure_mask", "Where the figure is in the drawing, as for Apply Reference: 1 = figure."),
                _picture("reference_image", "The reference picture as it goes into Encode Reference."),
                _mask("reference_mask", "MASK of the same Load Image node, for transparent references."),
                _mask(
                    "reference_figure_mask",
                    "Where the figure is in the reference, as for Encode Reference: 1 = figure.",
                ),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="From Load ColorizeDiffusion Checkpoint. From Tiled Diffusion, its tile size is looked at, "
                    "too.",
                ),
                ColorizerSocket.Input(
                    "colorizer", optional=True, tooltip="From the same Load ColorizeDiffusion Checkpoint."
                ),
                ReferenceSocket.Input("reference", optional=True, tooltip="The output of Encode Reference."),
                share_input("mask_threshold", 0.05, "The mask_threshold of Apply Reference, 0 to 1."),
                share_input("reference_mask_threshold", 0.5, "The mask_threshold of Encode Reference, 0 to 1."),
                FrameSocket.Input(
                    "frame",
                    optional=True,
                    tooltip="From Prepare Sketch: the size that is sampled, in place of width and height. Needed when "
                    "its size follows the drawing.",
                ),
                io.Latent.Input(
                    "second_pass",
                    optional=True,
                    tooltip="The latent of a second pass (hires fix) or of one tile: does the model know that size?",
                ),
            ],
            outputs=[
                io.String.Output(
                    display_name="report",
                    tooltip="All findings, the worst first, each with its fix. For Preview as Text.",
                ),
                io.Image.Output(
                    display_name="preview",
                    tooltip="The drawing as the model sees it and the reference, figures tinted, over their findings. "
                    "Also shown on the node.",
                ),
                io.Int.Output(
                    display_name="problems", tooltip="Number of problems, warnings not counted; 0 = ready to sample."
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, **kwargs: Any) -> str:
        return core.running_samplers()  # which come after this node: ComfyUI would keep the report about the old ones

    @classmethod
    def execute(
        cls,
        width: int = 512,
        height: int = 512,
        mode: str = "vanilla",
        sketch: torch.Tensor | None = None,
        sketch_mask: torch.Tensor | None = None,
        figure_mask: torch.Tensor | None = None,
        reference_image: torch.Tensor | None = None,
        reference_mask: torch.Tensor | None = None,
        reference_figure_mask: torch.Tensor | None = None,
        model: Any = None,
        colorizer: Colorizer | None = None,
        reference: Reference | None = None,
        mask_threshold: float = 0.05,
        reference_mask_threshold: float = 0.5,
        frame: images.Frame | None = None,
        second_pass: dict | None = None,
    ) -> io.NodeOutput:
        if frame is not None:
            width, height = frame.width, frame.height
        inner = getattr(model, "model", model)
        inputs = Inputs(
            sketch=_on_cpu(sketch),
            sketch_mask=_on_cpu(sketch_mask),
            figure_mask=_on_cpu(figure_mask),
            reference=_on_cpu(reference_image),
            reference_mask=_on_cpu(reference_mask),
            reference_figure_mask=_on_cpu(reference_figure_mask),
            width=width,
            height=height,
            mode=mode,
            mask_threshold=mask_threshold,
            reference_mask_threshold=reference_mask_threshold,
            model=inner,
            is_ours=isinstance(inner, ColorizeModel),
            colorizer=colorizer,
            encoded=reference,
            student=student_of(model),
            samplers=samplers_of(cls.hidden.prompt or {}, str(cls.hidden.unique_id)) if cls.hidden else (),
            core_remark=core.age_remark(),
            second_pass=_picture_size(second_pass),
            tile=_tile_size(model),
        )
        findings = examine(inputs)
        text = report(findings)
        problems = sum(finding.level == "problem" for finding in findings)
        picture = preview(inputs, findings)
        shown = ui.PreviewImage(picture, cls=cls).as_dict() | ui.PreviewText(text).as_dict()
        return io.NodeOutput(text, picture, problems, ui=shown)


def _on_cpu(value: torch.Tensor | None) -> torch.Tensor | None:
    return value if value is None else value.cpu()


def _picture_size(latent: dict | None) -> tuple[int, int] | None:
    """(width, height) in pixels of the pictures of a LATENT; None without one."""
    if latent is None:
        return None
    height, width = latent["samples"].shape[-2:]
    return width * PIXELS_PER_LATENT, height * PIXELS_PER_LATENT


def _tile_size(model: Any) -> tuple[int, int] | None:
    """(width, height) in pixels of the tiles of the pack Tiled Diffusion, of a MODEL that has been through it."""
    options = getattr(model, "model_options", None) or {}
    if not options.get("tiled_diffusion"):
        return None
    sides = (getattr(options.get("model_function_wrapper"), side, None) for side in ("width", "height"))
    tile = tuple(side for side in sides if isinstance(side, int) and side > 0)
    return tile if len(tile) == 2 else None
