"""The quickstart workflow on a real ComfyUI server, started, used and stopped by quickstart itself."""

import json
import os
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.comfyui, pytest.mark.server]
LONGEST = 1800  # seconds: a hang, not a bar; on a busy machine a start alone has taken minutes
PNG = b"\x89PNG\r\n\x1a\n"


def png_size(data: bytes) -> tuple[int, int]:
    """(width, height) of a PNG file."""
    assert data[:8] == PNG
    return struct.unpack("!II", data[16:24])


@pytest.fixture
def quickstart(root, comfyui_folder, small_models, tmp_path):
    """Returns a function that starts quickstart.py with options in the tests' own environment."""
    checkpoint, encoder = small_models
    (tmp_path / "tmp").mkdir()
    environ = {
        **os.environ,
        "COMFYUI_PATH": str(comfyui_folder),
        "COLORIZE_CACHE": str(tmp_path / "cache"),
        "TMPDIR": str(tmp_path / "tmp"),
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "inductor"),  # torch's own cache, by default in TMPDIR
    }

    def start(*options: str, **popen) -> subprocess.Popen:
        command = [
            sys.executable,
            str(root / "quickstart.py"),
            "--use-current-environment",
            "--cpu",
            "--checkpoint",
            str(checkpoint),
            "--encoder",
            str(encoder),
            *options,
        ]
        return subprocess.Popen(
            command, cwd=tmp_path, env=environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **popen
        )

    return start


def test_a_picture_from_start_to_end(quickstart, tmp_path):
    process = quickstart("--steps", "3", "--width", "128", "--height", "128", "--seed", "7", "--output", "result.png")
    out, err = process.communicate(timeout=LONGEST)
    assert process.returncode == 0, err
    data = (tmp_path / "result.png").read_bytes()
    sketch = (Path(__file__).parents[2] / "workflows/examples/quickstart_sketch.png").read_bytes()
    assert png_size(data) == png_size(sketch)  # Restore Size gives the sketch's own size
    assert "3/3 steps" in out and "Seed: 7" in out and "Seconds: set-up" in out
    assert b"ColorizeApplyReference" in data  # the picture carries its workflow
    assert list((tmp_path / "tmp").iterdir()) == [] and list((tmp_path / "cache/logs").iterdir()) == []


def test_broken_picture_is_one_readable_message(quickstart, tmp_path):
    """Its frame is whole, so only the server's decoder finds out."""
    data = bytearray((Path(__file__).parents[2] / "workflows/examples/quickstart_sketch.png").read_bytes())
    start = data.index(b"IDAT") + 4
    data[start : start + 200] = bytes(200)
    (tmp_path / "broken.png").write_bytes(data)
    process = quickstart("--sketch", "broken.png")
    out, err = process.communicate(timeout=LONGEST)
    assert process.returncode == 1 and err.startswith("quickstart: Sketch (node ") and "Traceback" not in err
    assert list((tmp_path / "tmp").iterdir()) == []


def test_swapped_pictures_are_told_under_the_result(quickstart, root):
    examples = root / "workflows/examples"
    files = [str(examples / f"quickstart_{name}.png") for name in ("reference", "sketch")]
    out, err = quickstart(*files, "--steps", "1", "--size", "64").communicate(timeout=LONGEST)
    assert "Picture: " in out, err
    told = out[out.index("Picture: ") :]
    assert "(sketch): " in told and "(reference): " in told and "Fix: " in told


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_while_it_samples_leaves_nothing(quickstart, tmp_path):
    psutil = pytest.importorskip("psutil")  # ComfyUI brings it
    process = quickstart("--steps", "1000")
    for line in process.stdout:
        if line.startswith("Colouring"):
            break
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) == 3  # the keeper, its half that watches, and the server
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=LONGEST)
    assert process.returncode == 130 and "nothing is left running" in err
    assert psutil.wait_procs(children, timeout=LONGEST)[1] == []
    assert list((tmp_path / "tmp").iterdir()) == []


def test_unknown_value_is_told_by_name(live_server, root):
    from quickstart_lib import job
    from quickstart_lib.errors import QuickstartError

    workflow = job.load_workflow(root / "workflows/api/quickstart.json")
    with pytest.raises(QuickstartError, match="Load ColorizeDiffusion Checkpoint .*none.safetensors"):
        job.queue(live_server, job.fill(workflow, {"checkpoint": "none.safetensors"}))


def test_server_has_no_other_pack_and_stays_on_loopback(live_server):
    stats = live_server.get_json("/system_stats")
    argv = stats["system"]["argv"]
    assert argv[argv.index("--listen") + 1] == "127.0.0.1" and "--disable-api-nodes" in argv
    assert json.dumps(stats["devices"]).count("cpu") and [
        f.name for f in (live_server.base / "custom_nodes").iterdir()
    ] == ["colorize-diffusion"]
