"""Adapters: small trainable changes of a frozen network's linear and convolution layers, in the formats ComfyUI reads.

W is a layer's weight (out, in) or (out, in, kh, kw), seen as a matrix (out, in * kh * kw); s = alpha / rank.

- lora: W + s B A (Hu et al., arXiv 2106.09685)
- dora: m (W + s B A) / ||W + s B A||, a norm and a trained m for every input channel; the norm passes on no gradient
  (Liu et al., arXiv 2402.09353, 4.3)
- loha: W + s (B1 A1) * (B2 A2), entry by entry (FedPara, Hyeon-Woo et al., arXiv 2108.06098)
- lokr: W + C (x) s B A, a Kronecker product (LyCORIS, Yeh et al., arXiv 2309.14859); where the low rank would save
  nothing, the second factor is a whole matrix and s is 1, as ComfyUI reads such a file

Nobody's forward is replaced: an adapter is a hook on its layer, and the network's tensors keep their names.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from colorize.names import REGION_LORA

KINDS = ("lora", "dora", "loha", "lokr")
LAYERS = {"all": "", "transformers": r"\.(proj_in|proj_out|transformer_blocks)\b", "attention": r"\.attn[12]\."}
"""Which layers of a U-Net get one: all linear and convolution layers, those of the transformers, or of attention."""
Layer = nn.Linear | nn.Conv2d


class Adapter(nn.Module):
    """The change of one layer. The names of its tensors are those ComfyUI looks for behind the layer's own name.

    rank: at most that of the weight as a matrix. scale: s above. Starts as no change at all.
    """

    alpha: torch.Tensor

    def __init__(self, layer: Layer, rank: int, scale: float) -> None:
        super().__init__()
        self._layer = (layer,)  # a tuple keeps the frozen layer out of the module tree
        self.shape = tuple(layer.weight.shape)
        self.outputs, self.inputs = self.shape[0], layer.weight[0].numel()
        self.rank, self.scale, self.active = min(rank, self.outputs, self.inputs), scale, True
        self.register_buffer("alpha", self._new().fill_(scale * self.rank))

    def _new(self, *shape: int) -> torch.Tensor:
        return torch.empty(shape, device=self._layer[0].weight.device, dtype=torch.float32)

    def change(self) -> torch.Tensor:
        """What is added to the weight, in its shape."""
        raise NotImplementedError

    def merged(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight with the change in it."""
        return weight + self.change().to(weight)

    def seen(self, x: torch.Tensor) -> torch.Tensor:
        """What the layer reads instead of its input."""
        return x

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What is added to the layer's answer to x, which `seen` has changed already."""
        with torch.autocast(x.device.type, enabled=False):
            change = self.change()
        return self._applied(x, change)

    def _applied(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """The layer without bias, with another weight."""
        layer = self._layer[0]
        if isinstance(layer, nn.Linear):
            return F.linear(x, weight)
        padding: Any = layer.padding  # numbers, or a word
        return F.conv2d(x, weight, None, layer.stride, padding, layer.dilation)


class LoRA(Adapter):
    """lora: x goes through `rank` channels beside the layer, so that no second weight is in memory."""

    def __init__(self, layer: Layer, rank: int, scale: float) -> None:
        super().__init__(layer, rank, scale)
        shape = (self.rank, *self.shape[1:])
        self.lora_down, self.lora_up = _Weight(self._new(*shape)), _Weight(self._new(self.outputs, self.rank))
        if len(shape) == 4:
            self.lora_up.weight.data = self.lora_up.weight.data[:, :, None, None]
        nn.init.kaiming_uniform_(self.lora_down.weight, a=5**0.5)
        nn.init.zeros_(self.lora_up.weight)

    def change(self) -> torch.Tensor:
        up, down = self.lora_up.weight.flatten(1), self.lora_down.weight.flatten(1)
        return (self.scale * up @ down).view(self.shape)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner, up = self._applied(x, self.lora_down.weight), self.scale * self.lora_up.weight
        return F.linear(inner, up) if up.ndim == 2 else F.conv2d(inner, up)


class DoRA(LoRA):
    """dora: a factor for every input channel of x, then as lora."""

    def __init__(self, layer: Layer, rank: int, scale: float) -> None:
        super().__init__(layer, rank, scale)
        self.dora_scale = nn.Parameter(self._norm(layer.weight.detach().float()))

    def _norm(self, weight: torch.Tensor) -> torch.Tensor:
        """(1, in) or (1, in, 1, 1): length of all that reads an input channel; never 0."""
        norm = weight.transpose(0, 1).flatten(1).norm(dim=1) + torch.finfo(torch.float32).eps
        return norm.view(1, -1, *[1] * (weight.ndim - 2))

    def _factor(self, weight: torch.Tensor) -> torch.Tensor:
        with torch.no_grad(), torch.autocast(weight.device.type, enabled=False):
            norm = self._norm(weight.float() + self.change())
        return self.dora_scale / norm

    def merged(self, weight: torch.Tensor) -> torch.Tensor:
        return super().merged(weight) * self._factor(weight).to(weight)

    def seen(self, x: torch.Tensor) -> torch.Tensor:
        factor = self._factor(self._layer[0].weight.detach()).to(x.dtype)
        return x * (factor if x.ndim == 4 else factor[0])


class LoHa(Adapter):
    """loha: rank * rank at most, of as many values as a lora of 2 rank."""

    def __init__(self, layer: Layer, rank: int, scale: float) -> None:
        super().__init__(layer, rank, scale)
        for number, std in ((1, 0.1), (2, 0.0)):  # as in LyCORIS
            up, down = self._new(self.outputs, self.rank), self._new(self.rank, self.inputs)
            self.register_parameter(f"hada_w{number}_a", nn.Parameter(nn.init.normal_(up, std=std)))
            self.register_parameter(f"hada_w{number}_b", nn.Parameter(nn.init.normal_(down)))

    def change(self) -> torch.Tensor:
        parts = (self.hada_w1_a, self.hada_w1_b, self.hada_w2_a, self.hada_w2_b)
        return self.scale * _Hadamard.apply(*parts).view(self.shape)


class LoKr(Adapter):
    """lokr: the fewest values of all for the same rank."""

    def __init__(self, layer: Layer, rank: int, scale: float) -> None:
        super().__init__(layer, rank, scale)
        (a, b), (c, d) = factors(self.shape[0]), factors(self.shape[1])
        kernel = self.inputs // self.shape[1]
        low = rank * (b + d * kernel) < b * d * kernel
        self.scale = scale if low else 1.0
        self.rank = rank if low else 1
        self.alpha.fill_(self.scale * self.rank)
        self.lokr_w1 = nn.Parameter(nn.init.kaiming_uniform_(self._new(a, c), a=5**0.5))
        if low:
            self.lokr_w2_a = nn.Parameter(nn.init.kaiming_uniform_(self._new(b, rank), a=5**0.5))
            self.lokr_w2_b = nn.Parameter(self._new(rank, d * kernel).zero_())
        else:
            self.lokr_w2 = nn.Parameter(self._new(b, d, *self.shape[2:]).zero_())

    def change(self) -> torch.Tensor:
        whole = getattr(self, "lokr_w2", None)
        second = self.scale * self.lokr_w2_a @ self.lokr_w2_b if whole is None else whole.flatten(1)
        return torch.kron(self.lokr_w1, second).view(self.shape)


class _Weight(nn.Module):
    """A parameter with `.weight` behind its name."""

    def __init__(self, values: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(values)


class _Hadamard(torch.autograd.Function):
    """(a b) * (c d), entry by entry, which keeps the small matrices and not the products for its backward pass."""

    @staticmethod
    def forward(ctx: Any, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(a, b, c, d)
        return (a @ b) * (c @ d)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, ...]:
        a, b, c, d = ctx.saved_tensors
        first, second = gradient * (c @ d), gradient * (a @ b)
        return first @ b.T, a.T @ first, second @ d.T, c.T @ second


CLASSES: Mapping[str, type[Adapter]] = {"lora": LoRA, "dora": DoRA, "loha": LoHa, "lokr": LoKr}


def factors(number: int) -> tuple[int, int]:
    """a <= b with a b = number, as near to each other as they can be."""
    a = next(divisor for divisor in range(int(number**0.5), 0, -1) if number % divisor == 0)
    return a, number // a


class Adapters(nn.Module):
    """The adapters of a network, in a tree with its names: `input_blocks.1.1.proj_in.lora_down.weight`.

    What a state dict of it holds behind the prefix `diffusion_model.` is a LoRA file for ComfyUI.
    """

    def __init__(self, adapters: Mapping[str, Adapter]) -> None:
        super().__init__()
        self.by_layer = dict(adapters)  # not registered: the tree below is
        for name, adapter in adapters.items():
            place: nn.Module = self
            *path, last = name.split(".")
            for part in path:
                if place._modules.get(part) is None:
                    place.add_module(part, nn.Module())
                place = place.get_submodule(part)
            place.add_module(last, adapter)

    @contextlib.contextmanager
    def off(self) -> Iterator[None]:
        """A context in which the network is as it was without them, a teacher of itself."""
        before = {adapter: adapter.active for adapter in self.by_layer.values()}
        try:
            for adapter in before:
                adapter.active = False
            yield
        finally:
            for adapter, active in before.items():
                adapter.active = active

    @torch.no_grad()
    def merged(self, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The network's tensors by its own names, with the changes in the weights."""
        changed = {f"{name}.weight": adapter for name, adapter in self.by_layer.items()}
        return {name: changed[name].merged(value) if name in changed else value for name, value in weights.items()}


def adapt(network: nn.Module, kind: str = "lora", rank: int = 16, alpha: float = 0.0, layers: str = "all") -> Adapters:
    """Freeze a network and hang an adapter on its layers; the optimiser gets the parameters of what is returned.

    rank: of every layer that has as many dimensions. alpha: over `rank` it is the factor on the change; 0 is `rank`.
    layers: of LAYERS. The region weights of a network are left out. ValueError where no layer is chosen.
    """
    network.requires_grad_(False)
    scale = alpha / rank if alpha else 1.0
    adapters = {}
    for name, layer in network.named_modules():
        if not isinstance(layer, (nn.Linear, nn.Conv2d)) or REGION_LORA in f".{name}":
            continue
        if re.search(LAYERS[layers], f".{name}.") and getattr(layer, "groups", 1) == 1:
            adapters[name] = CLASSES[kind](layer, rank, scale)
            _hang(adapters[name], layer)
    if not adapters:
        raise ValueError(f"The network has no linear or convolution layer of the choice {layers!r}.")
    return Adapters(adapters)


def _hang(adapter: Adapter, layer: Layer) -> None:
    """Let a layer see and answer what the adapter makes of it."""

    def before(module: nn.Module, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...] | None:
        return (adapter.seen(arguments[0]),) if adapter.active else None

    def after(module: nn.Module, arguments: tuple[torch.Tensor, ...], answer: torch.Tensor) -> torch.Tensor | None:
        return answer + adapter(arguments[0]) if adapter.active else None

    if type(adapter).seen is not Adapter.seen:
        layer.register_forward_pre_hook(before)
    layer.register_forward_hook(after)
