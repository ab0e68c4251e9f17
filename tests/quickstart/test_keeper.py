"""The keeper of the server, folders of killed runs, and output that cannot be written."""

import io
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from quickstart_lib import keeper, server, terminal
from quickstart_lib.lock import locked

posix_only = pytest.mark.skipif(os.name == "nt", reason="POSIX")


@pytest.mark.parametrize("status", [0, 3])
def test_a_command_that_ends_by_itself_gives_its_status(status):
    """With a reader that waits in sys.stdin's buffer the interpreter aborts here (134)."""
    command = [sys.executable, keeper.__file__, sys.executable, "-c", f"raise SystemExit({status})"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True) as process:
        process.wait(30)
        assert process.returncode == status and process.stderr.read() == b""


@posix_only
def test_folders_of_killed_runs_are_swept(tmp_path, monkeypatch):
    monkeypatch.setattr(server.tempfile, "gettempdir", lambda: str(tmp_path))
    used, dead, young, other = (tmp_path / f"{server.FOLDER}{name}" for name in ("used", "dead", "young", "other"))
    for folder in (used, dead, young, other):
        folder.mkdir()
        if folder != other:
            (folder / server.IN_USE).touch()
    (dead / "pack").symlink_to(Path(__file__).parent)
    for folder in (used, dead, other):
        os.utime(folder, (time.time() - 3600,) * 2)
    with locked(used / server.IN_USE):
        server.sweep()
    assert used.exists() and young.exists() and other.exists() and not dead.exists() and Path(__file__).exists()


def test_the_shown_tail_has_no_colour_codes(tmp_path):
    kept = server.Server.__new__(server.Server)
    kept.log = tmp_path / "log"
    kept.log.write_text("\x1b[32m[INFO]\x1b[0m started\n\x1b[1;31mfailed\x1b[K\n")
    assert kept.tail(5) == "[INFO] started\nfailed"


class Full(io.StringIO):
    """A stream on a full disk."""

    def write(self, text):
        raise OSError(28, "No space left on device")


def test_a_stream_that_cannot_be_written_stops_nothing():
    status = terminal.Status(Full())
    status.line("one")
    status.show("two")
    status.steps("three", 1, 2, 1.0)


@posix_only
@pytest.mark.parametrize("redirect", ["| true", "> /dev/full"])
def test_a_closed_pipe_and_a_full_device_stop_nothing(root, redirect):
    code = (
        "import sys, time; from quickstart_lib.terminal import Status; s = Status(); time.sleep(0.3); s.line('x'); "
        "s.line('y'); sys.exit(5)"
    )
    script = f'cd {root}; {{ "{sys.executable}" -c "{code}"; echo $? >&3; }} {redirect}'
    result = subprocess.run(["bash", "-c", f"{{ {script} ; }} 3>&2"], capture_output=True, text=True, check=False)
    assert result.stderr == "5\n"


@pytest.mark.parametrize(
    ("width", "text"), [(60, "[###"), (30, "10/20 steps  5.0 s left"), (5, "10/20 steps  5.0 s left")]
)
def test_a_narrow_window_keeps_the_numbers(width, text):
    assert terminal.step_bar(10, 20, 5.0, width).startswith(text)
