"""Where ComfyUI is: found on this computer, or cloned at the tag this pack is tested with."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from .errors import QuickstartError

REPOSITORY = "https://github.com/Comfy-Org/ComfyUI"
PINNED_TAG = "v0.33.0"
OLDEST = (0, 21, 0)  # the same floor as requires-comfyui in pyproject.toml

BY_HAND = (
    f"Get ComfyUI yourself ({REPOSITORY}, tag {PINNED_TAG}), then either put it in ~/ComfyUI or set COMFYUI_PATH "
    "to its folder, and start quickstart again."
)


def is_comfyui(folder: Path) -> bool:
    """True when `folder` holds a ComfyUI checkout."""
    return all((folder / name).exists() for name in ("main.py", "requirements.txt", "comfyui_version.py", "comfy"))


def version_of(comfyui: Path) -> tuple[int, ...]:
    """The version ComfyUI states about itself, as numbers."""
    text = (comfyui / "comfyui_version.py").read_text(encoding="utf-8")
    found = re.search(r"__version__\s*=\s*[\"']([0-9.]+)", text)
    if not found:
        raise QuickstartError(f"No version can be read from {comfyui / 'comfyui_version.py'}. {BY_HAND}")
    return tuple(int(part) for part in found.group(1).split(".") if part)


def places(pack: Path, home: Path, cache: Path) -> Iterator[Path]:
    """Where ComfyUI may lie, in order, after $COMFYUI_PATH. `pack` is this pack's folder as the person typed it."""
    for folder in dict.fromkeys((pack, pack.resolve())):  # a pack that is linked into custom_nodes has two homes
        if folder.parent.name == "custom_nodes":
            yield folder.parent.parent
    yield home / "ComfyUI"
    yield home / "comfy" / "ComfyUI"
    yield cache / f"ComfyUI-{PINNED_TAG}"


def find(pack: Path, environ: Mapping[str, str], home: Path, cache: Path) -> Path | None:
    """ComfyUI's folder, or None when there is none. A wrong $COMFYUI_PATH is an error, never passed over."""
    named = environ.get("COMFYUI_PATH", "").strip()
    if named:
        folder = Path(named).expanduser().absolute()
        if not is_comfyui(folder):
            raise QuickstartError(
                f"COMFYUI_PATH is {folder}, but no ComfyUI lies there (main.py, comfy/ and requirements.txt "
                "were looked for). Set it to ComfyUI's own folder, or unset it to let quickstart search."
            )
        return folder
    return next((folder.absolute() for folder in places(pack, home, cache) if is_comfyui(folder)), None)


def clone(cache: Path) -> Path:
    """Clone ComfyUI at the pinned tag into the cache folder. A half-made clone is never left under the final name."""
    target = cache / f"ComfyUI-{PINNED_TAG}"
    unfinished = cache / f"ComfyUI-{PINNED_TAG}.part-{os.getpid()}"
    if shutil.which("git") is None:
        raise QuickstartError(f"ComfyUI was not found on this computer, and it cannot be cloned without git. {BY_HAND}")
    cache.mkdir(parents=True, exist_ok=True)
    command = ["git", "clone", "--quiet", "--depth", "1", "--branch", PINNED_TAG, REPOSITORY, str(unfinished)]
    quiet = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}
    try:
        result = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=quiet, check=False
        )
        if result.returncode or not is_comfyui(unfinished):
            reason = (result.stderr.strip().splitlines() or ["the clone is not complete"])[-1]
            raise QuickstartError(f"ComfyUI was not found on this computer, and cloning it failed: {reason}. {BY_HAND}")
        if not is_comfyui(target):  # another quickstart may have been quicker
            shutil.rmtree(target, ignore_errors=True)
            unfinished.rename(target)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return target


def check_version(comfyui: Path) -> None:
    """Refuse a ComfyUI older than the pack needs."""
    version = version_of(comfyui)
    if version < OLDEST:
        shown, needed = (".".join(map(str, v)) for v in (version, OLDEST))
        raise QuickstartError(
            f"ComfyUI {shown} in {comfyui} is too old: {needed} or newer is needed. Update it, or set "
            "COMFYUI_PATH to a newer one."
        )


def find_or_clone(pack: Path, environ: Mapping[str, str], home: Path, cache: Path, say) -> Path:
    """ComfyUI's folder, cloned first when there is none. `say` gets one line when a clone starts."""
    folder = find(pack, environ, home, cache)
    if folder is None:
        say(f"ComfyUI was not found; cloning {PINNED_TAG} from {REPOSITORY}")
        folder = clone(cache)
    check_version(folder)
    return folder
