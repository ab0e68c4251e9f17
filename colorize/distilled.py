"""Students: models that the trainer's stage distill has taught to colour in few steps, without guidance.

What makes a file one is a tensor of two numbers inside the U-Net's part, so that it survives every way a model goes:
files of whole models, LoRAs that ComfyUI's own loader puts on a model, and checkpoints saved again afterwards.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import torch

from . import names
from .sampler_settings import SamplerSettings

SAMPLER = "euler"
"""The sampler of ComfyUI whose steps a student takes, and of the trainer's own."""
SCHEDULER = "simple"
"""ComfyUI's scheduler with the noise levels between a student's steps."""
CFG = 1.0
"""Scale of the sampler: guidance is part of the weights."""


@dataclass(frozen=True)
class Distilled:
    """How a student is run."""

    steps: int
    """It was made for so many; more are possible and bring little."""
    guidance: float
    """Reference guidance that its answers contain."""

    @classmethod
    def from_values(cls, values: torch.Tensor | None) -> Distilled | None:
        """From the marker (2,), or None for a model that is no student: no marker, zeros, or numbers of no sense."""
        if values is None or values.numel() != 2 or not torch.isfinite(values.float()).all():
            return None
        steps, guidance = values.float().flatten().tolist()
        return cls(round(steps), guidance) if 1 <= steps <= 1000 and guidance > 0 else None

    def values(self) -> torch.Tensor:
        """The marker (2,)."""
        return torch.tensor([float(self.steps), self.guidance])

    @property
    def settings(self) -> SamplerSettings:
        """Of a sampler."""
        return SamplerSettings(SAMPLER, SCHEDULER, self.steps, CFG)

    def advice(self) -> str:
        """The settings of a sampler, in words."""
        return self.settings.words()

    def guided_twice(self) -> str:
        """What is wrong with a cfg above 1, and what to do."""
        return (
            f"this model is a student whose answers contain guidance {self.guidance:g} already, and the sampler guides "
            f"it once more: colours get too strong, and it takes twice the time. Set cfg to {CFG:g} ({self.advice()})."
        )

    def marker(self) -> dict[str, torch.Tensor]:
        """The marker as it stands in the file of a whole model."""
        return {names.UNET + names.DISTILLED: self.values()}

    def lora_marker(self) -> dict[str, torch.Tensor]:
        """The marker as it stands in a LoRA: ComfyUI sets the tensor to it."""
        return {f"{names.LORA_UNET}{names.DISTILLED.removesuffix('.weight')}.set_weight": self.values()}

    def header(self) -> dict[str, str]:
        """Metadata for people and model managers."""
        return {names.DISTILLED_FACTS: json.dumps(asdict(self.settings) | {"guidance": self.guidance})}
