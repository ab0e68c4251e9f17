"""Finding ComfyUI: the order of places, a wrong $COMFYUI_PATH, links, versions, a clone that fails."""

import subprocess

import pytest

from quickstart_lib import comfyui
from quickstart_lib.errors import QuickstartError


def find(tmp_path, pack="elsewhere/pack", environ=None):
    return comfyui.find(tmp_path / pack, environ or {}, tmp_path / "home", tmp_path / "cache")


def test_order_of_places(tmp_path, make_comfyui):
    assert find(tmp_path) is None
    cloned = make_comfyui(f"cache/ComfyUI-{comfyui.PINNED_TAG}")
    assert find(tmp_path) == cloned
    second = make_comfyui("home/comfy/ComfyUI")
    assert find(tmp_path) == second
    first = make_comfyui("home/ComfyUI")
    assert find(tmp_path) == first
    around = make_comfyui("app")
    (around / "custom_nodes" / "pack").mkdir(parents=True)
    assert find(tmp_path, "app/custom_nodes/pack") == around
    named = make_comfyui("named")
    assert find(tmp_path, "app/custom_nodes/pack", {"COMFYUI_PATH": str(named)}) == named


def test_pack_linked_into_custom_nodes(tmp_path, make_comfyui):
    around = make_comfyui("app")
    (around / "custom_nodes").mkdir()
    (tmp_path / "checkout").mkdir()
    (around / "custom_nodes" / "pack").symlink_to(tmp_path / "checkout")
    assert find(tmp_path, "app/custom_nodes/pack") == around


def test_wrong_comfyui_path_is_an_error(tmp_path, make_comfyui):
    make_comfyui("home/ComfyUI")
    with pytest.raises(QuickstartError, match="COMFYUI_PATH is .*no ComfyUI lies there"):
        find(tmp_path, environ={"COMFYUI_PATH": str(tmp_path)})


@pytest.mark.parametrize(("version", "fits"), [("0.20.9", False), ("0.21.0", True), ("0.38.1", True), ("1.0", True)])
def test_version_floor(make_comfyui, version, fits):
    folder = make_comfyui("c", version=version)
    if fits:
        comfyui.check_version(folder)
    else:
        with pytest.raises(QuickstartError, match="too old: 0.21.0 or newer"):
            comfyui.check_version(folder)


def test_floor_is_the_one_of_pyproject(root):
    floor = ".".join(map(str, comfyui.OLDEST))
    assert f'requires-comfyui = ">={floor}"' in (root / "pyproject.toml").read_text(encoding="utf-8")


def test_failed_clone_names_the_next_step_and_leaves_nothing(tmp_path, monkeypatch):
    def fail(command, **_options):
        return subprocess.CompletedProcess(command, 128, "", "fatal: could not resolve host\n")

    monkeypatch.setattr(comfyui.shutil, "which", lambda _name: "git")
    monkeypatch.setattr(comfyui.subprocess, "run", fail)
    with pytest.raises(QuickstartError, match="could not resolve host.*COMFYUI_PATH"):
        comfyui.find_or_clone(tmp_path / "pack", {}, tmp_path / "home", tmp_path / "cache", lambda _text: None)
    assert list((tmp_path / "cache").iterdir()) == []


def test_clone_needs_git(tmp_path, monkeypatch):
    monkeypatch.setattr(comfyui.shutil, "which", lambda _name: None)
    with pytest.raises(QuickstartError, match="without git.*COMFYUI_PATH"):
        comfyui.clone(tmp_path)


def test_clone_arrives_under_its_final_name(tmp_path, monkeypatch, make_comfyui):
    def succeed(command, **_options):
        assert comfyui.PINNED_TAG in command
        make_comfyui(command[-1])
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(comfyui.shutil, "which", lambda _name: "git")
    monkeypatch.setattr(comfyui.subprocess, "run", succeed)
    folder = comfyui.clone(tmp_path / "cache")
    assert comfyui.is_comfyui(folder) and [f.name for f in (tmp_path / "cache").iterdir()] == [folder.name]
