"""The virtual environment: made once per set of requirements, reused, rebuilt when half-made, removed when stale."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import QuickstartError
from .lock import locked
from .requirements import environment_key, requirement_lists
from .terminal import Status, Stopwatch, clock

TORCH = ("torch", "torchvision", "torchaudio")
MARKER = "colorize-environment.json"  # written last: an environment without it is half-made
OURS = re.compile(r"env-[0-9a-f]{16}")  # never touch a folder with another name
KEEP_NEWEST = 2
STALE_DAYS = 30
IN_USE_DAYS = 1  # an environment used since then may be in use now
NEEDED_BYTES = 9 * 2**30  # torch with CUDA unpacks to about 7 GB


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


def interpreter(folder: Path) -> Path:
    """The interpreter of the virtual environment in `folder`."""
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def installed_groups(folder: Path) -> set[str] | None:
    """The requirement groups ("" is the pack's own) installed in `folder`, or None when it is half-made or absent."""
    try:
        marker = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        return set(marker["groups"]) if interpreter(folder).exists() else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_marker(folder: Path, groups: set[str]) -> None:
    """Mark `folder` as complete with `groups`, in one step that is either done or not."""
    new = folder / (MARKER + ".new")
    new.write_text(json.dumps({"groups": sorted(groups)}), encoding="utf-8")
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
            if installed_groups(folder) is None:
                remove(folder)
                removed.append(folder)
            else:
                complete.append(((now - (folder / MARKER).stat().st_mtime) / 86400, folder))
    for rank, (idle_days, folder) in enumerate(sorted(complete), start=2):  # `keep` itself is the newest
        if idle_days > STALE_DAYS or (rank > KEEP_NEWEST and idle_days > IN_USE_DAYS):
            remove(folder)
            removed.append(folder)
    return removed


class Installer:
    """Builds one environment step by step; everything pip says goes to a log file."""

    def __init__(self, folder: Path, constraints: Path, log: Path, status: Status, verbose: bool = False):
        self.folder, self.constraints, self.log, self.status, self.verbose = folder, constraints, log, status, verbose

    def run(self, title: str, command: Sequence[str | Path], help_text: str) -> None:
        """Run one step, showing its time and last line; raise with the end of its output when it fails."""
        watch = Stopwatch()
        self.log.parent.mkdir(parents=True, exist_ok=True)
        process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
        )
        tail: deque[str] = deque(maxlen=20)

        def read() -> None:
            with open(self.log, "a", encoding="utf-8") as log:
                for line in process.stdout:
                    log.write(line)
                    tail.append(line.rstrip())
                    if self.verbose:
                        self.status.line(line.rstrip())

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        try:
            while process.poll() is None:
                if not self.verbose:
                    self.status.show(
                        title, f"{clock(watch.seconds())}  {(tail or [''])[-1].strip()}" if self.status.live else ""
                    )
                time.sleep(0.2)
        finally:
            if process.poll() is None:  # Ctrl-C: leave no pip behind
                process.terminate()
                process.wait()
            reader.join(5)
        if process.returncode:
            raise QuickstartError(
                f"{title} failed.\n  " + "\n  ".join(tail) + f"\nThe whole output is in {self.log}. {help_text}"
            )
        self.status.line(f"{title}: done in {clock(watch.seconds())}")

    def pip(self, title: str, *arguments: str | Path) -> None:
        """pip install ARGUMENTS under the constraints."""
        self.run(
            title,
            [
                interpreter(self.folder),
                "-m",
                "pip",
                "install",
                "--disable-pip-version-check",
                "--no-input",
                "--progress-bar",
                "off",
                "-c",
                self.constraints,
                *arguments,
            ],
            "Check the network connection and the free disk space, then start quickstart again: "
            "it goes on with what was downloaded.",
        )

    def make(self) -> None:
        """The empty virtual environment."""
        remove(self.folder)
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.folder.parent).free
        if free < NEEDED_BYTES:
            raise QuickstartError(
                f"{free / 2**30:.1f} GiB are free on the disk of {self.folder.parent}; the environment needs about "
                f"{NEEDED_BYTES / 2**30:.0f} GiB. Make room, or set COLORIZE_CACHE to a folder on another disk."
            )
        self.run(
            "Making a virtual environment",
            [sys.executable, "-m", "venv", self.folder],
            "On Debian and Ubuntu the package python3-venv is needed: apt install python3-venv.",
        )


def inspect(python: Path, comfyui: Path, names: Sequence[str] = ()) -> dict:
    """What `python` has of ComfyUI's requirements and of the packages `names`: see inspect_environment.py."""
    script = Path(__file__).with_name("inspect_environment.py")
    result = subprocess.run(
        [str(python), str(script), str(comfyui / "requirements.txt"), *names],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        return json.loads(result.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        return {
            "torch": "unknown",
            "device": "cpu",
            "missing": [],
            "problems": [f"{python} does not run: {result.stderr.strip()[-500:] or 'no output'}"],
        }


def package_names(requirements: Sequence[str]) -> list[str]:
    """Package names out of requirement strings, without those that are for another platform."""
    return [re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*", text).group(0) for text in requirements if ";" not in text]


def prepare(
    comfyui: Path, pack: Path, extras: Sequence[str], cache: Path, status: Status, verbose: bool = False
) -> Environment:
    """The environment for this ComfyUI and this pack with `extras`, made or completed as needed."""
    folder = cache / f"env-{environment_key(comfyui, pack)}"
    lists = requirement_lists((pack / "pyproject.toml").read_text(encoding="utf-8"))
    constraints = pack / "constraints.txt"
    installer = Installer(folder, constraints, cache / "logs" / f"{folder.name}.log", status, verbose)

    def waiting() -> None:
        status.line("Another quickstart is preparing this environment; waiting for it.")

    with locked(cache / (folder.name + ".lock"), when_waiting=waiting):
        groups = installed_groups(folder)
        if groups is None:
            status.line(f"First start: an environment is made in {folder} (about 7 GB, several minutes, once).")
            installer.make()
            installer.pip("Installing torch", *TORCH)
            installer.pip("Installing ComfyUI's requirements", "-r", comfyui / "requirements.txt", *lists[""])
            groups = {""}
            write_marker(folder, groups)
        for extra in extras:
            if extra not in groups:
                installer.pip(f"Installing the packages for: {extra}", *lists[extra])
                groups.add(extra)
                write_marker(folder, groups)
        os.utime(folder / MARKER)
        for old in remove_stale(cache, keep=folder):
            status.line(f"Removed the unused environment {old}")
        report = inspect(interpreter(folder), comfyui, package_names(lists[""]))
        if report["problems"] or report["missing"]:
            (folder / MARKER).unlink(missing_ok=True)  # the next start builds it anew
            raise QuickstartError(
                f"The environment {folder} is damaged: {describe(report)}. Start quickstart again: it will be rebuilt."
            )
    return Environment(interpreter(folder), report["device"], report["torch"])


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
