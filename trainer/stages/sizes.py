"""Sizes of a colouriser's U-Net that starts from random weights, looked at before anything is built."""

from __future__ import annotations

from colorize.unet.config import UNetConfig
from trainer.config import Config, ConfigError

GROUPS = 32  # of the group normalisation


def is_xl(config: Config) -> bool:
    """Whether the model of a run is one of XL: only that reads a second tower, which model.tagger names."""
    return config.run.stage.startswith("xl") or bool(config.model.tagger)


def v1_sizes(config: Config, context_dim: int = 1024) -> UNetConfig:
    """Of stage v1; context_dim: width of the reference tokens. Raises ValueError."""
    model = config.model
    return UNetConfig(
        model_channels=model.model_channels,
        channel_mult=model.channel_mult,
        num_head_channels=model.num_head_channels,
        context_dim=context_dim,
    )


def xl_sizes(config: Config) -> UNetConfig:
    """Of stage xl, as far as the configuration says them. Raises ValueError."""
    model = config.model
    return UNetConfig(
        model_channels=model.model_channels,
        channel_mult=model.channel_mult,
        attention_levels=tuple(level for level, depth in enumerate(model.transformer_depth) if depth),
        num_head_channels=model.num_head_channels,
        context_dim=model.token_width,
        transformer_depth=model.transformer_depth,
        linear_projections=True,
    )


def check_lowest_level(config: Config, sizes: UNetConfig) -> None:
    """ConfigError where the lowest level has one value to normalise: torch refuses that in the middle of a step."""
    pixels = (config.data.crop or config.data.size) // 8 >> (len(sizes.channel_mult) - 1)
    channels = sizes.model_channels * sizes.channel_mult[-1]
    if max(1, pixels) ** 2 * config.optimizer.batch * (channels // GROUPS) > 1:
        return
    raise ConfigError(
        f"Pictures of {config.data.crop or config.data.size} pixels are one pixel of {channels} channels on the lowest "
        f"of {len(sizes.channel_mult)} levels, and a batch of 1 leaves nothing to normalise there: set data.size or "
        "optimizer.batch to more, or give the last number of model.channel_mult more."
    )
