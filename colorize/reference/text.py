"""The text encoder: the OpenCLIP text tower that shares its space with the reference encoder.

The released models use ViT-H/14 (laion2b_s32b_b79k). As there, the last block is skipped (penultimate layer); then come
the final norm and the projection, the token at the end of the text is taken and brought to length 1 (released code;
FACTS section 5). The tower and the tokenizer are open_clip's own; the tokenizer's word list lies in that package, so
nothing is downloaded.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..weight_files import count_numbered, metadata_number, reads_strange_sizes
from .vision import hugging_face_blocks

Weights = Mapping[str, torch.Tensor]

HEAD_WIDTH = 64  # of every published OpenCLIP text tower
SKIPPED_BLOCKS = 1
VOCABULARY = 49408  # tokens of CLIP's byte pair encoding

# A tensor that only a text tower has, in both layouts; what stands before it is the tower's prefix in the file.
HF_MARK = "text_model.embeddings.token_embedding.weight"
OPEN_CLIP_MARK = "token_embedding.weight"

# open_clip name -> Hugging Face name (CLIPTextModelWithProjection), outside the blocks.
HF_NAMES = {
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
}


class TextEncoder(nn.Module):
    """A CLIP text tower without its last block. Build it with `load_text_encoder` or from sizes."""

    def __init__(
        self,
        width: int,
        layers: int,  # blocks that are computed: one less than the file has
        head_width: int,
        output_dim: int,
        vocabulary: int = VOCABULARY,
        context_length: int = 77,
        mlp_ratio: float = 4.0,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        from open_clip.transformer import TextTransformer

        self.width = width
        self.output_dim = output_dim
        self.vocabulary = vocabulary
        self.context_length = context_length
        with torch.device(device or torch.get_default_device()):
            # pool_type "none" makes open_clip normalise and project every token.
            self.text = TextTransformer(
                context_length=context_length,
                vocab_size=vocabulary,
                width=width,
                heads=width // head_width,
                layers=layers,
                mlp_ratio=mlp_ratio,
                output_dim=output_dim,
                pool_type="none",
            )

    def tokens(self, ids: torch.Tensor) -> torch.Tensor:
        """Token ids (n, context_length) -> projected tokens (n, context_length, D)."""
        return self.text(ids)

    def encode_ids(self, ids: torch.Tensor) -> torch.Tensor:
        """Token ids (n, context_length) -> text vectors (n, D) of length 1: the token at the largest id, the end."""
        tokens = self.tokens(ids)
        ends = tokens[torch.arange(len(ids), device=ids.device), ids.argmax(dim=-1)]
        return F.normalize(ends, dim=-1)

    def encode(self, texts: Sequence[str]) -> torch.Tensor:
        """Texts -> vectors (n, D) of length 1. Too long texts are cut; see `token_counts`."""
        device = self.text.token_embedding.weight.device
        return self.encode_ids(tokenize(texts, self.context_length).to(device))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.encode_ids(ids)


# -- texts -> ids ------------------------------------------------------------------------------------------------------


@functools.cache
def _tokenizer() -> Any:
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer()


def tokenize(texts: Sequence[str], context_length: int = 77) -> torch.Tensor:
    """Texts in any language -> ids (n, context_length) of CLIP's byte pair encoding, lower case, start and end added.

    What is longer is cut, the end stays. Needs no network.
    """
    return _tokenizer()(list(texts), context_length)


def token_counts(texts: Sequence[str]) -> list[int]:
    """How many tokens each text has, with start and end."""
    return [len(_tokenizer().encode(text)) + 2 for text in texts]


# -- files -------------------------------------------------------------------------------------------------------------


def find_text_tower(state_dict: Weights) -> dict[str, torch.Tensor]:
    """The text tower of a file in open_clip's names. Other tensors are left behind. Raises ValueError without one."""
    for key in state_dict:
        if key.endswith(HF_MARK):
            return _from_hugging_face(state_dict, key.removesuffix(HF_MARK))
    for key in state_dict:
        if key.endswith(OPEN_CLIP_MARK):
            prefix = key.removesuffix(OPEN_CLIP_MARK)
            names = ("token_embedding.", "ln_final.", "transformer.resblocks.")
            whole = ("positional_embedding", "text_projection")
            tower = {k.removeprefix(prefix): v for k, v in state_dict.items() if k.startswith(prefix)}
            tower = {k: v for k, v in tower.items() if k in whole or k.startswith(names)}
            return _checked(tower, f"{prefix}text_projection")
    found = ", ".join(list(state_dict)[:10]) or "nothing"
    raise ValueError(
        f"No CLIP text tower found in this file; it holds {found}. Choose the file of the whole CLIP (for the released "
        "models: OpenCLIP ViT-H/14, laion2b_s32b_b79k), in open_clip or Hugging Face layout; files for CLIP vision "
        "alone have no text tower."
    )


def _from_hugging_face(weights: Weights, prefix: str) -> dict[str, torch.Tensor]:
    """Rename the tensors of a CLIPTextModelWithProjection to open_clip's names, with q, k, v joined."""
    renamed = {ours: weights[prefix + theirs] for ours, theirs in HF_NAMES.items() if prefix + theirs in weights}
    if f"{prefix}text_projection.weight" in weights:
        renamed["text_projection"] = weights[f"{prefix}text_projection.weight"].T.contiguous()
    renamed.update(hugging_face_blocks(weights, f"{prefix}text_model."))
    return _checked(renamed, f"{prefix}text_projection.weight")


def _checked(tower: dict[str, torch.Tensor], projection: str) -> dict[str, torch.Tensor]:
    if "text_projection" not in tower:
        raise ValueError(
            f"This text tower has no projection ({projection}), so its words cannot be compared with a reference. Text "
            "encoders made for Stable Diffusion 2.1 leave it out; use the file of the whole CLIP."
        )
    return tower


@reads_strange_sizes("text tower")
def load_text_encoder(
    state_dict: Weights,
    metadata: Mapping[str, str] | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> TextEncoder:
    """Build a text encoder with the sizes of the tensors, and load them (strict, but for the skipped last block).

    The head width comes from the metadata `colorize.text_head_width`, else it is 64. Raises ValueError.
    """
    tower = find_text_tower(state_dict)
    blocks = (key.split(".")[2] for key in tower if key.startswith("transformer.resblocks."))
    layers = count_numbered(blocks, "blocks of the text tower (transformer.resblocks)") - SKIPPED_BLOCKS
    if layers < 1:
        raise ValueError("The text tower has one block; expected at least two. It is not complete: download it again.")
    words = tower["token_embedding.weight"]
    width = words.shape[1]
    head_width = metadata_number(metadata, "colorize.text_head_width", HEAD_WIDTH, 1, width)
    if width % head_width:
        raise ValueError(
            f"The text tower has the width {width}, which heads of {head_width} do not divide; add the metadata "
            "colorize.text_head_width to the file."
        )
    encoder = TextEncoder(
        width=width,
        layers=layers,
        head_width=head_width,
        output_dim=tower["text_projection"].shape[1],
        vocabulary=words.shape[0],
        context_length=tower["positional_embedding"].shape[0],
        mlp_ratio=tower["transformer.resblocks.0.mlp.c_fc.weight"].shape[0] / width,
        device="meta",
    )
    device, dtype = device or words.device, dtype or words.dtype
    last = f"transformer.resblocks.{layers}."
    kept = {k: v.to(device=device, dtype=dtype) for k, v in tower.items() if not k.startswith(last)}
    encoder.text.load_state_dict(kept, assign=True)
    length = encoder.context_length  # the mask is no parameter and would stay on "meta"
    mask = torch.full((length, length), float("-inf"), device=device, dtype=dtype).triu(1)
    encoder.text.register_buffer("attn_mask", mask, persistent=False)
    return encoder.requires_grad_(False).eval()
