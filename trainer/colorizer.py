"""A whole colouriser outside ComfyUI: sketch and reference in, picture out; for sample sheets and the commands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from model_patches import families
from model_patches.networks import guidance, sampling
from model_patches.networks.schedule import NoiseSchedule
from model_patches.networks.sketch_encoder import SketchEncoder
from model_patches.networks.unet import UNet, unet_config_from_state_dict
from model_patches.networks.vision import ReferenceEncoder, load_reference_encoder
from trainer import autoencoder, checkpoint
from trainer.autoencoder import Autoencoder
from trainer.config import ConfigError

UNET = "model.diffusion_model."
SKETCH = "control_encoder."


@dataclass
class Colorizer:
    """The four networks of a v1 model and what its U-Net predicts ("v" or "eps")."""

    unet: UNet
    sketch_encoder: SketchEncoder
    autoencoder: Autoencoder
    reference_encoder: ReferenceEncoder
    prediction_type: str

    @classmethod
    def from_files(cls, checkpoint_path: str, encoder_path: str, device: torch.device) -> Colorizer:
        """Read a checkpoint in the official v1 layout and a reference encoder, in float32."""
        tensors, metadata = checkpoint.read_tensors(Path(checkpoint_path))
        unet, sketch_encoder = networks_from(tensors, metadata)
        prediction, _ = families.prediction_type(tensors, metadata, checkpoint_path)
        return cls(
            unet.to(device).eval(),
            sketch_encoder.to(device).eval(),
            autoencoder.from_tensors(tensors, checkpoint_path).to(device),
            read_encoder(encoder_path).to(device),
            prediction,
        )

    def tokens(self, references: torch.Tensor) -> torch.Tensor:
        """References (B, 3, H, W) in [-1, 1] -> local tokens (B, N, D); released models drop the class token too."""
        with torch.no_grad():
            return self.reference_encoder.encode(references)[:, 1:]

    @torch.no_grad()
    def generate(
        self,
        sketches: torch.Tensor,  # (B, 3, H, W) in [-1, 1], white lines on black
        tokens: torch.Tensor,  # (B, N, D); zeros for "no reference"
        steps: int,
        guidance_scale: float,
        generator: torch.Generator,
    ) -> torch.Tensor:
        """Pictures (B, 3, H, W) in [-1, 1], sampled with DPM-Solver++ from noise of `generator` (CPU)."""
        control = self.sketch_encoder(sketches)
        shape = (len(sketches), self.unet.config.in_channels, sketches.shape[-2] // 8, sketches.shape[-1] // 8)
        noise = torch.randn(shape, generator=generator).to(sketches.device)
        schedule = NoiseSchedule().to(sketches.device)

        def predict(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            if guidance_scale == 1:
                return self.unet(x, t, tokens, control).float()
            both = self.unet(
                x.repeat(2, 1, 1, 1),
                t.repeat(2),
                torch.cat([tokens, torch.zeros_like(tokens)]),
                [c.repeat(2, 1, 1, 1) for c in control],
            )
            return guidance.single_guidance(*both.float().chunk(2), guidance_scale)

        return self.autoencoder.decode(
            sampling.sample_dpm_solver(predict, noise, schedule, self.prediction_type, steps)
        )


def networks_from(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> tuple[UNet, SketchEncoder]:
    """U-Net and sketch encoder of a file in the official v1 layout, float32."""
    heads = metadata.get("colorize.num_head_channels")
    config = unet_config_from_state_dict(tensors, UNET, int(heads) if heads else None)
    unet = UNet(config)
    try:
        unet.load_state_dict({k.removeprefix(UNET): v for k, v in tensors.items() if k.startswith(UNET)})
    except RuntimeError as error:
        raise ConfigError(f"The U-Net is not one of the v1 layout: {error}") from None
    return unet, SketchEncoder.from_state_dict(tensors, SKETCH, dtype=torch.float32)


def read_encoder(path: str) -> ReferenceEncoder:
    """Read a reference encoder in float32."""
    tensors, metadata = checkpoint.read_tensors(Path(path))
    return load_reference_encoder(tensors, metadata, dtype=torch.float32)
