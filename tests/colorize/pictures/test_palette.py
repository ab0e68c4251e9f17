"""Palettes: what is found in a picture, and what survives text and files."""

import numpy as np
import pytest

from colorize.pictures import oklab, palette
from colorize.pictures.palette import Entry, Palette, PaletteError, from_text, palette_of, to_text


def picture():
    """Skin with a shadow on it, blue cloth, black lines."""
    image = np.full((120, 160, 3), (246, 213, 195), np.uint8)
    image[60:110, 10:60] = (205, 165, 150)
    image[:, 90:] = (40, 60, 200)
    image[:, 86:90] = 0
    return image.astype(np.float32) / 255


def test_colours_by_area_with_the_shade_folded_in():
    found = palette_of(picture())
    assert [entry.colour for entry in found.entries[:2]] == ["#f6d5c3", "#283cc8"]
    assert found.entries[0].share > 0.5 and sum(entry.share for entry in found.entries) == pytest.approx(1, abs=1e-3)
    assert "#cda596" not in [entry.colour for entry in found.entries]


def test_mask_and_count():
    mask = np.zeros((120, 160), np.float32)
    mask[:, 95:] = 1
    assert [entry.colour for entry in palette_of(picture(), mask).entries] == ["#283cc8"]
    assert len(palette_of(picture(), count=1).entries) == 1
    with pytest.raises(ValueError, match="mask leaves nothing"):
        palette_of(picture(), np.zeros((120, 160), np.float32))
    with pytest.raises(ValueError, match="10x10"):
        palette_of(picture(), np.ones((10, 10), np.float32))
    with pytest.raises(PaletteError, match="palette of 0 colours"):
        palette_of(picture(), count=0)


@pytest.mark.parametrize("ending", [".json", ".gpl"])
def test_files_bring_back_colours_and_names(tmp_path, ending):
    saved = Palette((Entry("skin", "#f6d5c3", 0.6), Entry("海の色", "#283cc8", 0.4)))
    palette.save(saved, tmp_path / f"card{ending}")
    loaded = palette.load(tmp_path / f"card{ending}")
    assert [(e.name, e.colour) for e in loaded.entries] == [(e.name, e.colour) for e in saved.entries]
    if ending == ".json":
        assert loaded == saved
    else:
        assert (tmp_path / "card.gpl").read_text(encoding="utf-8").startswith("GIMP Palette\nName: card\n")


def test_text_is_edited_by_hand():
    found = from_text("#F6D5C3 skin 60.0%\n; a note\n\n#283cc8\n#000000 line art")
    assert [e.colour for e in found.entries] == ["#f6d5c3", "#283cc8", "#000000"]
    assert [e.name for e in found.entries] == ["skin", "blue", "line art"] and found.entries[0].share == 0.6
    assert from_text(to_text(found)) == found


@pytest.mark.parametrize("text", ["red", "#12345", "", "; nothing"])
def test_bad_text_is_said(text):
    with pytest.raises(PaletteError, match="palette"):
        from_text(text)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "{", "no palette"),
        ("a.json", '{"palette": [{"name": "x", "colour": "red"}]}', "rrggbb"),
        ("a.gpl", "hello", "GIMP"),
        ("a.gpl", "GIMP Palette\n", "no colours"),
    ],
)
def test_bad_files_are_said(tmp_path, name, content, message):
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(PaletteError, match=message):
        palette.load(tmp_path / name)


def test_missing_file_and_unknown_ending_are_said(tmp_path):
    with pytest.raises(PaletteError, match="cannot be read"):
        palette.load(tmp_path / "none.gpl")
    with pytest.raises(PaletteError, match=".json or .gpl"):
        palette.save(Palette((Entry("x", "#000000"),)), tmp_path / "card.txt")


def test_oklab_round_trip_and_known_values():
    colours = np.random.default_rng(0).random((50, 3)).astype(np.float32)
    assert np.abs(oklab.to_srgb(oklab.from_srgb(colours)) - colours).max() < 1e-4
    assert np.allclose(oklab.from_srgb(np.array([1.0, 1, 1])), [1, 0, 0], atol=1e-3)
    assert np.allclose(oklab.from_srgb(np.array([1.0, 0, 0])), [0.628, 0.2249, 0.1258], atol=1e-3)
    assert np.allclose(oklab.cielab(np.array([1.0, 0, 0])), [53.24, 80.09, 67.2], atol=0.1)


def test_names_are_plain_words():
    names = [palette.colour_name(code) for code in ("#000000", "#ffffff", "#ff0000", "#283cc8", "#4a2a12", "#f6d5c3")]
    assert names == ["black", "white", "red", "blue", "dark brown", "pale orange"]
