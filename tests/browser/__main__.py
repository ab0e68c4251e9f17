"""Makes what is shown of the workflows, from the repository root, with a real server and a real browser:

    python -m tests.browser make        saves workflows/quickstart.json again from its API twin and its layout
    python -m tests.browser pictures    writes docs/images/workflow.png and workflows/quickstart.jpg

Needs the environment of the tests, the bundled models, chromium, Node.js and playwright-core (see test_browser.py).
"""

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from quickstart_lib import comfyui, environment, job
from quickstart_lib.server import Server
from quickstart_lib.terminal import Status

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
EXAMPLES = ROOT / "workflows" / "examples"
THUMBNAIL = 512  # pixels, square
SHOT_BOX = (64, 104, 2336, 900)  # the graph in the browser's window: left, top, right, bottom


def browse(*arguments: object) -> dict:
    """Run browser.cjs."""
    cache = environment.cache_folder(os.environ, Path.home())
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or ""
    environ = {**os.environ, "NODE_PATH": str(cache / "npm" / "node_modules"), "CHROMIUM": chromium}
    command = ["node", str(HERE / "browser.cjs"), *map(str, arguments)]
    return json.loads(subprocess.run(command, env=environ, stdout=subprocess.PIPE, text=True, check=True).stdout)


def thumbnail(sketch, reference, result, size: int = THUMBNAIL):
    """A square picture: the sketch on the left, the result on the right, the reference in a corner."""
    from PIL import Image, ImageDraw

    sketch, result = (picture.convert("RGB").resize((size, size), Image.LANCZOS) for picture in (sketch, result))
    sketch.paste(result.crop((size // 2, 0, size, size)), (size // 2, 0))
    draw = ImageDraw.Draw(sketch)
    draw.line((size // 2, 0, size // 2, size), fill="white", width=3)
    inset = size // 4
    draw.rectangle((8, size - inset - 14, inset + 13, size - 9), fill="white")
    sketch.paste(reference.convert("RGB").resize((inset, inset), Image.LANCZOS), (11, size - inset - 11))
    return sketch


def main(action: str) -> int:
    """The exit status."""
    if action not in ("make", "pictures"):
        print(__doc__)
        return 2
    cache = environment.cache_folder(os.environ, Path.home())
    folder = comfyui.find_or_clone(ROOT, os.environ, Path.home(), cache, print)
    here = environment.Environment(Path(sys.executable), "cpu", "")
    status, ui, api = Status(), ROOT / "workflows/quickstart.json", ROOT / "workflows/api/quickstart.json"
    with Server(here, folder, ROOT, cache / "logs", status, cpu=True) as server:
        for name in ("sketch", "reference"):
            server.upload(EXAMPLES / f"quickstart_{name}.png", f"quickstart_{name}.png")
        url = f"http://127.0.0.1:{server.port}"
        if action == "make":
            print(browse("make", url, api, HERE / "quickstart_layout.json", ui))
            return 0
        from PIL import Image

        picture = Image.open(io.BytesIO(job.run(server, job.load_workflow(api), status)))
        pair = (Image.open(EXAMPLES / f"quickstart_{name}.png") for name in ("sketch", "reference"))
        thumbnail(*pair, picture).save(ROOT / "workflows/quickstart.jpg", quality=90)
        shot = ROOT / "docs/images/workflow.png"
        shot.parent.mkdir(parents=True, exist_ok=True)
        seen = browse("check", url, ui, shot)
        graph = Image.open(shot).convert("RGB").crop(SHOT_BOX)
        graph.resize((1600, 1600 * graph.height // graph.width), Image.LANCZOS).save(shot, optimize=True)
        print(shot, seen["status"]["status_str"], seen["errors"])
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2] or [""]))
