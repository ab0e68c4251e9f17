"""What the pack asks of ComfyUI, compared with the one it is given.

With a newer checkout: python quickstart.py --comfyui FOLDER --test tests/model_patches/test_core.py
Every name we import is looked for, every keyword we call a function with, every method of theirs we replace.
"""

import ast
import importlib
import inspect
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
CORE = ("comfy", "comfy_api", "comfy_extras", "comfy_execution", "folder_paths", "node_helpers", "comfyui_version")
FILES = sorted(file for folder in ("nodes", "model_patches") for file in (ROOT / folder).rglob("*.py"))


def is_core(module: str) -> bool:
    return module.split(".")[0] in CORE


def names_used(tree: ast.Module) -> tuple[dict[str, tuple[str, str]], set[str]]:
    """(name here -> (module, name there), modules imported whole) of one file."""
    names, modules = {}, set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not node.level and is_core(node.module or ""):
            names |= {alias.asname or alias.name: (node.module, alias.name) for alias in node.names}
        elif isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names if is_core(alias.name)}
    return names, modules


def dotted(node: ast.AST) -> str | None:
    """The text a.b.c of an attribute chain, None of anything else."""
    if isinstance(node, ast.Attribute):
        before = dotted(node.value)
        return f"{before}.{node.attr}" if before else None
    return node.id if isinstance(node, ast.Name) else None


def resolve(path: str):
    """The object behind a dotted path: the longest part that is a module, then its attributes."""
    parts = path.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:count]))
        except ImportError:
            continue
        for part in parts[count:]:
            found = getattr(found, part)
        return found
    raise AttributeError(path)


def accepts(function, keywords: set[str]) -> set[str]:
    """Those of `keywords` that a function does not take."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return set()
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return set()
    return keywords - set(parameters)


@pytest.mark.parametrize("file", FILES, ids=[str(file.relative_to(ROOT)) for file in FILES])
def test_names_and_keywords_are_there(pack, file):
    tree = ast.parse(file.read_text(encoding="utf-8"))
    names, modules = names_used(tree)
    missing = []
    for module, name in names.values():
        try:
            resolve(f"{module}.{name}")
        except AttributeError:
            missing.append(f"{module}.{name}")
    for node in ast.walk(tree):
        path = dotted(node.func) if isinstance(node, ast.Call) else dotted(node)
        if path is None:
            continue
        first, _, rest = path.partition(".")
        if first in names:
            path = ".".join(filter(None, (*names[first], rest)))
        elif not any(path.startswith(f"{module}.") for module in modules):
            continue
        try:
            found = resolve(path)
        except AttributeError:
            missing.append(f"line {node.lineno}: {path}")
            continue
        if isinstance(node, ast.Call):
            missing += [
                f"line {node.lineno}: {path} has no argument {name}"
                for name in accepts(found, {k.arg for k in node.keywords if k.arg})
            ]
    assert missing == []


def our_classes(pack):
    """Our classes that inherit from one of ComfyUI's, with the module they stand in."""
    for file in FILES:
        name = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for kind in vars(pack.module(name)).values():
            if inspect.isclass(kind) and kind.__module__ == pack.module(name).__name__:
                if any(is_core(parent.__module__) for parent in kind.__mro__):
                    yield kind


def test_methods_we_replace_take_what_theirs_take(pack):
    """Where a newer core hands one of our methods another argument, this names it."""
    problems, seen = [], 0
    for kind in our_classes(pack):
        for name in vars(kind):
            if name.startswith("__") or not callable(getattr(kind, name, None)):
                continue
            parents = [parent for parent in kind.__mro__[1:] if is_core(parent.__module__) and name in vars(parent)]
            if not parents:
                continue
            seen += 1
            theirs = inspect.signature(getattr(parents[0], name)).parameters.values()
            wanted = {p.name for p in theirs if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
            lacking = accepts(getattr(kind, name), wanted)
            if lacking - {"self", "cls"}:
                problems.append(f"{kind.__name__}.{name} does not take {', '.join(sorted(lacking))}")
    assert problems == [] and seen > 5


# -- attention that a file asks for -----------------------------------------------------------------------------------


class Stored(torch.nn.Module):
    """Stands for what newer cores keep in every attention layer."""


@pytest.fixture
def attention(pack, monkeypatch):
    """attention(module): that module's attention replaced; returns the list of keywords it was called with."""

    def replace(name):
        calls = []

        def record(q, k, v, heads, **keywords):
            calls.append(keywords)
            return q

        monkeypatch.setattr(pack.module(name), "optimized_attention", record)
        return calls

    return replace


def layer(pack, kind, *arguments, stored=None):
    from comfy.ldm.modules.attention import CrossAttention

    plain = CrossAttention(8, 8, heads=2, dim_head=4)
    plain.comfy_attention = stored
    return kind(plain, *arguments)


@pytest.mark.parametrize("stored", [None, Stored()])
def test_cross_attention_hands_on_what_the_file_asks_for(pack, attention, stored):
    module, payload = pack.module("model_patches.model.attention"), pack.module("model_patches.payload")
    guide = payload.Guide(strengths=None, split=None, off=False)
    calls = attention("model_patches.model.attention")
    import comfy.ops

    own = layer(pack, module.ReferenceAttention, 0, {}, None, None, comfy.ops.disable_weight_init, stored=stored)
    own(torch.zeros(1, 3, 8), torch.zeros(1, 2, 8), transformer_options={payload.PAYLOAD: guide})
    assert calls[0].get("preferred_attention") is stored and ("preferred_attention" in calls[0]) == (stored is not None)


def test_attention_to_banks_hands_it_on_too(pack, attention):
    module, stored = pack.module("model_patches.model.attention"), Stored()
    payload = pack.module("model_patches.payload")
    guide = payload.Guide(strengths=None, split=None, off=False, banks=(torch.zeros(1, 2, 8),))
    calls = attention("model_patches.model.attention")
    own = layer(pack, module.BankAttention, 0, stored=stored)
    own(torch.zeros(1, 3, 8), transformer_options={payload.PAYLOAD: guide})
    assert calls[0]["preferred_attention"] is stored


# -- an old core, a CPU -----------------------------------------------------------------------------------------------


def test_an_old_core_is_told(pack):
    core = pack.module("model_patches.core")
    assert core.age_remark() == ""
    assert "ComfyUI 0.20.1" in core.age_remark("0.20.1") and core.TESTED[0] in core.age_remark("0.20.1")
    assert core.age_remark("0.46.0") == core.age_remark(core.TESTED[0]) == core.age_remark("1.0rc1") == ""


def test_the_tested_range_is_the_one_of_the_package():
    from quickstart_lib import comfyui, fetch

    text = (ROOT / "model_patches" / "core.py").read_text(encoding="utf-8")
    oldest = ".".join(map(str, comfyui.OLDEST))
    assert f'TESTED = ("{oldest}", "{fetch.PINNED_TAG.removeprefix("v")}")' in text


def test_preflight_tells_it_too():
    from colorize.preflight.examine import Inputs, examine

    found = examine(Inputs(core_remark="This is ComfyUI 0.1."))
    assert [(f.level, f.text) for f in found if "0.1" in f.text] == [("warning", "This is ComfyUI 0.1.")]


def test_a_cpu_that_spins_is_told_once_how_to_wait(pack, monkeypatch):
    core = pack.module("model_patches.core")
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    assert "OMP_WAIT_POLICY=PASSIVE" in core.waiting_remark()
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    assert core.waiting_remark() == ""
