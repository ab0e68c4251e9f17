"""The whole command against a pretended ComfyUI: the picture, the messages, nothing left running however it ends."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from quickstart_lib import command
from quickstart_lib.errors import QuickstartError

FAKE = Path(__file__).with_name("fake_comfyui.py").read_text(encoding="utf-8")
DRIVER = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
from quickstart_lib import command, environment
environment.prepare = lambda *_: environment.Environment(Path(sys.executable), "cpu", "0")
sys.exit(command.main(sys.argv[1:]))
"""
posix_only = pytest.mark.skipif(os.name == "nt", reason="POSIX signals")


class Run:
    """quickstart in a process of its own, with the pretended ComfyUI."""

    def __init__(self, folder: Path, root: Path, comfyui: Path, mode: str, *options: str):
        self.pids_file = folder / "pids"
        environ = {
            **os.environ,
            "COMFYUI_PATH": str(comfyui),
            "COLORIZE_CACHE": str(folder / "cache"),
            "TMPDIR": str(folder / "tmp"),
            "FAKE_MODE": mode,
            "FAKE_PIDS": str(self.pids_file),
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


@pytest.fixture
def start(tmp_path, root, make_comfyui):
    comfyui, runs = make_comfyui("comfyui", main=FAKE), []
    for name in ("some.safetensors", "encoder.safetensors"):
        (tmp_path / name).write_bytes(b"weights")

    def begin(mode: str, *options: str) -> Run:
        models = ("--checkpoint", "some.safetensors", "--encoder", "encoder.safetensors")
        runs.append(Run(tmp_path, root, comfyui, mode, *models, *options))
        return runs[-1]

    yield begin
    for run in runs:
        run.process.kill()
        run.process.communicate()


@posix_only
def test_picture_path_seed_and_seconds(start, tmp_path):
    run = start("finish", "--seed", "0", "--steps", "5", "--reference-scale", "3.5", "--width", "128")
    code, out, err = run.end()
    assert code == 0, err
    assert (tmp_path / "colorized.png").read_bytes() == b"\x89PNG picture"
    assert f"Picture: {tmp_path / 'colorized.png'}" in out and "Seed: 0" in out
    assert re.search(r"Seconds: set-up [\d.]+, server start [\d.]+, picture [\d.]+", out)
    prompt = json.loads(Path(f"{run.pids_file}.prompt").read_text())["prompt"]
    sampler = next(node["inputs"] for node in prompt.values() if node["class_type"] == "KSampler")
    assert (sampler["seed"], sampler["steps"], sampler["cfg"]) == (0, 5, 3.5)
    images = [node["inputs"]["image"] for node in prompt.values() if node["class_type"] == "LoadImage"]
    assert images == ["quickstart_sketch.png", "quickstart_reference.png"]
    assert run.still_running() == [] and run.leftovers() == [] and list((tmp_path / "cache" / "logs").iterdir()) == []


@posix_only
def test_own_checkpoint_is_offered_to_the_server(start, tmp_path):
    (tmp_path / "mine.safetensors").write_bytes(b"weights")
    run = start("finish", "--checkpoint", "mine.safetensors")
    code, _, err = run.end()
    assert code == 0, err
    prompt = json.loads(Path(f"{run.pids_file}.prompt").read_text())["prompt"]
    assert (
        next(n["inputs"] for n in prompt.values() if n["class_type"] == "ColorizeLoadCheckpoint")["ckpt_name"]
        == "mine.safetensors"
    )
    assert (tmp_path / "mine.safetensors").read_bytes() == b"weights"


@posix_only
@pytest.mark.parametrize(
    ("mode", "text"),
    [
        ("refuse", "Load ColorizeDiffusion Checkpoint (node 1): Value not in list: ckpt_name"),
        ("fail", "Encode Reference (node 6) stopped with an error:\n  bad picture"),
        ("die", "out of memory"),
        ("crash", "RuntimeError: no such device"),
    ],
)
def test_failures_are_one_message_and_leave_nothing_running(start, mode, text):
    run = start(mode)
    code, _, err = run.end()
    assert code == 1 and text in err and err.startswith("quickstart: ") and "Traceback" not in err
    assert run.still_running() == [] and run.leftovers() == []
    (log,) = (run.folder / "cache" / "logs").iterdir()
    assert mode == "refuse" or str(log) in err


@posix_only
def test_taken_port_is_tried_again(start):
    code, out, err = start("port").end()
    assert code == 0, err


@posix_only
@pytest.mark.parametrize("mode", ["hang", "deaf"])
@pytest.mark.parametrize(
    ("number", "status"),
    [
        (signal.SIGINT, 130),
        (signal.SIGTERM, 143),
        (signal.SIGHUP, 129),
        (signal.SIGKILL, -9),
    ]
    if os.name != "nt"
    else [],
)
def test_nothing_is_left_after_a_signal(start, mode, number, status):
    run = start(mode)
    run.until(Path(f"{run.pids_file}.prompt"))
    assert run.pids_file.read_text().split()
    run.process.send_signal(number)
    code, _, err = run.end()
    assert code == status and "Traceback" not in err
    assert run.still_running() == []
    if number != signal.SIGKILL:
        assert run.leftovers() == []


@posix_only
def test_ctrl_c_while_the_server_starts(start):
    run = start("hang")
    run.until(run.pids_file)
    run.process.send_signal(signal.SIGINT)
    assert run.end()[0] == 130 and run.still_running() == [] and run.leftovers() == []


@pytest.mark.parametrize(
    "options",
    [
        ["--width", "100"],
        ["--width", "0"],
        ["--height", "x"],
        ["--steps", "0"],
        ["--seed", "-1"],
        ["--seed", "1.5"],
        ["--reference-scale", "nan"],
        ["--reference-scale", "-1"],
        ["--unknown"],
    ],
)
def test_wrong_options_end_with_2(options, capsys):
    with pytest.raises(SystemExit) as exit_:
        command.main(options)
    assert exit_.value.code == 2 and "usage:" in capsys.readouterr().err


def test_wrong_files_are_told_before_any_work(tmp_path, make_comfyui, monkeypatch, capsys):
    monkeypatch.setenv("COMFYUI_PATH", str(make_comfyui("c")))
    monkeypatch.setattr(command.environment, "prepare", lambda *_: pytest.fail("work was done"))
    for options, text in (
        (["--sketch", str(tmp_path / "none.png")], "no such file"),
        (["--reference", str(tmp_path)], "no such file"),
        (["--output", str(tmp_path / "none" / "x.png")], "does not exist"),
        (["--output", str(tmp_path / "x.jpg")], "PNG"),
        (["--checkpoint", "none.safetensors"], "no such file"),
        (["--checkpoint", __file__, "--encoder", "none.safetensors"], "no such file"),
    ):
        assert command.main(options) == 1
        assert text in capsys.readouterr().err


def test_output_is_never_overwritten(tmp_path):
    file = tmp_path / "a.b.png"
    assert command.output_file(file) == file
    file.touch()
    assert command.output_file(file) == tmp_path / "a.b-2.png"
    (tmp_path / "a.b-2.png").touch()
    assert command.output_file(file) == tmp_path / "a.b-3.png"
    assert command.output_file(tmp_path) == tmp_path / "colorized.png"
    assert command.output_file(tmp_path / "plain") == tmp_path / "plain.png"


def test_seed_words():
    assert command.seed("0") == 0 and command.seed(str(2**64 - 1)) == 2**64 - 1 and 0 <= command.seed("random") < 2**32


def test_model_by_name(tmp_path, make_comfyui):
    comfy = make_comfyui("c")
    (comfy / "models" / "checkpoints").mkdir(parents=True)
    (comfy / "models" / "checkpoints" / "a.safetensors").touch()
    found = command.model_file("checkpoint", "a.safetensors", "bundled.safetensors", "checkpoints", comfy)
    assert found == comfy / "models/checkpoints/a.safetensors"
    with pytest.raises(QuickstartError, match="Present there: .*a.safetensors"):
        command.model_file("checkpoint", "b.safetensors", "bundled.safetensors", "checkpoints", comfy)
    with pytest.raises(QuickstartError, match="The bundled file .*bundled.safetensors is missing"):
        command.model_file("checkpoint", None, "bundled.safetensors", "checkpoints", comfy)


def test_old_python_gets_one_sentence(root):
    """The entry file must parse everywhere: nothing newer than Python 3.6 in it."""
    import ast

    ast.parse((root / "quickstart.py").read_text(encoding="utf-8"), feature_version=(3, 6))
