"""What the documents claim, taken out of their text: commands, files, names of nodes and inputs, messages."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIVING = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "docs/ARCHITECTURE.md", "docs/TRAINING.md", "docs/RESULTS.md")
"""Documents that describe what is; docs/LOG.md and CHANGELOG.md describe what was."""
PLACEHOLDER = re.compile(r"^(\.\.\.|[A-Z][A-Z_]*|<.*>)$")
PROGRAMS = ("python -m ", "python quickstart.py")


@dataclass(frozen=True)
class Claim:
    """A piece of a document."""

    where: str
    """file and line"""
    text: str


def pages() -> list[Path]:
    """All documents that describe what is, with the help pages of the nodes."""
    return [ROOT / name for name in LIVING] + sorted((ROOT / "web" / "docs").glob("*.md"))


def lines_of(page: Path) -> Iterator[tuple[int, str, bool]]:
    """(number, line, whether it stands in a block of code); lines that end with a backslash are joined."""
    inside, begun, first = False, "", 0
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip().startswith("```"):
            inside = not inside
            continue
        first = first if begun else number
        begun += line.rstrip("\\") if inside else line
        if inside and line.endswith("\\"):
            continue
        yield first, begun, inside
        begun = ""


def commands() -> list[Claim]:
    """Calls of our programs, in blocks of code and between backticks; comments are cut off."""
    found = []
    for page in pages():
        for number, line, inside in lines_of(page):
            texts = [line.split(" #")[0].strip()] if inside else re.findall(r"`([^`]+)`", line)
            where = f"{page.relative_to(ROOT)}:{number}"
            found += [Claim(where, text) for text in texts if text.startswith(PROGRAMS)]
    return found


def words(command: str) -> list[str]:
    """The words of a command behind `python`."""
    return shlex.split(command)[1:]


def paths() -> list[Claim]:
    """Files and folders of the repository that a document names between backticks or links to."""
    ignored = {line.strip("/") for line in (ROOT / ".gitignore").read_text(encoding="utf-8").split()}
    top = {entry.name for entry in ROOT.iterdir() if not entry.name.startswith(".")} - ignored  # a run's own folders
    found = []
    for page in pages():
        for number, line, inside in lines_of(page):
            where = f"{page.relative_to(ROOT)}:{number}"
            named = [] if inside else re.findall(r"`([\w./-]+/[\w./-]*)`", line)
            named = [path for path in named if path.split("/")[0] in top]
            links = [link for link in re.findall(r"\]\(([^)#]+)", line) if "://" not in link]
            near = [str((page.parent / link.replace("%20", " ")).resolve().relative_to(ROOT)) for link in links]
            found += [Claim(where, path) for path in [*named, *near]]
    return found


def nodes() -> dict[str, set[str]]:
    """Name of a node as people see it -> its inputs and outputs, by their names in prompts and as shown."""
    texts = json.loads((ROOT / "locales" / "en" / "nodeDefs.json").read_text(encoding="utf-8"))
    shown = {}
    for node in texts.values():
        outputs = {output["name"] for output in node.get("outputs", {}).values()}
        shown[node["display_name"]] = {*node["inputs"], *(i["name"] for i in node["inputs"].values()), *outputs}
    return shown


def inputs_of_nodes() -> list[tuple[Claim, str, str]]:
    """(claim, node, input) where a document says "`input` of Node" or "Node: `input`"."""
    known = nodes()
    names = "|".join(sorted(map(re.escape, known), key=len, reverse=True))
    of = re.compile(rf"`(\w+)` of \*{{0,2}}({names})\b")
    colon = re.compile(rf"\b({names}): `(\w+)`")
    found = []
    for page in [*pages(), ROOT / "docs" / "LOG.md"][:-1]:
        for number, line, _ in lines_of(page):
            claim = Claim(f"{page.relative_to(ROOT)}:{number}", line.strip()[:160])
            found += [(claim, match[2], match[1]) for match in of.finditer(line)]
            found += [(claim, match[1], match[2]) for match in colon.finditer(line)]
    return found


def messages() -> list[Claim]:
    """The messages that the README explains: first column of its table."""
    found, table = [], False
    for number, line, _ in lines_of(ROOT / "README.md"):
        table = line.startswith("| message |") or (table and line.startswith("|"))
        if table and (match := re.match(r"\| (ComfyUI: )?`([^`]+)`", line)) and not match[1]:
            found.append(Claim(f"README.md:{number}", match[2]))
    return found
