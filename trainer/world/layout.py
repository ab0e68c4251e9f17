"""What is drawn and where: pose, hairstyle, clothes, framing, background kind. No colour in here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

FRINGES = ("straight", "soft", "parted", "swept", "centre_lock", "spiky", "open", "hime", "curtain", "wisps")
BACK_HAIR = (
    "short",
    "bob",
    "medium",
    "long",
    "wavy",
    "twin_tails",
    "ponytail",
    "side_tail",
    "buns",
    "top_bun",
    "spiky",
    "braids",
    "low_tails",
    "drills",
)
CLOTHES = ("sailor", "hoodie", "tshirt", "kimono", "dress", "jacket", "armour", "sweater", "cape")
BACKGROUNDS = (
    "plain",
    "gradient",
    "horizon",
    "window",
    "hills",
    "stripes",
    "circles",
    "street",
    "burst",
    "checks",
    "frame",
)
BACKGROUND_STYLES = {
    "mixed": BACKGROUNDS,
    "plain": ("plain", "gradient"),
    "busy": ("window", "hills", "stripes", "circles", "street", "burst", "checks"),
}
"""Kinds of background by how much there is to see in them; "busy" ones have many shapes in several colours."""
HEADWEAR = ("none", "ribbon", "bow_top", "beret", "witch", "cap", "headband", "crown", "headphones", "flower", "clips")
EARS = ("human", "cat", "fox", "rabbit", "elf", "horns")
MOUTHS = ("smile", "open", "small_o", "cat", "flat", "pout", "grin", "frown")
EYES = ("round", "upturned", "drooping", "sleepy", "wide")


def _pick(rng: np.random.Generator, names: tuple[str, ...], weights: Sequence[float]) -> str:
    w = np.asarray(weights, float)
    return str(names[int(rng.choice(len(names), p=w / w.sum()))])


def with_background(layout: Layout, style: str) -> Layout:
    """The same layout with a background of a style (BACKGROUND_STYLES); "mixed", or one that fits, is left alone.

    The irregularities of the figure (lengths of single locks, spikes) come out differently before another background.
    """
    if style not in BACKGROUND_STYLES:
        raise ValueError(f"Unknown background style {style!r}; choose one of {', '.join(BACKGROUND_STYLES)}.")
    kinds = BACKGROUND_STYLES[style]
    return layout if layout.background in kinds else replace(layout, background=kinds[layout.detail_seed % len(kinds)])


@dataclass(frozen=True)
class Layout:
    """Geometry of one picture. Lengths are in head units (half the width of the face) unless said otherwise."""

    detail_seed: int
    """seed of the small irregularities (lengths of single locks, places of circles)"""
    head_unit: float
    """half the width of the face as a share of the picture's shorter side"""
    centre_x: float
    """place of the head in the picture, share of the width"""
    centre_y: float
    """place of the head, share of the shorter side from the top"""
    mirrored: bool
    turn: float
    """head turned left or right, radians"""
    pitch: float
    """features moved down (positive) or up"""
    tilt: float
    """head leaning to a shoulder, radians"""
    lean: float
    """body leaning, radians"""
    jaw: float
    """width of the jaw, about 1"""
    chin: float
    """length of the chin, about 1"""
    eyes: str
    eye_width: float
    eye_height: float
    gaze_x: float
    gaze_y: float
    wink: bool
    lashes: bool
    brow_tilt: float
    brow_raise: float
    mouth: str
    mouth_size: float
    fringe: str
    fringe_locks: int
    hair_volume: float
    back_hair: str
    hair_length: float
    side_locks: float
    """length of the locks in front of the ears; 0 = none"""
    locks_over_shoulder: bool
    ahoge: int
    """0 none, 1 one strand, 2 two strands"""
    streak: bool
    ears: str
    headwear: str
    glasses: bool
    earrings: bool
    clothes: str
    clothes_variant: int
    shoulder_width: float
    neck_length: float
    arms: str
    """down, wave or chest"""
    background: str
    background_x: float
    background_y: float

    @classmethod
    def sample(cls, seed: int) -> Layout:
        """The layout of this integer seed."""
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, 0x1A40])))
        framing = rng.random()
        if framing < 0.42:
            unit, cy = rng.uniform(0.235, 0.285), rng.uniform(0.42, 0.48)
        elif framing < 0.82:
            unit, cy = rng.uniform(0.185, 0.24), rng.uniform(0.36, 0.46)
        else:
            unit, cy = rng.uniform(0.145, 0.18), rng.uniform(0.29, 0.36)
        spread = max(0.0, 0.5 - unit * 1.15) * 0.55
        arms = _pick(rng, ("down", "wave", "chest"), (0.78, 0.14, 0.08))
        return cls(
            detail_seed=int(rng.integers(0, 2**31)),
            head_unit=float(unit),
            centre_x=float(0.5 + rng.uniform(-1, 1) * spread),
            centre_y=float(cy),
            mirrored=bool(rng.random() < 0.5),
            turn=float(np.clip(rng.normal(0, 0.2), -0.38, 0.38)),
            pitch=float(rng.uniform(-0.07, 0.08)),
            tilt=float(np.clip(rng.normal(0, 0.1), -0.26, 0.26)),
            lean=float(rng.uniform(-0.06, 0.06)),
            jaw=float(rng.uniform(0.9, 1.08)),
            chin=float(rng.uniform(0.94, 1.06)),
            eyes=_pick(rng, EYES, (3, 3, 2, 1, 2)),
            eye_width=float(rng.uniform(0.265, 0.315)),
            eye_height=float(rng.uniform(0.26, 0.34)),
            gaze_x=float(rng.uniform(-0.2, 0.2)),
            gaze_y=float(rng.uniform(-0.08, 0.1)),
            wink=bool(rng.random() < 0.03),
            lashes=bool(rng.random() < 0.5),
            brow_tilt=float(rng.normal(0, 0.1)),
            brow_raise=float(rng.uniform(-0.04, 0.08)),
            mouth=_pick(rng, MOUTHS, (5, 4, 1.5, 2, 1.5, 1.5, 1.5, 1)),
            mouth_size=float(rng.uniform(0.8, 1.25)),
            fringe=_pick(rng, FRINGES, (2, 3, 2, 3, 3, 2, 1.2, 1.5, 1.5, 1)),
            fringe_locks=int(rng.integers(4, 8)),
            hair_volume=float(rng.uniform(0.06, 0.22)),
            back_hair=_pick(rng, BACK_HAIR, (3, 3, 2, 4, 2, 3, 2, 1.2, 1, 0.8, 1.6, 1.2, 1, 0.8)),
            hair_length=float(rng.uniform(0.8, 1.25)),
            side_locks=float(rng.choice([0, 0.7, 1.0, 1.5, 2.1], p=[0.2, 0.22, 0.25, 0.2, 0.13])),
            locks_over_shoulder=bool(rng.random() < 0.45),
            ahoge=int(rng.choice([0, 1, 2], p=[0.66, 0.26, 0.08])),
            streak=bool(rng.random() < 0.3),
            ears=_pick(rng, EARS, (7, 1.2, 0.7, 0.5, 0.7, 0.5)),
            headwear=_pick(rng, HEADWEAR, (9, 1.4, 1, 0.8, 0.6, 0.7, 1, 0.5, 0.7, 1, 1.2)),
            glasses=bool(rng.random() < 0.1),
            earrings=bool(rng.random() < 0.12),
            clothes=_pick(rng, CLOTHES, (2, 1.6, 1.6, 1.4, 1.6, 2, 1, 1.3, 0.9)),
            clothes_variant=int(rng.integers(0, 4)),
            shoulder_width=float(rng.uniform(0.9, 1.15)),
            neck_length=float(rng.uniform(0.92, 1.1)),
            arms=arms,
            background=_pick(rng, BACKGROUNDS, (1.2, 1.4, 1.2, 1.6, 1.8, 1, 1.3, 1.2, 0.7, 0.7, 1)),
            background_x=float(rng.uniform(0.15, 0.85)),
            background_y=float(rng.uniform(0.45, 0.75)),
        )
