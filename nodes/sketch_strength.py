"""How strongly the sketch acts in each part of the U-Net."""

from __future__ import annotations

import math
from typing import Any

from comfy_api.v0_0_2 import io

from ..model_patches.model.sketch_control import SketchControl
from .sockets import CATEGORY, Node

STRONGEST = 3.0


def _strength(name: str, tooltip: str) -> Any:
    return io.Float.Input(name, default=1.0, min=0.0, max=STRONGEST, step=0.05, tooltip=tooltip)


class ColorizeSketchStrength(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ColorizeSketchStrength",
            display_name="Sketch Strength per Level",
            category=CATEGORY + "/guidance",
            description="Use it between the loader and Apply ControlNet to let the sketch decide shapes but not every "
            "stroke, or the other way round. Each level's strength is multiplied with that of Apply ControlNet.",
            search_aliases=[
                "sketch strength",
                "control strength",
                "controlnet weights",
                "line strength",
                "block weights",
            ],
            inputs=[
                io.ControlNet.Input("control_net", tooltip="From Load ColorizeDiffusion Checkpoint."),
                _strength("high", "1/8 of the picture's size: strokes and details. 0 to 3, 1 as trained, 0 off."),
                _strength("middle", "1/16 of the picture's size: small shapes. 0 to 3, 1 as trained, 0 off."),
                _strength("low", "1/32 of the picture's size: large shapes. 0 to 3, 1 as trained, 0 off."),
                _strength("bottom", "1/64 of the picture's size (XL: 1/32): composition. 0 to 3, 1 as trained, 0 off."),
            ],
            outputs=[
                io.ControlNet.Output(
                    display_name="control_net",
                    tooltip="The sketch encoder with these strengths, times earlier ones. Goes to Apply ControlNet.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls, control_net: Any, high: float = 1.0, middle: float = 1.0, low: float = 1.0, bottom: float = 1.0
    ) -> io.NodeOutput:
        if not isinstance(control_net, SketchControl):
            raise ValueError(
                f"The control_net is {type(control_net).__name__}, not the sketch encoder of a ColorizeDiffusion "
                "checkpoint. Connect control_net of Load ColorizeDiffusion Checkpoint; other ControlNets have the "
                "strength of Apply ControlNet only."
            )
        for name, value in {"high": high, "middle": middle, "low": low, "bottom": bottom}.items():
            if not (math.isfinite(value) and 0 <= value <= STRONGEST):
                raise ValueError(f"{name} is {value}; choose a strength between 0 and {STRONGEST:g}.")
        return io.NodeOutput(control_net.with_level_strengths(high, middle, low, bottom))
