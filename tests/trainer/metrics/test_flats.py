"""What evaluate-flats measures, on flats whose marks are known."""

import json

import numpy as np
import pytest

from colorize.pictures.palette import Entry, Palette
from trainer.__main__ import main
from trainer.commands.evaluate_flats import character, measure
from trainer.metrics import flats as measures
from trainer.world import TrueFlats, pose_layout, regions, true_flats
from trainer.world.appearance import Appearance
from trainer.world.materials import Material, region_table


@pytest.fixture(scope="module")
def one():
    return character(3, 192)


def test_true_flats_have_one_colour_per_material():
    look = Appearance.sample(5)
    flats: TrueFlats = true_flats(pose_layout(3, 0, "heldout"), look, 128)
    for material in np.unique(flats.materials):
        assert len(np.unique(flats.colours[flats.materials == material], axis=0)) == 1
    skin = flats.colours[flats.materials == Material.SKIN][0].astype(int)
    assert np.abs(skin - look.skin).max() <= 60  # its soft shading is a gradient
    labels = regions(pose_layout(3, 0, "heldout"), 128)
    table = region_table()[flats.materials * 8]
    assert (table == labels)[~flats.lines].all()  # the same places as the region map


def test_perfect_flats_have_full_marks(one):
    truth = one.truth
    assert measures.colour_error(truth.colours, truth)[0] == 0
    assert measures.region_accuracy(truth.materials.astype(np.int32), truth) == 1
    colours = np.unique(truth.colours.reshape(-1, 3), axis=0)
    palette = Palette(tuple(Entry(str(n), "#{:02x}{:02x}{:02x}".format(*c)) for n, c in enumerate(colours.tolist())))
    codes = (truth.colours.astype(int) * [65536, 256, 1]).sum(axis=2)
    entries = np.searchsorted((colours.astype(int) * [65536, 256, 1]).sum(axis=1), codes)
    assert measures.palette_accuracy(entries, palette, truth) == (1, 1, 1)


def test_what_the_palette_does_not_have_counts_apart(one):
    """Two entries, of which one is the figure's commonest colour and the other nobody's: all else is not shown."""
    truth = one.truth
    colours, counts = np.unique(truth.colours[truth.away], axis=0, return_counts=True)
    main = colours[counts.argmax()]
    palette = Palette((Entry("main", "#{:02x}{:02x}{:02x}".format(*main.tolist())), Entry("none", "#00ff00")))
    share = counts.max() / counts.sum()
    for entry, right in ((0, 1), (1, 0)):
        whole, where_shown, shown = measures.palette_accuracy(np.full(truth.materials.shape, entry), palette, truth)
        assert where_shown == right and share <= shown < 1 and 0 < whole < 1
    assert np.isnan(
        measures.palette_accuracy(np.zeros(truth.materials.shape, int), Palette(palette.entries[1:]), truth)[1]
    )


def test_results_vote_on_a_character(one):
    truth = one.truth.colours
    wrong = np.roll(truth, 1, axis=2)
    alone, together = measure(one, wrong), measure(one, np.stack([truth, wrong, truth]))
    assert together["locked all"] < 0.5 * alone["locked all"] and together["palette"] > alone["palette"] + 0.2
    assert np.isclose(together["soft all"], alone["soft all"] / 3)


def test_wrong_flats_lose_marks_where_they_are_wrong(one):
    truth = one.truth
    wrong = truth.colours.copy()
    wrong[truth.figure] = 255 - wrong[truth.figure]
    everything, figure, background = measures.colour_error(wrong, truth)
    assert figure > everything > background == 0
    assert measures.region_accuracy(np.zeros(truth.materials.shape, np.int32), truth) < 0.9


def test_a_true_picture_gives_good_flats_and_hints_mend_a_bad_one(one):
    row = measure(one, one.truth.colours)
    assert row["flats all"] < 2 and row["medians all"] < 3 and row["regions"] > 0.93 and row["palette"] > 0.7
    grey = np.full_like(one.truth.colours, 128)
    row = measure(one, grey, hints=3)
    errors = [row[f"hints {number}"] for number in range(4)]
    assert errors[3] < errors[0]


def test_command_reads_results_and_writes_rows(tmp_path, capsys):
    from PIL import Image

    for index in range(2):
        Image.fromarray(character(index, 128).truth.colours).save(tmp_path / f"{index:05d}.png")
    arguments = ["--results", str(tmp_path), "--count", "2", "--size", "128", "--model-size", "128"]
    assert main(["evaluate-flats", *arguments, "--json", str(tmp_path / "rows.json")]) == 0
    assert "flats / soft" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "rows.json").read_text(encoding="utf-8"))) == 2
    assert main(["evaluate-flats", *arguments, "--votes", "2"]) == 2  # the further results are not there
    for index in range(2):
        Image.fromarray(character(index, 128).truth.colours).save(tmp_path / f"{index:05d}_1.png")
    assert main(["evaluate-flats", *arguments, "--votes", "2"]) == 0
    assert main(["evaluate-flats", *arguments, "--votes", "0"]) == 2
    assert main(["evaluate-flats", *arguments[:-4], "--count", "3", "--size", "128", "--model-size", "128"]) == 2
    assert "--checkpoint and --encoder" in capsys.readouterr().err
    assert main(["evaluate-flats", "--model-size", "100"]) == 2
