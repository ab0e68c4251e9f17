"""Few painted figures become many: recoloured part by part, cut, mirrored, on other grounds, drawn in several ways.

A figure is a picture with transparency. Its colours fall into a few clusters (k-means in CIE Lab, brightness counting
less, so that light and shade of one thing stay together); every cluster moves to a new colour, some to two colours that
meet somewhere on the figure (hair with other tips, a dress with another hem). Pictures of one character share their
clusters, so the same dress gets the same new colour in drawing and reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from trainer.data import deform
from trainer.data.decode import open_picture, upright

from .palettes import in_mood
from .scenes import CANVASES, REFERENCE_SIDE, SQUARES, Parts

CLUSTERS = 7
LIGHTNESS = 0.45  # weight of L against a and b when clusters are made
SOFTNESS = 8.0  # Lab distance over which one cluster's change fades into another's
KEPT = 0.15  # share of samples in the colours they were painted in
SKIN_HUE, SKIN_CHROMA, SKIN_LIGHT = (0.28, 1.4), (2, 46), 52  # radians of a, b; chroma; least L
SKIN_KEPT = 0.92  # share of samples whose skin stays skin, paler or darker
TWO_TONED = 0.4  # share of samples in which some clusters have two colours
BENT = 0.5  # strength by which references are bent, at most
WORKING_HEIGHT = 1000  # pixels to which tall figures are reduced
GROUNDS = {"white": 0.4, "flat": 0.3, "painted": 0.3}


def _lab(values: np.ndarray) -> np.ndarray:
    """sRGB (..., 3) 0..255 -> CIE Lab, L 0..100."""
    from kornia.color import rgb_to_lab

    flat = torch.from_numpy(np.ascontiguousarray(values, np.float32)).reshape(-1, 3) / 255
    return rgb_to_lab(flat.T[None, :, :, None])[0, :, :, 0].T.reshape(values.shape).numpy()


def _rgb(values: np.ndarray) -> np.ndarray:
    """CIE Lab (..., 3) -> sRGB 0..255, clipped."""
    from kornia.color import lab_to_rgb

    flat = torch.from_numpy(np.ascontiguousarray(values, np.float32)).reshape(-1, 3)
    flat[:, 0].clamp_(0, 100)
    return (lab_to_rgb(flat.T[None, :, :, None])[0, :, :, 0].T.reshape(values.shape) * 255).clamp(0, 255).numpy()


@dataclass(frozen=True)
class Character:
    """Pictures of one character: RGBA (H, W, 4) uint8 cut to their figure, and the clusters of their colours (K, 3)."""

    name: str
    figures: tuple[np.ndarray, ...]
    clusters: np.ndarray


def read_character(name: str, files: Sequence[Path], seed: int = 0) -> Character:
    """Read pictures with transparency and find their common clusters."""
    figures = []
    for file in files:
        image = upright(open_picture(file)).convert("RGBA")
        image = image.crop(image.getchannel("A").getbbox())
        if image.height > WORKING_HEIGHT:
            image = image.resize(
                (round(image.width * WORKING_HEIGHT / image.height), WORKING_HEIGHT), Image.Resampling.LANCZOS
            )
        figures.append(np.asarray(image))
    random = np.random.default_rng(seed)
    pixels = np.concatenate([f[f[..., 3] > 200][:, :3] for f in figures])
    points = _lab(pixels[random.choice(len(pixels), min(len(pixels), 20_000), replace=False)].astype(float))
    return Character(name, tuple(figures), _k_means(points, random))


def _k_means(points: np.ndarray, random: np.random.Generator, rounds: int = 25) -> np.ndarray:
    """Centres (K, 3) of Lab points (N, 3), each far from the others at the start (k-means++)."""
    weights = np.array([LIGHTNESS, 1, 1])
    scaled = points * weights
    centres = scaled[random.integers(len(scaled))][None]
    while len(centres) < CLUSTERS:
        nearest = ((scaled[:, None] - centres[None]) ** 2).sum(-1).min(1)
        centres = np.concatenate([centres, scaled[random.choice(len(scaled), p=nearest / nearest.sum())][None]])
    for _ in range(rounds):
        owner = ((scaled[:, None] - centres[None]) ** 2).sum(-1).argmin(1)
        centres = np.stack([scaled[owner == k].mean(0) if (owner == k).any() else centres[k] for k in range(CLUSTERS)])
    return centres / weights


def skin(lab: np.ndarray) -> np.ndarray:
    """How much a Lab colour (..., 3) looks like skin, (...) from 0 to 1."""
    hue, chroma = np.arctan2(lab[..., 2], lab[..., 1]), np.hypot(lab[..., 1], lab[..., 2])

    def within(values: np.ndarray, low: float, high: float, soft: float) -> np.ndarray:
        return np.clip((values - low) / soft, 0, 1) * np.clip((high - values) / soft, 0, 1)

    light = np.clip((lab[..., 0] - SKIN_LIGHT) / 10, 0, 1)
    return within(hue, *SKIN_HUE, 0.12) * within(chroma, *SKIN_CHROMA, 3.0) * light


def new_centres(centres: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Lab colours (K, 3) to which the clusters move, anywhere."""
    hue, chroma = random.uniform(-np.pi, np.pi, len(centres)), random.beta(1.5, 2.2, len(centres)) * 85
    light = centres[:, 0] * 0.45 + random.uniform(15, 90, len(centres)) * 0.55
    moved = np.stack([light, chroma * np.cos(hue), chroma * np.sin(hue)], 1)
    moved[random.random(len(centres)) < 0.12] = centres[random.integers(len(centres))]  # two things of one colour
    return moved


def recolored(values: np.ndarray, centres: np.ndarray, moved: np.ndarray, tan: float | None) -> np.ndarray:
    """RGB (H, W, 3) 0..255 with every cluster's colours moved; what lies between two clusters moves in between.

    tan: Lab units by which what looks like skin becomes darker instead; None moves it like the rest.
    """
    lab = _lab(values)
    weights = np.array([LIGHTNESS, 1, 1])
    distance = (((lab[..., None, :] - centres) * weights) ** 2).sum(-1)
    share = np.exp(-(distance - distance.min(-1, keepdims=True)) / (2 * SOFTNESS**2))
    share /= share.sum(-1, keepdims=True)
    old, new = share @ centres, share @ moved
    turn = np.arctan2(new[..., 2], new[..., 1]) - np.arctan2(old[..., 2], old[..., 1])
    rest = lab - old
    cos, sin = np.cos(turn), np.sin(turn)
    turned = np.stack(
        [rest[..., 0], cos * rest[..., 1] - sin * rest[..., 2], sin * rest[..., 1] + cos * rest[..., 2]], -1
    )
    changed = new + turned
    if tan is not None:
        kept = np.maximum(skin(lab), share @ (skin(centres) > 0.5))[..., None]
        changed = kept * (lab + np.array([-tan, 0.12 * tan, 0.3 * tan])) + (1 - kept) * changed
    return _rgb(changed)


@dataclass(frozen=True)
class Tones:
    """A second set of colours, and the line on the figure beyond which it holds.

    centres: Lab (K, 3). along: unit vector (2,), x and y. start: where the line is along it; softness: over how much it
    changes. Both in the figure's own measures, 0..1 from its left and upper edge.
    """

    centres: np.ndarray
    along: np.ndarray
    start: float
    softness: float

    @classmethod
    def drawn(cls, moved: np.ndarray, portion: float, random: np.random.Generator) -> Tones:
        """One to three clusters in other colours; the line crosses the upper `portion` of the figure."""
        chosen = random.choice(len(moved), random.integers(1, min(3, len(moved)) + 1), replace=False)
        centres = moved.copy()
        centres[chosen] = new_centres(moved, random)[chosen]
        angle = random.normal(np.pi / 2, 0.4) if random.random() < 0.7 else random.uniform(-np.pi, np.pi)
        along = np.array([np.cos(angle), np.sin(angle)])
        point = np.array([random.uniform(0.3, 0.7), random.uniform(0.1, 0.9) * portion])
        return cls(centres, along, float(point @ along), float(np.exp(random.uniform(np.log(0.004), np.log(0.1)))))

    def share(self, places: np.ndarray) -> np.ndarray:
        """How far these colours hold (..., 1), 0..1, at places on the figure (..., 2)."""
        return 1 / (1 + np.exp(-np.clip((places @ self.along - self.start) / self.softness, -30, 30)))[..., None]


def nearest(values: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Number of the cluster that every colour (..., 3), RGB 0..255, is closest to."""
    weights = np.array([LIGHTNESS, 1, 1])
    return (((_lab(values)[..., None, :] - centres) * weights) ** 2).sum(-1).argmin(-1)


def flattened(values: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """RGB (H, W, 3) 0..255 without shades: every pixel in the colour of its cluster, borders slightly soft."""
    lab, weights = _lab(values), np.array([LIGHTNESS, 1, 1])
    distance = (((lab[..., None, :] - centres) * weights) ** 2).sum(-1)
    share = np.exp(-(distance - distance.min(-1, keepdims=True)) / 18)
    return _rgb(share / share.sum(-1, keepdims=True) @ centres)


def sample(characters: Sequence[Character], grounds: Sequence[np.ndarray], random: np.random.Generator) -> Parts:
    """color, mask (H, W), reference, reference_mask (S, S): one character in new colours, cut out twice.

    grounds: painted pictures (h, w, 3) uint8 that may stand behind it. Sketches are made of `color` afterwards.
    """
    character = characters[int(random.integers(len(characters)))]
    portion = random.uniform(0.28, 1.0)  # of the figure's height that is seen
    order = random.permutation(len(character.figures)).tolist()
    target = character.figures[order[0]]
    reference = character.figures[order[min(len(order) - 1, int(random.integers(3)))]]
    moved = new_centres(character.clusters, random)
    tan = random.choice([0.0, random.uniform(-3, 6), random.uniform(8, 35)], p=[0.3, 0.4, 0.3])
    if random.random() < KEPT:
        moved, tan = character.clusters, 0.0
    elif random.random() > SKIN_KEPT:
        tan = None
    tones = Tones.drawn(moved, portion, random) if random.random() < TWO_TONED else None
    mood = random.choice(["plain", "pale", "dark", "grey"], p=[0.76, 0.08, 0.1, 0.06])
    ground = str(random.choice(list(GROUNDS), p=list(GROUNDS.values())))
    flat = _rgb(np.array([random.uniform(10, 95), *random.normal(0, 25, 2)]))
    painted = grounds[int(random.integers(len(grounds)))] if grounds and ground == "painted" else None
    canvas = CANVASES[0] if random.random() < SQUARES else CANVASES[1 + random.integers(len(CANVASES) - 1)]
    shown = portion * random.uniform(0.9, 1.6)
    parts: Parts = {}
    for names, figure, size, share in (
        (("color", "mask"), target, canvas, portion),
        (("reference", "reference_mask"), reference, (REFERENCE_SIDE,) * 2, min(1.0, shown)),
    ):
        behind = np.full((*size, 3), 255.0) if ground == "white" else np.broadcast_to(flat, (*size, 3))
        if painted is not None:
            behind = cut(painted, size, random)
        stands = Standing.drawn(figure, size, share, random)
        layer = stands.put(figure)
        inside = layer[..., 3:] / 255
        new = recolored(layer[..., :3], character.clusters, moved, tan)
        if tones is not None:
            other = tones.share(stands.figure_places())
            new = new * (1 - other) + recolored(layer[..., :3], character.clusters, tones.centres, tan) * other
        color = new * inside + behind * (1 - inside)
        parts[names[0]] = np.round(np.clip(in_mood(color, mood), 0, 255)).astype(np.uint8)
        parts[names[1]] = np.where(inside[..., 0] > 0.5, 255, 0).astype(np.uint8)
    moves = deform.draw_moves(random, random.uniform(0, BENT))
    grid = deform.sampling_grid(moves, REFERENCE_SIDE, REFERENCE_SIDE)
    corner = int(parts["reference"][0, 0].mean())
    bent = deform.bend(torch.from_numpy(parts["reference"]).permute(2, 0, 1), grid, corner)
    parts["reference"] = bent.permute(1, 2, 0).numpy()
    mask = torch.from_numpy(parts["reference_mask"])[None]
    parts["reference_mask"] = deform.bend(mask, grid, 0, nearest=True)[0].numpy()
    return parts


@dataclass(frozen=True)
class Standing:
    """Where a figure stands on a canvas (H, W): its size there in pixels, its left and upper edge, whether mirrored."""

    canvas: tuple[int, int]
    width: int
    height: int
    left: int
    top: int
    mirrored: bool

    @classmethod
    def drawn(cls, figure: np.ndarray, canvas: tuple[int, int], share: float, random: np.random.Generator) -> Standing:
        """Somewhere near the middle, the upper `share` of the figure (h, w, 4) within the canvas, perhaps mirrored."""
        height, width = canvas
        scale = height * random.uniform(0.9, 1.0) / (figure.shape[0] * share)
        scale = min(scale, 2.2 * width / figure.shape[1])
        mirrored = bool(random.random() < 0.5)
        wide, high = (max(1, round(side * scale)) for side in (figure.shape[1], figure.shape[0]))
        left = round((width - wide) / 2 + random.uniform(-0.15, 0.15) * width)
        return cls(canvas, wide, high, left, height - round(figure.shape[0] * share * scale), mirrored)

    def put(self, figure: np.ndarray) -> np.ndarray:
        """The figure (h, w, 4) on an empty canvas (H, W, 4), float 0..255."""
        image = Image.fromarray(figure).resize((self.width, self.height), Image.Resampling.LANCZOS)
        if self.mirrored:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        out = Image.new("RGBA", self.canvas[::-1], (255, 255, 255, 0))
        out.paste(image, (self.left, self.top))
        return np.asarray(out).astype(float)

    def figure_places(self) -> np.ndarray:
        """Where every pixel of the canvas lies on the figure: x, y (H, W, 2), 0..1 within it."""
        y, x = np.mgrid[: self.canvas[0], : self.canvas[1]] + 0.5
        across = (x - self.left) / self.width
        return np.stack([1 - across if self.mirrored else across, (y - self.top) / self.height], -1)


def placed(figure: np.ndarray, size: tuple[int, int], share: float, random: np.random.Generator) -> np.ndarray:
    """The upper `share` of a figure (h, w, 4) on a canvas (H, W, 4), perhaps mirrored; float 0..255."""
    return Standing.drawn(figure, size, share, random).put(figure)


def cut(picture: np.ndarray, size: tuple[int, int], random: np.random.Generator) -> np.ndarray:
    """A random part of a picture (h, w, 3) at a size (H, W), float."""
    height, width = picture.shape[:2]
    scale = random.uniform(0.5, 1.0) * min(height / size[0], width / size[1])
    cut = round(size[1] * scale), round(size[0] * scale)
    left, top = random.integers(width - cut[0] + 1), random.integers(height - cut[1] + 1)
    image = Image.fromarray(picture).crop((left, top, left + cut[0], top + cut[1]))
    return np.asarray(image.resize((size[1], size[0]), Image.Resampling.LANCZOS)).astype(float)
