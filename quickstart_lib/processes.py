"""Other programs, started so that nothing of the person's surroundings can break them and none is left behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

# A search path or a home of another Python makes a healthy environment look broken; the pip ones install elsewhere.
NOT_INHERITED = (
    *("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP"),
    *("PIP_TARGET", "PIP_PREFIX", "PIP_USER", "PIP_REQUIRE_VIRTUALENV"),
)
TICK = 0.2  # seconds between two looks at a running program


def clean_environ(**more: str) -> dict[str, str]:
    """The environment variables for a program of ours: this process's, without what misleads Python, plus `more`.

    OpenMP's threads wait without spinning, unless the person chose otherwise: beside a busy browser that is the
    difference between 7 and 156 seconds a picture (docs/LOG.md). It only works when it is set before torch is loaded.
    """
    kept = {name: value for name, value in os.environ.items() if name not in NOT_INHERITED}
    return {"OMP_WAIT_POLICY": "PASSIVE", **kept, **more}


def isolated(python: Path | str, *arguments: Path | str) -> list[str]:
    """A command of `python` that imports nothing from the current folder, the person's own packages or $PYTHONPATH."""
    return [str(python), "-I", *map(str, arguments)]


def kept(command: Sequence[Path | str]) -> list[str]:
    """`command` under keeper.py, which ends it when our end of its standard input closes, however we end."""
    return isolated(sys.executable, Path(__file__).with_name("keeper.py"), *command)


def stop_group(process: subprocess.Popen) -> None:
    """Stop the keeper and what runs under it, politely first. Safe to call more than once."""
    if process.stdin and not process.stdin.closed:
        try:
            process.stdin.close()  # the keeper reads the end and stops its command
        except OSError:
            pass
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
    if os.name != "nt":
        try:
            os.killpg(process.pid, signal.SIGKILL)  # whatever is left of the group
        except (ProcessLookupError, PermissionError):
            pass
    process.wait()


def follow(
    command: Sequence[Path | str],
    log: Path,
    tick: Callable[[float], None],
    limit: float | None = None,
    folder: Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> int:
    """Run `command` with its output appended to the file `log`; returns its exit status.

    `tick` is called several times a second with the seconds since the start. When `limit` seconds have passed
    (TimeoutError), or when we end in any way, the program is ended with everything it started. The output goes to a
    file and not through a pipe, so that a grandchild which survives cannot keep us waiting.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    with open(log, "ab") as output:
        process = subprocess.Popen(
            kept(command),
            cwd=folder,
            env=dict(environ or clean_environ()),
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=os.name != "nt",
        )
    try:
        while process.poll() is None:
            seconds = time.monotonic() - start
            if limit is not None and seconds > limit:
                raise TimeoutError(f"no end after {limit:.0f} seconds")
            tick(seconds)
            time.sleep(TICK)
    finally:
        stop_group(process)
    return process.returncode


def last_lines(log: Path, count: int = 20, start: int = 0) -> list[str]:
    """The last lines of a log file after the byte `start`, empty ones left out."""
    try:
        with open(log, "rb") as file:
            file.seek(max(start, log.stat().st_size - 65536))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return []
    return [line.rstrip() for line in text.splitlines() if line.strip()][-count:]


def reason(lines: Sequence[str]) -> str:
    """The one line of a program's output that says why it failed: the last that names an error, else the last."""
    named = [line for line in lines if line.lower().lstrip(" [").startswith(("error", "fatal"))]
    return (named or list(lines) or ["it ended without a word"])[-1].strip()


def has_module(python: Path | str, name: str) -> bool:
    """Whether `python` runs and can import the module `name`."""
    try:
        result = subprocess.run(
            isolated(python, "-c", f"import {name}"),
            env=clean_environ(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=60,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return result.returncode == 0
