"""Builds one virtual environment step by step; everything the programs say goes to a log file."""

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from .errors import QuickstartError
from .processes import clean_environ, follow, isolated, last_lines
from .terminal import Status, Stopwatch, clock, gigabytes
from .torch_source import TORCH, TorchSource

SPARE_GB = 3  # besides what is kept: the wheels lie beside the unpacked packages for a while
QUIET_SECONDS = 30.0  # in a log file, a line this often
RETRY = "Check the network connection and the free disk space, then start quickstart again."


def interpreter(folder: Path) -> Path:
    """The interpreter of the virtual environment in `folder`."""
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def size_of(folder: Path) -> int:
    """Bytes of the files below `folder` now; what disappears meanwhile is left out."""
    total, folders = 0, [os.fspath(folder)]
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    else:
                        total += entry.stat(follow_symlinks=False).st_size
        except OSError:
            continue
    return total


class Meter:
    """Shows while a step runs how much has been downloaded and unpacked; a look costs a tenth of the time at most."""

    def __init__(self, title: str, folder: Path, downloads: Path, total: float | None, log: Path, status: Status):
        """`total` GB are expected in `downloads`."""
        self.title, self.folder, self.downloads, self.total = title, folder, downloads, total
        self.log, self.status = log, status
        self.begin = log.stat().st_size if log.exists() else 0
        self._next, self._told, self._detail = 0.0, 0.0, ""

    def tick(self, seconds: float) -> None:
        """Called several times a second with the seconds since the step began."""
        if seconds >= self._next:
            watch = Stopwatch()
            self._detail = self._look()
            self._next = seconds + max(1.0, 10 * watch.seconds())
        if self.status.live:
            self.status.show(self.title, f"{clock(seconds)}  {self._detail}")
        elif seconds - self._told >= QUIET_SECONDS:
            self._told = seconds
            self.status.line(f"  {clock(seconds)}  {self._detail}")
        elif not self._told:
            self.status.show(self.title)

    def _look(self) -> str:
        lines = [line.strip() for line in last_lines(self.log, 20, self.begin)] or [""]
        last = lines[-1]
        if any(line.startswith("Installing collected packages") for line in lines):
            return f"unpacking, {gigabytes(size_of(self.folder) - size_of(self.downloads))} on disk"
        arrived = size_of(self.downloads)
        of = f" of about {self.total:.1f} GB" if self.total else ""
        return f"{gigabytes(arrived)}{of} downloaded  {last}" if arrived > 2**20 else last


class Installer:
    """One environment in `folder` under the versions in `constraints`, with its log."""

    def __init__(self, folder: Path, constraints: Path, log: Path, status: Status, verbose: bool = False):
        self.folder, self.constraints, self.log, self.status, self.verbose = folder, constraints, log, status, verbose
        self.downloads = folder / "downloads"  # not the system's folder, which is often small and in memory

    def run(self, title: str, command: Sequence[str | Path], help_text: str, expected: float | None = None) -> None:
        """Run one step, showing what it does; raise with the end of its output when it fails."""
        watch = Stopwatch()
        self.downloads.mkdir(parents=True, exist_ok=True)
        meter = Meter(title, self.folder, self.downloads, expected, self.log, self.status)
        begin = meter.begin
        shown = _Shown(self.log, begin, self.status) if self.verbose else None
        temporary = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(self.downloads))
        tick = shown.tick if shown else meter.tick
        code = follow(command, self.log, tick, folder=self.downloads, environ=clean_environ(**temporary))
        if shown:
            shown.tick(0)
        if code:
            told = "\n  ".join(last_lines(self.log, 20, begin))
            raise QuickstartError(f"{title} failed.\n  {told}\nThe whole output is in {self.log}. {help_text}")
        self.status.line(f"{title}: done in {clock(watch.seconds())}")

    def pip(self, title: str, *arguments: str | Path, expected: float | None = None) -> None:
        """pip install ARGUMENTS under the constraints; `expected` GB are downloaded."""
        options = ["--disable-pip-version-check", "--no-input", "--progress-bar", "off", "-c", self.constraints]
        command = isolated(interpreter(self.folder), "-m", "pip", "install", *options, *arguments)
        self.run(title, command, RETRY, expected)

    def make(self, disk: float) -> None:
        """The empty virtual environment, where there is room for `disk` GB."""
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        free, needed = shutil.disk_usage(self.folder.parent).free, (disk + SPARE_GB) * 10**9
        if free < needed:
            raise QuickstartError(
                f"{gigabytes(free)} are free on the disk of {self.folder.parent}; the environment needs "
                f"{gigabytes(needed)} while it is made. Make room, or set COLORIZE_CACHE to a folder on another disk."
            )
        self.run(
            "Making a virtual environment",
            isolated(sys.executable, "-m", "venv", self.folder),
            "On Debian and Ubuntu the package python3-venv is needed: apt install python3-venv.",
        )

    def torch(self, sources: Sequence[TorchSource]) -> TorchSource:
        """Install torch from the first source that works; returns that one."""
        for number, source in enumerate(sources):
            if not source.pinned:
                self.unpin()
            try:
                self.pip(f"Installing torch {source.title}", *source.arguments, expected=source.download)
                return source
            except QuickstartError:
                if number == len(sources) - 1:
                    raise
                self.status.line(f"torch {source.title} cannot be had there; taking the registry's.")
        raise AssertionError("no source")

    def unpin(self) -> None:
        """From now on the versions of torch and its companions are free: the person chose a build."""
        lines = self.constraints.read_text(encoding="utf-8").splitlines()
        self.constraints = self.folder / "constraints.txt"
        kept = [line for line in lines if line.split("==")[0].strip() not in TORCH]
        self.constraints.write_text("\n".join(kept) + "\n", encoding="utf-8")

    def clear_downloads(self) -> None:
        """Remove what the steps left in their folder."""
        shutil.rmtree(self.downloads, ignore_errors=True)


class _Shown:
    """Prints what a program adds to its log."""

    def __init__(self, log: Path, begin: int, status: Status):
        self.log, self.at, self.status = log, begin, status

    def tick(self, _seconds: float) -> None:
        """Print the lines since the last call."""
        with open(self.log, "rb") as file:
            file.seek(self.at)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self.at += len(whole)
        for line in whole.decode("utf-8", errors="replace").splitlines():
            self.status.line(line)
