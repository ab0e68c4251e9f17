"""One number of the entanglement meter for a curve over a training run."""

from __future__ import annotations

import torch

from trainer.models.colorizer import Colorizer

from .protocols import entanglement_of


@torch.no_grad()
def mean_entanglement(
    colorizer: Colorizer,
    sketches: torch.Tensor,  # (B, 3, H, W) in [-1, 1], white lines on black, B >= 2
    references: torch.Tensor,  # (B, 3, H, W) in [-1, 1], the next row's picture each (see protocols.next_ones)
    steps: int,
    guidance: float,
    seed: int = 0,
    mode: str = "vanilla",
    masks: torch.Tensor | None = None,  # (B, 1, H, W) 0..1, as in Colorizer.regions
    reference_masks: torch.Tensor | None = None,
) -> dict[str, float]:
    """Means over fixed triples (sketch, reference, noise of `seed`): entanglement, structure, leakage; see protocols.

    The same triples and seed at every call make a curve; a model trained on aligned references shows it rising.
    """
    if len(sketches) < 2 or len(sketches) != len(references):
        raise ValueError(
            f"{len(sketches)} sketches and {len(references)} references: the meter needs two or more of each, because "
            "the other references tell leakage from chance."
        )
    tokens = colorizer.tokens(references)
    regions = colorizer.regions(mode, references, masks, reference_masks)
    noise = [torch.Generator().manual_seed(seed) for _ in range(2)]
    result = colorizer.generate(sketches, tokens, steps, guidance, noise[0], regions).float()
    without = colorizer.generate(sketches, torch.zeros_like(tokens), steps, 1.0, noise[1]).float()
    with torch.autocast(result.device.type, enabled=False):  # numbers of different runs are compared
        found = entanglement_of(result, without, None, references, sketches)
    return {name: float(found[name].mean()) for name in ("entanglement", "structure", "leakage")}
