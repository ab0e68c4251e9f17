"""Stage vae: the tiny autoencoder learns to keep flat colours, lines and small details of drawings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from colorize.pictures.ranges import unit_to_model
from colorize.tiny_vae import TinyBlock, TinyVAE
from colorize.unet.layers import set_to_zero
from trainer.config import Config
from trainer.draws import Draws
from trainer.models import checkpoint
from trainer.models.autoencoder import SCALE
from trainer.models.usable import refuses_other_files
from trainer.pictures import Batch, contact_sheet, picture

from .cost import Cost, count, pictures_line
from .stage import Stage

CROP = 64  # pixels; the networks are local, so crops train as well as whole pictures, and many steps beat large ones
LATENT_NOISE = 0.1  # spread of the noise the decoder learns to ignore, in units of the raw latents


@torch.no_grad()
def start_as_average(network: TinyVAE, gain: float = 3.0) -> None:
    """Initialise a TinyVAE as an 8x box filter: three latent channels carry the mean colour of their 8x8 pixels.

    From random weights the tiny network spends its first thousand steps on grey pictures. Here every residual branch
    starts at zero, three channels are passed through, and the rest starts from random features.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in network.modules():
        if isinstance(module, TinyBlock):
            set_to_zero(module.conv[4])
    for half in (network.taesd_encoder, network.taesd_decoder):
        for layer in (m for m in half if isinstance(m, nn.Conv2d)):
            layer.weight[:3] = 0
            for channel in range(3):
                if layer.stride == (2, 2):
                    layer.weight[channel, channel, 1:, 1:] = 0.25
                else:
                    layer.weight[channel, channel, 1, 1] = 1
    weight, bias = network.taesd_encoder[-1].parameters()  # to the latent
    weight[:3] *= gain  # colours 0..1 -> about -1.5..1.5
    bias[:3] = -gain / 2
    weight, bias = network.taesd_decoder[1].parameters()  # from it
    weight[:3] /= gain
    bias[:3] = 0.5


def edge_loss(result: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference of the horizontal and vertical pixel differences: blur costs, flat colour does not."""
    terms = [(result.diff(dim=d) - wanted.diff(dim=d)).abs().mean() for d in (-1, -2)]
    return terms[0] + terms[1]


def moment_loss(latents: torch.Tensor) -> torch.Tensor:
    """Pulls every latent channel (B, C, h, w) towards mean 0 and standard deviation 1 over the batch."""
    values = latents.transpose(0, 1).flatten(1)
    return (values.mean(1) ** 2 + (values.std(1) - 1) ** 2).mean()


def cost(config: Config) -> Cost:
    """Of stage vae."""
    return Cost({"autoencoder": count(TinyVAE(device="meta").parameters())}, {}, (pictures_line(config),))


@refuses_other_files("The autoencoder of model.init")
def start_network(path: str) -> TinyVAE:
    """The network of an earlier run's file, or without one a new box filter."""
    network = TinyVAE()
    start_as_average(network)
    if path:
        network.load_state_dict(checkpoint.read_tensors(Path(path))[0])
    return network


class AutoencoderStage(Stage):
    """Trains a TinyVAE; its latents end up with unit variance after the factor 0.18215."""

    def __init__(self, config: Config, device: torch.device) -> None:
        super().__init__(config, device)
        network = start_network(config.model.init)
        network.vae_scale.fill_(SCALE)  # raw latents are trained to unit variance, files hold them divided by SCALE
        self.taesd_encoder, self.taesd_decoder = network.taesd_encoder, network.taesd_decoder
        self._network = (network,)
        if config.system.channels_last:
            network.to(memory_format=torch.channels_last)

    def forward(self, batch: Batch, draws: Draws, progress: float = 0.0) -> dict[str, torch.Tensor]:
        side = min(CROP, self.config.data.size)
        top, left = (
            int(torch.randint(0, (self.config.data.size - side) // 8 + 1, (), generator=draws.shared)) * 8
            for _ in range(2)
        )
        wanted = picture(batch["color"][..., top : top + side, left : left + side])
        latents = self.taesd_encoder(wanted * 0.5 + 0.5)
        noise = draws.randn(latents.shape).to(latents)
        strength = LATENT_NOISE * draws.rand((len(latents), 1, 1, 1)).to(latents)
        result = unit_to_model(self.taesd_decoder(latents + strength * noise))
        return {
            "pixels": F.l1_loss(result.float(), wanted) + 3 * F.mse_loss(result.float(), wanted),
            "edges": edge_loss(result.float(), wanted),
            "moments": 0.02 * moment_loss(latents.float()),
        }

    @torch.no_grad()
    def sheet(self, batch: Batch, draws: Draws) -> np.ndarray:
        """Columns: picture, reconstruction."""
        pictures = picture(batch["color"])
        network = self._network[0]
        return contact_sheet([pictures, network.decode(network.encode(pictures))])

    def export(self, weights: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
        network = self._network[0]
        tensors = {**weights, "vae_scale": network.vae_scale, "vae_shift": network.vae_shift}
        metadata = checkpoint.modelspec(Path(self.config.run.output).name, "taesd", self.config.data.size, None)
        return tensors, metadata | {"colorize.kind": "autoencoder"}
