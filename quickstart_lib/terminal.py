"""What the person sees while waiting: one live line on a terminal, few plain lines in a log file."""

import io
import os
import shutil
import sys
import time
from typing import TextIO

BAR_WIDTH, SHORTEST_BAR = 30, 8


def clock(seconds: float) -> str:
    """Seconds as text: "4.2 s" below a minute, "3:05" above."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def step_bar(done: int, total: int, seconds: float, width: int = 120) -> str:
    """`done` of `total` sampler steps after `seconds`, the time of a step and the time left, with a bar if it fits."""
    text = f"{done}/{total} steps"
    if done:
        per_step = seconds / done
        left = f"  {clock(per_step * (total - done))} left"
        text += f"  {per_step:.2f} s/step{left}" if width >= 40 else left
    bar = min(BAR_WIDTH, width - len(text) - 3)
    if bar < SHORTEST_BAR:
        return text
    filled = round(bar * done / max(total, 1))
    return f"[{'#' * filled}{'-' * (bar - filled)}] {text}"


def gigabytes(count: float) -> str:
    """Bytes as text, in MB below a GB."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


class Status:
    """A line that changes in place on a terminal; in a file or pipe a line for each title and quarter of a bar.

    A stream that cannot be written (a closed pipe, a full disk) is given up; the work goes on.
    """

    def __init__(self, stream: TextIO | None = None):
        self.stream = stream or sys.stdout
        self.live = self.stream.isatty()
        self._shown = ""
        self._last_title = ""
        self._last_quarter = -1

    def _write(self, text: str) -> None:
        try:
            self.stream.write(text)
            self.stream.flush()
        except (OSError, ValueError):
            give_up(self.stream)
            self.stream, self.live = io.StringIO(), False

    def _width(self) -> int:
        return max(1, shutil.get_terminal_size().columns - 1)

    def line(self, text: str) -> None:
        """Print a line that stays."""
        self.clear()
        self._write(text + "\n")

    def show(self, title: str, detail: str = "") -> None:
        """Show what is going on now; replaced by the next call."""
        if self.live:
            text = f"{title}  {detail}"[: self._width()]
            self._write("\r" + text.ljust(min(len(self._shown), self._width())))
            self._shown = text
        elif title != self._last_title:
            self._last_title = title
            self._write(title + "\n")

    def steps(self, title: str, done: int, total: int, seconds: float) -> None:
        """Show the sampler's progress: `done` of `total` steps after `seconds`."""
        if self.live:
            self.show(title, step_bar(done, total, seconds, self._width() - len(title) - 2))
            return
        quarter = 4 * done // max(total, 1)
        if quarter != self._last_quarter:
            self._last_quarter = quarter
            self._write(f"{title}  {step_bar(done, total, seconds)}\n")

    def clear(self) -> None:
        """Take the live line away."""
        if self.live and self._shown:
            self._write("\r" + " " * len(self._shown) + "\r")
        self._shown = ""


def give_up(stream: TextIO) -> None:
    """Point a stream that cannot be written at nothing, so that what is in its buffer fails no more when we end."""
    try:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, stream.fileno())
        os.close(nothing)
    except (OSError, ValueError):
        pass


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self):
        self._start = time.monotonic()

    def seconds(self) -> float:
        return time.monotonic() - self._start
