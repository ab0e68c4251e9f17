"""One row of the table of stages: everything that the rest of the trainer asks about a stage without building it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from trainer.config import Config

from .cost import Cost
from .stage import Stage


def nothing(config: Config) -> tuple[str, ...]:
    """No needs, no encodings."""
    return ()


def no_check(config: Config) -> None:
    """Whatever the configuration says is right."""


@dataclass(frozen=True)
class Row:
    """What a stage builds, needs, refuses, keeps, costs and exports."""

    build: Callable[[Config, torch.device], Stage]
    reads: tuple[str, ...]
    """parts and numbers of a picture that it reads in any case (data/folder.py)"""
    exports: tuple[str, ...]
    """networks in the file it writes, in words"""
    cost: Callable[[Config], Cost]
    also_reads: Callable[[Config], tuple[str, ...]] = nothing
    """further ones, where the configuration asks for them"""
    files: Mapping[str, str] = field(default_factory=dict)
    """keys of [model] that must name a file -> what it needs there, or why"""
    autoencoder: bool = False
    """whether it needs one, of a file of its own or inside the model it starts from"""
    both_starts: bool = False
    """whether model.init and model.init_from go together"""
    options: frozenset[str] = frozenset()
    """those of table.OPTIONS that it has"""
    bucket_cells: int = 0
    """what the sides of a bucket are multiples of, in pixels; 0: pictures of one shape only"""
    encodings: Callable[[Config], tuple[str, ...]] = nothing
    """kinds of encodings (cache/recipes.py) that a run reads again and again"""
    warps: bool = False
    """whether it cuts pictures as the released AnimeDiffusion does, and warps references itself"""
    sizes: Callable[[Config], object] | None = None
    """sizes of its network where it starts from random weights; raises ValueError for those that do not go together"""
    check: Callable[[Config], None] = no_check
    """raises ConfigError for what else does not go together"""
