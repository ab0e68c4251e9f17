"""What `prepare` has done, in one SQLite file beside the data: it makes the command resumable and writes the index.

A result counts as done while the file it was made of and the options it was made with are those of the journal, and the
result is still there. A file that is not in the journal was not made by `prepare`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

from trainer.config import ConfigError

NAME = "prepare.sqlite"


class Journal:
    """The journal of a data set. Written by one process; `commit` makes entries last."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._database = sqlite3.connect(path)
            self._database.executescript(
                "PRAGMA journal_mode = WAL;"
                "CREATE TABLE IF NOT EXISTS pictures (part TEXT, key TEXT, signature TEXT, width INT, height INT,"
                " problem TEXT, PRIMARY KEY (part, key)) WITHOUT ROWID;"
                "CREATE TABLE IF NOT EXISTS results (folder TEXT, key TEXT, signature TEXT, fingerprint TEXT,"
                " PRIMARY KEY (folder, key)) WITHOUT ROWID;"
                "CREATE TABLE IF NOT EXISTS folders (method TEXT PRIMARY KEY, folder TEXT) WITHOUT ROWID;"
            )
        except sqlite3.DatabaseError as error:
            raise ConfigError(
                f"{path} is damaged ({error}). Delete it: finished sketches and masks then count as your own and are "
                "kept, or are made again with --overwrite."
            ) from None

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *error: object) -> None:
        self._database.commit()
        self._database.close()

    def commit(self) -> None:
        self._database.commit()

    # -- pictures --

    def picture(self, part: str, key: str) -> tuple[str, int, int, str] | None:
        """(signature, width, height, problem) of a picture that was looked at; problem is empty for a good one."""
        return self._database.execute(
            "SELECT signature, width, height, problem FROM pictures WHERE part = ? AND key = ?", (part, key)
        ).fetchone()

    def note_picture(
        self, part: str, key: str, signature: str, size: tuple[int, int] = (0, 0), problem: str = ""
    ) -> None:
        self._database.execute(
            "INSERT OR REPLACE INTO pictures VALUES (?, ?, ?, ?, ?, ?)", (part, key, signature, *size, problem)
        )

    def pictures(self, part: str) -> Iterator[tuple[str, int, int, str]]:
        """(key, width, height, problem) of all pictures of a part, by key."""
        yield from self._database.execute(
            "SELECT key, width, height, problem FROM pictures WHERE part = ? ORDER BY key", (part,)
        )

    # -- results --

    def result(self, folder: str, key: str) -> tuple[str, str] | None:
        """(signature of the picture, fingerprint of the method) of a result that was made."""
        return self._database.execute(
            "SELECT signature, fingerprint FROM results WHERE folder = ? AND key = ?", (folder, key)
        ).fetchone()

    def forget(self, folder: str, key: str) -> None:
        """A result was deleted."""
        self._database.execute("DELETE FROM results WHERE folder = ? AND key = ?", (folder, key))

    def note_result(self, folder: str, key: str, signature: str, fingerprint: str) -> None:
        self._database.execute(
            "INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?)", (folder, key, signature, fingerprint)
        )

    # -- folders --

    def folders(self) -> dict[str, str]:
        """Method -> folder of its results."""
        return dict(self._database.execute("SELECT method, folder FROM folders"))

    def note_folder(self, method: str, folder: str) -> None:
        self._database.execute("INSERT OR REPLACE INTO folders VALUES (?, ?)", (method, folder))
