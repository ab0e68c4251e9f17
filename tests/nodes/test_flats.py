"""From lines and a soft result to a layered document, through the nodes."""

import os

import pytest
import torch

from tests.drawings import box, drawing

RED, BLUE = (0.8, 0.15, 0.25), (0.15, 0.25, 0.8)
CARD = "#cc2640 coat\n#2640cc sea\n#ffffff paper"


@pytest.fixture(scope="module")
def lines():
    return drawing([box(20, 20, 100, 120), box(130, 20, 210, 120)])


@pytest.fixture(scope="module")
def soft():
    """A result at half the drawing's size."""
    picture = torch.full((1, 200, 240, 3), 0.97)
    picture[:, 20:121, 20:101], picture[:, 20:121, 130:211] = torch.tensor(RED), torch.tensor(BLUE)
    noise = 0.03 * torch.randn(picture.shape, generator=torch.Generator().manual_seed(0))
    return (picture + noise).clamp(0, 1)[:, ::2, ::2]


@pytest.fixture(scope="module")
def flats(pack, lines, soft):
    regions, preview = pack.run("ColorizeFindRegions", lines=lines)
    assert preview.shape == lines.shape and preview.min() >= 0 and preview.max() <= 1
    return pack.run("ColorizeFlattenColors", image=soft, regions=regions, shading="1 tone")


def test_flats_have_the_drawing_s_size_and_three_colours(flats, lines):
    batch, image, shaded, palette = flats
    assert image.shape == shaded.shape == lines.shape and len(batch.flats) == 1
    assert len(image.reshape(-1, 3).unique(dim=0)) == 3 == len(palette.entries)
    assert torch.allclose(image[0, 60, 60], torch.tensor(RED), atol=0.03)


def test_lock_gives_the_card_s_colours_to_the_bit(pack, flats):
    palette, text, swatches = pack.run("ColorizePaletteFromReference", text=CARD)
    assert text.splitlines()[0].startswith("#cc2640 coat") and swatches.shape == (1, 64, 512, 3)
    _, image, _ = pack.run("ColorizeLockToPalette", flats=flats[0], palette=palette)
    levels = (image * 255).round().to(torch.uint8).reshape(-1, 3).unique(dim=0).tolist()
    assert sorted(levels) == sorted([[0xCC, 0x26, 0x40], [0x26, 0x40, 0xCC], [255, 255, 255]])


def test_palette_of_a_picture_with_a_mask_file_and_card(pack, soft, tmp_path, monkeypatch):
    import folder_paths

    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path))
    mask = torch.zeros(1, 100, 120)
    mask[:, 15:55, 15:45] = 1
    palette, _, _ = pack.run("ColorizePaletteFromReference", image=soft, mask=mask, save_as="hero")
    assert len(palette.entries) == 1 and sorted(os.listdir(tmp_path / "palettes")) == ["hero.gpl", "hero.json"]
    again, _, _ = pack.run("ColorizePaletteFromReference", file_name="hero.json")
    assert again.entries[0].colour == palette.entries[0].colour
    with pytest.raises(ValueError, match="no palette '../../etc/passwd'"):
        pack.run("ColorizePaletteFromReference", file_name="../../etc/passwd")
    with pytest.raises(ValueError, match="nothing to take a palette from"):
        pack.run("ColorizePaletteFromReference")


def test_hints_need_transparency_and_set_their_region(pack, lines, soft):
    regions, _ = pack.run("ColorizeFindRegions", lines=lines)
    hints, mask = torch.zeros(1, 200, 240, 3), torch.ones(1, 200, 240)
    hints[:, 60:66, 60:66] = torch.tensor((0.0, 1.0, 0.0))
    mask[:, 60:66, 60:66] = 0
    image = pack.run("ColorizeFlattenColors", image=soft, regions=regions, hints=hints, hints_mask=mask)[1]
    assert image[0, 80, 80].tolist() == [0, 1, 0] and image[0, 80, 180].tolist() != [0, 1, 0]
    with pytest.raises(ValueError, match="opaque everywhere"):
        pack.run("ColorizeFlattenColors", image=soft, regions=regions, hints=hints)


def test_layers_are_written_numbered_and_shown(pack, flats, lines, tmp_path, monkeypatch):
    import folder_paths

    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path))
    arguments = {"flats": flats[0], "lines": lines, "format": "psd and ora", "filename_prefix": "shot/a"}
    preview, files = pack.run("ColorizeSaveLayers", **arguments, reference=torch.rand(1, 40, 40, 3))
    assert files.splitlines() == ["shot/a_00001_.psd", "shot/a_00001_.ora"]
    assert all((tmp_path / name).stat().st_size > 1000 for name in files.splitlines())
    expected = flats[2] * lines
    assert (preview - expected).abs().max() < 3 / 255
    assert pack.run("ColorizeSaveLayers", **arguments)[1].startswith("shot/a_00002_.psd")


def test_batches_and_counts(pack, lines, soft):
    regions, _ = pack.run("ColorizeFindRegions", lines=lines)
    batch, image, _, _ = pack.run("ColorizeFlattenColors", image=soft.expand(2, -1, -1, -1), regions=regions)
    assert len(batch.flats) == len(image) == 2
    two, _ = pack.run("ColorizeFindRegions", lines=lines.expand(2, -1, -1, -1))
    with pytest.raises(ValueError, match="3 results and 2 drawings.*as many as results"):
        pack.run("ColorizeFlattenColors", image=soft.expand(3, -1, -1, -1), regions=two)
    with pytest.raises(ValueError, match="3 results of 2 drawings.*switch together off"):
        pack.run("ColorizeFlattenColors", image=soft.expand(3, -1, -1, -1), regions=two, together=True)
    with pytest.raises(ValueError, match="3 drawings.*as many as flats"):
        pack.run("ColorizeSaveLayers", flats=batch, lines=lines.expand(3, -1, -1, -1))


def test_results_of_a_drawing_vote_and_drawings_take_turns(pack, lines, soft):
    """Of two drawings, repeated as ComfyUI repeats a batch, the first is voted red, the second blue."""
    regions, _ = pack.run("ColorizeFindRegions", lines=lines)
    red, blue = soft.clone(), soft.clone()
    red[:, 10:61, 65:106], blue[:, 10:61, 65:106] = torch.tensor(RED), torch.tensor(BLUE)
    palette, _, _ = pack.run("ColorizePaletteFromReference", text=CARD)

    def locked(images, found):
        batch = pack.run("ColorizeFlattenColors", image=torch.cat(images), regions=found, together=True)[0]
        return pack.run("ColorizeLockToPalette", flats=batch, palette=palette)

    batch, image, shaded = locked([red, blue, red], regions)
    assert len(batch.flats) == len(image) == len(shaded) == 1 and batch.pictures[0].shape == (3, 100, 120, 3)
    assert torch.allclose(image[0, 60, 170], torch.tensor((0xCC, 0x26, 0x40)) / 255)
    two, _ = pack.run("ColorizeFindRegions", lines=lines.expand(2, -1, -1, -1))
    image = locked([red, blue, red, red, red, blue], two)[1]
    assert len(image) == 2 and image[0, 60, 170, 0] > 0.7 > 0.3 > image[1, 60, 170, 0]
