"""Drawings by people: packages, avatars, recoloured figures, palettes. No package is fetched here."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from trainer.art import packages, painted, palettes, scenes, writing
from trainer.art.avatars import MARKS, REGIONS, Avatar
from trainer.config import ConfigError

SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 64 64" fill="none" shape-rendering="auto">'
    '<mask id="m"><rect width="64" height="64" fill="#fff"/></mask><g mask="url(#m)">'
    '<rect x="8" y="8" width="48" height="48" fill="#000"/>'
    f'<rect x="12" y="12" width="40" height="40" fill="{MARKS["skin"]}"/>'
    f'<rect x="12" y="12" width="40" height="12" fill="{MARKS["hair"]}"/>'
    '<rect x="20" y="34" width="24" height="8" fill="#F00"/>'
    '<rect x="12" y="44" width="40" height="8" fill="black" opacity="0.2"/></g></svg>'
)


@pytest.fixture
def avatar() -> Avatar:
    pytest.importorskip("resvg_py", reason="SVG is drawn by resvg_py")
    return Avatar("adventurer", SVG)


def test_roles_and_slots_of_an_avatar():
    found = Avatar("adventurer", SVG)
    assert found.roles() == {"skin", "hair"}
    assert found.slots() == sorted(["#000000", "#ff0000", MARKS["skin"], MARKS["hair"]])


def test_an_avatar_in_colours_as_regions_and_as_lines(avatar):
    shown = avatar.render({MARKS["skin"]: "#f0c0a0", MARKS["hair"]: "#2040c0"}, 64)
    assert tuple(shown[30, 16]) == (240, 192, 160, 255) and tuple(shown[16, 30]) == (32, 64, 192, 255)
    assert shown[2, 2, 3] == 0
    assert tuple(shown[48, 30, :3]) == (192, 154, 128)  # the shade is drawn
    regions = avatar.regions(64)
    at = {name: regions[place] for name, place in (("skin", (30, 16)), ("hair", (16, 30)), ("other", (38, 30)))}
    assert {name: REGIONS[label] for name, label in at.items()} == {name: name for name in at}
    assert REGIONS[regions[2, 2]] == "background" and REGIONS[regions[10, 30]] == "ink"
    lines = avatar.sketch(64)
    assert lines[10, 30] == 0 and lines[30, 16] == 255 and lines[2, 2] == 255
    assert lines[23:25, 30].min() < 128  # an edge without ink: between hair and skin
    assert lines[43:45, 14].min() == 255  # but not where a shade begins


def test_a_reference_shows_what_the_target_has():
    bald = Avatar("adventurer", SVG.replace(MARKS["hair"], "#123456"))
    whole = Avatar("adventurer", SVG)
    assert scenes.matching(whole, [bald, whole, bald]) is whole
    assert scenes.matching(bald, [bald, whole]) is bald


def test_samples_of_avatars_are_functions_of_their_random_numbers(avatar):
    first, second = (scenes.sample([avatar] * 2, np.random.default_rng(3)) for _ in range(2))
    assert set(first) == {"color", "sketch", "mask", "reference", "reference_mask"}
    assert all(np.array_equal(first[part], second[part]) for part in first)
    assert first["color"].shape[:2] == first["sketch"].shape == first["mask"].shape
    assert first["reference"].shape == (scenes.REFERENCE_SIDE, scenes.REFERENCE_SIDE, 3)
    assert first["color"].shape[:2] in scenes.CANVASES


def test_palettes_of_every_mood():
    drawn = [palettes.draw_palette(np.random.default_rng(k)) for k in range(50)]
    assert all(set(p.colors) == {"skin", "hair", "clothes", "extra"} for p in drawn)
    assert len({p.colors["hair"] for p in drawn}) > 45
    grey = palettes.in_mood(np.array([200.0, 20.0, 20.0]), "grey")
    assert np.ptp(grey) < 25
    assert palettes.hex_of(palettes.hsv(1 / 3, 1, 1)) == "#00ff00"


@pytest.fixture
def character(tmp_path) -> painted.Character:
    """A head of skin with blue hair, twice."""
    for name in "ab":
        image = Image.new("RGBA", (80, 120), (0, 0, 0, 0))
        draw = ImageDraw.Draw(image)
        draw.ellipse((10, 5, 70, 60), fill=(40, 70, 190, 255))
        draw.ellipse((20, 20, 60, 70), fill=(240, 200, 175, 255))
        draw.rectangle((15, 70, 65, 119), fill=(30, 150, 60, 255))
        image.save(tmp_path / f"{name}.png")
    return painted.read_character("someone", [tmp_path / "a.png", tmp_path / "b.png"])


def test_clusters_that_stay_leave_the_picture(character):
    values = character.figures[0][..., :3].astype(float)
    same = painted.recolored(values, character.clusters, character.clusters, 0.0)
    inside = character.figures[0][..., 3] > 200
    assert np.abs(same - values)[inside].max() < 1.5


def test_hair_changes_and_skin_stays(character):
    figure = character.figures[0]
    moved = painted.new_centres(character.clusters, np.random.default_rng(1))
    changed = painted.recolored(figure[..., :3].astype(float), character.clusters, moved, 0.0)
    assert np.abs(changed[30, 30] - figure[30, 30, :3]).max() < 4  # skin
    assert np.abs(changed[5, 30] - figure[5, 30, :3]).max() > 40  # hair
    tanned = painted.recolored(figure[..., :3].astype(float), character.clusters, moved, 20.0)
    assert tanned[30, 30].sum() < changed[30, 30].sum() - 60


def test_samples_of_figures(character):
    random = np.random.default_rng(0)
    for _ in range(8):
        parts = painted.sample([character], [np.zeros((300, 400, 3), np.uint8)], random)
        assert parts["color"].shape[:2] in scenes.CANVASES and parts["mask"].shape == parts["color"].shape[:2]
        assert parts["reference"].shape == (256, 256, 3) and set(np.unique(parts["mask"])) == {0, 255}
        assert set(np.unique(parts["reference_mask"])) <= {0, 255}


@pytest.mark.parametrize("mirrored", [False, True])
def test_two_colours_meet_at_the_same_place_of_drawing_and_reference(character, mirrored):
    """What is beyond the line on the figure is beyond it wherever the figure stands, whatever its size."""
    figure = character.figures[0]
    height, width = figure.shape[:2]
    y, x = np.mgrid[:height, :width]
    marked = figure.copy()
    marked[..., :3] = np.where((x / width + 2 * y / height > 1.3)[..., None], 255, 0)
    along = np.array([1, 2]) / np.sqrt(5)
    tones = painted.Tones(character.clusters, along, 1.3 / np.sqrt(5), 0.004)
    for place in (
        painted.Standing((64, 96), 60, 90, 12, -4, mirrored),
        painted.Standing((128, 128), 45, 70, 50, 30, mirrored),
    ):
        layer, share = place.put(marked), tones.share(place.figure_places())
        assert share.shape == (*place.canvas, 1) and 0 <= share.min() and share.max() <= 1
        inside = layer[..., 3] > 250
        assert 0.95 < ((layer[..., 0] > 127) == (share[..., 0] > 0.5))[inside].mean()
        assert 0.2 < (share[..., 0] > 0.5)[inside].mean() < 0.8


def test_some_clusters_have_a_second_colour(character):
    moved = painted.new_centres(character.clusters, np.random.default_rng(1))
    for seed in range(20):
        tones = painted.Tones.drawn(moved, 0.5, np.random.default_rng(seed))
        changed = np.abs(tones.centres - moved).max(1) > 1e-9
        assert 1 <= changed.sum() <= 3 and np.linalg.norm(tones.along) == pytest.approx(1)
        assert 0 < tones.softness <= 0.1


def npm_file(text: bytes) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        entry = tarfile.TarInfo("package/lib/index.js")
        entry.size = len(text)
        archive.addfile(entry, io.BytesIO(text))
    return packed.getvalue()


def test_a_package_is_unpacked_once_and_only_if_it_is_the_known_file(tmp_path, monkeypatch):
    content = npm_file(b"export {}")
    known = packages.Package(
        "@x/y", "npm", "1.0", hashlib.sha256(content).hexdigest(), "Y", "Z", "https://y", "CC0 1.0"
    )
    monkeypatch.setitem(packages.BY_NAME, "@x/y", known)
    (tmp_path / "x-y-1.0.tgz").write_bytes(content + b"!")
    with pytest.raises(ConfigError, match="not the file that was looked at"):
        packages.fetch(["@x/y"], tmp_path)
    (tmp_path / "x-y-1.0.tgz").write_bytes(content)
    packages.fetch(["@x/y"], tmp_path)
    assert (tmp_path / "node_modules/@x/y/lib/index.js").read_text() == "export {}"
    (tmp_path / "x-y-1.0.tgz").unlink()
    packages.fetch(["@x/y"], tmp_path)  # there already
    assert "| Y | Z | https://y | CC0 1.0 |" in packages.attribution(["@x/y"])


@pytest.mark.skipif(os.name == "nt", reason="the client is a shell script")
def test_a_debian_package_unpacks_into_a_relative_folder(tmp_path, monkeypatch):
    """dpkg-deb runs inside the folder of the packages: both paths it is given must hold from there."""
    content = b"a package"
    known = packages.Package("x-data", "apt", "1.0", hashlib.sha256(content).hexdigest(), "X", "Z", "-", "Expat")
    monkeypatch.setitem(packages.BY_NAME, "x-data", known)
    client = tmp_path / "bin/dpkg-deb"
    client.parent.mkdir()
    client.write_text('#!/bin/sh\ncp "$2" "$3/unpacked"\n')
    client.chmod(0o755)
    monkeypatch.setenv("PATH", f"{client.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    folder = Path("data/packages")
    folder.mkdir(parents=True)
    (folder / "x-data_1.0_all.deb").write_bytes(content)
    packages.fetch(["x-data"], folder)
    assert (tmp_path / "data/packages/x-data/unpacked").read_bytes() == content


def test_a_missing_client_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="`npm` is not installed"):
        packages.fetch(["@dicebear/core"], tmp_path)


def test_procedural_samples_are_written_once(tmp_path):
    plan = writing.Plan(tmp_path, tmp_path / "packages", seed=0, split="heldout")
    assert writing.write(plan, "procedural", [0, 3]) == 2
    for part in ("color", "sketch", "mask", "reference", "reference_mask"):
        assert (tmp_path / part / "procedural-000003.png").is_file()
    assert Image.open(tmp_path / "color/procedural-000003.png").size == (320, 256)
    assert writing.write(plan, "procedural", [0, 3]) == 0
