"""SmilingWolf's WD tagger with a Swin V2 backbone: a picture to the probabilities of its tags, and to patch features.

The backbone is timm's `swinv2_base_window8_256` at 448 pixels with windows of 14; names as in the published
model.safetensors (timm layout). Sizes come from the tensors, picture and window size from the metadata when the file
has other ones than the published. SDXL models of the family read the features: one token per patch after the last norm.

Below the network: five ways in which applications bring a picture to it; they differ visibly. Pure torch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..pictures.ranges import levels_to_model, model_to_levels, unit_to_model
from ..weight_files import check_fits, count_numbered, metadata_number, reads_strange_sizes

Weights = Mapping[str, torch.Tensor]

IMAGE_SIZE, WINDOW = 448, 14  # pixels; tokens. Of all published Swin V2 taggers
LARGEST_IMAGE = 1024  # pixels; masks of the shifted windows grow with its square
PATCHES = "patch_embed.proj.weight"
PREFIXES = ("", "model.", "img_embedder.model.", "module.")
DERIVED = ("relative_coords_table", "relative_position_index", "attn_mask", "k_bias")  # stored by older timm


# -- the network -------------------------------------------------------------------------------------------------------


class WDTagger(nn.Module):
    """Pictures (B, 3, S, S), BGR in -1..1 -> tokens and logits. Build it with `from_state_dict`, or from sizes."""

    def __init__(
        self,
        classes: int,
        embed_dim: int = 128,
        depths: tuple[int, ...] = (2, 2, 18, 2),
        heads: tuple[int, ...] = (4, 8, 16, 32),
        image_size: int = IMAGE_SIZE,
        window: int = WINDOW,
        patch_size: int = 4,
        mlp_ratio: float = 4.0,
    ) -> None:
        super().__init__()
        from timm.models.swin_transformer_v2 import SwinTransformerV2

        self.image_size = image_size
        self.model = SwinTransformerV2(
            img_size=image_size,
            patch_size=patch_size,
            num_classes=classes,
            embed_dim=embed_dim,
            depths=depths,
            num_heads=heads,
            window_size=window,
            mlp_ratio=mlp_ratio,
            global_pool="avg",
            act_layer="gelu",
        )

    @classmethod
    @reads_strange_sizes("tagger")
    def from_state_dict(cls, state_dict: Weights, metadata: Mapping[str, str] | None = None) -> WDTagger:
        """The network with the sizes and weights of a file, in float32 and eval mode.

        metadata: `colorize.image_size` and `colorize.window_size`, for files that are not of the published size.
        Raises ValueError when it is another network or incomplete.
        """
        own = _own_weights(state_dict)
        blocks: dict[str, set[str]] = {}
        for key in own:
            if match := re.match(r"layers\.(\d+)\.blocks\.(\d+)\.", key):
                blocks.setdefault(match[1], set()).add(match[2])
        levels = range(count_numbered(blocks, "levels of the tagger"))
        patches = own[PATCHES]
        sizes: dict[str, Any] = dict(
            classes=own["head.fc.weight"].shape[0],
            embed_dim=patches.shape[0],
            depths=tuple(count_numbered(blocks[str(n)], f"blocks of the tagger's level {n}") for n in levels),
            heads=tuple(own[f"layers.{level}.blocks.0.attn.logit_scale"].shape[0] for level in levels),
            image_size=metadata_number(metadata, "colorize.image_size", IMAGE_SIZE, 16, LARGEST_IMAGE),
            window=metadata_number(metadata, "colorize.window_size", WINDOW, 1, 64),
            patch_size=patches.shape[-1],
            mlp_ratio=own["layers.0.blocks.0.mlp.fc1.weight"].shape[0] / patches.shape[0],
        )
        check_fits(lambda: cls(**sizes).model, own)
        network = cls(**sizes)
        network.model.load_state_dict({key: own[key].float() for key in network.model.state_dict()})
        return network.requires_grad_(False).eval()

    @property
    def classes(self) -> int:
        """Number of tags."""
        return self.model.num_classes

    def tokens(self, picture: torch.Tensor) -> torch.Tensor:
        """(B, 3, S, S), BGR in -1..1 -> (B, N, D): a token per patch after the last norm (14 x 14 of width 1024)."""
        return self.model.forward_features(picture).flatten(1, 2)

    def logits(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens (B, N, D) -> (B, N, classes); of the mean token (B, 1, D) the logits of the picture."""
        return self.model.head.fc(tokens)

    def forward(self, picture: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, 3, S, S), BGR in -1..1 -> (probabilities (B, classes), tokens (B, N, D))."""
        tokens = self.tokens(picture)
        return torch.sigmoid(self.logits(tokens.mean(dim=1))), tokens


def _own_weights(state_dict: Weights) -> dict[str, torch.Tensor]:
    for prefix in PREFIXES:
        own = {key.removeprefix(prefix): value for key, value in state_dict.items() if key.startswith(prefix)}
        if {PATCHES, "head.fc.weight", "layers.0.blocks.0.attn.logit_scale"} <= own.keys():
            return {key: value for key, value in own.items() if not key.endswith(DERIVED)}
    found = ", ".join(list(state_dict)[:10]) or "nothing"
    raise ValueError(f"There is no Swin V2 tagger in timm's layout in this file; it holds {found}.")


# -- pictures for it ---------------------------------------------------------------------------------------------------


def prepare(colours: torch.Tensor, size: int = IMAGE_SIZE, preparation: str = "author") -> torch.Tensor:
    """Colours (B, 3, H, W) in 0..1, RGB on white -> (B, 3, size, size), BGR in 0..255, as applications feed a tagger.

    "author": the tagger's own demo; white square, bicubic. "xl": the SDXL colouring models; squashed to the square
    (bicubic, corners aligned, antialiased), not clamped. "wd14_node": ComfyUI-WD14-Tagger; longer side to `size`
    (Lanczos), then on a white square. "sd_scripts": kohya's scripts; white square, area when shrinking, Lanczos when
    enlarging. All but "xl" work in whole levels, like Pillow and OpenCV.
    """
    if preparation not in PREPARATIONS:
        raise ValueError(f"preparation is {preparation!r}; choose one of {', '.join(PREPARATIONS)}.")
    return PREPARATIONS[preparation](colours, size).flip(1)


def _author(colours: torch.Tensor, size: int) -> torch.Tensor:
    return _resampled(_white_square(colours * 255), size, size, BICUBIC)


def _squashed(colours: torch.Tensor, size: int) -> torch.Tensor:
    picture = F.interpolate(unit_to_model(colours), (size, size), mode="bicubic", align_corners=True, antialias=True)
    return model_to_levels(picture)


def _wd14_node(colours: torch.Tensor, size: int) -> torch.Tensor:
    height, width = colours.shape[-2:]
    scale = size / max(height, width)
    return _white_square(
        _resampled(colours * 255, max(1, int(height * scale)), max(1, int(width * scale)), LANCZOS), size
    )


def _sd_scripts(colours: torch.Tensor, size: int) -> torch.Tensor:
    square = _white_square(colours * 255)
    if square.shape[-1] <= size:
        return _resampled(square, size, size, LANCZOS)
    weights = _area_weights(square.shape[-1], size).to(square)
    return (weights @ square @ weights.T).round()


PREPARATIONS: dict[str, Callable[[torch.Tensor, int], torch.Tensor]] = {
    "author": _author,
    "xl": _squashed,
    "wd14_node": _wd14_node,
    "sd_scripts": _sd_scripts,
}


def to_network(pixels: torch.Tensor) -> torch.Tensor:
    """What `prepare` answers -> the range of `WDTagger`, -1..1."""
    return levels_to_model(pixels)


def to_onnx(pixels: torch.Tensor) -> torch.Tensor:
    """What `prepare` answers -> the layout of the .onnx files, (B, S, S, 3) in 0..255."""
    return pixels.movedim(1, -1).contiguous()


def _white_square(picture: torch.Tensor, side: int | None = None) -> torch.Tensor:
    """Centred on white, the odd pixel at the right and at the bottom; 0..255."""
    height, width = picture.shape[-2:]
    side = side or max(height, width)
    left, top = (side - width) // 2, (side - height) // 2
    return F.pad(picture, (left, side - width - left, top, side - height - top), value=255.0)


# A resampling filter: (half width in source pixels, weight at a distance).
Filter = tuple[float, Callable[[torch.Tensor], torch.Tensor]]


def _cubic(x: torch.Tensor, a: float = -0.5) -> torch.Tensor:
    x = x.abs()
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def _lanczos(x: torch.Tensor) -> torch.Tensor:
    return torch.where(x.abs() < 3, torch.sinc(x) * torch.sinc(x / 3), torch.zeros_like(x))


BICUBIC: Filter = (2.0, _cubic)
LANCZOS: Filter = (3.0, _lanczos)


def _resampled(picture: torch.Tensor, height: int, width: int, kernel: Filter) -> torch.Tensor:
    """(B, C, H, W) in 0..255 by a separable antialiased filter, whole levels after each direction.

    Across first, as Pillow 12 does (the recorded numbers); Pillow 13 may go the other way, which matters where an
    intermediate value is clipped.
    """
    source_height, source_width = picture.shape[-2:]
    if source_width != width:
        picture = (picture @ _filter_weights(source_width, width, kernel).to(picture).T).round().clamp(0, 255)
    if source_height != height:
        picture = (_filter_weights(source_height, height, kernel).to(picture) @ picture).round().clamp(0, 255)
    return picture.round()


def _filter_weights(source: int, target: int, kernel: Filter) -> torch.Tensor:
    """(target, source): share of each source pixel in each target pixel; the filter widens when shrinking."""
    reach, weight = kernel
    scale = source / target
    widening = max(1.0, scale)
    centres = (torch.arange(target, dtype=torch.float64)[:, None] + 0.5) * scale
    places = torch.arange(source, dtype=torch.float64)[None] + 0.5
    weights = weight((places - centres) / widening)
    weights = weights * ((places - centres).abs() <= math.ceil(reach * widening))
    return weights / weights.sum(dim=1, keepdim=True)


def _area_weights(source: int, target: int) -> torch.Tensor:
    """(target, source): how much of each target pixel each source pixel covers."""
    scale = source / target
    starts = torch.arange(target, dtype=torch.float64)[:, None] * scale
    places = torch.arange(source, dtype=torch.float64)[None]
    return (torch.minimum(places + 1, starts + scale) - torch.maximum(places, starts)).clamp(min=0) / scale
