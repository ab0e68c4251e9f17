"""Recovery transformer and threshold embedding of a v1.5 checkpoint as a managed model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import comfy.model_management
import comfy.model_patcher
import torch

from ...colorize import names
from ...colorize.families import CheckpointError
from ...colorize.reference.recovery import BackgroundEncoder
from .managed import managed


@dataclass(frozen=True, eq=False)
class LoadedBackgroundEncoder:
    """The two networks with the patcher that owns their memory. They run once per Apply Reference, in float32."""

    network: BackgroundEncoder
    patcher: comfy.model_patcher.ModelPatcher = field(repr=False)

    @classmethod
    def from_state_dict(cls, state_dict: Mapping[str, torch.Tensor], label: str) -> LoadedBackgroundEncoder | None:
        """From a checkpoint's tensors; None when it has neither network. Raises CheckpointError for incomplete ones."""
        if not any(key.startswith(names.RECOVERY_PARTS) for key in state_dict):
            return None
        try:
            network = BackgroundEncoder.from_state_dict(state_dict).requires_grad_(False).eval()
        except ValueError as error:
            raise CheckpointError(
                f"{label} is an incomplete v1.5 checkpoint: {error} Download or convert it again."
            ) from None
        return cls(network, managed(network))

    def figure(self, tokens: torch.Tensor, threshold: float) -> torch.Tensor:
        """Figure tokens (B, N, D) as the released inference makes them; see colorize.reference.recovery."""
        return self._run(lambda network, values: network.figure(values, threshold), tokens)

    def background(self, tokens: torch.Tensor, threshold: float, recover: bool = True) -> torch.Tensor:
        """Background tokens (B, L, D) from tokens (B, N, D); see colorize.reference.recovery."""
        return self._run(lambda network, values: network.background(values, threshold, recover), tokens)

    def _run(self, compute: Callable[..., torch.Tensor], tokens: torch.Tensor) -> torch.Tensor:
        comfy.model_management.load_models_gpu([self.patcher], memory_required=32 * tokens.numel() * 4)
        with torch.no_grad():
            answer = compute(self.network, tokens.to(self.patcher.load_device, torch.float32))
        return answer.to(comfy.model_management.intermediate_device())
