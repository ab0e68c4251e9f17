"""Stage v1: sketch encoder and U-Net learn to colour a sketch like its reference (arXiv 2401.01456)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import nn

from colorize import names
from colorize.sampling.schedule import NoiseSchedule
from colorize.sketch.encoder import SketchEncoder
from colorize.unet.unet import UNet
from trainer.cache.encodings import build_encodings
from trainer.config import Config, ConfigError
from trainer.draws import Draws
from trainer.losses.diffusion import denoising_loss, drawn_noise, place_weights, shown_noise, target, target_and_weight
from trainer.losses.dual_condition import dual_conditioned_loss
from trainer.losses.latent_shuffle import draw_permutation, shuffle_patches, shuffle_tokens
from trainer.losses.noisy_reference import noisy_tokens
from trainer.losses.reference_drop import drop_rate, drop_references, keep_mask
from trainer.models import checkpoint
from trainer.models.colorizer import V1Colorizer, latent_masks, networks_from
from trainer.models.denoising import Denoising
from trainer.models.frozen import borrowed, frozen_encoders
from trainer.pictures import Batch, contact_sheet, figure_mask, model_sketch, picture

from . import adapted
from .shared import (
    check_prediction,
    check_token_width,
    check_tokens,
    drawn_latents,
    entanglement_curves,
    model_header,
    model_markers,
    with_autoencoder,
)
from .sizes import v1_sizes
from .stage import Stage

FROZEN_PART = "features"  # of a reference encoder that is trained
ENCODER_FILE = "-encoder"
"""End of the name of the file with the reference encoder that was trained beside the model."""
ENCODER_PARTS = ("visual.", "knowledge.")  # how the names of its trained tensors begin


def encodings(config: Config) -> tuple[str, ...]:
    """The kinds of encodings (cache/recipes.py) that a run reads again and again: no tokens that change meanwhile."""
    return ("latents",) if config.data.deform or config.model.train_encoder else ("latents", "tokens")


def also_reads(config: Config) -> tuple[str, ...]:
    """Parts of a picture that the loss reads, beside those it reads in any case."""
    return ("mask",) if config.loss.background_weight < 1 else ()


def check(config: Config) -> None:
    """ConfigError for what does not go together."""
    if config.model.tokens == "cls" and config.loss.latent_shuffle and config.loss.shuffle_variant == "tokens":
        raise ConfigError(
            'loss.latent_shuffle has nothing to shuffle with model.tokens = "cls", which reads one token: set it to 0, '
            'or loss.shuffle_variant = "patches".'
        )


class ColorizerStage(Stage):
    """Trains `model.diffusion_model` and `control_encoder`; the autoencoder stays frozen, and so does the reference
    encoder but for model.train_encoder: then `visual` and `knowledge` of it are trained, too. With [adapter] trains
    `diffusion_model`, the adapters of the U-Net, and nothing else."""

    def __init__(self, config: Config, device: torch.device) -> None:
        super().__init__(config, device)
        self.frozen = vae, encoder = frozen_encoders(config, device)
        if config.model.init:
            tensors, metadata = checkpoint.read_tensors(Path(config.model.init))
            unet, sketch_encoder = networks_from(tensors, metadata)
            if unet.config.region_ranks is not None:
                raise ConfigError(
                    f"{config.model.init} is a v1.5 model, whose region weights stage v1 does not train: start from "
                    'the v1 model it was made of, or set run.stage = "v1_5".'
                )
            check_prediction(tensors, metadata, config.model)
            check_token_width(unet, encoder, config.model)
            check_tokens(tensors, metadata, config.model)
        else:
            unet, sketch_encoder = new_networks(config, encoder.output_dim)
        unet.gradient_checkpointing = config.system.gradient_checkpointing
        if adapted.wanted(config):
            adapted.hang(self, unet, sketch_encoder)
        else:
            self.model = nn.ModuleDict({"diffusion_model": unet})
            self.control_encoder = sketch_encoder
        if config.model.train_encoder:
            self.own_files = ENCODER_PARTS
            for name, part in encoder.network.named_children():
                if name != FROZEN_PART:
                    self.add_module(name, part.requires_grad_(True))
        self.train()
        for network in (unet, sketch_encoder):
            if config.system.channels_last:
                network.to(memory_format=torch.channels_last)
        # A tuple keeps the frozen networks and the views on them out of the module tree.
        token_kind, prediction = config.model.tokens, config.model.prediction_type
        self._colorizer = (V1Colorizer(unet, sketch_encoder, vae, encoder, prediction, token_kind=token_kind),)
        self.schedule = NoiseSchedule().to(device)
        self.encodings = build_encodings(config, device, encodings(config))

    def latents_and_tokens(self, batch: Batch, draws: Draws) -> tuple[torch.Tensor, torch.Tensor]:
        """Scaled latents (B, 4, h, w) of the pictures and tokens (B, N, D) of their references, float32."""
        colorizer, latents = self._colorizer[0], self.latents_only(batch, draws)
        order = self.patch_order(draws)
        if self.config.model.train_encoder:
            return latents, colorizer.read(self.references(batch, order)).float()
        return latents, self.tokens_only(batch, order)

    def patch_order(self, draws: Draws) -> torch.Tensor | None:
        """In which order the patches of this batch's references stand; None: as they are."""
        loss = self.config.loss
        if loss.shuffle_variant != "patches" or not torch.rand((), generator=draws.shared) < loss.latent_shuffle:
            return None
        return draw_permutation(self._colorizer[0].reference_encoder.token_count - 1, draws)

    def references(self, batch: Batch, order: torch.Tensor | None = None) -> torch.Tensor:
        """References (B, 3, H, W) in [-1, 1] for the encoder, their patches in an order of `patch_order`."""
        pictures, encoder = picture(batch["reference"]), self._colorizer[0].reference_encoder
        if order is None:
            return pictures
        return shuffle_patches(pictures, order, math.isqrt(len(order)), encoder.image_size)

    @torch.no_grad()
    def latents_only(self, batch: Batch, draws: Draws) -> torch.Tensor:
        """Scaled latents (B, 4, h, w) of the pictures."""
        colorizer = self._colorizer[0]
        moments = self.encodings.rows("latents", batch, lambda: colorizer.autoencoder.moments(picture(batch["color"])))
        return drawn_latents(moments, colorizer.unet, self.config, draws)

    @torch.no_grad()
    def tokens_only(self, batch: Batch, order: torch.Tensor | None = None) -> torch.Tensor:
        """Tokens (B, N, D) of the references by the frozen encoder; order: see `references`."""
        colorizer = self._colorizer[0]
        with torch.autocast(self.device.type, enabled=False):  # the tokens steer every step: always in float32
            return self.encodings.rows(
                "tokens", batch, lambda: colorizer.tokens(self.references(batch, order)), keep=order is None
            )

    def condition(self, tokens: torch.Tensor, t: torch.Tensor, draws: Draws, progress: float = 0.0) -> torch.Tensor:
        """Apply the training strategies to the local tokens: shuffle, noise, drop, in this order."""
        loss = self.config.loss
        draw = torch.rand(2, generator=draws.shared)
        if loss.shuffle_variant == "tokens" and draw[0] < loss.latent_shuffle:
            tokens = shuffle_tokens(tokens, draw_permutation(tokens.shape[1], draws))
        if draw[1] < loss.noisy_reference:
            noise = draws.randn(tokens.shape).to(tokens)
            tokens = noisy_tokens(self.schedule, tokens, noise, t, loss.noisy_variant)
        rate = drop_rate(loss.reference_drop, loss.reference_drop_end, progress)
        return drop_references(tokens, keep_mask(len(tokens), rate, draws))

    def forward(self, batch: Batch, draws: Draws, progress: float = 0.0) -> dict[str, torch.Tensor]:
        loss, prediction = self.config.loss, self.config.model.prediction_type
        latents, tokens = self.latents_and_tokens(batch, draws)
        drawn = torch.cat([batch["sketch"], batch["mask"]], dim=1) if "mask" in batch else batch["sketch"]
        if self.config.data.crop:
            latents, drawn = random_crops(latents, drawn, self.config.data.crop, draws)
        sketches, places = drawn, None
        if "mask" in batch:
            sketches, places = drawn[:, :-1], place_weights(latent_masks(figure_mask(drawn[:, -1:])), loss)
        t = draws.timesteps(self.schedule.steps, len(latents)).to(self.device)
        noise = drawn_noise(latents.shape, loss, draws).to(self.device)
        tokens = self.condition(tokens, t, draws, progress)
        control = self._colorizer[0].sketch_encoder(model_sketch(sketches))
        unet = self._colorizer[0].unet
        answer = unet(self.schedule.add_noise(latents, shown_noise(noise, loss, draws), t), t, tokens, control)
        wanted, weight = target_and_weight(self.schedule, latents, noise, t, prediction, loss)
        if loss.dual_condition:
            other = drawn_noise(latents.shape, loss, draws).to(self.device)
            without = unet(
                self.schedule.add_noise(latents, shown_noise(other, loss, draws), t),
                t,
                torch.zeros_like(tokens),
                control,
            )
            wanted_without = target(self.schedule, latents, other, t, prediction)
            return dual_conditioned_loss(
                answer, wanted, without, wanted_without, loss.dual_condition, weight, loss.huber, places
            )
        return {"denoising": denoising_loss(answer, wanted, weight, huber=loss.huber, places=places)}

    @torch.no_grad()
    def sheet(self, batch: Batch, draws: Draws) -> np.ndarray:
        """Columns: sketch, reference, result, the true picture."""
        colorizer, report = self._colorizer[0], self.config.report
        sketches, references = model_sketch(batch["sketch"]), picture(batch["reference"])
        with borrowed(*self.frozen):
            tokens = colorizer.tokens(references)
            how = Denoising(report.sample_steps, report.guidance)
            result = colorizer.generate(sketches, tokens, how, draws.shared)
        return contact_sheet([-sketches, references, result, picture(batch["color"])])

    @torch.no_grad()
    def curves(self, batch: Batch, draws: Draws) -> dict[str, float]:
        """Entanglement of structure and reference, where report.validate_entanglement asks for it."""
        colorizer = self._colorizer[0]
        with borrowed(*self.frozen):
            return entanglement_curves(colorizer, batch, self.config.report, draws)

    def export(self, weights: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
        config, colorizer = self.config, self._colorizer[0]
        if adapted.wanted(config):
            return adapted.export(config, "v1", weights)
        prediction, heads = config.model.prediction_type, colorizer.unet.config.num_head_channels
        tensors = {name: value for name, value in weights.items() if not name.startswith(ENCODER_PARTS)}
        tensors = with_autoencoder(tensors, self.frozen[0])
        header = model_header(config, "v1", colorizer.unet.config)
        if config.model.tokens != "local":
            tensors, header = tensors | {names.CLS_MARKER: torch.zeros(0)}, header | {names.TOKENS: config.model.tokens}
        return tensors | model_markers(prediction, heads), header

    def further_exports(
        self, weights: Mapping[str, torch.Tensor]
    ) -> dict[str, tuple[dict[str, torch.Tensor], dict[str, str]]]:
        """The trained reference encoder, whole."""
        if not self.config.model.train_encoder:
            return {}
        encoder = self.frozen[1].network
        tensors = dict(encoder.state_dict()) | {k: v for k, v in weights.items() if k.startswith(ENCODER_PARTS)}
        metadata = checkpoint.modelspec(Path(self.config.run.output).name, "clip-vision", encoder.image_size, None)
        metadata |= {
            "colorize.kind": "reference_encoder",
            "colorize.image_size": str(encoder.image_size),
            "colorize.head_width": str(encoder.head_width),
            "colorize.config": json.dumps(self.config.shareable()),
        }
        return {ENCODER_FILE: (tensors, metadata)}


def random_crops(
    latents: torch.Tensor, sketches: torch.Tensor, side: int, draws: Draws
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same square of latents (B, 4, h, w) and sketches (B, 1, 8h, 8w), `side` pixels wide; one per sample."""
    cells = side // 8
    room = torch.tensor(latents.shape[-2:]) - cells + 1
    corners = (draws.rand((len(latents), 2)) * room).long().tolist()
    cut = [row[:, y : y + cells, x : x + cells] for row, (y, x) in zip(latents, corners, strict=True)]
    drawn = [row[:, 8 * y : 8 * y + side, 8 * x : 8 * x + side] for row, (y, x) in zip(sketches, corners, strict=True)]
    return torch.stack(cut), torch.stack(drawn)


def new_networks(config: Config, context_dim: int) -> tuple[UNet, SketchEncoder]:
    """Random U-Net and sketch encoder of the configured sizes; residual branches and sketch features start at zero."""
    sizes = v1_sizes(config, context_dim)
    unet = UNet(sizes)
    unet.zero_output_layers()
    widths = [sizes.model_channels * mult for mult in sizes.channel_mult]
    sketch_encoder = SketchEncoder(widths, sizes.model_channels)
    sketch_encoder.zero_projections()
    return unet, sketch_encoder
