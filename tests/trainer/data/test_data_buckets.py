"""Aspect buckets: tables, assignment, the order of batches, and the released collate's choice."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from trainer.config import ConfigError, Data
from trainer.data import buckets, decode
from trainer.data.buckets import PositionSampler
from trainer.data.folder import FolderDataset

RELEASED_XL = {(1024, 1024)} | {
    canvas
    for short, long in (
        *((992, 1056), (960, 1088), (928, 1120), (896, 1152), (864, 1184), (832, 1216), (800, 1248)),
        *((768, 1280), (736, 1312)),
    )
    for canvas in ((short, long), (long, short))
}
RELEASED_V1 = {(768, 768), (704, 832), (832, 704), (896, 640), (640, 896), (960, 576), (576, 960)}


def test_the_rule_gives_the_released_tables():
    assert set(buckets.table(1024, 32, 1.8)) == RELEASED_XL
    assert set(buckets.table(768, 64, 1.7)) == RELEASED_V1


@pytest.mark.parametrize(("size", "step", "ratio"), [(512, 64, 2.0), (1024, 64, 3.0), (64, 64, 1.0)])
def test_a_table_holds_multiples_no_larger_than_the_square(size, step, ratio):
    table = buckets.table(size, step, ratio)
    assert (size, size) in table and len(set(table)) == len(table)
    for height, width in table:
        assert height % step == 0 and width % step == 0 and height * width <= size * size
        assert max(height, width) <= ratio * min(height, width) and (width, height) in table


def test_a_step_that_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="does not divide"):
        buckets.table(512, 96)


def test_every_picture_goes_to_the_bucket_of_the_closest_ratio():
    random = np.random.default_rng(0)
    canvases = buckets.table(512, 64)
    width, height = random.integers(50, 3000, (2, 500))
    for chosen, w, h in zip(buckets.nearest(width, height, canvases), width, height):
        ratios = [abs(np.log(columns / rows) - np.log(w / h)) for rows, columns in canvases]
        assert ratios[chosen] == pytest.approx(min(ratios))
    assert canvases[buckets.nearest(np.array([0]), np.array([700]), canvases)[0]] == (512, 512)


# -- order -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def order():
    random = np.random.default_rng(1)
    return buckets.BucketOrder(
        random.integers(0, 4, 101).astype(np.uint8), [(64, 64 * n) for n in (1, 2, 3, 4, 5)], 8, 3
    )


def test_an_epoch_shows_every_picture_in_batches_of_one_bucket(order):
    for epoch in (0, 1):
        rows = []
        for batch in range(order.batches):
            spots = [order.at((epoch * order.batches + batch) * 8 + place) for place in range(8)]
            assert len({spot.canvas for spot in spots}) == 1
            rows += [spot.row for spot in spots]
        assert set(rows) == set(range(101))
        assert len(rows) - 101 < 4 * 8  # repeats fill the last batch of each bucket
    assert not np.array_equal(order.epoch(0), order.epoch(1))


def test_the_order_depends_on_position_only(order):
    spots = [order.at(position) for position in range(300)]
    again = buckets.BucketOrder(order._buckets, order.canvases, 8, 3)
    assert [again.at(position) for position in reversed(range(300))] == spots[::-1]


def test_two_processes_see_the_batches_of_one(order):
    whole = [[order.at(p).row for p in batch] for batch in PositionSampler(0, 6, 8)]
    halves = [[order.at(p).row for p in batch] for rank in (0, 1) for batch in PositionSampler(0, 6, 4, rank, 2)]
    assert [first + second for first, second in zip(halves[:6], halves[6:])] == whole


def test_another_picture_is_of_the_same_bucket(order):
    draw = np.random.default_rng(0)
    for position in range(0, 100, 7):
        spot = order.at(position)
        assert order._buckets[order.another(spot, draw)] == order._buckets[spot.row]


# -- the released sampler and collate ----------------------------------------------------------------------------------


def test_released_batches_keep_orientations_apart_and_are_whole():
    random = np.random.default_rng(2)
    width, height = random.integers(500, 600, (2, 90))
    width[:9] = height[:9]
    batches = buckets.released_batches(width, height, 4, seed=42)
    assert len(np.unique(batches)) == batches.size
    for batch in batches:
        assert len({np.sign(int(width[row]) - int(height[row])) for row in batch}) == 1
    assert np.array_equal(batches, buckets.released_batches(width, height, 4, seed=42))
    assert not np.array_equal(batches, buckets.released_batches(width, height, 4, seed=43))


@pytest.mark.parametrize("seed", range(6))
def test_the_released_canvas_is_covered_by_every_picture(seed):
    """The chosen canvas is the closest allowed one (written out), and pictures whose short side fits reach its end."""
    random = np.random.default_rng(seed)
    canvases = buckets.table(1024, 32, 1.8)
    sizes = [
        (int(short), int(short * ratio))
        for short, ratio in zip(random.integers(600, 900, 5), random.uniform(1.05, 2, 5))
    ]
    for wide in (True, False):
        batch = sizes if wide else [(w, h) for h, w in sizes]
        (canvas,) = buckets.released_canvases(batch, canvases)
        least = min(max(size) / min(size) for size in batch)
        best = None
        for height, width in canvases:
            short, long = (height, width) if wide else (width, height)
            allowed = short == long or (short < long and long <= int(least * short) - 2)
            if allowed and (best is None or abs(long / short - least) < best):
                best = abs(long / short - least)
        assert abs(max(canvas) / min(canvas) - least) == best
        for size in batch:
            width, height = decode.covering(size[::-1], canvas)
            assert (height if wide else width) == min(canvas)
            assert width >= canvas[1] and height >= canvas[0]


def test_square_batches_may_take_any_square():
    assert buckets.released_canvases([(9, 9), (9, 9)], [(64, 64), (64, 96), (32, 32)]) == [(64, 64), (32, 32)]
    with pytest.raises(ConfigError, match="add a square one"):
        buckets.released_canvases([(90, 100)], [(64, 128)])


def test_the_released_order_needs_one_whole_batch():
    sides = np.array([10, 20, 30]), np.array([30, 20, 10])
    with pytest.raises(ConfigError, match="smaller optimizer.batch"):
        buckets.ReleasedOrder(*sides, [(64, 64)], 2, 0)


# -- cuts --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("canvas", [(64, 64), (64, 128), (96, 32)])
@pytest.mark.parametrize("size", [(100, 70), (63, 200), (64, 64), (1, 1), (640, 639)])
@pytest.mark.parametrize("zoom", [1.0, 1.3])
def test_a_covering_picture_is_the_smallest_that_covers(size, canvas, zoom):
    rows, columns = (round(side * zoom) for side in canvas)
    width, height = decode.covering(size, canvas, zoom)
    assert width >= columns and height >= rows and (width == columns or height == rows)
    scale = max(columns / size[0], rows / size[1])
    assert abs(width - scale * size[0]) <= 1 and abs(height - scale * size[1]) <= 1
    for place in ((0, 0), (0.5, 0.5), (1, 1)):
        left, top = decode.corner((width, height), canvas, place)
        assert 0 <= left <= width - canvas[1] and 0 <= top <= height - canvas[0]


@pytest.fixture
def shapes(tmp_path):
    """Twelve pictures of three shapes whose colour tells their place: red grows to the right, green downwards."""
    for kind in ("color", "sketch", "mask"):
        (tmp_path / kind).mkdir()
    for number in range(12):
        width, height = ((180, 100), (100, 180), (120, 120))[number % 3]
        x, y = np.meshgrid(np.linspace(0, 250, width), np.linspace(0, 250, height))
        Image.fromarray(np.stack([x, y, 0 * x], -1).astype(np.uint8)).save(tmp_path / "color" / f"{number:02d}.png")
        Image.fromarray(np.where(x > 125, 255, 0).astype(np.uint8)).save(tmp_path / "mask" / f"{number:02d}.png")
        Image.fromarray(x.astype(np.uint8)).save(tmp_path / "sketch" / f"{number:02d}.png")
    return tmp_path


NEEDS = ("color", "sketch", "mask", "reference", "score", "size", "crop")


def in_buckets(folder, needs=("color", "sketch", "reference"), **data):
    """The pictures as batches of four of one shape."""
    own = Data(folder=str(folder), size=128, reference="self", bucket_step=32, bucket_ratio=2.0, **data)
    return FolderDataset(own, needs, batch=4)


@pytest.mark.parametrize("order", ["balanced", "released"])
def test_batches_have_one_shape_and_parts_stay_together(shapes, order):
    dataset = in_buckets(shapes, NEEDS, bucket_order=order)
    seen = set()
    for batch in PositionSampler(0, 6, 4):
        samples = torch.utils.data.default_collate([dataset[position] for position in batch])
        height, width = samples["color"].shape[-2:]
        assert height % 32 == 0 and width % 32 == 0 and samples["reference"].shape[-2:] == (128, 128)
        assert samples["sketch"].shape == samples["mask"].shape == (4, 1, height, width)
        assert (samples["color"][:, :1].int() - samples["sketch"].int()).abs().max() <= 6
        assert ((samples["color"][:, :1] > 125) == (samples["mask"] > 127)).float().mean() > 0.97
        seen.add((height, width))
    assert len(seen) == 3


def test_squares_and_buckets_do_not_share_pictures_in_memory(shapes):
    """Regression: with data.cache a sample sheet took pictures of the buckets' sizes, and training took squares."""
    dataset = in_buckets(shapes, cache=True)
    squares = dataset.plain(squares=True).whole()
    for position in range(24):
        bucket = dataset[position]["color"].shape[-2:]
        assert bucket == dataset.order.at(position).canvas
        assert squares[position]["color"].shape[-2:] == squares[position]["sketch"].shape[-2:] == (128, 128)


def test_size_and_crop_say_what_is_shown(shapes):
    dataset = in_buckets(shapes, NEEDS)
    for position in range(12):
        sample = dataset[position]
        width, height = dataset.items[sample["index"]].size
        assert sample["size"].tolist() == [height, width, min(sample["color"].shape[-2:])] and sample["score"] == 6
        top, left, rows, columns = sample["crop"].tolist()
        red, green = (sample["color"][channel].float() / 250 for channel in (0, 1))
        assert red.mean() == pytest.approx(left + columns / 2, abs=0.02)
        assert green.mean() == pytest.approx(top + rows / 2, abs=0.02)


def test_sizes_are_measured_once_and_again_when_a_file_changes(shapes, monkeypatch):
    first = in_buckets(shapes)
    with monkeypatch.context() as patch:
        patch.setattr("trainer.data.listing._measured", lambda *given: pytest.fail("measured again"))
        assert in_buckets(shapes)[5]["index"] == first[5]["index"]
    Image.new("RGB", (40, 400)).save(shapes / "color" / "00.png")
    assert in_buckets(shapes).items[0].size == (40, 400)


def test_small_pictures_and_unknown_sizes_are_told(shapes):
    (shapes / "color" / "00.png").write_bytes(b"damaged")
    dataset = in_buckets(shapes, min_side=110)
    assert len(dataset) == 5  # four of 120 x 120, and the one nobody could measure
    assert any("7 pictures are below" in problem for problem in dataset.problems)
    assert any("1 pictures are of unknown size" in problem for problem in dataset.problems)
    assert all(dataset[position]["index"] != 0 for position in range(8))  # replaced


def test_an_index_gives_the_sizes(shapes):
    entries = {f"{n:02d}.png": {"width": 999, "height": 500, "aesthetic_score": 7} for n in range(12)}
    (shapes / "all.json").write_text(json.dumps(entries))
    dataset = in_buckets(shapes, NEEDS, index=("all",))
    assert dataset[0]["color"].shape == (3, 96, 160)
    assert dataset[0]["score"] == 7


def test_buckets_with_a_common_shorter_side():
    assert buckets.table(256, 64, 1.75, "short") == (
        (256, 256), (256, 320), (256, 384), (256, 448), (320, 256), (384, 256), (448, 256)
    )  # fmt: skip
