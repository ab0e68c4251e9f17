"""Stages animediffusion and animediffusion_2: colour line drawings of faces like a reference, in pixels.

Lines (XDoG) and references (the picture itself, warped) are made of the colour pictures anew at every step, so a folder
of colour pictures is all the data. The released trainer warps the file at its full size before the cut; here the
training picture is warped, on the training device.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from colorize import names
from colorize.animediffusion.markers import HEADS_MARKER, STEPS_MARKER, attention_heads
from colorize.animediffusion.sampling import Predictor, deterministic_forward, sample_ddim
from colorize.animediffusion.schedule import AnimeSchedule
from colorize.animediffusion.unet import AnimeUNet, AnimeUNetConfig, load_network
from colorize.sketch.extractors.xdog import XDoG, xdog
from trainer.config import Config, ConfigError
from trainer.data import diagonal_warp
from trainer.draws import Draws
from trainer.losses.animediffusion import predicted_noise, reconstructed, squared_error
from trainer.metrics.similarity import psnr
from trainer.models import checkpoint
from trainer.pictures import Batch, contact_sheet, picture

from .cost import Cost, count, pictures_line
from .file_sizes import first_of
from .stage import Stage

RELEASED_P = 10.0
"""Strength of the difference of Gaussians in the released line extractor; the paper has 9."""


def also_reads(config: Config) -> tuple[str, ...]:
    """Parts of a picture beside its colours."""
    return () if config.data.line_sigmas else ("sketch",)


def check(config: Config) -> None:
    """ConfigError for what does not go together."""
    if config.data.reference != "self":
        raise ConfigError(
            f"data.reference is {config.data.reference!r}: stage {config.run.stage} bends the picture into its own "
            'reference; set data.reference = "self" and data.deform = 1.'
        )


class AnimeDiffusionStage(Stage):
    """Phase 1, noise prediction. Trains `denoise_fn` under the names of the released trainer's checkpoints."""

    def __init__(self, config: Config, device: torch.device) -> None:
        super().__init__(config, device)
        self.denoise_fn = start_network(config).to(device)
        self.denoise_fn.train()
        if config.system.channels_last:
            self.denoise_fn.to(memory_format=torch.channels_last)
        self.schedule = AnimeSchedule().to(device)

    def predictor(self, condition: torch.Tensor, timed: bool = True) -> Predictor:
        """The network with its condition (B, 4, H, W) of lines and reference; timed False leaves the step out."""

        def predict(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            given = torch.cat([x, condition], dim=1)
            if self.config.system.channels_last:
                given = given.contiguous(memory_format=torch.channels_last)
            return self.denoise_fn(given, t if timed else None).float()

        return predict

    def condition(self, batch: Batch, draws: Draws) -> torch.Tensor:
        """Line drawing, black on white, and warped reference of a batch: (B, 4, H, W) in -1..1."""
        colours = batch["color"]
        with torch.autocast(colours.device.type, enabled=False):  # blurs and splines need float32
            lines = self.lines(batch, draws)
            if strength := self.config.data.deform:
                points = diagonal_warp.draw_points(len(colours), draws, strength)
                colours = diagonal_warp.warp(colours, *(p.to(colours.device) for p in points))
        return torch.cat([lines, picture(colours)], dim=1)

    def lines(self, batch: Batch, draws: Draws) -> torch.Tensor:
        """(B, 1, H, W): the drawings of the folder, or XDoG lines of one of the widths, drawn per picture."""
        data = self.config.data
        if not data.line_sigmas:
            return picture(batch["sketch"])
        colours = picture(batch["color"])
        drawn = (draws.rand((len(colours),)) * len(data.line_sigmas)).long().to(colours.device)
        lines = torch.empty_like(colours[:, :1])
        for number, sigma in enumerate(data.line_sigmas):
            chosen = drawn == number
            if chosen.any():
                lines[chosen] = -xdog(colours[chosen], line_settings(data.line_variant, sigma))
        return lines

    def forward(self, batch: Batch, draws: Draws, progress: float = 0.0) -> dict[str, torch.Tensor]:
        x0 = picture(batch["color"])
        with torch.no_grad():
            condition = self.condition(batch, draws)
        t = draws.timesteps(self.schedule.steps, len(x0)).to(x0.device)
        noise = draws.randn(x0.shape).to(x0.device)
        answer = predicted_noise(self.predictor(condition), self.schedule, x0, noise, t)
        return {"noise": squared_error(answer, noise, self.config.loss.reduction)}

    @torch.no_grad()
    def sheet(self, batch: Batch, draws: Draws) -> np.ndarray:
        """Columns: lines, reference, result from noise, result from the reference's forward walk, the true picture."""
        condition, loss = self.condition(batch, draws), self.config.loss
        predict, reference = self.predictor(condition), condition[:, 1:]
        starts = (
            draws.randn(reference.shape).to(reference.device),
            deterministic_forward(predict, reference, self.schedule, loss.chain_steps),
        )
        results = [sample_ddim(predict, start, self.schedule, loss.chain_steps) for start in starts]
        return contact_sheet([condition[:, :1], reference, *results, picture(batch["color"])])

    @torch.no_grad()
    def curves(self, batch: Batch, draws: Draws) -> dict[str, float]:
        """psnr: mean dB of pictures made from plain noise, with warped references, against the true ones."""
        condition, truth = self.condition(batch, draws), picture(batch["color"])
        start = draws.randn(truth.shape).to(truth.device)
        made = sample_ddim(self.predictor(condition), start, self.schedule, self.config.loss.chain_steps)
        return {"psnr": psnr(made, truth).mean().item()}

    def export(self, weights: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
        config = self.config
        tensors = {**weights, **{name: table.cpu() for name, table in self.schedule.buffers().items()}}
        metadata = checkpoint.modelspec(Path(config.run.output).name, "animediffusion", config.data.size, "eps")
        metadata |= {
            "colorize.family": "animediffusion",
            names.POLARITY: "black_on_white",
            HEADS_MARKER: str(self.denoise_fn.config.attention_heads),
            "colorize.config": json.dumps(config.shareable()),
        }
        return tensors, metadata


class ChainStage(AnimeDiffusionStage):
    """Phase 2: the same network, trained through the whole sampling chain, of as many steps as it is sampled in."""

    def forward(self, batch: Batch, draws: Draws, progress: float = 0.0) -> dict[str, torch.Tensor]:
        x0 = picture(batch["color"])
        with torch.no_grad():
            condition = self.condition(batch, draws)
        noised = self.chain_start(x0, condition, draws)
        loss = self.config.loss
        noises = [draws.randn(x0.shape).to(x0.device) for _ in range(loss.chain_steps if loss.chain_eta else 0)]
        result = reconstructed(
            self.predictor(condition),
            self.schedule,
            noised,
            loss.chain_steps,
            loss.chain_eta,
            noises.__getitem__,
            self.config.system.gradient_checkpointing,
        )
        return {"reconstruction": squared_error(result, x0)}

    def export(self, weights: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
        tensors, metadata = super().export(weights)
        return tensors, metadata | {STEPS_MARKER: str(self.config.loss.chain_steps)}

    @torch.no_grad()
    def chain_start(self, x0: torch.Tensor, condition: torch.Tensor, draws: Draws) -> torch.Tensor:
        """(B, 3, H, W) at the noisiest step of the chain: noise, or x0 or its reference walked up to it."""
        loss = self.config.loss
        if loss.chain_start == "noise":
            return draws.randn(x0.shape).to(x0.device)
        if loss.chain_start == "reference":
            x0 = condition[:, 1:]
        released = loss.forward_walk == "released"
        noise = draws.randn(x0.shape).to(x0.device) if released else None
        predict = self.predictor(condition, timed=not released)
        noised = deterministic_forward(predict, x0, self.schedule, loss.chain_steps, loss.forward_walk, noise)
        torch.clear_autocast_cache()  # weights cast without gradients must not serve the chain that follows
        return noised


def cost(config: Config) -> Cost:
    """Of both stages. A file does not say all of its network's sizes by shapes, so the network is built."""
    network = start_network(first_of(config))
    return Cost({"networks": count(network.parameters())}, {}, (pictures_line(config),))


def start_network(config: Config) -> AnimeUNet:
    """The network of model.init (any known layout), or a random one of the configured sizes that answers no noise."""
    model = config.model
    try:
        if model.init:
            tensors, metadata = checkpoint.read_tensors(Path(model.init))
            heads = attention_heads(tensors, {HEADS_MARKER: str(model.attention_heads)} | metadata)
            return load_network({key: value.float() for key, value in tensors.items()}, heads)
        network = AnimeUNet(network_config(config))
    except ValueError as error:
        raise ConfigError(f"{'model.init = ' + repr(model.init) if model.init else '[model]'}: {error}") from None
    network.zero_output()
    return network


def network_config(config: Config) -> AnimeUNetConfig:
    """Sizes of a random network. Raises ValueError."""
    model = config.model
    return AnimeUNetConfig(
        channels=model.model_channels,
        channel_mult=model.channel_mult,
        residual_blocks=model.residual_blocks,
        attention_heads=model.attention_heads,
        attention_levels=model.attention_levels,
        cbam=model.cbam,
    )


def line_settings(variant: str, sigma: float) -> XDoG:
    """XDoG of one width by the paper's formula, or by the released one with its strength."""
    return XDoG(sigma=sigma, p=RELEASED_P, variant="released") if variant == "released" else XDoG(sigma=sigma)
