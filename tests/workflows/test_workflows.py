"""Every shipped workflow against the node definitions of a real server, and each UI workflow against its API twin."""

import json
import re
from pathlib import Path

import pytest

from colorize import sampler_settings
from quickstart_lib import job, models, quality
from tests.browser import __main__ as pictures_tool
from tests.browser.stand_ins import BY_PAGE
from tests.workflows.shipped import EXAMPLES, NAMES, ROOT, TEMPLATES, api, example, layout, packs, template

API_FILES = sorted((ROOT / "workflows" / "api").glob("*.json"))
UI_FILES = sorted(TEMPLATES.glob("*.json"))
FILE_SUFFIX = re.compile(r"\.(safetensors|ckpt|pt|pth|png|jpg|jpeg|webp|mp4)$")
WEIGHTS = re.compile(r"\.(safetensors|ckpt|pt|pth)$")
WIDGET_TYPES = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
ENDS = ("Save", "Preview", "ColorizePreflight")
CONTROLLED = ("seed", "noise_seed")  # widgets that the frontend can change after every run
MUTED = 2  # mode of a node that is switched off


def read(file: Path):
    return json.loads(file.read_text(encoding="utf-8"))


def by_name(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


@pytest.fixture(scope="session")
def object_info(live_server):
    """The definitions of all nodes, as the server gives them to the frontend."""
    return live_server.get_json("/object_info")


def definitions(info: dict, class_type: str) -> dict[str, tuple[bool, list]]:
    """Input name -> (required, [type or choices, options])."""
    inputs = info[class_type]["input"]
    return {
        name: (kind == "required", entry)
        for kind in ("required", "optional")
        for name, entry in inputs.get(kind, {}).items()
    }


def check_value(value, entry: list, where: str) -> None:
    """A widget's value against its definition."""
    kind, options = entry[0], entry[1] if len(entry) > 1 else {}
    choices = kind if isinstance(kind, list) else options.get("options")
    if kind == "COMFY_DYNAMICCOMBO_V3":  # choices that may bring inputs of their own
        choices = [choice["key"] for choice in choices]
    if choices is not None and kind not in WIDGET_TYPES[:4]:
        assert value in choices or FILE_SUFFIX.search(str(value)), f"{where}: {value!r} is not one of {choices[:20]}"
    elif kind in ("INT", "FLOAT"):
        assert isinstance(value, (int, float)) and not isinstance(value, bool), where
        assert options.get("min", value) <= value <= options.get("max", value), f"{where}: {value} is out of range"
        if kind == "INT":
            assert value == int(value) and value % (options.get("step") or 1) in (0, value), where
    elif kind == "BOOLEAN":
        assert isinstance(value, bool), where
    elif kind == "STRING":
        assert isinstance(value, str), where
    else:
        pytest.fail(f"{where}: {kind} needs a link, not a value")


def test_every_workflow_has_its_files():
    """API form, layout, template, thumbnail: all or none. Titles are found by "colorize" in the template browser."""
    assert API_FILES == [api(name) for name in NAMES] and NAMES
    assert UI_FILES == sorted(template(name) for name in NAMES)
    for file in UI_FILES:
        assert file.with_suffix(".jpg").is_file() and file.stem.startswith("Colorize ")
        assert not set(file.stem) & set('\\/:*?"<>|'), "no file name on Windows"


@pytest.mark.parametrize("file", UI_FILES, ids=by_name)
def test_nodes_name_their_pack(file):
    for node in read(file)["nodes"]:
        if node["type"] != "MarkdownNote":
            pack = packs()["ours" if node["type"].startswith("Colorize") else "core"]
            assert pack.items() <= node["properties"].items(), node["type"]


@pytest.mark.parametrize("file", API_FILES, ids=by_name)
def test_api_workflow_fits_the_nodes(file, object_info):
    workflow = read(file)
    for node_id, node in workflow.items():
        name = f"{node_id} {node['class_type']}"
        assert node["class_type"] in object_info, f"{name} is unknown"
        assert node["_meta"]["title"]
        known = definitions(object_info, node["class_type"])
        assert {n for n, (required, _) in known.items() if required} <= set(node["inputs"]) <= set(known), name
        for key, value in node["inputs"].items():
            where, entry = f"{name}.{key}", known[key][1]
            if isinstance(value, list):
                source, index = value
                given = object_info[workflow[source]["class_type"]]["output"][index]
                assert entry[0] == "*" or given in entry[0].split(","), f"{where}: {given} into {entry[0]}"
            else:
                check_value(value, entry, where)
    assert any(object_info[node["class_type"]]["output_node"] for node in workflow.values())


@pytest.mark.parametrize("file", API_FILES, ids=by_name)
def test_every_node_is_used_and_titles_are_unique(file):
    workflow = read(file)
    titles = [node["_meta"]["title"] for node in workflow.values()]
    assert len(set(titles)) == len(titles)
    used = {value[0] for node in workflow.values() for value in node["inputs"].values() if isinstance(value, list)}
    ends = {node_id for node_id, node in workflow.items() if node["class_type"].startswith(ENDS)}
    assert used | ends == set(workflow)


@pytest.mark.parametrize("file", UI_FILES, ids=by_name)
def test_ui_workflow_is_whole(file, object_info):
    graph = read(file)
    nodes = {node["id"]: node for node in graph["nodes"]}
    assert graph["version"] in (0.4, 1) and len(nodes) == len(graph["nodes"])
    for link_id, source, output, target, slot, kind in graph["links"]:
        assert nodes[source]["outputs"][output]["type"] == kind
        assert link_id in nodes[source]["outputs"][output]["links"] and nodes[target]["inputs"][slot]["link"] == link_id
    for node in nodes.values():
        assert node["type"] in object_info or node["type"] in ("Note", "MarkdownNote"), node["type"]
    assert any(node["type"] == "MarkdownNote" for node in nodes.values()), "a workflow explains itself in a note"
    assert graph["groups"]


@pytest.mark.parametrize("name", NAMES)
def test_app_mode_shows_pictures_settings_and_result(name, object_info):
    """What the layout says, by the nodes' numbers: widgets that are there, and nodes that show a picture."""
    graph = read(template(name))
    nodes = {str(node["id"]): node for node in graph["nodes"]}
    titles = {node["_meta"]["title"]: node_id for node_id, node in read(api(name)).items()}
    app, shown = read(layout(name))["app"], graph["extra"]["linearData"]
    assert shown["inputs"] == [[titles[title], widget] for title, widget in app["inputs"]]
    assert shown["outputs"] == [titles[title] for title in app["outputs"]]
    for node_id, widget in shown["inputs"]:
        assert widget in [slot["name"] for slot in nodes[node_id]["inputs"] if "widget" in slot], f"{node_id} {widget}"
    assert all(object_info[nodes[node_id]["type"]]["output_node"] for node_id in shown["outputs"])
    loads = {title for title, node_id in titles.items() if nodes[node_id]["type"].startswith("LoadImage")}
    assert loads <= {title for title, _ in app["inputs"]}


@pytest.mark.parametrize("file", UI_FILES, ids=by_name)
def test_nothing_overlaps(file):
    graph = read(file)
    boxes = [
        (
            n["title"] if "title" in n else n["type"],
            n["pos"][0],
            n["pos"][1] - 30,
            n["pos"][0] + n["size"][0],
            n["pos"][1] + n["size"][1],
        )
        for n in graph["nodes"]
    ]
    for i, (name, left, top, right, bottom) in enumerate(boxes):
        for other, left2, top2, right2, bottom2 in boxes[i + 1 :]:
            assert right <= left2 or right2 <= left or bottom <= top2 or bottom2 <= top, f"{name} lies on {other}"
        assert any(
            g["bounding"][0] <= left
            and right <= g["bounding"][0] + g["bounding"][2]
            and g["bounding"][1] <= top
            and bottom <= g["bounding"][1] + g["bounding"][3]
            for g in graph["groups"]
        ), name


def defaults(info: dict, class_type: str) -> dict:
    """Widgets that an API workflow may leave out, with the values they then have."""
    return {
        name: entry[1]["default"]
        for name, (required, entry) in definitions(info, class_type).items()
        if not required and entry[0] in WIDGET_TYPES
    }


def widget_values(node: dict) -> dict:
    """Widget -> value. What the frontend adds behind a seed (fixed, randomize ...) has a value but no input."""
    values = iter(node.get("widgets_values", []))
    named = {}
    for slot in node["inputs"]:
        if "widget" in slot:
            name = slot["widget"]["name"]
            named[name] = next(values)
            if name in CONTROLLED or (node["type"], name) == ("ColorizeLoadFrames", "part"):
                assert next(values) == "fixed", "a template gives the same picture to everybody"
    assert not list(values), node["type"]
    return named


def as_api(graph: dict) -> dict:
    """A UI workflow in API form, from its links and widget values. What is switched off is left out."""
    nodes = {node["id"]: node for node in graph["nodes"] if node["mode"] != MUTED}
    links = {link[0]: [str(link[1]), link[2]] for link in graph["links"] if link[1] in nodes}
    workflow = {}
    for node in nodes.values():
        if node["type"] in ("Note", "MarkdownNote"):
            continue
        connected = {slot["name"]: links[slot["link"]] for slot in node["inputs"] if slot.get("link") in links}
        workflow[str(node["id"])] = {"class_type": node["type"], "inputs": {**widget_values(node), **connected}}
    return workflow


@pytest.mark.parametrize("name", NAMES)
def test_template_equals_its_api_twin(name, object_info):
    twin = {
        node_id: {
            "class_type": node["class_type"],
            "inputs": defaults(object_info, node["class_type"]) | node["inputs"],
        }
        for node_id, node in read(api(name)).items()
    }
    converted = as_api(read(template(name)))
    for node_id, node in converted.items():
        node["inputs"] = {key: value for key, value in node["inputs"].items() if key not in ("upload",)}
        assert node == twin[node_id], f"node {node_id}: python -m tests.browser make saves the template again"
    assert set(converted) == set(twin)


@pytest.mark.parametrize("file", UI_FILES, ids=by_name)
def test_missing_model_data_names_the_widgets_file(file):
    for node in read(file)["nodes"]:
        for model in node.get("properties", {}).get("models", []):
            assert model["name"] in map(str, node["widgets_values"]) and model["url"] and model["directory"]
            assert model["url"].startswith("https://huggingface.co/") and WEIGHTS.search(model["url"])
            assert ("hash" in model) == ("hash_type" in model)


@pytest.mark.parametrize("file", UI_FILES, ids=by_name)
def test_every_file_is_bundled_or_offered_for_download(file):
    bundled = {model.name for model in (ROOT / "models").glob("*/*.safetensors")} | {"colorize_small.safetensors"}
    bundled |= {"colorize_small_vision.safetensors"}  # also where the repository was taken without them
    notes = " ".join(str(node.get("widgets_values")) for node in read(file)["nodes"] if node["type"] == "MarkdownNote")
    bundled |= {name for name in BY_PAGE if f"`{name}`" in notes and "https://huggingface.co/tellurion/" in notes}
    for node in read(file)["nodes"]:
        offered = {model["name"] for model in node.get("properties", {}).get("models", [])}
        named = {value for value in node.get("widgets_values", []) if WEIGHTS.search(str(value))}
        assert named <= bundled | offered, node["type"]


@pytest.mark.parametrize("file", API_FILES, ids=by_name)
def test_example_pictures_are_there_and_fit(file):
    """Pictures that a workflow names lie in examples/; a mask has the size of what it belongs to, 255 on the figure."""
    from PIL import Image

    names = {node["inputs"]["image"] for node in read(file).values() if node["class_type"].startswith("LoadImage")}
    for name in names:
        with Image.open(example(name)) as picture:
            assert picture.width == picture.height and picture.width in (512, 768), name
            if name.endswith("_mask.png"):
                assert picture.mode == "L" and picture.getextrema() == (0, 255), name
                with Image.open(example(name.replace("_mask", ""))) as of:
                    assert of.size == picture.size


def test_every_example_belongs_to_a_workflow():
    nodes = [node for file in API_FILES for node in read(file).values()]
    names = {node["inputs"]["image"] for node in nodes if node["class_type"].startswith("LoadImage")}
    names |= {node["inputs"]["source"] for node in nodes if node["class_type"] == "ColorizeLoadFrames"}
    assert set(EXAMPLES.iterdir()) == {example(name) for name in names}


def test_one_template_folder_only():
    """ComfyUI lists the workflows of every folder with one of these names but serves only the first."""
    names = ("example_workflows", "example", "examples", "workflow", "workflows")
    assert [name for name in names if list((ROOT / name).glob("*.json"))] == [TEMPLATES.name]


def likes(workflow: dict, checkpoint: str) -> dict:
    """How the model of a workflow is best sampled: as its student or the bundled file says, or as its family wants."""
    for node in workflow.values():
        if "lora_name" in node["inputs"]:
            return quality.settings_of(ROOT / "models" / "loras" / node["inputs"]["lora_name"])
    file = ROOT / "models" / "checkpoints" / checkpoint
    if file.is_file():
        return models.checkpoint(file).sampler
    return models.sampler_options(sampler_settings.of_family(False, checkpoint.startswith(("sdxl", "xlv2"))))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "animediffusion"])
def test_a_template_samples_as_its_model_likes(name):
    """Sampler, scheduler and steps are the recommended ones, and the guidance is near."""
    workflow = read(api(name))
    (loader,) = (node["inputs"] for node in workflow.values() if "ckpt_name" in node["inputs"])
    wanted = likes(workflow, loader["ckpt_name"])
    names = {job.BINDINGS[option][1] for option in wanted}  # of KSampler, or of the four nodes that do the same
    used = {name: node["inputs"][name] for node in workflow.values() for name in names & set(node["inputs"])}
    assert {option: used[job.BINDINGS[option][1]] for option in wanted} == wanted | {"reference_scale": used["cfg"]}
    assert wanted["reference_scale"] <= used["cfg"] <= 1.25 * wanted["reference_scale"]


@pytest.mark.parametrize("name", NAMES)
def test_the_thumbnail_shows_the_result(name):
    """One picture is saved when the tool runs a template: of several previews it would take the first."""
    saved = pictures_tool.saved(job.load_workflow(api(name)))
    assert [node["class_type"] for node in saved.values()].count("SaveImage") == 1


WINDOW = (
    1920,
    1080,
)  # of a first user; a template opens with its whole graph in three quarters of it, below a bar of 80
LEAST_ZOOM = 0.56  # at which the names of nodes are drawn
GROWN = {"LoadImage": 335, "LoadImageMask": 355, "ColorizePrepareSketch": 480, "PreviewImage": 250, "SaveImage": 280}
"""Height that the frontend gives a node when its picture is there (as seen in the browser): less in a layout, and the
node grows over the next one."""


@pytest.mark.parametrize("name", NAMES)
def test_a_template_can_be_read_and_its_nodes_have_room_for_their_pictures(name):
    graph = read(template(name))
    right, bottom = (
        max(group["bounding"][at] + group["bounding"][2 + at] for group in graph["groups"]) for at in (0, 1)
    )
    assert min(0.75 * WINDOW[0] / right, 0.75 * (WINDOW[1] - 80) / bottom) >= LEAST_ZOOM, (right, bottom)
    for node in graph["nodes"]:
        assert node["size"][1] >= GROWN.get(node["type"], 0), (node.get("title"), node["size"])
    for group in graph["groups"]:
        letters = len(group["title"]) * 0.45 * group.get("font_size", 24)
        assert letters <= group["bounding"][2], f"the title of {group['title']!r} runs over the next group"
