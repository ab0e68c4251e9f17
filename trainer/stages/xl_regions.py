"""Stages xl_plugin and xl_lora: what an XL model learns on top of its frozen backbone.

xl_plugin trains the background plugin (reference_net.py) and a background LoRA of the cross-attention, as the
released trainer's second stage does: the plugin reads the background of the reference once, and the queries of the
background read its bank. xl_lora trains LoRAs for figure and background without a plugin, as stage v1_5 does for its
family. Both compose the regions with the sketch's figure mask; thresholds are drawn per sample.

Source: CVPR 2026 paper, released trainer (stage 2). Figure tokens come from the whole reference, background tokens from
the reference with its figure painted white. With loss.background_bleach a sample has a white background: picture and
background reference. For the plugin the sketch's background is erased in every sample, so that it has to draw it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import nn

from colorize import modes, names
from colorize.background.reference_net import ReferenceNet, plugin_input
from colorize.reference.token_projection import TokenProjection
from colorize.sketch.xl_encoder import XLSketchEncoder
from colorize.unet.region_lora import XL_KINDS, to_module_names, to_official_names
from colorize.unet.split_attention import Split, SplitOptions
from colorize.unet.unet import UNet
from trainer.config import Config, ConfigError
from trainer.draws import Draws
from trainer.losses.bleach import background_reference, draw_bleached, whiten_background
from trainer.losses.diffusion import denoising_loss, drawn_noise, place_weights, shown_noise, target_and_weight
from trainer.losses.reference_drop import drop_rate, drop_references, keep_mask
from trainer.models import checkpoint
from trainer.models.autoencoder import XL_SCALE
from trainer.models.colorizer import SplitInputs, latent_masks
from trainer.models.denoising import Denoising
from trainer.models.frozen import FrozenReferenceEncoder, SecondTower, borrowed
from trainer.models.lean_layers import lean
from trainer.models.xl_colorizer import embedded, networks_from, plugin_from
from trainer.pictures import Batch, contact_sheet, figure_mask, model_sketch, picture

from .shared import check_prediction, drawn_latents, freeze
from .v1_5 import region_ranks
from .xl import XLStage, drop_levels


def check(config: Config) -> None:
    """ConfigError for what does not go together in stage xl_plugin."""
    if config.data.reference != "self":
        raise ConfigError(
            f"data.reference is {config.data.reference!r}: the background plugin is told which part of the sample's "
            'own picture is shown, so stage xl_plugin reads the picture itself; set data.reference = "self".'
        )


class XLRegionStage(XLStage):
    """Stage xl_lora: trains `model.diffusion_model.*.lora_*` of figure and background; everything else is frozen."""

    rests = True  # the weights of a region that no query of the batch falls into
    plugin = False
    thresholds = (0.01, 0.99)  # released, stage 2
    options = SplitOptions(kinds=("fg", "bg"), strengths=(1.0, 1.0), threshold=modes.MASK_THRESHOLD)

    def networks(
        self, encoder: FrozenReferenceEncoder, tagger: SecondTower
    ) -> tuple[UNet, XLSketchEncoder, TokenProjection]:
        model = self.config.model
        self.tensors, metadata = checkpoint.read_tensors(Path(model.init))
        check_prediction(self.tensors, metadata, model)
        figure, background = region_ranks(model)
        unet, sketch_encoder, projection = networks_from(
            self.tensors, metadata, (0 if self.plugin else figure, background)
        )
        if not self.plugin and not all(unet.config.region_ranks or ()):
            raise ConfigError(
                f"{model.init} has region weights for the background only, as models with a plugin do: stage xl_lora "
                "starts from a model without region weights, or from its own."
            )
        for name, parameter in unet.named_parameters():
            parameter.requires_grad_(names.REGION_LORA in name)
        if self.plugin:
            self.bg_encoder = plugin_from(self.tensors, unet) or ReferenceNet.from_unet(unet)
            self.bg_encoder.gradient_checkpointing = self.config.system.gradient_checkpointing
        self.model = nn.ModuleDict({"diffusion_model": lean(unet, self.config.system, self.device)})
        self.train()
        for network in (sketch_encoder, projection):
            freeze(network, self.config, self.device)
        return unet, sketch_encoder, projection

    def forward(self, batch: Batch, draws: Draws, progress: float = 0.0) -> dict[str, torch.Tensor]:
        loss, prediction = self.config.loss, self.config.model.prediction_type
        count = len(batch["color"])
        low, high = self.thresholds
        ours, theirs = (low + (high - low) * draws.rand((count, 2))).to(self.device).unbind(1)
        bleached = draw_bleached(count, loss.background_bleach, draws).to(self.device)
        shade = draws.rand((count, 1)).to(self.device).view(-1, 1, 1, 1)
        masks, reference_masks = (figure_mask(batch[name]) for name in ("mask", "reference_mask"))
        figure = masks > ours.view(-1, 1, 1, 1)
        with torch.no_grad():
            references, seen = self.references(batch, draws)
            shown = reference_masks >= theirs.view(-1, 1, 1, 1)
            background = background_reference(references, shown, bleached, shade)
            pictures = whiten_background(picture(batch["color"]), figure, bleached, 1.0)
            latents = self.encoded(pictures, draws)
            erased = torch.ones_like(bleached) if self.plugin else bleached
            sketches = whiten_background(batch["sketch"].float(), figure, erased, 255.0)
            hints = self.colorizer.sketch_encoder(model_sketch(sketches))
            if loss.sketch_drop:
                hints = drop_levels(hints, draws.rand((count, len(hints))) >= loss.sketch_drop)
            sets = [self.colorizer.projection(*seen), self.colorizer.tokens(background)]
        t = draws.timesteps(self.schedule.steps, count).to(self.device)
        noise = drawn_noise(latents.shape, loss, draws).to(latents)
        keep = keep_mask(count, drop_rate(loss.reference_drop, loss.reference_drop_end, progress), draws)
        cells = latent_masks(masks)
        split = Split([drop_references(tokens, keep) for tokens in sets], cells, self.options, ours)
        banks = None
        if self.plugin:
            given = plugin_input(self.encoded(background, draws), masks, reference_masks)
            banks = self.bg_encoder(given, embedded(batch["crop"], self.bg_encoder).to(self.device))
        noisy = self.schedule.add_noise(latents, shown_noise(noise, loss, draws), t)
        answer = self.model["diffusion_model"](noisy, t, None, hints, split=split, y=self.y(batch), banks=banks)
        wanted, weight = target_and_weight(self.schedule, latents, noise, t, prediction, loss)
        places = place_weights(cells, loss)
        return {"denoising": denoising_loss(answer, wanted, weight, huber=loss.huber, places=places)}

    def references(self, batch: Batch, draws: Draws) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        """References (B, 3, H, W) in [-1, 1], some of them inpainted (loss.reference_inpaint), and what is seen."""
        references = picture(batch["reference"])
        if self.config.loss.reference_inpaint:
            chosen, cut = self.inpainted_references(batch, draws.rand((len(references), 2)))
            if chosen.any():
                references[chosen] = cut
                return references, self.seen(references)
        return references, self.seen_in(batch)

    @torch.no_grad()
    def encoded(self, pictures: torch.Tensor, draws: Draws | None = None) -> torch.Tensor:
        """Scaled latents (B, 4, h, w) of pictures (B, 3, H, W) in [-1, 1]."""
        moments = self.colorizer.autoencoder.moments(pictures)
        return drawn_latents(moments, self.colorizer.unet, self.config, draws, XL_SCALE)

    @torch.no_grad()
    def sheet(self, batch: Batch, draws: Draws) -> np.ndarray:
        """Columns: sketch, reference, without and with what is trained here, the true picture; from the same noise."""
        colorizer, report = self.colorizer, self.config.report
        sketches, references = model_sketch(batch["sketch"]), picture(batch["reference"])
        masks, reference_masks = (figure_mask(batch[name]) for name in ("mask", "reference_mask"))
        nothing = torch.zeros(len(sketches), dtype=torch.bool, device=references.device)
        shade = torch.ones(len(sketches), 1, 1, 1, device=references.device)
        background = background_reference(references, reference_masks >= modes.REFERENCE_THRESHOLD, nothing, shade)
        seed, results = draws.seed, []
        with borrowed(*self.frozen):
            tokens = colorizer.tokens(references)
            banks = None
            if self.plugin:
                given = plugin_input(self.encoded(background), masks, reference_masks)
                banks = tuple(self.bg_encoder(given, embedded(batch["crop"], self.bg_encoder).to(given)))
            regions = SplitInputs(colorizer.tokens(background), latent_masks(masks), self.options, banks)
            for composed in (None, regions):
                noise = torch.Generator().manual_seed(seed)
                how = Denoising(report.sample_steps, report.guidance)
                results.append(colorizer.generate(sketches, tokens, how, noise, composed))
        return contact_sheet([-sketches, references, *results, picture(batch["color"])])

    def export(self, weights: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
        trained = {k: v for k, v in weights.items() if names.REGION_LORA in k or not k.startswith(names.UNET)}
        return super().export(to_official_names(to_module_names(trained), XL_KINDS))

    def untrained(self) -> Mapping[str, torch.Tensor]:
        """The tensors of model.init as they are."""
        return self.tensors


class XLPluginStage(XLRegionStage):
    """Stage xl_plugin: trains `bg_encoder.*` and the background's `lora_*`; everything else is frozen."""

    family = "xl-plugin"
    plugin = True
    # One set of region weights serves both regions, blended by the mask (released).
    options = SplitOptions(kinds=("bg", "bg"), strengths=(1.0, 1.0), soft=True, overshoot=True)
