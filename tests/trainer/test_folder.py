"""The folder data set: order, pairing, polarity and what it says of incomplete data."""

import shutil

import pytest
import torch
from PIL import Image

from trainer.config import ConfigError
from trainer.data.folder import FolderDataset, PositionSampler, cover, read_rgb
from trainer.stages import model_sketch


def test_every_epoch_is_another_permutation(pictures):
    dataset = FolderDataset(str(pictures), 64)
    count = len(dataset)
    first, second = ([dataset.index_at(epoch * count + i) for i in range(count)] for epoch in (0, 1))
    assert sorted(first) == sorted(second) == list(range(8))
    assert first != second


def test_a_position_gives_the_same_sample_whatever_came_before(pictures):
    dataset = FolderDataset(str(pictures), 64, "group", seed=3)
    later = dataset[13]
    for position in range(12):
        dataset[position]
    again = dataset[13]
    assert all(torch.equal(torch.as_tensor(later[k]), torch.as_tensor(again[k])) for k in later)


def test_group_references_are_other_pictures_of_the_same_group(pictures):
    dataset = FolderDataset(str(pictures), 64, "group")
    for position in range(16):
        item = dataset[position]
        ours, theirs = (dataset.items[item[k]] for k in ("index", "reference_index"))
        assert ours.group == theirs.group and ours.stem != theirs.stem


def test_lines_are_plus_one_for_the_model(pictures):
    item = FolderDataset(str(pictures), 64)[0]
    values = model_sketch(item["sketch"][None])
    assert values.shape == (1, 3, 64, 64)
    assert values.median() == -1 and values.max() == 1


def test_incomplete_pictures_are_reported_and_left_out(pictures, tmp_path):
    shutil.copytree(pictures, tmp_path / "data")
    (tmp_path / "data/sketch/00_0.png").unlink()
    (tmp_path / "data/reference/01_1.png").unlink()
    dataset = FolderDataset(str(tmp_path / "data"), 64)
    assert len(dataset) == 6
    assert ["sketch/, e.g. 00_0" in p for p in dataset.problems].count(True) == 1
    assert ["reference/, e.g. 01_1" in p for p in dataset.problems].count(True) == 1


def test_missing_folder_says_how_to_make_one(tmp_path):
    with pytest.raises(ConfigError, match="demo-data"):
        FolderDataset(str(tmp_path / "nothing"), 64)


def test_damaged_picture_is_named(pictures, tmp_path):
    shutil.copytree(pictures, tmp_path / "data")
    for file in (tmp_path / "data/color").iterdir():
        file.write_bytes(b"not a picture")
    with pytest.raises(RuntimeError, match="cannot be read"):
        FolderDataset(str(tmp_path / "data"), 64)[0]


def test_transparent_pictures_become_white(tmp_path):
    Image.new("RGBA", (4, 4), (10, 20, 30, 0)).save(tmp_path / "clear.png")
    assert read_rgb(tmp_path / "clear.png").getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("size", [(64, 64), (100, 64), (30, 200), (1, 1)])
def test_cover_cuts_a_square_from_any_shape(size):
    assert cover(Image.new("RGB", size), 64).size == (64, 64)


def test_processes_share_every_batch_without_overlap():
    shares = [list(PositionSampler(2, 5, 3, rank, 2)) for rank in (0, 1)]
    positions = sorted(p for share in shares for batch in share for p in batch)
    assert positions == list(range(12, 30))
