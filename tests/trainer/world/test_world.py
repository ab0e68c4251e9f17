"""The procedural characters: what depends on what, what a region map means, and how a demo set is written."""

import argparse
import dataclasses
import hashlib
import json
import time

import numpy as np
import pytest
from PIL import Image

from trainer.commands import demo_data
from trainer.config import ConfigError
from trainer.world import (
    REGION_NAMES,
    Appearance,
    Layout,
    LineStyle,
    crowded,
    mask,
    pair,
    picture,
    pose,
    regions,
    render,
    seeds_of,
    sketch,
)
from trainer.world import layout as layouts
from trainer.world.appearance import oklch, to_oklch
from trainer.world.crowd import Crowd, stepped_back
from trainer.world.layout import with_background

SIZE = 96


def plain(appearance: Appearance) -> Appearance:
    """One colour per material: no tips, streak, gradients or shades."""
    return dataclasses.replace(
        appearance,
        hair_tips=appearance.hair,
        hair_streak=appearance.hair,
        eye_b=appearance.eye_a,
        shading="flat",
    )


def region(name: str) -> int:
    return REGION_NAMES.index(name)


def test_same_seed_same_bytes():
    first, second = pair(5, "train", SIZE), pair(5, "train", SIZE)
    labels = {"regions", "mask", "reference_regions", "reference_mask"}
    assert first.keys() == {"picture", "sketch", "reference", *labels}
    for key in first:
        assert first[key].dtype == np.uint8
        assert np.array_equal(first[key], second[key])


def test_what_a_seed_draws_is_kept():
    """Parameters of a seed never change without a new WORLD_VERSION (pixels may differ by the drawing library)."""
    values = [repr(dataclasses.astuple(kind.sample(s))) for kind in (Layout, LineStyle) for s in (0, 7, 2**40 + 1)]
    colours = [repr(Appearance.sample(s).hair) + repr(Appearance.sample(s).clothes_main) for s in range(20)]
    digest = hashlib.sha256("".join(values + colours).encode()).hexdigest()
    assert digest.startswith("e4aa3d163ea12ee0")


def test_layouts_differ_between_seeds_and_cover_every_kind():
    many = [Layout.sample(seed) for seed in range(1500)]
    assert len(set(many)) == len(many)
    for field, names in (
        ("fringe", layouts.FRINGES),
        ("back_hair", layouts.BACK_HAIR),
        ("clothes", layouts.CLOTHES),
        ("background", layouts.BACKGROUNDS),
        ("headwear", layouts.HEADWEAR),
        ("ears", layouts.EARS),
        ("mouth", layouts.MOUTHS),
        ("eyes", layouts.EYES),
    ):
        assert {getattr(one, field) for one in many} == set(names)


@pytest.mark.parametrize("field", ["clothes", "background", "headwear", "fringe", "back_hair", "ears", "mouth", "eyes"])
def test_every_kind_can_be_drawn(field):
    names = {
        "clothes": layouts.CLOTHES,
        "background": layouts.BACKGROUNDS,
        "headwear": layouts.HEADWEAR,
        "fringe": layouts.FRINGES,
        "back_hair": layouts.BACK_HAIR,
        "ears": layouts.EARS,
        "mouth": layouts.MOUTHS,
        "eyes": layouts.EYES,
    }[field]
    base = dataclasses.replace(
        Layout.sample(3), headwear="none", ears="human", locks_over_shoulder=True, head_unit=0.2, centre_y=0.5
    )
    drawn = {sketch(dataclasses.replace(base, **{field: name}), LineStyle.clean(), 128).tobytes() for name in names}
    # plain and gradient backgrounds differ in colour only
    assert len(drawn) == len(names) - (field == "background")


def test_layout_alone_decides_sketch_and_regions():
    style = LineStyle.sample(4)
    for seed in range(12):
        layout = Layout.sample(seed)
        first = render(layout, Appearance.sample(seed), style, SIZE)
        second = render(layout, Appearance.sample(seed + 100), style, SIZE)
        assert np.array_equal(first.sketch, second.sketch)
        assert np.array_equal(first.regions, second.regions)
        assert not np.array_equal(first.picture, second.picture)


def test_line_style_changes_only_the_sketch():
    layout, appearance = Layout.sample(1), Appearance.sample(1)
    first = render(layout, appearance, LineStyle.sample(1), SIZE)
    second = render(layout, appearance, LineStyle.sample(2), SIZE)
    assert np.array_equal(first.picture, second.picture)
    assert not np.array_equal(first.sketch, second.sketch)


def test_single_views_equal_the_full_rendering():
    layout, appearance, style = Layout.sample(8), Appearance.sample(8), LineStyle.sample(8)
    whole = render(layout, appearance, style, SIZE)
    assert np.array_equal(whole.picture, picture(layout, appearance, SIZE))
    assert np.array_equal(whole.sketch, sketch(layout, style, SIZE))
    assert np.array_equal(whole.regions, regions(layout, SIZE))
    assert np.array_equal(whole.mask, mask(layout, SIZE))


def test_the_mask_is_the_figure_with_its_lines():
    """Regions of the figure lie inside, those of the background outside; lines and clouds fall on their own side."""
    outside, either = (
        [region(n) for n in names] for names in (("background", "background_second"), ("lines", "other"))
    )
    for seed in range(20):
        layout = Layout.sample(seed)
        drawn, silhouette = regions(layout, 128), mask(layout, 128)
        assert set(np.unique(silhouette)) == {0, 255}
        assert (silhouette[~np.isin(drawn, outside + either)] == 255).all()
        assert (silhouette[np.isin(drawn, outside)] == 0).all()


def test_background_styles_replace_only_the_kind_of_background():
    for seed in range(12):
        layout = Layout.sample(seed)
        assert with_background(layout, "mixed") is layout
        for style in ("busy", "plain"):
            other = with_background(layout, style)
            assert other.background in layouts.BACKGROUND_STYLES[style]
            assert dataclasses.replace(other, background=layout.background) == layout
    with pytest.raises(ValueError, match="choose one of"):
        with_background(layout, "loud")


def test_regions_have_the_colours_of_the_appearance():
    for seed in range(10):
        layout = dataclasses.replace(Layout.sample(seed), streak=False, wink=False)
        appearance = plain(Appearance.sample(seed))
        drawn = render(layout, appearance, LineStyle.clean(), 256)
        for name, colour in (
            ("hair", appearance.hair),
            ("skin", appearance.skin),
            ("clothes_main", appearance.clothes_main),
            ("eyes", appearance.eye_a),
            ("clothes_second", appearance.clothes_second),
        ):
            inside = drawn.regions == region(name)
            if inside.sum() < 150:
                assert name.startswith("clothes")
                continue
            tolerance = 75 if name == "eyes" else 40  # the iris is a gradient around its colour; hair behind is darker
            assert np.abs(np.median(drawn.picture[inside], axis=0) - colour).max() <= tolerance, name


def test_irises_are_large_enough_to_measure():
    for seed in range(40):
        layout = dataclasses.replace(Layout.sample(seed), wink=False)
        if layout.head_unit < 0.235:
            continue
        iris = regions(layout, 256) == region("eyes")
        assert iris.sum() > 300
        assert iris.any(axis=0).sum() >= 20  # both together


@pytest.mark.parametrize("size", [64, (64, 96), (256, 384), (384, 256), 512])
def test_sizes(size):
    height, width = (size, size) if isinstance(size, int) else size
    drawn = render(Layout.sample(2), Appearance.sample(2), LineStyle.sample(2), size)
    assert drawn.picture.shape == (height, width, 3)
    assert drawn.sketch.shape == drawn.regions.shape == (height, width)
    assert drawn.regions.max() < len(REGION_NAMES)


def test_the_same_drawing_at_every_size():
    layout, appearance = Layout.sample(6), Appearance.sample(6)
    small = picture(layout, appearance, 128).astype(float)
    large = Image.fromarray(picture(layout, appearance, 512)).resize((128, 128), Image.Resampling.BOX)
    assert np.abs(small - np.asarray(large, float)).mean() < 8


def test_a_size_out_of_range_says_so():
    with pytest.raises(ValueError, match="16x256.*choose"):
        picture(Layout.sample(0), Appearance.sample(0), (16, 256))


def test_sketches_are_dark_lines_on_white():
    for seed in range(30):
        drawn = sketch(Layout.sample(seed), LineStyle.sample(seed), 128).astype(float)
        assert np.median(drawn) >= 235
        assert np.percentile(drawn, 1) < 190
        assert 0.015 < (drawn < 200).mean() < 0.35


def test_sketch_lines_lie_on_the_lines_of_the_picture():
    layout = Layout.sample(11)
    drawn = render(layout, Appearance.sample(11), LineStyle.clean(), 256)
    lines = drawn.regions == region("lines")
    near = np.zeros_like(lines)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            near |= np.roll(lines, (dy, dx), (0, 1))
    black_areas = drawn.regions == region("other")  # lashes and pupils filled with ink
    assert (near | black_areas)[drawn.sketch < 100].mean() > 0.97
    assert (drawn.sketch[lines] < 200).mean() > 0.9


def test_held_out_seeds_are_never_training_seeds():
    last = 2**38 - 1
    indices = [0, 1, 2, 1_000_000, last]
    train = {s for i in indices for s in seeds_of(i, "train").values()}
    held_out = {s for i in indices for s in seeds_of(i, "heldout").values()}
    assert len(train) == len(held_out) == 4 * len(indices)
    assert max(train) < 2**40 <= min(held_out)
    for split in ("train", "heldout"):
        with pytest.raises(ValueError, match="index"):
            seeds_of(last + 1, split)
    with pytest.raises(ValueError, match="train, heldout"):
        seeds_of(0, "test")


def test_pose_0_and_1_are_the_pair():
    item = pair(9, "heldout", SIZE)
    assert np.array_equal(item["picture"], pose(9, 0, "heldout", SIZE).picture)
    assert np.array_equal(item["reference"], pose(9, 1, "heldout", SIZE).picture)
    assert np.array_equal(pair(9, "heldout", SIZE, reference=1)["reference"], pose(9, 2, "heldout", SIZE).picture)


def test_hues_cover_the_circle():
    for field in ("hair", "eye_a", "clothes_main", "background"):
        colours = [to_oklch(getattr(Appearance.sample(seed), field)) for seed in range(600)]
        hues = np.array([hue for _, chroma, hue in colours if chroma > 0.03])
        assert (np.histogram(hues, bins=12, range=(0, 1))[0] >= 5).all(), field


def test_oklch_round_trip():
    for colour in [(255, 255, 255), (12, 40, 200), (240, 120, 30), (90, 90, 90)]:
        assert np.abs(np.subtract(oklch(*to_oklch(colour)), colour)).max() <= 1


def test_speed():
    layouts_, appearance, style = [Layout.sample(s) for s in range(10)], Appearance.sample(0), LineStyle.sample(0)
    start = time.process_time()
    for layout in layouts_:
        render(layout, appearance, style, 256)
    assert (time.process_time() - start) / 10 < 0.15  # about 0.03 s; the bound is for slow and busy machines


def read(path):
    with Image.open(path) as image:
        return np.array(image)


def test_demo_data_is_the_pairs(tmp_path):
    demo_data.write_demo_data(tmp_path / "set", 2, 64, seed=3, split="heldout", progress=False)
    item = pair(3_000_001, "heldout", 64)
    for key in item:
        folder = "color" if key == "picture" else key
        assert np.array_equal(read(tmp_path / "set" / folder / "00002.png"), item[key])
    manifest = json.loads((tmp_path / "set" / "manifest.json").read_text())
    assert manifest["count"] == 2 and manifest["split"] == "heldout" and manifest["regions"] == list(REGION_NAMES)


def test_demo_data_continues_and_grows(tmp_path):
    demo_data.write_demo_data(tmp_path, 3, 64, progress=False)
    kept, lost = tmp_path / "color" / "00001.png", tmp_path / "sketch" / "00002.png"
    before, content = kept.stat().st_mtime_ns, lost.read_bytes()
    lost.unlink()
    (tmp_path / "color" / "00009.part").write_bytes(b"half a picture")
    demo_data.write_demo_data(tmp_path, 4, 64, progress=False)
    assert kept.stat().st_mtime_ns == before
    assert lost.read_bytes() == content
    assert sorted(p.name for p in (tmp_path / "color").iterdir()) == [f"0000{i}.png" for i in (1, 2, 3, 4)]
    assert json.loads((tmp_path / "manifest.json").read_text())["count"] == 4


@pytest.mark.parametrize("poses", [1, 2])
def test_a_set_without_masks_gets_them_and_nothing_else(tmp_path, poses, monkeypatch):
    demo_data.write_demo_data(tmp_path, 2, 64, poses=poses, progress=False)
    old = [path for path in sorted(tmp_path.rglob("*.png")) if path.parent.name in ("color", "sketch", "regions")]
    new = [path for path in sorted(tmp_path.rglob("*.png")) if path.parent.name in demo_data.LABELS]
    assert len(new) == (6 if poses == 1 else 4)
    before, contents = [path.stat().st_mtime_ns for path in old], [path.read_bytes() for path in new]
    for path in new:
        path.unlink()
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    del manifest["background"]  # as sets of earlier versions
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    monkeypatch.setattr(demo_data, "_pictures", None)  # would be called to draw a picture
    demo_data.write_demo_data(tmp_path, 2, 64, poses=poses, progress=False)
    assert [path.stat().st_mtime_ns for path in old] == before
    assert [path.read_bytes() for path in new] == contents


def test_demo_data_of_one_kind_of_background(tmp_path):
    demo_data.write_demo_data(tmp_path / "busy", 1, 64, background="busy", progress=False)
    assert json.loads((tmp_path / "busy" / "manifest.json").read_text())["background"] == "busy"
    drawn = pair(0, "train", 64, background="busy")
    assert np.array_equal(read(tmp_path / "busy" / "color" / "00001.png"), drawn["picture"])
    with pytest.raises(ConfigError, match="background 'busy' there, 'mixed' asked for"):
        demo_data.write_demo_data(tmp_path / "busy", 1, 64, progress=False)
    with pytest.raises(ConfigError, match="Unknown background style"):
        demo_data.write_demo_data(tmp_path / "other", 1, 64, background="loud", progress=False)


@pytest.mark.parametrize("poses", [1, 2])
def test_drawings_of_the_figure_alone(tmp_path, poses):
    """The same set but for the lines of the background; drawn anew after a loss they are the same again."""
    for lines in ("all", "figure"):
        demo_data.write_demo_data(tmp_path / lines, 3, 96, poses=poses, progress=False, lines=lines)
    fewer = 0
    for path in sorted((tmp_path / "figure" / "sketch").iterdir()):
        files = (path, *(tmp_path / "all" / folder / path.name for folder in ("sketch", "mask")))
        bare, whole, mask = (np.asarray(Image.open(file)) for file in files)
        assert np.array_equal(bare[mask > 0], whole[mask > 0]) and (bare >= whole).all()
        fewer += (bare > whole).sum()
        color = (tmp_path / "all" / "color" / path.name).read_bytes()
        assert (tmp_path / "figure" / "color" / path.name).read_bytes() == color
        path.unlink()
        demo_data.write_demo_data(tmp_path / "figure", 3, 96, poses=poses, progress=False, lines="figure")
        assert np.array_equal(np.asarray(Image.open(path)), bare)
    assert fewer > 100
    with pytest.raises(ConfigError, match="lines 'figure' there, 'all' asked for"):
        demo_data.write_demo_data(tmp_path / "figure", 3, 96, poses=poses, progress=False)


def crowd_of(index, bystanders=3, shapes=4):
    """(layout of the main character, its crowd) of a held-out item's reference."""
    seeds = seeds_of(index, "heldout")
    layout_seed = seeds["reference_layout"]
    layout = stepped_back(Layout.sample(layout_seed), layout_seed)
    return layout, Crowd.sample(layout, layout_seed, seeds["appearance"], bystanders, shapes)


def test_a_crowd_changes_the_reference_only():
    alone, among = pair(4, "heldout", SIZE), pair(4, "heldout", SIZE, bystanders=3, shapes=4)
    assert np.array_equal(among["reference"], pair(4, "heldout", SIZE, bystanders=3, shapes=4)["reference"])
    for key in alone:
        assert np.array_equal(alone[key], among[key]) == (not key.startswith("reference"))
    assert np.array_equal(among["reference"], crowded(4, 1, "heldout", SIZE).picture)


def test_labels_and_mask_of_a_crowd_know_the_main_character_and_the_wall_only():
    """What is labelled hair, skin or wall has the same colour as in a picture of the main character alone."""
    figure = [region(n) for n in REGION_NAMES if n not in ("background", "background_second", "other", "lines")]
    hidden = 0
    for index in range(12):
        layout, _ = crowd_of(index)
        appearance = Appearance.sample(seeds_of(index, "heldout")["appearance"])
        among, alone = crowded(index, 1, "heldout", SIZE), render(layout, appearance, LineStyle.clean(), SIZE)
        kept = (among.regions == alone.regions) & (among.regions != region("other"))
        inner = kept & (np.abs(among.picture.astype(int) - alone.picture).max(axis=2) == 0)
        assert inner.sum() > 0.9 * kept.sum()  # the rest are borders to what was laid over it
        changed = among.regions != alone.regions
        assert (among.regions[changed] == region("other")).all()
        assert (among.mask[np.isin(among.regions, figure)] == 255).all()
        assert not (among.mask & ~alone.mask).any()
        hidden += int(changed.sum())
    assert hidden > 12 * 0.1 * SIZE * SIZE


def test_the_main_character_of_a_crowd_is_the_largest_and_its_eyes_are_seen():
    front = behind = 0
    for index in range(40):
        layout, crowd = crowd_of(index)
        assert 1 <= len(crowd.bystanders) <= 3 and 1 <= len(crowd.shapes) <= 4
        assert all(one.layout.head_unit < 0.9 * layout.head_unit for one in crowd.bystanders)
        front += sum(one.in_front for one in crowd.bystanders)
        behind += sum(not one.in_front for one in crowd.bystanders)
        if index < 12:
            eyes = [(drawn == region("eyes")).sum() for drawn in (crowded(index, 1, "heldout", SIZE).regions,
                                                                  regions(layout, SIZE))]  # fmt: skip
            assert eyes[0] == eyes[1]
    assert front > 3 and behind > 20


def test_nobody_in_a_crowd_is_known_from_elsewhere():
    """Bystanders wear palettes of their own, never one of another item of either split."""
    palettes = [one.appearance for index in range(20) for one in crowd_of(index)[1].bystanders]
    mains = [Appearance.sample(seeds_of(i, split)["appearance"]) for split in ("train", "heldout") for i in range(100)]
    assert len(set(palettes)) == len(palettes) and not set(palettes) & set(mains)


def test_limits_of_a_crowd():
    layout, nobody = crowd_of(0, bystanders=0, shapes=0)
    assert nobody == Crowd((), ())
    share = [np.array_equal(pair(i, "train", 64, bystanders=1, crowded_share=0.5)["reference"],
                            pair(i, "train", 64)["reference"]) for i in range(16)]  # fmt: skip
    assert 2 <= sum(share) <= 14
    with pytest.raises(ValueError, match="bystanders is 9; choose 0 to 8"):
        crowded(0, 1, bystanders=9)
    with pytest.raises(ValueError, match="crowded share is 1.5"):
        pair(0, bystanders=1, crowded_share=1.5)


def test_demo_data_with_crowded_references(tmp_path):
    crowd = {"bystanders": 2, "shapes": 3, "crowded_share": 0.5}
    demo_data.write_demo_data(tmp_path, 2, 64, progress=False, **crowd)
    lost = [tmp_path / name / "00002.png" for name in ("reference_mask", "reference_regions")]
    contents = [path.read_bytes() for path in lost]
    for path in lost:
        path.unlink()
    demo_data.write_demo_data(tmp_path, 2, 64, progress=False, **crowd)
    assert [path.read_bytes() for path in lost] == contents
    assert np.array_equal(read(tmp_path / "reference/00002.png"), pair(1, "train", 64, **crowd)["reference"])
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert {key: manifest[key] for key in crowd} == crowd
    with pytest.raises(ConfigError, match="bystanders 2 there, 0 asked for"):
        demo_data.write_demo_data(tmp_path, 2, 64, progress=False)
    with pytest.raises(ConfigError, match="leave --poses at 1"):
        demo_data.write_demo_data(tmp_path / "other", 2, 64, poses=2, progress=False, **crowd)
    with pytest.raises(ConfigError, match="shapes is 9"):
        demo_data.write_demo_data(tmp_path / "other", 2, 64, progress=False, shapes=9)


def test_demo_data_poses_share_an_appearance(tmp_path):
    demo_data.write_demo_data(tmp_path, 1, (96, 64), poses=3, progress=False)
    assert sorted(p.name for p in (tmp_path / "color").iterdir()) == ["00001_0.png", "00001_1.png", "00001_2.png"]
    assert not (tmp_path / "reference").exists()
    assert read(tmp_path / "color" / "00001_2.png").shape == (96, 64, 3)
    assert np.array_equal(read(tmp_path / "sketch" / "00001_1.png"), pose(0, 1, "train", (96, 64)).sketch)


def test_demo_data_with_several_processes(tmp_path):
    demo_data.write_demo_data(tmp_path, 3, 64, workers=2, progress=False)
    assert np.array_equal(read(tmp_path / "color" / "00003.png"), pair(2, "train", 64)["picture"])


@pytest.mark.parametrize(
    "change, message",
    [
        ({"seed": 1}, "other settings.*seed 0 there, 1 asked for"),
        ({"size": 80}, "height 64 there, 80 asked for"),
        ({"split": "heldout"}, "'train' there"),
        ({"split": "test"}, "Unknown split"),
        ({"size": 4000}, "outside 32..2048"),
        ({"count": 0}, "count is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"workers": 0}, "workers is 0"),
    ],
)
def test_demo_data_refuses_what_does_not_fit(tmp_path, change, message):
    demo_data.write_demo_data(tmp_path, 1, 64, progress=False)
    with pytest.raises(ConfigError, match=message):
        demo_data.write_demo_data(**({"folder": tmp_path, "count": 1, "size": 64, "progress": False} | change))


def test_demo_data_never_mixes_with_other_pictures(tmp_path):
    (tmp_path / "color").mkdir()
    (tmp_path / "color" / "mine.png").write_bytes(b"")
    with pytest.raises(ConfigError, match="empty folder"):
        demo_data.write_demo_data(tmp_path, 1, 64, progress=False)


def test_demo_data_command(tmp_path, capsys):
    parser = argparse.ArgumentParser()
    demo_data.add_arguments(parser)
    arguments = ["--output", str(tmp_path / "set"), "--count", "1", "--size", "96x64", "--workers", "1"]
    demo_data.run(parser.parse_args(arguments))
    assert "1 characters" in capsys.readouterr().out
    assert read(tmp_path / "set" / "color" / "00001.png").shape == (96, 64, 3)
    with pytest.raises(SystemExit):
        parser.parse_args(["--output", "x", "--count", "1", "--size", "big"])
