"""Starting from another model's weights (`--init-from FILE`): Stable Diffusion, Waifu Diffusion, SDXL, another width.

A tensor is taken when the file has one of its name, after the file's names are brought to ours: names below
`model.diffusion_model.`, the same without prefix, or those of a diffusers U-Net. Where the sizes differ it is fitted:
axes 0 and 1 wrap around to the new sizes, and each input column is divided by the number of new columns that repeat it,
so that the sum over the inputs stays (the released trainer's `-fm`; golden case fitting_weights). Linear layers and 1x1
convolutions are each other's equals. U-Nets of another number of levels share the finest ones (ours; see same_levels).
What the file lacks keeps its random start. A LoRA of this trainer is put on the model that the stage starts from:
stage distill goes on from a student's.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import nn

from colorize.names import UNET
from trainer.config import ConfigError
from trainer.models import checkpoint
from trainer.models.loras import check_layers, is_lora, with_loras
from trainer.stages.stage import Stage

log = logging.getLogger("trainer")

REPORT = "init-from.json"


def fit(weight: torch.Tensor, shape: Iterable[int]) -> torch.Tensor:
    """A weight repeated or cut to `shape`.

    One axis wraps around. With two or more, axes 0 and 1 do, and column j of the result is divided by how many columns
    come from the same old one. ValueError when the number of axes or a later axis differs.
    """
    shape = tuple(shape)
    if weight.shape == shape:
        return weight
    if not fits(weight, shape):
        raise ValueError(f"{tuple(weight.shape)} cannot be fitted to {shape}: only the first two axes may differ.")
    rows = torch.arange(shape[0]) % weight.shape[0]
    if weight.ndim == 1:
        return weight[rows]
    columns = torch.arange(shape[1]) % weight.shape[1]
    repeats = torch.bincount(columns, minlength=weight.shape[1])[columns].to(weight.dtype)
    return weight[rows][:, columns] / repeats.view(-1, *[1] * (weight.ndim - 2))


def fits(weight: torch.Tensor, shape: tuple[int, ...]) -> bool:
    """Whether `fit` can bring a weight to `shape`; its values are not looked at."""
    return weight.shape == shape or 0 < weight.ndim == len(shape) and weight.shape[2:] == shape[2:]


def as_many_axes(weight: torch.Tensor, axes: int) -> torch.Tensor:
    """A linear layer's weight as one of a 1x1 convolution, or the other way round; others as they are."""
    if weight.ndim == 2 and axes == 4:
        return weight[:, :, None, None]
    if weight.ndim == 4 and axes == 2 and weight.shape[2:] == (1, 1):
        return weight[:, :, 0, 0]
    return weight


# Names inside a block of a diffusers U-Net -> ours.
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
OUTSIDE = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
DECODER = re.compile(r"(model\.diffusion_model\.output_blocks\.)(\d{1,4})(\..+)")
PART = re.compile(
    r"(?:(?P<half>down|up)_blocks\.(?P<level>\d{1,4})|(?P<middle>mid_block))\."
    r"(?P<kind>resnets|attentions|downsamplers|upsamplers)\.(?P<number>\d{1,4})\.(?P<rest>.+)"
)


def from_diffusers(name: str, blocks_per_level: int) -> str | None:
    """The name in our layout of a tensor of a diffusers UNet2DConditionModel; None for one we do not know.

    blocks_per_level: residual blocks of a level on the way down (one more on the way up).
    """
    stem, _, last = name.rpartition(".")
    if stem in OUTSIDE:
        return f"{OUTSIDE[stem]}.{last}"
    if not (found := PART.match(name)):
        return None
    number, rest, kind = int(found["number"]), found["rest"], found["kind"]
    if kind == "resnets":
        layer, _, last = rest.rpartition(".")
        rest = f"{RESNET.get(layer, layer)}.{last}"
    if found["middle"]:
        return f"middle_block.{2 * number if kind == 'resnets' else 2 * number + 1}.{rest}"
    level, place = int(found["level"]), 0 if kind == "resnets" else 1
    if found["half"] == "down":
        if kind == "downsamplers":
            return f"input_blocks.{(level + 1) * (blocks_per_level + 1)}.0.op.{rest.rpartition('.')[2]}"
        return f"input_blocks.{1 + level * (blocks_per_level + 1) + number}.{place}.{rest}"
    block = level * (blocks_per_level + 1) + number
    if kind == "upsamplers":  # stands last in the level's last block; behind the attention, where there is one
        return f"output_blocks.{(level + 1) * (blocks_per_level + 1) - 1}.upsampler.{rest}"
    return f"output_blocks.{block}.{place}.{rest}"


def our_names(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of a model file under the names of the official checkpoints (`model.diffusion_model.*`, ...)."""
    if any(name.startswith(UNET) for name in tensors):
        return dict(tensors)
    if "input_blocks.0.0.weight" in tensors:
        return {UNET + name: tensor for name, tensor in tensors.items()}
    if "conv_in.weight" not in tensors or not any(name.startswith("down_blocks.") for name in tensors):
        return dict(tensors)
    found = (re.match(r"down_blocks\.0\.resnets\.(\d{1,4})\.", name) for name in tensors)
    blocks = 1 + max((int(match[1]) for match in found if match), default=0)
    named = {from_diffusers(name, blocks): tensor for name, tensor in tensors.items()}
    out = {}
    for name, tensor in named.items():
        if name is None:
            continue
        if ".upsampler." in name:
            block, _, rest = name.partition(".upsampler.")
            attention = any(other and other.startswith(f"{block}.1.") for other in named)
            name = f"{block}.{2 if attention else 1}.{rest}"
        out[UNET + name] = tensor
    return out


def same_levels(tensors: Mapping[str, torch.Tensor], names: Iterable[str]) -> dict[str, torch.Tensor]:
    """The tensors with their decoder blocks numbered for a U-Net with the parameters `names`.

    Decoder blocks are counted from the coarsest level on, so with another number of levels (Stable Diffusion has four,
    XL three) their numbers mean other resolutions: the last block is the same in both. Encoder blocks are counted from
    the finest level on and stay. Blocks of levels that the U-Net lacks get numbers below zero, which nothing has. A
    block's upsampling convolution stands behind its attention, third where there is one and second where not.
    """
    names = set(names)
    apart = _decoder_blocks(tensors) - _decoder_blocks(names)

    def ours(name: str) -> str:
        if not (m := DECODER.match(name)):
            return name
        block, rest = f"{m[1]}{int(m[2]) - apart}", m[3]
        if rest.startswith((".1.conv.", ".2.conv.")):
            moved = {"1": ".2", "2": ".1"}[rest[1]] + rest[2:]
            rest = moved if block + moved in names else rest
        return block + rest

    return {ours(name): tensor for name, tensor in tensors.items()}


def _decoder_blocks(names: Iterable[str]) -> int:
    return max((1 + int(m[2]) for name in names if (m := DECODER.match(name))), default=0)


@dataclass
class Origins:
    """What became of every tensor of a model."""

    source: str
    taken: list[str] = field(default_factory=list)
    """as they are"""
    fitted: dict[str, str] = field(default_factory=dict)
    """name -> "old shape -> new shape" """
    random: list[str] = field(default_factory=list)
    """not in the file, or of a shape that cannot be fitted"""
    unused: int = 0
    """tensors of the file that the model has no place for"""

    def __str__(self) -> str:
        lines = [
            f"started from {self.source}: {len(self.taken)} tensors taken, {len(self.fitted)} fitted, "
            f"{len(self.random)} left random, {self.unused} of the file not used"
        ]
        groups: dict[str, int] = {}
        for name in self.random:
            head = ".".join(name.removeprefix(UNET).split(".")[:2])
            groups[head] = groups.get(head, 0) + 1
        lines += [f"  random: {head}.* ({count})" for head, count in groups.items()]
        lines += [f"  fitted: {name} {change}" for name, change in list(self.fitted.items())[:10]]
        if len(self.fitted) > 10:
            lines.append(f"  fitted: {len(self.fitted) - 10} more, all in {REPORT}")
        return "\n".join(lines)


def _parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Those that are trained and have no file of their own."""
    elsewhere = getattr(model, "own_files", ())
    return {n: p for n, p in model.named_parameters() if p.requires_grad and not n.startswith(elsewhere)}


def _read(model: Stage, source: str) -> tuple[dict[str, torch.Tensor], bool]:
    """The tensors of a file, and whether they are a LoRA. ConfigError for one that has no model to change."""
    tensors = checkpoint.read_tensors(Path(source))[0]
    lora = is_lora(tensors)
    if lora and not model.config.model.init:
        raise ConfigError(
            f"model.init_from is {source}, a LoRA, which is a change of a model: stage distill goes on from one, with "
            "the model in model.init. Elsewhere name a whole model."
        )
    return tensors, lora


def _nothing_to_take(source: str, tensors: Mapping[str, torch.Tensor]) -> ConfigError:
    names = ", ".join(sorted(tensors)[:10])
    return ConfigError(
        f"{source} has no tensor this model could take: it is no U-Net in the layout of Stable Diffusion or "
        f"diffusers. Its first names: {names}."
    )


def check(model: Stage, source: str) -> None:
    """ConfigError when a file has not one tensor for the model; values are not looked at."""
    parameters = _parameters(model)
    tensors, lora = _read(model, source)
    if lora:
        return check_layers(source, parameters)
    tensors = same_levels(our_names(tensors), parameters)
    found = ((as_many_axes(tensors[name], p.ndim), p.shape) for name, p in parameters.items() if name in tensors)
    if not any(fits(weight, shape) for weight, shape in found):
        raise _nothing_to_take(source, tensors)


@torch.no_grad()
def start(model: Stage, source: str, output: Path | None = None) -> Origins:
    """Fill the parameters of a stage that are trained from a checkpoint of another model.

    output: folder of the run, where the whole report is kept as init-from.json. ConfigError when the file has not one
    tensor for the model, or values that are not finite.
    """
    parameters = _parameters(model)
    tensors, lora = _read(model, source)
    if lora:  # those of the model as it is, with what it changes
        tensors = with_loras({name: values.detach() for name, values in parameters.items()}, [source])
    else:
        tensors = same_levels(our_names(tensors), parameters)
    report, used = Origins(source=Path(source).name), set()
    for name, parameter in parameters.items():
        if name not in tensors:
            report.random.append(name)
            continue
        found = as_many_axes(tensors[name].float(), parameter.ndim)
        try:
            fitted = fit(found, parameter.shape)
        except ValueError:
            report.random.append(name)
            continue
        if not torch.isfinite(fitted).all():
            raise ConfigError(f"{source}: {name} holds values that are not finite; download the file again.")
        parameter.copy_(fitted)
        used.add(name)
        if found.shape == parameter.shape:
            report.taken.append(name)
        else:
            report.fitted[name] = f"{tuple(found.shape)} -> {tuple(parameter.shape)}"
    report.unused = len(tensors.keys() - used)
    if not used:
        raise _nothing_to_take(source, tensors)
    log.info("%s", report)
    if output is not None:
        checkpoint.write_text(output / REPORT, json.dumps(asdict(report), indent=1))
    return report
