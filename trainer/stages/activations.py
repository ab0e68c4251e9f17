"""What autograd keeps of a training step, counted without spending it: networks and values that have shapes only.

It is counted tensor by tensor (fake tensors run through the real networks, in the run's precision), not by a rule of
thumb. Gradient checkpointing keeps the inputs of the blocks, and the inside of one block at a time.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from colorize.sketch.encoder import SketchEncoder
from colorize.sketch.xl_encoder import XLSketchEncoder, rotary_table
from colorize.unet.config import UNetConfig
from colorize.unet.layers import Block
from colorize.unet.unet import UNet
from trainer.config import Config, System
from trainer.models.lean_layers import Lean, lean
from trainer.models.precision import DTYPES

from . import adapted


class Kept:
    """Counts the bytes autograd keeps, each storage once; those of parameters are left out."""

    def __init__(self, parameters: Iterator[torch.Tensor]) -> None:
        self._seen = {p.untyped_storage()._cdata for p in parameters}
        self._alive: list[torch.Tensor] = []  # a freed storage's address would be given to another
        self.bytes = 0

    def _pack(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._seen:
            self._seen.add(storage._cdata)
            self._alive.append(tensor)
            self.bytes += storage.nbytes()
        return tensor

    def counting(self) -> contextlib.AbstractContextManager:
        return torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor)


def kept_bytes(
    network: nn.Module,
    forward: Callable[[], Any],
    blocks: type[nn.Module] | None = None,
    trained: nn.Module | None = None,  # adapters of the network, whose parameters are not counted either
) -> tuple[int, int]:
    """-> bytes kept for the backward pass of forward(), and by the hungriest module of type `blocks` alone."""
    parameters = itertools.chain(network.parameters(), trained.parameters() if trained else ())
    kept, largest, before = Kept(parameters), 0, {}

    def enter(module: nn.Module, arguments: Any) -> None:
        before[module] = kept.bytes

    def leave(module: nn.Module, arguments: Any, output: Any) -> None:
        nonlocal largest
        largest = max(largest, kept.bytes - before[module])

    inner = [module for module in network.modules() if blocks and isinstance(module, blocks)]
    hooks = [m.register_forward_pre_hook(enter) for m in inner] + [m.register_forward_hook(leave) for m in inner]
    with kept.counting():
        result = forward()
    for hook in hooks:
        hook.remove()
    del result
    return kept.bytes, largest


@contextlib.contextmanager
def _shapes_only() -> Iterator[None]:
    """A context whose tensors have no values, also not in the tables that are kept for the next call."""
    rotary_table.cache_clear()
    try:
        with FakeTensorMode():
            yield
    finally:
        rotary_table.cache_clear()


def colorizer_activations(config: Config, unet_config: UNetConfig, tokens: int, frozen: bool = False) -> int:
    """Bytes of the activations of one micro step of stage v1 or xl, or of one whose networks are frozen (region
    weights, [adapter]), with so many reference tokens. The Gram loss, whose blocks run twice, is left out."""
    dtype, adapts = DTYPES[config.system.precision], adapted.wanted(config)
    batch, side = config.optimizer.batch, (config.data.crop or config.data.size) // 8
    widths = [unet_config.model_channels * mult for mult in unet_config.channel_mult]
    encoder = XLSketchEncoder if unet_config.y_width else SketchEncoder
    with _shapes_only(), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        unet, sketch_encoder = UNet(unet_config), encoder(widths, unet_config.model_channels)
        latents, steps = torch.randn(batch, unet_config.in_channels, side, side), torch.zeros(batch)
        sketches = torch.randn(batch, 3, side * 8, side * 8)
        y = torch.randn(batch, unet_config.y_width) if unet_config.y_width else None
        # What a frozen network serves begins at the tokens; the network passes gradients on and keeps what that takes.
        context = torch.randn(batch, tokens, unet_config.context_dim, requires_grad=frozen and not adapts)
        for network in (unet, sketch_encoder):
            network.requires_grad_(not frozen)
        adapted.in_frozen_type(config, unet, sketch_encoder)
        lean(unet, _keeping_the_same(config.system), torch.device("cpu"))
        trained = adapted.adapters_of(unet, config) if adapts else unet

        def answer() -> torch.Tensor:
            control = [hint.detach() for hint in hints] if frozen else hints
            return unet(latents, steps, context, control, y=y)

        sketch_kept, _ = kept_bytes(sketch_encoder, lambda: sketch_encoder(sketches))
        hints = sketch_encoder(sketches)
        plain, largest = kept_bytes(unet, answer, Block, trained)
        if not config.system.gradient_checkpointing:
            total = plain
        else:
            unet.gradient_checkpointing = True
            total = kept_bytes(unet, answer, trained=trained)[0] + largest
    passes = 2 if config.loss.dual_condition else 1
    return passes * total + (0 if frozen else sketch_kept) + largest_whole(unet, dtype)


def _keeping_the_same(system: System) -> System:
    """Of layers in 8 bits autograd keeps as much as of layers at rest, which are shapes much sooner."""
    return replace(system, frozen_8bit=False, layer_offload=1.0) if system.frozen_8bit else system


def largest_whole(network: nn.Module, dtype: torch.dtype) -> int:
    """Bytes of the largest weight that a network of lean layers makes whole for its use."""
    layers = (layer for layer in network.modules() if isinstance(layer, Lean))
    weights = (layer.resting[0] if layer.resting else layer.codes for layer in layers)
    return max((w.numel() * dtype.itemsize for w in weights if w is not None), default=0)
