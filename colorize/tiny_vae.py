"""A small autoencoder between pictures and latents: the TAESD layout that ComfyUI's stock VAE class loads.

Source of the layout: TAESD (Bohan, MIT licence), facts of its tensor names and shapes only. 2.4 M values; a picture of
H x W pixels becomes a latent of H/8 x W/8.
"""

from __future__ import annotations

import torch
from torch import nn

from .pictures.ranges import unit_to_model


class TinyBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.conv(x) + x)


class SoftClamp(nn.Module):
    """Limits latents smoothly to (-3, 3)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x / 3) * 3


def _blocks(count: int, width: int) -> list[nn.Module]:
    return [TinyBlock(width) for _ in range(count)]


class TinyVAE(nn.Module):
    """Pictures (B, 3, H, W) in [-1, 1] <-> latents (B, 4, H/8, W/8); H and W multiples of 8.

    `encode` answers in the scale of Stable Diffusion's VAE, before the factor 0.18215 that samplers apply:
    latents = raw / vae_scale + vae_shift, with the raw latents of about unit variance.
    """

    def __init__(self, latent_channels: int = 4, width: int = 64, device: torch.device | str | None = None) -> None:
        super().__init__()

        def down() -> nn.Module:
            return nn.Conv2d(width, width, 3, stride=2, padding=1, bias=False)

        def up() -> list[nn.Module]:
            return [nn.Upsample(scale_factor=2), nn.Conv2d(width, width, 3, padding=1, bias=False)]

        with torch.device(device or torch.get_default_device()):
            self.taesd_encoder = nn.Sequential(
                nn.Conv2d(3, width, 3, padding=1), *_blocks(1, width),
                down(), *_blocks(3, width),
                down(), *_blocks(3, width),
                down(), *_blocks(3, width),
                nn.Conv2d(width, latent_channels, 3, padding=1),
            )  # fmt: skip
            self.taesd_decoder = nn.Sequential(
                SoftClamp(), nn.Conv2d(latent_channels, width, 3, padding=1), nn.ReLU(),
                *_blocks(3, width), *up(),
                *_blocks(3, width), *up(),
                *_blocks(3, width), *up(),
                *_blocks(1, width), nn.Conv2d(width, 3, 3, padding=1),
            )  # fmt: skip
            self.vae_scale = nn.Parameter(torch.tensor(1.0), requires_grad=False)
            self.vae_shift = nn.Parameter(torch.tensor(0.0), requires_grad=False)

    def encode(self, picture: torch.Tensor) -> torch.Tensor:
        return self.taesd_encoder(picture * 0.5 + 0.5) / self.vae_scale + self.vae_shift

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        return unit_to_model(self.taesd_decoder((latent - self.vae_shift) * self.vae_scale))
