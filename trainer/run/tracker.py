"""Weights & Biases beside log.jsonl, for who keeps runs there. The package is imported by nobody until a run asks."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Any

from trainer.config import Config, ConfigError
from trainer.packages import present

NAME = "wandb-id.txt"
"""File in the run's folder with the name under which wandb knows it: a resumed run is the same one there."""


def check_package() -> None:
    """ConfigError where wandb is not installed."""
    if not present("wandb"):
        raise ConfigError(
            "report.wandb needs the package wandb: pip install wandb, or clear report.wandb (log.jsonl and tensorboard "
            "have the same numbers)."
        )


def start(config: Config) -> Any:
    """The wandb run of a run, with its configuration without paths; offline where WANDB_MODE does not say otherwise."""
    check_package()
    import wandb

    output = Path(config.run.output)
    if not (output / NAME).is_file():
        (output / NAME).write_text(uuid.uuid4().hex[:16], encoding="utf-8")
    run = wandb.init(
        project=config.report.wandb,
        name=output.name,
        id=(output / NAME).read_text(encoding="utf-8").strip(),
        resume="allow",
        dir=str(output),
        mode=os.environ.get("WANDB_MODE", "offline"),
        config=config.shareable(),
    )
    run.define_metric("*", step_metric="step")  # a resumed run may write some steps again
    return run


def picture(image: Any) -> Any:
    """A sheet (H, W, 3) uint8 as wandb takes it."""
    import wandb

    return wandb.Image(image)
