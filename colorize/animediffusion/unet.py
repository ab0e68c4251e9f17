"""The noise predictor of AnimeDiffusion, with the tensor names of the released trainer's checkpoints (`denoise_fn.*`).

A U-Net in pixels. Its input is the noisy colour picture, the line drawing and the reference, stacked along the
channels in this order, all in -1..1, the drawing black (-1) on white (+1); its answer is the noise in the colours.
Attention stands only in the bottleneck, as in the released code. The paper's Fig. 2 draws an attention block after the
residual blocks of deeper levels, too, in encoder and decoder: `attention_levels`.

Shape legend: B batch, C channels, H W height and width in pixels, N = H * W of a feature map, E width of the time
embedding.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .. import names
from ..unet.layers import set_to_zero, timestep_embedding
from ..weight_files import reads_strange_sizes
from .markers import DEFAULT_HEADS, HEADS_MARKER, STEPS_MARKER

MAX_PERIOD = 1000.0
"""Longest period of the time embedding; most diffusion networks have 10000."""
GROUPS = 32
"""Groups of every normalisation: all widths are multiples of this."""
NETWORK_PREFIXES = ("denoise_fn.", names.UNET, "")
"""Where the network stands in a file: the released trainer's (and ours), one saved by ComfyUI, a bare one."""
SCHEDULE_BUFFERS = (
    "gammas",
    "sqrt_reciprocal_gammas",
    "sqrt_reciprocal_gammas_m1",
    "posterior_variance",
    "posterior_log_variance",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
)


@dataclass(frozen=True)
class AnimeUNetConfig:
    """Sizes of the network; the defaults are those of the published configuration (52 M parameters)."""

    in_channels: int = 7  # 3 noisy colours, 1 line drawing, 3 reference
    out_channels: int = 3
    channels: int = 64  # width of the first level
    channel_mult: tuple[int, ...] = (1, 2, 4, 8)  # width of each level over `channels`
    residual_blocks: int = 2  # per level
    attention_heads: int = 4
    attention_levels: tuple[int, ...] = ()  # levels (0: full size) whose residual blocks are followed by attention
    cbam: bool = False  # channel and spatial attention in the decoder (class default of the released code: on)
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if not self.channel_mult or self.channel_mult[0] != 1:
            raise ValueError(
                f"channel_mult must begin with 1 (the output layer has that width), not {self.channel_mult}."
            )
        if self.channels < GROUPS or self.channels % GROUPS:
            raise ValueError(f"channels must be a multiple of {GROUPS} (group normalisation), not {self.channels}.")
        if self.residual_blocks < 1:
            raise ValueError(f"residual_blocks must be at least 1, not {self.residual_blocks}.")
        if wrong := [level for level in self.attention_levels if not 0 <= level < len(self.channel_mult)]:
            raise ValueError(f"attention_levels names level {wrong[0]}; there are 0 to {len(self.channel_mult) - 1}.")
        for width in (self.widths[-1], *(self.widths[level] for level in self.attention_levels)):
            if self.attention_heads < 1 or width % self.attention_heads:
                raise ValueError(
                    f"{self.attention_heads} attention heads do not divide a level's {width} channels; change "
                    "attention_heads, channels, channel_mult or attention_levels."
                )

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, from the full size down."""
        return tuple(self.channels * factor for factor in self.channel_mult)

    @property
    def multiple(self) -> int:
        """Height and width of a picture must be multiples of this."""
        return 2 ** (len(self.channel_mult) - 1)


def time_features(t: torch.Tensor, width: int) -> torch.Tensor:
    """Steps (B,), which may be fractional -> (B, width) float32: cosines, then sines, then a zero if width is odd."""
    return F.pad(timestep_embedding(t, width, MAX_PERIOD), (0, width % 2))


class ChannelAttention(nn.Module):
    """Factor 0..1 per channel, from the largest and the mean value of the map (CBAM, Woo et al. 2018, eq. 2)."""

    def __init__(self, channels: int, operations: Any = nn, **options: Any) -> None:
        super().__init__()
        self.fc = nn.Sequential(
            operations.Linear(channels, channels // 16, bias=False, **options),
            nn.ReLU(),
            operations.Linear(channels // 16, channels, bias=False, **options),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, C, 1, 1)."""
        return torch.sigmoid(self.fc(x.amax(dim=(2, 3))) + self.fc(x.mean(dim=(2, 3))))[:, :, None, None]


class SpatialAttention(nn.Module):
    """Factor 0..1 per pixel, from the largest and the mean value over the channels (CBAM, eq. 3)."""

    def __init__(self, operations: Any = nn, **options: Any) -> None:
        super().__init__()
        self.conv = operations.Conv2d(2, 1, 7, padding=3, bias=False, **options)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, 1, H, W)."""
        return torch.sigmoid(self.conv(torch.cat([x.amax(dim=1, keepdim=True), x.mean(dim=1, keepdim=True)], dim=1)))


class CBAM(nn.Module):
    """Channel attention, then spatial attention."""

    def __init__(self, channels: int, operations: Any = nn, **options: Any) -> None:
        super().__init__()
        self.channel_attention = ChannelAttention(channels, operations, **options)
        self.spatial_attention = SpatialAttention(operations, **options)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x * self.channel_attention(x)
        return x * self.spatial_attention(x)


class ResidualBlock(nn.Module):
    """Two convolutions; the time embedding (B, E) is added between them, or nothing when it is None. With `heads` a
    block of self-attention follows."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        time_width: int,
        dropout: float,
        cbam: bool = False,
        heads: int = 0,
        operations: Any = nn,
        **options: Any,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(
            operations.GroupNorm(GROUPS, inputs, **options),
            nn.SiLU(),
            operations.Conv2d(inputs, outputs, 3, padding=1, **options),
        )
        self.time_emb = nn.Sequential(nn.SiLU(), operations.Linear(time_width, outputs, **options))
        self.attention = nn.Sequential(CBAM(outputs, operations, **options)) if cbam else None
        self.conv2 = nn.Sequential(
            operations.GroupNorm(GROUPS, outputs, **options),
            nn.SiLU(),
            nn.Dropout(dropout),
            operations.Conv2d(outputs, outputs, 3, padding=1, **options),
        )
        self.skip_connection = operations.Conv2d(inputs, outputs, 1, **options) if inputs != outputs else None
        self.self_attention = AttentionBlock(outputs, heads, operations, **options) if heads else None

    def forward(self, x: torch.Tensor, time: torch.Tensor | None) -> torch.Tensor:
        h = self.conv1(x)
        if time is not None:
            h = h + self.time_emb(time)[:, :, None, None]
        if self.attention is not None:
            h = self.attention(h)
        h = self.conv2(h) + (x if self.skip_connection is None else self.skip_connection(x))
        return h if self.self_attention is None else self.self_attention(h)


class AttentionBlock(nn.Module):
    """Self-attention over all pixels, added to the input; no projection of the answer."""

    def __init__(self, channels: int, heads: int, operations: Any = nn, **options: Any) -> None:
        super().__init__()
        self.heads = heads
        self.attention = nn.Sequential(
            operations.GroupNorm(GROUPS, channels, **options), operations.Conv1d(channels, 3 * channels, 1, **options)
        )

    def forward(self, x: torch.Tensor, time: torch.Tensor | None = None) -> torch.Tensor:
        """(B, C, H, W) -> the same shape. time is not read; the bottleneck's blocks are called alike."""
        flat = x.flatten(2)
        qkv = self.attention(flat).unflatten(1, (3, self.heads, -1)).transpose(-2, -1)  # (B, 3, heads, N, C / heads)
        answer = F.scaled_dot_product_attention(*(part.contiguous() for part in qkv.unbind(1)))
        return (flat + answer.transpose(-2, -1).reshape(flat.shape)).view(x.shape)


class Up(nn.Sequential):
    """A residual block, then twice the size by repeating pixels."""

    def forward(  # type: ignore[override]  # a sequence by its tensors' names only
        self, x: torch.Tensor, time: torch.Tensor | None
    ) -> torch.Tensor:
        return F.interpolate(self[0](x, time), scale_factor=2.0, mode="nearest")


class Down(nn.AvgPool2d):
    """Half the size by averaging 2x2 pixels. time is not read."""

    def forward(self, x: torch.Tensor, time: torch.Tensor | None = None) -> torch.Tensor:
        return super().forward(x)


class AnimeUNet(nn.Module):
    """Noise predictor: (B, in_channels, H, W) and steps (B,) -> (B, out_channels, H, W).

    H and W must be multiples of `config.multiple`. operations supplies the layers; ComfyUI passes its casting ones.
    """

    def __init__(
        self,
        config: AnimeUNetConfig | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        operations: Any = nn,
    ) -> None:
        super().__init__()
        self.config = config = config or AnimeUNetConfig()
        options = dict(operations=operations, device=device, dtype=dtype)
        layer = dict(device=device, dtype=dtype)
        time_width = 4 * config.channels

        def residual(inputs: int, outputs: int, cbam: bool = False, level: int | None = None) -> ResidualBlock:
            heads = config.attention_heads if level in config.attention_levels else 0
            return ResidualBlock(inputs, outputs, time_width, config.dropout, cbam, heads, **options)

        self.time_embedding = nn.Sequential(
            operations.Linear(config.channels, time_width, **layer),
            nn.SiLU(),
            operations.Linear(time_width, time_width, **layer),
        )
        self.input = nn.Sequential(operations.Conv2d(config.in_channels, config.channels, 1, **layer))

        self.encoder_block = nn.ModuleList()
        width, skips = config.channels, []
        for level, outputs in enumerate(config.widths):
            for _ in range(config.residual_blocks):
                self.encoder_block.append(residual(width, outputs, level=level))
                width = outputs
                skips.append(width)
            if level + 1 < len(config.widths):
                self.encoder_block.append(Down(2))
                skips.append(width)

        self.bottom_block = nn.ModuleList(
            [residual(width, width), AttentionBlock(width, config.attention_heads, **options), residual(width, width)]
        )

        self.decoder_block = nn.ModuleList()
        for level, outputs in reversed(list(enumerate(config.widths))):
            for _ in range(config.residual_blocks):
                self.decoder_block.append(residual(width + skips.pop(), outputs, config.cbam, level))
                width = outputs
            if level > 0:
                self.decoder_block.append(Up(residual(width + skips.pop(), outputs)))

        self.output = nn.Sequential(
            operations.GroupNorm(GROUPS, config.channels, **layer),
            nn.SiLU(),
            operations.Conv2d(config.channels, config.out_channels, 1, **layer),
        )

    def forward(self, x: torch.Tensor, t: torch.Tensor | None = None) -> torch.Tensor:
        """x: pictures and conditions. t: steps 0..999, may be fractional; None leaves every time term out, as one call
        of the released code does (see sampling.deterministic_forward)."""
        time = None
        if t is not None:
            time = self.time_embedding(time_features(t, self.config.channels).to(x.dtype))
        h, skips = self.input(x), []
        for block in self.encoder_block:
            h = block(h, time)
            skips.append(h)
        for block in self.bottom_block:
            h = block(h, time)
        for block in self.decoder_block:
            h = block(torch.cat([h, skips.pop()], dim=1), time)
        return self.output(h)

    def zero_output(self) -> None:
        """Set the last convolution to zero: an untrained network answers no noise, and the first steps stay calm."""
        set_to_zero(self.output[2])


# -- files -------------------------------------------------------------------------------------------------------------


def network_prefix(keys: Mapping[str, object]) -> str | None:
    """The prefix before the network's names in a checkpoint (with or without `module.`), or None when it has none."""
    for wrapper in ("", "module."):
        for prefix in NETWORK_PREFIXES:
            if f"{wrapper}{prefix}encoder_block.0.conv1.2.weight" in keys:
                return wrapper + prefix
    return None


def network_tensors(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The network's tensors by bare names, from any layout `network_prefix` knows; the schedule's buffers are left out.

    Raises ValueError when there is no AnimeDiffusion network.
    """
    prefix = network_prefix(tensors)
    if prefix is None:
        first = ", ".join(sorted(tensors)[:10]) or "none"
        raise ValueError(
            "There is no AnimeDiffusion network: no name ends in encoder_block.0.conv1.2.weight under any of the known "
            f"prefixes {', '.join(map(repr, NETWORK_PREFIXES))}. First names: {first}."
        )
    return {
        key.removeprefix(prefix): value
        for key, value in tensors.items()
        if key.startswith(prefix) and key.removeprefix(prefix) not in (*SCHEDULE_BUFFERS, HEADS_MARKER, STEPS_MARKER)
    }


def config_from_tensors(tensors: Mapping[str, torch.Tensor], attention_heads: int = DEFAULT_HEADS) -> AnimeUNetConfig:
    """Sizes from bare names and shapes. attention_heads: in no tensor; 4 in every published configuration.

    Raises ValueError, naming the tensor, when the names do not form this network.
    """
    try:
        channels, in_channels = tensors["input.0.weight"].shape[:2]
        out_channels = tensors["output.2.weight"].shape[0]
        found = (re.match(r"encoder_block\.(\d+)\.conv1\.2\.weight$", key) for key in tensors)
        residual = sorted(int(match[1]) for match in found if match and len(match[1]) < 6)
        # Numbers without tensors are the poolings: one after each level but the last.
        levels = residual[-1] + 1 - len(residual) + 1
        if levels > len(residual):  # every level has a residual block
            raise ValueError(f"The AnimeDiffusion network has blocks numbered up to {residual[-1]}, with gaps.")
        per_level, rest = divmod(len(residual), levels)
        widths = [
            tensors[f"encoder_block.{level * (per_level + 1)}.conv1.2.weight"].shape[0] for level in range(levels)
        ]
    except (KeyError, IndexError) as error:
        raise ValueError(f"The AnimeDiffusion network is incomplete: {error} is missing.") from None
    if rest or any(width % channels for width in widths):
        raise ValueError(
            f"The AnimeDiffusion network has {len(residual)} residual blocks on {levels} levels of widths {widths}, "
            "which is no layout of this family."
        )
    return AnimeUNetConfig(
        in_channels=int(in_channels),
        out_channels=int(out_channels),
        channels=int(channels),
        channel_mult=tuple(int(width // channels) for width in widths),
        residual_blocks=per_level,
        attention_heads=attention_heads,
        attention_levels=tuple(
            level
            for level in range(levels)
            if f"encoder_block.{level * (per_level + 1)}.self_attention.attention.1.weight" in tensors
        ),
        cbam=any(".channel_attention." in key for key in tensors),
    )


def check_names(given: Mapping[str, torch.Tensor], network: AnimeUNet) -> None:
    """ValueError unless bare names are exactly those of the network."""
    wanted = network.state_dict().keys()
    if given.keys() != wanted:
        wrong = sorted(wanted - given.keys()) or sorted(given.keys() - wanted)
        kind = "lacks" if wanted - given.keys() else "has unknown"
        raise ValueError(f"The AnimeDiffusion network {kind} {len(wrong)} tensors, for example {', '.join(wrong[:3])}.")


@reads_strange_sizes("AnimeDiffusion network")
def load_network(
    tensors: Mapping[str, torch.Tensor], attention_heads: int = DEFAULT_HEADS, dropout: float = 0.0
) -> AnimeUNet:
    """The network of a checkpoint in any known layout, with its weights (strict), in the file's precision."""
    weights = network_tensors(tensors)
    config = replace(config_from_tensors(weights, attention_heads), dropout=dropout)
    network = AnimeUNet(config, device="meta")
    check_names(weights, network)
    network.load_state_dict(weights, assign=True)
    return network.eval()
