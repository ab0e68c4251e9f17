"""ComfyUI servers for random graphs: some in turn with other caches, each with its share of the cores."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from quickstart_lib import comfyui, environment
from quickstart_lib.plan import PACK
from quickstart_lib.server import Server
from quickstart_lib.terminal import Status

CACHES = {"default": (), "none": ("--cache-none",), "lru": ("--cache-lru", "8"), "classic": ("--cache-classic",)}
"""Names of what ComfyUI keeps between two graphs -> its options."""


class FuzzServer(Server):
    """A server of quickstart, with a cache that is chosen."""

    cache = "default"

    def command(self) -> list[str]:
        return [*super().command(), *CACHES[self.cache]]


def find_comfyui() -> Path | None:
    """ComfyUI's folder, where quickstart would find it."""
    return comfyui.find(PACK, os.environ, Path.home(), environment.cache_folder(os.environ, Path.home()))


@contextmanager
def server(comfy: Path, logs: Path, cache: str = "default", threads: int = 0) -> Iterator[FuzzServer]:
    """A running server on the CPU. threads: of its arithmetic; 0: ComfyUI's own choice.

    Python's warnings are shown each time, or only the first picture of NaN would be seen.
    """
    os.environ["PYTHONWARNINGS"] = "always::RuntimeWarning"
    if threads:
        os.environ["OMP_NUM_THREADS"] = str(threads)
    made = FuzzServer(environment.current(comfy, PACK, ()), comfy, PACK, logs, Status(sys.stderr), cpu=True)
    made.cache = cache
    with made:
        yield made
