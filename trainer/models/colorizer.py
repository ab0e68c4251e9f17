"""A whole colouriser outside ComfyUI: sketch and reference in, picture out; for sample sheets and the commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch

from colorize import families, modes, names
from colorize.pictures.masks import without_figure
from colorize.reference.encoder_file import load_reference_encoder
from colorize.reference.fitting import fitted
from colorize.reference.recovery import BackgroundEncoder
from colorize.reference.types import read_tokens
from colorize.reference.vision import ReferenceEncoder
from colorize.sketch.encoder import SketchEncoder
from colorize.unet.config import UNetConfig, unet_config_from_state_dict
from colorize.unet.split_attention import Split, SplitOptions, to_latent_size
from colorize.unet.unet import UNet
from colorize.weight_files import check_fits, metadata_number
from trainer.config import ConfigError
from trainer.models import autoencoder, checkpoint
from trainer.models.denoising import Denoising, Tokens, blank_sketch, denoised_latents, guides
from trainer.models.loras import with_loras
from trainer.models.usable import refuses_other_files

MASKED = {"masked": "masked vanilla"}
"""The command line's short name -> that of colorize/modes.py."""
MODES = ("vanilla", *MASKED, *(name for name, row in modes.MODES.items() if row.needs_weights))
"""The modes by their names on the command line."""
MODE_HELP = (
    "masked splits figure and background, and runs the plugin of an XL model; bg2fig and fig2fig need region weights "
    "(v1.5, or XL from stage xl_lora)"
)
WIDEST_HEAD = 4096  # channels of one attention head that a file's metadata may ask for
NEXT_STEPS = {
    "figure": "Give the figure mask of the sketch: --mask, or mask/ in the data set.",
    "background": "Give the figure mask of the reference: --reference-mask, or reference_mask/ in the data set.",
}


@dataclass(frozen=True)
class SplitInputs:
    """What split attention needs beside the figure's tokens."""

    background: torch.Tensor
    """(B, L, D) tokens of the background"""
    masks: torch.Tensor
    """(B, 1, h, w) figure masks at latent size, 1 = figure"""
    options: SplitOptions
    banks: tuple[torch.Tensor, ...] | None = None
    """of the background plugin (XL), one per transformer block of the decoder"""

    def split(self, tokens: torch.Tensor, groups: int = 1) -> Split:
        """With figure tokens (B, M, D), for as many row groups of guidance; each step sets the tokens it sees."""
        return Split((tokens, self.background), self.masks.repeat(groups, 1, 1, 1), self.options)

    def repeated_banks(self, groups: int) -> list[torch.Tensor] | None:
        """The banks for as many row groups of guidance."""
        return None if self.banks is None else [bank.repeat(groups, 1, 1) for bank in self.banks]


def latent_masks(masks: torch.Tensor) -> torch.Tensor:
    """Figure masks (B, 1, H, W) 0..1 at the picture's size -> (B, 1, H/8, W/8)."""
    return to_latent_size(masks, masks.shape[-2] // 8, masks.shape[-1] // 8)


class TokenReader(Protocol):
    """A reference encoder: a ReferenceEncoder, or one that is read from its file when it is used."""

    image_size: int
    token_count: int
    output_dim: int

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        """Pictures (B, 3, H, W) in [-1, 1] -> all tokens (B, 1 + N, D)."""


class LatentCoder(Protocol):
    """An autoencoder: an Autoencoder, or one that is read from its file when it is used."""

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        """As in the file, without prefix."""

    def moments(self, pictures: torch.Tensor) -> torch.Tensor:
        """See Autoencoder."""

    def decode(self, latents: torch.Tensor, scale: float = autoencoder.SCALE) -> torch.Tensor:
        """See Autoencoder."""


class WholeColorizer:
    """A colouriser; what every one does by the one rule of modes (colorize/modes.py)."""

    unet: UNet
    autoencoder: LatentCoder
    reference_encoder: TokenReader
    background_encoder: BackgroundEncoder | None
    fit: str = "stretch"
    """Which part of a reference it reads (colorize/reference/fitting.py); models are trained with all of it."""

    @property
    def weights(self) -> modes.Weights:
        """What decides which modes it runs."""
        raise NotImplementedError

    def generate(
        self,
        sketches: torch.Tensor,
        tokens: torch.Tensor,
        how: Denoising,
        generator: torch.Generator,
        regions: SplitInputs | None = None,
    ) -> torch.Tensor:
        """Pictures (B, 3, H, W) in [-1, 1], sampled from noise of `generator` (CPU)."""
        raise NotImplementedError

    def tokens(self, references: torch.Tensor) -> torch.Tensor:
        """References (B, 3, H, W) in [-1, 1] -> reference tokens (B, L, D)."""
        raise NotImplementedError

    @torch.no_grad()
    def regions(
        self,
        mode: str,
        references: torch.Tensor,  # (B, 3, H, W) in [-1, 1]
        masks: torch.Tensor | None = None,  # (B, 1, H, W) 0..1, figure of the sketch, at the sketch's size
        reference_masks: torch.Tensor | None = None,  # (B, 1, H, W) 0..1, figure of the reference
    ) -> SplitInputs | None:
        """What `generate` needs for a mode of MODES; None for vanilla. ConfigError where the mode does not run."""
        name = MASKED.get(mode, mode)
        if name not in modes.MODES:
            raise ConfigError(f"Unknown mode {mode!r}; choose one of {', '.join(MODES)}.")
        given = modes.Given(figure=masks is not None, background=reference_masks is not None)
        if reason := modes.refusal(name, self.weights, given):
            short = {full: name for name, full in MASKED.items()}
            instead = ", ".join(short.get(other, other) for other in reason.instead)
            raise ConfigError(f"{reason.text} {NEXT_STEPS.get(reason.lacks, f'It runs: {instead}.')}")
        if masks is None or not modes.MODES[name].splits:
            return None
        which, cut = modes.background_of(name, self.weights, given), references
        if which != "reference" and reference_masks is not None:
            cut = without_figure(references, reference_masks, modes.REFERENCE_THRESHOLD)
        background = self.tokens(cut)
        if which == "recovered" and self.background_encoder is not None:
            background = self.background_encoder.background(background, modes.REFERENCE_THRESHOLD)
        return SplitInputs(background, latent_masks(masks), modes.split_options(name, self.weights))

    def notes(self, chosen: Sequence[str]) -> list[str]:
        """What a reader of these modes' results must know, one sentence each."""
        return []


@dataclass
class V1Colorizer(WholeColorizer):
    """The networks of a v1 or v1.5 model and what its U-Net predicts ("v" or "eps")."""

    unet: UNet
    sketch_encoder: SketchEncoder
    autoencoder: LatentCoder
    reference_encoder: TokenReader
    prediction_type: str
    background_encoder: BackgroundEncoder | None = None
    """v1.5 only"""
    token_kind: str = "local"
    """which tokens of the reference encoder it reads, of TOKEN_KINDS"""
    recovers: bool = True
    """whether fig2fig reads the background through the recovery transformer; False: it was trained without"""

    @classmethod
    def from_files(
        cls, checkpoint_path: str, encoder_path: str, device: torch.device, loras: Sequence[str] = ()
    ) -> V1Colorizer:
        """Read a checkpoint in the official v1 or v1.5 layout, LoRA files on it and a reference encoder, in float32."""
        tensors, metadata = checkpoint.read_tensors(Path(checkpoint_path))
        tensors = with_loras(tensors, loras)
        unet, sketch_encoder = networks_from(tensors, metadata)
        prediction, _ = families.prediction_type(tensors, metadata, checkpoint_path)
        return cls(
            unet.to(device).eval(),
            sketch_encoder.to(device).eval(),
            autoencoder.from_tensors(tensors, checkpoint_path).to(device),
            read_encoder(encoder_path).to(device),
            prediction,
            background_encoder_from(tensors, device),
            families.tokens_read(tensors, metadata, checkpoint_path),
            recovers=names.NO_RECOVERY not in tensors,
        )

    def tokens(self, references: torch.Tensor) -> torch.Tensor:
        """References (B, 3, H, W) in [-1, 1] -> the tokens (B, N, D) that the model reads."""
        with torch.no_grad():
            return self.read(references)

    def read(self, references: torch.Tensor) -> torch.Tensor:
        """`tokens` with gradients, for an encoder that is trained."""
        return read_tokens(self.reference_encoder.encode(fitted(references, self.fit)), self.token_kind)

    @property
    def weights(self) -> modes.Weights:
        regions, recovery = self.unet.config.region_ranks is not None, self.background_encoder is not None
        title = f"ColorizeDiffusion {'v1.5' if regions or recovery else 'v1'}"
        title += " (CLS)" if self.token_kind == "cls" else ""
        ties = not (regions or recovery)
        return modes.Weights(title, "the model", regions, self.recovers, recovery, ties_to_figure=ties)

    @torch.no_grad()
    def generate(
        self,
        sketches: torch.Tensor,  # (B, 3, H, W) in [-1, 1], white lines on black
        tokens: torch.Tensor,  # (B, N, D); zeros for "no reference"
        how: Denoising,
        generator: torch.Generator,
        regions: SplitInputs | None = None,  # of the method `regions`: tokens become the figure's
    ) -> torch.Tensor:
        """Pictures (B, 3, H, W) in [-1, 1], sampled from noise of `generator` (CPU)."""
        shape = (len(sketches), self.unet.config.in_channels, sketches.shape[-2] // 8, sketches.shape[-1] // 8)
        noise = torch.randn(shape, generator=generator).to(sketches.device)
        split = regions.split(tokens, len(how.groups)) if regions else None
        sets = (tokens, regions.background) if regions else (tokens,)

        def network(
            x: torch.Tensor, t: torch.Tensor, sets: Tokens, control: list[torch.Tensor], _: None
        ) -> torch.Tensor:
            return self.unet(x, t, sets[0], control, split=split.with_tokens(sets) if split else None)

        controls = both_controls(self.sketch_encoder, sketches, how)
        latents = denoised_latents(network, noise, sets, controls, None, self.prediction_type, how, generator)
        return self.autoencoder.decode(latents)


def both_controls(
    sketch_encoder: torch.nn.Module, sketches: torch.Tensor, how: Denoising
) -> tuple[list[torch.Tensor], list[torch.Tensor] | None]:
    """Control maps of sketches (B, 3, H, W) and, where sketch guidance reads them, of a blank one."""
    return sketch_encoder(sketches), sketch_encoder(blank_sketch(sketches)) if guides(how.sketch_guidance) else None


@refuses_other_files("The file of the model")
def networks_from(
    tensors: dict[str, torch.Tensor],
    metadata: dict[str, str],
    region_ranks: tuple[int | float, int | float] | None = None,
) -> tuple[UNet, SketchEncoder]:
    """U-Net and sketch encoder of a file in the official v1 or v1.5 layout, float32.

    region_ranks: adds fresh region LoRAs of these ranks (see UNetConfig) to a U-Net that has none.
    """
    unet = unet_from(*unet_of(tensors, metadata), region_ranks)
    return unet, SketchEncoder.from_state_dict(tensors, names.SKETCH_ENCODER, dtype=torch.float32)


def unet_sizes(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> UNetConfig:
    """Sizes of the U-Net of a file in an official layout; tensors may have no values. Raises ValueError."""
    heads = metadata_number(metadata, names.HEAD_WIDTH, None, 1, WIDEST_HEAD)
    return unet_config_from_state_dict(tensors, names.UNET, heads)


def check_unet(config: UNetConfig, weights: Mapping[str, torch.Tensor]) -> None:
    """ValueError unless a file holds the whole U-Net: its sizes come from a few tensors. Takes no memory."""
    check_fits(lambda: UNet(config, device="meta"), weights)


@refuses_other_files("The file of the model")
def unet_of(
    tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]
) -> tuple[UNetConfig, dict[str, torch.Tensor]]:
    """Sizes and weights of the U-Net of a file in the official v1 or v1.5 layout; tensors may have no values."""
    config = unet_sizes(tensors, metadata)
    other = "The U-Net is not one of the v1 or v1.5 layout:"
    if config.v2:
        raise ConfigError(f"{other} it is one of v2, which only ComfyUI runs.")
    if config.y_width:
        raise ConfigError(f"{other} it is one of XL, which the stages xl, xl_plugin and xl_lora train.")
    weights = {k.removeprefix(names.UNET): v for k, v in tensors.items() if k.startswith(names.UNET)}
    weights.pop(names.DISTILLED, None)
    try:
        check_unet(config, weights)
    except ValueError as error:
        raise ConfigError(f"{other} {error}") from None
    return config, weights


def unet_from(
    config: UNetConfig,
    weights: dict[str, torch.Tensor],
    region_ranks: tuple[int | float, int | float] | None = None,
) -> UNet:
    """The U-Net of `config` with its weights, of `unet_of`. region_ranks: see `networks_from`."""
    fresh = region_ranks is not None and config.region_ranks is None
    unet = UNet(replace(config, region_ranks=region_ranks) if fresh else config)
    if fresh:
        weights = weights | {k: v for k, v in unet.state_dict().items() if names.REGION_LORA in k}
    unet.load_state_dict(weights)
    return unet


def background_encoder_from(tensors: dict[str, torch.Tensor], device: torch.device) -> BackgroundEncoder | None:
    """The background networks of a v1.5 file, float32; None for v1."""
    if not any(key.startswith(names.THRESHOLD) for key in tensors):
        return None
    try:
        return BackgroundEncoder.from_state_dict(tensors).float().to(device).eval()
    except ValueError as error:
        raise ConfigError(f"The file has only parts of v1.5: {error}") from None


@refuses_other_files("The file of the reference encoder")
def read_encoder(path: str) -> ReferenceEncoder:
    """Read a reference encoder in float32."""
    tensors, metadata = checkpoint.read_tensors(Path(path))
    return load_reference_encoder(tensors, metadata, dtype=torch.float32)
