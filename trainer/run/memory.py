"""How much memory a run takes on a device: weights, gradients, the optimiser's state, and what autograd keeps."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.config import Config
from trainer.run.optimizers import KINDS

GIB = 2**30
LIBRARIES = 0.6  # GiB a GPU process takes for its context and the libraries' workspaces (CUDA 12, cuDNN, cuBLAS)
FRAGMENTS = 1.1  # what the allocator takes for every byte asked of it


@dataclass(frozen=True)
class Estimate:
    """Bytes of one process by what they are for."""

    weights: int
    gradients: int
    optimizer: int
    average: int
    frozen: int
    activations: int | None
    """None: not known for this stage"""
    resting: int = 0
    """frozen weights in CPU memory; not part of the total"""

    @property
    def total(self) -> float:
        """With what the allocator loses and the libraries take."""
        parts = (self.weights, self.gradients, self.optimizer, self.average, self.frozen, self.activations or 0)
        return sum(parts) * FRAGMENTS + LIBRARIES * GIB

    def __str__(self) -> str:
        parts = {
            "weights": self.weights,
            "gradients": self.gradients,
            "optimiser": self.optimizer,
            "average": self.average,
            "frozen networks": self.frozen,
            "activations": self.activations,
        }
        told = ", ".join(f"{name} {size / GIB:.2f}" for name, size in parts.items() if size)
        missing = "" if self.activations is not None else "; activations are not counted for this stage"
        aside = f"; {self.resting / GIB:.2f} at rest in CPU memory" if self.resting else ""
        return f"about {self.total / GIB:.1f} GiB per process: {told}{aside}{missing}"


def estimate(
    config: Config, trained: int, frozen: int, activations: int | None, processes: int = 1, largest: int = 0
) -> Estimate:
    """Memory of a run that trains so many parameters, in float32, beside so many bytes of frozen ones.

    largest: values of the largest trained tensor, the only gradient there is at a time with a fused backward pass (and
    another one that is on its way); 0: not known. ZeRO-2 shares gradients and optimiser state among the processes.
    """
    adam, shared = config.optimizer, processes if config.system.deepspeed else 1
    resting = round(frozen * config.system.layer_offload)
    at_once = min(2 * largest, trained) if adam.fused_backward_pass and largest else trained
    return Estimate(
        weights=4 * trained,
        gradients=4 * at_once // shared,
        optimizer=KINDS[adam.kind].state * trained // shared,
        average=4 * trained if adam.ema and adam.ema_device == "same" else 0,
        frozen=frozen - resting,
        activations=activations,
        resting=resting,
    )
