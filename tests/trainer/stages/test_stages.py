"""The parts of the two helper stages, against slow restatements."""

import torch

from colorize.tiny_vae import TinyVAE
from trainer.draws import Draws
from trainer.pictures import contact_sheet, model_sketch, picture
from trainer.stages.encoder import region_colors
from trainer.stages.v1 import random_crops
from trainer.stages.vae import edge_loss, moment_loss, start_as_average


def test_the_autoencoder_starts_as_a_box_filter():
    """Before any training a flat picture comes back as it was, and an 8x8 block as its mean colour."""
    torch.manual_seed(0)
    network = TinyVAE()
    start_as_average(network)
    flat = torch.tensor([0.5, -0.25, -0.75]).view(1, 3, 1, 1).expand(1, 3, 64, 64)
    with torch.no_grad():
        result = network.decode(network.encode(flat))
        latents = network.encode(torch.rand(1, 3, 64, 64) * 2 - 1)
    inner = (..., slice(16, -16), slice(16, -16))  # the borders see the padding
    assert (result - flat)[inner].abs().max() < 0.12  # the soft clamp bends bright and dark colours a little
    assert latents[:, :3].abs().max() < 2


def test_edge_loss_is_the_mean_difference_of_neighbours():
    ours, wanted = torch.rand(2, 2, 3, 5, 6)
    pair, expected = (ours, wanted), 0.0
    for down, right in ((0, 1), (1, 0)):
        differences = []
        for image in range(2):
            for channel in range(3):
                for y in range(5 - down):
                    for x in range(6 - right):
                        steps = [t[image, channel, y + down, x + right] - t[image, channel, y, x] for t in pair]
                        differences.append((steps[0] - steps[1]).abs())
        expected += torch.stack(differences).mean()
    assert torch.allclose(edge_loss(ours, wanted), expected)


def test_moment_loss_is_zero_for_unit_latents():
    values = torch.randn(64, 4, 8, 8)
    values = (values - values.mean((0, 2, 3), keepdim=True)) / values.transpose(0, 1).flatten(1).std(1).view(1, 4, 1, 1)
    assert moment_loss(values) < 1e-6
    assert moment_loss(values * 3 + 1) > 1


def test_region_colors_are_means_over_labels():
    pictures, labels = torch.rand(2, 3, 6, 7), torch.randint(0, 3, (2, 1, 6, 7))
    colors, shares = region_colors(pictures, labels, 4)
    for image in range(2):
        for region in range(4):
            inside = labels[image, 0] == region
            assert torch.isclose(shares[image, region], inside.float().mean())
            if inside.any():
                assert torch.allclose(colors[image, region], pictures[image][:, inside].mean(1), atol=1e-6)
    assert (shares[:, 3] == 0).all() and torch.isfinite(colors).all()


def test_pictures_and_sheets_keep_range_and_order():
    values = torch.tensor([0, 128, 255], dtype=torch.uint8).view(1, 1, 1, 3)
    assert torch.allclose(picture(values), torch.tensor([-1.0, 1 / 255, 1.0]).view(1, 1, 1, 3), atol=1e-6)
    assert torch.equal(model_sketch(values)[0, 0], -picture(values)[0, 0])
    sheet = contact_sheet([torch.full((2, 3, 4, 4), -1.0), torch.full((2, 1, 4, 4), 1.0)])
    assert sheet.shape == (8, 8, 3)
    assert (sheet[:, :4] == 0).all() and (sheet[:, 4:] == 255).all()


def test_crops_of_latents_and_sketches_show_the_same_place():
    """Latent cell (y, x) and sketch pixels 8y..8y+7 stay together; every sample gets its own place."""
    cells = torch.arange(8 * 16).view(1, 1, 8, 16).expand(32, 4, -1, -1).float()
    sketches = cells[:, :1].repeat_interleave(8, 2).repeat_interleave(8, 3)
    latents, drawn = random_crops(cells, sketches, 64, Draws.plain(0))
    assert latents.shape == (32, 4, 8, 8) and drawn.shape == (32, 1, 64, 64)
    assert torch.equal(drawn[:, :, ::8, ::8], latents[:, :1])
    corners = latents[:, 0, 0, 0].unique()
    assert len(corners) == 9  # 8 cells of 16 along x: nine places
