"""The frames of a shot, read a part at a time: memory holds a part, however long the shot is."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ...colorize.pictures import images
from ...colorize.shots.folder import comfy_picture
from ...colorize.shots.order import PICTURES, VIDEOS, natural

SPEED = 24.0  # frames a second of drawings in a folder, and of a video that does not say


@dataclass(frozen=True)
class ShotPart:
    """Some frames of a shot."""

    frames: torch.Tensor
    """Comfy picture (B, H, W, 3); what is transparent lies on white"""
    speed: float
    """frames a second"""
    total: int
    """frames of the whole shot"""


def sources(folder: str) -> list[str]:
    """What can be read below a folder, by names with /: videos, and folders that hold pictures."""
    found = []
    for path, _, names in os.walk(folder):
        inside = os.path.relpath(path, folder).replace(os.sep, "/")
        begin = "" if inside == "." else f"{inside}/"
        found += [begin + name for name in names if name.lower().endswith(VIDEOS)]
        if begin and any(name.lower().endswith(PICTURES) for name in names):
            found.append(inside)
    return sorted(found, key=natural)


def drawings(folder: str) -> list[str]:
    """The pictures in a folder, frame2 before frame10."""
    names = [name for name in os.listdir(folder) if name.lower().endswith(PICTURES) and not name.startswith(".")]
    return [os.path.join(folder, name) for name in sorted(names, key=lambda name: (natural(name), name))]


def read_part(source: str, first: int, count: int) -> ShotPart:
    """`count` frames from frame `first` on, fewer at the end. Raises ValueError, also where the shot has no such frame.

    source: the path of a video, or of a folder whose pictures are the frames.
    """
    return _of_folder(source, first, count) if os.path.isdir(source) else _of_video(source, first, count)


def _of_folder(folder: str, first: int, count: int) -> ShotPart:
    files = drawings(folder)
    _check(folder, first, len(files))
    rows = [images.on_white(*images.rgb_and_alpha(comfy_picture(Path(file)))) for file in files[first : first + count]]
    sizes = {f"{row.shape[3]}x{row.shape[2]}" for row in rows}
    if len(sizes) > 1:
        raise ValueError(
            f"The drawings in {os.path.basename(folder)} have different sizes ({', '.join(sorted(sizes))}). Bring all "
            "to one, or give each size a folder of its own."
        )
    return ShotPart(torch.cat(rows).movedim(1, -1), SPEED, len(files))


def _of_video(file: str, first: int, count: int) -> ShotPart:
    """Decoded from the beginning, so that frames have their numbers in every container."""
    import av

    levels, number = [], -1
    try:
        with av.open(file) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            speed = float(stream.average_rate or stream.guessed_rate or SPEED)
            total = stream.frames
            for number, frame in enumerate(container.decode(stream)):
                if first <= number < first + count:
                    levels.append(frame.to_ndarray(format="rgb24"))
                if total and number >= first + count - 1:
                    break
    except (av.error.FFmpegError, IndexError) as error:
        raise ValueError(f"{os.path.basename(file)} cannot be read as a video: {error}. Save it as .mp4.") from error
    total = total or number + 1
    _check(file, first, total if levels else min(total, number + 1))
    return ShotPart(torch.from_numpy(np.stack(levels)).float() / 255, speed, total)


def _check(source: str, first: int, total: int) -> None:
    if first >= total:
        raise ValueError(
            f"{os.path.basename(source)} has {total} frames, and this part begins with frame {first}, counted from 0: "
            "the shot is at its end. Set part to 0 to begin again."
        )
