"""A shot through the nodes: the batch of drawings, one coloured key, and what comes out."""

import pytest
import torch

from tests.drawings import box, drawing

COAT, SKY = (180, 40, 60), (200, 220, 250)


@pytest.fixture(scope="module")
def lines():
    return torch.cat([drawing([box(40 + step, 50, 110 + step, 140)]) for step in (0, 6, 12)])


@pytest.fixture(scope="module")
def key():
    picture = torch.tensor(SKY).float().expand(1, 200, 240, 3).clone()
    picture[:, 50:141, 40:111] = torch.tensor(COAT).float()
    return picture / 255


@pytest.fixture(scope="module")
def regions(pack, lines):
    return pack.run("ColorizeFindRegions", lines=lines)[0]


@pytest.fixture(scope="module")
def flats(pack, regions, key):
    soft = torch.stack([torch.roll(key[0], step, 1) * fade for step, fade in ((0, 1.0), (6, 0.9), (12, 0.8))])
    return pack.run("ColorizeFlattenColors", image=soft, regions=regions, shading="none")[0]


def levels(image) -> set[tuple[int, ...]]:
    return {tuple(row) for row in (image * 255).round().int().reshape(-1, 3).unique(dim=0).tolist()}


def test_a_shot_has_the_colours_of_its_key_alone(pack, flats, key):
    _, before, _ = pack.run("ColorizeLockToPalette", flats=flats, palette=flats.flats[2].palette)
    batch, image, shaded, unsure, flicker, report, sheet = pack.run("ColorizeCarryColors", flats=flats, key=key)
    assert levels(image) == {COAT, SKY} != levels(before) and torch.equal(image, shaded)
    assert image.shape == (3, 200, 240, 3) and unsure.shape == flicker.shape == (3, 200, 240)
    assert unsure.max() == flicker.max() == 0 and report == "All regions of 3 frames have the key's colours."
    assert len(batch.flats) == 3 and sheet.shape[0] == 1 and sheet.shape[1] > 200 and sheet.max() <= 1


def test_a_hint_is_carried(pack, flats, key):
    hints, mask = torch.zeros(1, 200, 240, 3), torch.ones(1, 200, 240)
    hints[:, 90:96, 80:86, 1], mask[:, 90:96, 80:86] = 1, 0
    image = pack.run("ColorizeCarryColors", flats=flats, key=key, hints=hints, hints_mask=mask, hints_frame=1)[1]
    assert levels(image[:1]) == {COAT, SKY} and levels(image[1:]) == {(0, 255, 0), SKY}


def test_a_key_drawing_of_its_own(pack, flats, lines, key):
    own = pack.run("ColorizeFindRegions", lines=lines[:1])[0]
    image = pack.run("ColorizeCarryColors", flats=flats, key=key, key_frame=0, key_regions=own)[1]
    assert levels(image) == {COAT, SKY}


def test_matches_are_shown_in_the_key_s_colours(pack, regions):
    shown = pack.run("ColorizeMatchRegions", regions=regions)[0]
    assert shown.shape == (3, 200, 240, 3) and shown.min() >= 0 and shown.max() <= 1
    assert torch.equal(shown[0, 90, 70], shown[2, 90, 90]) and not torch.equal(shown[0, 90, 70], shown[0, 10, 10])
    with pytest.raises(ValueError, match="numbered 0 to 2"):
        pack.run("ColorizeMatchRegions", regions=regions, key_frame=5)


def test_figures_are_named_once(pack, regions):
    mask = torch.zeros(1, 200, 240)
    mask[:, 55:135, 45:105] = 1
    found = pack.run("ColorizeFollowFigures", regions=regions, mask_1=mask, mask_3=1 - mask)
    assert len(found) == 5 and all(one.shape == (3, 200, 240) for one in found)
    first, second, third, _, unsure = found
    assert first[2, 90, 90] == third[2, 10, 10] == 1 and first[2, 10, 10] == third[2, 90, 90] == 0
    assert second.max() == unsure.max() == 0
    with pytest.raises(ValueError, match="different sizes"):
        pack.run("ColorizeFollowFigures", regions=regions, mask_1=mask, mask_2=mask[:, :100])


def test_noise_for_a_shot_goes_to_core_s_sampler(pack, lines):
    sketch = 1 - lines
    (noise,) = pack.run("ColorizeShotNoise", sketch=sketch, noise_seed=2**64 - 1, key_frame=1)
    drawn = noise.generate_noise({"samples": torch.zeros(3, 4, 25, 30)})
    assert drawn.shape == (3, 4, 25, 30) and noise.seed == 2**64 - 1 and 0.9 < float(drawn.std()) < 1.1
    assert torch.equal(drawn, noise.generate_noise({"samples": torch.ones(3, 4, 25, 30)}))
    assert not torch.equal(drawn[0], drawn[1])
    with pytest.raises(ValueError, match="3 sketches for 2 latents"):
        noise.generate_noise({"samples": torch.zeros(2, 4, 25, 30)})
    with pytest.raises(ValueError, match="sketch output of Prepare Sketch"):
        pack.run("ColorizeShotNoise", sketch=lines)
