"""A world to train on: procedurally drawn characters whose layout and appearance are independent of each other."""

from .appearance import Appearance
from .layout import BACKGROUND_STYLES, Layout
from .linestyle import LineStyle
from .materials import REGION_NAMES
from .render import (
    WORLD_VERSION,
    Rendering,
    crowded,
    mask,
    pair,
    picture,
    pose,
    pose_layout,
    regions,
    render,
    seeds_of,
    sketch,
)

__all__ = [
    "BACKGROUND_STYLES",
    "REGION_NAMES",
    "WORLD_VERSION",
    "Appearance",
    "Layout",
    "LineStyle",
    "Rendering",
    "crowded",
    "mask",
    "pair",
    "picture",
    "pose",
    "pose_layout",
    "regions",
    "render",
    "seeds_of",
    "sketch",
]
