"""A world to train on: procedurally drawn characters whose layout and appearance are independent of each other."""

from .appearance import Appearance
from .layout import BACKGROUND_STYLES, Layout
from .linestyle import LineStyle
from .materials import REGION_NAMES
from .render import (
    WORLD_VERSION,
    Rendering,
    TrueFlats,
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
    true_flats,
)
from .shot import ShotFrame, shot_frame

__all__ = [
    "BACKGROUND_STYLES",
    "REGION_NAMES",
    "WORLD_VERSION",
    "Appearance",
    "Layout",
    "LineStyle",
    "Rendering",
    "ShotFrame",
    "TrueFlats",
    "crowded",
    "mask",
    "pair",
    "picture",
    "pose",
    "pose_layout",
    "regions",
    "render",
    "seeds_of",
    "shot_frame",
    "sketch",
    "true_flats",
]
