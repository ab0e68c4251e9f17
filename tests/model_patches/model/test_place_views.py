"""Gram matrix and attention of a point: against slow sums, and that the reference is what makes the difference."""

import pytest
import torch

from colorize.unet import place_views
from colorize.unet.strengths import Place


def test_rows_are_those_of_the_whole_matrices():
    generator = torch.Generator().manual_seed(0)
    features, q, k = (torch.randn(2, 6, 8, generator=generator) for _ in range(3))
    gram = torch.nn.functional.cosine_similarity(features[:, 3:4], features, dim=-1)
    torch.testing.assert_close(place_views.gram_row(features, 3), gram)
    heads = []
    for head in range(2):
        a, b = (values[..., 4 * head : 4 * head + 4] for values in (q, k))
        heads.append((a @ b.transpose(1, 2) / 2).softmax(-1)[:, 3])  # sqrt of a head's width
    torch.testing.assert_close(place_views.attention_row(q, k, 2, 3), torch.stack(heads).mean(0))


def test_points_and_blocks():
    assert [place_views.place_of(p, (2, 3)) for p in ((0, 0), (1, 0), (0, 1), (0.5, 0.9), (1, 1))] == [0, 2, 3, 4, 5]
    places = [Place("encoder", 0), Place("encoder", 1), Place("bottom", 2), Place("decoder", 1), Place("decoder", 0)]
    assert place_views.lowest_blocks(places) == (1, 3)


def test_the_views_of_a_run(pack, graph, loaded):
    module = pack.module("model_patches.model.place_views")
    model, positive, negative = graph.conditioned(loaded)
    latent = {"samples": torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))}
    with torch.inference_mode():
        found = module.views(model, positive, latent, (0.2, 0.7), 0.5, 1)
        again = module.views(model, positive, latent, (0.2, 0.7), 0.5, 1)
        without = module.views(model, negative, latent, (0.2, 0.7), 0.5, 1)
    assert [view.part for view in found] == ["encoder", "decoder"]
    for view, same, blind in zip(found, again, without, strict=True):
        assert torch.equal(view.gram, same.gram) and torch.equal(view.attention, same.attention)
        assert not torch.allclose(view.gram, blind.gram, atol=1e-4)
        height, width = view.gram.shape[1:]
        place = place_views.place_of((0.2, 0.7), (height, width))
        torch.testing.assert_close(view.gram.flatten(1)[:, place], torch.ones(2), atol=1e-3, rtol=0)  # itself
        torch.testing.assert_close(view.attention.sum((1, 2)), torch.ones(2), atol=1e-3, rtol=0)
    network = model.model.diffusion_model
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    with pytest.raises(ValueError, match="progress is 2; it lies between 0 and 1"):
        module.views(model, positive, latent, (0.2, 0.7), 2, 1)


def test_the_node_draws_a_sheet_per_picture(pack, graph, loaded):
    model, positive, negative = graph.conditioned(loaded)
    latent = {"samples": torch.zeros(2, 4, 8, 8)}
    arguments = dict(model=model, positive=positive, negative=negative, samples=latent)
    with torch.inference_mode():
        (plain,) = pack.run("ColorizePlaceViews", **arguments, image=torch.rand(2, 64, 64, 3))
        (bare,) = pack.run("ColorizePlaceViews", **arguments)
    assert plain.shape[0] == bare.shape[0] == 2 and plain.shape[2] > bare.shape[2]
    assert plain.min() >= 0 and plain.max() <= 1 and plain.std() > 0.1
    with pytest.raises(ValueError, match="There are 3 pictures in image and 2 in samples"):
        pack.run("ColorizePlaceViews", **arguments, image=torch.rand(3, 64, 64, 3))
