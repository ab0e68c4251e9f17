"""quickstart in a process of its own, with a pretended ComfyUI (fake_comfyui.py)."""

import os
import subprocess
import sys
import time
from pathlib import Path

FAKE = Path(__file__).with_name("fake_comfyui.py").read_text(encoding="utf-8")
DRIVER = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
from quickstart_lib import command, environment
environment.prepare = lambda *_: environment.Environment(Path(sys.executable), "cpu", "0")
sys.exit(command.main(sys.argv[1:]))
"""


class Run:
    """quickstart in a process of its own, with the pretended ComfyUI."""

    def __init__(self, folder: Path, root: Path, comfyui: Path, mode: str, *options: str, **more: str):
        self.pids_file = folder / "pids"
        environ = {
            **os.environ,
            "COMFYUI_PATH": str(comfyui),
            "COLORIZE_CACHE": str(folder / "cache"),
            "TMPDIR": str(folder / "tmp"),
            "HOME": str(folder / "home"),
            "FAKE_MODE": mode,
            "FAKE_PIDS": str(self.pids_file),
            **more,
        }
        (folder / "tmp").mkdir(exist_ok=True)
        self.folder = folder
        (folder / "driver.py").write_text(DRIVER.format(root=str(root)), encoding="utf-8")
        self.process = subprocess.Popen(
            [sys.executable, str(folder / "driver.py"), *options],
            cwd=folder,
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def until(self, file: Path) -> None:
        """Wait until `file` exists."""
        end = time.monotonic() + 30
        while not file.exists():
            assert time.monotonic() < end and self.process.poll() is None, self.process.communicate()
            time.sleep(0.05)

    def end(self) -> tuple[int, str, str]:
        """(exit status, standard output, standard error)."""
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err

    def still_running(self) -> list[int]:
        """Processes of the server that live after a short while."""
        pids = [int(text) for text in self.pids_file.read_text().split()] if self.pids_file.exists() else []
        end = time.monotonic() + 8
        while (alive := [pid for pid in pids if lives(pid)]) and time.monotonic() < end:
            time.sleep(0.1)
        return alive

    def leftovers(self) -> list[str]:
        """What is left in the folder for temporary files."""
        return [file.name for file in (self.folder / "tmp").iterdir()]


def lives(pid: int) -> bool:
    """True for a running process; a zombie that waits for its adopter does not count."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
