"""The trainer's measures: right on cases whose answer is known, and against slow literal forms."""

import itertools
import math

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from trainer.config import ConfigError
from trainer.metrics import clip, frechet, intervals, similarity
from trainer.metrics.edges import edge_f1
from trainer.metrics.regions import region_errors, shown_regions

# -- regions and edges -------------------------------------------------------------------------------------------------


def test_region_error_is_zero_for_the_truth_and_grows_with_the_colour():
    truth, regions = torch.zeros(1, 3, 32, 32), torch.zeros(1, 1, 32, 32, dtype=torch.uint8)
    regions[..., 16:] = 1
    nearly, wrong = truth.clone(), truth.clone()
    nearly[:, 0, :, 16:] += 0.1
    wrong[:, 0, :, 16:] += 0.8
    errors = [region_errors(picture, truth, regions, 3)[0] for picture in (truth, nearly, wrong)]
    assert errors[0][0] == errors[0][1] == errors[1][0] == 0
    assert 0 < errors[1][1] < errors[2][1]
    assert torch.isnan(errors[0][2])  # the region is not in the picture


def test_white_and_black_are_a_hundred_apart():
    regions = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    error = region_errors(torch.ones(1, 3, 8, 8), -torch.ones(1, 3, 8, 8), regions, 1)
    assert torch.allclose(error, torch.tensor([[100.0]]), atol=0.1)


def test_a_region_is_shown_when_enough_of_it_is_there():
    names = ("background", "hair", "lines")
    labels = torch.zeros(2, 1, 64, 64, dtype=torch.uint8)
    labels[0, 0, 0, :4] = 1  # 64 pixels of 256 x 256 are 4 of 64 x 64
    labels[1, 0, 0, :3] = 1
    labels[:, 0, 8:] = 2
    assert shown_regions(labels, names).tolist() == [[True, True, False], [True, False, False]]


def test_edge_f1_knows_right_missing_and_invented_edges():
    sketch = torch.ones(1, 1, 64, 64)
    sketch[..., 31:33] = -1
    right = sketch.expand(-1, 3, -1, -1)
    flat = torch.zeros(1, 3, 64, 64)
    invented = right.clone()
    invented[:, :, 8:10] = -1
    assert edge_f1(right, sketch) > 0.99
    assert edge_f1(flat, sketch) == 0
    assert 0.5 < edge_f1(invented, sketch) < 0.9


# -- similarity --------------------------------------------------------------------------------------------------------


def noise(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_psnr_is_the_formula():
    truth = noise(2, 3, 16, 16)
    result = truth * 0.8
    literal = [-10 * math.log10((((r - t) / 2) ** 2).mean().item()) for r, t in zip(result, truth)]
    assert torch.allclose(similarity.psnr(result, truth), torch.tensor(literal), atol=1e-4)


def test_one_scale_of_ms_ssim_is_ssim_window_by_window():
    """Wang et al. 2004, Eq. 13, with a Gaussian window (sigma 1.5) around every pixel, borders mirrored."""
    truth, result = noise(1, 3, 12, 12), noise(1, 3, 12, 12, seed=1) * 0.5 + noise(1, 3, 12, 12) * 0.5
    taps = torch.exp(-((torch.arange(11.0) - 5) ** 2) / (2 * 1.5**2))
    window = torch.outer(taps, taps) / taps.sum() ** 2
    wide = [torch.nn.functional.pad((picture + 1) / 2, (5, 5, 5, 5), mode="reflect")[0] for picture in (result, truth)]
    values = []
    for channel, top, left in itertools.product(range(3), range(12), range(12)):
        x, y = (picture[channel, top : top + 11, left : left + 11] for picture in wide)
        mx, my = (window * x).sum(), (window * y).sum()
        vx, vy = (window * x * x).sum() - mx**2, (window * y * y).sum() - my**2
        cov = (window * x * y).sum() - mx * my
        c1, c2 = 0.01**2, 0.03**2
        values.append((2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2)))
    assert torch.allclose(similarity.ms_ssim(result, truth), torch.stack(values).mean()[None], atol=1e-4)


def test_ms_ssim_falls_with_the_difference_and_takes_the_scales_that_fit():
    truth = noise(2, 3, 176, 176)
    same, near, far = (similarity.ms_ssim(truth + d * noise(2, 3, 176, 176, seed=2), truth) for d in (0, 0.3, 1))
    assert torch.allclose(same, torch.ones(2), atol=1e-4) and (near < same).all() and (far < near).all()
    assert [similarity.scales_for(side) for side in (11, 20, 21, 64, 160, 161, 512)] == [1, 1, 2, 3, 4, 5, 5]
    with pytest.raises(ConfigError, match="at least 11 pixels, not 8"):
        similarity.ms_ssim(truth[..., :8, :8], truth[..., :8, :8])
    with pytest.raises(ValueError, match="cannot be compared"):
        similarity.psnr(truth, truth[:1])


def test_without_torchmetrics_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torchmetrics.functional", None)
    with pytest.raises(ConfigError, match="pip install"):
        similarity.psnr(noise(1, 3, 16, 16), noise(1, 3, 16, 16))


# -- Frechet distance --------------------------------------------------------------------------------------------------


def literal_distance(ours, theirs):
    """Eq. 6 of the FID paper; the trace of the root from the eigenvalues of C1 C2."""
    first, second = ours.double(), theirs.double()
    c1, c2 = torch.cov(first.T), torch.cov(second.T)
    root = torch.linalg.eigvals(c1 @ c2).real.clamp_min(0).sqrt().sum()
    return float((first.mean(0) - second.mean(0)).square().sum() + c1.trace() + c2.trace() - 2 * root)


@pytest.mark.parametrize("rows, columns", [(40, 6), (7, 12), (12, 12)])
def test_frechet_distance_is_the_paper_s(rows, columns):
    ours, theirs = torch.randn(rows, columns), torch.randn(rows + 3, columns) @ torch.randn(columns, columns) + 1
    assert math.isclose(frechet.frechet_distance(ours, theirs), literal_distance(ours, theirs), rel_tol=1e-5)


def test_frechet_distance_of_one_feature_and_of_equal_sets():
    ours, theirs = torch.randn(200, 1), torch.randn(150, 1) * 3 + 2
    expected = (ours.mean() - theirs.mean()) ** 2 + (ours.std() - theirs.std()) ** 2
    assert math.isclose(frechet.frechet_distance(ours, theirs), float(expected), rel_tol=1e-4)
    assert abs(frechet.frechet_distance(ours, ours)) < 1e-9
    with pytest.raises(ValueError, match="two or more"):
        frechet.frechet_distance(ours[:1], theirs)


@pytest.mark.parametrize("rows, columns, chunk", [(90, 6, 7), (9, 12, 2), (64, 16, 64)])
def test_moments_of_chunks_are_those_of_the_whole(rows, columns, chunk):
    """Read in pieces, from the disk say, and never with more than D rows kept."""
    ours, theirs = torch.randn(rows, columns) + 5, torch.randn(rows, columns) * 2
    pieces = frechet.Rows(lambda: iter(ours.split(chunk)))
    assert math.isclose(frechet.frechet_distance(pieces, theirs), literal_distance(ours, theirs), rel_tol=1e-5)
    assert len(frechet._Moments.of(pieces).factor) <= columns and pieces.count() == rows
    assert frechet.frechet_interval(pieces, theirs, 5) == frechet.frechet_interval(ours, theirs, 5)


def test_frechet_interval_encloses_the_distance():
    ours, theirs = torch.randn(60, 4), torch.randn(60, 4) + 1
    low, high = frechet.frechet_interval(ours, theirs)
    assert low < frechet.frechet_distance(ours, theirs) < high


def test_the_inception_of_fid_pools_otherwise_than_torchvision_s(tmp_path):
    from torchvision.models.inception import Inception3, InceptionA

    torch.manual_seed(0)
    tensors = {k: v.half() for k, v in Inception3(1008, aux_logits=False, init_weights=False).state_dict().items()}
    save_file(tensors, tmp_path / "fid.safetensors")
    features, name = frechet.inception(tmp_path / "fid.safetensors")
    assert name == "fid"
    answer = features(noise(1, 3, 64, 64))
    assert answer.shape == (1, 2048) and torch.isfinite(answer).all() and answer.std() > 0
    del tensors["fc.bias"]
    save_file(tensors, tmp_path / "other.safetensors")
    with pytest.raises(ConfigError, match="no Inception v3 with 1008 classes"):
        frechet.inception(tmp_path / "other.safetensors")

    block, x = InceptionA(8, 4).eval(), torch.rand(1, 8, 5, 5)
    plain = block(x)
    block.__class__ = frechet._with_pool(InceptionA, frechet._mean_inside)
    counts = torch.nn.functional.conv2d(torch.ones(1, 1, 5, 5), torch.ones(1, 1, 3, 3), padding=1)
    pooled = torch.nn.functional.avg_pool2d(x, 3, 1, 1) * 9 / counts
    with torch.no_grad():
        assert torch.equal(block(x)[:, :-4], plain[:, :-4])
        assert torch.allclose(block(x)[:, -4:], block.branch_pool(pooled), atol=1e-6)


def test_an_inception_with_missing_layers_is_refused(tmp_path):
    save_file({"fc.bias": torch.zeros(1000)}, tmp_path / "part.safetensors")
    with pytest.raises(ConfigError, match="no whole Inception"):
        frechet.inception(tmp_path / "part.safetensors")


# -- CLIP --------------------------------------------------------------------------------------------------------------


def test_clip_similarity_of_a_file(frozen, tmp_path):
    embed = clip.clip_embedding(frozen["encoder"])
    pictures = noise(2, 3, 40, 40)
    ours = embed(pictures)
    assert torch.allclose(ours.norm(dim=1), torch.ones(2), atol=1e-5)
    assert torch.allclose(clip.similarity(ours, embed(pictures)), torch.ones(2), atol=1e-5)
    assert (clip.similarity(ours, embed(-pictures)) < 1 - 1e-4).all()
    save_file({"a": torch.zeros(1)}, tmp_path / "none.safetensors")
    with pytest.raises(ConfigError, match="cannot be used as CLIP"):
        clip.clip_embedding(tmp_path / "none.safetensors")
    with pytest.raises(ConfigError, match="does not exist"):
        clip.clip_embedding(tmp_path / "nowhere.safetensors")


# -- intervals ---------------------------------------------------------------------------------------------------------


def test_interval_encloses_the_median():
    values = np.random.default_rng(0).normal(5, 1, (64, 3))
    values[::2, 1] = np.nan
    low, high = intervals.interval(values)
    assert low < np.nanmedian(values) < high
    assert high - low < 1


def test_the_interval_of_a_mean_is_that_of_the_normal_law():
    values = np.random.default_rng(1).normal(0, 1, 400)
    low, high = intervals.interval(values, np.mean)
    half = 1.96 * values.std(ddof=1) / 20
    assert abs(low - (values.mean() - half)) < 0.02 and abs(high - (values.mean() + half)) < 0.02


def test_pairs_are_compared_pair_by_pair():
    """What both measurements of a pair have in common cancels out of the difference."""
    random = np.random.default_rng(2)
    common = random.normal(0, 10, 50)
    ours, theirs = common + 1 + random.normal(0, 0.1, 50), common + random.normal(0, 0.1, 50)
    low, high = intervals.joint_interval(ours, theirs, lambda a, b: float(np.mean(a - b)))
    assert 0.9 < low < high < 1.1
    with pytest.raises(ValueError, match="not the same pairs"):
        intervals.joint_interval(ours, theirs[:-1], lambda a, b: 0.0)
    with pytest.raises(ValueError, match="no pairs"):
        intervals.interval(np.zeros(0))
    assert all(np.isnan(intervals.interval(np.full(4, np.nan))))
