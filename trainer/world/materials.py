"""What a surface is (material), how it is lit (tone), and which region of the evaluation it belongs to."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum

import numpy as np


class Material(IntEnum):
    """A surface. The index image holds material * TONES + tone."""

    BACKGROUND = 0
    BACKGROUND_SECOND = 1
    BACKGROUND_THIRD = 2
    HAIR = 3
    HAIR_BACK = 4
    HAIR_STREAK = 5
    SKIN = 6
    IRIS_A = 7
    IRIS_B = 8
    PUPIL_A = 9
    PUPIL_B = 10
    EYE_WHITE = 11
    LASH = 12
    CATCH_LIGHT = 13
    MOUTH = 14
    TEETH = 15
    CLOTHES_MAIN = 16
    CLOTHES_SECOND = 17
    CLOTHES_TRIM = 18
    ACCESSORY = 19
    ACCESSORY_SECOND = 20
    INNER_EAR = 21
    CLOTHES_INSIDE = 22


class Tone(IntEnum):
    """How a surface is lit; LINE is the ink line that belongs to the surface."""

    BASE = 0
    SHADE = 1
    LIGHT = 2
    LINE = 3
    BLUSH = 4
    BLUSH_DEEP = 5


TONES = 8

REGION_NAMES = (
    "background",
    "background_second",
    "hair",
    "skin",
    "eyes",
    "clothes_main",
    "clothes_second",
    "clothes_trim",
    "accessories",
    "other",
    "lines",
)
"""Names of the labels 0, 1, 2, ... of a region map. `eyes` is the iris without pupil and catch light."""

_REGION_OF = {
    Material.BACKGROUND: "background",
    Material.BACKGROUND_SECOND: "background_second",
    Material.BACKGROUND_THIRD: "background_second",
    Material.HAIR: "hair",
    Material.HAIR_BACK: "hair",
    Material.HAIR_STREAK: "hair",
    Material.SKIN: "skin",
    Material.IRIS_A: "eyes",
    Material.IRIS_B: "eyes",
    Material.CLOTHES_MAIN: "clothes_main",
    Material.CLOTHES_INSIDE: "clothes_main",
    Material.CLOTHES_SECOND: "clothes_second",
    Material.CLOTHES_TRIM: "clothes_trim",
    Material.ACCESSORY: "accessories",
    Material.ACCESSORY_SECOND: "accessories",
}


def region_table() -> np.ndarray:
    """(256,) uint8: index value -> region label."""
    table = np.full(256, REGION_NAMES.index("other"), dtype=np.uint8)
    for material, name in _REGION_OF.items():
        table[material * TONES : (material + 1) * TONES] = REGION_NAMES.index(name)
    table[Tone.LINE :: TONES] = REGION_NAMES.index("lines")
    return table


def tone_table(materials: Iterable[Material], tone: Tone, only_from: Iterable[Tone] = (Tone.BASE,)) -> list[int]:
    """256 values for Image.point: turns the tones `only_from` of the given materials into `tone`, keeps the rest."""
    table = list(range(256))
    for material in materials:
        for old in only_from:
            table[material * TONES + old] = material * TONES + tone
    return table
