"""Help in Japanese and Chinese: one page a node, made from its translated texts, so that both say the same.

A page is a list, no table: ComfyUI's panel is a narrow column. After a change of texts:
COLORIZE_UPDATE_SNAPSHOTS=1 python -m pytest tests/nodes/test_help_pages.py
"""

import json
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "web" / "docs"
UPDATE = os.environ.get("COLORIZE_UPDATE_SNAPSHOTS") == "1"
WORDS = {
    "ja": {"inputs": "入力", "outputs": "出力", "options": "選択肢：", "more": "くわしい説明（英語）：", "comma": "、"},
    "zh": {"inputs": "输入", "outputs": "输出", "options": "选项：", "more": "详细说明（英文）：", "comma": "、"},
}
TEXTS = {
    language: json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))
    for language in [*WORDS, "en"]
}


def entry(name: str, slot: dict, language: str) -> list[str]:
    """One input or output: its name as shown, its name in prompts, what it is for, its choices."""
    lines = [f"- **{slot['name']}** (`{name}`)  ", f"  {slot['tooltip']}"]
    if options := slot.get("options"):
        choices = [text if text == value else f"{text} (`{value}`)" for value, text in options.items()]
        lines[-1] += "  "
        lines.append("  " + WORDS[language]["options"] + WORDS[language]["comma"].join(choices))
    return lines


def page(node_id: str, language: str) -> str:
    """The help page of a node."""
    node, words = TEXTS[language][node_id], WORDS[language]
    lines = [f"# {node['display_name']}", "", node["description"]]
    if node["inputs"]:
        lines += ["", f"## {words['inputs']}"]
        for name, slot in node["inputs"].items():
            lines += entry(name, slot, language)
    if node.get("outputs"):
        lines += ["", f"## {words['outputs']}"]
        for number, slot in node["outputs"].items():
            lines += entry(TEXTS["en"][node_id]["outputs"][number]["name"], slot, language)
    return "\n".join([*lines, "", f"{words['more']}`web/docs/{node_id}.md`", ""])


@pytest.mark.parametrize("language", WORDS)
def test_every_node_has_its_page(language):
    pages = {node_id: page(node_id, language) for node_id in TEXTS["en"]}
    if UPDATE:
        for node_id, text in pages.items():
            (DOCS / node_id).mkdir(exist_ok=True)
            (DOCS / node_id / f"{language}.md").write_text(text, encoding="utf-8")
    shipped = {file.parent.name: file.read_text(encoding="utf-8") for file in DOCS.glob(f"*/{language}.md")}
    assert shipped == pages, "see the docstring of this file"


@pytest.mark.parametrize("language", WORDS)
def test_pages_fit_the_panel(language):
    """No table, no picture, no line that cannot be broken."""
    for node_id in TEXTS["en"]:
        for line in page(node_id, language).splitlines():
            assert not line.startswith(("|", "!", "    ")), f"{node_id}: {line}"
