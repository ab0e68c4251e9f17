"""A whole XL colouriser outside ComfyUI: sketch and reference in, picture out; for sample sheets and the commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch

from colorize import families, modes, names
from colorize.background.reference_net import ReferenceNet, plugin_input
from colorize.pictures import images
from colorize.pictures.masks import without_figure
from colorize.pictures.ranges import model_to_unit
from colorize.reference import token_projection
from colorize.reference.fitting import fitted
from colorize.reference.token_projection import TokenProjection
from colorize.reference.vision import ReferenceEncoder
from colorize.reference.wd_tagger import PATCHES, PREFIXES, WDTagger, prepare, to_network
from colorize.sketch.xl_encoder import XLSketchEncoder
from colorize.unet import size_embedding
from colorize.unet.config import UNetConfig, unet_weights
from colorize.unet.unet import UNet
from trainer.config import ConfigError
from trainer.models import autoencoder, checkpoint
from trainer.models.autoencoder import XL_SCALE
from trainer.models.colorizer import (
    LatentCoder,
    SplitInputs,
    TokenReader,
    V1Colorizer,
    WholeColorizer,
    both_controls,
    check_unet,
    read_encoder,
    unet_from,
    unet_sizes,
)
from trainer.models.denoising import Denoising, Tokens, denoised_latents
from trainer.models.loras import with_loras
from trainer.models.usable import refuses_other_files


class FeatureReader(Protocol):
    """A tagger in memory, or one that is read from its file when it is used."""

    def tokens(self, references: torch.Tensor) -> torch.Tensor:
        """References (B, 3, H, W) in [-1, 1] -> patch features (B, L, W)."""


@dataclass
class XLColorizer(WholeColorizer):
    """The networks of an XL model and what its U-Net predicts ("v" or "eps"); by its methods a V1Colorizer."""

    unet: UNet
    sketch_encoder: XLSketchEncoder
    projection: TokenProjection
    autoencoder: LatentCoder
    reference_encoder: TokenReader
    tagger: FeatureReader
    prediction_type: str
    plugin: ReferenceNet | None = None
    """the background plugin; mode masked runs it"""
    background_encoder = None
    """XL has no recovery transformer"""

    @classmethod
    def from_files(
        cls, checkpoint_path: str, encoder_path: str, tagger_path: str, device: torch.device, loras: Sequence[str] = ()
    ) -> XLColorizer:
        """Read a checkpoint in the official XL layout, LoRA files on it, a CLIP vision tower and a WD tagger, in
        float32."""
        tensors, metadata = checkpoint.read_tensors(Path(checkpoint_path))
        tensors = with_loras(tensors, loras)
        unet, sketch_encoder, projection = networks_from(tensors, metadata)
        prediction, _ = families.prediction_type(tensors, metadata, checkpoint_path)
        return cls(
            unet.to(device).eval(),
            sketch_encoder.to(device).eval(),
            projection.to(device).eval(),
            autoencoder.from_tensors(tensors, checkpoint_path).to(device),
            read_encoder(encoder_path).to(device),
            SecondClip(read_encoder(tagger_path).to(device))
            if names.CLIP_PAIR in tensors
            else Tagger(read_tagger(tagger_path).to(device)),
            prediction,
            None if (plugin := plugin_from(tensors, unet)) is None else plugin.to(device).eval(),
        )

    @torch.no_grad()
    def tokens(self, references: torch.Tensor) -> torch.Tensor:
        """References (B, 3, H, W) in [-1, 1] -> reference tokens (B, L, D)."""
        shown = fitted(references, self.fit)
        return self.projection(self.reference_encoder.encode(shown), self.tagger.tokens(shown))

    @property
    def weights(self) -> modes.Weights:
        ranks, plugin = self.unet.config.region_ranks, self.plugin is not None
        title = f"ColorizeDiffusion XL{' with background plugin' if plugin else ''}"
        return modes.Weights(title, "the model", regions=ranks is not None and all(ranks), xl=True, plugin=plugin)

    @torch.no_grad()
    def regions(
        self,
        mode: str,
        references: torch.Tensor,
        masks: torch.Tensor | None = None,
        reference_masks: torch.Tensor | None = None,
    ) -> SplitInputs | None:
        """As in the base; with a background plugin, mode masked runs it: banks, and its weights for every query."""
        regions = super().regions(mode, references, masks, reference_masks)
        if regions is None or masks is None or self.plugin is None:
            return regions
        banks = self.banks(references, masks, reference_masks)
        return replace(regions, options=modes.with_plugin(regions.options), banks=banks)

    def banks(
        self, references: torch.Tensor, masks: torch.Tensor, reference_masks: torch.Tensor | None
    ) -> tuple[torch.Tensor, ...]:
        """What the plugin reads in the backgrounds of references for drawings with figure masks (B, 1, H, W)."""
        if self.plugin is None:
            raise ValueError("The model has no background plugin.")
        if reference_masks is None:
            reference_masks = torch.zeros_like(references[:, :1])
        size = (masks.shape[-2], masks.shape[-1])
        cut = without_figure(references, reference_masks, modes.REFERENCE_THRESHOLD)
        moments = self.autoencoder.moments(images.resize(cut, *size))
        latent = autoencoder.latents_of(moments, self.unet.config.in_channels, scale=XL_SCALE)
        scalars = size_embedding.crop_scalars((references.shape[-2], references.shape[-1]), size)
        crop = scalars.to(latent).expand(len(latent), -1)
        return tuple(self.plugin(plugin_input(latent, masks, reference_masks), embedded(crop, self.plugin)))

    def notes(self, chosen: Sequence[str]) -> list[str]:
        """As WholeColorizer.notes: where the plugin took part."""
        if self.plugin is None:
            return []
        texts = {"vanilla": "runs without the model's background plugin", "masked": "runs its background plugin"}
        return [f"mode {mode} {texts[mode]}" for mode in chosen if mode in texts]

    @torch.no_grad()
    def generate(
        self,
        sketches: torch.Tensor,  # (B, 3, H, W) in [-1, 1], white lines on black
        tokens: torch.Tensor,  # (B, L, D); zeros for "no reference"
        how: Denoising,
        generator: torch.Generator,
        regions: SplitInputs | None = None,  # of the method `regions`: tokens become the figure's
        score: float = size_embedding.SCORE,
    ) -> torch.Tensor:
        """Pictures (B, 3, H, W) in [-1, 1], sampled from noise of `generator` (CPU)."""
        height, width = sketches.shape[-2:]
        shape = (len(sketches), self.unet.config.in_channels, height // 8, width // 8)
        noise = torch.randn(shape, generator=generator).to(sketches.device)
        y = embedded(size_embedding.picture_scalars(height, width, score, len(sketches)), self.unet).to(sketches.device)
        count = len(how.groups)
        split, banks = (regions.split(tokens, count), regions.repeated_banks(count)) if regions else (None, None)
        sets = (tokens, regions.background) if regions else (tokens,)

        def network(
            x: torch.Tensor, t: torch.Tensor, sets: Tokens, hints: list[torch.Tensor], y: torch.Tensor
        ) -> torch.Tensor:
            seen = split.with_tokens(sets) if split else None
            return self.unet(x, t, sets[0], hints, split=seen, y=y, banks=banks)

        controls = both_controls(self.sketch_encoder, sketches, how)
        latents = denoised_latents(network, noise, sets, controls, y, self.prediction_type, how, generator)
        return self.autoencoder.decode(latents, XL_SCALE)


def is_xl_file(path: Path) -> bool:
    """Whether a checkpoint is one of XL, which alone has a token projection; of safetensors only the header is read."""
    return f"{names.PROJECTION}proj.0.weight" in checkpoint.read_names(path)


def load(
    checkpoint_path: str, encoder_path: str, tagger_path: str, device: torch.device, loras: Sequence[str] = ()
) -> V1Colorizer | XLColorizer:
    """The colouriser of a file of either family, with LoRA files in its weights; XL needs a tagger as well. ConfigError
    when it is missing."""
    if not is_xl_file(Path(checkpoint_path)):
        return V1Colorizer.from_files(checkpoint_path, encoder_path, device, loras)
    if not tagger_path:
        raise ConfigError(f"{checkpoint_path} is an XL model: name its tagger with --tagger.")
    return XLColorizer.from_files(checkpoint_path, encoder_path, tagger_path, device, loras)


class Tagger:
    """A tagger in memory, by the method XLColorizer asks for."""

    def __init__(self, network: WDTagger) -> None:
        self.network = network

    def tokens(self, references: torch.Tensor) -> torch.Tensor:
        return tagger_tokens(self.network, references)


class SecondClip:
    """A second CLIP tower in the place of the tagger, by the same method."""

    def __init__(self, network: ReferenceEncoder):
        self.network = network

    def tokens(self, references: torch.Tensor) -> torch.Tensor:
        return self.network.encode(references)


def embedded(scalars: torch.Tensor, network: UNet) -> torch.Tensor:
    """Numbers (B, n) as the y of a U-Net or plugin, whose width they share evenly."""
    return size_embedding.embed(scalars, network.config.y_width // scalars.shape[1])


@refuses_other_files("The file of the XL model")
def unet_of(
    tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]
) -> tuple[UNetConfig, dict[str, torch.Tensor]]:
    """Sizes and weights of the U-Net of a file in the official XL layout; tensors may have no values."""
    config, weights = unet_sizes(tensors, metadata), unet_weights(tensors, names.UNET)
    if not config.y_width:
        raise ConfigError("This is no XL model: its U-Net has no label_emb. Stages v1 and v1_5 take v1 files.")
    check_unet(config, weights)
    return config, weights


@refuses_other_files("The file of the XL model")
def networks_from(
    tensors: Mapping[str, torch.Tensor],
    metadata: Mapping[str, str],
    region_ranks: tuple[int | float, int | float] | None = None,
) -> tuple[UNet, XLSketchEncoder, TokenProjection]:
    """U-Net, sketch encoder and token projection of a file in the official XL layout, float32. ConfigError otherwise.

    region_ranks: adds fresh region LoRAs of these ranks to a U-Net that has none.
    """
    return (
        unet_from(*unet_of(tensors, metadata), region_ranks),
        XLSketchEncoder.from_state_dict(tensors, names.SKETCH_ENCODER, dtype=torch.float32),
        token_projection.from_state_dict(tensors, names.PROJECTION, dtype=torch.float32),
    )


@refuses_other_files("The background plugin of the file")
def plugin_from(tensors: Mapping[str, torch.Tensor], unet: UNet) -> ReferenceNet | None:
    """The background plugin of a file, float32; None when it has none."""
    if not any(key.startswith(names.BACKGROUND_ENCODER) for key in tensors):
        return None
    return ReferenceNet.from_state_dict(
        tensors, names.BACKGROUND_ENCODER, unet.config.num_head_channels, dtype=torch.float32
    )


@refuses_other_files("The file of the tagger")
def read_tagger(path: str) -> WDTagger:
    """Read a WD tagger in float32. ConfigError when the file is none."""
    return WDTagger.from_state_dict(*checkpoint.read_tensors(Path(path)))


def tagger_tokens(network: WDTagger, references: torch.Tensor) -> torch.Tensor:
    """Patch features (B, L, W) of references (B, 3, H, W) in [-1, 1], prepared as the XL models were trained."""
    return network.tokens(to_network(prepare(model_to_unit(references), network.image_size, "xl")))


@refuses_other_files("The file of the tagger")
def tagger_width(tensors: Mapping[str, torch.Tensor], path: str) -> int:
    """W of a tagger's file, from its shapes. ConfigError when the file is none."""
    for prefix in PREFIXES:
        if f"{prefix}{PATCHES}" in tensors and f"{prefix}head.fc.weight" in tensors:
            return tensors[f"{prefix}head.fc.weight"].shape[1]
    raise ConfigError(f"{path} holds no Swin V2 tagger in timm's layout; model.tagger names one.")
