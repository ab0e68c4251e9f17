"""Stopping a run from outside without losing the step in progress."""

from __future__ import annotations

import logging
import signal
import threading
import time
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator

log = logging.getLogger("trainer")


class Interrupt:
    """Turns Ctrl-C and SIGTERM into a flag, so that the step in progress ends and is saved.

    A launcher repeats the signal that it gets itself; only another Ctrl-C some time later stops at once.
    """

    PATIENCE = 2.0  # seconds

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.since: float | None = None
        self.previous: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():  # Python allows handlers there only
            self.previous = {s: signal.signal(s, self._note) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.since is None:
            self.since = time.monotonic()
            log.warning("stopping after this step; the run is saved and the same command resumes it")
        elif number == signal.SIGINT and time.monotonic() - self.since > self.PATIENCE:
            raise KeyboardInterrupt

    def raised(self) -> bool:
        """Whether any process was told to stop. Every process must ask at the same step."""
        raised = self.since is not None
        if self.accelerator.num_processes == 1:
            return raised
        flag = torch.tensor([float(raised)], device=self.accelerator.device)
        return bool(self.accelerator.reduce(flag, "sum"))

    def __exit__(self, *error: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)
