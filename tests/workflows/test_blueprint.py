"""The subgraph blueprint: what the quickstart template is, as one node."""

import json

from tests.browser import blueprint
from tests.workflows.shipped import template


def test_it_is_the_quickstart_template():
    shipped = json.loads(blueprint.FILE.read_text(encoding="utf-8"))
    assert shipped == blueprint.made(), "python -m tests.browser blueprint saves it again"


def test_its_links_hold_together():
    """Every inner link is known to both of its ends, an input leads somewhere, and every link of the template is there
    but those to Preflight."""
    graph = blueprint.made()
    inner = graph["definitions"]["subgraphs"][0]
    nodes = {node["id"]: node for node in inner["nodes"]}
    for link in inner["links"]:
        if link["origin_id"] == blueprint.START:
            assert link["id"] in inner["inputs"][link["origin_slot"]]["linkIds"]
        else:
            assert link["id"] in nodes[link["origin_id"]]["outputs"][link["origin_slot"]]["links"]
        if link["target_id"] == blueprint.END:
            assert inner["outputs"][0]["linkIds"] == [link["id"]]
        else:
            assert nodes[link["target_id"]]["inputs"][link["target_slot"]]["link"] == link["id"]
    connected = {slot["link"] for node in nodes.values() for slot in node["inputs"] if slot.get("link") is not None}
    assert connected == {link["id"] for link in inner["links"] if link["target_id"] != blueprint.END}
    assert all(slot["linkIds"] for slot in inner["inputs"])
    whole = json.loads(template("quickstart").read_text(encoding="utf-8"))
    assert len(nodes) == len(whole["nodes"]) - 5  # two pictures, the result, Preflight, the note


def test_what_the_closed_node_shows_is_there():
    graph = blueprint.made()
    (node,) = graph["nodes"]
    inner = {str(node["id"]): node for node in graph["definitions"]["subgraphs"][0]["nodes"]}
    assert [slot["name"] for slot in node["inputs"]] == list(dict.fromkeys(blueprint.INPUTS.values()))
    for node_id, widget in node["properties"]["proxyWidgets"]:
        assert widget in [slot["name"] for slot in inner[node_id]["inputs"] if "widget" in slot]
