"""A shot as one batch, or in parts: the drawings of a folder, or a video."""

from __future__ import annotations

import hashlib
import os
from typing import Any

import folder_paths
import torch
from comfy_api.v0_0_2 import io, ui

from ..model_patches.inputs import shot_frames
from .known_before import within
from .sockets import CATEGORY, Node


def source_path(name: str) -> str:
    """Path of a shot in ComfyUI's input folder. Raises ValueError for names that lead elsewhere."""
    folder = os.path.realpath(folder_paths.get_input_directory())
    path = "" if "\0" in name else os.path.realpath(os.path.join(folder, name))  # which no system's files have
    if not within(path, folder):
        raise ValueError(f"{name!r} is not in ComfyUI's input folder. Put the shot there: a folder, or a video.")
    if not os.path.exists(path):
        raise ValueError(f"There is no {name!r} in ComfyUI's input folder. Put it there, and press R.")
    return path


def told(name: str, first: int, count: int, total: int, size: int) -> str:
    """What was read, for the node."""
    return (
        f"{name}: frames {first} to {first + count - 1} of {total}, counted from 0; part {first // size} of "
        f"{-(-total // size)}"
    )


class ColorizeLoadFrames(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ColorizeLoadFrames",
            display_name="Load Frames",
            category=CATEGORY + "/flats",
            description="A shot as one batch: the drawings of a folder, or a video, in ComfyUI's input folder. A long "
            "shot is read in parts, so memory holds one part, however long it is.",
            search_aliases=["image sequence", "load folder", "load batch", "load video frames", "cut", "shot"],
            inputs=[
                io.Combo.Input(
                    "source",
                    options=shot_frames.sources(folder_paths.get_input_directory()),
                    tooltip="A folder of drawings, in the order of their numbers, or a video, in ComfyUI's input "
                    "folder.",
                ),
                io.Int.Input(
                    "frames",
                    default=24,
                    min=1,
                    max=100000,
                    tooltip="How many frames a part has: what goes through the graph at once.",
                ),
                io.Int.Input(
                    "part",
                    default=0,
                    min=0,
                    max=100000,
                    control_after_generate=True,
                    tooltip="Which part is read, counted from 0. For all of a long shot: control after generate on "
                    "increment, and the count beside Run on the number of parts.",
                ),
                io.Boolean.Input(
                    "with_first",
                    default=False,
                    tooltip="The shot's first frame stands before those of the part, of the first part as well: the "
                    "key that all parts share. Get Image from Batch takes it off again, batch_index 1.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="frames",
                    tooltip="The drawings as a batch; what is transparent lies on white. Goes to Prepare Sketch and "
                    "to Find Regions.",
                ),
                io.Float.Output(display_name="fps", tooltip="Frames a second; 24 for a folder. Goes to Create Video."),
                io.Int.Output(display_name="first", tooltip="Number of the part's first frame, counted from 0."),
                io.String.Output(display_name="report", tooltip="Which frames these are, and of how many."),
            ],
        )

    @classmethod
    def validate_inputs(cls, source: str) -> bool | str:
        # Naming the input switches off the check against the list, which is older than what was just put there.
        if source is None:
            return True
        try:
            source_path(source)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, source: str, **kwargs: Any) -> str:
        path = source_path(source)
        files = shot_frames.drawings(path) if os.path.isdir(path) else [path]
        known = [(file, os.stat(file).st_mtime_ns, os.stat(file).st_size) for file in files]
        return hashlib.sha256(repr(known).encode()).hexdigest()

    @classmethod
    def execute(cls, source: str, frames: int = 24, part: int = 0, with_first: bool = False) -> io.NodeOutput:
        path, first = source_path(source), part * frames
        found = shot_frames.read_part(path, first, frames)
        text = told(source, first, len(found.frames), found.total, frames)
        rows = found.frames
        if with_first:
            rows = torch.cat([shot_frames.read_part(path, 0, 1).frames, rows])
        return io.NodeOutput(rows, found.speed, first, text, ui=ui.PreviewText(text))
