"""Stage xl: U-Net, sketch encoder and token projection of ColorizeDiffusion XL learn together (CVPR 2026).

Beside the v1 strategies: levels of the sketch are dropped one by one, references lose parts to white, every picture
says its size and aesthetic score, and from a third of the run on the Gram loss (losses/gram.py) keeps the structure of
the features free of the reference. Source: the paper and the released trainer; where they disagree the paper wins and
the released behaviour is an option (see [gram] of the configuration).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from colorize import families, names
from colorize.pictures.masks import without_figure
from colorize.pictures.sides import sides_of
from colorize.reference.token_projection import TokenProjection
from colorize.sampling.schedule import NoiseSchedule
from colorize.sketch.xl_encoder import XLSketchEncoder
from colorize.unet import size_embedding
from colorize.unet.unet import UNet
from trainer.cache.encodings import KEY, build_encodings
from trainer.config import Config, ConfigError, Model
from trainer.draws import Draws
from trainer.losses.diffusion import denoising_loss, drawn_noise, place_weights, shown_noise, target_and_weight
from trainer.losses.gram import gram_loss, hooked_blocks, two_branches
from trainer.losses.reference_drop import drop_rate, drop_references, keep_mask
from trainer.models import checkpoint
from trainer.models.autoencoder import XL_SCALE
from trainer.models.colorizer import latent_masks
from trainer.models.denoising import Denoising
from trainer.models.frozen import (
    FrozenReferenceEncoder,
    SecondTower,
    borrowed,
    frozen_encoders,
    second_tower,
)
from trainer.models.xl_colorizer import XLColorizer, embedded, networks_from
from trainer.pictures import Batch, contact_sheet, figure_mask, model_sketch, picture

from . import adapted
from .shared import check_prediction, drawn_latents, entanglement_curves, model_header, model_markers, with_autoencoder
from .sizes import xl_sizes
from .stage import Stage

Y_WIDTH = 2 * size_embedding.WIDTH


def encodings(config: Config) -> tuple[str, ...]:
    """The kinds of encodings (cache/recipes.py) that a run reads again and again."""
    return ("latents",) if config.data.deform else ("latents", "clip_tokens", "tagger_tokens")


def also_reads(config: Config) -> tuple[str, ...]:
    """Parts of a picture that the losses of stage xl read, beside those it reads in any case."""
    gram = config.gram
    wanted = {
        "other_reference": bool(gram.weight) and gram.other == "dataset",
        "mask": bool(gram.weight) and gram.figure_only or config.loss.background_weight < 1,
        "reference_mask": bool(config.loss.reference_inpaint),
        "other_reference_mask": bool(config.loss.reference_inpaint),
    }
    return tuple(part for part, read in wanted.items() if read)


def check(config: Config) -> None:
    """ConfigError for what does not go together in stage xl."""
    model, gram = config.model, config.gram
    if not model.init and len(model.transformer_depth) != len(model.channel_mult):
        raise ConfigError(
            f"model.transformer_depth has {len(model.transformer_depth)} numbers and model.channel_mult "
            f"{len(model.channel_mult)}; XL has three of each: [0, 2, 10] and [1, 2, 4]."
        )
    if gram.weight and gram.other == "batch" and config.optimizer.batch < 2:
        raise ConfigError(
            'gram.other = "batch" takes the reference of the next sample, but optimizer.batch is 1: set gram.other '
            '= "dataset", or a larger batch.'
        )


class XLStage(Stage):
    """What the XL stages share: networks, frozen encoders, encodings and the file they export."""

    family = "xl"
    thresholds = (0.05, 0.99)
    """range of the thresholds of masks (released)"""

    def __init__(self, config: Config, device: torch.device) -> None:
        super().__init__(config, device)
        vae, encoder = frozen_encoders(config, device)
        tagger = second_tower(config, device)
        self.frozen = (vae, encoder, tagger)
        self.metadata: dict[str, str] = {}
        unet, sketch_encoder, projection = self.networks(encoder, tagger)
        check_encoders(projection, encoder, tagger, config)
        unet.gradient_checkpointing = config.system.gradient_checkpointing
        if config.system.channels_last:
            for network in (unet, sketch_encoder):
                network.to(memory_format=torch.channels_last)
        # A tuple keeps the frozen networks and the views on them out of the module tree.
        self._colorizer = (
            XLColorizer(unet, sketch_encoder, projection, vae, encoder, tagger, config.model.prediction_type),
        )
        self.schedule = NoiseSchedule().to(device)
        self.encodings = build_encodings(config, device, encodings(config))

    def networks(
        self, encoder: FrozenReferenceEncoder, tagger: SecondTower
    ) -> tuple[UNet, XLSketchEncoder, TokenProjection]:
        """U-Net, sketch encoder and token projection; registers those that are trained."""
        raise NotImplementedError

    @property
    def colorizer(self) -> XLColorizer:
        """The networks as a whole."""
        return self._colorizer[0]

    # -- encodings -----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def latents(self, batch: Batch, draws: Draws | None = None) -> torch.Tensor:
        """Scaled latents (B, 4, h, w) of the pictures, float32."""
        encode = self.colorizer.autoencoder.moments
        moments = self.encodings.rows("latents", batch, lambda: encode(picture(batch["color"])))
        return drawn_latents(moments, self.colorizer.unet, self.config, draws, XL_SCALE)

    @torch.no_grad()
    def seen(self, references: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """References (B, 3, H, W) in [-1, 1] -> CLIP tokens (B, M, C) and tagger tokens (B, L, W), float32."""
        with torch.autocast(self.device.type, enabled=False):  # the tokens steer every step
            return self.colorizer.reference_encoder.encode(references), self.colorizer.tagger.tokens(references)

    def seen_in(self, batch: Batch, other: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        """`seen` for the references of a batch, or for the other pictures' ones, kept where data.cache says so."""
        part, number = ("other_reference", "other_index") if other else ("reference", "reference_index")
        rows = {"reference_index": batch[number]}
        if part + KEY in batch:
            rows["reference" + KEY] = batch[part + KEY]
        computed: list[tuple[torch.Tensor, torch.Tensor]] = []

        def compute(which: int) -> torch.Tensor:
            if not computed:
                computed.append(self.seen(picture(batch[part])))
            return computed[0][which]

        return (
            self.encodings.rows("clip_tokens", rows, lambda: compute(0)),
            self.encodings.rows("tagger_tokens", rows, lambda: compute(1)),
        )

    def inpainted_references(self, batch: Batch, draw: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Which samples lose a part of their reference (B,), and those references without what lies inside another
        picture's figure mask. draw: (B, 2), uniform in 0..1."""
        chosen = (draw[:, 0] < self.config.loss.reference_inpaint).to(self.device)
        low, high = self.thresholds
        level = (low + (high - low) * draw[:, 1]).to(self.device)[chosen]
        if not chosen.any():
            return chosen, batch["reference"][:0]
        masks = batch["other_reference_mask"][chosen].float() / 255
        return chosen, without_figure(picture(batch["reference"])[chosen], masks, level)

    def y(self, batch: Batch) -> torch.Tensor:
        """(B, Y): size of the source picture's part that is shown, and aesthetic score."""
        scalars = size_embedding.training_scalars(batch["size"].cpu(), sides_of(batch["color"]), batch["score"].cpu())
        return embedded(scalars, self.colorizer.unet).to(self.device)

    # -- results -------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def sheet(self, batch: Batch, draws: Draws) -> np.ndarray:
        """Columns: sketch, reference, result, the true picture."""
        colorizer, report = self.colorizer, self.config.report
        sketches, references = model_sketch(batch["sketch"]), picture(batch["reference"])
        with borrowed(*self.frozen):
            tokens = colorizer.tokens(references)
            how = Denoising(report.sample_steps, report.guidance)
            result = colorizer.generate(sketches, tokens, how, draws.shared)
        return contact_sheet([-sketches, references, result, picture(batch["color"])])

    def export(self, weights: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
        """The whole model in the official layout: what the file of model.init had, with the trained tensors."""
        config, prediction = self.config, self.config.model.prediction_type
        if adapted.wanted(config):
            return adapted.export(config, self.family, weights)
        network = self.colorizer.unet.config
        tensors = dict(self.untrained()) | dict(weights)
        if config.model.vae or not any(key.startswith(names.VAE) for key in tensors):
            tensors = with_autoencoder(tensors, self.frozen[0])
        if config.model.second_tower == "clip":
            tensors[names.CLIP_PAIR] = torch.zeros(0)
        markers = model_markers(prediction, network.num_head_channels)
        return tensors | markers, model_header(config, self.family, network)

    def untrained(self) -> Mapping[str, torch.Tensor]:
        """Tensors of the exported file that this stage does not train."""
        return {}


class XLBackboneStage(XLStage):
    """Trains `model.diffusion_model`, `control_encoder` and `proj`; all encoders stay frozen. With [adapter] trains
    `diffusion_model`, the adapters of the U-Net, alone."""

    def networks(
        self, encoder: FrozenReferenceEncoder, tagger: SecondTower
    ) -> tuple[UNet, XLSketchEncoder, TokenProjection]:
        model = self.config.model
        if model.init:
            tensors, metadata = checkpoint.read_tensors(Path(model.init))
            unet, sketch_encoder, projection = networks_from(tensors, metadata)
            check_prediction(tensors, metadata, model)
            check_second_tower(tensors, model)
            if unet.config.region_ranks is not None:
                raise ConfigError(
                    f"{model.init} has region weights or a plugin, which stage xl does not train: start from the XL "
                    'model it was made of, or set run.stage = "xl_plugin" or "xl_lora".'
                )
        else:
            unet, sketch_encoder, projection = new_networks(self.config, encoder.output_dim, tagger.output_dim)
        if adapted.wanted(self.config):
            adapted.hang(self, unet, sketch_encoder, projection)
        else:
            self.model = nn.ModuleDict({"diffusion_model": unet})
            self.control_encoder, self.proj = sketch_encoder, projection
        self.train()
        return unet, sketch_encoder, projection

    def forward(self, batch: Batch, draws: Draws, progress: float = 0.0) -> dict[str, torch.Tensor]:
        loss = self.config.loss
        count = len(batch["color"])
        latents = self.latents(batch, draws)
        seen = self.inpainted(batch, draws.rand((count, 2)))
        dropped = draws.rand((count, len(self.colorizer.sketch_encoder.proj_outs))) < loss.sketch_drop
        t = draws.timesteps(self.schedule.steps, count).to(self.device)
        noise = drawn_noise(latents.shape, loss, draws).to(self.device)
        shown = shown_noise(noise, loss, draws)
        keep = keep_mask(count, drop_rate(loss.reference_drop, loss.reference_drop_end, progress), draws)

        hints = drop_levels(self.colorizer.sketch_encoder(model_sketch(batch["sketch"])), ~dropped)
        context = drop_references(self.colorizer.projection(*seen), keep)
        other = None
        if self.config.gram.weight and progress >= self.config.gram.start:
            other = self.other_context(batch, context)
        figure = figure_mask(batch["mask"]) if "mask" in batch else None
        return self.losses(latents, noise, t, hints, self.y(batch), context, other, figure, shown)

    def losses(
        self,
        latents: torch.Tensor,  # (B, 4, h, w)
        noise: torch.Tensor,  # like latents
        t: torch.Tensor,  # (B,)
        hints: Sequence[torch.Tensor],
        y: torch.Tensor,  # (B, Y)
        context: torch.Tensor,  # (B, L, D)
        other: torch.Tensor | None = None,  # (B, L, D) of other references; None: no Gram loss
        figure: torch.Tensor | None = None,  # (B, 1, H, W) 0..1, for gram.figure_only and loss.background_weight
        shown: torch.Tensor | None = None,  # the noise that the latents get, where it is not the one to be told
    ) -> dict[str, torch.Tensor]:
        """Loss terms: "denoising", and "gram" where another context is given."""
        config, gram = self.config, self.config.gram
        loss, prediction = config.loss, config.model.prediction_type
        noisy, unet = self.schedule.add_noise(latents, noise if shown is None else shown, t), self.colorizer.unet
        terms, inside = {}, figure if gram.figure_only else None
        if other is None:
            answer = unet(noisy, t, context, hints, y=y)
        else:
            blocks = hooked_blocks(unet, gram.blocks)
            answer, aligned, misaligned = two_branches(unet, noisy, t, hints, y, context, other, blocks)
            with torch.autocast(self.device.type, enabled=False):
                terms["gram"] = gram.weight * gram_loss(
                    misaligned, aligned, gram.variant, gram.temperature, gram.normalise_rows, gram.standardise, inside
                )
        wanted, weight = target_and_weight(self.schedule, latents, noise, t, prediction, loss)
        places = None if figure is None else place_weights(latent_masks(figure), loss)
        return {"denoising": denoising_loss(answer, wanted, weight, huber=loss.huber, places=places)} | terms

    @torch.no_grad()
    def curves(self, batch: Batch, draws: Draws) -> dict[str, float]:
        """Entanglement of structure and reference, where report.validate_entanglement asks for it."""
        with borrowed(*self.frozen):
            return entanglement_curves(self.colorizer, batch, self.config.report, draws)

    def inpainted(self, batch: Batch, draw: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`seen_in` with some references of `inpainted_references`. draw: (B, 2), uniform in 0..1."""
        clip, tagger = self.seen_in(batch)
        chosen, cut = self.inpainted_references(batch, draw)
        if chosen.any():
            clip, tagger = clip.clone(), tagger.clone()
            clip[chosen], tagger[chosen] = self.seen(cut)
        return clip, tagger

    def other_context(self, batch: Batch, context: torch.Tensor) -> torch.Tensor:
        """(B, L, D) tokens of a reference that is not the sample's, for the misaligned branch.

        Of another picture they are never dropped: a sample without its reference is compared with a wrong one.
        """
        gram = self.config.gram
        other = (
            context.roll(1, dims=0)
            if gram.other == "batch"
            else self.colorizer.projection(*self.seen_in(batch, other=True))
        )
        return other if gram.train_projection else other.detach()


def check_encoders(
    projection: TokenProjection, encoder: FrozenReferenceEncoder, tagger: SecondTower, config: Config
) -> None:
    """ConfigError unless the token projection was made for the encoders of the configuration."""
    for name, found, wanted in (
        ("encoder", encoder.output_dim, projection.clip_width),
        ("tagger", tagger.output_dim, projection.tagger_width),
    ):
        if found != wanted:
            raise ConfigError(
                f"model.{name} = {getattr(config.model, name)} gives tokens of width {found}, but the token projection "
                f"of {config.model.init} reads {wanted}; choose the {name} it was trained with."
            )


def check_second_tower(tensors: Mapping[str, torch.Tensor], model: Model) -> None:
    """ConfigError unless model.second_tower is the kind that model.init was trained with."""
    if (found := families.second_tower(tensors)) != model.second_tower:
        raise ConfigError(f"{model.init} was trained with another tower: set model.second_tower = {found!r}.")


def drop_levels(hints: Sequence[torch.Tensor], keep: torch.Tensor) -> list[torch.Tensor]:
    """Sketch features (B, C, h, w), every level times its column of keep (B, levels) of booleans or 0 and 1."""
    columns = keep.to(hints[0]).unbind(1)
    return [hint * column.view(-1, 1, 1, 1) for hint, column in zip(hints, columns, strict=True)]


def new_networks(config: Config, clip_width: int, tag_width: int) -> tuple[UNet, XLSketchEncoder, TokenProjection]:
    """Random networks of the configured sizes; residual branches and sketch features start at zero."""
    sizes = dataclasses.replace(xl_sizes(config), y_width=Y_WIDTH)
    unet = UNet(sizes)
    unet.zero_output_layers()
    widths = [sizes.model_channels * mult for mult in sizes.channel_mult]
    sketch_encoder = XLSketchEncoder(widths, sizes.model_channels)
    sketch_encoder.zero_projections()
    return unet, sketch_encoder, TokenProjection(clip_width, tag_width, config.model.token_width)
