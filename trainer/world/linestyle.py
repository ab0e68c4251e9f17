"""How an artist's pencil behaves on the sketch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class LineStyle:
    """Properties of the sketch's lines; nothing here changes the picture."""

    detail_seed: int
    width: float
    """width relative to the standard line (which is 0.65 % of the shorter side)"""
    taper: float
    """0 even width, 1 strokes run out to nothing"""
    darkness: float
    """ink of a full stroke, 0..1 (1 = black)"""
    wobble: float
    """smooth deviation of strokes, share of the shorter side"""
    gaps: float
    """probability of an interrupted stroke"""
    grain: float
    """pencil noise inside the lines, 0..1"""
    smudge: float
    """faint dirt and paper tone, 0..1"""
    passes: int
    """1, or 2 for searching double strokes"""
    overshoot: float
    """strokes run past their ends, share of the shorter side"""
    fill_black: bool
    """lashes and pupils filled with ink, else outlined"""

    @classmethod
    def sample(cls, seed: int) -> LineStyle:
        """The line style of this integer seed."""
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, 0x11E5])))
        kind = rng.random()
        detail = int(rng.integers(0, 2**31))
        if kind < 0.3:
            return cls(
                detail,
                float(rng.uniform(0.75, 1.4)),
                float(rng.uniform(0, 0.6)),
                1.0,
                0.0,
                0.0,
                0.0,
                0.0,
                1,
                0.0,
                bool(rng.random() < 0.75),
            )
        if kind < 0.65:
            return cls(
                detail,
                float(rng.uniform(0.6, 1.7)),
                float(rng.uniform(0.2, 1)),
                float(rng.uniform(0.8, 1)),
                float(rng.uniform(0, 0.003)),
                float(rng.choice([0, 0.08, 0.2])),
                float(rng.uniform(0, 0.25)),
                0.0,
                1,
                float(rng.uniform(0, 0.006)),
                bool(rng.random() < 0.65),
            )
        return cls(
            detail,
            float(rng.uniform(0.75, 1.6)),
            float(rng.uniform(0.2, 1)),
            float(rng.uniform(0.7, 0.97)),
            float(rng.uniform(0.001, 0.0055)),
            float(rng.choice([0, 0.1, 0.3])),
            float(rng.uniform(0.2, 0.65)),
            float(rng.uniform(0, 0.5)),
            int(rng.choice([1, 2], p=[0.5, 0.5])),
            float(rng.uniform(0.002, 0.012)),
            bool(rng.random() < 0.5),
        )

    @classmethod
    def clean(cls) -> LineStyle:
        """Even black lines without any irregularity."""
        return cls(0, 1.0, 0.2, 1.0, 0.0, 0.0, 0.0, 0.0, 1, 0.0, True)
