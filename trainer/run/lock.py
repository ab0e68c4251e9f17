"""One run in a folder at a time: a second one would mix its log with the first's and delete what that is saving."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from trainer.config import ConfigError

log = logging.getLogger("trainer")

NAME = "run.lock"


@contextlib.contextmanager
def held(output: Path) -> Iterator[None]:
    """A context in which no other run can work in `output`, which is made. ConfigError when one does.

    The system itself lets go of the lock when the process ends, however it ends. Of several processes of one run only
    the first holds it.
    """
    if int(os.environ.get("RANK", "0")):
        yield
        return
    output.mkdir(parents=True, exist_ok=True)
    file = _opened(output / NAME)
    try:
        yield
    finally:
        if sys.platform != "win32":  # where an open file cannot be deleted; an old one does no harm
            (output / NAME).unlink(missing_ok=True)
        file.close()


def _opened(path: Path) -> BinaryIO:
    """The lock file, held by this process alone."""
    while True:
        file = path.open("a+b")
        try:
            _lock(file)
        except BlockingIOError:
            file.seek(0)
            owner = file.read(200).decode("utf-8", "replace").strip() or "another process"
            file.close()
            raise ConfigError(
                f"{path.parent} is in use by {owner}: wait for that run or stop it, or choose another run.output."
            ) from None
        except OSError as error:  # file systems without locks
            log.warning("%s cannot be locked (%s): start no second run in this folder", path, error)
            return file
        if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
            file.flush()
            return file
        file.close()  # its owner deleted it between our two steps


def _lock(file: BinaryIO) -> None:
    """BlockingIOError when somebody else holds it."""
    if sys.platform == "win32":
        import msvcrt

        file.seek(2**20)  # a byte far behind the text, which others may read
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError as error:
            raise BlockingIOError(*error.args) from None
        return
    import fcntl

    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
