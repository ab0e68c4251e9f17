"""Small checkpoints with random weights and the full v1 layout, for tests that need a file or a model.

Widths are multiples of 64: with 32 channels each of the 32 normalisation groups would hold one channel, and the time
embedding, a constant per channel, would vanish.
"""

from __future__ import annotations

import dataclasses

import torch

from colorize.background.picture_encoder import PictureEncoder
from colorize.reference.recovery import BackgroundEncoder, RecoveryTransformer, ScalarEmbedder
from colorize.reference.vision import ReferenceEncoder
from colorize.sketch.encoder import SketchEncoder
from colorize.tiny_vae import TinyVAE
from colorize.unet.config import UNetConfig
from colorize.unet.unet import UNet

CONFIG = UNetConfig(model_channels=64, channel_mult=(1, 1, 1, 2), num_head_channels=32, context_dim=48)
TOKENS = 1 + 4 * 4


def randomised(module: torch.nn.Module, seed: int = 0) -> dict[str, torch.Tensor]:
    """State dict with every tensor random, also those that start at zero, so that a wrong mapping shows."""
    generator = torch.Generator().manual_seed(seed)
    out = {}
    for key, value in module.state_dict().items():
        noise = torch.randn(value.shape, generator=generator)
        if value.ndim == 1 and key.endswith("weight"):
            out[key] = 1 + 0.1 * noise
        elif value.ndim <= 1:
            out[key] = 0.1 * noise
        else:
            out[key] = noise * value[0].numel() ** -0.5
    return out


def prefixed(prefix: str, state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + key: value for key, value in state_dict.items()}


def with_louder_stem(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The checkpoint with weights of the sketch encoder's stem times 1.5: a sketch counts for more than rounding.

    Random convolutions in a row lose what they read: of these checkpoints as they are, another sketch changes a step's
    loss by 1e-4 of itself. With the factor it is 1e-2.
    """
    stem = {key for key, value in tensors.items() if key.startswith("control_encoder.model.") and value.ndim > 1}
    return {key: (value * 1.5 if key in stem else value).contiguous() for key, value in tensors.items()}


def checkpoint(config: UNetConfig = CONFIG, seed: int = 0, vae: bool = True) -> dict[str, torch.Tensor]:
    """A whole v1 checkpoint with the official names, without markers; head width 32 must be told separately."""
    widths = [config.model_channels * m for m in config.channel_mult]
    sketch = SketchEncoder(widths, config.model_channels)
    out = prefixed("model.diffusion_model.", randomised(UNet(config), seed))
    out |= prefixed("control_encoder.", randomised(sketch, seed + 1))
    if vae:
        coder = TinyVAE()
        weights = randomised(coder, seed + 2) | {"vae_scale": torch.tensor(1.0), "vae_shift": torch.tensor(0.0)}
        out |= prefixed("first_stage_model.", weights)
    return out


def checkpoint_v1_5(seed: int = 0, vae: bool = True) -> dict[str, torch.Tensor]:
    """A whole v1.5 checkpoint: `checkpoint` with the same seed, region LoRAs, recovery transformer, thresholds."""
    plain, dim = checkpoint(CONFIG, seed, vae), CONFIG.context_dim
    regions = UNet(dataclasses.replace(CONFIG, region_ranks=(4, 0.5)))
    out = prefixed("model.diffusion_model.", randomised(regions, seed + 7)) | plain
    background = BackgroundEncoder(RecoveryTransformer(dim, 2, TOKENS - 1, heads=1), ScalarEmbedder(32, dim))
    return out | randomised(background, seed + 8)


RATIO_WIDTH = 16  # values per number that the encoders of the tiny v2 file are told


def checkpoint_v2(seed: int = 0, vae: bool = True) -> dict[str, torch.Tensor]:
    """A whole v2 checkpoint: `checkpoint` with the same seed, decoder LoRAs, warps, styles and both encoders."""
    plain = checkpoint(CONFIG, seed, vae)
    unet = UNet(dataclasses.replace(CONFIG, region_ranks=(4, 4), v2=True))
    out = prefixed("model.diffusion_model.", randomised(unet, seed + 7)) | plain
    told = dataclasses.replace(CONFIG, y_width=2 * RATIO_WIDTH)
    out |= prefixed("bg_encoder.", randomised(PictureEncoder(told), seed + 8))
    return out | prefixed("style_encoder.", randomised(PictureEncoder(told, style=True), seed + 9))


METADATA = {"colorize.num_head_channels": "32", "colorize.prediction_type": "v", "colorize.family": "v1"}
METADATA_V1_5 = METADATA | {"colorize.family": "v1.5"}
METADATA_V2 = METADATA | {"colorize.family": "v2"}


def reference_encoder(output_dim: int = CONFIG.context_dim, seed: int = 3) -> ReferenceEncoder:
    """A vision tower of 56 pixels and 17 tokens."""
    encoder = ReferenceEncoder(56, 14, 64, 2, 16, output_dim)
    encoder.visual.load_state_dict(randomised(encoder.visual, seed))
    return encoder.eval()


def drawing(height: int = 128, width: int = 128, batch: int = 1, seed: int = 0) -> torch.Tensor:
    """Comfy picture of dark lines on white paper (B, H, W, 3)."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(batch, height, width, 1, generator=generator) > 0.1).float().expand(-1, -1, -1, 3).contiguous()


def half_mask(left: bool = True, height: int = 64, width: int = 64) -> torch.Tensor:
    """(1, H, W) mask of the left or the right half."""
    mask = torch.zeros(1, height, width)
    mask[:, :, slice(0, width // 2) if left else slice(width // 2, width)] = 1
    return mask


def picture(batch: int = 1, height: int = 40, width: int = 30, seed: int = 0) -> torch.Tensor:
    """Random Comfy picture (B, H, W, 3)."""
    return torch.rand(batch, height, width, 3, generator=torch.Generator().manual_seed(seed))
