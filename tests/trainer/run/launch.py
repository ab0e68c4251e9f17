"""Starting runs in processes of their own: one, several that share a batch, and ones that are killed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "TOKENIZERS_PARALLELISM": "false"}


def command(config: str, processes: int = 1) -> list[str]:
    """The command line that trains with a TOML file; several processes talk through gloo, as they do on a CPU."""
    return launched(processes, "train", "--config", config)


def launched(processes: int, *arguments: str) -> list[str]:
    """The command line of a command of the trainer in several processes."""
    if processes == 1:
        return [sys.executable, "-m", "trainer", *arguments]
    # --multi_gpu is accelerate's word for "several local processes"; ACCELERATE_USE_CPU keeps them on the CPU.
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    options = ["--num_processes", str(processes), "--num_machines", "1", "--mixed_precision", "no"]
    return [*launch, *options, "--module", "trainer", *arguments]


def start(arguments: list[str], log: Path, **environment: str) -> subprocess.Popen:
    """Start a process whose output goes to `log`."""
    env = {**os.environ, **ENVIRONMENT, **environment}
    with log.open("ab") as file:
        return subprocess.Popen(arguments, cwd=ROOT, env=env, stdout=file, stderr=subprocess.STDOUT)


def finish(process: subprocess.Popen, log: Path, timeout: float = 300) -> None:
    """Wait for a process that must succeed."""
    try:
        code = process.wait(timeout)
    finally:
        process.kill()
    assert code == 0, log.read_text(errors="replace")[-4000:]
