"""How strongly each cross-attention layer listens to the reference.

The result of a cross-attention is multiplied by the layer's strength before the output projection (released code), so
strength 0 leaves the projection's bias and 1 changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

# Names of the levels with cross-attention, finest first, by how many there are (XL: two); the middle block is "bottom".
LEVELS = {1: ("high",), 2: ("high", "low"), 3: ("high", "middle", "low"), 4: ("high", "middle", "low", "bottom")}


@dataclass(frozen=True)
class Place:
    """Where an attention layer stands in the U-Net."""

    part: str
    """"encoder", "bottom" (the middle block) or "decoder"."""
    level: int
    """How often the feature map was halved."""


def attention_places(unet: Any, transformer: type[Any], downsample: type, upsample: type) -> tuple[Place, ...]:
    """The places of all transformer layers of a U-Net with input_blocks, middle_block and output_blocks, in order.

    unet: ours or ComfyUI's. transformer, downsample, upsample: the classes of those layers in this U-Net. A transformer
    of several blocks counts once per block.
    """
    level = 0

    def layers(blocks: Iterable[Any], part: str) -> Iterator[Place]:
        nonlocal level
        for block in blocks:
            for layer in block:
                if isinstance(layer, transformer):
                    yield from [Place(part, level)] * len(layer.transformer_blocks)
                elif isinstance(layer, downsample):
                    level += 1
                elif isinstance(layer, upsample):
                    level -= 1

    return (
        *layers(unet.input_blocks, "encoder"),
        *layers([unet.middle_block], "bottom"),
        *layers(unet.output_blocks, "decoder"),
    )


def level_names(places: Sequence[Place]) -> tuple[str, ...]:
    """ "high", "middle", "low" or "bottom" of every layer, as the released applications group them."""
    levels = sorted({place.level for place in places if place.part != "bottom"})
    name = dict(zip(levels, LEVELS[max(1, len(levels))]))
    return tuple("bottom" if place.part == "bottom" else name[place.level] for place in places)


@dataclass(frozen=True)
class LevelStrengths:
    """Factors per resolution and per part of the U-Net; those of a layer's level and part are multiplied.

    The released application lets later sliders overwrite earlier ones, so that its "encoder" slider reaches two layers
    only; here every slider reaches all the layers it names. `layers` sets every layer by itself.
    """

    high: float = 1.0
    """The finest feature maps with cross-attention (v1: full size, XL: half size): small colour areas and edges."""
    middle: float = 1.0
    """Half-size feature maps of v1: colour. XL has none."""
    low: float = 1.0
    """Quarter-size feature maps: meaning (what is hair, what is cloth)."""
    bottom: float = 1.0
    """The middle block: the picture as a whole."""
    encoder: float = 1.0
    """All layers on the way down."""
    decoder: float = 1.0
    """All layers on the way up."""
    layers: tuple[float, ...] = ()
    """One factor per layer in order, instead of all the factors above; empty: not used."""

    def of(self, places: Sequence[Place], overall: float = 1.0) -> tuple[float, ...]:
        """The strength of every layer. Raises ValueError when `layers` has another length than the U-Net."""
        if self.layers:
            if len(self.layers) != len(places):
                raise ValueError(
                    f"{len(self.layers)} strengths are given, but this model has {len(places)} cross-attention layers. "
                    f"Give {len(places)} numbers, or none."
                )
            return tuple(overall * strength for strength in self.layers)
        parts = {"encoder": self.encoder, "bottom": 1.0, "decoder": self.decoder}
        names = level_names(places)
        return tuple(overall * getattr(self, name) * parts[place.part] for name, place in zip(names, places))
