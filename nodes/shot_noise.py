"""Noise for all frames of a shot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from comfy_api.v0_0_2 import io

from ..colorize.pictures import images
from ..colorize.shots.noise import SHARED, shot_noise
from .shots import progress_of
from .sockets import CATEGORY, Node

PAPER = 0.5  # share of light pixels above which a picture is no sketch as the networks see it


@dataclass(frozen=True)
class ShotNoise:
    """A NOISE of ComfyUI: what SamplerCustomAdvanced asks for the noise of a latent."""

    sketches: torch.Tensor
    """(B, H, W) in 0..1, 1 = line"""
    seed: int
    key_frame: int
    shared: str

    def generate_noise(self, input_latent: dict[str, Any]) -> torch.Tensor:
        """The noise of a LATENT, on the CPU."""
        shape = tuple(input_latent["samples"].shape)
        return shot_noise(
            self.sketches, shape, self.seed, self.key_frame, self.shared, progress_of(max(1, len(self.sketches) - 1))
        )


class ColorizeShotNoise(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ColorizeShotNoise",
            display_name="Shot Noise",
            category=CATEGORY + "/flats",
            description="For a shot as one batch: noise that moves with the drawing, so that what the model decides by "
            "it stays on the same thing from frame to frame. Goes to SamplerCustomAdvanced.",
            search_aliases=["consistency", "animation", "fixed noise", "warped noise", "random noise", "video"],
            inputs=[
                io.Image.Input("sketch", tooltip="From Prepare Sketch, of all frames as one batch."),
                io.Int.Input(
                    "noise_seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="Another seed, another noise; the same one gives the same.",
                ),
                io.Combo.Input(
                    "shared",
                    options=list(SHARED),
                    default="coarse",
                    tooltip="coarse: means over blocks of 4 latent values, which decide large areas. all: every value "
                    "that has a place in the next frame. still: the same noise in all frames, unmoved, the steadiest "
                    "in slow shots.",
                ),
                io.Int.Input(
                    "key_frame",
                    default=0,
                    min=0,
                    max=100000,
                    tooltip="The frame whose noise the others take over, counted from 0.",
                ),
            ],
            outputs=[io.Noise.Output(display_name="noise", tooltip="Goes to SamplerCustomAdvanced.")],
        )

    @classmethod
    def execute(
        cls, sketch: torch.Tensor, noise_seed: int = 0, shared: str = "coarse", key_frame: int = 0
    ) -> io.NodeOutput:
        images.check_image(sketch, "sketch")
        lines = sketch[..., :3].float().cpu().mean(dim=-1)
        if images.light_share(lines) > PAPER:
            raise ValueError(
                "The sketch is a drawing on paper. Connect the sketch output of Prepare Sketch, which has white lines "
                "on black at the size that is sampled."
            )
        return io.NodeOutput(ShotNoise(lines, noise_seed, key_frame, shared))
