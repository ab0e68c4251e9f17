"""Stage encoder: a small vision tower learns to say which part of a drawing has which colour.

The released models use OpenCLIP ViT-H/14, trained on two billion pictures. The small bundled model needs a tower that
fits in a few megabytes, so this stage trains one with the labels of the procedural world: from the tokens, one query
per region must read the region's mean colour, and every local token must know the mean colour of its patch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from colorize.reference.vision import ReferenceEncoder, preprocess
from trainer.config import Config, Model
from trainer.draws import Draws
from trainer.models import checkpoint
from trainer.pictures import Batch, contact_sheet, picture
from trainer.world import REGION_NAMES

from .cost import Cost, count
from .stage import Stage

HEAD_WIDTH = 64  # of one attention head, as in the large towers; narrower towers have one head
SMALLEST_REGION = 0.001  # share of the picture below which a region's colour is not asked for


def new_tower(model: Model, device: str | None = None) -> ReferenceEncoder:
    """A random tower of the configured sizes."""
    head_width = min(HEAD_WIDTH, model.encoder_width)
    return ReferenceEncoder(
        image_size=model.encoder_size,
        patch_size=model.encoder_patch,
        width=model.encoder_width,
        layers=model.encoder_layers,
        head_width=head_width,
        output_dim=model.encoder_width,
        device=device,
    )


def region_colors(pictures: torch.Tensor, regions: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean colours (B, R, 3) of each region of pictures (B, 3, H, W) with labels (B, 1, H, W), and shares (B, R)."""
    inside = F.one_hot(regions[:, 0].long(), count).flatten(1, 2).float()  # (B, H*W, R)
    colors = inside.transpose(1, 2) @ pictures.flatten(2).transpose(1, 2)
    area = inside.sum(1)
    return colors / area.clamp_min(1)[..., None], area / inside.shape[1]


class ColorReader(nn.Module):
    """One learnt query per region attends over the tokens (B, M, D) and answers a colour (B, R, 3)."""

    def __init__(self, width: int, regions: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(regions, width))
        self.key, self.value = nn.Linear(width, width), nn.Linear(width, width)
        self.head = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, 3))
        self.patch = nn.Linear(width, 3)

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        queries = self.queries.to(tokens).expand(len(tokens), -1, -1)
        read = F.scaled_dot_product_attention(queries, self.key(tokens), self.value(tokens))
        return self.head(read), self.patch(tokens[:, 1:])


def cost(config: Config) -> Cost:
    """Of stage encoder."""
    tower = new_tower(config.model, device="meta")
    tokens = f"tokens    ({config.optimizer.batch}, {tower.token_count}, {tower.output_dim})"
    return Cost({"reference encoder": count(tower.parameters())}, {}, (tokens,))


class EncoderStage(Stage):
    """Trains the tower under `visual.*`; the reader (`reader.*`) is thrown away on export."""

    def __init__(self, config: Config, device: torch.device) -> None:
        super().__init__(config, device)
        model = config.model
        encoder = new_tower(model)
        self.visual = encoder.visual
        self.reader = ColorReader(model.encoder_width, len(REGION_NAMES))
        self._encoder = (encoder,)

    def forward(self, batch: Batch, draws: Draws, progress: float = 0.0) -> dict[str, torch.Tensor]:
        model = self.config.model
        pictures = picture(batch["color"])
        thin = (..., slice(None, None, 2), slice(None, None, 2))  # a quarter of the pixels tells a mean colour as well
        colors, shares = region_colors(pictures[thin], batch["regions"][thin], len(REGION_NAMES))
        answered, patches = self.reader(self.visual(preprocess(pictures, model.encoder_size)))
        asked = (shares > SMALLEST_REGION).float()[..., None]
        wanted = F.adaptive_avg_pool2d(pictures, model.encoder_size // model.encoder_patch).flatten(2).transpose(1, 2)
        errors = (answered.float() - colors).abs().mean(2, keepdim=True) * asked
        # The mean of every picture, then of the batch: so processes that share a batch agree with one that has it all.
        return {
            "regions": (errors.sum((1, 2)) / asked.sum((1, 2)).clamp_min(1)).mean(),
            "patches": 0.5 * F.l1_loss(patches.float(), wanted),
        }

    @torch.no_grad()
    def sheet(self, batch: Batch, draws: Draws) -> np.ndarray:
        """Columns: picture, the colours read from its tokens painted into its regions."""
        pictures = picture(batch["color"])
        answered, _ = self.reader(self.visual(preprocess(pictures, self.config.model.encoder_size)))
        labels = batch["regions"][:, 0].long()
        painted = torch.stack(
            [colors[label].permute(2, 0, 1) for colors, label in zip(answered.float(), labels, strict=True)]
        )
        return contact_sheet([pictures, painted])

    def export(self, weights: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
        tensors = {k: v for k, v in weights.items() if k.startswith("visual.")}
        size = self.config.model.encoder_size
        metadata = checkpoint.modelspec(Path(self.config.run.output).name, "clip-vision", size, None)
        metadata |= {
            "colorize.kind": "reference_encoder",
            "colorize.image_size": str(size),
            "colorize.head_width": str(self._encoder[0].head_width),
            "colorize.config": json.dumps(self.config.shareable()),
        }
        return tensors, metadata
