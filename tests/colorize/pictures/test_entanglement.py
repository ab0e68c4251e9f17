"""The entanglement meter: its equations literally, its limits, and its ranking of known leakage."""

import math

import numpy as np
import pytest
import torch

from colorize.pictures import entanglement
from trainer.world import Appearance, Layout, LineStyle, pair, render

SIDE = 96


def noise(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_edge_field_is_the_equation_pixel_by_pixel():
    picture = noise(1, 3, 7, 6)
    values = torch.nn.functional.pad((picture + 1) / 2, (1, 1, 1, 1), mode="replicate")[0].double()
    field = entanglement.edge_field(picture)[0]
    weights = torch.tensor([3, 10, 3], dtype=torch.float64) / 16
    for y in range(7):
        for x in range(6):
            window = values[:, y : y + 3, x : x + 3]
            dx = ((window[:, :, 2] - window[:, :, 0]) * weights).sum(1)
            dy = ((window[:, 2] - window[:, 0]) * weights).sum(1)
            tensor = torch.stack([torch.stack([dx @ dx, dx @ dy]), torch.stack([dx @ dy, dy @ dy])])
            largest, vectors = torch.linalg.eigh(tensor)
            m2, (vx, vy) = largest[1], vectors[:, 1]
            place = (math.atan2(vy, vx) / math.pi % 1) * entanglement.ORIENTATIONS
            expected = torch.zeros(entanglement.ORIENTATIONS, dtype=torch.float64)
            low = int(place) % entanglement.ORIENTATIONS
            expected[low] += 1 - place % 1
            expected[(low + 1) % entanglement.ORIENTATIONS] += place % 1
            expected *= m2 / (m2 + entanglement.STRENGTH**2)
            assert torch.allclose(field[:, y, x].double(), expected, atol=1e-4), (y, x)


def test_structure_distance_is_the_self_similarity_written_out():
    result, base = noise(1, 3, 32, 32), noise(1, 3, 32, 32, seed=1)
    matrices = []
    for picture in (result, base):
        cells = torch.nn.functional.avg_pool2d(entanglement.edge_field(picture), 2)[0].flatten(1)  # 16 x 16 cells
        matrices.append(torch.stack([torch.stack([(a * b).sum() for b in cells.T]) for a in cells.T]))
    first, second = matrices
    expected = ((first - second) ** 2).sum() / ((first**2).sum() + (second**2).sum())
    assert torch.allclose(entanglement.structure_distance(result, base)[0], expected, atol=1e-5)


def test_leakage_is_what_found_again_says_beyond_the_others():
    result, reference, lines = noise(2, 3, 40, 40), noise(2, 3, 40, 40, seed=1), noise(2, 1, 40, 40, seed=2).clamp(0, 1)
    others = [noise(2, 3, 40, 40, seed=seed) for seed in (3, 4)]
    share = entanglement.found_again(result, reference, lines)
    chance = sum(entanglement.found_again(result, other, lines) for other in others) / 2
    expected = (share - chance) / (1 - chance)
    assert torch.allclose(entanglement.leakage(result, reference, lines, others), expected, atol=1e-6)
    square = torch.nn.functional.max_pool2d(result, 7, 1, 3)
    assert torch.equal(entanglement.near(result, 3), square)


def test_limits_of_the_structure_distance():
    left, right = torch.zeros(1, 3, 64, 64), torch.zeros(1, 3, 64, 64)
    left[..., 8:16, 8:16], right[..., 40:48, 40:48] = 1, 1
    assert entanglement.structure_distance(left, left) == 0
    assert entanglement.structure_distance(left, right) == 1
    assert entanglement.structure_distance(torch.zeros(1, 3, 64, 64), torch.ones(1, 3, 64, 64)) == 0  # no structure


def test_other_colours_are_hardly_another_structure():
    """The same drawing in other palettes is nearer than another drawing in the same palette, every time."""
    style = LineStyle.clean()

    def drawn(layout, appearance):
        picture = render(Layout.sample(layout), Appearance.sample(appearance), style, SIDE).picture
        return torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 127.5 - 1

    for seed in range(6):
        one = drawn(seed, seed)
        recoloured = entanglement.structure_distance(drawn(seed, seed + 50), one)
        redrawn = entanglement.structure_distance(drawn(seed + 50, seed), one)
        assert recoloured < 0.6 * redrawn


def world(count=8):
    """(truth, reference, lines) of held-out pairs, as (B, 3, H, W) in [-1, 1] and ink (B, 1, H, W)."""
    items = [pair(index, "heldout", SIDE) for index in range(count)]

    def pictures(key):
        return torch.from_numpy(np.stack([item[key] for item in items])).permute(0, 3, 1, 2).float() / 127.5 - 1

    lines = 1 - torch.from_numpy(np.stack([item["sketch"] for item in items]))[:, None].float() / 255
    return pictures("picture"), pictures("reference"), lines


def test_known_leakage_is_ranked():
    """Luma of the reference mixed into the true answer: the more, the higher the leakage, of every pair nearly."""
    truth, reference, lines = world()
    others = [reference.roll(shift, 0) for shift in (1, 2, 3)]
    luma = reference.mean(1, keepdim=True)
    levels = (0.0, 0.05, 0.1, 0.2, 0.4)
    leaks = [entanglement.leakage(truth * (1 - a) + luma * a, reference, lines, others) for a in levels]
    means = [leak.mean().item() for leak in leaks]
    assert means == sorted(means) and means[-1] - means[0] > 0.2
    assert abs(means[0]) < 0.05  # the truth knows nothing of the reference's layout
    assert all((after > before).float().mean() >= 0.8 for before, after in zip(leaks, leaks[1:]))
    distances = [entanglement.structure_distance(truth * (1 - a) + luma * a, truth).mean().item() for a in levels]
    assert distances == sorted(distances) and distances[0] == 0
    # a blend with a stranger is no leakage of this reference
    stranger = luma.roll(4, 0)
    assert entanglement.leakage(truth * 0.6 + stranger * 0.4, reference, lines, others).mean() < means[-1] / 4


def test_without_other_references_shifted_copies_stand_in():
    truth, reference, lines = world(3)
    luma = reference.mean(1, keepdim=True)
    clean, leaky = (entanglement.leakage(truth * (1 - a) + luma * a, reference, lines) for a in (0.0, 0.4))
    assert (leaky - clean).min() > 0.1
    assert len(entanglement.shifted(reference)) == 15
    assert all(not torch.equal(copy, reference) for copy in entanglement.shifted(reference))


def test_edges_on_the_sketch_s_lines_are_nobody_s():
    """Reference and result share a border that the sketch draws too: nothing has leaked."""
    picture, lines = torch.zeros(1, 3, 64, 64), torch.zeros(1, 1, 64, 64)
    picture[..., 32:] = 1
    assert entanglement.found_again(picture, picture, lines) == 1
    assert entanglement.leaked_edges(picture, picture, lines)[..., 31:33].min() > 0.9
    lines[..., 31:33] = 1
    assert entanglement.found_again(picture, picture, lines) == 0
    assert entanglement.leaked_edges(picture, picture, lines).max() == 0


def test_an_edge_of_another_direction_does_not_count():
    down, across, lines = torch.zeros(1, 3, 64, 64), torch.zeros(1, 3, 64, 64), torch.zeros(1, 1, 64, 64)
    down[..., 32:], across[..., 32:, :] = 1, 1
    assert entanglement.found_again(across, down, lines) < 0.1


def test_empty_pictures_have_no_leakage():
    blank, lines = torch.zeros(2, 3, 32, 32), torch.zeros(2, 1, 32, 32)
    assert entanglement.leakage(blank, blank, lines).tolist() == [0, 0]
    assert entanglement.leakage(noise(2, 3, 32, 32), blank, lines).tolist() == [0, 0]


def test_sizes_and_counts_must_agree():
    with pytest.raises(ValueError, match="one size and count"):
        entanglement.structure_distance(noise(1, 3, 32, 32), noise(1, 3, 32, 40))
    with pytest.raises(ValueError, match="one size and count"):
        entanglement.leakage(noise(2, 3, 32, 32), noise(1, 3, 32, 32), torch.zeros(2, 1, 32, 32))
