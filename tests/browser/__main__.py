"""Makes what is shown of the workflows, from the repository root, with a real server and a real browser:

    python -m tests.browser make [NAME ...]       saves the template again from workflows/api/NAME.json and its layout
    python -m tests.browser pictures [NAME ...]   writes its thumbnail, for quickstart docs/images/workflow.png too
    python -m tests.browser blueprint             saves subgraphs/ again from the quickstart template (needs no browser)
    python -m tests.browser look [NAME ...]       runs it and shows every group of nodes in pictures, in a new folder

NAME is a workflow with a file NAME_layout.json in this folder; without names all of them. The layout says under which
name ComfyUI's template browser shows it (example_workflows/): there is no other title.
Needs the environment of the tests, the bundled models, chromium, Node.js and playwright-core (see test_browser.py).
"""

import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from quickstart_lib import comfyui, environment, job
from quickstart_lib.server import Server
from quickstart_lib.terminal import Status
from tests.browser import blueprint, stand_ins
from tests.workflows.shipped import NAMES, ROOT, api, examples, layout, packs, template

HERE = Path(__file__).parent
THUMBNAIL = 512  # pixels, square
SHOWN = "quickstart"  # the workflow whose graph the README shows


def browse(*arguments: object) -> dict:
    """Run browser.cjs."""
    cache = environment.cache_folder(os.environ, Path.home())
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or ""
    environ = {**os.environ, "NODE_PATH": str(cache / "npm" / "node_modules"), "CHROMIUM": chromium}
    command = ["node", str(HERE / "browser.cjs"), *map(str, arguments)]
    return json.loads(subprocess.run(command, env=environ, stdout=subprocess.PIPE, text=True, check=True).stdout)


def thumbnail(sketch, reference, result, split: float = 0.5, size: int = THUMBNAIL):
    """A square picture: the sketch on the left, from `split` of the width on the result, the reference in a corner."""
    from PIL import Image, ImageDraw

    sketch, result = (picture.convert("RGB").resize((size, size), Image.LANCZOS) for picture in (sketch, result))
    cut = round(split * size)
    sketch.paste(result.crop((cut, 0, size, size)), (cut, 0))
    draw = ImageDraw.Draw(sketch)
    draw.line((cut, 0, cut, size), fill="white", width=3)
    inset = size // 4
    draw.rectangle((8, size - inset - 14, inset + 13, size - 9), fill="white")
    sketch.paste(reference.convert("RGB").resize((inset, inset), Image.LANCZOS), (11, size - inset - 11))
    return sketch


def words_thumbnail(reference, edits: list[str], size: int = THUMBNAIL):
    """A square picture: the reference with its edits written on it, in their order."""
    from PIL import Image, ImageDraw, ImageFont

    picture = reference.convert("RGB").resize((size, size), Image.LANCZOS)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(size=26)
    for row, edit in enumerate(reversed(edits)):
        bottom = size - 14 - 56 * row
        right = 26 + draw.textlength(edit, font=font)
        draw.rounded_rectangle((14, bottom - 46, right + 12, bottom), 10, fill="white")
        draw.text((26, bottom - 39), edit, fill=(40, 40, 40), font=font)
    return picture


def inputs_thumbnail(sketch, references, size: int = THUMBNAIL):
    """A square picture of what goes in: the sketch, with the references in its corners."""
    from PIL import Image, ImageDraw

    picture = sketch.convert("RGB").resize((size, size), Image.LANCZOS)
    draw, inset = ImageDraw.Draw(picture), size // 3
    for left, reference in zip((11, size - inset - 11), references):
        draw.rectangle((left - 3, size - inset - 14, left + inset + 2, size - 9), fill="white")
        picture.paste(reference.convert("RGB").resize((inset, inset), Image.LANCZOS), (left, size - inset - 11))
    return picture


def make(server: Server, name: str) -> None:
    """Save the template NAME again."""
    print(name, browse("make", url(server), api(name), layout(name), json.dumps(packs()), template(name)))


def pictures(server: Server, name: str) -> None:
    """Show the workflow: its thumbnail, from a run where it needs no download, and the graph of SHOWN."""
    from PIL import Image

    workflow = job.load_workflow(api(name))
    shown = examples(name)
    references = [Image.open(file) for title, file in shown.items() if title.startswith("Reference")]
    if stand_ins.downloads(template(name)):  # a run without those files would show nothing true
        edits = [node["inputs"] for node in workflow.values() if "anchor" in node["inputs"]]
        words = [f"{edit['anchor']}  >  {edit['target']}" for edit in edits]
        sketch = Image.open(shown["Sketch"])
        picture = words_thumbnail(references[0], words) if edits else inputs_thumbnail(sketch, references)
    else:
        result = Image.open(io.BytesIO(made(server, workflow if "Frames" in shown else saved(workflow))))
        split = json.loads(layout(name).read_text(encoding="utf-8")).get("split", 0.5)  # left of the face
        drawn = (
            first_frame(shown["Frames"]) if "Frames" in shown else Image.open(shown.get("Sketch") or shown["Picture"])
        )
        picture = thumbnail(drawn, references[0], result, split)
    picture.save(template(name).with_suffix(".jpg"), quality=90)
    if name != SHOWN:
        return
    shot = ROOT / "docs/images/workflow.png"
    shot.parent.mkdir(parents=True, exist_ok=True)
    seen = browse("check", url(server), template(name), shot)
    graph = Image.open(shot).convert("RGB").crop(tuple(map(round, seen["shown"])))
    small = graph.resize((1600, 1600 * graph.height // graph.width), Image.LANCZOS)
    small.quantize(256, dither=Image.Dither.NONE).save(shot, optimize=True)  # half the bytes, the same words
    print(shot, seen["status"]["status_str"], seen["errors"])


class Silent(job.Progress):
    """Tells nobody how far a run is; a workflow may have any sampler."""

    def __init__(self) -> None:
        self.now = "the workflow"

    def take(self, kind: str, data: dict) -> None:
        pass


def made(server: Server, workflow: job.Workflow) -> bytes:
    """The first picture that a workflow saves."""
    with job.open_events(server) as events:
        entry = job.follow(server, events, job.queue(server, workflow), Silent())
    return job.result_of(server, workflow, entry).picture


def first_frame(video: Path):
    """A video's first picture."""
    import av

    with av.open(str(video)) as container:
        return next(container.decode(video=0)).to_image()


def saved(workflow: job.Workflow) -> job.Workflow:
    """The workflow with its result saved, where it only shows it; other previews are no results."""
    out = dict(workflow)
    if any(node["class_type"] == "SaveImage" for node in workflow.values()):
        return out
    for number, node in workflow.items():
        if node["class_type"] == "PreviewImage":
            out[number] = node | {
                "class_type": "SaveImage",
                "inputs": node["inputs"] | {"filename_prefix": "colorized"},
            }
    return out


def look(server: Server, name: str) -> None:
    """Run the workflow in the browser, with stand-ins for files to download, and show every group of its nodes."""
    workflow = template(name)
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-"))
    with stand_ins.placed(workflow, server.base):
        seen = browse("check", url(server), workflow, folder / "graph.png", "groups")
    status = seen["status"]["status_str"] if seen["status"] else "it did not end in time"
    print(folder, status, seen["missing"], seen["dialogs"], seen["errors"])


def url(server: Server) -> str:
    return f"http://127.0.0.1:{server.port}"


def main(action: str, *names: str) -> int:
    """The exit status."""
    if action == "blueprint":
        blueprint.write()
        return 0
    actions = {"make": make, "pictures": pictures, "look": look}
    if action not in actions or not set(names) <= set(NAMES):
        print(__doc__, "Names: " + ", ".join(NAMES), sep="\n")
        return 2
    cache = environment.cache_folder(os.environ, Path.home())
    folder = comfyui.find_or_fetch("auto", ROOT, os.environ, Path.home(), cache, Status())
    here = environment.Environment(Path(sys.executable), "cpu", "")
    with Server(here, folder, ROOT, cache / "logs", Status(), cpu=True) as server:
        for name in names or NAMES:
            actions[action](server, name)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:] or [""]))
