"""Reading what training runs of the tests have logged."""

from __future__ import annotations

import json
from pathlib import Path

from trainer import config as configuration
from trainer.run.loop import train


def logged(folder: Path) -> list[dict]:
    """The lines of a run's log, in order."""
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def losses(values: dict, output: Path) -> list[dict]:
    """The loss terms of every step of a run on one thread: sums of more threads may differ in the last bit."""
    own = {"run": values["run"] | {"output": str(output)}, "system": values.get("system", {}) | {"threads": 1}}
    file = train(configuration.build(values | own))
    return [{k: line[k] for k in ("denoising", "gram", "grad_norm") if k in line} for line in logged(file.parent)]
