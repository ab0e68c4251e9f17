"""The meter on ComfyUI's pictures: sizes, counts, polarity, report and heat map."""

import pytest
import torch

from colorize.pictures.entanglement_meter import NOISE, heat_map, read, report


def squares(seed, side=128, cells=8):
    """Flat squares in random colours, (1, side, side, 3)."""
    picture = torch.rand(1, cells, cells, 3, generator=torch.Generator().manual_seed(seed))
    return picture.repeat_interleave(side // cells, 1).repeat_interleave(side // cells, 2)


def drawing(side=128):
    sketch = torch.ones(1, side, side, 3)
    sketch[:, side // 2 : side // 2 + 2] = 0
    return sketch


def test_a_copied_reference_leaks_and_a_plain_result_does_not():
    plain = drawing()
    (copied,), _ = read(plain, squares(0), squares(0), plain)
    (clean,), _ = read(plain, plain, squares(0), plain)
    assert copied.leakage > 0.9 and copied.structure > 0.5 and abs(copied.without) < NOISE
    assert abs(clean.leakage) < NOISE and clean.structure == 0
    assert "shapes of the reference are in the result" in report([copied])
    text = report([clean, copied])
    assert text.startswith("Picture 1: leakage") and "no more than chance" in text and "Picture 2: leakage" in text
    assert "structure distance 0.000" in text


def test_the_heat_map_is_red_where_the_reference_s_edges_are():
    _, heat = read(drawing(), squares(0), squares(0))
    _, none = read(drawing(), drawing(), squares(0))
    assert heat.shape == (1, 128, 128, 3) and 0 <= heat.min() and heat.max() <= 1
    redness = (heat[..., 0] - heat[..., 1]).amax(0)
    assert redness[8].amax() > 0.5  # across the squares: their borders
    assert (none[..., 0] - none[..., 1]).max() < 0.01
    assert torch.equal(heat_map(torch.ones(1, 3, 4, 4), torch.zeros(1, 1, 4, 4)), torch.ones(1, 4, 4, 3))


def test_sizes_may_differ_and_the_reference_s_proportions_too():
    (small,), heat = read(drawing(64), squares(0), squares(0, 256)[:, :, :192])
    assert heat.shape == (1, 128, 128, 3) and -0.2 < small.leakage < 1
    _, reduced = read(drawing(64), torch.ones(1, 1024, 1024, 3), squares(0))
    assert reduced.shape == (1, 512, 512, 3)


def test_batches_and_polarity():
    results = torch.cat([squares(0), squares(1)])
    readings, heat = read(drawing(), results, torch.cat([squares(0), squares(0)]))
    assert len(readings) == len(heat) == 2
    assert readings[0].leakage > 0.9 > 0.3 > readings[1].leakage
    assert readings[0].structure is None and readings[0].without is None
    inverted, _ = read(1 - drawing(), results, squares(0))
    forced, _ = read(1 - drawing(), results, squares(0), polarity="light_on_dark")
    assert inverted == forced == readings


@pytest.mark.parametrize(
    "change, message",
    [
        ({"sketch": drawing().repeat(3, 1, 1, 1)}, "There are 3 pictures in sketch for 2 results"),
        ({"reference": squares(0).repeat(3, 1, 1, 1)}, "There are 3 pictures in reference for 2 results"),
        ({"sketch": drawing()[:, :96]}, "sketch is 128x96, the result has the proportions 128x128"),
        ({"without_reference": squares(0)[:, :64]}, "without_reference is 128x64"),
        ({"result": torch.zeros(2, 128, 128)}, "result has the shape"),
        ({"reference": torch.zeros(0, 8, 8, 3)}, "reference is empty"),
        ({"polarity": "sideways"}, "Polarity 'sideways' is unknown"),
    ],
)
def test_bad_input_says_what_to_do(change, message):
    good = {"sketch": drawing(), "result": squares(0).repeat(2, 1, 1, 1), "reference": squares(0)}
    with pytest.raises(ValueError, match=message):
        read(**good | change)


def test_grey_transparent_and_tiny_pictures_pass():
    (reading,), _ = read(torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1, 4), torch.rand(1, 5, 5, 1))
    assert reading.leakage == 0


def test_the_node_passes_its_inputs_on(pack):
    node = pack.module("nodes.entanglement").ColorizeEntanglementMeter
    leakage, text, heat = node.execute(drawing(), squares(0), squares(0), drawing()).result
    assert leakage > 0.9 and text.startswith("leakage") and heat.shape == (1, 128, 128, 3)
