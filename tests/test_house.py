"""The seven rules of the house (docs/ARCHITECTURE.md), read from the source with the standard library alone.

Imports count wherever they stand: at the top, inside a function, and under TYPE_CHECKING.
"""

from __future__ import annotations

import ast
import functools
import re
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

PACKAGES = ("colorize", "model_patches", "nodes", "trainer", "quickstart_lib", "spread")

# Rule 1. Folder -> what of the house it may import, and what of the world (None: anything but ComfyUI).
INSIDE = {
    "nodes": {"nodes", "model_patches", "colorize"},
    "model_patches": {"model_patches", "colorize"},
    "colorize": {"colorize"},
    "trainer": {"trainer", "colorize", "spread"},
    "quickstart_lib": {"quickstart_lib", "spread"},
    "spread": {"spread"},
}
COMFY = {"comfy", "comfy_api", "comfyui_version", "folder_paths", "latent_preview"}
WORLD = {
    "nodes": COMFY | {"torch", "numpy", "PIL", "safetensors"},
    "model_patches": COMFY | {"torch", "numpy", "PIL", "safetensors", "onnxruntime", "open_clip", "av"},
    "colorize": {"torch", "numpy", "PIL", "einops", "kornia", "open_clip", "timm", "scipy", "safetensors", "psd_tools"},
    "trainer": None,
    "quickstart_lib": set(),
    "spread": {"ray"},
}
# Run by an environment's own Python: to see what it has, and for videos.
EXCEPTIONS = {
    ("quickstart_lib/inspect_environment.py", "torch"),
    ("quickstart_lib/video_frames.py", "PIL"),
    ("quickstart_lib/video_frames.py", "av"),
}

# Rule 3. The floors of the trainer: a file may import its own floor and those to the right.
FLOORS = (
    {"commands"},
    {"run", "evaluate"},
    {"stages", "prepare"},
    {"data", "art"},
    {"cache", "metrics"},
    {"models", "losses"},
    {"world", "config", "draws", "failures", "json_file", "packages", "pictures", "text_file", "workers"},
)

# Rule 5. Lines of a function, and of a module, tests too. `define_schema` is a form to fill in, not a thought.
FUNCTION, MODULE = 60, 400

# What still breaks a rule and is on its way out. An entry that no longer breaks it fails: the lists only shrink.
KNOWN: dict[str, set[str]] = {
    "imports": set(),
    "circles": set(),
    "floors": set(),
    "names": set(),
    "functions": set(),
    "modules": set(),
    "words": set(),
    "ranges": {  # no values of pictures
        "trainer/data/augment/lines.py: x * 2 - 1",
        "trainer/data/diagonal_warp.py: x * 2 - 1",
        "trainer/world/eye.py: (x + 1) / 2",
    },
}


@functools.cache
def sources() -> dict[str, ast.Module]:
    """Every file of the house by its path below the root, parsed."""
    files = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in files}


@functools.cache
def module_file(dotted: str) -> str | None:
    """The file of a module of the house, or None."""
    path = dotted.replace(".", "/")
    return next((name for name in (f"{path}.py", f"{path}/__init__.py") if name in sources()), None)


def imported(file: str) -> list[tuple[str, str]]:
    """(module, name) of everything a file imports: absolute module, and what is taken from it ("" for the module)."""
    found = []
    folder = file.split("/")[:-1]
    for node in ast.walk(sources()[file]):
        if isinstance(node, ast.Import):
            found += [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = folder[: len(folder) - node.level + 1] if node.level else []
            assert len(folder) - node.level + 1 >= 0 or not node.level, f"{file} imports from outside of the pack"
            module = ".".join([*above, *([node.module] if node.module else [])])
            found += [(module, alias.name) for alias in node.names]
    return found


def inner(file: str) -> set[str]:
    """The files of the house that a file imports."""
    found = set()
    for module, name in imported(file):
        target = module_file(f"{module}.{name}") if name else None
        target = target or module_file(module)
        if target and target != file:
            found.add(target)
    return found


def settled(rule: str, broken: set[str]) -> None:
    """Fail for what breaks a rule and is not known, and for what is known and no longer breaks it."""
    assert not broken - KNOWN[rule], f"new: {sorted(broken - KNOWN[rule])}"
    assert not KNOWN[rule] - broken, f"mended, take it off the list: {sorted(KNOWN[rule] - broken)}"


@pytest.mark.parametrize("package", PACKAGES)
def test_1_a_folder_imports_what_its_name_says(package):
    broken = set()
    for file in (name for name in sources() if name.startswith(f"{package}/")):
        for module, _ in imported(file):
            top = module.partition(".")[0]
            if top in PACKAGES:
                allowed = top in INSIDE[package]
            elif top in sys.stdlib_module_names:
                allowed = True
            else:
                allowed = top not in COMFY if WORLD[package] is None else top in WORLD[package]
            if not allowed and (file, module) not in EXCEPTIONS:
                broken.add(f"{file} -> {module}")
    settled("imports", broken | {entry for entry in KNOWN["imports"] if not entry.startswith(f"{package}/")})


def circles(edges: dict[str, set[str]]) -> list[set[str]]:
    """Groups of files of which each reaches every other (Tarjan)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in edges[node]:
            if target not in index:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], index[target])
        if low[node] == index[node]:
            group = set()
            while True:
                group.add(stack.pop())
                if node in group:
                    break
            groups.append(group)

    for node in edges:
        if node not in index:
            visit(node)
    return [group for group in groups if len(group) > 1]


def test_2_no_circle_of_files():
    found = circles({file: inner(file) for file in sources()})
    settled("circles", {" <-> ".join(sorted(group)) for group in found})


def floor_of(file: str) -> int:
    """The floor of a file of the trainer; its entrance, __main__, stands on top of all."""
    part = file.split("/")[1].removesuffix(".py")
    if part in ("__init__", "__main__"):
        return -1
    floors = [number for number, names in enumerate(FLOORS) if part in names]
    assert len(floors) == 1, f"{file} stands on no floor: give trainer/{part} one in FLOORS"
    return floors[0]


def test_3_the_trainer_imports_to_the_right():
    broken = set()
    for file in (name for name in sources() if name.startswith("trainer/")):
        own = floor_of(file)
        for target in inner(file):
            if target.startswith("trainer/") and floor_of(target) < own and target != "trainer/__init__.py":
                broken.add(f"{file} -> {target}")
    settled("floors", broken)


def texts(tree: ast.Module) -> list[str]:
    """Every text of a file but its docstrings and bare strings; of f-strings the literal parts."""
    bare = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in bare
    ]


def test_4_every_name_of_a_checkpoint_stands_once():
    """Prefixes, markers and metadata of names.py are written there and nowhere else.

    A prefix counts also where a longer text begins with it, but for two that are also the beginning of names inside
    other networks ("transformer.", "proj.").
    """
    own = [text for text in texts(sources()["colorize/names.py"]) if re.fullmatch(r"\.?[\w.]+", text)]
    assert not [text for text, count in Counter(own).items() if count > 1]
    prefixes = tuple(text for text in own if text.endswith(".") and text not in ("transformer.", "proj."))
    broken = set()
    for file, tree in sources().items():
        for text in texts(tree) if file != "colorize/names.py" else ():
            if text in own or text.startswith(prefixes):
                broken.add(f"{file}: {text}")
    settled("names", broken)


def test_5_functions_and_modules_are_short():
    functions, modules = set(), set()
    for file, tree in sources().items():
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name != "define_schema":
                if node.end_lineno - node.lineno + 1 > FUNCTION:
                    functions.add(f"{file}: {node.name}")
    for file in (*sources(), *(path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("*.py"))):
        if len((ROOT / file).read_text(encoding="utf-8").splitlines()) > MODULE:
            modules.add(file)
    settled("functions", functions)
    settled("modules", modules)


def test_6_one_word_one_thing():
    """A public class has its name for itself across the layers."""
    homes: dict[str, set[str]] = {}
    for file, tree in sources().items():
        for node in tree.body if not file.startswith("quickstart_lib/") else ():
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, set()).add(file)
    settled("words", {f"{name}: {', '.join(sorted(files))}" for name, files in homes.items() if len(files) > 1})


def way_between_ranges(node: ast.AST) -> str:
    """Which of the four ways between -1..1, 0..1 and 0..255 an expression is; "" for others. x: any expression."""

    def number(part: ast.AST, *values: float) -> bool:
        return isinstance(part, ast.Constant) and part.value in values

    def is_sum(part: ast.AST) -> bool:
        return isinstance(part, ast.BinOp) and isinstance(part.op, ast.Add) and number(part.right, 1)

    if not isinstance(node, ast.BinOp):
        return ""
    inner_part, op = node.left, type(node.op)
    if is_sum(inner_part) and (
        (op is ast.Div and number(node.right, 2)) or (op is ast.Mult and number(node.right, 0.5))
    ):
        return "(x + 1) / 2"
    if is_sum(inner_part) and op is ast.Mult and number(node.right, 127.5):
        return "(x + 1) * 127.5"
    if op is ast.Sub and number(node.right, 1) and isinstance(inner_part, ast.BinOp):
        if isinstance(inner_part.op, ast.Mult) and (number(inner_part.right, 2) or number(inner_part.left, 2)):
            return "x * 2 - 1"
        if isinstance(inner_part.op, ast.Div) and number(inner_part.right, 127.5):
            return "x / 127.5 - 1"
    return ""


def test_7_ranges_change_in_one_place():
    """Whole numbers apart: 2 * n - 1 of a count is no picture."""
    broken = set()
    for file, tree in sources().items():
        if file == "colorize/pictures/ranges.py" or file.startswith("quickstart_lib/"):
            continue
        for node in ast.walk(tree):
            if way := way_between_ranges(node):
                broken.add(f"{file}: {way}")
    settled("ranges", broken)
