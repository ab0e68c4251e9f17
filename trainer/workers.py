"""Who does a command's work: the crew that its options ask for, and the processes of `accelerate launch`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from spread import on_ray
from spread.crew import Crew
from trainer.config import ConfigError

if TYPE_CHECKING:
    import torch

LONGEST_WAIT = timedelta(days=7)
"""For the slowest of a team: a share of a long evaluation may take hours longer than another."""


def add_crew_arguments(parser: argparse.ArgumentParser, usual: str = "all cores") -> None:
    """--workers and --ray; `crew_of` reads them."""
    parser.add_argument(
        "--workers", type=int, default=None, help=f"processes (default: {usual}; on Ray every GPU or core it has)"
    )
    parser.add_argument(
        "--ray",
        default="",
        metavar="ADDRESS",
        help="work on a Ray cluster, whose machines see the same folders: its address, or auto for the one that this "
        "machine belongs to",
    )


def crew_of(args: argparse.Namespace, usual: int = 0, gpu: bool = False) -> Crew:
    """Who works, as the options say. usual: processes without --workers, 0: all cores. gpu: each wants a GPU, if any.

    Raises ConfigError, and SpreadError for a cluster that is not there.
    """
    if args.workers is not None and args.workers < 1:
        raise ConfigError(f"--workers is {args.workers}; choose 1 or more.")
    if args.ray:
        _, gpus = on_ray.machines_and_gpus(args.ray)
        return Crew(args.workers or 0, args.ray, int(gpu and gpus > 0))
    return Crew(args.workers or usual or os.cpu_count() or 1)


@dataclass(frozen=True)
class Team:
    """The processes of one command under `accelerate launch`; alone without it. They share work, not memory."""

    index: int = 0
    count: int = 1
    wait: Callable[[], None] = lambda: None
    """Returns when every process has called it."""

    @property
    def main(self) -> bool:
        """Whether this process speaks and writes for all."""
        return self.index == 0

    @classmethod
    def launched(cls) -> Team:
        """As `accelerate launch` (or torchrun) says in the environment."""
        if process_count() < 2:
            return cls()
        from accelerate import PartialState

        state = PartialState(cpu=device().type == "cpu", timeout=LONGEST_WAIT)
        return cls(state.process_index, state.num_processes, state.wait_for_everyone)


def process_count() -> int:
    """How many processes `accelerate launch` (or torchrun) started for this command; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def device_of(crew: Crew) -> torch.device:
    """What each of a crew works on: on Ray with a GPU, the one that it has for itself."""
    import torch

    return torch.device("cuda" if crew.gpus else "cpu") if crew.ray else device()


def device() -> torch.device:
    """The device of this process: its own GPU, or the CPU (ACCELERATE_USE_CPU=true asks for that)."""
    import torch

    if not torch.cuda.is_available() or os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes"):
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
