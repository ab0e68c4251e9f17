"""What a sampling preview looks like: latents of the small autoencoder as colours."""

from __future__ import annotations

import comfy.latent_formats
import torch

from ...colorize import names

TINY_VAE = names.VAE + "taesd_decoder."  # layout of the autoencoder that the trainer makes (colorize/tiny_vae.py)


class SmallLatents(comfy.latent_formats.SD15):
    """Latents of the bundled model's autoencoder, in Stable Diffusion's scale.

    The trainer starts this autoencoder as a box filter, three of whose channels carry red, green and blue
    (trainer/stages/vae.py), and they stay nearly that. Fitted by least squares, latents of ten held-out pictures to
    their means of 8 x 8 pixels in -1..1: root mean square error 0.12; with Stable Diffusion's factors 0.56, more than
    one flat colour has (0.44). tests/model_patches/model/test_previews.py fits them again.
    """

    def __init__(self) -> None:
        super().__init__()
        self.latent_rgb_factors = [
            [0.5383, 0.0142, -0.0581],
            [-0.0018, 0.3960, 0.1067],
            [0.0311, 0.0857, 0.4613],
            [0.0138, 0.0120, 0.0177],
        ]
        self.latent_rgb_factors_bias = [0.1569, 0.1026, 0.0651]
        self.taesd_decoder_name = None  # the one for Stable Diffusion's latents would show other colours, too


def has_small_latents(state_dict: dict[str, torch.Tensor]) -> bool:
    """Whether a checkpoint brings such an autoencoder."""
    return any(key.startswith(TINY_VAE) for key in state_dict)
