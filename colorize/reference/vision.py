"""The reference encoder: an OpenCLIP vision tower whose every token is normalised and projected.

The released models use ViT-H/14 (laion2b_s32b_b79k). Plain CLIP projects the class token only; this family projects all
tokens, so that the cross-attention sees 1 + N tokens of the text-image space (released code; FACTS section 5).
The tower is open_clip's own, batch first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import nn

from ..pictures.ranges import model_to_unit
from .fitting import fitted

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

# Width of the tower -> width of one attention head, for files that do not say it (ViT-B, L, H, bigG).
KNOWN_HEAD_WIDTHS = {768: 64, 1024: 64, 1280: 80, 1664: 104}

# Where a tower may stand in a file: bare, in a CLIP of open_clip, in the released inference object.
PREFIXES = ("", "visual.", "cond_stage_model.visual.model.", "model.visual.")

# open_clip name -> Hugging Face name (CLIPVisionModelWithProjection), outside and inside the blocks.
HF_NAMES = {
    "class_embedding": "vision_model.embeddings.class_embedding",
    "conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "ln_pre": "vision_model.pre_layrnorm",
    "ln_post": "vision_model.post_layernorm",
}
HF_BLOCK_NAMES = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


def preprocess(image: torch.Tensor, size: int, fit: str = "stretch") -> torch.Tensor:
    """Picture (B, 3, H, W) in [-1, 1], any size -> CLIP pixels (B, 3, size, size).

    The `fitted` picture (fitting.py) is squashed to the square as in training (bicubic, corners aligned, antialiased).
    The resampled values are not clamped (released code).
    """
    pixels = F.interpolate(fitted(image, fit), (size, size), mode="bicubic", align_corners=True, antialias=True)
    mean = torch.tensor(CLIP_MEAN, device=pixels.device, dtype=pixels.dtype).view(1, 3, 1, 1)
    std = torch.tensor(CLIP_STD, device=pixels.device, dtype=pixels.dtype).view(1, 3, 1, 1)
    return (model_to_unit(pixels) - mean) / std


def enlarge_positions(positions: torch.Tensor, scale: int) -> torch.Tensor:
    """Positional embedding (1 + g*g, W) -> (1 + (scale g)^2, W), bicubic; the class token keeps its position."""
    grid = math.isqrt(positions.shape[0] - 1)
    table = positions[1:].T.reshape(1, -1, grid, grid).float()
    table = F.interpolate(table, scale_factor=scale, mode="bicubic", align_corners=False)
    return torch.cat([positions[:1], table.flatten(2)[0].T.to(positions.dtype)])


class ReferenceEncoder(nn.Module):
    """A CLIP vision tower that answers all tokens. Build it with `load_reference_encoder` or from sizes."""

    def __init__(
        self,
        image_size: int,
        patch_size: int,
        width: int,
        layers: int,
        head_width: int,
        output_dim: int,
        mlp_ratio: float = 4.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        from open_clip.transformer import VisionTransformer

        self.image_size = image_size
        self.width = width
        self.head_width = head_width
        self.output_dim = output_dim
        self.token_count = 1 + (image_size // patch_size) ** 2
        with torch.device(device or torch.get_default_device()):
            # pool_type "none" makes open_clip normalise and project every token.
            self.visual = VisionTransformer(
                image_size=image_size,
                patch_size=patch_size,
                width=width,
                layers=layers,
                heads=width // head_width,
                mlp_ratio=mlp_ratio,
                output_dim=output_dim,
                pool_type="none",
            )
        if dtype is not None:
            self.to(dtype)

    def working_values(self) -> int:
        """How many numbers the work on one picture holds at most: a block has about 12 tensors of its token width (q,
        k, v, attention, 4x MLP, residuals)."""
        return 12 * self.token_count * self.width

    def tokens(self, pixels: torch.Tensor, scale: int = 1) -> torch.Tensor:
        """CLIP pixels (B, 3, S, S) -> tokens (B, 1 + N, D). With `scale` > 1, S is that multiple of `image_size`."""
        if scale == 1:
            return self.visual(pixels)
        positions = enlarge_positions(self.visual.positional_embedding, scale)
        return torch.func.functional_call(self.visual, {"positional_embedding": positions}, (pixels,))

    def encode(self, image: torch.Tensor, fit: str = "stretch", scale: int = 1) -> torch.Tensor:
        """Picture (B, 3, H, W) in [-1, 1] -> CLS and local tokens (B, 1 + N, D), not L2-normalised."""
        pixels = preprocess(image.float(), self.image_size * scale, fit)
        return self.tokens(pixels.to(self.visual.conv1.weight.dtype), scale)

    def forward(self, image: torch.Tensor, fit: str = "stretch") -> torch.Tensor:
        return self.encode(image, fit)


def _from_hugging_face(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename the tensors of a CLIPVisionModelWithProjection to open_clip's names, with q, k, v joined."""
    renamed = {"proj": weights["visual_projection.weight"].T.contiguous()}
    for ours, theirs in HF_NAMES.items():
        for suffix in ("", ".weight", ".bias"):
            if theirs + suffix in weights:
                renamed[ours + suffix] = weights[theirs + suffix]
    # HF keeps the class embedding flat in new files and as (1, 1, W) in some old ones.
    renamed["class_embedding"] = renamed["class_embedding"].flatten()
    renamed.update(hugging_face_blocks(weights, "vision_model."))
    return renamed


def hugging_face_blocks(weights: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """Blocks below `prefix`encoder.layers of a CLIP tower (either kind), in open_clip's names, q, k, v joined."""
    renamed, layer = {}, 0
    while f"{prefix}encoder.layers.{layer}.layer_norm1.weight" in weights:
        source, target = f"{prefix}encoder.layers.{layer}.", f"transformer.resblocks.{layer}."
        for kind in ("weight", "bias"):
            for ours, theirs in HF_BLOCK_NAMES.items():
                renamed[f"{target}{ours}.{kind}"] = weights[f"{source}{theirs}.{kind}"]
            joined = [weights[f"{source}self_attn.{part}_proj.{kind}"] for part in "qkv"]
            renamed[f"{target}attn.in_proj_{kind}"] = torch.cat(joined)
        layer += 1
    return renamed


def find_tower(state_dict: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The vision tower of a file in open_clip's names. Tensors of a text tower are left behind."""
    if "vision_model.embeddings.patch_embedding.weight" in state_dict:
        if "visual_projection.weight" not in state_dict:
            raise ValueError(
                "This CLIP vision file has no visual_projection.weight, so its tokens cannot be projected. "
                "Use the file of the whole vision model with projection (CLIPVisionModelWithProjection)."
            )
        return _from_hugging_face(state_dict)
    for prefix in PREFIXES:
        if f"{prefix}conv1.weight" in state_dict and f"{prefix}class_embedding" in state_dict:
            names = ("conv1.", "ln_pre.", "ln_post.", "transformer.resblocks.")
            whole = ("class_embedding", "positional_embedding", "proj")
            tower = {k.removeprefix(prefix): v for k, v in state_dict.items() if k.startswith(prefix)}
            return {k: v for k, v in tower.items() if k in whole or k.startswith(names)}
    found = ", ".join(list(state_dict)[:10]) or "nothing"
    raise ValueError(
        f"No CLIP vision tower found in this file; it holds {found}. Choose a vision encoder (for the released models: "
        "OpenCLIP ViT-H/14) from the clip_vision folder, in open_clip or Hugging Face layout."
    )
