"""What a LATENT says about the pictures that come of it."""

from __future__ import annotations

from ...colorize.pictures.images import PIXELS_PER_LATENT


def size_of(latent: dict) -> tuple[int, int]:
    """Height and width in pixels of the pictures of a LATENT. ValueError for latents of other models."""
    samples = latent["samples"]
    if samples.ndim != 4:
        raise ValueError(
            "latent is not of the form (count, 4, height, width). Connect the latent of Prepare Sketch or of Empty "
            "Latent Image."
        )
    height, width = samples.shape[-2:]
    return PIXELS_PER_LATENT * height, PIXELS_PER_LATENT * width
