"""Two references as one."""

from __future__ import annotations

from comfy_api.v0_0_2 import io

from ..colorize.reference.blend import blend
from ..colorize.reference.types import Reference
from .sockets import CATEGORY, Node, ReferenceSocket


class ColorizeBlendReferences(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ColorizeBlendReferences",
            display_name="Blend References",
            category=CATEGORY + "/reference",
            description="Use it for the colours between two references, in every mode: mixes all their tokens, those "
            "of figure and background alike. For two figures with a reference each use Add Region.",
            search_aliases=["average references", "mix references", "interpolate", "merge", "conditioning average"],
            inputs=[
                ReferenceSocket.Input(
                    "reference", tooltip="From Encode Reference. Its added figures and strengths per level stay."
                ),
                ReferenceSocket.Input(
                    "other",
                    tooltip="From another Encode Reference with the same encoder; both with figure_mask, or none.",
                ),
                io.Float.Input(
                    "share",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    round=0.001,
                    tooltip="How much of the other, 0 to 1: 0 is the reference alone, 1 the other alone.",
                ),
            ],
            outputs=[
                ReferenceSocket.Output(
                    display_name="reference", tooltip="The mixture. Goes to Apply Reference, or to another Blend."
                ),
            ],
        )

    @classmethod
    def execute(cls, reference: Reference, other: Reference, share: float = 0.5) -> io.NodeOutput:
        return io.NodeOutput(blend(reference, other, share))
