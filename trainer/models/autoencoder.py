"""The frozen autoencoder of a run: the tiny one, or Stable Diffusion's, from a file of any of the usual layouts."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from colorize import names
from colorize.tiny_vae import TinyVAE
from colorize.weight_files import check_fits
from trainer.config import ConfigError
from trainer.draws import Draws
from trainer.models.usable import refuses_other_files

SCALE = 0.18215  # latents of Stable Diffusion 1 and 2 are multiplied by this before noise is added
XL_SCALE = 0.13025  # those of Stable Diffusion XL


class Autoencoder(nn.Module):
    """Pictures (B, 3, H, W) in [-1, 1] <-> scaled latents (B, 4, H/8, W/8) of about unit variance."""

    network: Any
    """a TinyVAE, or an AutoencoderKL of diffusers"""

    def __init__(self, network: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.network = network
        self.tensors = tensors  # as in the file, without prefix; copied into exported checkpoints

    @torch.no_grad()
    def moments(self, pictures: torch.Tensor) -> torch.Tensor:
        """What the encoder says of each latent before scaling: means (B, C, h, w), float32.

        Behind them come the logarithms of their variances, (B, 2 C, h, w) together, when it says how sure it is; the
        tiny autoencoder does not.
        """
        encoded = self.network.encode(pictures)
        if isinstance(encoded, torch.Tensor):
            return encoded.float()
        return torch.cat([encoded.latent_dist.mean, encoded.latent_dist.logvar], dim=1).float()

    def encode(self, pictures: torch.Tensor, draws: Draws | None = None) -> torch.Tensor:
        """Scaled latents; the means, or with draws samples of the encoder's distribution."""
        return latents_of(self.moments(pictures), self.channels, draws)

    @property
    def channels(self) -> int:
        """Channels of a latent."""
        tiny = self.tensors.get("taesd_decoder.1.weight")
        return self.tensors["quant_conv.weight"].shape[0] // 2 if tiny is None else tiny.shape[1]

    @torch.no_grad()
    def decode(self, latents: torch.Tensor, scale: float = SCALE) -> torch.Tensor:
        decoded = self.network.decode(latents / scale)
        return decoded if isinstance(decoded, torch.Tensor) else decoded.sample


def latents_of(moments: torch.Tensor, channels: int, draws: Draws | None = None, scale: float = SCALE) -> torch.Tensor:
    """Scaled latents (B, C, h, w) from `Autoencoder.moments`: the means, or with draws samples.

    Where the encoder says no variances, there is nothing to sample and the means are the answer.
    """
    mean = moments[:, :channels]
    if draws is not None and moments.shape[1] == 2 * channels:
        noise = draws.randn(mean.shape).to(mean)
        mean = mean + noise * (0.5 * moments[:, channels:].clamp(-30, 20)).exp()
    return mean * scale


@refuses_other_files("The autoencoder of the file")
def from_tensors(state_dict: Mapping[str, torch.Tensor], source: str) -> Autoencoder:
    """Find and build the autoencoder among the tensors of a file; `source` names the file in errors."""
    tensors = {k.removeprefix(names.VAE): v for k, v in state_dict.items() if k.startswith(names.VAE)} or dict(
        state_dict
    )
    if "taesd_encoder.0.weight" in tensors:
        network: nn.Module = TinyVAE(latent_channels=tensors["taesd_decoder.1.weight"].shape[1])
        network.load_state_dict({k: v.float() for k, v in tensors.items()})
    elif "encoder.conv_in.weight" in tensors and "quant_conv.weight" in tensors:
        network = _stable_diffusion_vae(tensors)
    else:
        raise ConfigError(
            f"{source} holds no autoencoder: neither {names.VAE}* nor a VAE in Stable Diffusion or TAESD layout."
        )
    return Autoencoder(network.requires_grad_(False).eval(), tensors)


def _stable_diffusion_vae(tensors: dict[str, torch.Tensor]) -> nn.Module:
    try:
        from diffusers import AutoencoderKL
        from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
    except ImportError:
        raise ConfigError('A Stable Diffusion VAE needs diffusers: pip install ".[trainer]" (or diffusers).') from None

    widths: list[int] = []
    while (key := f"encoder.down.{len(widths)}.block.0.conv1.weight") in tensors:
        widths.append(tensors[key].shape[0])
    build: Callable[[], Any] = functools.partial(
        AutoencoderKL,
        down_block_types=["DownEncoderBlock2D"] * len(widths),
        up_block_types=["UpDecoderBlock2D"] * len(widths),
        block_out_channels=widths,
        layers_per_block=2,
        latent_channels=tensors["quant_conv.weight"].shape[0] // 2,
        scaling_factor=SCALE,
    )
    with torch.device("meta"):
        config = build().config
    weights = convert_ldm_vae_checkpoint({k: v.float() for k, v in tensors.items()}, config)
    check_fits(build, weights)  # before it takes memory: the sizes come from a few tensors
    network = build()
    network.load_state_dict(weights)
    return network


def load(path: str) -> Autoencoder:
    """Read the autoencoder of a safetensors file."""
    from trainer.models.checkpoint import read_tensors

    return from_tensors(read_tensors(Path(path))[0], path)
