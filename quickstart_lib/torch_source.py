"""Which build of torch an environment gets, where it comes from, and what that costs."""

import platform
import shutil
import sys
import threading
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .errors import QuickstartError

TORCH = ("torch", "torchvision", "torchaudio")
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
CUDA_INDEX = (
    "https://download.pytorch.org/whl/cu130"  # what the registry's Linux build of the pinned version needs, too
)
ANSWER_LIMIT = 10.0  # seconds
OTHER_PACKAGES = 0.6  # GB to download besides torch: most of it the templates that ComfyUI requires

CPU, CUDA, REGISTRY = "cpu", "cuda", "registry"


@dataclass(frozen=True)
class TorchSource:
    """One way to install torch and its companions."""

    name: str
    """What the environment remembers: cpu, cuda, registry, or what the person gave."""
    arguments: tuple[str, ...]
    """What pip install gets."""
    title: str
    """Which build this is, in words."""
    download: float | None
    """GB, torch and its companions only; None when unknown."""
    disk: float
    """GB that the whole environment takes."""
    pinned: bool = True
    """Whether the tested versions hold; a person's own build is taken as it is."""

    def cost(self) -> str:
        """What is downloaded and kept, as text."""
        if self.download is None:
            return f"{OTHER_PACKAGES:.1f} GB to download besides it"
        return f"{self.download + OTHER_PACKAGES:.1f} GB to download, {self.disk:.0f} GB on disk"


def has_nvidia() -> bool:
    """Whether an NVIDIA driver is installed."""
    return bool(shutil.which("nvidia-smi")) or Path("/proc/driver/nvidia/version").exists()


def answers(index: str, limit: float = ANSWER_LIMIT) -> bool:
    """Whether a package index answers within `limit` seconds; a name server that keeps silent counts as no."""
    result = []

    def ask() -> None:
        try:
            with urllib.request.urlopen(f"{index}/torch/", timeout=limit) as answer:
                result.append(answer.status == 200)
        except (OSError, ValueError):
            pass

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(limit)
    return result == [True]


def _index(name: str, url: str) -> TorchSource:
    title, download, disk = ("for the CPU", 0.3, 3) if name == CPU else ("with CUDA", 3.3, 7)
    return TorchSource(name, ("--index-url", url, *TORCH), title, download, disk)


def _registry() -> TorchSource:
    """The default registry: a CUDA build on Linux x86_64, a small one elsewhere."""
    if sys.platform == "linux" and platform.machine() in ("x86_64", "AMD64"):
        return TorchSource(REGISTRY, TORCH, "with CUDA", 3.3, 7)
    return TorchSource(REGISTRY, TORCH, "of this system", 0.3, 3)


def _own(given: str) -> TorchSource:
    """A wheel, a folder of wheels, or an index that the person named."""
    if "://" in given:
        return TorchSource(given, ("--index-url", given, *TORCH), f"from {given}", None, 7, pinned=False)
    path = Path(given).expanduser().absolute()
    wheels = [str(f) for f in sorted(path.glob("*.whl")) if f.name.split("-")[0] in TORCH] if path.is_dir() else []
    if path.is_file() and path.suffix == ".whl":
        wheels = [str(path)]
    present = {Path(wheel).name.split("-")[0] for wheel in wheels}
    if "torch" not in present:
        raise QuickstartError(
            f"--torch is {given}, which is neither cpu nor cuda, no index (https://...), no wheel of torch and no "
            "folder with one (torch-*.whl). Give one of these, or leave it out."
        )
    companions = [name for name in TORCH if name not in present]
    return TorchSource(given, (*wheels, *companions), f"from {path}", None, 7, pinned=False)


def choose(choice: str, reachable: Callable[[str], bool] = answers) -> list[TorchSource]:
    """Sources for `choice` (auto, cpu, cuda, a file, a folder, an index) in the order in which they are tried."""
    mac, windows = sys.platform == "darwin", sys.platform == "win32"
    if choice == CPU:
        return [_registry() if mac else _index(CPU, CPU_INDEX)]
    if choice == CUDA:
        if mac:
            raise QuickstartError("--torch is cuda, but there is no CUDA on macOS. Leave it out.")
        return [_index(CUDA, CUDA_INDEX) if windows else _registry()]
    if choice != "auto":
        return [_own(choice)]
    if platform.machine() not in ("x86_64", "AMD64") or mac or windows != has_nvidia():
        return [_registry()]  # its build is the right one: CUDA on Linux with a GPU, the CPU's on Windows without
    first = _index(CUDA, CUDA_INDEX) if windows else _index(CPU, CPU_INDEX)
    return [first, _registry()] if reachable(str(first.arguments[1])) else [_registry()]
