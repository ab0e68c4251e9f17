"""The work of `prepare` on one picture: open it, and run the methods on it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from spread.crew import ALONE, Crew
from trainer.data.decode import PICTURE_ERRORS, read_rgb, why
from trainer.data.sources import FolderSource, ShardSource
from trainer.prepare import methods
from trainer.prepare.layout import Picture, Set, write_result
from trainer.prepare.methods import Apply, Method

HANDFUL = 2  # pictures that a worker takes at a time


@dataclass(frozen=True)
class Job:
    """A picture, and the folders that lack what is made of it; none: only its size is wanted."""

    picture: Picture
    folders: tuple[str, ...]


@dataclass(frozen=True)
class Result:
    """What became of a job."""

    job: Job
    size: tuple[int, int] = (0, 0)
    """width, height"""
    problem: str = ""
    """Why the picture cannot be read; empty when its results are written."""
    failed: Mapping[str, str] = field(default_factory=dict)
    """Folder -> why its method could not work on this picture."""

    @property
    def written(self) -> tuple[str, ...]:
        """Folders that got a file."""
        return () if self.problem else tuple(folder for folder in self.job.folders if folder not in self.failed)


@dataclass
class Worker:
    """Does jobs; a method is loaded when it is first needed."""

    source: FolderSource | ShardSource
    by_folder: Mapping[str, Method]
    device: str
    _loaded: dict[str, Apply] = field(default_factory=dict)

    def run(self, begun: tuple[Job, Mapping[str, Path]]) -> Result:
        """begun: the job, and by folder the file to write."""
        job, paths = begun
        picture = job.picture
        try:
            with self.source.open(picture.part, picture.key) as file:
                image = read_rgb(file)
        except PICTURE_ERRORS as error:
            return Result(job, problem=why(error))
        failed = {}
        for folder in job.folders:
            method = self.by_folder[folder]
            if folder not in self._loaded:
                self._loaded[folder] = methods.load(method, torch.device(self.device))
            try:
                with torch.inference_mode():
                    pixels = self._loaded[folder](image)
            except (ValueError, ArithmeticError, MemoryError, RuntimeError) as error:  # torch has no type for its own
                first = why(error).partition("\n")[0]
                failed[folder] = f"{method.name} failed on its {image.width}x{image.height} pixels ({first})"
                continue
            write_result(paths[folder], pixels, picture.signature, method.fingerprint)
        return Result(job, image.size, failed=failed)


def run(data: Set, by_folder: Mapping[str, Method], jobs: Iterable[Job], crew: Crew, device: str) -> Iterator[Result]:
    """Results in the order of the jobs. Where nothing is made, only looked at, this process does it alone."""

    def begun() -> Iterator[tuple[Job, dict[str, Path]]]:
        for job in jobs:
            data.begun(job.picture)
            yield job, {folder: data.result_path(folder, job.picture) for folder in job.folders}

    worker = Worker(data.source, dict(by_folder), device)
    try:
        for result in (crew if by_folder else ALONE).map(worker.run, begun(), HANDFUL):
            data.done(result.job.picture, result.written)
            yield result
    finally:
        data.close()
