"""How strongly the reference acts in each part of the U-Net."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

from comfy_api.v0_0_2 import io

from ..colorize.reference.types import LevelStrengths, Reference
from .sockets import CATEGORY, Node, ReferenceSocket

STRONGEST = 2.0


def parse_layers(text: str) -> tuple[float, ...]:
    """The text "1, 0.5, ..." -> a tuple of floats in 0..2; () for an empty text. Raises ValueError."""
    words = [word for word in re.split(r"[\s,;，、；]+", text or "") if word]
    if not words:
        return ()
    try:
        values = tuple(map(float, words))
    except ValueError:
        raise ValueError(
            f"layers holds {text!r}, which is not a list of numbers. Write one number per cross-attention (16 for v1 "
            "and v1.5, 70 for XL) with commas between them, or leave it empty."
        ) from None
    wrong = [word for word, value in zip(words, values, strict=True) if not 0 <= value <= STRONGEST]
    if wrong:
        raise ValueError(
            f"layers holds {', '.join(wrong)}. Every number must be between 0 (off) and {STRONGEST:g}; 1 is as trained."
        )
    return values


def level_strengths(
    high: float = 1.0,
    middle: float = 1.0,
    low: float = 1.0,
    bottom: float = 1.0,
    encoder: float = 1.0,
    decoder: float = 1.0,
    layers: str = "",
) -> LevelStrengths:
    """The node's inputs -> LevelStrengths."""
    values = dict(high=high, middle=middle, low=low, bottom=bottom, encoder=encoder, decoder=decoder)
    for name, value in values.items():
        if not math.isfinite(value) or value < 0:
            raise ValueError(f"{name} is {value}; choose a strength between 0 and {STRONGEST:g}.")
    return LevelStrengths(**values, layers=parse_layers(layers))


def _strength(name: str, tooltip: str) -> Any:
    return io.Float.Input(name, default=1.0, min=0.0, max=STRONGEST, step=0.05, tooltip=tooltip)


class ColorizeReferenceStrength(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ColorizeReferenceStrength",
            display_name="Reference Strength per Level",
            category=CATEGORY + "/guidance",
            description="Use it when the reference brings more than colour: lower the levels that carry its shapes, "
            "keep those that carry its colours. Each layer's strength is overall x level x part.",
            search_aliases=["reference strength", "layer weights", "block weights", "attention strength", "semantics"],
            inputs=[
                ReferenceSocket.Input("reference", tooltip="From Encode Reference or Add Region."),
                _strength(
                    "high",
                    "1/8 of the picture's size (XL: 1/16): small colour areas and edges. 0 to 2, 1 as trained.",
                ),
                _strength("middle", "1/16 of the picture's size: colour. 0 to 2, 1 as trained. Not in XL."),
                _strength(
                    "low",
                    "1/32 of the picture's size: what things are. 0 to 2, 1 as trained. Lower it first when objects of "
                    "the reference appear in the result.",
                ),
                _strength("bottom", "The middle block: the picture as a whole. 0 to 2, 1 as trained."),
                _strength(
                    "encoder",
                    "All layers on the way down, times their level. 0 to 2, 1 as trained. Lower values take less of "
                    "the reference's layout along.",
                ),
                _strength("decoder", "All layers on the way up, times their level. 0 to 2, 1 as trained."),
                io.String.Input(
                    "layers",
                    default="",
                    advanced=True,
                    tooltip="One number of 0 to 2 per cross-attention, with commas between them: 16 for v1 and v1.5 "
                    "(6 encoder, 1 middle, 9 decoder), 70 for XL (24, 10, 36). They take the place of level x part. "
                    "Empty: off.",
                ),
            ],
            outputs=[
                ReferenceSocket.Output(
                    display_name="reference",
                    tooltip="The reference with these strengths, in place of earlier ones. Goes to Apply Reference.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        reference: Reference,
        high: float = 1.0,
        middle: float = 1.0,
        low: float = 1.0,
        bottom: float = 1.0,
        encoder: float = 1.0,
        decoder: float = 1.0,
        layers: str = "",
    ) -> io.NodeOutput:
        levels = level_strengths(high, middle, low, bottom, encoder, decoder, layers)
        return io.NodeOutput(replace(reference, levels=levels))
