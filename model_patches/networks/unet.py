"""The reference-conditioned U-Net in pure torch: the network the trainer trains.

It has the layout and the tensor names of the released v1 checkpoints (`model.diffusion_model.*`): a Stable Diffusion
2.1 U-Net whose cross-attention reads reference tokens and whose attention blocks project with 1x1 convolutions.
ComfyUI runs the same weights through its own U-Net class (model_patches/unet.py); the golden cases hold both to the
same numbers.

Shape legend: B batch, C channels, H W height and width of a feature map, N = H * W image tokens, M reference tokens,
D width of a reference token, E width of the time embedding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from .reference_strength import Place, attention_places
from .region_lora import PROJECTIONS, RegionLinear, rank_of, region_ranks
from .split_attention import Split, split_attention

# The sketch feature k is added after input block HINT_BLOCKS[k] (four levels of two residual blocks each).
HINT_BLOCKS = (0, 3, 6, 9, 11)


@dataclass(frozen=True)
class UNetConfig:
    """Sizes of the U-Net; the defaults are those of the released v1 checkpoints."""

    in_channels: int = 4
    out_channels: int = 4
    model_channels: int = 320  # width of the first level
    channel_mult: tuple[int, ...] = (1, 2, 4, 4)  # width of each level over model_channels
    num_res_blocks: int = 2  # per level
    attention_levels: tuple[int, ...] = (0, 1, 2)  # levels with attention; the middle block always has it
    num_head_channels: int = 64
    context_dim: int = 1024  # D, width of the reference tokens
    # Ranks of the region LoRAs of v1.5, figure and background: whole numbers, or fractions of a layer's smaller side
    # (released: 4 and 0.5); None has none.
    region_ranks: tuple[int | float, int | float] | None = None

    def __post_init__(self):
        for level in (*self.attention_levels, len(self.channel_mult) - 1):
            width = self.model_channels * self.channel_mult[level]
            if width % self.num_head_channels:
                raise ValueError(
                    f"Level {level} has {width} channels, which heads of {self.num_head_channels} do not divide; "
                    "change model_channels, channel_mult or num_head_channels."
                )
        if self.model_channels % 32:
            raise ValueError(
                f"model_channels must be a multiple of 32 (group normalisation), not {self.model_channels}."
            )


def timestep_embedding(timesteps: torch.Tensor, width: int, max_period: float = 10000.0) -> torch.Tensor:
    """[cos(t f), sin(t f)] with f_i = max_period^(-i / (width/2)); t (B,) may be fractional -> (B, width) float32."""
    half = width // 2
    frequencies = torch.exp(
        torch.arange(half, device=timesteps.device, dtype=torch.float32) * (-math.log(max_period) / half)
    )
    angles = timesteps.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class ResBlock(nn.Module):
    """Two convolutions with the time embedding (B, E) added between them."""

    def __init__(self, inputs: int, outputs: int, emb_width: int):
        super().__init__()
        self.in_layers = nn.Sequential(nn.GroupNorm(32, inputs), nn.SiLU(), nn.Conv2d(inputs, outputs, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb_width, outputs))
        # Index 2 is the dropout of the original layout; it has no weights, so the convolution keeps the name 3.
        self.out_layers = nn.Sequential(
            nn.GroupNorm(32, outputs), nn.SiLU(), nn.Identity(), nn.Conv2d(outputs, outputs, 3, padding=1)
        )
        self.skip_connection = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: torch.Tensor, emb: torch.Tensor) -> torch.Tensor:
        h = self.in_layers(x) + self.emb_layers(emb)[:, :, None, None]
        return self.skip_connection(x) + self.out_layers(h)


class Attention(nn.Module):
    """Multi-head attention of x (B, N, C) over context (B, M, D); without context over x itself."""

    def __init__(
        self,
        width: int,
        context_width: int,
        head_width: int,
        ranks: tuple[int | float, int | float] | None = None,  # region LoRAs, see UNetConfig
    ):
        super().__init__()
        self.heads = width // head_width
        for name, inputs in zip(PROJECTIONS, (width, context_width, context_width), strict=True):
            if ranks is None:
                layer: nn.Module = nn.Linear(inputs, width, bias=False)
            else:
                layer = RegionLinear(inputs, width, tuple(rank_of(rank, inputs, width) for rank in ranks))
            self.add_module(name, layer)
        self.to_out = nn.Sequential(nn.Linear(width, width), nn.Identity())

    def forward(self, x: torch.Tensor, context: torch.Tensor | None = None, strength: float = 1.0) -> torch.Tensor:
        context = x if context is None else context
        return self._out(self._attend(self.to_q(x), self.to_k(context), self.to_v(context)), strength)

    def forward_split(
        self,
        x: torch.Tensor,  # (B, N, C)
        split: Split,
        size: tuple[int, int],  # H, W with H * W = N
        strength: float = 1.0,
    ) -> torch.Tensor:
        """Every query over the tokens of its region."""
        return self._out(split_attention(self, x, split, size, self._attend), strength)

    def project(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """The plain projection `name` of PROJECTIONS (see split_attention.Layer)."""
        return getattr(self, name)(x)

    def term(self, name: str, x: torch.Tensor, kind: str | None) -> torch.Tensor | None:
        """The region term beside it, or None (see split_attention.Layer)."""
        layer = getattr(self, name)
        return layer.term(x, kind) if isinstance(layer, RegionLinear) else None

    def _attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        def heads(tokens: torch.Tensor) -> torch.Tensor:
            return tokens.unflatten(-1, (self.heads, -1)).transpose(1, 2)

        return F.scaled_dot_product_attention(heads(q), heads(k), heads(v)).transpose(1, 2).flatten(2)

    def _out(self, attended: torch.Tensor, strength: float) -> torch.Tensor:
        return self.to_out(attended if strength == 1.0 else attended * strength)


class GEGLU(nn.Module):
    """x -> value * gelu(gate), both from one linear layer (Shazeer 2020)."""

    def __init__(self, width: int, outputs: int):
        super().__init__()
        self.proj = nn.Linear(width, outputs * 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.net = nn.Sequential(GEGLU(width, width * 4), nn.Identity(), nn.Linear(width * 4, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)


Guide = torch.Tensor | Split
"""What cross-attention reads: reference tokens (B, M, D) for the whole picture, or tokens split by region."""


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention over the reference tokens, feed-forward; each pre-normalised and residual."""

    def __init__(self, width: int, context_width: int, head_width: int, ranks=None):
        super().__init__()
        self.attn1 = Attention(width, width, head_width)
        self.ff = FeedForward(width)
        self.attn2 = Attention(width, context_width, head_width, ranks)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))

    def forward(self, x: torch.Tensor, guide: Guide, size: tuple[int, int], strength: float) -> torch.Tensor:
        x = x + self.attn1(self.norm1(x))
        if isinstance(guide, Split):
            x = x + self.attn2.forward_split(self.norm2(x), guide, size, strength)
        else:
            x = x + self.attn2(self.norm2(x), guide, strength)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    """A transformer over the pixels of a feature map (B, C, H, W), read row by row."""

    def __init__(self, width: int, context_width: int, head_width: int, ranks=None):
        super().__init__()
        self.norm = nn.GroupNorm(32, width, eps=1e-6)
        self.proj_in = nn.Conv2d(width, width, 1)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(width, context_width, head_width, ranks)])
        self.proj_out = nn.Conv2d(width, width, 1)

    def forward(self, x: torch.Tensor, guide: Guide, strengths: Iterator[float]) -> torch.Tensor:
        height, width = x.shape[-2:]
        tokens = self.proj_in(self.norm(x)).flatten(2).transpose(1, 2)
        for block in self.transformer_blocks:
            tokens = block(tokens, guide, (height, width), next(strengths, 1.0))
        return x + self.proj_out(tokens.transpose(1, 2).unflatten(2, (height, width)))


class Downsample(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.op = nn.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.op(x)


class Upsample(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class Block(nn.Sequential):
    """Layers of one input, middle or output block; each takes what it needs of the arguments."""

    def forward(
        self, x: torch.Tensor, emb: torch.Tensor, guide: Guide, strengths: Sequence[float] = ()
    ) -> torch.Tensor:
        remaining = iter(strengths)  # of this block's attention layers; a fresh one when a block is recomputed
        for layer in self:
            if isinstance(layer, ResBlock):
                x = layer(x, emb)
            elif isinstance(layer, SpatialTransformer):
                x = layer(x, guide, remaining)
            else:
                x = layer(x)
        return x


class UNet(nn.Module):
    """Predicts noise or velocity of a latent from reference tokens and sketch features.

    `gradient_checkpointing` (attribute) recomputes the blocks in the backward pass: about a third more time for a
    fraction of the activation memory.
    """

    def __init__(self, config: UNetConfig, device: torch.device | str | None = None, dtype: torch.dtype | None = None):
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
        with torch.device(device or torch.get_default_device()):
            self._build(config)
        if dtype is not None:
            self.to(dtype)

    def _build(self, config: UNetConfig) -> None:
        base = config.model_channels
        emb_width = base * 4
        widths = [base * mult for mult in config.channel_mult]
        last = len(widths) - 1

        def transformer(width: int) -> SpatialTransformer:
            return SpatialTransformer(width, config.context_dim, config.num_head_channels, config.region_ranks)

        self.time_embed = nn.Sequential(nn.Linear(base, emb_width), nn.SiLU(), nn.Linear(emb_width, emb_width))

        self.input_blocks = nn.ModuleList([Block(nn.Conv2d(config.in_channels, base, 3, padding=1))])
        skips = [base]
        width = base
        for level, outputs in enumerate(widths):
            for _ in range(config.num_res_blocks):
                layers: list[nn.Module] = [ResBlock(width, outputs, emb_width)]
                if level in config.attention_levels:
                    layers.append(transformer(outputs))
                self.input_blocks.append(Block(*layers))
                width = outputs
                skips.append(width)
            if level != last:
                self.input_blocks.append(Block(Downsample(width)))
                skips.append(width)

        self.middle_block = Block(
            ResBlock(width, width, emb_width), transformer(width), ResBlock(width, width, emb_width)
        )

        self.output_blocks = nn.ModuleList()
        for level in range(last, -1, -1):
            outputs = widths[level]
            for index in range(config.num_res_blocks + 1):
                layers = [ResBlock(width + skips.pop(), outputs, emb_width)]
                if level in config.attention_levels:
                    layers.append(transformer(outputs))
                if level and index == config.num_res_blocks:
                    layers.append(Upsample(outputs))
                self.output_blocks.append(Block(*layers))
                width = outputs

        self.out = nn.Sequential(
            nn.GroupNorm(32, width), nn.SiLU(), nn.Conv2d(width, config.out_channels, 3, padding=1)
        )

    def zero_output_layers(self) -> None:
        """Zero the last layer of every residual branch and of the network, the usual start of training."""
        for module in self.modules():
            if isinstance(module, ResBlock):
                layer = module.out_layers[3]
            elif isinstance(module, SpatialTransformer):
                layer = module.proj_out
            elif module is self.out:
                layer = module[2]
            else:
                continue
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    @property
    def attention_places(self) -> tuple[Place, ...]:
        """Where the cross-attention layers stand, in their order."""
        return attention_places(self, SpatialTransformer, Downsample, Upsample)

    def forward(
        self,
        x: torch.Tensor,  # (B, in_channels, H, W) noisy latent, H and W multiples of 2^(levels - 1)
        timesteps: torch.Tensor,  # (B,) steps 0..999, may be fractional
        context: torch.Tensor | None,  # (B, M, D) reference tokens; zeros mean "no reference"; not read with `split`
        control: Sequence[torch.Tensor] | None = None,  # sketch features, shallow to deep
        split: Split | None = None,  # reference tokens by region instead of `context`
        strengths: Sequence[float] | None = None,  # factor of every cross-attention, in the order of attention_places
    ) -> torch.Tensor:
        emb = self.time_embed(timestep_embedding(timesteps, self.config.model_channels).to(x.dtype))
        hints = dict(zip(HINT_BLOCKS, control, strict=True)) if control is not None else {}
        guide = context if split is None else split
        remaining = iter(strengths or ())

        def run(block: Block, h: torch.Tensor) -> torch.Tensor:
            count = sum(isinstance(layer, SpatialTransformer) for layer in block) if strengths else 0
            arguments = (h, emb, guide, [next(remaining) for _ in range(count)])
            if self.gradient_checkpointing and torch.is_grad_enabled():
                return checkpoint(block, *arguments, use_reentrant=False)
            return block(*arguments)

        h, skips = x, []
        for index, block in enumerate(self.input_blocks):
            h = run(block, h)
            if index in hints:
                h = h + hints[index]
            skips.append(h)
        h = run(self.middle_block, h)
        for block in self.output_blocks:
            h = run(block, torch.cat([h, skips.pop()], dim=1))
        return self.out(h)


def unet_config_from_state_dict(
    state_dict: Mapping[str, torch.Tensor], prefix: str = "model.diffusion_model.", num_head_channels: int | None = None
) -> UNetConfig:
    """The sizes of the U-Net whose tensors stand under `prefix`.

    The head width leaves no trace in the shapes; without the argument it is the marker tensor
    `colorize.num_head_channels` of the file, else 64 as in the released checkpoints.
    """
    try:
        first = state_dict[f"{prefix}input_blocks.0.0.weight"]
        last = state_dict[f"{prefix}out.2.weight"]
    except KeyError as missing:
        raise ValueError(f"No U-Net found under {prefix!r}: tensor {missing} is missing.") from None
    if num_head_channels is None:
        marker = state_dict.get("colorize.num_head_channels")
        num_head_channels = 64 if marker is None else int(marker)

    widths: list[int] = []
    blocks_per_level = 0
    attention_levels: list[int] = []
    context_dim = None
    index = 1
    while f"{prefix}input_blocks.{index}.0.in_layers.2.weight" in state_dict:  # one turn per level
        level, blocks_per_level = len(widths), 0
        while (key := f"{prefix}input_blocks.{index}.0.in_layers.2.weight") in state_dict:
            width = state_dict[key].shape[0]
            to_k = state_dict.get(f"{prefix}input_blocks.{index}.1.transformer_blocks.0.attn2.to_k.weight")
            if to_k is not None:
                context_dim = to_k.shape[1]
                if level not in attention_levels:
                    attention_levels.append(level)
            blocks_per_level += 1
            index += 1
        widths.append(width)
        index += 1  # the downsampling block between two levels
    if context_dim is None:
        raise ValueError(f"The U-Net under {prefix!r} has no cross-attention: it cannot take a reference.")
    base = first.shape[0]
    return UNetConfig(
        in_channels=first.shape[1],
        out_channels=last.shape[0],
        model_channels=base,
        channel_mult=tuple(width // base for width in widths),
        num_res_blocks=blocks_per_level,
        attention_levels=tuple(attention_levels),
        num_head_channels=num_head_channels,
        context_dim=context_dim,
        region_ranks=_configured_ranks(state_dict, prefix),
    )


def _configured_ranks(state_dict: Mapping[str, torch.Tensor], prefix: str) -> tuple[int | float, int | float] | None:
    """The `region_ranks` of a configuration that gives the ranks of this file, or None when it has no region LoRA.

    Equal ranks are a whole number; ranks that grow with the layer are a fraction of its smaller side.
    """
    ranks = region_ranks(state_dict, prefix)
    if not ranks:
        return None
    sides = {layer: min(state_dict[f"{prefix}{layer}.weight"].shape) for layer in ranks}

    def configured(kind: int) -> int | float:
        given = {layer: both[kind] for layer, both in ranks.items()}
        if len(set(given.values())) == 1:
            return next(iter(given.values()))
        fraction = max(rank / sides[layer] for layer, rank in given.items())
        if any(rank_of(fraction, sides[layer], sides[layer]) != rank for layer, rank in given.items()):
            raise ValueError(
                f"The region LoRAs under {prefix!r} have ranks {sorted(set(given.values()))}, which are neither one "
                "number nor one fraction of their layers; the file mixes models."
            )
        return fraction

    return configured(0), configured(1)
