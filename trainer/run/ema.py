"""Exponential moving average of the trained weights.

Source: the latent-diffusion practice the released trainer follows: decay warms up as (1 + n) / (10 + n).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch


class Average(Protocol):
    """Averaged weights that stand in the place of the last ones where a run is looked at."""

    @property
    def shadow(self) -> Mapping[str, torch.Tensor]:
        """The averages by name."""

    def update(self, parameters: Mapping[str, torch.Tensor]) -> None:
        """After every optimiser step."""

    def state_dict(self) -> Mapping[str, torch.Tensor]:
        """What a checkpoint keeps."""

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take what a checkpoint kept."""


class EMA:
    """Shadow copies, by name, of the parameters that are trained; `update` after every optimiser step."""

    def __init__(
        self, parameters: Mapping[str, torch.Tensor], decay: float = 0.9999, device: str | None = None
    ) -> None:
        self.decay = decay
        self.updates = 0
        self.shadow: Mapping[str, torch.Tensor] = {
            name: p.detach().to(device or p.device, copy=True) for name, p in parameters.items()
        }

    @torch.no_grad()
    def update(self, parameters: Mapping[str, torch.Tensor]) -> None:
        """shadow <- d shadow + (1 - d) parameter, d = min(decay, (1 + n) / (10 + n)), n counted from 1."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, shadow in self.shadow.items():
            shadow.lerp_(parameters[name].detach().to(shadow), 1.0 - decay)

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {**self.shadow, "ema_updates": torch.tensor(self.updates)}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        self.updates = int(state["ema_updates"])
        for name, shadow in self.shadow.items():
            shadow.copy_(state[name])
