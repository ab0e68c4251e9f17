"""Layered documents are read back and put together again by others: psd-tools and ImageMagick."""

import shutil
import subprocess
import zipfile
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from colorize.pictures import layers as L
from colorize.pictures.artist_lines import line_layer
from colorize.pictures.flatten import Flats
from colorize.pictures.layer_files import save_layers
from colorize.pictures.palette import Entry, Palette
from colorize.pictures.regions import find_regions
from colorize.pictures.shade import Shade
from tests.drawings import box, drawing


@pytest.fixture(scope="module")
def parts():
    """(flats, lines, shade, figure mask) of two boxes."""
    picture = drawing([box(10, 10, 50, 60), box(65, 10, 105, 60)], size=(72, 120), width=2)
    regions = find_regions(picture).maps[0]
    palette = Palette(
        (Entry("coat", "#c02840"), Entry("sea", "#2030c0"), Entry("paper", "#f0e8e0"), Entry("no", "#000000"))
    )
    entry = _entries(regions)
    rng = np.random.default_rng(0)
    shading = Shade(0.5 + 0.5 * rng.random((72, 120), np.float32), 0.3 * rng.random((72, 120), np.float32))
    lines = line_layer(picture * 0.9 + 0.05)[0].permute(1, 2, 0).numpy()
    figure = np.zeros((72, 120), np.float32)
    figure[10:61, 10:51] = 1
    return Flats(regions, palette, entry), lines, shading, figure


def _entries(regions):
    """Palette entries of the pieces: the left box is the coat, the right one the sea, the rest paper."""
    entries = np.full(len(regions.region_of), 2, np.int32)
    for number, point in enumerate(((30, 30), (30, 80))):
        entries[regions.region_of == regions.labels[point]] = number
    assert regions.count == 3
    return entries


def all_layers(parts, split="one layer"):
    flats, lines, shading, figure = parts
    reference = np.random.default_rng(1).random((50, 50, 3))
    return L.stack(flats, lines, shading, split, figure, reference)


def test_names_blends_and_order(parts):
    found = all_layers(parts)
    assert [(layer.name, layer.blend, layer.visible) for layer in found] == [
        ("reference", "normal", False),
        ("background", "normal", True),
        ("flats", "normal", True),
        ("shade", "multiply", True),
        ("light", "screen", True),
        ("lines", "multiply", True),
    ]
    split = all_layers(parts, "palette colours")
    assert [(layer.name, layer.group) for layer in split if layer.group] == [("coat", "flats")]
    assert sum(layer.group == "flats" for layer in L.stack(parts[0], parts[1], split="regions")) == 3


def test_composite_is_the_arithmetic_of_the_parts(parts):
    flats, lines, shading, _ = parts
    expected = (flats.picture / 255) * shading.multiply[..., None]
    expected = (1 - (1 - expected) * (1 - shading.screen[..., None])) * lines
    found = L.composite(all_layers(parts))
    assert (found[..., 3] == 255).all()
    assert np.abs(found[..., :3] / 255.0 - expected).max() <= 2.5 / 255  # layers hold 8 bits


@pytest.mark.parametrize("split", L.SPLITS)
def test_every_split_shows_the_same(parts, split):
    assert (L.composite(all_layers(parts, split)) == L.composite(all_layers(parts))).all()


def test_coloured_lines_keep_their_colour():
    lines = np.ones((4, 4, 3), np.float32)
    lines[1] = (0.9, 0.3, 0.2)
    layer = L.ink_layer(lines).astype(np.float32) / 255
    back = 1 - layer[..., 3:] * (1 - layer[..., :3])
    assert np.abs(back - lines).max() <= 1.5 / 255 and (layer[0, :, 3] == 0).all()


@pytest.mark.parametrize("split", ["one layer", "palette colours"])
def test_psd_opens_again_with_names_groups_and_modes(parts, split, tmp_path):
    psd_tools = pytest.importorskip("psd_tools")
    found = all_layers(parts, split)
    save_layers(found, tmp_path / "a.psd", dpi=350)
    document = psd_tools.PSDImage.open(tmp_path / "a.psd")
    leaves = [layer for layer in document.descendants() if layer.kind == "pixel"]
    assert [layer.name for layer in leaves] == [layer.name for layer in found]
    assert [layer.blend_mode.name.lower() for layer in leaves] == [layer.blend for layer in found]
    assert [layer.visible for layer in leaves] == [layer.visible for layer in found]
    assert [layer.name for layer in document if layer.kind == "group"] == (["flats"] if split != "one layer" else [])
    from psd_tools.constants import Resource

    assert document.image_resources.get_data(Resource.RESOLUTION_INFO).horizontal == 350 * 65536
    assert b"acsp" in document.image_resources.get_data(Resource.ICC_PROFILE)[:64]
    merged = np.asarray(document.topil(apply_icc=False).convert("RGBA")).astype(int)
    assert np.abs(merged - L.composite(found)).max() <= 1


def test_psd_tools_compositor_gives_the_preview(parts, tmp_path):
    psd_tools = pytest.importorskip("psd_tools")
    pytest.importorskip("skimage", reason="psd-tools composes layers with scikit-image")
    pytest.importorskip("aggdraw", reason="psd-tools composes layers with aggdraw")
    found = all_layers(parts, "palette colours")
    save_layers(found, tmp_path / "a.psd")
    made = psd_tools.PSDImage.open(tmp_path / "a.psd").composite(force=True, apply_icc=False)
    assert np.abs(np.asarray(made.convert("RGBA")).astype(int) - L.composite(found)).max() <= 1


def has_imagemagick() -> bool:
    """Whether `convert` is ImageMagick's: Windows has a disk tool of that name, and other programs stand in for it."""
    if not shutil.which("convert"):
        return False
    return "Version: ImageMagick" in subprocess.run(["convert", "-version"], capture_output=True, text=True).stdout


@pytest.mark.skipif(not has_imagemagick(), reason="ImageMagick's convert is not installed")
def test_imagemagick_gives_the_preview(parts, tmp_path):
    pytest.importorskip("psd_tools")
    found = all_layers(parts)
    save_layers(found, tmp_path / "a.psd")
    command = ["convert"]  # frame 0 is the merged picture, then come the layers, the lowest first
    for number, layer in enumerate(found, 1):
        if layer.visible:
            mode = {"normal": "over"}.get(layer.blend, layer.blend)
            together = ["-background", "none", "-compose", mode, "-layers", "merge"] if len(command) > 1 else []
            command += [f"{tmp_path}/a.psd[{number}]", *together]
    result = subprocess.run(
        [*command, "+repage", f"PNG32:{tmp_path}/b.png"], capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr
    made = np.asarray(Image.open(tmp_path / "b.png").convert("RGBA")).astype(int)
    assert np.abs(made - L.composite(found)).max() <= 1


def test_ora_holds_the_layers_and_the_preview(parts, tmp_path):
    found = all_layers(parts, "palette colours")
    save_layers(found, tmp_path / "a.ora")
    with zipfile.ZipFile(tmp_path / "a.ora") as archive:
        first = archive.infolist()[0]
        assert first.filename == "mimetype" and first.compress_type == zipfile.ZIP_STORED
        assert archive.read("mimetype") == b"image/openraster"
        root = ElementTree.fromstring(archive.read("stack.xml"))
        merged = np.asarray(Image.open(archive.open("mergedimage.png")).convert("RGBA"))
        assert (merged == L.composite(found)).all()
        assert (root.get("w"), root.get("h")) == ("120", "72")
        back = []
        for element in reversed(list(root.iter("layer"))):
            image = Image.open(archive.open(element.get("src"))).convert("RGBA")
            pixels = np.zeros((72, 120, 4), np.uint8)
            x, y = int(element.get("x")), int(element.get("y"))
            pixels[y : y + image.height, x : x + image.width] = image
            blend = element.get("composite-op").replace("svg:", "").replace("src-over", "normal")
            back.append(L.Layer(element.get("name"), pixels, blend, visible=element.get("visibility") == "visible"))
    assert [layer.name for layer in back] == [layer.name for layer in found]
    assert (L.composite(tuple(back)) == L.composite(found)).all()


def test_what_does_not_fit_is_said(parts, tmp_path):
    flats, lines, _, _ = parts
    with pytest.raises(ValueError, match="60x72.*flats 120x72"):
        L.stack(flats, lines[:, :60])
    with pytest.raises(ValueError, match="figure mask is 3x2"):
        L.stack(flats, lines, figure=np.ones((2, 3)))
    with pytest.raises(ValueError, match="cannot be split"):
        L.stack(flats, lines, split="hair")
    with pytest.raises(ValueError, match=".psd or .ora"):
        save_layers(L.stack(flats, lines), tmp_path / "a.png")
    with pytest.raises(ValueError, match="pixels per inch"):
        save_layers(L.stack(flats, lines), tmp_path / "a.psd", dpi=0)
    assert not list(tmp_path.iterdir())
