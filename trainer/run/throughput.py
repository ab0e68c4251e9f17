"""Speed: compiled networks, and how much of the device's peak a run uses.

Model FLOPs are counted from the operations of one real micro step (torch.utils.flop_counter): the forward pass of what
gradients flow through, and its backward pass. Frozen encoders and the recomputation of gradient checkpointing are left
out, so the number is that of the model, and a cache or checkpointing does not flatter it (PaLM, Chowdhery 2022,
appendix B). Utilisation = model FLOPs of a step / (seconds of the step * peak of the device).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from trainer.config import ConfigError, System

log = logging.getLogger("trainer")

# Dense 16-bit matrix TFLOP/s with 32-bit accumulation, from the makers' data sheets. The first name that occurs in the
# device's counts.
PEAK_TFLOPS = {
    "GB200": 2500,
    "B200": 2250,
    "GH200": 989,
    "H200": 989,
    "H100 PCIe": 756,
    "H100 NVL": 835,
    "H100": 989,
    "A100": 312,
    "A800": 312,
    "L40S": 362,
    "L40": 181,
    "L4": 121,
    "A10G": 70,
    "A10": 125,
    "A40": 150,
    "RTX 6000 Ada": 364,
    "RTX A6000": 155,
    "RTX 5090": 210,
    "RTX 5080": 113,
    "RTX 4090": 165,
    "RTX 4080": 97,
    "RTX 4070": 58,
    "RTX 3090": 71,
    "RTX 3080": 60,
    "V100": 125,
    "T4": 65,
}


def peak_flops(system: System, device: torch.device) -> float | None:
    """FLOP/s the device can do at most at the run's precision, or None when nobody knows."""
    if system.peak_tflops:
        return system.peak_tflops * 1e12
    if device.type != "cuda" or system.precision == "fp32":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak * 1e12 for part, peak in PEAK_TFLOPS.items() if part.lower() in name.lower()), None)


def _cpu_attention(q: Any, k: Any, v: Any, *_: Any, out_val: Any = None, **__: Any) -> int:
    return sdpa_flop_count(q.shape, k.shape, v.shape)


def _cpu_attention_backward(gradient: Any, q: Any, k: Any, v: Any, *_: Any, out_val: Any = None, **__: Any) -> int:
    return sdpa_backward_flop_count(gradient.shape, q.shape, k.shape, v.shape)


# The registry knows the attention kernels of GPUs only.
FORMULAS = {
    **flop_registry,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _cpu_attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _cpu_attention_backward,
}


class ModelFlops(TorchDispatchMode):
    """Counts operations of the pass it is told: forward ones where gradients are recorded, backward ones where not.

    Gradients are recorded in the forward pass of trained networks and in a recomputation, not for frozen networks and
    not for the backward pass itself.
    """

    def __init__(self) -> None:
        super().__init__()
        self.forward, self.total = True, 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        keywords = keywords or {}
        result = function(*arguments, **keywords)
        formula = FORMULAS.get(function._overloadpacket)
        if formula is not None and torch.is_grad_enabled() == self.forward:
            self.total += formula(*arguments, **keywords, out_val=result)
        return result


def count_model_flops(step: Callable[[], torch.Tensor]) -> int:
    """Model FLOPs of one micro step. `step` gives the loss, which is then differentiated; clear the gradients after."""
    with ModelFlops() as counter:
        loss = step()
        counter.forward = False
        loss.backward()
    return counter.total


def check_backend(backend: str) -> None:
    """ConfigError where torch.compile has no such backend."""
    known = torch._dynamo.list_backends(exclude_tags=()) if hasattr(torch, "_dynamo") else [backend]
    if backend not in known:
        raise ConfigError(f"system.compile = {backend!r} is no backend of torch.compile; known: {', '.join(known)}.")


def compile_networks(stage: nn.Module, backend: str) -> None:
    """torch.compile every network of a stage in place; names of parameters stay as they are. Of adapters, the network
    that carries them."""
    check_backend(backend)
    carriers = [network for network, _ in getattr(stage, "carriers", ())]
    for network in carriers or _networks(stage.children()):
        network.compile(backend=backend)


def _networks(modules: Iterable[nn.Module]) -> Iterable[nn.Module]:
    """Modules that are called; containers, whose members are called, are opened."""
    for module in modules:
        if isinstance(module, (nn.ModuleDict, nn.ModuleList)):
            yield from _networks(module.children())
        elif any(True for _ in module.parameters()):
            yield module
