"""What the person sees while waiting: one live line on a terminal, few plain lines in a log file."""

import shutil
import sys
import time
from typing import TextIO

BAR_WIDTH = 30


def clock(seconds: float) -> str:
    """Seconds as text: "4.2 s" below a minute, "3:05" above."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def step_bar(done: int, total: int, seconds: float) -> str:
    """A bar for `done` of `total` sampler steps after `seconds`, with the time of a step and the time left."""
    filled = round(BAR_WIDTH * done / max(total, 1))
    text = f"[{'#' * filled}{'-' * (BAR_WIDTH - filled)}] {done}/{total} steps"
    if done:
        per_step = seconds / done
        text += f"  {per_step:.2f} s/step  {clock(per_step * (total - done))} left"
    return text


class Status:
    """A line that changes in place on a terminal; in a file or pipe a line for each title and quarter of a bar."""

    def __init__(self, stream: TextIO | None = None):
        self.stream = stream or sys.stdout
        self.live = self.stream.isatty()
        self._shown = ""
        self._last_title = ""
        self._last_quarter = -1

    def line(self, text: str) -> None:
        """Print a line that stays."""
        self.clear()
        self.stream.write(text + "\n")
        self.stream.flush()

    def show(self, title: str, detail: str = "") -> None:
        """Show what is going on now; replaced by the next call."""
        if self.live:
            width = shutil.get_terminal_size().columns - 1
            self.stream.write("\r" + f"{title}  {detail}"[:width].ljust(min(len(self._shown), width)))
            self._shown = f"{title}  {detail}"[:width]
        elif title != self._last_title:
            self._last_title = title
            self.stream.write(title + "\n")
        self.stream.flush()

    def steps(self, title: str, done: int, total: int, seconds: float) -> None:
        """Show the sampler's progress: `done` of `total` steps after `seconds`."""
        if self.live:
            self.show(title, step_bar(done, total, seconds))
            return
        quarter = 4 * done // max(total, 1)
        if quarter != self._last_quarter:
            self._last_quarter = quarter
            self.stream.write(f"{title}  {step_bar(done, total, seconds)}\n")
            self.stream.flush()

    def clear(self) -> None:
        """Take the live line away."""
        if self.live and self._shown:
            self.stream.write("\r" + " " * len(self._shown) + "\r")
            self.stream.flush()
        self._shown = ""


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self):
        self._start = time.monotonic()

    def seconds(self) -> float:
        return time.monotonic() - self._start
