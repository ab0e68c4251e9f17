"""Measure how much of a result's structure comes from the reference."""

from __future__ import annotations

import torch
from comfy_api.v0_0_2 import io, ui

from ..colorize.pictures import entanglement_meter
from ..colorize.pictures.captions import captioned
from ..colorize.pictures.images import POLARITIES
from .sockets import CATEGORY, Node


class ColorizeEntanglementMeter(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ColorizeEntanglementMeter",
            display_name="Entanglement Meter",
            category=CATEGORY + "/tools",
            description="Measures how much of the reference's shapes, not its colours, got into the result, and marks "
            "the edges in question. To compare modes, strengths and models on your own pictures.",
            search_aliases=["spatial entanglement", "structure leakage", "distribution problem", "evaluate", "metric"],
            is_output_node=True,
            inputs=[
                io.Image.Input(
                    "sketch", tooltip="The drawing, same area as the result: edges on its lines are its own."
                ),
                io.Image.Input("result", tooltip="The coloured picture, or a batch of them; also before Restore Size."),
                io.Image.Input("reference", tooltip="The picture that went into Encode Reference."),
                io.Image.Input(
                    "without_reference",
                    optional=True,
                    tooltip="The same sketch and seed with Apply Reference's strength 0 (cfg 1). Adds the structure "
                    "distance, and what the meter shows where nothing can leak.",
                ),
                io.Combo.Input(
                    "polarity",
                    options=list(POLARITIES),
                    default="auto",
                    optional=True,
                    advanced=True,
                    tooltip="Whether the sketch has dark lines on light paper or the reverse; auto looks at it.",
                ),
            ],
            outputs=[
                io.Float.Output(
                    display_name="leakage",
                    tooltip="Share of the reference's own edges that the result repeats beyond chance, mean of the "
                    "batch: about 0 = none, 1 = all.",
                ),
                io.String.Output(display_name="report", tooltip="The numbers of every picture. For Preview as Text."),
                io.Image.Output(
                    display_name="heat_map",
                    tooltip="The result, pale, with edges in red that the reference has at the same place and the "
                    "sketch has not; chance included. At most 512 pixels. Shown on the node over the report.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        sketch: torch.Tensor,
        result: torch.Tensor,
        reference: torch.Tensor,
        without_reference: torch.Tensor | None = None,
        polarity: str = "auto",
    ) -> io.NodeOutput:
        readings, heat_map = entanglement_meter.read(sketch, result, reference, without_reference, polarity)
        text = entanglement_meter.report(readings)
        leakage = sum(reading.leakage for reading in readings) / len(readings)
        # The frontend draws no text on this node, so what is shown carries the words; API clients get them as text.
        words = captioned(heat_map, [entanglement_meter.report([reading]) for reading in readings])
        shown = {**ui.PreviewText(text).as_dict(), **ui.PreviewImage(words, cls=cls).as_dict()}
        return io.NodeOutput(leakage, text, heat_map, ui=shown)
