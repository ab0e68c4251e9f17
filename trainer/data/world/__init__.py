"""A world to train on: procedurally drawn characters whose layout and appearance are independent of each other."""

from .appearance import Appearance
from .layout import Layout
from .linestyle import LineStyle
from .materials import REGION_NAMES
from .render import (
    WORLD_VERSION,
    Rendering,
    pair,
    picture,
    pose,
    regions,
    render,
    seeds_of,
    sketch,
)

__all__ = [
    "REGION_NAMES",
    "WORLD_VERSION",
    "Appearance",
    "Layout",
    "LineStyle",
    "Rendering",
    "pair",
    "picture",
    "pose",
    "regions",
    "render",
    "seeds_of",
    "sketch",
]
