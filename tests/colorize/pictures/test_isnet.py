"""ISNet, what is around segmentation networks, and the repairs of masks. The numbers are in the golden cases."""

import itertools

import pytest
import torch

from colorize.pictures import isnet, mask_edits, masks
from colorize.pictures.isnet import ISNet
from colorize.pictures.mask_edits import MaskEdits, edit
from tests.tiny import prefixed, randomised

TINY = {name: (2, 4) for name in isnet.STAGES}


@pytest.fixture(scope="module")
def weights():
    """State dict of an ISNet of 4 channels."""
    network = ISNet(TINY, stem=4)
    counters = {k: torch.tensor(0) for k in network.state_dict() if k.endswith("num_batches_tracked")}
    out = randomised(network) | counters
    return {k: v.abs() + 0.5 if k.endswith("running_var") else v for k, v in out.items()}


def number_of_parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


# -- the network -------------------------------------------------------------------------------------------------------


def test_published_size(golden_keys):
    with torch.device("meta"):
        network = ISNet()
    assert {k: v.shape for k, v in network.state_dict().items()} == {
        k: v.shape for k, v in golden_keys("isnet").items()
    }
    assert round(number_of_parameters(network) / 1e6, 1) == 44.0


@pytest.mark.parametrize("size", [(64, 64), (37, 90), (1, 1), (1, 70)])
def test_any_size(weights, size):
    network = ISNet.from_state_dict(weights)
    answers = network.logits(torch.rand(2, 3, *size))
    assert len(answers) == 6 and all(answer.shape == (2, 1, *size) for answer in answers)
    mask = network(torch.rand(1, 3, *size))
    assert mask.min() >= 0 and mask.max() <= 1


@pytest.mark.parametrize(
    ("prefix", "dtype"), [("", torch.float16), ("net.", torch.float32), ("module.net.", torch.float32)]
)
def test_layouts(weights, prefix, dtype):
    """Half precision files are computed in float32; the author's training file holds a second network."""
    stored = {k: v.to(dtype) if v.is_floating_point() else v for k, v in weights.items()}
    network = ISNet.from_state_dict(prefixed(prefix, stored) | {"gt_encoder.conv_in.weight": torch.ones(1)})
    assert all(p.dtype == torch.float32 for p in network.parameters()) and not network.training
    picture = torch.rand(1, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    expected = ISNet.from_state_dict(weights)(picture)
    assert (network(picture) - expected).abs().max() < (1e-6 if dtype == torch.float32 else 2e-2)


def test_batch_counters_may_be_missing(weights):
    network = ISNet.from_state_dict({k: v for k, v in weights.items() if not k.endswith("num_batches_tracked")})
    assert torch.isfinite(network(torch.rand(1, 3, 8, 8))).all()


def test_other_and_incomplete_files(weights):
    with pytest.raises(ValueError, match=r"no ISNet in this file; it holds model\.0\.weight"):
        ISNet.from_state_dict({"model.0.weight": torch.ones(1)})
    with pytest.raises(ValueError, match="stage4d is missing"):
        ISNet.from_state_dict({k: v for k, v in weights.items() if not k.startswith("stage4d.")})
    with pytest.raises(ValueError, match="lacks 2 tensors, for example side3.bias"):
        ISNet.from_state_dict({k: v for k, v in weights.items() if not k.startswith("side3.")})
    with pytest.raises(ValueError, match=r"side1.weight has the shape \(1, 9, 3, 3\), expected \(1, 4, 3, 3\)"):
        ISNet.from_state_dict(weights | {"side1.weight": torch.ones(1, 9, 3, 3)})


# -- around a network --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(40, 20), (20, 40), (16, 16), (1, 500), (500, 1), (1, 1)])
def test_the_authors_square(size):
    """Centred on black, in 0..1; the answer comes back at the picture's place and size."""
    fed = []

    def network(square):
        fed.append(square)
        return (square.mean(dim=1, keepdim=True) > 0).float()

    mask = isnet.character_mask(network, torch.full((1, 3, *size), 0.5), size=32)
    assert fed[0].shape == (1, 3, 32, 32) and set(fed[0].unique().tolist()) <= {0.0, 0.75}
    assert mask.shape == (1, 1, *size) and mask.allclose(torch.ones(1))
    rows, columns = (max(1, 32 * side // max(size)) for side in size)
    assert fed[0].ne(0).sum() == 3 * rows * columns


def test_saliency_threshold():
    mask = isnet.salient_mask(lambda square: square[:, :1] * 9, torch.rand(1, 3, 20, 30) * 2 - 1, 16, threshold=0.5)
    assert set(mask.unique().tolist()) <= {0.0, 1.0} and mask.shape == (1, 1, 20, 30)


# -- repairs -----------------------------------------------------------------------------------------------------------


def mask_of(*rows):
    """A mask from rows of digits: "0", "1", and "5" for a half."""
    return torch.tensor([[{"0": 0.0, "1": 1.0, "5": 0.5, "3": 0.3}[c] for c in row] for row in rows])[None]


def test_defaults_change_nothing():
    mask = torch.rand(2, 9, 7)
    assert torch.equal(edit(mask, MaskEdits()), mask)


def test_hard_edges():
    assert torch.equal(edit(mask_of("0351"), MaskEdits(0.4, "hard")), mask_of("0011"))
    assert torch.equal(edit(mask_of("0351"), MaskEdits(0.5, "hard")), mask_of("0001"))  # not above: background


def test_largest_parts():
    mask = mask_of("1100110", "1100010", "0000000", "1000000")
    assert torch.equal(mask_edits.keep_largest(mask, 1), mask_of("1100000", "1100000", "0000000", "0000000"))
    assert torch.equal(mask_edits.keep_largest(mask, 2), mask_of("1100110", "1100010", "0000000", "0000000"))
    assert torch.equal(mask_edits.keep_largest(mask, 3), mask)
    assert torch.equal(mask_edits.keep_largest(mask_of("10", "01"), 1), mask_of("10", "00"))  # corners do not connect


def test_soft_rims_go_with_their_part():
    mask = mask_of("31110000313")
    assert torch.equal(mask_edits.keep_largest(mask, 1), mask_of("31110000000"))


def test_holes():
    ring = mask_of("1111100", "1000100", "1010101", "1000100", "1111100")
    filled = mask_of("1111100", "1111100", "1111101", "1111100", "1111100")
    assert torch.equal(mask_edits.fill_holes(ring), filled)
    assert torch.equal(mask_edits.fill_holes(ring, 10.0), ring)  # the hole is 8 of 35 pixels
    assert torch.equal(mask_edits.fill_holes(ring, 23.0), filled)
    open_ring = mask_of("1111100", "1000000", "1111100")
    assert torch.equal(mask_edits.fill_holes(open_ring), open_ring)


def test_grow_and_shrink():
    dot = mask_of("00000", "00000", "00100", "00000", "00000")
    block = mask_of("00000", "01110", "01110", "01110", "00000")
    assert torch.equal(mask_edits.grow(dot, 1), block) and torch.equal(mask_edits.grow(block, -1), dot)
    assert mask_edits.grow(dot, 100).eq(1).all() and mask_edits.grow(dot, -1).eq(0).all()
    assert mask_edits.grow(torch.ones(1, 5, 5), -3).eq(1).all()  # the picture's edge takes nothing away
    soft = torch.rand(2, 11, 13)
    for pixels in (1, 2, 5):
        assert torch.equal(mask_edits.grow(soft, pixels), masks.dilate(soft, 2 * pixels + 1))
        assert torch.allclose(mask_edits.grow(soft, -pixels), 1 - masks.dilate(1 - soft, 2 * pixels + 1))


def test_feather_has_its_width():
    step = torch.zeros(1, 4, 80)
    step[..., 40:] = 1
    rim = mask_edits.feather(step, 16)[0, 0]
    assert rim[31] < 0.03 and rim[48] > 0.97 and 0.4 < rim[39] < 0.5 < rim[40] < 0.6


def test_every_repair_of_every_mask():
    """No mask, size or combination fails; the answer is a mask, and the mask that went in is left as it was."""
    shapes = [(1, 1, 1), (2, 1, 9), (1, 9, 1), (1, 33, 20)]
    kinds = [torch.zeros, torch.ones, torch.rand, lambda *s: torch.rand(*s).round()]
    for shape, kind in itertools.product(shapes, kinds):
        mask = kind(*shape)
        before = mask.clone()
        for values in itertools.product(("soft", "hard"), (0, 1, 3), (0.0, 2.0, 100.0), (-300, -1, 0, 2, 300), (0, 5)):
            edges, largest, holes, pixels, width = values
            out = edit(mask, MaskEdits(0.5, edges, largest, holes, pixels, width))
            assert out.shape == mask.shape and 0 <= out.min() and out.max() <= 1, (shape, values)
        assert torch.equal(mask, before)


def test_repairs_do_not_mix_the_batch():
    batch = torch.rand(3, 20, 30).round()
    edits = MaskEdits(0.5, "soft", 1, 5.0, 2, 4)
    for row in range(3):
        assert torch.allclose(edit(batch, edits)[row], edit(batch[row : row + 1], edits)[0], atol=1e-6)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"edges": "round"}, "edges is 'round'; choose one of soft, hard"),
        ({"threshold": 1.5}, "threshold is 1.5; it lies between 0 and 1"),
        ({"fill_holes": -1.0}, "fill_holes is -1.0; it lies between 0 and 100"),
        ({"largest": -1}, r"largest is -1; it is 0 \(off\) or more"),
        ({"feather": -2}, "feather is -2"),
    ],
)
def test_messages(values, text):
    with pytest.raises(ValueError, match=text):
        MaskEdits(**values)
