"""Colours and rendering style of a character, independent of what is drawn."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

Colour = tuple[int, int, int]
"""sRGB, 0..255."""


def _oklch_linear(lightness: float, chroma: float, hue: float) -> tuple[float, float, float]:
    a, b = chroma * math.cos(hue), chroma * math.sin(hue)
    l3 = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    m3 = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    s3 = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    return (
        4.0767416621 * l3 - 3.3077115913 * m3 + 0.2309699292 * s3,
        -1.2684380046 * l3 + 2.6097574011 * m3 - 0.3413193965 * s3,
        -0.0041960863 * l3 - 0.7034186147 * m3 + 1.7076147010 * s3,
    )


def _encode(linear: float) -> int:
    linear = min(max(linear, 0.0), 1.0)
    srgb = 12.92 * linear if linear <= 0.0031308 else 1.055 * linear ** (1 / 2.4) - 0.055
    return int(round(srgb * 255))


def _decode(value: int) -> float:
    c = value / 255
    return c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4


def oklch(lightness: float, chroma: float, hue: float) -> Colour:
    """Colour from OKLCH (lightness 0..1, chroma 0..0.35, hue in turns 0..1); chroma is reduced until it fits sRGB.

    OKLab: Bjoern Ottosson, "A perceptual color space for image processing", 2020.
    """
    angle = hue * 2 * math.pi
    linear = _oklch_linear(lightness, chroma, angle)
    while chroma > 1e-3 and (min(linear) < -1e-3 or max(linear) > 1.001):
        chroma *= 0.93
        linear = _oklch_linear(lightness, chroma, angle)
    return _encode(linear[0]), _encode(linear[1]), _encode(linear[2])


def to_oklch(colour: Colour) -> tuple[float, float, float]:
    """Inverse of `oklch`: (lightness, chroma, hue in turns)."""
    r, g, b = (_decode(value) for value in colour)
    l3 = (0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b) ** (1 / 3)
    m3 = (0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b) ** (1 / 3)
    s3 = (0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b) ** (1 / 3)
    lightness = 0.2104542553 * l3 + 0.7936177850 * m3 - 0.0040720468 * s3
    a = 1.9779984951 * l3 - 2.4285922050 * m3 + 0.4505937099 * s3
    b = 0.0259040371 * l3 + 0.7827717662 * m3 - 0.8086757660 * s3
    return lightness, math.hypot(a, b), math.atan2(b, a) / (2 * math.pi) % 1


def mix(a: Colour, b: Colour, amount: float) -> Colour:
    """a at amount 0, b at amount 1."""
    red, green, blue = (int(round(x + (y - x) * amount)) for x, y in zip(a, b))
    return red, green, blue


@dataclass(frozen=True)
class Appearance:
    """Palette and rendering style."""

    hair: Colour
    hair_tips: Colour
    hair_streak: Colour
    skin: Colour
    eye_a: Colour
    eye_b: Colour
    brow: Colour
    clothes_main: Colour
    clothes_second: Colour
    clothes_trim: Colour
    accessory: Colour
    accessory_second: Colour
    background: Colour
    background_second: Colour
    background_third: Colour
    mouth: Colour
    shading: str
    """cel, soft (vertical gradient with a faint cel edge) or flat"""
    shade_strength: float
    """share of the lightness that a shaded surface loses, 0..1"""
    shade_hue_shift: float
    """how far shades lean to violet, 0..1"""
    shade_width: float
    """breadth of the cel edge, in head units"""
    light_x: float
    """-1 light from the left, 1 from the right"""
    highlight: float
    """strength of the hair highlight, 0..1"""
    blush: float
    """0..1"""
    line_lightness: float
    """lightness of the coloured lines relative to the surface, 0..1"""
    line_tint: float
    """0 black lines, 1 lines in the surface's own hue"""

    @classmethod
    def sample(cls, seed: int) -> Appearance:
        """The appearance of this integer seed."""
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, 0xA99E])))
        mood = rng.choice(["free", "pastel", "vivid", "dark", "mono", "natural"], p=[0.3, 0.2, 0.2, 0.11, 0.07, 0.12])
        hair = _hair(rng, mood)
        two_tone = rng.random()
        hair_l, hair_c, hair_h = to_oklch(hair)
        tips = _clear(
            float(np.clip(hair_l + rng.uniform(-0.2, 0.22), 0.25, 0.93)), rng.uniform(0.06, 0.2), rng.random()
        )
        clothes = _clothes(rng, mood, hair)
        background = _background(rng, mood)
        eye_a = _clear(rng.uniform(0.48, 0.72), rng.uniform(0.09, 0.22), rng.random())
        eye_b = oklch(rng.uniform(0.5, 0.74), 0.17, rng.random()) if rng.random() < 0.05 else eye_a
        shading = str(rng.choice(["cel", "soft", "flat"], p=[0.68, 0.2, 0.12]))
        source = rng.random()
        accessory = clothes[2] if source < 0.55 else (clothes[1] if source < 0.75 else _any_colour(rng, mood))
        return cls(
            hair=hair,
            hair_tips=tips if two_tone < 0.13 else hair,
            hair_streak=tips if 0.08 < two_tone < 0.17 else hair,
            skin=_skin(rng),
            eye_a=eye_a,
            eye_b=eye_b,
            brow=oklch(max(0.2, hair_l * 0.66), hair_c * 0.9, hair_h),
            clothes_main=clothes[0],
            clothes_second=clothes[1],
            clothes_trim=clothes[2],
            accessory=accessory,
            accessory_second=mix(accessory, (255, 255, 255), 0.55) if rng.random() < 0.5 else clothes[1],
            background=background[0],
            background_second=background[1],
            background_third=background[2],
            mouth=oklch(rng.uniform(0.42, 0.58), 0.13, rng.uniform(0.03, 0.07)),
            shading=shading,
            shade_strength=float(rng.uniform(0.13, 0.28)),
            shade_hue_shift=float(rng.uniform(0.0, 0.5)),
            shade_width=float(rng.uniform(0.07, 0.16)),
            light_x=float(rng.choice([-1, 1]) * rng.uniform(0.4, 1.0)),
            highlight=float(rng.uniform(0.25, 0.9)),
            blush=float(rng.uniform(0.1, 0.8)),
            line_lightness=float(rng.uniform(0.3, 0.5)),
            line_tint=float(rng.uniform(0.2, 1.0)),
        )

    def shade(self, colour: Colour, amount: float = 1.0) -> Colour:
        """The colour in shadow."""
        lightness, chroma, hue = to_oklch(colour)
        strength = self.shade_strength * amount
        shaded = oklch(lightness * (1 - strength), chroma * 1.04 + 0.006, hue)
        violet = oklch(lightness * (1 - strength) * 0.98, 0.09, 0.8)
        return mix(shaded, violet, self.shade_hue_shift * 0.45 * amount)

    def warm_shade(self, colour: Colour) -> Colour:
        """Shadow on skin: redder, not grey."""
        lightness, chroma, hue = to_oklch(colour)
        return oklch(lightness * (1 - self.shade_strength * 0.7), min(0.13, chroma * 1.3 + 0.025), hue * 0.6 + 0.03)

    def light(self, colour: Colour, amount: float = 1.0) -> Colour:
        """The colour where it shines."""
        lightness, chroma, hue = to_oklch(colour)
        lift = self.highlight * amount
        return oklch(lightness + (0.98 - lightness) * (0.25 + 0.45 * lift), chroma * (1 - 0.45 * lift), hue)

    def line(self, colour: Colour) -> Colour:
        """The ink line that belongs to a surface of this colour."""
        lightness, chroma, hue = to_oklch(colour)
        level = 0.1 + (lightness - 0.1) * self.line_lightness
        return oklch(min(level, lightness * 0.72), (0.015 + min(chroma, 0.16) * 0.75) * self.line_tint, hue)


def _clear(lightness: float, chroma: float, hue: float) -> Colour:
    """Like `oklch`, but yellows and yellow greens are kept light: dark ones look muddy."""
    hue %= 1.0
    if lightness < 0.55 and 0.19 < hue < 0.36:
        hue = 0.12 + (hue - 0.19) * 0.3
    yellowness = float(np.clip(1 - abs(hue - 0.28) / 0.1, 0, 1)) * min(1.0, chroma / 0.06)
    floor = 0.8 if lightness > 0.5 else 0.5
    return oklch(lightness + max(0.0, floor - lightness) * yellowness, chroma, hue)


def _any_colour(rng: np.random.Generator, mood: str) -> Colour:
    ranges = {
        "pastel": ((0.76, 0.93), (0.04, 0.12)),
        "vivid": ((0.5, 0.8), (0.15, 0.27)),
        "dark": ((0.24, 0.5), (0.03, 0.15)),
        "mono": ((0.3, 0.92), (0.0, 0.02)),
        "natural": ((0.45, 0.85), (0.03, 0.1)),
        "free": ((0.32, 0.88), (0.05, 0.22)),
    }
    (l0, l1), (c0, c1) = ranges[mood]
    return _clear(rng.uniform(l0, l1), rng.uniform(c0, c1), rng.random())


def _hair(rng: np.random.Generator, mood: str) -> Colour:
    if mood == "natural" or rng.random() < 0.22:
        kind = rng.integers(0, 6)
        if kind == 0:
            return oklch(rng.uniform(0.24, 0.34), rng.uniform(0.005, 0.03), rng.uniform(0.6, 0.85))
        if kind == 1:
            return oklch(rng.uniform(0.34, 0.55), rng.uniform(0.04, 0.09), rng.uniform(0.1, 0.18))
        if kind == 2:
            return oklch(rng.uniform(0.76, 0.9), rng.uniform(0.06, 0.14), rng.uniform(0.21, 0.27))
        if kind == 3:
            return oklch(rng.uniform(0.84, 0.94), rng.uniform(0.0, 0.03), rng.random())
        if kind == 4:
            return oklch(rng.uniform(0.5, 0.66), rng.uniform(0.11, 0.17), rng.uniform(0.08, 0.14))
        return oklch(rng.uniform(0.55, 0.75), rng.uniform(0.0, 0.03), rng.uniform(0.6, 0.8))
    if mood == "pastel":
        return oklch(rng.uniform(0.78, 0.9), rng.uniform(0.06, 0.13), rng.random())
    if mood == "dark":
        return _clear(rng.uniform(0.26, 0.48), rng.uniform(0.03, 0.14), rng.random())
    if mood == "mono":
        return oklch(rng.uniform(0.28, 0.9), rng.uniform(0.0, 0.03), rng.random())
    return _clear(rng.uniform(0.45, 0.84), rng.uniform(0.09, 0.22), rng.random())


def _skin(rng: np.random.Generator) -> Colour:
    kind = rng.random()
    if kind < 0.7:
        return oklch(rng.uniform(0.9, 0.955), rng.uniform(0.025, 0.055), rng.uniform(0.1, 0.18))
    if kind < 0.94:
        return oklch(rng.uniform(0.56, 0.84), rng.uniform(0.055, 0.09), rng.uniform(0.13, 0.18))
    return oklch(rng.uniform(0.7, 0.88), rng.uniform(0.04, 0.09), rng.random())


def _clothes(rng: np.random.Generator, mood: str, hair: Colour) -> tuple[Colour, Colour, Colour]:
    main = _any_colour(rng, mood)
    if rng.random() < 0.16:
        main = oklch(rng.uniform(0.9, 0.97), rng.uniform(0, 0.02), rng.random())
    elif rng.random() < 0.12:
        main = oklch(rng.uniform(0.25, 0.36), rng.uniform(0.01, 0.05), rng.uniform(0.6, 0.8))
    lightness, chroma, hue = to_oklch(main)
    relation = rng.random()
    if relation < 0.3:
        second = _clear(rng.uniform(0.9, 0.97), rng.uniform(0, 0.03), rng.random())
        if lightness > 0.84:
            second = _clear(rng.uniform(0.3, 0.65), rng.uniform(0.04, 0.18), rng.random())
    elif relation < 0.55:
        offset = -0.28 if lightness > 0.58 else 0.3
        second = _clear(lightness + offset, max(chroma, 0.05), hue + rng.uniform(-0.08, 0.08))
    else:
        second = _clear(
            lightness - 0.2 if lightness > 0.6 else lightness + 0.22,
            rng.uniform(0.06, 0.2),
            hue + rng.uniform(0.25, 0.75),
        )
    trim = _clear(rng.uniform(0.5, 0.85), rng.uniform(0.1, 0.22), rng.random())
    if rng.random() < 0.2:
        trim = mix(hair, trim, 0.25)
    return main, second, trim


def _background(rng: np.random.Generator, mood: str) -> tuple[Colour, Colour, Colour]:
    kind = rng.random()
    hue = rng.random()
    if kind < 0.45 or mood == "pastel":
        first = _clear(rng.uniform(0.8, 0.95), rng.uniform(0.02, 0.1), hue)
    elif kind < 0.75:
        first = _clear(rng.uniform(0.6, 0.85), rng.uniform(0.08, 0.19), hue)
    elif kind < 0.9:
        first = _clear(rng.uniform(0.26, 0.5), rng.uniform(0.03, 0.12), hue)
    else:
        first = _clear(rng.uniform(0.8, 0.97), rng.uniform(0.0, 0.012), hue)
    lightness, chroma, hue = to_oklch(first)
    step = rng.uniform(0.12, 0.24) * (-1 if lightness > 0.55 else 1)
    spread = rng.choice([0.03, 0.09, 0.18, 0.5]) * rng.choice([-1, 1])
    rich = 0.6 if abs(spread) == 0.5 else 1.15
    second = _clear(lightness + step, float(np.clip(chroma * rich + 0.02, 0.0, 0.2)), hue + spread)
    third = _clear(
        float(np.clip(lightness + step * rng.choice([-0.5, 1.7]), 0.2, 0.96)),
        float(np.clip(chroma + 0.03, 0, 0.2)),
        hue + spread * 2 + rng.uniform(-0.05, 0.05),
    )
    return first, second, third
