"""Stage v1_5: region weights for split cross-attention on a frozen v1 model.

Source: Image Referenced Sketch Colorization Based on Animation Creation Workflow (CVPR 2025) and the released trainer.
Trained are the figure and background LoRAs of the cross-attentions, the recovery transformer R and the threshold
embedding T. With e the local tokens of the reference and m the reference without its figure, figure queries read e and
background queries R(local(m) + T(threshold of the reference mask)); the sketch's figure mask tells them apart (Eq. 2).
Both thresholds are uniform in 0.05..0.95 per sample; unlike the released inference, T is not added to e (as in the
released trainer).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import nn

from colorize import modes, names
from colorize.pictures.masks import grow_to_grid, without_figure
from colorize.reference.recovery import BackgroundEncoder, RecoveryTransformer, ScalarEmbedder
from colorize.sampling.schedule import NoiseSchedule
from colorize.unet.attention import MultiHeadAttention
from colorize.unet.layers import set_to_zero
from colorize.unet.split_attention import Split, SplitOptions
from colorize.unet.unet import UNet
from trainer.cache.encodings import build_encodings
from trainer.config import Config, ConfigError, Model
from trainer.draws import Draws
from trainer.losses.bleach import draw_bleached, whiten_background
from trainer.losses.diffusion import denoising_loss, drawn_noise, place_weights, shown_noise, target_and_weight
from trainer.losses.reference_drop import drop_rate, drop_references, keep_mask
from trainer.models import checkpoint
from trainer.models.colorizer import V1Colorizer, background_encoder_from, latent_masks, networks_from
from trainer.models.denoising import Denoising
from trainer.models.frozen import borrowed, frozen_encoders
from trainer.models.lean_layers import lean
from trainer.pictures import Batch, contact_sheet, figure_mask, model_sketch, picture

from . import adapted
from .shared import (
    check_prediction,
    check_token_width,
    check_tokens,
    drawn_latents,
    entanglement_curves,
    freeze,
    model_header,
    model_markers,
    with_autoencoder,
)
from .stage import Stage
from .v1 import random_crops

THRESHOLDS = (0.05, 0.95)  # range of both mask thresholds
THRESHOLD_EMBEDDING = 256  # width of the threshold's sinusoid
QUERY_SHARPNESS = 8.0  # spread of the first attention's logits before training, for tokens of unit variance
OPTIONS = SplitOptions((modes.FIGURE, modes.BACKGROUND), (1.0, 1.0))


def region_ranks(model: Model) -> tuple[int | float, int | float]:
    """The configured ranks as UNetConfig takes them: whole numbers, or fractions of a layer's smaller side."""
    ranks = (model.region_rank_figure, model.region_rank_background)
    figure, background = (int(rank) if rank >= 1 else rank for rank in ranks)
    return figure, background


def new_background_encoder(dim: int, tokens: int, layers: int) -> BackgroundEncoder:
    """Recovery transformer and threshold embedding for `tokens` local tokens of width `dim`, ready to be trained.

    The threshold embedding starts at zero, as the region LoRAs do. The recovery transformer starts as a sample of its
    input: each random, sharp query of the first layer passes on the few tokens that fit it best, and the other layers
    add nothing. The frozen U-Net reads these as well as the tokens of the masked reference themselves; from a usual
    random start it would see noise and lose the background colours it already knows.
    """
    encoder = BackgroundEncoder(RecoveryTransformer(dim, layers, tokens), ScalarEmbedder(THRESHOLD_EMBEDDING, dim))
    start_at_zero = [encoder.thresh_embedder.embed_layer[2]]
    for number, layer in enumerate(encoder.transformer.layers):
        _, _, attention, mlp = layer.children()
        attention, mlp = cast(MultiHeadAttention, attention), cast(nn.Sequential, mlp)
        start_at_zero.append(mlp[2])
        if number:
            start_at_zero.append(attention.to_out[0])
            continue
        for projection, std in ((attention.to_q, QUERY_SHARPNESS * dim**-0.5), (attention.to_k, dim**-0.5)):
            one_head = torch.randn(dim // attention.heads, dim) * std
            projection.weight.data.copy_(one_head.repeat(attention.heads, 1))  # all heads pass on the same token
        nn.init.eye_(attention.to_v.weight)
        weight, bias = attention.to_out[0].parameters()
        nn.init.eye_(weight)
        nn.init.zeros_(bias)
    for layer in start_at_zero:
        set_to_zero(layer)
    return encoder


def is_binary(masks: torch.Tensor) -> bool:
    """Whether masks, 0..255, hold only 0 and 255: then no threshold between them changes anything."""
    return bool(((masks == 0) | (masks == 255)).all())


def grown_masks(masks: torch.Tensor, cell: tuple[int, ...]) -> torch.Tensor:
    """Reference masks (B, 1, H, W), 0..255, grown to cells of height x width pixels; as they are without a cell."""
    if not cell:
        return masks
    height, width = cell
    return grow_to_grid(masks.float(), (height, width))


def encodings(config: Config) -> tuple[str, ...]:
    """The kinds of encodings (cache/recipes.py) that a run reads again and again."""
    augment, bent = config.augment, bool(config.data.deform)
    mask_changes = augment.mask_grow or augment.mask_erase or augment.mask_box or augment.mask_dilation > 1
    kinds = {
        "latents": True,
        "tokens": not bent,
        "background_tokens": not bent and not mask_changes,
        "white_latents": bool(config.loss.background_bleach),
    }
    return tuple(kind for kind, kept in kinds.items() if kept)


def check_recovery(there: bool, none: bool, model: Model) -> None:
    """ConfigError where model.init has a recovery transformer, or was trained without, and the configuration not."""
    if there and not model.recovery_layers or none and model.recovery_layers:
        raise ConfigError(
            f"{model.init} was trained {'with' if there else 'without'} a recovery transformer: set "
            f"model.recovery_layers {'above 0' if there else '= 0'}, or start from a v1 model."
        )


def check_has_regions(tensors: Mapping[str, torch.Tensor], model: Model) -> None:
    """ConfigError where model.init is a v1 model: adapters of stage v1_5 change a model of both regions."""
    if not any(names.REGION_LORA in name for name in tensors):
        raise ConfigError(
            f"{model.init} has no region weights, which stage v1_5 trains before adapters: set adapter.kind = "
            '"none", or train adapters of this model with run.stage = "v1".'
        )


class RegionStage(Stage):
    """Trains `model.diffusion_model.*.lora_*`, `transformer.*` and `thresh_embedder.*`; everything else is frozen. With
    [adapter] these are frozen too, and `diffusion_model` is trained, the adapters of the U-Net."""

    rests = True  # the weights of a region that no query of the batch falls into

    def __init__(self, config: Config, device: torch.device) -> None:
        super().__init__(config, device)
        model = config.model
        self.frozen = vae, reference_encoder = frozen_encoders(config, device)
        tensors, metadata = checkpoint.read_tensors(Path(model.init))
        check_prediction(tensors, metadata, model)
        unet, sketch_encoder = networks_from(tensors, metadata, region_ranks(model))
        dim = reference_encoder.output_dim
        check_token_width(unet, reference_encoder, model)
        check_tokens(tensors, metadata, model)
        background = background_encoder_from(tensors, device)
        check_recovery(background is not None, names.NO_RECOVERY in tensors, model)
        if background is None and model.recovery_layers:
            background = new_background_encoder(dim, reference_encoder.token_count - 1, model.recovery_layers)
        unet.gradient_checkpointing = config.system.gradient_checkpointing
        if adapted.wanted(config):
            check_has_regions(tensors, model)
            adapted.hang(self, unet, sketch_encoder, *([] if background is None else [background]))
        else:
            sketch_encoder = freeze(sketch_encoder, config, device)
            self._register(unet, background)
        self.train()
        for network in (unet, sketch_encoder):
            if config.system.channels_last:
                network.to(memory_format=torch.channels_last)
        # A tuple keeps the frozen networks and the views on them out of the module tree.
        networks = unet, sketch_encoder, vae, reference_encoder, model.prediction_type, background
        self._colorizer = (V1Colorizer(*networks, recovers=background is not None),)
        self._background_encoder = (background,)
        self.schedule = NoiseSchedule().to(device)
        self.encodings = build_encodings(config, device, encodings(config))

    def _register(self, unet: UNet, background: BackgroundEncoder | None) -> None:
        """Train the region weights of a U-Net, and what makes background tokens."""
        for name, parameter in unet.named_parameters():
            parameter.requires_grad_(names.REGION_LORA in name)
        self.model = nn.ModuleDict({"diffusion_model": lean(unet, self.config.system, self.device)})
        if background is not None:
            self.transformer, self.thresh_embedder = background.transformer, background.thresh_embedder

    @torch.no_grad()
    def latents(
        self, batch: Batch, figure: torch.Tensor, bleached: torch.Tensor, draws: Draws | None = None
    ) -> torch.Tensor:
        """Scaled latents (B, 4, h, w) of the pictures, float32; bleached rows have a white background."""
        encode, colors = self._colorizer[0].autoencoder.moments, picture(batch["color"])
        moments = self.encodings.rows("latents", batch, lambda: encode(colors))
        if bleached.any():
            white = whiten_background(colors, figure, bleached, 1.0)
            moments = moments.clone()
            moments[bleached] = self.encodings.rows(
                "white_latents",
                batch,
                # One by one: how many are bleached must not show in the last bits, nor whether they come from a cache.
                lambda: torch.cat([encode(row) for row in white[bleached].split(1)]),
                bleached,
                keep=is_binary(batch["mask"]),
            )
        return drawn_latents(moments, self._colorizer[0].unet, self.config, draws)

    @torch.no_grad()
    def tokens(
        self, batch: Batch, thresholds: torch.Tensor, bleached: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Local tokens (B, N, D) of the references and of the references without figure; bleached ones are white."""
        encode, references = self._colorizer[0].tokens, picture(batch["reference"])
        masks = grown_masks(batch["reference_mask"], self.config.data.reference_mask_cell)
        with torch.autocast(self.device.type, enabled=False):  # the tokens steer every step: always in float32
            tokens = self.encodings.rows("tokens", batch, lambda: encode(references))
            background = self.encodings.rows(
                "background_tokens",
                batch,
                lambda: encode(without_figure(references, masks.float() / 255, thresholds)),
                keep=is_binary(masks),  # else they depend on the threshold
            )
            if bleached.any():
                background = background.clone()
                background[bleached] = self.encodings.white(lambda: encode(torch.ones_like(references[:1])))
        return tokens, background

    def forward(self, batch: Batch, draws: Draws, progress: float = 0.0) -> dict[str, torch.Tensor]:
        config, loss, prediction = self.config, self.config.loss, self.config.model.prediction_type
        colorizer, count = self._colorizer[0], len(batch["color"])
        low, high = THRESHOLDS
        ours, theirs = (low + (high - low) * draws.rand((count, 2))).to(self.device).unbind(1)
        bleached = draw_bleached(count, loss.background_bleach, draws).to(self.device)
        masks = figure_mask(batch["mask"])
        figure = masks > ours.view(-1, 1, 1, 1)

        latents = self.latents(batch, figure, bleached, draws)
        tokens, masked_tokens = self.tokens(batch, theirs, bleached)
        drawn = torch.cat([whiten_background(batch["sketch"].float(), figure, bleached, 255.0), masks], dim=1)
        if config.data.crop:
            latents, drawn = random_crops(latents, drawn, config.data.crop, draws)
        sketches, cells = drawn[:, :-1], latent_masks(drawn[:, -1:])

        t = draws.timesteps(self.schedule.steps, count).to(self.device)
        noise = drawn_noise(latents.shape, loss, draws).to(latents)
        keep = keep_mask(count, drop_rate(loss.reference_drop, loss.reference_drop_end, progress), draws)
        background, encoder = masked_tokens, self._background_encoder[0]
        if encoder is not None:
            background = encoder.background(masked_tokens, theirs)
        sets = [drop_references(tokens, keep), drop_references(background, keep)]
        with torch.no_grad():
            control = colorizer.sketch_encoder(model_sketch(sketches))
        answer = colorizer.unet(
            self.schedule.add_noise(latents, shown_noise(noise, loss, draws), t),
            t,
            None,
            control,
            split=Split(sets, cells, OPTIONS, ours),
        )
        wanted, weight = target_and_weight(self.schedule, latents, noise, t, prediction, loss)
        places = place_weights(cells, loss)
        return {"denoising": denoising_loss(answer, wanted, weight, huber=loss.huber, places=places)}

    @torch.no_grad()
    def sheet(self, batch: Batch, draws: Draws) -> np.ndarray:
        """Columns: sketch, reference, vanilla, fig2fig, the true picture. Both results start from the same noise."""
        colorizer, report = self._colorizer[0], self.config.report
        sketches, references = model_sketch(batch["sketch"]), picture(batch["reference"])
        masks, reference_masks = (figure_mask(batch[name]) for name in ("mask", "reference_mask"))
        seed, results = draws.seed, []
        with borrowed(*self.frozen):
            tokens = colorizer.tokens(references)
            for mode in ("vanilla", "fig2fig"):
                regions = colorizer.regions(mode, references, masks, reference_masks)
                noise = torch.Generator().manual_seed(seed)
                how = Denoising(report.sample_steps, report.guidance)
                results.append(colorizer.generate(sketches, tokens, how, noise, regions))
        return contact_sheet([-sketches, references, *results, picture(batch["color"])])

    @torch.no_grad()
    def curves(self, batch: Batch, draws: Draws) -> dict[str, float]:
        """Entanglement in mode fig2fig, where report.validate_entanglement asks for it."""
        colorizer = self._colorizer[0]
        with borrowed(*self.frozen):
            return entanglement_curves(colorizer, batch, self.config.report, draws, "fig2fig")

    def export(self, weights: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
        """The whole model: the tensors of model.init as they are, with the trained ones; or adapters."""
        config = self.config
        if adapted.wanted(config):
            return adapted.export(config, "v1.5", weights)
        tensors, _ = checkpoint.read_tensors(Path(config.model.init))
        if config.model.vae:
            tensors = with_autoencoder(tensors, self.frozen[0])
        tensors |= {k: v for k, v in weights.items() if names.REGION_LORA in k or not k.startswith(names.UNET)}
        network = self._colorizer[0].unet.config
        markers = model_markers(config.model.prediction_type, network.num_head_channels)
        if self._colorizer[0].background_encoder is None:
            tensors[names.NO_RECOVERY] = torch.zeros(0)
        return tensors | markers, model_header(config, "v1.5", network)
