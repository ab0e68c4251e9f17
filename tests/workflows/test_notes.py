"""The notes of the templates in three languages: ComfyUI translates nodes, but not what a note says."""

import json
import re

import pytest

from tests.workflows.shipped import NAMES, ROOT, layout, template

LOCALES = ROOT / "locales"
NAMED = re.compile(r"(?<!\*)\*([^*\n]+)\*(?!\*)")  # *name* of a node or an input; **name** is a step or a heading
LINKS = re.compile(r"\]\((https://[^)]+)\)|`([^`]+)`")


def note_of(name: str) -> dict[str, str]:
    (note,) = json.loads(layout(name).read_text(encoding="utf-8"))["notes"]
    return note


@pytest.mark.parametrize("name", NAMES)
def test_a_template_says_what_its_layout_says(name):
    graph = json.loads(template(name).read_text(encoding="utf-8"))
    (shown,) = (node["widgets_values"] for node in graph["nodes"] if node["type"] == "MarkdownNote")
    note = note_of(name)
    assert shown == ["\n\n---\n\n".join((note["text"], note["ja"], note["zh"]))]


@pytest.mark.parametrize("language", ["ja", "zh"])
@pytest.mark.parametrize("name", NAMES)
def test_a_translation_has_the_same_steps_names_and_files(name, language):
    """As many numbered steps; names of nodes and inputs as ComfyUI shows them in that language; the same files and
    addresses."""
    english, translated = note_of(name)["text"], note_of(name)[language]
    assert re.search(r"[\u3040-\u9fff]", translated)
    steps = [re.findall(r"^(\d)\.", text, re.MULTILINE) for text in (english, translated)]
    assert steps[0] == steps[1]
    nodes = json.loads(template(name).read_text(encoding="utf-8"))["nodes"]
    titles = {node.get("title", "") for node in nodes}
    inputs = {slot["name"] for node in nodes for slot in node.get("inputs", [])}
    texts = {key: json.loads((LOCALES / key / "nodeDefs.json").read_text(encoding="utf-8")) for key in ("en", language)}
    for node_id, node in texts["en"].items():  # the frontend shows a node's own name where no title is saved
        same = node["display_name"] == texts[language][node_id]["display_name"]
        assert same or node["display_name"] in titles or node["display_name"] not in translated
    own = {slot["name"] for node in texts[language].values() for slot in node["inputs"].values()}
    own |= {node["display_name"] for node in texts[language].values()}
    assert set(NAMED.findall(translated)) <= titles | inputs | own | set(NAMED.findall(english))
    assert set(LINKS.findall(english)) == set(LINKS.findall(translated))
