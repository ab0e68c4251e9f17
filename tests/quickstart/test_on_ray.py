"""Many drawings on two local Ray nodes, against a pretended ComfyUI: the pictures of one process, none is lost."""

import json
import os
import tempfile
import time
from pathlib import Path

import pytest

from tests.quickstart.pretended import FAKE, lives

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Ray's local clusters are for POSIX systems")

# Its picture tells the drawing it was made of, and takes a while.
TELLING = FAKE
for old, new in (
    (
        '            image = {"filename": "p.png"',
        '            time.sleep(0.2)\n            image = {"filename": picture(self)',
    ),
    ('b"\\x89PNG picture"', 'b"\\x89PNG " + told(self)'),
    (
        "class Handler",
        """def picture(request):
    time.sleep(0.2)
    return "p" + request.path.rsplit("/", 1)[1] + ".png"


def told(request):
    return SKETCHES[request.path.split("filename=p")[1].split(".png")[0]].split(b"<")[1].split(b">")[0]


class Handler""",
    ),
):
    assert TELLING.count(old) == 1
    TELLING = TELLING.replace(old, new)


@pytest.fixture
def drawings(tmp_path) -> Path:
    """A folder of twelve drawings."""
    from tests.quickstart.test_shots import png

    folder = tmp_path / "cut"
    folder.mkdir()
    for number in range(1, 13):
        (folder / f"a{number:02d}.png").write_bytes(png(64, 64, f"<drawing {number}>"))
    return folder


@pytest.fixture
def telling(tmp_path, start, drawings):
    """telling(mode, *options, at=""): quickstart with that ComfyUI, whose settings also reach servers on Ray."""

    def begin(mode: str, *options: str, at: str = ""):
        settings = {"FAKE_MODE": mode, "FAKE_PIDS": str(tmp_path / "pids"), "FAKE_AT": at}
        text = f"import os\nos.environ.update({settings!r})\n{TELLING}"
        (tmp_path / "comfyui" / "main.py").write_text(text, encoding="utf-8")
        return start(mode, "--sketch", "cut", *options, FAKE_AT=at)

    return begin


def pictures(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.glob("*.png"))}


def servers_left(tmp_path: Path) -> list[int]:
    """Servers that live after a while: a worker whose node was killed notices that first."""
    pids = [int(text) for text in (tmp_path / "pids").read_text().split()]
    until = time.monotonic() + 30
    while (alive := [pid for pid in pids if lives(pid)]) and time.monotonic() < until:
        time.sleep(0.1)
    return alive


def test_a_killed_node_loses_no_picture(telling, ray_cluster, kill_node, tmp_path):
    code, out, err = telling("finish", "--output", "one").end()
    assert code == 0, err
    dead = kill_node(lambda: len(pictures(tmp_path / "two")) > 2)
    code, out, err = telling("finish", "--output", "two", "--ray", ray_cluster.address).end()
    dead()
    assert code == 0 and "a worker was lost" in err, (out, err)
    assert pictures(tmp_path / "one") == pictures(tmp_path / "two")
    assert pictures(tmp_path / "two")["a12.png"] == b"\x89PNG drawing 12"
    counts = json.loads((tmp_path / "two" / "report.json").read_text())["counts"]
    assert counts == {"done": 12, "failed": 0, "all": 12}
    assert servers_left(tmp_path) == []


def test_a_drawing_that_ends_its_server_is_given_up_and_no_other(telling, ray_cluster, tmp_path):
    code, out, err = telling("die", "--output", "out", "--ray", ray_cluster.address, at="<drawing 2>").end()
    assert code == 1 and "ComfyUI ended twice at this drawing" in out and len(pictures(tmp_path / "out")) == 11, err
    assert servers_left(tmp_path) == []
    mine = "models/checkpoints/some.safetensors"
    left = [folder for folder in Path(tempfile.gettempdir()).glob("colorize-quickstart-*") if (folder / mine).exists()]
    assert not any((folder / mine).resolve().is_relative_to(tmp_path) for folder in left)  # workers put them away


def test_one_picture_needs_no_cluster(start):
    code, _, err = start("finish", "--ray", "auto").end()
    assert code == 1 and "--ray is for many drawings" in err
