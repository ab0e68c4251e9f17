"""A video in place of a folder of drawings, and a video made of the pictures."""

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from . import frames, output
from .environment import Environment
from .errors import QuickstartError
from .processes import clean_environ, isolated
from .terminal import Status

TOOL = Path(__file__).with_name("video_frames.py")


@dataclass(frozen=True)
class Target:
    """Where the pictures go: a folder, and a video when one was asked for."""

    frames: Path | None
    video: Path | None = None

    @classmethod
    def of(cls, given: Path | None) -> "Target":
        """What --output means: out/cut.mp4 is that video, with its pictures in out/cut_frames."""
        if given is None or not frames.is_video(given):
            return cls(given)
        return cls(given.with_name(f"{given.stem}_frames"), given.expanduser().absolute())


def _tool(env: Environment, *arguments: Path | str) -> str:
    result = subprocess.run(
        isolated(env.python, TOOL, *arguments),
        env=clean_environ(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if result.returncode:
        raise QuickstartError((result.stderr.strip().splitlines() or ["it ended without a word"])[-1])
    return result.stdout.strip()


def check(given: Path) -> None:
    """Raises QuickstartError when --sketch names nothing, before any work is done."""
    if not frames.is_video(given):
        frames.listed(given)
    elif not given.expanduser().is_file():
        raise QuickstartError(f"--sketch is {given}, but there is no such file.")


@contextmanager
def drawings(given: Path, env: Environment, status: Status) -> Iterator[tuple[list[frames.Drawing], str]]:
    """The drawings that --sketch names, and their frames a second. A video's are in a folder that goes with us."""
    if not frames.is_video(given):
        yield frames.listed(given), "24"
        return
    video = given.expanduser().absolute()
    with tempfile.TemporaryDirectory(prefix="colorize-frames-") as folder:
        status.show(f"Reading {video.name}")
        try:
            speed = _tool(env, "split", video, folder)
        except QuickstartError as problem:
            raise QuickstartError(f"--sketch is {given}, which cannot be read as a video: {problem}") from problem
        yield frames.listed(Path(folder)), speed


def join(pictures: list[Path], target: Path, speed: str, env: Environment, status: Status) -> Path:
    """Write the pictures, in order, as a video; returns its file. The name appears when the video is whole."""
    status.show(f"Writing {target.name}")
    with tempfile.TemporaryDirectory(prefix=".colorize-video-", dir=target.parent) as folder:
        names, part = Path(folder) / "pictures.txt", Path(folder) / target.name
        names.write_text("\n".join(map(str, pictures)), encoding="utf-8")
        try:
            _tool(env, "join", part, speed, names)
        except QuickstartError as problem:
            raise QuickstartError(
                f"The pictures are made, but {target.name} could not be written: {problem}. The same command tries "
                "again."
            ) from problem
        file = output.numbered(target)
        part.replace(file)
    return file
