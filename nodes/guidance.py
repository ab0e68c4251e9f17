"""Guide by reference and sketch at the same time."""

from __future__ import annotations

from typing import Any

from comfy_api.v0_0_2 import io

from ..model_patches.model.dual_guidance import DualGuider
from .sockets import CATEGORY, Node


class ColorizeDualGuidance(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ColorizeDualGuidance",
            display_name="Dual Guidance",
            category=CATEGORY + "/guidance",
            description="Use it when the result leaves the lines of the sketch: a scale for the sketch next to the one "
            "for the reference. Its guider goes to SamplerCustomAdvanced, in place of KSampler and its cfg.",
            search_aliases=["dual cfg", "sketch guidance", "reference guidance", "cfg guider", "guidance scale"],
            inputs=[
                io.Model.Input("model", tooltip="From Apply Reference."),
                io.Conditioning.Input(
                    "positive", tooltip="From Apply Reference, after Apply ControlNet with the sketch."
                ),
                io.Conditioning.Input(
                    "negative",
                    tooltip="From Apply Reference, after the same Apply ControlNet: no reference, same sketch.",
                ),
                io.Float.Input(
                    "reference_scale",
                    default=4.0,
                    min=1.0,
                    max=15.0,
                    step=0.1,
                    round=0.01,
                    tooltip="How far to go from no reference to this one, 1 to 15: 4 to 5 for official models, 2 to 3 "
                    "for the small one. 1: off, and its part of the work is skipped.",
                ),
                io.Float.Input(
                    "sketch_scale",
                    default=1.0,
                    min=1.0,
                    max=5.0,
                    step=0.1,
                    round=0.01,
                    tooltip="How far to go from a blank sketch to this one, 1 to 5. 1: off, the released application's "
                    "default. Above 1 the result is the mean of both guided pictures, and a step takes half as long "
                    "again.",
                ),
            ],
            outputs=[
                io.Guider.Output(display_name="guider", tooltip="Goes to SamplerCustomAdvanced."),
            ],
        )

    @classmethod
    def execute(
        cls, model: Any, positive: list, negative: list, reference_scale: float = 4.0, sketch_scale: float = 1.0
    ) -> io.NodeOutput:
        return io.NodeOutput(DualGuider(model, positive, negative, reference_scale, sketch_scale))
