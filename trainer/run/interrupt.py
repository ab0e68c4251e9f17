"""Stopping a run from outside, or by an error, without losing the steps that are done."""

from __future__ import annotations

import logging
import os
import signal
import stat
import threading
import time
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator

log = logging.getLogger("trainer")


HANGUP = tuple(getattr(signal, name) for name in ("SIGHUP",) if hasattr(signal, name))  # Windows has none


class Interrupt:
    """Turns Ctrl-C, SIGTERM and the end of the terminal (SIGHUP) into a flag: the step in progress ends and is saved.

    A launcher repeats the signal that it gets itself; only another Ctrl-C some time later stops at once.
    """

    PATIENCE = 2.0  # seconds

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.since: float | None = None
        self.signal = int(signal.SIGINT)
        """the first that came"""
        self.previous: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():  # Python allows handlers there only
            ignored = {number for number in HANGUP if signal.getsignal(number) == signal.SIG_IGN}  # under nohup
            numbers = (signal.SIGINT, signal.SIGTERM, *(number for number in HANGUP if number not in ignored))
            self.previous = {number: signal.signal(number, self._note) for number in numbers}
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number in HANGUP:
            _speak_to_nobody()
        if self.since is None:
            self.since, self.signal = time.monotonic(), number
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


def _speak_to_nobody() -> None:
    """Let what is printed go nowhere where it went to the terminal that is gone: writing there would fail."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for place in (1, 2):
        if stat.S_ISCHR(os.fstat(place).st_mode):
            os.dup2(nowhere, place)
    os.close(nowhere)
