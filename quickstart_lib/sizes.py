"""The size a picture is worked at: by the drawing's proportions and the model, and what an absurd one would cost."""

import os
import sys
from pathlib import Path

from .errors import QuickstartError
from .terminal import Status, gigabytes

STEP = 64  # pixels, Prepare Sketch's
SMALLEST, LARGEST = 64, 16384
FLATTEST = 4.0  # proportions beyond these are padded
# Measured with the small model on a CPU: 1.29, 1.56 and 2.53 GB at 256, 512 and 1024 squared; larger models need more.
PROGRAM_BYTES, BYTES_PER_PIXEL = 10**9, 1200
# Seconds of a step of the small model on two idle CPU cores at 256 squared: what grows with the pixels, and what with
# their square (self-attention). From processor time at 256 and 512, 0.49 and 2.79 s, brought to an idle 0.15 s.
STEP_SECONDS, SECONDS_SIDE = (0.13, 0.02), 256
MUCH = 9.0  # times the work of the trained size from which on the person is told


def rounded(pixels: float) -> int:
    """The nearest side that can be worked at."""
    return int(min(max(round(pixels / STEP) * STEP, SMALLEST), LARGEST))


def working_size(drawing: tuple[int, int] | None, side: int, width: int | None, height: int | None) -> tuple[int, int]:
    """(width, height) to work at, multiples of 64.

    drawing: its (width, height), None when unknown, which counts as square. side: the area is that of a square of this
    side. width, height: what the person gave; one of them gives the other by the drawing's proportions.
    """
    proportion = drawing[0] / drawing[1] if drawing else 1.0
    proportion = min(max(proportion, 1 / FLATTEST), FLATTEST)
    if width and height:
        return width, height
    if width:
        return width, rounded(width / proportion)
    if height:
        return rounded(height * proportion), height
    return rounded(side * proportion**0.5), rounded(side / proportion**0.5)


def duration(width: int, height: int, steps: int) -> str:
    """How long a picture takes the small model on two CPU cores, in words."""
    times = width * height / SECONDS_SIDE**2
    minutes = steps * (STEP_SECONDS[0] * times + STEP_SECONDS[1] * times**2) / 60
    return f"{minutes / 60:.0f} hours" if minutes >= 120 else f"{max(minutes, 1):.0f} minutes"


def check(width: int, height: int, trained: int, weights: int, steps: int, status: Status) -> None:
    """Say what a size far beyond the trained one means; refuse one that this computer's memory cannot hold.

    weights: bytes of the checkpoint. The memory is a lower estimate, so that nothing possible is refused.
    """
    times = width * height / trained**2
    if times < MUCH:
        return
    needed, there = PROGRAM_BYTES + weights + width * height * BYTES_PER_PIXEL, memory()
    if there and needed > there:
        raise QuickstartError(
            f"Working at {width} x {height} needs {gigabytes(needed)} of memory or more; this computer has "
            f"{gigabytes(there)}. Choose a smaller size, best --size {trained}, what this model was trained at."
        )
    status.line(
        f"Working at {width} x {height} takes more than {times:.0f} times as long as at {trained} x {trained}, what "
        f"this model was trained at: on two CPU cores {duration(width, height, steps)} or more. It takes "
        f"{gigabytes(needed)} of memory or more, and the picture gets worse. Without size options quickstart takes the "
        "right one."
    )


def memory() -> int | None:
    """Bytes of this computer's memory, or None when the system does not say."""
    try:
        if sys.platform == "win32":
            return _windows_memory()
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError, AttributeError):
        return None
    limits = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
    for file in limits:  # a container's limit
        try:
            total = min(total, int(file.read_text(encoding="ascii")))
        except (OSError, ValueError):
            continue
    return total


def _windows_memory() -> int:
    import ctypes

    class Status(ctypes.Structure):
        _fields_ = [
            ("length", ctypes.c_ulong),
            ("load", ctypes.c_ulong),
            *((f"n{i}", ctypes.c_ulonglong) for i in range(7)),
        ]

    status = Status()
    status.length = ctypes.sizeof(Status)
    ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))
    return status.n0
