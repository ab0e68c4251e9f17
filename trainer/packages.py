"""The packages a command needs, looked for before it works: hours of work must not end in a missing import."""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable

from trainer.config import ConfigError

# What a command needs besides the packages that ComfyUI brings.
ALWAYS = {"train": ("accelerate",), "cache": ("accelerate",), "evaluate-faces": ("torchmetrics",)}
FOR_OPTIONS: dict[str, Callable[[argparse.Namespace], tuple[str, ...]]] = {
    "evaluate": lambda args: ("torchmetrics",) if "deformed" in args.protocol else (),
}


def present(name: str) -> bool:
    """Whether a package can be imported, without importing it."""
    return importlib.util.find_spec(name) is not None


def check(command: str, args: argparse.Namespace | None = None) -> None:
    """Raise ConfigError naming every package that `command`, with these options, needs and does not find."""
    needs: tuple[str, ...] = ALWAYS.get(command, ())
    if args is not None and command in FOR_OPTIONS:
        needs += FOR_OPTIONS[command](args)
    missing = [name for name in needs if not present(name)]
    if missing:
        raise ConfigError(
            f"`{command}` needs {' and '.join(missing)}, which this Python does not have. In this folder, install the "
            'trainer\'s packages, pip install ".[trainer]", or let quickstart do it: python quickstart.py --trainer '
            f"{command} ..."
        )
