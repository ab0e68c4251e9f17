"""Text files of people, whatever their editor wrote: UTF-8 and UTF-16 with or without a mark, or an older alphabet."""

from __future__ import annotations

import codecs
import logging
from pathlib import Path

log = logging.getLogger("trainer")

MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


def read_text(path: Path) -> str:
    """The text of a file, without the mark at its beginning. What is no Unicode is read as Windows-1252, and said.

    Raises OSError, or ValueError for UTF-16 that is cut off.
    """
    content = path.read_bytes()
    for mark, encoding in MARKS:
        if content.startswith(mark):
            return content.decode(encoding)
    if b"\0" in content:  # UTF-16 without its mark: every other byte of what people write in Latin letters is 0
        return content.decode("utf-16-le" if content[1::2].count(0) >= content[::2].count(0) else "utf-16-be")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        log.warning("%s is no UTF-8 text and is read as Windows-1252; save it as UTF-8 if letters are wrong", path)
        return content.decode("cp1252", errors="replace")
