"""The reference side of a loaded checkpoint: the value that travels from the loader to Apply Reference."""

from __future__ import annotations

from dataclasses import dataclass, field

from ...colorize.families import Family
from .picture_encoders import LoadedPictureEncoders
from .plugin import LoadedPlugin
from .projection import LoadedProjection
from .recovery import LoadedBackgroundEncoder


@dataclass(frozen=True, eq=False)
class Colorizer:
    """The reference side of a checkpoint: what Apply Reference needs to know about the model."""

    family: Family
    file_name: str
    """For messages: which checkpoint this came from."""
    background_encoder: LoadedBackgroundEncoder | None = field(default=None, repr=False)
    """Recovery transformer and threshold embedding of a v1.5 file."""
    projection: LoadedProjection | None = field(default=None, repr=False)
    """Token projection of an XL file."""
    plugin: LoadedPlugin | None = field(default=None, repr=False)
    """Reference net of an XL file with the background plugin."""
    picture_encoders: LoadedPictureEncoders | None = field(default=None, repr=False)
    """Style and background encoder of a v2 file."""
