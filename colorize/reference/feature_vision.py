"""A small reference encoder that knows things: a vision tower that also reads features of a pretrained network.

The tower sees the picture's patches, so it keeps exact colours (*which* colour); the features come from an EfficientNet
trained on photographs, so they say what a place shows (*what* it is). They are projected and added to the tower's patch
embedding, before its transformer blocks. Frozen photographic features alone lose the hue of drawings; the tower alone
has never seen anything but its training set.

Names of tensors: visual.* (the tower, as in vision.py), knowledge.* (the projection), features.* (the network, batch
norms folded into its convolutions). EfficientNet: Tan and Le 2019; "lite0" has ReLU6 and no squeeze and excitation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..pictures.ranges import unit_to_model
from .vision import CLIP_MEAN, CLIP_STD, ReferenceEncoder

MARK = "knowledge.weight"
"""A tensor name that only files of this encoder have."""
STEM = 32
# kernel, stride, expansion, channels, blocks of each stage of EfficientNet-B0.
STAGES = ((3, 1, 1, 16, 1), (3, 2, 6, 24, 2), (5, 2, 6, 40, 2), (3, 2, 6, 80, 3), (5, 1, 6, 112, 3), (5, 2, 6, 192, 4),
          (3, 1, 6, 320, 1))  # fmt: skip
TAPS = (4, 6)
"""Stages whose answers are read: 1/16 and 1/32 of the picture's side."""
WIDTH = sum(STAGES[stage][3] for stage in TAPS)
STRIDE = 16  # pixels of the picture per token and side; the tower reads the picture at half its size
EPSILON = 1e-3  # of the published batch norms


class SameConv(nn.Conv2d):
    """A convolution padded so that the answer has 1 / stride of the input's side, more below and right (TensorFlow)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pads = []
        for side, kernel, stride in zip(x.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1]):
            pad = max((-(-side // stride) - 1) * stride + kernel - side, 0)
            pads += [pad // 2, pad - pad // 2]
        return self._conv_forward(F.pad(x, pads), self.weight, self.bias)


class InvertedBlock(nn.Module):
    """Widen, convolve every channel by itself, narrow; with the input added where sizes agree."""

    def __init__(self, inner: int, outer: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inner * expansion
        self.expand = nn.Conv2d(inner, wide, 1) if expansion > 1 else None
        self.depth = SameConv(wide, wide, kernel, stride, groups=wide)
        self.project = nn.Conv2d(wide, outer, 1)
        self.adds = stride == 1 and inner == outer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = x if self.expand is None else F.relu6(self.expand(x))
        answer = self.project(F.relu6(self.depth(wide)))
        return x + answer if self.adds else answer


class EfficientNetLite(nn.Module):
    """EfficientNet-lite0 without its head: picture (B, 3, H, W) in [-1, 1] -> the answers of the stages of TAPS."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = SameConv(3, STEM, 3, 2)
        blocks, width, self._ends = [], STEM, []
        for kernel, stride, expansion, channels, count in STAGES:
            for number in range(count):
                blocks.append(InvertedBlock(width, channels, kernel, stride if number == 0 else 1, expansion))
                width = channels
            self._ends.append(len(blocks) - 1)
        self.blocks = nn.ModuleList(blocks)

    def forward(self, picture: torch.Tensor) -> list[torch.Tensor]:
        x, taps = F.relu6(self.stem(picture)), []
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number in (self._ends[stage] for stage in TAPS):
                taps.append(x)
        return taps


class FeatureReferenceEncoder(ReferenceEncoder):
    """A tower of `image_size` pixels that reads the features of the same picture at twice that size.

    `image_size` of the whole is twice the tower's: the square that `preprocess` makes and `tokens` reads. Any other
    size with sides that are multiples of 32 gives one token per 16 x 16 pixels.
    """

    def __init__(self, tower_size: int, patch_size: int, width: int, *sizes: Any, **options: Any) -> None:
        if patch_size * 2 != STRIDE:
            raise ValueError(f"A tower with features has patches of {STRIDE // 2} pixels, not {patch_size}.")
        super().__init__(tower_size, patch_size, width, *sizes, **options)
        self.image_size = 2 * tower_size
        with torch.device(options.get("device") or torch.get_default_device()):
            self.features = EfficientNetLite().requires_grad_(False)
            self.knowledge = nn.Linear(WIDTH, width)
        if options.get("dtype") is not None:
            self.to(options["dtype"])

    def working_values(self) -> int:
        """As for the tower, or what the network's widest layer reads and answers."""
        wide = STEM // 2 * STAGES[1][2] * (self.image_size // 2) ** 2
        return max(super().working_values(), 2 * wide)

    def known(self, pixels: torch.Tensor) -> torch.Tensor:
        """CLIP pixels (B, 3, H, W) -> features (B, H/16 * W/16, WIDTH), each stage's brought to mean 0, deviation 1."""
        mean, std = (pixels.new_tensor(values).view(1, 3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
        fine, coarse = self.features(unit_to_model(pixels * std + mean))
        coarse = F.interpolate(coarse, fine.shape[-2:], mode="bilinear", align_corners=False)
        rows = (tap.flatten(2).transpose(1, 2) for tap in (fine, coarse))
        return torch.cat([F.layer_norm(row, row.shape[-1:]) for row in rows], -1)

    def tokens(self, pixels: torch.Tensor, scale: int = 1) -> torch.Tensor:
        """CLIP pixels (B, 3, H, W) -> tokens (B, 1 + H/16 * W/16, D); `scale` is what the size says."""
        visual, size = self.visual, (pixels.shape[-2] // STRIDE, pixels.shape[-1] // STRIDE)
        with torch.no_grad():
            known = self.known(pixels)
        patches = visual.conv1(F.avg_pool2d(pixels, 2)).flatten(2).transpose(1, 2) + self.knowledge(known)
        first = visual.class_embedding.to(patches.dtype).expand(len(patches), 1, -1)
        positions = resized_positions(visual.positional_embedding, size).to(patches.dtype)
        x = visual.transformer(visual.ln_pre(torch.cat([first, patches], 1) + positions))
        return visual.ln_post(x) @ visual.proj


def resized_positions(positions: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Positional embedding (1 + g*g, W) -> (1 + h*w, W), bicubic; as it is where the size is g x g."""
    grid = round((len(positions) - 1) ** 0.5)
    if size == (grid, grid):
        return positions
    table = positions[1:].T.reshape(1, -1, grid, grid).float()
    table = F.interpolate(table, size, mode="bicubic", align_corners=False).flatten(2)[0].T
    return torch.cat([positions[:1], table.to(positions.dtype)])


def fold(published: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The published tensors of EfficientNet-lite0 -> those of `EfficientNetLite`, batch norms folded into convolutions.

    Reads the PyTorch layout (`_conv_stem`, `_blocks.N._expand_conv`, ...). Raises ValueError for another network.
    """

    def joined(convolution: str, norm: str) -> tuple[torch.Tensor, torch.Tensor]:
        gain = published[f"{norm}.weight"] / (published[f"{norm}.running_var"] + EPSILON).sqrt()
        bias = published[f"{norm}.bias"] - published[f"{norm}.running_mean"] * gain
        return published[f"{convolution}.weight"] * gain.view(-1, 1, 1, 1), bias

    folded = {}
    network = EfficientNetLite()
    try:
        pairs = {"stem": ("_conv_stem", "_bn0")}
        for number, block in enumerate(network.blocks):
            root = f"_blocks.{number}."
            layers = (("expand", "_expand_conv", "_bn0"), ("depth", "_depthwise_conv", "_bn1"))
            for ours, theirs, norm in (*layers, ("project", "_project_conv", "_bn2")):
                if getattr(block, ours) is not None:
                    pairs[f"blocks.{number}.{ours}"] = root + theirs, root + norm
        for ours, (convolution, norm) in pairs.items():
            folded[f"{ours}.weight"], folded[f"{ours}.bias"] = joined(convolution, norm)
        network.load_state_dict(folded)
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"This is no EfficientNet-lite0 in its PyTorch layout: {error}") from None
    return folded


def with_features(tower: Mapping[str, torch.Tensor], published: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors of a plain tower (open_clip's names, no prefix) and of EfficientNet-lite0 -> those of a whole encoder.

    The projection starts at zero: at first the encoder answers what the tower answers.
    """
    width = len(tower["class_embedding"])
    whole = {f"visual.{name}": value for name, value in tower.items()}
    whole |= {f"features.{name}": value for name, value in fold(published).items()}
    return whole | {"knowledge.weight": torch.zeros(width, WIDTH), "knowledge.bias": torch.zeros(width)}
