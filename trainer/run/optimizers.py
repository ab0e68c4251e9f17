"""The optimisers: what each needs, what its state takes, and the average that is a part of one of them.

AdamW and Adafactor (Shazeer and Stern, arXiv 1804.04235) are torch's; AdamW in 8 bits is bitsandbytes'; Lion (Chen et
al., arXiv 2302.06675), Prodigy (Mishchenko and Defazio, arXiv 2306.06101), D-Adaptation (arXiv 2301.07733) and
schedule-free AdamW (Defazio et al., arXiv 2405.15682) come from the package pytorch_optimizer.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from trainer.config import ConfigError, Optimizer
from trainer.packages import present

log = logging.getLogger("trainer")


class OptimizerKind(NamedTuple):
    """An optimiser of a package."""

    state: int
    """bytes of its state for a trained parameter"""
    package: str = ""
    """needed beside torch"""
    name: str = ""
    """of its class in OTHERS"""

    @property
    def install(self) -> str:
        """What pip calls the package."""
        return self.package.replace("_", "-")


OTHERS = "pytorch_optimizer"
"""Package of the optimisers that torch does not have."""
KINDS = {
    "adamw": OptimizerKind(8),
    "adamw8bit": OptimizerKind(2, "bitsandbytes"),
    # next to nothing for matrices; of a 3x3 kernel, rows and columns of the 3x3 are kept
    "adafactor": OptimizerKind(2),
    "lion": OptimizerKind(4, OTHERS, "Lion"),
    "prodigy": OptimizerKind(16, OTHERS, "Prodigy"),
    "dadapt": OptimizerKind(12, OTHERS, "DAdaptAdam"),
    "schedule_free": OptimizerKind(8, OTHERS, "ScheduleFreeAdamW"),
}


def check(settings: Optimizer, device: str) -> None:
    """ConfigError where the configured optimiser cannot run: on a device of this type, with these packages."""
    kind, name = KINDS[settings.kind], settings.kind
    if kind.package and not present(kind.package):
        raise ConfigError(
            f'optimizer.kind = "{name}" needs the package {kind.package}: pip install {kind.install}, '
            'or set optimizer.kind = "adamw".'
        )
    if name == "adamw8bit" and device == "cpu":
        raise ConfigError('optimizer.kind = "adamw8bit" needs a GPU; set optimizer.kind = "adamw" here.')


def new_optimizer(
    parameters: Iterable[nn.Parameter] | list[dict[str, Any]],  # or groups of schedules.parameter_groups
    settings: Optimizer,
    device: torch.device,
) -> torch.optim.Optimizer:
    """The optimiser of the configured kind. ConfigError where it cannot run here."""
    check(settings, device.type)
    groups: list[Any] = list(parameters)
    plain: dict[str, Any] = {"lr": settings.lr, "weight_decay": settings.weight_decay}
    options = plain | {"betas": tuple(settings.betas)}
    if settings.kind == "adafactor":
        return torch.optim.Adafactor(groups, **plain)
    if settings.kind == "adamw8bit":
        from bitsandbytes.optim import AdamW8bit

        return AdamW8bit(groups, **options)
    kind = KINDS[settings.kind]
    if kind.package == OTHERS:
        import pytorch_optimizer

        decoupled = {} if settings.kind == "schedule_free" else {"weight_decouple": True}
        return getattr(pytorch_optimizer, kind.name)(groups, **options, **decoupled)
    if settings.fused:
        try:
            return torch.optim.AdamW(groups, fused=True, **options)
        except (RuntimeError, ValueError) as error:
            log.info("no fused AdamW on %s (%s); the plain one is used", device, error)
    return torch.optim.AdamW(groups, **options)


class ScheduleFreeAverage:
    """The averaged weights of schedule-free training, which stand in the place of a moving average (ema.py).

    Trained are y = (1 - b) z + b x, with z in the optimiser's state and b its first beta; shown and exported is x.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
        self.parameters, self.optimizer = parameters, optimizer

    @property
    @torch.no_grad()
    def shadow(self) -> dict[str, torch.Tensor]:
        """x by name, copies; before the first step the weights themselves."""
        beta = {p: group["betas"][0] for group in self.optimizer.param_groups for p in group["params"]}
        state = self.optimizer.state
        return {
            name: p.detach().lerp(state[p]["z"], 1 - 1 / beta[p]) if state.get(p) else p.detach().clone()
            for name, p in self.parameters.items()
        }

    def update(self, parameters: Mapping[str, torch.Tensor]) -> None:
        """Nothing: the optimiser's step keeps the average."""

    def state_dict(self) -> dict[str, torch.Tensor]:
        """x, for `convert`."""
        return self.shadow

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Nothing: the optimiser's state tells all."""
