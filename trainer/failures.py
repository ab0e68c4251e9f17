"""What ends a command though its configuration is right. The command line says it in one line, without a traceback."""

from __future__ import annotations

import errno

DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.ENOTDIR, errno.EEXIST}
"""Errors of the system that a person can mend: no space, no right to write, a file in the place of a folder."""


class Failure(RuntimeError):
    """Something that happened outside; the text says what, what was kept, and what to do."""


class Stopped(Exception):
    """The command was told to stop and has kept what it had; `status` is the exit status."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


def in_words(error: OSError) -> str | None:
    """An error of the system that a person can mend, in one line; None for others, whose traceback is wanted."""
    if error.errno not in DISK:
        return None
    place = f": {error.filename}" if error.filename else ""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    next_step = "free some space" if full else "choose another place, or change who may write there"
    return f"{error.strerror}{place}; {next_step}, then give the same command again."
