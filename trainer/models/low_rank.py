"""What was learned on top of a model as a LoRA: the best low-rank form of the difference of two sets of weights.

The names are those that ComfyUI's own LoRA loader knows for any model: diffusion_model.<layer>.lora_up.weight,
.lora_down.weight, .alpha; .diff and .diff_b for what is no matrix. Source of the form: Eckart and Young (1936) (the
first singular vectors are the best approximation), and the common LoRA files.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from colorize import names


def low_rank_difference(
    before: Mapping[str, torch.Tensor],
    after: Mapping[str, torch.Tensor],
    rank: int,
    dtype: torch.dtype = torch.float16,
) -> dict[str, torch.Tensor]:
    """A LoRA that makes `after` of `before`, weights of a U-Net by their names in it; only what differs.

    A layer whose `rank` factors would be larger than its difference has the difference itself. KeyError for a tensor
    that `before` lacks.
    """
    lora: dict[str, torch.Tensor] = {}
    for name, value in after.items():
        difference = value.float() - before[name].to(value.device).float()
        if not difference.any():
            continue
        layer, _, kind = name.rpartition(".")
        key = names.LORA_UNET + layer
        sides = difference.flatten(1).shape if difference.ndim > 1 else (0, 0)
        if rank * sum(sides) >= sides[0] * sides[1]:
            suffix = {"weight": "diff", "bias": "diff_b"}[kind]
            lora[f"{key}.{suffix}"] = difference.to(dtype)
            continue
        up, down = factors(difference.flatten(1), rank)
        lora[f"{key}.lora_up.weight"] = up.to(dtype).view(*up.shape, *[1] * (difference.ndim - 2))
        lora[f"{key}.lora_down.weight"] = down.to(dtype).view(rank, *difference.shape[1:])
        lora[f"{key}.alpha"] = torch.tensor(float(rank), dtype=dtype)
    return lora


def factors(matrix: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(M, rank) and (rank, N), whose product is the best approximation of a matrix (M, N); equally large."""
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    root = values[:rank].sqrt()
    return left[:, :rank] * root, root[:, None] * right[:rank]


def lora_header(title: str, rank: int) -> dict[str, str]:
    """Metadata of a LoRA, as model managers read it."""
    return {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": "colorize-diffusion/lora",
        "modelspec.implementation": "comfyui-colorize-diffusion",
        "modelspec.title": title,
        "ss_network_dim": str(rank),
    }
