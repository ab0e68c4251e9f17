"""DiceBear's characters: drawn by artists from parts, with colours that are ours to choose.

One SVG text gives everything with exact truth: in any colours, as lines, as regions, as a mask. Every colour of the
text is a slot. The slots a style leaves open (hair, skin, clothes, ...) are marked with a colour of their own when the
text is made, so that they can be found and filled.
"""

from __future__ import annotations

import io
import json
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainer.config import ConfigError
from trainer.data.decode import open_picture

SCRIPT = Path(__file__).with_name("avatars.mjs")

# Style -> (option of the package -> what is coloured by it).
STYLES: dict[str, dict[str, str]] = {
    "adventurer": {"hairColor": "hair", "skinColor": "skin"},
    "micah": {
        "baseColor": "skin",
        "hairColor": "hair",
        "shirtColor": "clothes",
        "earringColor": "extra",
        "glassesColor": "extra",
    },
    "lorelei": {
        "skinColor": "skin",
        "hairColor": "hair",
        "hairAccessoriesColor": "extra",
        "glassesColor": "extra",
        "earringsColor": "extra",
    },
    "open-peeps": {"skinColor": "skin", "headContrastColor": "hair", "clothingColor": "clothes"},
    "toon-head": {"skinColor": "skin", "hairColor": "hair", "clothesColor": "clothes"},
    "personas": {"skinColor": "skin", "hairColor": "hair", "clothingColor": "clothes"},
    "big-smile": {"skinColor": "skin", "hairColor": "hair"},
    "big-ears": {"skinColor": "skin", "hairColor": "hair"},
    "miniavs": {"skinColor": "skin", "hairColor": "hair", "bodyColor": "clothes"},
}
ROLES = ("skin", "hair", "clothes", "extra")
MARKS = {"skin": "#fe0a51", "hair": "#fe0b52", "clothes": "#fe0c53", "extra": "#fe0d54"}
"""Colours that no style has: what stands for a role until it is filled."""
REGIONS = ("background", "ink", "other", *ROLES)
"""Labels of `Avatar.regions`."""

INK = 60  # luma 0..255 below which a colour of the style itself is its line
LINE_SCALE = 3  # edges are found on a picture that many times larger
_COLOR = re.compile(r"#[0-9a-fA-F]{6}\b|#[0-9a-fA-F]{3}\b|(?<==\")(?:black|white)(?=\")")
_MASK = re.compile(r"<mask.*?</mask>", re.DOTALL)
_OPACITY = re.compile(r'\b((?:fill-|stroke-)?opacity)="(?!1")[^"]*"')


def draw(packages: Path, wanted: Sequence[tuple[str, str]]) -> list[Avatar]:
    """Characters of (style, seed), by Node from the packages below `packages`. Raises ConfigError when that fails."""
    orders = []
    for style, seed in wanted:
        if style not in STYLES:
            raise ConfigError(f"Unknown style of characters {style!r}; choose among {', '.join(STYLES)}.")
        options = {option: [MARKS[role][1:]] for option, role in STYLES[style].items()}
        orders.append({"style": style, "seed": seed, "options": options})
    try:
        done = subprocess.run(
            ["node", str(SCRIPT), str(packages)],
            input=json.dumps(orders),
            capture_output=True,
            text=True,
            check=True,
        )
    except FileNotFoundError:
        raise ConfigError("DiceBear's characters are drawn by Node.js: install it, so that `node` runs.") from None
    except subprocess.CalledProcessError as error:
        raise ConfigError(f"Node.js could not draw the characters: {error.stderr.strip()[-500:]}") from None
    texts = [json.loads(line) for line in done.stdout.splitlines()]
    return [Avatar(style, text) for (style, _), text in zip(wanted, texts, strict=True)]


def _hex(color: str) -> str:
    """Any spelling of a colour in these files -> #rrggbb."""
    color = {"black": "#000000", "white": "#ffffff"}.get(color, color).lower()
    return color if len(color) == 7 else "#" + "".join(2 * digit for digit in color[1:])


def rgb(color: str) -> tuple[int, int, int]:
    """#rrggbb -> values 0..255."""
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return red, green, blue


def _luma(color: str) -> float:
    return float(np.dot(rgb(color), (0.299, 0.587, 0.114)))


@dataclass(frozen=True)
class Avatar:
    """One character: its style and the SVG text with marks for the open colours."""

    style: str
    text: str

    def slots(self) -> list[str]:
        """All colours of the text, #rrggbb, without those of its masks."""
        return sorted({_hex(found) for found in _COLOR.findall(_MASK.sub("", self.text))})

    def roles(self) -> frozenset[str]:
        """What of ROLES the character shows."""
        slots = self.slots()
        return frozenset(role for role, mark in MARKS.items() if mark in slots)

    def render(self, colors: Mapping[str, str], side: int, *, flat: bool = False) -> np.ndarray:
        """RGBA (side, side, 4) uint8. colors: slot -> #rrggbb; other slots stay. flat: hard edges, no shades."""
        try:
            from resvg_py import svg_to_bytes
        except ImportError:
            raise ConfigError("Drawing SVG needs resvg: pip install resvg_py.") from None

        def filled(text: str) -> str:
            text = _COLOR.sub(lambda found: colors.get(_hex(found[0]), _hex(found[0])), text)
            return _OPACITY.sub(r'\1="0"', text) if flat else text

        parts, end = [], 0
        for mask in _MASK.finditer(self.text):  # their white means "visible"
            parts += [filled(self.text[end : mask.start()]), mask[0]]
            end = mask.end()
        text = "".join([*parts, filled(self.text[end:])])
        if flat:
            text = text.replace('shape-rendering="auto"', 'shape-rendering="crispEdges"')
        png = svg_to_bytes(svg_string=text, width=side, height=side, skip_system_fonts=True)
        return np.asarray(open_picture(io.BytesIO(bytes(png))).convert("RGBA"))

    def numbers(self, side: int) -> tuple[np.ndarray, list[str]]:
        """Which slot every pixel shows, (side, side) uint8, 0 = none and n = the slot n - 1 of the list."""
        slots = self.slots()
        codes = {slot: f"#{16 * (n % 15 + 1):02x}{16 * (n // 15 + 1):02x}80" for n, slot in enumerate(slots)}
        shown = self.render(codes, side, flat=True)
        packed = np.ascontiguousarray(shown).view(np.dtype("<u4"))[..., 0]  # 0xAABBGGRR
        numbers = np.zeros((side, side), np.uint8)
        for n, code in enumerate(codes.values()):
            red, green, blue = rgb(code)
            numbers[packed == (255 << 24 | blue << 16 | green << 8 | red)] = n + 1
        return numbers, slots

    def regions(self, side: int) -> np.ndarray:
        """Labels (side, side) uint8, numbers of REGIONS."""
        numbers, slots = self.numbers(side)
        names = {mark: role for role, mark in MARKS.items()}
        labels = [REGIONS.index(names.get(slot, "ink" if _luma(slot) < INK else "other")) for slot in slots]
        return np.array([0, *labels], np.uint8)[numbers]

    def sketch(self, side: int, width: float = 1.2) -> np.ndarray:
        """Black lines on white (side, side) uint8: the style's own ink, and edges `width` px wide where it has none."""
        large = side * LINE_SCALE
        numbers, slots = self.numbers(large)
        ink = np.isin(numbers, [n + 1 for n, slot in enumerate(slots) if _luma(slot) < INK])
        solid = _grown(_shrunk(ink, 1), 1)  # hairlines are broken at hard edges, so they do not replace an edge
        edge = np.zeros_like(ink)
        for here, there in (((slice(None, -1),), (slice(1, None),)), ((..., slice(None, -1)), (..., slice(1, None)))):
            edge[here] |= (numbers[here] != numbers[there]) & ~(solid[here] | solid[there])
        drawn = ink | _grown(edge, max(1, round(width * LINE_SCALE / 2)))
        drawn = drawn.reshape(side, LINE_SCALE, side, LINE_SCALE).mean((1, 3))
        return np.round(255 * (1 - drawn)).astype(np.uint8)


def _grown(mask: np.ndarray, radius: int) -> np.ndarray:
    """A mask (H, W) grown by a disc of `radius` pixels."""
    padded, grown = np.pad(mask, radius), np.zeros_like(mask)
    for dy in range(-radius, radius + 1):
        for dx in range(-radius, radius + 1):
            if dy**2 + dx**2 <= radius**2:
                rows = slice(radius + dy, radius + dy + mask.shape[0])
                grown |= padded[rows, radius + dx : radius + dx + mask.shape[1]]
    return grown


def _shrunk(mask: np.ndarray, radius: int) -> np.ndarray:
    return ~_grown(~mask, radius)
