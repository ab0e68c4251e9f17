"""Networks beside the model under ComfyUI's memory management: helpers, and U-Nets that read a picture once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import comfy.model_management
import comfy.model_patcher
import comfy.utils
import torch

from ...colorize.background.picture_encoder import PictureEncoder
from ...colorize.background.reference_net import ReferenceNet
from ...colorize.families import CheckpointError
from ...colorize.unet import size_embedding

# Working memory per latent place in values: about 24 tensors of the first level's width at once.
VALUES_PER_PLACE = 24 * 320


def managed(network: torch.nn.Module) -> comfy.model_patcher.ModelPatcher:
    """The patcher that owns a helper network's memory: it is loaded and made room for like a text encoder.

    Call `comfy.model_management.load_models_gpu([patcher])` before use; the network is then on `patcher.load_device`.
    """
    return comfy.model_patcher.CoreModelPatcher(
        network,
        load_device=comfy.model_management.text_encoder_device(),
        offload_device=comfy.model_management.text_encoder_offload_device(),
    )


def read_rows(
    patcher: comfy.model_patcher.ModelPatcher,  # of `managed_unet`
    inputs: Sequence[torch.Tensor],  # of the network, a row per picture; the first is (b, C, h, w)
    scalars: torch.Tensor,  # (1, n) numbers that the network is told, see size_embedding.py
) -> tuple[torch.Tensor, ...]:
    """What a network beside the model answers to pictures, read one by one; on ComfyUI's intermediate device."""
    places, dtype = inputs[0][:, 0].numel(), patcher.model.time_embed[0].weight.dtype
    memory = places * VALUES_PER_PLACE * comfy.model_management.dtype_size(dtype)
    comfy.model_management.load_models_gpu([patcher], memory_required=memory)
    device, keep = patcher.load_device, comfy.model_management.intermediate_device()
    width = patcher.model.config.y_width // scalars.shape[1]
    y = size_embedding.embed(scalars, width).to(device, dtype)
    with torch.no_grad():
        rows = [
            patcher.model(*(value[None].to(device, dtype) for value in row), y) for row in zip(*inputs, strict=True)
        ]
    return tuple(torch.cat(parts).to(keep) for parts in zip(*rows, strict=True))


def network_dtype(weights: Mapping[str, torch.Tensor]) -> torch.dtype:
    """In which dtype a U-Net beside the model computes: what ComfyUI chooses for a U-Net of these weights."""
    device = comfy.model_management.get_torch_device()
    parameters = comfy.utils.calculate_parameters(weights)
    dtype = comfy.model_management.unet_dtype(
        device, model_params=parameters, weight_dtype=comfy.utils.weight_dtype(weights)
    )
    return comfy.model_management.unet_manual_cast(dtype, device) or dtype


def managed_unet(
    kind: type[ReferenceNet] | type[PictureEncoder],
    weights: Mapping[str, torch.Tensor],
    prefix: str,  # of its tensors
    num_head_channels: int,
    part: str,  # what it is, for messages
    node: str,  # which needs it
) -> comfy.model_patcher.ModelPatcher:
    """A U-Net beside the model and the owner of its memory: it is loaded and made room for like a U-Net.

    Raises CheckpointError when its tensors are not complete.
    """
    try:
        network = kind.from_state_dict(weights, prefix, num_head_channels, dtype=network_dtype(weights))
    except (ValueError, KeyError, RuntimeError) as error:
        raise CheckpointError(
            f"The {part} is not complete: {' '.join(str(error).split())[:300]} Download or convert the checkpoint "
            f"again, or work without {node}."
        ) from None
    return comfy.model_patcher.CoreModelPatcher(
        network.requires_grad_(False),
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )
