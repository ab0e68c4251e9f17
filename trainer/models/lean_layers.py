"""Frozen layers that keep little on the device: weights in 8 bits, or at rest in CPU memory until they are used.

In 8 bits a weight is w_ij = s_i c_ij, whole numbers c from -127 to 127 and one scale a row of outputs,
s_i = max_j |w_ij| / 127 (symmetric, per channel; Krishnamoorthi, arXiv 1806.08342, 2.5). It is made whole in the type
of the arithmetic wherever it is used, so that inputs and answers are never rounded to 8 bits. Plain torch: bitsandbytes
and torchao have such weights for linear layers only, and two thirds of a v1 U-Net's weights are convolutions.

Autograd keeps none of these weights: the backward pass makes, or fetches, each of them again. So at one time there is
one whole weight beside what rests, with gradient checkpointing or without.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.grad import conv2d_input
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from colorize.unet.region_lora import RegionLinear
from trainer.config import System

MOST = 127
"""Largest whole number of a weight in 8 bits."""
Network = TypeVar("Network", bound=nn.Module)


def quantised(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight (out, ...) -> whole numbers of its shape, int8, and scales (out, 1, ...), float32."""
    rows = weight.float().flatten(1)
    scale = rows.abs().amax(1, keepdim=True) / MOST
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    codes = (rows / scale).round().to(torch.int8).view(weight.shape)
    return codes, scale.view(-1, *[1] * (weight.ndim - 1))


def visit(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Values that rest in CPU memory, on the device; from pinned memory without waiting for the copy."""
    return values.to(device, non_blocking=True)


class Lean(nn.Module):
    """A frozen layer with its weight in another form; takes the place of `layer`, whose other parts it keeps.

    Its weight is in no state dict: it is that of the file the network came from.
    """

    which = "weight"
    """name of the weight that is kept so"""
    codes: torch.Tensor | None
    scale: torch.Tensor | None
    here: torch.Tensor

    def __init__(self, layer: nn.Module, eight_bits: bool, rests: bool, system: System, pinned: bool) -> None:
        nn.Module.__init__(self)  # not the layer's own: that would make a weight
        self.__dict__ |= {key: value for key, value in vars(layer).items() if key not in vars(self)}
        self.training = layer.training
        for name, parameter in layer._parameters.items():  # also those that are None
            if name != self.which:
                self.register_parameter(name, parameter)
        for name, child in layer.named_children():
            self.add_module(name, child)
        weight = getattr(layer, self.which).detach()
        codes, scale = quantised(weight) if eight_bits else (weight, None)
        if system.channels_last and codes.ndim == 4:
            codes = codes.contiguous(memory_format=torch.channels_last)
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("here", torch.empty(0, device=weight.device), persistent=False)
        self.register_buffer("codes", None if rests else codes, persistent=False)
        self.resting: tuple[torch.Tensor, ...] = ()  # a tuple, which `to` does not move
        if rests:
            codes = codes if codes.is_meta else codes.cpu()
            self.resting = (codes.pin_memory() if pinned else codes,)

    def fetched(self, dtype: torch.dtype | None = None) -> torch.Tensor:
        """The weight as a whole, on the layer's device."""
        codes = visit(self.resting[0], self.here.device) if self.resting else self.codes
        assert codes is not None
        if self.scale is None:
            return codes.to(dtype or codes.dtype)
        whole = torch.empty_like(codes, dtype=dtype or torch.float32)
        return torch.mul(codes, self.scale, out=whole)

    def applied(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """The layer's answer to x."""
        raise NotImplementedError

    def returned(self, gradient: torch.Tensor, weight: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        """Gradient of an input of this shape, for that of the answer."""
        raise NotImplementedError

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        return _Passing.apply(x.to(dtype), self, torch.is_grad_enabled())

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        state_dict.pop(prefix + self.which, None)  # of a run that kept it whole
        super()._load_from_state_dict(state_dict, prefix, *arguments)


class _Passing(torch.autograd.Function):
    """A lean layer's pass, of which autograd keeps nothing."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, layer: Lean, recording: bool) -> torch.Tensor:
        ctx.layer, ctx.shape = layer, x.shape
        with torch.set_grad_enabled(recording):  # by which operations of the model are counted (run/throughput.py)
            return layer.applied(x.detach(), layer.fetched(x.dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (gradient,) = gradients
        return ctx.layer.returned(gradient, ctx.layer.fetched(gradient.dtype), ctx.shape), None, None


def _like(x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor | None:
    return None if bias is None else bias.detach().to(x.dtype)


class LeanLinear(Lean, nn.Linear):
    """A linear layer."""

    @property
    def weight(self) -> torch.Tensor:  # type: ignore[override]
        """Whole: for whoever asks for more than the layer's answer."""
        return self.fetched()

    def applied(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return F.linear(x, weight, _like(x, self.bias))

    def returned(self, gradient: torch.Tensor, weight: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        return gradient @ weight


class LeanRegionLinear(LeanLinear, RegionLinear):
    """A linear layer with region terms, which may be trained."""


class LeanConv2d(Lean, nn.Conv2d):
    """A convolution."""

    @property
    def weight(self) -> torch.Tensor:  # type: ignore[override]
        """As LeanLinear's."""
        return self.fetched()

    def applied(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return self._conv_forward(x, weight, _like(x, self.bias))

    def returned(self, gradient: torch.Tensor, weight: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        padding: Any = self.padding
        return conv2d_input(shape, weight, gradient, self.stride, padding, self.dilation, self.groups)


class LeanAttention(Lean, nn.MultiheadAttention):
    """torch's own attention, in an encoder that is asked without gradients: it reads the weight as it is whole."""

    which = "in_proj_weight"

    @property
    def in_proj_weight(self) -> torch.Tensor:  # type: ignore[override]
        """Of queries, keys and values together."""
        return self.fetched()

    def forward(self, *arguments: Any, **options: Any) -> Any:
        return nn.MultiheadAttention.forward(self, *arguments, **options)


KINDS: Mapping[type[nn.Module], type[Lean]] = {
    nn.Linear: LeanLinear,
    NonDynamicallyQuantizableLinear: LeanLinear,
    RegionLinear: LeanRegionLinear,
    nn.Conv2d: LeanConv2d,
    nn.MultiheadAttention: LeanAttention,
}


def can_be_lean(layer: nn.Module) -> bool:
    """Whether a layer is frozen and of a kind that has a lean form."""
    if type(layer) not in KINDS or any(p.requires_grad for p in layer.parameters(recurse=False)):
        return False
    if isinstance(layer, nn.Conv2d):
        return layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return not isinstance(layer, nn.MultiheadAttention) or layer.in_proj_weight is not None


def lean(network: Network, system: System, device: torch.device) -> Network:
    """Bring the frozen layers of a network to the form that system.frozen_8bit and system.layer_offload ask for, in
    place and before adapters hang on them. device: where it will work, for which what rests is pinned."""
    if system.frozen_8bit or system.layer_offload:
        _lean_children(network, system, device.type == "cuda", [0, 0])
    return network


def _lean_children(module: nn.Module, system: System, pinned: bool, seen: list[int]) -> None:
    """seen: values of weights that rest, and of all, up to here; so what rests is spread over the network."""
    for name, child in list(module.named_children()):
        _lean_children(child, system, pinned, seen)
        if not can_be_lean(child):
            continue
        kind = KINDS[type(child)]
        size = getattr(child, kind.which).numel()
        seen[1] += size
        rests = seen[0] + size <= system.layer_offload * seen[1]
        seen[0] += size * rests
        if rests or system.frozen_8bit:
            setattr(module, name, kind(child, system.frozen_8bit, rests, system, pinned))
