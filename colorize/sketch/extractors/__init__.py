"""Line extractors: a colour picture becomes a drawing. One file per method; pure torch.

All of them read pictures (B, 3, H, W) in -1..1 and answer model sketches (B, 1, H, W): white lines (+1) on black (-1).
`lineart` and `xdog` need no weights. What the four networks share stands in `extractor.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ...pictures.sides import sides_of
from ...weight_files import reads_strange_sizes
from . import lineart, working, xdog
from .anime2sketch import Anime2Sketch
from .extractor import Extractor
from .lineart_sk import LineartSk
from .manga_line import MangaLine
from .sketchkeras import SketchKeras

NETWORKS: tuple[type[Extractor], ...] = (SketchKeras, Anime2Sketch, MangaLine, LineartSk)
WITHOUT_NETWORK = ("standard", "xdog")
WRAPPERS = ("module.",)  # what distributed training puts before every name


def load_network(state_dict: Mapping[str, torch.Tensor]) -> Extractor:
    """The extractor that a file's tensors belong to, float32, in eval mode.

    Raises ValueError when the tensors fit no extractor, or do not fit it exactly.
    """
    weights = dict(state_dict)
    for wrapper in WRAPPERS:
        if all(key.startswith(wrapper) for key in weights):
            weights = {key.removeprefix(wrapper): value for key, value in weights.items()}
    kind = next((kind for kind in NETWORKS if kind.mark in weights), None)
    if kind is None:
        first = ", ".join(sorted(weights)[:10]) or "none"
        known = ", ".join(kind.title for kind in NETWORKS)
        raise ValueError(f"its {len(weights)} tensors fit none of {known}. First names: {first}.")
    try:
        with torch.device("meta"):
            network = _built(kind, weights)
    except ValueError as error:
        raise ValueError(f"it looks like {kind.title}, but its layers cannot be read ({error}).") from None
    expected = network.state_dict()
    counters = {key for key in expected if key.endswith("num_batches_tracked")}  # not stored by old versions of torch
    if missing := sorted(expected.keys() - weights.keys() - counters):
        raise ValueError(f"it lacks {len(missing)} tensors of {kind.title}, for example {missing[0]}.")
    if unknown := sorted(weights.keys() - expected.keys()):
        raise ValueError(f"it has {len(unknown)} tensors that {kind.title} does not have, for example {unknown[0]}.")
    for key, value in weights.items():
        if value.shape != expected[key].shape:
            raise ValueError(
                f"{key} has the shape {tuple(value.shape)}, {kind.title} expects {tuple(expected[key].shape)}."
            )
    network = _built(kind, weights)
    network.load_state_dict(weights, strict=False)  # checked above; only counters may be absent
    return network.requires_grad_(False).eval()


@reads_strange_sizes("line extractor")
def _built(kind: type[Extractor], weights: Mapping[str, torch.Tensor]) -> Extractor:
    return kind.from_state_dict(weights)


def lines(network: Extractor, picture: torch.Tensor, variant: str = "paper") -> torch.Tensor:
    """Picture (B, 3, H, W) in -1..1, H and W multiples of network.multiple -> model sketch (B, 1, H, W), at once."""
    return network.finish(network(network.prepare(picture, variant)), variant)


def without_network(picture: torch.Tensor, method: str, side: int = 0, **settings: Any) -> torch.Tensor:
    """Picture (1, 3, H, W) in -1..1 -> model sketch (1, 1, H, W) by "standard" line art or "xdog".

    side: of the square whose area is worked on, in pixels; 0 = the picture's own size.
    settings: sigma and threshold of `lineart.standard`, or the fields of `xdog.XDoG`.
    """
    if method not in WITHOUT_NETWORK:
        raise ValueError(f"Method {method!r} is unknown; choose one of {', '.join(WITHOUT_NETWORK)}.")
    parameters = xdog.XDoG(**settings) if method == "xdog" else None

    def compute(small: torch.Tensor) -> torch.Tensor:
        return lineart.standard(small, **settings) if parameters is None else xdog.xdog(small, parameters)

    size = height, width = sides_of(picture)
    if side:
        size = working.working_size(height, width, side)
    return working.at_size(compute, picture, size)
