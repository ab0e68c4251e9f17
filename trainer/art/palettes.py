"""Colours for characters whose colours are free: of hair, skin and clothes, in moods from pale to dark."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

MOODS = {"plain": 0.58, "vivid": 0.15, "pale": 0.09, "dark": 0.1, "grey": 0.08}
"""Mood -> share of pictures."""
SKINS = ("#ffe3d3", "#fbd9c0", "#f6cfae", "#f0bf9a", "#e8ad86", "#d9976c", "#c27f55", "#a86744", "#8a5136", "#66392a")
FANTASY_SKIN = 0.04  # share of skins of any hue
WHITE, FLAT, SHADED = 0.35, 0.45, 0.2  # shares of backgrounds: none, one colour, two colours from top to bottom


def hsv(hue: float, saturation: float, value: float) -> np.ndarray:
    """Hue in turns, saturation and value 0..1 -> RGB (3,) 0..255."""
    sector = (hue % 1) * 6 + np.array([5.0, 3.0, 1.0])
    return 255 * (value - value * saturation * np.clip(np.minimum(sector % 6, 4 - sector % 6), 0, 1))


def hex_of(values: np.ndarray) -> str:
    """RGB (3,) 0..255 -> #rrggbb."""
    return "#" + "".join(f"{round(float(v)):02x}" for v in np.clip(values, 0, 255))


@dataclass(frozen=True)
class RoleColors:
    """Colours of one character and of what stands behind it."""

    colors: Mapping[str, str]
    """role -> #rrggbb"""
    line: str
    """what the style's black is replaced by"""
    background: tuple[np.ndarray, np.ndarray]
    """RGB (3,) 0..255 at the top and at the bottom"""


def in_mood(values: np.ndarray, mood: str) -> np.ndarray:
    """RGB (..., 3) 0..255 made paler, darker, greyer; "plain" and "vivid" leave it."""
    if mood == "pale":
        return values * 0.45 + 255 * 0.55
    if mood == "dark":
        return values * 0.42
    if mood == "grey":
        luma = values @ np.array([0.299, 0.587, 0.114])
        return values * 0.12 + luma[..., None] * 0.88
    return values


def draw_palette(random: np.random.Generator, plain: bool = False) -> RoleColors:
    """Random colours; all that is drawn comes from `random`. plain: in no mood, whatever was drawn."""
    mood = random.choice(list(MOODS), p=list(MOODS.values()))
    if plain:
        mood = "plain"
    vivid = mood == "vivid"
    tone = SKINS[random.integers(len(SKINS))]
    skin = np.array([int(tone[i : i + 2], 16) for i in (1, 3, 5)]) + random.normal(0, 5, 3)
    if random.random() < FANTASY_SKIN:
        skin = hsv(random.random(), random.uniform(0.15, 0.6), random.uniform(0.6, 1))

    def any_color() -> np.ndarray:
        saturation = random.uniform(0.6, 1) if vivid else random.beta(1.6, 1.8)
        return hsv(random.random(), saturation, random.uniform(0.35, 1) if random.random() < 0.8 else random.random())

    hair = any_color()
    if random.random() < 0.35:  # black, brown, blond, grey
        hair = hsv(random.uniform(0.03, 0.14), random.uniform(0.05, 0.7), random.uniform(0.08, 0.95))
    colors = {"skin": skin, "hair": hair, "clothes": any_color(), "extra": any_color()}
    tinted = random.random() < 0.4
    line = hsv(random.random(), random.uniform(0, 0.7), random.uniform(0, 0.3)) if tinted else np.zeros(3)
    kind = random.random()
    top = np.full(3, 255.0) if kind < WHITE else in_mood(any_color(), mood)
    bottom = in_mood(any_color(), mood) if kind > WHITE + FLAT else top
    return RoleColors(
        {role: hex_of(in_mood(values, mood)) for role, values in colors.items()}, hex_of(line), (top, bottom)
    )
