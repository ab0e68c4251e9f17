"""Helper networks (encoders, taggers, extractors, segmenters) under ComfyUI's memory management."""

from __future__ import annotations

import comfy.model_management
import comfy.model_patcher
import torch


def managed(network: torch.nn.Module) -> comfy.model_patcher.ModelPatcher:
    """The patcher that owns a helper network's memory: it is loaded and made room for like a text encoder.

    Call `comfy.model_management.load_models_gpu([patcher])` before use; the network is then on `patcher.load_device`.
    """
    return comfy.model_patcher.CoreModelPatcher(
        network,
        load_device=comfy.model_management.text_encoder_device(),
        offload_device=comfy.model_management.text_encoder_offload_device(),
    )
