"""The arithmetic of a forward pass."""

from __future__ import annotations

import contextlib
import dataclasses
import logging

import torch

from trainer.config import Config
from trainer.config.section import Precision

log = logging.getLogger("trainer")

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def arithmetic(config: Config, device: torch.device) -> contextlib.AbstractContextManager:
    """The precision of a forward pass. Accelerate's own context is off under DeepSpeed; this one never is."""
    dtype = DTYPES[config.system.precision]
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


def quick(precision: Precision, device: torch.device) -> bool:
    """Whether the device has instructions for a precision, or oneDNN a quick way without them."""
    if precision != "bf16":
        return True
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # the rule of oneDNN, which multiplies on CPUs: AVX-512 or ARM's bf16; without them it takes each product by itself
    return not hasattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported") or torch.ops.mkldnn._is_mkldnn_bf16_supported()


def for_device(precision: Precision, device: torch.device) -> Precision:
    """The precision, or fp32 for bf16 on a CPU without its instructions, where a convolution takes 26 times as long."""
    if quick(precision, device):
        return precision
    if device.type != "cpu":
        log.warning("this GPU has no bf16 instructions and emulates them slowly: fp16 is its own (system.precision)")
        return precision
    log.warning(
        "this processor has no instructions for bf16, with which everything would take many times as long: fp32"
    )
    return "fp32"


def on_device(config: Config, device: torch.device) -> Config:
    """A run's configuration with the precision that the device is quick in (for_device)."""
    precision = for_device(config.system.precision, device)
    if precision == config.system.precision:
        return config
    adapter, system = config.adapter, dataclasses.replace(config.system, precision=precision)
    if adapter.frozen == config.system.precision:
        adapter = dataclasses.replace(adapter, frozen=precision)
    return dataclasses.replace(config, adapter=adapter, system=system)
