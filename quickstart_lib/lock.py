"""A lock between processes that the system takes back by itself when its holder dies."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

if os.name == "nt":
    import msvcrt

    def _try_lock(descriptor: int) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _try_lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextmanager
def locked(path: Path, when_waiting: Callable[[], None] | None = None, wait: bool = True) -> Iterator[bool]:
    """Hold the lock file `path`; yields True. With wait=False yields False at once when somebody else holds it.

    `when_waiting` is called once before waiting. The file itself stays: removing it would let two holders in.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        held, told = False, False
        while not held:
            try:
                _try_lock(descriptor)
                held = True
            except OSError:
                if not wait:
                    break
                if when_waiting and not told:
                    when_waiting()
                    told = True
                time.sleep(0.5)
        yield held
    finally:
        os.close(descriptor)
