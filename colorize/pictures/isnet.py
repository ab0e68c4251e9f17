"""ISNet, the network behind anime character masks: nested U blocks, one mask per level, the finest one is the answer.

The architecture is that of dichotomous image segmentation (Qin et al. 2022, "Highly accurate dichotomous image
segmentation"), the weights are SkyTNT's anime-segmentation (isnetis) and the same network trained on drawings
(sketch-segment); tensor names as in those files. Widths are read from the tensors. Computed in float32: in half
precision the network is known to answer NaN. Pure torch.

Below the network: what goes into it and comes out of it as its author does it, and the same for RMBG-2.0 and BiRefNet.
The routes of the released colouring application are in masks.py.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import nn

from ..weight_files import reads_strange_sizes
from .masks import WORKING_SIZE, Network, binary, dilate
from .ranges import model_to_unit

Weights = Mapping[str, torch.Tensor]

LEVELS = 6
STAGES = {"1": 7, "2": 6, "3": 5, "4": 4, "5": 0, "6": 0, "5d": 0, "4d": 4, "3d": 5, "2d": 6, "1d": 7}
"""Depth of the block of each stage; 0 = the flat block with growing dilations."""
FLAT_DILATIONS = (1, 2, 4, 8)

PREFIXES = ("", "net.", "module.", "module.net.")  # bare, in the author's training file, after distributed training

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


# -- the network -------------------------------------------------------------------------------------------------------


class Unit(nn.Module):
    """3x3 convolution, batch normalisation, ReLU; size unchanged."""

    def __init__(self, inputs: int, outputs: int, dilation: int = 1) -> None:
        super().__init__()
        self.conv_s1 = nn.Conv2d(inputs, outputs, 3, padding=dilation, dilation=dilation)
        self.bn_s1 = nn.BatchNorm2d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.bn_s1(self.conv_s1(x)))


class NestedU(nn.Module):
    """A U-Net as a block: a first unit, `depth` units down, depth - 1 up again, plus the first unit's answer.

    Between units on the way down the size is halved (rounded up), except before the last one, which is dilated. With
    depth 0 the block is flat: four units of growing dilation, no change of size (RSU4F).
    """

    def __init__(self, depth: int, inputs: int, middle: int, outputs: int) -> None:
        super().__init__()
        self.flat = depth == 0
        depth = depth or len(FLAT_DILATIONS)
        dilations = FLAT_DILATIONS if self.flat else (*[1] * (depth - 1), 2)
        self.depth = depth
        self.rebnconvin = Unit(inputs, outputs)
        for number, dilation in enumerate(dilations, start=1):
            width = outputs if number == 1 else middle
            self.add_module(f"rebnconv{number}", Unit(width, middle, dilation))
        for number in range(depth - 1, 0, -1):
            dilation = dilations[number - 1] if self.flat else 1
            self.add_module(f"rebnconv{number}d", Unit(2 * middle, outputs if number == 1 else middle, dilation))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = x = self.rebnconvin(x)
        down = []
        for number in range(1, self.depth + 1):
            if not self.flat and 1 < number < self.depth:
                x = _halved(x)
            x = self.get_submodule(f"rebnconv{number}")(x)
            down.append(x)
        for number in range(self.depth - 1, 0, -1):
            partner = down[number - 1]
            x = self.get_submodule(f"rebnconv{number}d")(torch.cat([_as_large_as(x, partner), partner], dim=1))
        return x + first


class ISNet(nn.Module):
    """Pictures (B, 3, H, W) of any size -> masks. Build it with `ISNet.from_state_dict`, or from the published widths.

    widths: stage -> (middle, outputs); what goes in follows from the stages before.
    """

    def __init__(self, widths: Mapping[str, tuple[int, int]] | None = None, stem: int = 64) -> None:
        super().__init__()
        widths = widths or PUBLISHED_WIDTHS
        self.conv_in = nn.Conv2d(3, stem, 3, stride=2, padding=1)
        inputs = stem
        for name, depth in STAGES.items():
            middle, outputs = widths[name]
            if name.endswith("d"):
                inputs += widths[name.rstrip("d")][1]  # of the stage on the same level, from the way down
            self.add_module(f"stage{name}", NestedU(depth, inputs, middle, outputs))
            inputs = outputs
        for level in range(1, LEVELS + 1):
            source = f"{level}d" if level < LEVELS else f"{level}"
            self.add_module(f"side{level}", nn.Conv2d(widths[source][1], 1, 3, padding=1))

    @classmethod
    @reads_strange_sizes("ISNet")
    def from_state_dict(cls, state_dict: Weights) -> ISNet:
        """The network with the sizes and weights of a file, in float32 and eval mode.

        Known layouts: bare names, `net.` (author's file; its ground truth encoder is left aside), `module.`. Raises
        ValueError when it is another network or incomplete.
        """
        own = _own_weights(state_dict)
        widths = {}
        for name in STAGES:
            middle, outputs = (own.get(f"stage{name}.{unit}.conv_s1.weight") for unit in ("rebnconv1", "rebnconvin"))
            if middle is None or outputs is None:
                raise ValueError(f"The ISNet in this file is incomplete: stage{name} is missing.")
            widths[name] = (middle.shape[0], outputs.shape[0])
        with torch.device("meta"):
            network = cls(widths, stem=own["conv_in.weight"].shape[0])
        expected = network.state_dict()
        weights = {k: v if k.endswith("num_batches_tracked") else v.float() for k, v in own.items() if k in expected}
        # Files made for inference only may lack the batch counters, which inference does not read.
        weights |= {k: torch.tensor(0) for k in expected.keys() - own.keys() if k.endswith("num_batches_tracked")}
        if missing := sorted(expected.keys() - weights.keys()):
            raise ValueError(f"The ISNet in this file lacks {len(missing)} tensors, for example {missing[0]}.")
        for key, value in expected.items():
            if value.shape != weights[key].shape:
                raise ValueError(
                    f"{key} has the shape {tuple(weights[key].shape)}, expected {tuple(value.shape)} for the widths of "
                    "this file."
                )
        network.load_state_dict(weights, assign=True)
        return network.requires_grad_(False).eval()

    def logits(self, picture: torch.Tensor) -> list[torch.Tensor]:
        """Picture (B, 3, H, W) -> six masks before the sigmoid (B, 1, H, W), finest first."""
        down = [self.get_submodule("stage1")(self.conv_in(picture))]
        for level in range(2, LEVELS + 1):
            down.append(self.get_submodule(f"stage{level}")(_halved(down[-1])))
        features = [down[-1]]
        for level in range(LEVELS - 1, 0, -1):
            partner = down[level - 1]
            joined = torch.cat([_as_large_as(features[0], partner), partner], dim=1)
            features.insert(0, self.get_submodule(f"stage{level}d")(joined))
        return [self._side(level, answer, picture) for level, answer in enumerate(features, start=1)]

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        """Picture (B, 3, H, W), in the range its route gives it -> figure (B, 1, H, W) in 0..1."""
        return torch.sigmoid(self.logits(picture)[0])

    def _side(self, level: int, features: torch.Tensor, picture: torch.Tensor) -> torch.Tensor:
        return _as_large_as(self.get_submodule(f"side{level}")(features), picture)


PUBLISHED_WIDTHS = {
    "1": (32, 64), "2": (32, 128), "3": (64, 256), "4": (128, 512), "5": (256, 512), "6": (256, 512),
    "5d": (256, 512), "4d": (128, 256), "3d": (64, 128), "2d": (32, 64), "1d": (16, 64),
}  # fmt: skip
"""Stage -> (middle, outputs) of the published files (44.0 M parameters)."""


def _own_weights(state_dict: Weights) -> dict[str, torch.Tensor]:
    for prefix in PREFIXES:
        own = {key.removeprefix(prefix): value for key, value in state_dict.items() if key.startswith(prefix)}
        if "conv_in.weight" in own and "stage1.rebnconvin.conv_s1.weight" in own:
            return own
    found = ", ".join(list(state_dict)[:10]) or "nothing"
    raise ValueError(f"There is no ISNet in this file; it holds {found}.")


def _halved(x: torch.Tensor) -> torch.Tensor:
    return F.max_pool2d(x, 2, stride=2, ceil_mode=True)


def _as_large_as(x: torch.Tensor, partner: torch.Tensor) -> torch.Tensor:
    return F.interpolate(x, partner.shape[-2:], mode="bilinear", align_corners=False)


# -- around a network --------------------------------------------------------------------------------------------------


def character_mask(network: Network, picture: torch.Tensor, size: int = WORKING_SIZE) -> torch.Tensor:
    """Figure of a colour picture (B, 3, H, W) in -1..1, as the author of the weights asks for it: (B, 1, H, W) in 0..1.

    The longer side is brought to `size` pixels (bilinear, the other side rounded down), the picture centred on a black
    square, and the network reads it as it is, in 0..1. The answer is cut out again and resized (bilinear).
    """
    height, width = picture.shape[-2:]
    rows, columns = (max(1, size * side // max(height, width)) for side in (height, width))
    top, left = (size - rows) // 2, (size - columns) // 2
    square = picture.new_zeros((*picture.shape[:2], size, size))
    small = F.interpolate(model_to_unit(picture), (rows, columns), mode="bilinear", align_corners=False)
    square[..., top : top + rows, left : left + columns] = small
    answer = network(square)[..., top : top + rows, left : left + columns]
    return F.interpolate(answer, (height, width), mode="bilinear", align_corners=False).clamp(0, 1)


def salient_mask(
    network: Network,  # answers before the sigmoid (B, 1, S, S)
    picture: torch.Tensor,
    size: int = WORKING_SIZE,
    dilation: int = 1,
    threshold: float | None = None,
) -> torch.Tensor:
    """Figure of a colour picture (B, 3, H, W) in -1..1 by RMBG-2.0 or BiRefNet: (B, 1, H, W) in 0..1.

    Released route: squashed to a square of `size` pixels (bilinear, antialiased; 2048 for BiRefNet_HR), normalised with
    ImageNet's mean and deviation, sigmoid, back to H x W (bilinear, antialiased), then `masks.dilate`. SDXL models cut
    it at the threshold 0.5 afterwards, SD2.1 models keep it soft (None).
    """
    height, width = picture.shape[-2:]
    mean, std = (picture.new_tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    square = _antialiased(model_to_unit(picture), size, size)
    mask = dilate(_antialiased(torch.sigmoid(network((square - mean) / std)), height, width), dilation)
    return mask if threshold is None else binary(mask, threshold)


def _antialiased(picture: torch.Tensor, height: int, width: int) -> torch.Tensor:
    return F.interpolate(picture, (height, width), mode="bilinear", align_corners=False, antialias=True)
