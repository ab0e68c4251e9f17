"""The processes of `prepare`: each opens pictures and runs the methods on them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path

import torch

from trainer.config import ConfigError
from trainer.data.decode import PICTURE_ERRORS, read_rgb, why
from trainer.data.sources import FolderSource, ShardSource
from trainer.prepare import methods
from trainer.prepare.layout import Picture, Set, write_result
from trainer.prepare.methods import Apply, Method
from trainer.workers import process_pool


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
    """Runs jobs in one process; a method is loaded when it is first needed."""

    source: FolderSource | ShardSource
    by_folder: Mapping[str, Method]
    device: torch.device
    _loaded: dict[str, Apply]

    def run(self, job: Job, paths: Mapping[str, Path]) -> Result:
        """paths: folder -> file to write."""
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
                self._loaded[folder] = methods.load(method, self.device)
            try:
                with torch.inference_mode():
                    pixels = self._loaded[folder](image)
            except (ValueError, ArithmeticError, MemoryError, RuntimeError) as error:  # torch has no type for its own
                first = why(error).partition("\n")[0]
                failed[folder] = f"{method.name} failed on its {image.width}x{image.height} pixels ({first})"
                continue
            write_result(paths[folder], pixels, picture.signature, method.fingerprint)
        return Result(job, image.size, failed=failed)


_worker: Worker | None = None  # of a process of the pool


def _start(source: FolderSource | ShardSource, by_folder: Mapping[str, Method], device: str, threads: int) -> None:
    global _worker
    torch.set_num_threads(threads)
    _worker = Worker(source, by_folder, torch.device(device), {})


def _run(job: Job, paths: Mapping[str, Path]) -> Result:
    assert _worker is not None  # _start ran first in this process
    return _worker.run(job, paths)


class Pool:
    """Runs jobs in `workers` processes; with one, in this process."""

    def __init__(self, data: Set, by_folder: Mapping[str, Method], workers: int, device: str) -> None:
        self.data, self.workers = data, workers
        self._executor: ProcessPoolExecutor | None = None
        self._here = Worker(data.source, by_folder, torch.device(device), {})
        if workers == 1 or not by_folder:
            return
        threads = max(1, (os.cpu_count() or 1) // workers)
        self._executor = process_pool(workers, _start, (data.source, dict(by_folder), device, threads))

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *error: object) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
        self.data.close()

    def run(self, jobs: Iterator[Job | None], skipped: Callable[[], object]) -> Iterator[Result]:
        """Results in the order in which they are done; skipped() is called for every None."""
        waiting: set[Future] = set()
        for job in jobs:
            if job is None:
                skipped()
                continue
            self.data.begun(job.picture)
            paths = {folder: self.data.result_path(folder, job.picture) for folder in job.folders}
            if self._executor is None:
                yield self._finished(self._here.run(job, paths))
                continue
            waiting.add(self._executor.submit(_run, job, paths))
            while len(waiting) >= 3 * self.workers:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                yield from self._results(done)
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            yield from self._results(done)

    def _results(self, done: set[Future]) -> Iterator[Result]:
        try:
            for future in done:
                yield self._finished(future.result())
        except BrokenProcessPool:
            raise ConfigError(
                "A process ended before it was done, most often for want of memory. What is done is kept; give the "
                "same command with fewer --workers, or a smaller --side."
            ) from None

    def _finished(self, result: Result) -> Result:
        self.data.done(result.job.picture, result.written)
        return result
