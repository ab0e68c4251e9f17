"""Augmentations: formulas against literal transcriptions, forms and ranges, and what the data set does with them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from trainer import config
from trainer.config import Augment, ConfigError, Data
from trainer.data import decode, deform, mls
from trainer.data.augment import border, lines, masks
from trainer.data.decoded import DecodedStore
from trainer.data.folder import FolderDataset
from trainer.stages import table


def generator(seed=0):
    return np.random.default_rng(seed)


# -- moving least squares ----------------------------------------------------------------------------------------------


def literal_mls(v, p, q, variant, alpha):
    """Schaefer et al. 2006 at one place, with the paper's matrices A_i (equations 5, 7 and 8) and loops."""
    w = [1 / sum((a - b) ** 2 for a, b in zip(point, v)) ** alpha for point in p]
    total = sum(w)
    p_star = np.sum([wi * pi for wi, pi in zip(w, p)], axis=0) / total
    q_star = np.sum([wi * qi for wi, qi in zip(w, q)], axis=0) / total
    p_hat, q_hat, offset = p - p_star, q - q_star, v - p_star
    if variant == "affine":
        left = sum(wi * np.outer(pi, pi) for wi, pi in zip(w, p_hat))
        right = sum(wi * np.outer(pi, qi) for wi, pi, qi in zip(w, p_hat, q_hat))
        return offset @ np.linalg.inv(left) @ right + q_star

    def perpendicular(x):
        return np.array([-x[1], x[0]])

    moved = np.zeros(2)
    for wi, pi, qi in zip(w, p_hat, q_hat):
        a = wi * np.stack([pi, -perpendicular(pi)]) @ np.stack([offset, -perpendicular(offset)]).T
        moved += qi @ a
    if variant == "similar":
        return moved / sum(wi * pi @ pi for wi, pi in zip(w, p_hat)) + q_star
    return np.linalg.norm(offset) * moved / np.linalg.norm(moved) + q_star


@pytest.mark.parametrize("variant", mls.VARIANTS)
@pytest.mark.parametrize("alpha", [1.0, 1.7])
def test_moving_least_squares_against_the_paper_s_matrices(variant, alpha):
    random = generator(3)
    points, places = random.uniform(-1, 1, (9, 2)), random.uniform(-1.2, 1.2, (40, 2))
    targets = points + random.uniform(-0.3, 0.3, (9, 2))
    ours = mls.move(*(torch.from_numpy(x) for x in (places, points, targets)), variant, alpha)
    theirs = np.stack([literal_mls(v, points, targets, variant, alpha) for v in places])
    assert np.abs(ours.numpy() - theirs).max() < 1e-9


@pytest.mark.parametrize("variant", mls.VARIANTS)
def test_control_points_go_to_their_targets_and_no_move_moves_nothing(variant):
    points = deform.control_points()
    targets = points + deform.draw_moves(generator(1), 1.0)
    assert torch.equal(mls.move(points, points, targets, variant), targets)
    places = torch.rand(50, 2)
    assert (mls.move(places, points, points, variant) - places).abs().max() < 1e-6
    turned = points @ torch.tensor([[0.8, 0.6], [-0.6, 0.8]])  # a rotation is in all three families
    expected = places @ torch.tensor([[0.8, 0.6], [-0.6, 0.8]])
    assert (mls.move(places, points, turned, variant) - expected).abs().max() < 1e-5


def test_an_unknown_variant_is_refused():
    with pytest.raises(ValueError, match="rigid, similar, affine"):
        mls.move(torch.zeros(1, 2), torch.zeros(1, 2), torch.zeros(1, 2), "free")


@pytest.mark.parametrize("kind", deform.KINDS)
def test_every_kind_bends_what_the_points_bend(kind):
    picture = torch.randint(0, 200, (3, 64, 64), dtype=torch.uint8)
    count = len(deform.control_points())
    shift = torch.tensor([[2 * 8 / 63, 0.0]]).repeat(count, 1)
    moved = deform.bend(picture, deform.sampling_grid(shift, 64, 64, kind), 255)
    assert (moved[..., 8:].int() - picture[..., :-8].int()).abs().max() <= 1
    assert (moved[..., :7] == 255).all()


# -- masks -------------------------------------------------------------------------------------------------------------


def blob():
    mask = torch.zeros(1, 150, 170, dtype=torch.uint8)
    mask[0, 70:100, 45:90] = 255
    return mask


def test_growing_fills_whole_cells():
    mask, grown = blob(), masks.grow(blob())
    for top in range(0, 150, 60):
        for left in range(0, 170, 40):
            cell = grown[0, top : top + 60, left : left + 40]
            assert (cell == mask[0, top : top + 60, left : left + 40].max()).all()


def test_the_box_is_the_figure_s():
    mask = blob()
    mask[0, 5, 160] = 200
    boxed = masks.box(mask)
    assert boxed.sum() // 255 == (100 - 5) * (161 - 45) and boxed[0, 5, 45] == boxed[0, 99, 160] == 255
    assert not masks.box(torch.zeros_like(mask)).any()


def test_erasing_draws_rectangles_of_the_stated_shapes():
    areas, ratios = [], []
    for seed in range(100):
        erased = masks.erase(torch.zeros(1, 150, 170, dtype=torch.uint8), generator(seed))[0] == 255
        rows, columns = int(erased.any(1).sum()), int(erased.any(0).sum())
        assert erased.sum() == rows * columns > 0  # one whole rectangle
        areas.append(rows * columns / (150 * 170))
        ratios.append(rows / columns)
    assert 0.19 < min(areas) < 0.25 and 0.4 < max(areas) < 0.51
    assert min(ratios) < 0.5 and max(ratios) > 1.5 and max(ratios) < 3.1


def test_one_change_in_the_released_order():
    """Grown, else erased (every second time), else boxed, else dilated: rates of 1 pick the first that is set."""
    mask, random = blob(), generator()
    assert torch.equal(masks.change(mask, random), mask)
    assert torch.equal(masks.change(mask, random, grown=1, erased=1), masks.grow(mask))
    assert torch.equal(masks.change(mask, random, boxed=1, dilation=21), masks.box(mask))
    wider = masks.change(mask, random, dilation=21)
    assert wider.sum() // 255 == (30 + 20) * (45 + 20)
    erased = [torch.equal(masks.change(mask, generator(seed), erased=1), mask) for seed in range(100)]
    assert 30 < sum(erased) < 70
    grown = [masks.change(mask, generator(seed), grown=0.33).sum() > mask.sum() for seed in range(100)]
    assert 15 < sum(grown) < 52


# -- sketches ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def sketch():
    image = torch.full((1, 128, 160), 255, dtype=torch.uint8)
    image[:, 20:110, 60:63] = 0
    image[:, 64:66, 10:150] = 30
    return image


def test_the_white_border_is_one_of_four_kinds():
    image, kinds = torch.zeros(1, 40, 60, dtype=torch.uint8), set()
    for seed in range(200):
        white = border.whiten_border(image, generator(seed), 10)[0] == 255
        rows, columns = white.all(1), white.all(0)
        assert torch.equal(white, rows[:, None] | columns)
        assert torch.equal(rows, rows.flip(0)) and torch.equal(columns, columns.flip(0))
        assert rows.sum() <= 20 and columns.sum() <= 20
        kinds.add((bool(rows.any()), bool(columns.any())))
    assert len(kinds) == 4
    assert (border.whiten_border(image, generator(1), 500) == 255).any()  # wider than the sketch


@pytest.mark.parametrize("name", lines.STYLES)
def test_styles_keep_the_form_and_draw_from_the_generator(name, sketch):
    before = sketch.clone()
    drawn = [lines.STYLES[name](sketch, generator(seed)) for seed in (0, 0, 1)]
    assert torch.equal(sketch, before)
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    assert drawn[0].dtype == torch.uint8 and drawn[0].shape == (3 if name == "trace" else 1, 128, 160)
    assert not torch.equal(drawn[0][:1], before)
    blank = torch.full_like(sketch, 255)
    assert (lines.STYLES[name](blank, generator()) == 255).all()  # nothing is drawn where nothing was


def test_what_each_style_does(sketch):
    ink = 255.0 - sketch.float()
    for seed in range(8):
        faint, grain, gaps, double, trace = (
            255.0 - lines.STYLES[name](sketch, generator(seed)).float()
            for name in ("faint", "grain", "gaps", "double", "trace")
        )
        share = faint[ink > 0] / ink[ink > 0]
        assert 0.25 * 0.6 - 0.01 < share.min() and share.max() < 0.81
        assert (grain[ink > 0] <= ink.max()).all() and 0.2 < grain.sum() / ink.sum() < 1.2
        assert (gaps <= ink).all() and 0.5 < gaps.sum() / ink.sum() < 1
        assert (double >= ink).all() and double.sum() > ink.sum()
        assert (trace >= ink).all()  # the lines stay on top
        marks = trace[:, (ink == 0)[0]]
        assert (marks.max(0).values > 0).any()
        colours = marks[:, marks.max(0).values > 0]
        assert ((colours.max(0).values - colours.min(0).values) > 30).all()  # coloured, none is grey


def test_restyling_gives_three_channels_whenever_marks_are_possible(sketch):
    assert torch.equal(lines.restyle(sketch, generator(), {}), sketch)
    shapes = {len(lines.restyle(sketch, generator(seed), {"trace": 0.5})) for seed in range(20)}
    assert shapes == {3}
    grey = next(
        s for seed in range(20) if torch.equal((s := lines.restyle(sketch, generator(seed), {"trace": 0.2}))[0], s[2])
    )
    assert torch.equal(grey[:1], sketch)


# -- in the data set ---------------------------------------------------------------------------------------------------

NEEDS = ("color", "sketch", "reference", "mask", "reference_mask", "regions")


def test_mirroring_mirrors_what_belongs_together(pictures):
    own = Data(folder=str(pictures), size=64, reference="self")
    plain, mirrored, half = (FolderDataset(own, NEEDS, augment=Augment(flip=rate)) for rate in (0.0, 1.0, 0.5))
    for position in range(4):
        ours, theirs = mirrored[position], plain[position]
        assert all(torch.equal(ours[kind], theirs[kind].flip(-1)) for kind in NEEDS)
    kinds = set()
    for position in range(24):
        ours, theirs = half[position], plain[position]
        sides = [torch.equal(ours[kind], theirs[kind]) for kind in ("color", "reference")]
        assert sides == [torch.equal(ours[kind], theirs[kind]) for kind in ("regions", "reference_mask")]
        kinds.add(tuple(sides))
    assert len(kinds) == 4  # picture and reference are drawn apart


def test_augmentations_are_functions_of_the_position_and_leave_each_other_alone(pictures):
    everything = Augment(0.5, 1.3, 0.3, 0.3, 0.3, 21, 20, 0.5, 0.5, 0.5, 0.5, 0.5)
    poses = Data(folder=str(pictures), size=64, reference="group", groups="names")
    dataset, again = (FolderDataset(poses, NEEDS, augment=everything) for _ in range(2))
    later = again[9]
    for position in (3, 9):
        ours = dataset[position]
    assert all(torch.equal(torch.as_tensor(ours[kind]), torch.as_tensor(later[kind])) for kind in ours)
    assert ours["sketch"].shape == (3, 64, 64)
    only, plain = (FolderDataset(poses, NEEDS, augment=Augment(sketch_faint=rate)) for rate in (1.0, 0.0))
    for position in range(4):
        ours, theirs = only[position], plain[position]
        assert all(torch.equal(ours[kind], theirs[kind]) for kind in NEEDS if kind != "sketch")
        assert not torch.equal(ours["sketch"], theirs["sketch"])
    assert torch.equal(only.plain()[1]["sketch"], plain[1]["sketch"])


def test_zoom_shows_a_part_of_the_picture(pictures):
    own = Data(folder=str(pictures), size=64, reference="self")
    zoomed = FolderDataset(own, ("color", "crop"), augment=Augment(zoom=2.0))
    shown = [zoomed[position]["crop"].tolist() for position in range(30)]
    assert all(crop[2] == crop[3] and 0.49 < crop[2] <= 1 for crop in shown)
    assert min(crop[2] for crop in shown) < 0.6 and max(crop[0] for crop in shown) > 0.1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"augment": {"flip": 1.5}}, "probability"),
        ({"augment": {"zoom": 0.5}}, "at least 1"),
        ({"augment": {"mask_dilation": 4}}, "odd"),
        ({"augment": {"sketch_border": -1}}, "at least 0"),
        ({"augment": {"flip": 0.5}, "data": {"cache": True}}, "cache_folder"),
        ({"augment": {"zoom": 1.5}, "data": {"cache": True}}, "decoded_folder"),
        ({"augment": {"zoom": 1.5}, "data": {"decoded_folder": "x"}}, "zoom = 1"),
        ({"data": {"bucket_step": 32}}, "multiple of 64"),
        ({"data": {"bucket_step": 64, "size": 512, "crop": 64}}, "one shape"),
        ({"data": {"bucket_step": 64, "bucket_ratio": 0.5}}, "at least 1"),
        ({"data": {"min_score": 5.5}}, "data.index"),
        ({"data": {"sketch_style": ["a"]}}, "sketch_styles"),
        ({"data": {"bucket_order": "released", "decoded_folder": "x"}}, "balanced"),
    ],
)
def test_bad_combinations_say_what_to_set(values, message):
    run = {"model": {"encoder": "e", "vae": "v"}, "augment": values.get("augment", {})}
    with pytest.raises(ConfigError, match=message):
        table.checked(config.build({**run, "data": {"folder": "f", **values.get("data", {})}}))


# -- decoding ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA", "P", "I;16", "1", "CMYK"])
def test_every_mode_becomes_eight_bit_colour(tmp_path, mode):
    values = np.tile(np.linspace(0, 255, 32).astype(np.uint8), (32, 1))
    if mode == "I;16":
        image = Image.fromarray(values.astype(np.uint16) * 257)
    else:
        image = Image.fromarray(np.stack([values] * 3, -1)).convert(mode, palette=Image.Palette.ADAPTIVE)
    file = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    image.save(file)
    read = decode.read_rgb(file)
    assert read.mode == "RGB" and read.size == (32, 32)
    if mode != "1":
        assert np.abs(np.asarray(read)[..., 0].astype(int) - values).max() <= 1


def test_transparency_in_a_palette_becomes_white(tmp_path):
    image = Image.new("P", (8, 8), 0)
    image.putpalette([200, 10, 10, 0, 0, 0])
    image.save(tmp_path / "a.png", transparency=0)
    assert decode.read_rgb(tmp_path / "a.png").getpixel((0, 0)) == (255, 255, 255)


def test_a_large_jpeg_decoded_small_is_the_picture(tmp_path):
    """The fast way (decoded at a quarter) against the plain one: nearly equal, and never smaller than asked."""
    x, y = np.meshgrid(np.linspace(0, 6, 1200), np.linspace(0, 9, 900))
    picture = np.stack([128 + 100 * np.sin(x), 128 + 100 * np.cos(y), 128 + 100 * np.sin(x + y)], -1).astype(np.uint8)
    Image.fromarray(picture).save(tmp_path / "a.jpg", quality=95)
    asked = []
    fast = decode.read_resized(tmp_path / "a.jpg", lambda size: asked.append(size) or (256, 192), decode.LANCZOS)
    assert asked == [(1200, 900)] and fast.shape == (192, 256, 3)
    plain = np.asarray(decode.read_rgb(tmp_path / "a.jpg").resize((256, 192), decode.LANCZOS))
    assert np.abs(fast.astype(int) - plain).max() <= 6 and np.abs(fast.astype(int) - plain).mean() < 1


def test_the_grey_of_a_sketch_is_the_rounded_mean():
    pixels = torch.randint(0, 256, (50, 40, 3), dtype=torch.uint8)
    expected = pixels.float().mean(-1).round().to(torch.uint8)
    assert np.array_equal(decode.mean_of_channels(pixels.numpy()), expected.numpy())


# -- the store of decoded pictures -------------------------------------------------------------------------------------


def test_a_run_with_decoded_pictures_sees_what_one_without_sees(pictures, tmp_path, monkeypatch):
    kinds = {"needs": NEEDS, "augment": Augment(flip=0.5, sketch_faint=0.5)}
    poses = Data(folder=str(pictures), size=128, reference="group", groups="names")
    stored = replace(poses, decoded_folder=str(tmp_path))
    plain, kept = FolderDataset(poses, **kinds), FolderDataset(stored, **kinds)
    first = [kept[position] for position in range(8)]
    again = FolderDataset(stored, **kinds)
    monkeypatch.setattr(decode, "read_resized", lambda *given: pytest.fail("decoded again"))
    second = [again[position] for position in range(8)]
    monkeypatch.undo()
    for position in range(8):
        for kind, value in plain[position].items():
            assert all(torch.equal(torch.as_tensor(value), torch.as_tensor(s[position][kind])) for s in (first, second))


def test_changed_files_and_sizes_have_stores_of_their_own(pictures, tmp_path):
    import shutil

    shutil.copytree(pictures, tmp_path / "data")
    store = tmp_path / "store"
    own = Data(folder=str(tmp_path / "data"), size=64, reference="self", decoded_folder=str(store))
    for size in (64, 128):
        FolderDataset(replace(own, size=size))[0]
    assert len(list(store.iterdir())) == 2
    Image.new("RGB", (64, 64), "red").save(tmp_path / "data/color/00_0.png")
    dataset = FolderDataset(own)
    number = next(p for p in range(8) if dataset.index_at(p) == 0)
    assert dataset[number]["color"][0].min() == 255
    assert len(list(store.iterdir())) == 3


def test_torn_records_and_full_disks(tmp_path, monkeypatch, caplog):
    values = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    store = DecodedStore(tmp_path, 5)
    assert store.get("color", 3) is None
    store.put("color", 3, values)
    store.put("mask", 4, values[..., 0])
    other = DecodedStore(tmp_path, 5)
    assert np.array_equal(other.get("color", 3), values) and np.array_equal(other.get("mask", 4), values[..., 0])
    other.put("color", 0, values)
    assert len(list(tmp_path.glob("data-*.bin"))) == 2  # one per writer
    content = bytearray((tmp_path / "data-0.bin").read_bytes())
    content[100] ^= 255
    (tmp_path / "data-0.bin").write_bytes(content)
    assert DecodedStore(tmp_path, 5).get("color", 3) is None
    (tmp_path / "data-0.bin").write_bytes(content[:50])
    assert DecodedStore(tmp_path, 5).get("color", 3) is None
    third = DecodedStore(tmp_path, 5)
    monkeypatch.setattr(third, "_new_file", lambda: (_ for _ in ()).throw(OSError("no space left")))
    third.put("color", 1, values)
    third.put("color", 1, values)
    assert third.get("color", 1) is None and caplog.text.count("no space left") == 1
