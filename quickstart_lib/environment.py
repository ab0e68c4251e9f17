"""The virtual environment: made once per set of requirements, reused, rebuilt when half-made, removed when stale."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import QuickstartError
from .installer import Installer, interpreter
from .lock import locked
from .processes import clean_environ
from .requirements import environment_key, list_key, requirement_lists
from .terminal import Status
from .torch_source import CPU, REGISTRY, TORCH, choose, has_nvidia

MARKER = "colorize-environment.json"  # written last: an environment without it is half-made
OURS = re.compile(r"env-[0-9a-f]{16}")  # never touch a folder with another name
KEEP_NEWEST = 2
STALE_DAYS = 30
IN_USE_DAYS = 1  # an environment used since then may be in use now
REBUILD = "python quickstart.py --rebuild"


@dataclass(frozen=True)
class Environment:
    """An interpreter that can run ComfyUI. `device` is cpu, cuda, mps or xpu; `torch` is the installed version."""

    python: Path
    device: str
    torch: str


def cache_folder(environ: Mapping[str, str], home: Path) -> Path:
    """The folder for environments, logs and a cloned ComfyUI; $COLORIZE_CACHE moves it."""
    if environ.get("COLORIZE_CACHE"):
        return Path(environ["COLORIZE_CACHE"]).expanduser().absolute()
    if os.name == "nt" and environ.get("LOCALAPPDATA"):
        return Path(environ["LOCALAPPDATA"]) / "colorize-diffusion"
    return home / ".cache" / "colorize-diffusion"


def read_marker(folder: Path) -> dict[str, Any] | None:
    """What is known of the environment in `folder`, or None when it is half-made or absent.

    "groups": the requirement groups installed ("" is the pack's own) -> key of the list they were installed from.
    "source": which torch was chosen. "report" and "seen": what the last inspection found, and on which machine.
    """
    try:
        marker = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        return marker if isinstance(marker["groups"], dict) and interpreter(folder).exists() else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_marker(folder: Path, marker: dict[str, Any]) -> None:
    """Mark `folder` as complete, in one step that is either done or not."""
    new = folder / f"{MARKER}.{os.getpid()}"
    new.write_text(json.dumps(marker), encoding="utf-8")
    new.replace(folder / MARKER)


def remove(folder: Path) -> None:
    """Remove an environment, its marker first, so that an interrupted removal is never taken for a whole one."""
    (folder / MARKER).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def remove_stale(cache: Path, keep: Path, now: float | None = None) -> list[Path]:
    """Remove half-made environments of ours, those unused for 30 days, and idle ones beyond the newest two."""
    now = time.time() if now is None else now
    complete, removed = [], []
    for folder in (f for f in cache.glob("env-*") if OURS.fullmatch(f.name) and f.is_dir() and f != keep):
        with locked(cache / (folder.name + ".lock"), wait=False) as free:
            if not free:
                continue  # somebody is building it
            if not (folder / MARKER).exists():  # what stands in it may be another release's way of writing it
                remove(folder)
                removed.append(folder)
            else:
                complete.append(((now - (folder / MARKER).stat().st_mtime) / 86400, folder))
    for rank, (idle_days, folder) in enumerate(sorted(complete), start=2):  # `keep` itself is the newest
        if idle_days > STALE_DAYS or (rank > KEEP_NEWEST and idle_days > IN_USE_DAYS):
            remove(folder)
            removed.append(folder)
    return removed


def inspect(python: Path, comfyui: Path, names: Sequence[str] = ()) -> dict[str, Any]:
    """What `python` has of ComfyUI's requirements and of the packages `names`: see inspect_environment.py."""
    script = Path(__file__).with_name("inspect_environment.py")
    result = subprocess.run(
        [str(python), str(script), str(comfyui / "requirements.txt"), *names],
        env=clean_environ(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    try:
        return json.loads(result.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        ended = f"ended by signal {-result.returncode}" if result.returncode < 0 else f"status {result.returncode}"
        said = result.stderr.strip()[-500:] or "no output"
        problem = f"{python} cannot load torch ({ended}): {said}"
        return {"torch": "unknown", "device": "cpu", "missing": [], "problems": [problem]}


def machine() -> list[str]:
    """What decides, for one installation, which device torch sees: the graphics driver and the cards a person hides."""
    try:
        driver = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8", errors="replace")
    except OSError:
        driver = str(has_nvidia())
    hidden = [os.environ.get(name, "") for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")]
    return [driver, *hidden]


def package_names(requirements: Sequence[str]) -> list[str]:
    """Package names out of requirement strings, without those that are for another platform."""
    return [re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*", text).group(0) for text in requirements if ";" not in text]


@dataclass(frozen=True)
class Wishes:
    """What a person asks of the environment."""

    torch: str = "auto"
    """auto, cpu, cuda, or a file, folder or index."""
    rebuild: bool = False
    """Make it anew."""
    verbose: bool = False
    """Show everything the installation prints."""


def prepare(
    comfyui: Path, pack: Path, extras: Sequence[str], cache: Path, status: Status, wishes: Wishes | None = None
) -> Environment:
    """The environment for this ComfyUI and this pack with `extras`, made or completed as needed."""
    wishes = wishes or Wishes()
    folder = cache / f"env-{environment_key(comfyui, pack)}"
    lists = requirement_lists((pack / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = {group: list_key(lists[group]) for group in ("", *extras)}
    if not _fits(read_marker(folder), wanted, wishes):
        with locked(
            cache / (folder.name + ".lock"),
            when_waiting=lambda: status.line("Another quickstart is preparing this environment; waiting for it."),
        ):
            if not _fits(read_marker(folder), wanted, wishes):
                _install(folder, comfyui, pack, wanted, cache, status, wishes)
    os.utime(folder / MARKER)
    for old in remove_stale(cache, keep=folder):
        status.line(f"Removed the unused environment {old}")
    report = _report(folder, comfyui, pack)
    if report["device"] == "cpu" and read_marker(folder).get("source") == CPU and has_nvidia():
        status.line("This environment has torch for the CPU only. To use the NVIDIA GPU: --torch cuda")
    return Environment(interpreter(folder), report["device"], report["torch"])


def _fits(marker: dict[str, Any] | None, wanted: Mapping[str, str], wishes: Wishes) -> bool:
    """Whether an environment can be used as it is. wanted: group -> key of its list."""
    if marker is None or wishes.rebuild or any(marker["groups"].get(group) != key for group, key in wanted.items()):
        return False
    return _same_torch(marker, wishes)


def _same_torch(marker: dict[str, Any], wishes: Wishes) -> bool:
    had = marker.get("source", REGISTRY)
    return wishes.torch == "auto" or had in (wishes.torch, *(source.name for source in choose(wishes.torch)))


def _install(
    folder: Path, comfyui: Path, pack: Path, wanted: Mapping[str, str], cache: Path, status: Status, wishes: Wishes
) -> None:
    """Make the environment, or add what it lacks. A new one that cannot be finished leaves nothing."""
    lists = requirement_lists((pack / "pyproject.toml").read_text(encoding="utf-8"))
    log = cache / "logs" / f"{folder.name}.log"
    installer = Installer(folder, pack / "constraints.txt", log, status, wishes.verbose)
    marker = read_marker(folder)
    if marker is None or wishes.rebuild or not _same_torch(marker, wishes):
        sources = choose(wishes.torch)
        status.line(f"First start: an environment is made in {folder}, once.")
        status.line(f"torch {sources[0].title}: {sources[0].cost()}. --torch cpu or --torch cuda chooses another.")
        remove(folder)
        try:
            installer.make(sources[0].disk)
            source = installer.torch(sources)
            installer.pip("Installing ComfyUI's requirements", "-r", comfyui / "requirements.txt", *lists[""])
            marker = {"groups": {"": wanted[""]}, "source": source.name}
            write_marker(folder, marker)
        except BaseException:
            remove(folder)
            raise
    elif (folder / "constraints.txt").exists():
        installer.constraints = folder / "constraints.txt"
    try:
        for extra, key in wanted.items():
            if marker["groups"].get(extra) != key:
                installer.pip(f"Installing the packages for: {extra}", *lists[extra])
                marker = {**marker, "groups": {**marker["groups"], extra: key}}
                write_marker(folder, marker)
    finally:
        installer.clear_downloads()


def _report(folder: Path, comfyui: Path, pack: Path) -> dict[str, Any]:
    """The inspection of a whole environment, remembered while the machine stays the same: importing torch takes 3 s.

    A package that is not there is proven damage: the next start makes the environment anew. Anything else, such as an
    import that fails for want of memory, may have its cause outside, and 7 GB are not thrown away for it.
    """
    marker, seen = read_marker(folder), machine()
    if marker.get("report") and marker.get("seen") == seen:
        return marker["report"]
    lists = requirement_lists((pack / "pyproject.toml").read_text(encoding="utf-8"))
    report = inspect(interpreter(folder), comfyui, package_names(lists[""]))
    if report["missing"]:
        (folder / MARKER).unlink(missing_ok=True)
        raise QuickstartError(
            f"The environment {folder} is damaged: {describe(report)}. Start quickstart again: it will be rebuilt."
        )
    if report["problems"]:
        raise QuickstartError(
            f"ComfyUI cannot start in the environment {folder}: {describe(report)}.\nIt was kept, because the cause "
            f"may lie elsewhere (memory, a driver). If it does not go away, make the environment anew: {REBUILD}"
        )
    write_marker(folder, {**(read_marker(folder) or marker), "report": report, "seen": seen})
    return report


def forget_report(python: Path) -> None:
    """Inspect the environment of `python` again at the next start: ComfyUI did not start in it."""
    folder = python.parents[1]
    marker = read_marker(folder)
    if marker is not None and OURS.fullmatch(folder.name):
        write_marker(folder, {key: value for key, value in marker.items() if key not in ("report", "seen")})


def describe(report: dict) -> str:
    """The problems of an inspection in one line."""
    parts = list(report["problems"])
    if report["missing"]:
        parts.append("not installed: " + ", ".join(report["missing"]))
    return "; ".join(parts)


def current(comfyui: Path, pack: Path, extras: Sequence[str]) -> Environment:
    """The environment quickstart runs in, checked: all requirements present, torch and its companions a working set."""
    lists = requirement_lists((pack / "pyproject.toml").read_text(encoding="utf-8"))
    names = package_names([text for group in ("", *extras) for text in lists[group]])
    report = inspect(Path(sys.executable), comfyui, names)
    if report["problems"]:
        pins = " ".join(
            line.strip()
            for line in (pack / "constraints.txt").read_text(encoding="utf-8").splitlines()
            if line.split("==")[0].strip() in TORCH
        )
        raise QuickstartError(
            f"ComfyUI cannot start with {sys.executable}: {describe(report)}.\nInstall versions that belong together, "
            f"for example the tested set:\n  {sys.executable} -m pip install {pins}\n"
            "or leave out --use-current-environment: quickstart then makes its own."
        )
    if report["missing"]:
        raise QuickstartError(
            f"{sys.executable} has not installed: {', '.join(report['missing'])}.\nInstall them:\n"
            f"  {sys.executable} -m pip install {' '.join(report['missing'])}\n"
            "or leave out --use-current-environment: quickstart then makes its own environment."
        )
    return Environment(Path(sys.executable), report["device"], report["torch"])
