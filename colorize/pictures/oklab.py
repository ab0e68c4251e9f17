"""OKLab (Bjorn Ottosson, "A perceptual color space for image processing", 2020): sRGB to and from it, distances. Numpy.

L is 0..1, a and b about -0.4..0.4; a distance of 0.02 is just visible. CIELAB is here for measuring alone.
"""

from __future__ import annotations

import numpy as np

TO_CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ],
    np.float32,
)
TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ],
    np.float32,
)
FROM_LAB = np.linalg.inv(TO_LAB.astype(np.float64)).astype(np.float32)
FROM_CONES = np.linalg.inv(TO_CONES.astype(np.float64)).astype(np.float32)
TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]],
    np.float32,
)
WHITE = np.array([0.95047, 1.0, 1.08883], np.float32)  # D65


def linear(colours: np.ndarray) -> np.ndarray:
    """sRGB values 0..1 -> linear light."""
    return np.where(colours <= 0.04045, colours / 12.92, ((np.maximum(colours, 0) + 0.055) / 1.055) ** 2.4)


def encoded(light: np.ndarray) -> np.ndarray:
    """Linear light -> sRGB values, clamped to 0..1."""
    light = np.clip(light, 0, 1)
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


def from_srgb(colours: np.ndarray) -> np.ndarray:
    """(..., 3) sRGB 0..1 -> (..., 3) OKLab, float32."""
    return (np.cbrt(linear(np.asarray(colours, np.float32)) @ TO_CONES.T) @ TO_LAB.T).astype(np.float32)


def to_srgb(lab: np.ndarray) -> np.ndarray:
    """(..., 3) OKLab -> (..., 3) sRGB, clamped to 0..1, float32."""
    return encoded(((np.asarray(lab, np.float32) @ FROM_LAB.T) ** 3) @ FROM_CONES.T).astype(np.float32)


def cielab(colours: np.ndarray) -> np.ndarray:
    """(..., 3) sRGB 0..1 -> (..., 3) CIELAB (D65)."""
    ratio = (linear(np.asarray(colours, np.float32)) @ TO_XYZ.T) / WHITE
    root = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio * (29 / 6) ** 2 / 3 + 4 / 29)
    return np.stack(
        [116 * root[..., 1] - 16, 500 * (root[..., 0] - root[..., 1]), 200 * (root[..., 1] - root[..., 2])], axis=-1
    ).astype(np.float32)
