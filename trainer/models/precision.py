"""The arithmetic of a forward pass."""

from __future__ import annotations

import contextlib

import torch

from trainer.config import Config

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def arithmetic(config: Config, device: torch.device) -> contextlib.AbstractContextManager:
    """The precision of a forward pass. Accelerate's own context is off under DeepSpeed; this one never is."""
    dtype = DTYPES[config.system.precision]
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)
