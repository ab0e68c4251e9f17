"""The procedural characters: what depends on what, and what a region map means."""

import dataclasses
import hashlib
import time

import numpy as np
import pytest
from PIL import Image

from trainer.world import (
    REGION_NAMES,
    Appearance,
    Layout,
    LineStyle,
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
