"""What stage distill asks a colouriser of any family: a batch as its U-Net sees it, and the U-Net's answer to it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch

from colorize import families, modes, names
from colorize.reference.token_projection import TokenProjection
from colorize.sketch.xl_encoder import XLSketchEncoder
from colorize.unet.split_attention import Split
from colorize.unet.unet import UNet
from trainer.cache.encodings import Encodings, build_encodings
from trainer.config import Config, ConfigError
from trainer.draws import Draws
from trainer.losses.reference_drop import drop_references, keep_mask
from trainer.models import checkpoint, colorizer, xl_colorizer
from trainer.models.autoencoder import SCALE, XL_SCALE
from trainer.models.colorizer import MASKED, V1Colorizer, background_encoder_from, networks_from
from trainer.models.frozen import FrozenAutoencoder, FrozenReferenceEncoder, SecondTower, frozen_encoders
from trainer.models.xl_colorizer import XLColorizer, is_xl_file, plugin_from
from trainer.pictures import Batch, figure_mask, model_sketch, picture

from . import adapted, xl
from .shared import check_prediction, check_token_width, drawn_latents, freeze, with_autoencoder
from .sizes import is_xl
from .xl import XLStage, check_second_tower


class Lesson(NamedTuple):
    """A batch as a U-Net sees it."""

    latents: torch.Tensor
    """(B, 4, h, w) scaled latents of the pictures"""
    tokens: tuple[torch.Tensor, ...]
    """(B, M, D) of the reference, or of the figure and of the background"""
    control: list[torch.Tensor]
    """maps of the sketch"""
    y: torch.Tensor | None = None
    """(B, Y) of XL"""
    split: Split | None = None
    """where the mode splits"""
    banks: list[torch.Tensor] | None = None
    """of the background plugin"""

    def answer(self, unet: UNet, x: torch.Tensor, t: torch.Tensor, reference: bool = True) -> torch.Tensor:
        """What a U-Net answers for x (B, 4, h, w) at steps t (B,), with the reference or without; float32."""
        tokens = self.tokens if reference else tuple(torch.zeros_like(values) for values in self.tokens)
        split = self.split.with_tokens(tokens) if self.split else None
        return unet(x, t, tokens[0], self.control, split=split, y=self.y, banks=self.banks).float()


def encodings(config: Config) -> tuple[str, ...]:
    """The kinds of encodings (cache/recipes.py) that a run reads again and again."""
    if is_xl(config):
        return xl.encodings(config)
    return ("latents",) if config.data.deform else ("latents", "tokens")


class Lessons:
    """The frozen part of a family: encoders, sketch encoder, and what else stands around the U-Net."""

    scale = SCALE
    colorizer: V1Colorizer | XLColorizer
    """of the file of model.init, on the device; its U-Net is not frozen"""
    frozen: (
        tuple[FrozenAutoencoder, FrozenReferenceEncoder] | tuple[FrozenAutoencoder, FrozenReferenceEncoder, SecondTower]
    )
    """what is in memory only while it is borrowed"""
    encodings: Encodings

    def __init__(self, config: Config, device: torch.device) -> None:
        """Reads the file of model.init. ConfigError where it and the configuration do not go together."""
        self.config, self.device = config, device
        tensors, metadata = checkpoint.read_tensors(Path(config.model.init))
        check_prediction(tensors, metadata, config.model)
        self._build(tensors, metadata)
        self.family = families.detect(tensors, metadata, config.model.init).name
        for mode in config.distill.modes:
            name = MASKED.get(mode, mode)
            if reason := modes.refusal(name, self.colorizer.weights, modes.Given(figure=True, background=True)):
                raise ConfigError(f"distill.modes holds {mode!r}. {reason.text}")

    def _build(self, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
        """Set colorizer, frozen and encodings."""
        config = self.config
        self.frozen = vae, encoder = frozen_encoders(config, self.device)
        unet, sketch_encoder = networks_from(tensors, metadata)
        check_token_width(unet, encoder, config.model)
        background = background_encoder_from(tensors, self.device)
        adapted.in_frozen_type(config, sketch_encoder)
        self.colorizer = V1Colorizer(
            unet.to(self.device),
            freeze(sketch_encoder, config, self.device),
            vae,
            encoder,
            config.model.prediction_type,
            None if background is None else freeze(background, config, self.device),
            families.tokens_read(tensors, metadata, config.model.init),
            recovers=names.NO_RECOVERY not in tensors,
        )
        self.encodings = build_encodings(config, self.device, encodings(config))

    @torch.no_grad()
    def lesson(self, batch: Batch, mode: str, draws: Draws) -> Lesson:
        """A batch in a mode of the trainer (models/colorizer.py, MODES), some samples without their reference."""
        colorizer, references = self.colorizer, picture(batch["reference"])
        masks, reference_masks = (
            figure_mask(batch[name]) if name in batch else None for name in ("mask", "reference_mask")
        )
        with torch.autocast(self.device.type, enabled=False):  # the tokens steer every step
            tokens = self.tokens(batch)
            regions = None
            if mode != "vanilla":
                regions = colorizer.regions(mode, references, masks, reference_masks)
        sets = (tokens,) if regions is None else (tokens, regions.background)
        keep = keep_mask(len(tokens), self.config.loss.reference_drop, draws)
        return Lesson(
            latents=self.latents(batch, draws),
            tokens=tuple(drop_references(values, keep) for values in sets),
            control=colorizer.sketch_encoder(model_sketch(batch["sketch"])),
            y=self.y(batch),
            split=regions.split(tokens) if regions else None,
            banks=regions.repeated_banks(1) if regions else None,
        )

    def latents(self, batch: Batch, draws: Draws) -> torch.Tensor:
        """Scaled latents (B, 4, h, w) of the pictures, float32."""
        encode = self.colorizer.autoencoder.moments
        moments = self.encodings.rows("latents", batch, lambda: encode(picture(batch["color"])))
        return drawn_latents(moments, self.colorizer.unet, self.config, draws, self.scale)

    def tokens(self, batch: Batch) -> torch.Tensor:
        """(B, M, D) tokens of the references."""
        return self.encodings.rows("tokens", batch, lambda: self.colorizer.tokens(picture(batch["reference"])))

    def y(self, batch: Batch) -> torch.Tensor | None:
        """(B, Y) of XL's U-Net."""
        return None

    def before(self) -> dict[str, torch.Tensor]:
        """The U-Net's tensors in model.init, by their names in it."""
        tensors, metadata = checkpoint.read_tensors(Path(self.config.model.init))
        return (xl_colorizer if is_xl(self.config) else colorizer).unet_of(tensors, metadata)[1]

    def exported(self, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The whole model: the tensors of model.init with the trained ones, and the autoencoder of model.vae."""
        tensors = checkpoint.read_tensors(Path(self.config.model.init))[0] | dict(weights)
        return with_autoencoder(tensors, self.frozen[0]) if self.config.model.vae else tensors


class _FrozenXL(XLStage):
    """The parts of an XL model around its U-Net; trains nothing."""

    def __init__(
        self, config: Config, device: torch.device, tensors: dict[str, torch.Tensor], metadata: dict[str, str]
    ) -> None:
        self._read = (tensors, metadata)
        super().__init__(config, device)
        del self._read

    def networks(
        self, encoder: FrozenReferenceEncoder, tagger: SecondTower
    ) -> tuple[UNet, XLSketchEncoder, TokenProjection]:
        tensors, metadata = self._read
        check_second_tower(tensors, self.config.model)
        unet, sketch_encoder, projection = xl_colorizer.networks_from(tensors, metadata)
        plugin = plugin_from(tensors, unet)
        adapted.in_frozen_type(self.config, sketch_encoder)
        self.plugin = (
            None if plugin is None else freeze(plugin, self.config, self.device),
        )  # a tuple keeps it out of the tree
        return (
            unet.to(self.device),
            freeze(sketch_encoder, self.config, self.device),
            freeze(projection, self.config, self.device),
        )


class XLLessons(Lessons):
    """Of an XL model, whose reference is what CLIP and a tagger see together."""

    scale = XL_SCALE

    def _build(self, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
        if not self.config.model.tagger:
            raise ConfigError(f"{self.config.model.init} is an XL model: name its tagger in model.tagger.")
        self.stage = stage = _FrozenXL(self.config, self.device, tensors, metadata)
        stage.colorizer.plugin = stage.plugin[0]
        self.colorizer, self.frozen, self.encodings = stage.colorizer, stage.frozen, stage.encodings

    def tokens(self, batch: Batch) -> torch.Tensor:
        return self.stage.colorizer.projection(*self.stage.seen_in(batch))

    def y(self, batch: Batch) -> torch.Tensor | None:
        return self.stage.y(batch)


def lessons_for(config: Config, device: torch.device) -> Lessons:
    """Those of the family of model.init. ConfigError where model.tagger says another."""
    found = is_xl_file(Path(config.model.init))
    if is_xl(config) and not found:
        raise ConfigError(f"{config.model.init} is no XL model, which alone reads a tagger: clear model.tagger.")
    return (XLLessons if found else Lessons)(config, device)
