"""What the stages of colourisers share: checks of the file they start from, latents, the entanglement of a validation;
autoencoder, markers and header of exported files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch

from colorize import families, names, sampler_settings
from colorize.unet.config import UNetConfig
from colorize.unet.unet import UNet
from trainer.config import Config, ConfigError, Model, Report
from trainer.draws import Draws
from trainer.metrics.entanglement import mean_entanglement, next_ones
from trainer.models import autoencoder, checkpoint
from trainer.models.colorizer import TokenReader, WholeColorizer
from trainer.models.frozen import FrozenAutoencoder, Network, borrowed
from trainer.models.lean_layers import lean
from trainer.pictures import Batch, figure_mask, model_sketch, picture


def freeze(network: Network, config: Config, device: torch.device) -> Network:
    """A network that is not trained, in the form in which the configuration keeps it, on the device."""
    return lean(network.requires_grad_(False).eval(), config.system, device).to(device)


def check_token_width(unet: UNet, encoder: TokenReader, model: Model) -> None:
    """ConfigError unless the U-Net of model.init reads tokens as wide as those of model.encoder."""
    if unet.config.context_dim != encoder.output_dim:
        raise ConfigError(
            f"{model.init} reads reference tokens of width {unet.config.context_dim}, "
            f"but {model.encoder} gives {encoder.output_dim}."
        )


def check_tokens(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str], model: Model) -> None:
    """ConfigError unless model.init reads the tokens of model.tokens."""
    read = families.tokens_read(tensors, metadata, model.init)
    if read != model.tokens:
        raise ConfigError(f"{model.init} reads {read} tokens of a reference, not {model.tokens}: {NEXT[read]}")


def check_prediction(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str], model: Model) -> None:
    """ConfigError when model.init says what it was trained to answer, and it is not model.prediction_type."""
    prediction, told_by = families.prediction_type(tensors, metadata, model.init)
    if told_by != families.BY_DEFAULT and prediction != model.prediction_type:
        raise ConfigError(f"{model.init} predicts {prediction}: set model.prediction_type = {prediction!r}.")


def with_autoencoder(tensors: Mapping[str, torch.Tensor], vae: FrozenAutoencoder) -> dict[str, torch.Tensor]:
    """The tensors of a whole model, with this autoencoder in the place of theirs; it leaves the memory as it was."""
    with borrowed(vae):
        others = {k: v for k, v in tensors.items() if not k.startswith(names.VAE)}
        return others | {names.VAE + k: v for k, v in vae.tensors.items()}


NEXT = {
    "local": 'set model.tokens = "local", or start from another file with model.init_from.',
    "cls": 'it is a CLS model, which stage v1 goes on training with model.tokens = "cls".',
}
"""What to do with a file that reads these tokens."""


def drawn_latents(
    moments: torch.Tensor,
    unet: UNet,
    config: Config,
    draws: Draws | None = None,
    scale: float = autoencoder.SCALE,
) -> torch.Tensor:
    """Scaled latents (B, C, h, w) of `Autoencoder.moments`: their means, or samples where data.latents says so."""
    sampled = draws if config.data.latents == "sampled" else None
    # One layout wherever they come from: a convolution's gradient depends on it in the last bits.
    layout = torch.channels_last if config.system.channels_last else torch.contiguous_format
    return autoencoder.latents_of(moments, unet.config.in_channels, sampled, scale).contiguous(memory_format=layout)


def entanglement_curves(
    colorizer: WholeColorizer,
    batch: Batch,
    report: Report,
    draws: Draws,
    mode: str = "vanilla",  # of trainer.models.colorizer.MODES
) -> dict[str, float]:
    """entanglement, structure and leakage of a batch of two or more (see metrics/entanglement.py); nothing without
    report.validate_entanglement. Every sample's reference is the next one's picture, uint8 (B, 3, S, S) as its own."""
    if not report.validate_entanglement:
        return {}
    masks = figure_mask(batch["mask"]) if "mask" in batch else None
    return mean_entanglement(
        colorizer,
        model_sketch(batch["sketch"]),
        next_ones(picture(batch["color"])),
        report.sample_steps,
        report.guidance,
        draws.seed,
        mode,
        masks,
        None if masks is None else next_ones(masks),
    )


def model_markers(prediction: str, heads: int) -> dict[str, torch.Tensor]:
    """Tensors that say what the U-Net predicts ("v" or "eps") and how wide its heads are, where metadata is lost."""
    return {
        names.V_MARKER if prediction == "v" else names.EPS_MARKER: torch.zeros(0),
        names.HEAD_WIDTH: torch.tensor(heads),
    }


def model_header(config: Config, family: str, network: UNetConfig) -> dict[str, str]:
    """Metadata of an exported model of a family ("v1", "v1.5") with a U-Net of these sizes: modelspec, what the nodes
    read, how it is best sampled, the configuration."""
    prediction = config.model.prediction_type
    title, architecture = Path(config.run.output).name, f"colorize-diffusion-{family}"
    sampler = sampler_settings.of_family(network.model_channels < families.SMALL_WIDTH, family in families.XL_NAMES)
    return checkpoint.modelspec(title, architecture, config.data.size, prediction) | {
        "colorize.family": family,
        names.PREDICTION: prediction,
        names.POLARITY: families.SKETCH_POLARITY,
        names.HEAD_WIDTH: str(network.num_head_channels),
        **sampler.header(),
        "colorize.config": json.dumps(config.shareable()),
    }
