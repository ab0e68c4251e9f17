"""References with bystanders and shapes: what changes, what does not, and who is in them."""

import numpy as np
import pytest

from trainer.world import (
    REGION_NAMES,
    Appearance,
    Layout,
    LineStyle,
    crowded,
    pair,
    regions,
    render,
    seeds_of,
)
from trainer.world.crowd import Crowd, stepped_back

SIZE = 96


def region(name: str) -> int:
    return REGION_NAMES.index(name)


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
