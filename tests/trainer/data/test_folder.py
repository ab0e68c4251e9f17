"""The folder data set: order, pairing, polarity, styles, and what it says of incomplete data."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from trainer.config import ConfigError, Data
from trainer.data import deform
from trainer.data.buckets import PositionSampler
from trainer.data.decode import cover, read_rgb
from trainer.data.folder import FolderDataset
from trainer.pictures import model_sketch


def test_every_epoch_is_another_permutation(pictures):
    dataset = FolderDataset(Data(folder=str(pictures), size=64))
    count = len(dataset)
    first, second = ([dataset.index_at(epoch * count + i) for i in range(count)] for epoch in (0, 1))
    assert sorted(first) == sorted(second) == list(range(8))
    assert first != second


def test_a_position_gives_the_same_sample_whatever_came_before(pictures):
    dataset = FolderDataset(Data(folder=str(pictures), size=64, reference="group", groups="names"), seed=3)
    later = dataset[13]
    for position in range(12):
        dataset[position]
    again = dataset[13]
    assert all(torch.equal(torch.as_tensor(later[k]), torch.as_tensor(again[k])) for k in later)


def test_group_references_are_other_pictures_of_the_same_group(pictures):
    dataset = FolderDataset(Data(folder=str(pictures), size=64, reference="group", groups="names"))
    for position in range(16):
        item = dataset[position]
        ours, theirs = (dataset.items[item[k]] for k in ("index", "reference_index"))
        assert ours.group == theirs.group and ours.stem != theirs.stem


def test_lines_are_plus_one_for_the_model(pictures):
    item = FolderDataset(Data(folder=str(pictures), size=64))[0]
    values = model_sketch(item["sketch"][None])
    assert values.shape == (1, 3, 64, 64)
    assert values.median() == -1 and values.max() == 1


def test_incomplete_pictures_are_reported_and_left_out(pictures, tmp_path):
    shutil.copytree(pictures, tmp_path / "data")
    (tmp_path / "data/sketch/00_0.png").unlink()
    (tmp_path / "data/reference/01_1.png").unlink()
    dataset = FolderDataset(Data(folder=str(tmp_path / "data"), size=64))
    assert len(dataset) == 6
    assert ["sketch/, e.g. 00_0" in p for p in dataset.problems].count(True) == 1
    assert ["reference/, e.g. 01_1" in p for p in dataset.problems].count(True) == 1


MASKS = ("color", "sketch", "reference", "mask", "reference_mask", "regions", "reference_regions")


@pytest.mark.parametrize("reference", ["folder", "group", "self"])
def test_masks_and_labels_belong_to_the_picture_and_to_its_reference(pictures, reference):
    """mask and regions are those of the picture, reference_* those of the chosen reference, whatever it is."""
    dataset = FolderDataset(Data(folder=str(pictures), size=64, reference=reference, groups="names"), MASKS)
    for position in range(8):
        item = dataset[position]
        ours, theirs = (dataset.items[item[key]].stem for key in ("index", "reference_index"))
        assert (ours == theirs) == (reference != "group")
        for kind, stem in (("mask", ours), ("reference_mask", theirs)):
            with Image.open(pictures / "mask" / f"{stem}.png") as mask:
                expected = torch.from_numpy(np.array(mask))[None]
            assert torch.equal(item[kind], expected) and item[kind].dtype == torch.uint8
            assert torch.equal(item[kind] > 0, item[kind.replace("mask", "regions")] > 0)


def test_a_mask_is_cut_and_scaled_like_its_picture(pictures, tmp_path):
    """A picture that is white where its mask is: after scaling and cutting they still agree, and masks stay 0..255."""
    for kind in ("color", "sketch", "reference", "mask", "reference_mask"):
        (tmp_path / kind).mkdir()
        picture = Image.new("L", (150, 100), 0)
        picture.paste(255, (60, 20, 120, 90))
        picture.save(tmp_path / kind / "wide.png")
    item = FolderDataset(Data(folder=str(tmp_path), size=64), MASKS[:5])[3]
    for color, mask in (("color", "mask"), ("reference", "reference_mask")):
        assert ((item[color][0].int() - item[mask][0].int()).abs() < 64).float().mean() > 0.99
    assert not torch.equal(item["mask"], item["reference_mask"])  # cut, squashed


def test_pictures_without_masks_are_left_out(pictures, tmp_path):
    shutil.copytree(pictures, tmp_path / "data")
    (tmp_path / "data/mask/02_1.png").unlink()
    dataset = FolderDataset(Data(folder=str(tmp_path / "data"), size=64, reference="group", groups="names"), MASKS[:5])
    assert len(dataset) == 7 and "no file in mask/, e.g. 02_1" in dataset.problems[0]
    shutil.rmtree(tmp_path / "data/mask")
    with pytest.raises(ConfigError, match="mask/ 0 files.*white on the figure"):
        FolderDataset(Data(folder=str(tmp_path / "data"), size=64, reference="group", groups="names"), MASKS[:5])
    with pytest.raises(ConfigError, match="the same command again"):
        shutil.rmtree(tmp_path / "data/reference_regions")
        FolderDataset(Data(folder=str(tmp_path / "data"), size=64), ("color", "reference_regions"))


def test_deform_bends_reference_and_its_mask_alike(pictures):
    own = Data(folder=str(pictures), size=64, reference="self")
    straight, bent = (FolderDataset(replace(own, deform=bend), MASKS) for bend in (0.0, 1.0))
    ours, again, before = bent[2], bent[2], straight[2]
    assert all(torch.equal(ours[k], again[k]) for k in MASKS)  # a pure function of the position
    assert all(torch.equal(ours[k], before[k]) for k in ("color", "sketch", "mask", "regions"))
    assert not torch.equal(ours["reference"], before["reference"])
    assert not torch.equal(ours["reference"], bent[3]["reference"])
    assert ((ours["reference_mask"] > 127) == (ours["reference_regions"] > 0)).float().mean() > 0.97
    assert set(ours["reference_regions"].unique().tolist()) <= {0, 1, 2}


def test_deform_moves_what_the_points_move():
    """No move gives the picture back; all points to the right move the picture right, and white comes in."""
    picture = torch.randint(0, 200, (3, 64, 64), dtype=torch.uint8)
    count = len(deform.control_points())
    same = deform.bend(picture, deform.sampling_grid(torch.zeros(count, 2), 64, 64), 255)
    assert (same.int() - picture.int()).abs().max() <= 1
    grid = deform.sampling_grid(torch.tensor([[2 * 8 / 63, 0.0]]).repeat(count, 1), 64, 64)
    moved = deform.bend(picture, grid, 255)
    assert (moved[..., 8:].int() - picture[..., :-8].int()).abs().max() <= 1
    assert (moved[..., :7] == 255).all()
    moves = deform.draw_moves(np.random.default_rng(0), 0.5)
    assert moves.shape == (count, 2) and 0.05 < moves.abs().max() <= 0.125


def test_missing_folder_says_how_to_make_one(tmp_path):
    with pytest.raises(ConfigError, match="demo-data.*demo-faces"):
        FolderDataset(Data(folder=str(tmp_path / "nothing"), size=64))


def test_damaged_picture_is_named(pictures, tmp_path):
    shutil.copytree(pictures, tmp_path / "data")
    for file in (tmp_path / "data/color").iterdir():
        file.write_bytes(b"not a picture")
    with pytest.raises(RuntimeError, match="cannot be read"):
        FolderDataset(Data(folder=str(tmp_path / "data"), size=64))[0]


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


def blank_set(root, *keys):
    for part in ("color", "sketch"):
        for key in keys:
            (root / part / key).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (64, 64), "white").save(root / part / f"{key}.png")
    return str(root)


def members(dataset):
    names = dataset.items.names
    return {tuple(names[int(n)] for n in dataset.groups.members(number)) for number in range(len(dataset))}


def test_numbered_pictures_of_strangers_are_no_group(tmp_path):
    """danbooru_1000.png, danbooru_1001.png, ...: one group only where name endings are asked for, and that is said."""
    folder = blank_set(tmp_path, *(f"danbooru_{number}" for number in range(1000, 1012)))
    dataset = FolderDataset(Data(folder=folder, size=64, reference="group"))
    assert len(dataset.groups) == 12 and len(dataset.groups.alone()) == 12
    assert "12 of 12 pictures are alone in their group and their own reference, e.g. danbooru_1000; put" in str(
        dataset.problems
    )
    by_names = FolderDataset(Data(folder=folder, size=64, reference="group", groups="names"))
    assert len(by_names.groups) == 1 and "all 12 pictures are one group" in str(by_names.problems)


def test_folders_are_groups_whatever_their_pictures_are_called(tmp_path):
    folder = blank_set(tmp_path, "anna/pose_01", "anna/smile", "bob/1", "bob/2", "anna")
    dataset = FolderDataset(Data(folder=folder, size=64, reference="group"))
    assert members(dataset) == {("anna/pose_01", "anna/smile"), ("bob/1", "bob/2"), ("anna",)}
    assert dataset.groups.summary(dataset.items.names) == (
        "3 groups, the largest of 2 pictures (e.g. anna/pose_01), 1 pictures alone"
    )


def test_the_index_names_groups_across_folders(tmp_path):
    folder = blank_set(tmp_path, "x/1", "y/2", "y/3", "4")
    entries = {"x/1.png": {"group": "anna"}, "y/2.png": {"group": "anna"}, "y/3.png": {}, "4.png": {"group": 7}}
    (tmp_path / "data_index").mkdir()
    (tmp_path / "data_index" / "all.json").write_text(json.dumps(entries))
    dataset = FolderDataset(Data(folder=folder, size=64, reference="group", index=("all",)))
    assert members(dataset) == {("x/1", "y/2"), ("y/3",), ("4",)}


def test_one_style_is_drawn_per_picture(pictures, tmp_path):
    shutil.copytree(pictures / "color", tmp_path / "color")
    for number, style in enumerate(("sketch/pencil", "sketch/clean", "sketch_trace")):
        (tmp_path / style).mkdir(parents=True)
        for file in list((pictures / "color").iterdir())[: 8 if number else 4]:
            Image.new("L", (64, 64), 50 * number).save(tmp_path / style / file.name)
    dataset = FolderDataset(Data(folder=str(tmp_path), size=64, reference="self"))
    assert dataset.styles == ["sketch/clean", "sketch/pencil", "sketch_trace"] and len(dataset) == 8
    drawn = {dataset[position]["sketch"][0, 0, 0].item() for position in range(64)}
    assert drawn == {0, 50, 100}
    only = FolderDataset(Data(folder=str(tmp_path), size=64, reference="self", sketch_styles=("pencil",)))
    assert len(only) == 4 and {only[p]["sketch"][0, 0, 0].item() for p in range(8)} == {0}
    both = FolderDataset(Data(folder=str(tmp_path), size=64, reference="self", sketch_styles=("pencil", "trace")))
    assert len(both) == 8 and {both[p]["sketch"][0, 0, 0].item() for p in range(64)} == {0, 100}
    with pytest.raises(ConfigError, match="has the styles clean, pencil, trace"):
        FolderDataset(Data(folder=str(tmp_path), size=64, reference="self", sketch_styles=("ink",)))
