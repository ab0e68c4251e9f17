"""Stock nodes that patch the model or cut the batch, in plain and in masked runs."""

from __future__ import annotations

import pytest
import torch

from tests.model_patches.model.conftest import with_background
from tests.tiny import half_mask

SIDE = 128  # pixels: the middle block has 2 x 2 cells then, so that its attention is one


def tome(model):
    from comfy_extras.nodes_tomesd import TomePatchModel

    return TomePatchModel.execute(model, 0.5)[0]


def hypertile(model):
    from comfy_extras.nodes_hypertile import HyperTile

    return HyperTile.execute(model, 32, 2, 0, False)[0]


def deep_shrink(model):
    from comfy_extras.nodes_model_downscale import PatchModelAddDownscale

    return PatchModelAddDownscale.execute(model, 3, 2.0, 0.0, 1.0, True, "bicubic", "bicubic")[0]


def self_attention_guidance(model):
    from comfy_extras.nodes_sag import SelfAttentionGuidance

    return SelfAttentionGuidance.execute(model, 2.0, 2.0)[0]


def perturbed_attention_guidance(model):
    from comfy_extras.nodes_pag import PerturbedAttentionGuidance

    return PerturbedAttentionGuidance.execute(model, 3.0)[0]


PATCHES = (tome, hypertile, deep_shrink, self_attention_guidance, perturbed_attention_guidance)


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.__name__)
def test_stock_patches_act_and_keep_the_regions(graph, fig2fig, patch):
    """The patch changes the picture, and the mask still decides which half has which reference."""
    sketch = graph.sketch(size=SIDE)[0]
    left, right = (fig2fig(sketch=sketch, figure_mask=half_mask(side, SIDE, SIDE)) for side in (True, False))

    def run(model, given):
        torch.manual_seed(0)  # ToMe and HyperTile draw
        return graph.sample(model, *given[1:], size=SIDE)

    patched = run(patch(left[0]), left)
    assert torch.isfinite(patched).all() and (patched - run(left[0], left)).abs().max() > 1e-5
    assert (patched - run(patch(right[0]), right)).abs().max() > 1e-3


def windows(model, length: int, overlap: int, anchor: bool = False, dim: int = 0):
    from comfy_extras.nodes_context_windows import ContextWindowsManualNode

    return ContextWindowsManualNode.execute(
        model, length, overlap, "standard_static", 1, False, "flat", dim, False, "", False, "", anchor
    )[0]


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("length, overlap, anchor", [(2, 0, False), (2, 1, False), (2, 1, True)])
def test_context_windows_take_what_belongs_to_their_pictures(graph, fig2fig, count, length, overlap, anchor):
    """Pictures of a batch know nothing of each other, so windows over it change nothing."""
    masks = torch.cat([half_mask(), 1 - half_mask()] * 2)[:count]
    model, positive, negative = fig2fig(
        reference=with_background(graph.reference(batch=count)), sketch=graph.sketch(batch=count)[0],
        figure_mask=masks, noise_level=0.3,
    )  # fmt: skip
    latent = {"samples": torch.zeros(4, 4, 8, 8)}
    plain = graph.sample(model, positive, negative, latent=latent)
    got = graph.sample(windows(model, length, overlap, anchor), positive, negative, latent=latent)
    assert (got - plain).abs().max() < 1e-4


def test_features_of_some_pictures(pack):
    banks = pack.module("model_patches.features").Banks((torch.arange(3.0).view(3, 1, 1),))
    some = banks.of_pictures((1, 2, 3))
    assert some.tensors[0].flatten().tolist() == [1, 2, 0] and banks.of_pictures((1, 2, 3)) is some
    one = pack.module("model_patches.features").Banks((torch.zeros(1, 1, 1),))
    assert one.of_pictures((4, 5)) is one


def test_windows_over_a_side_are_told(graph, fig2fig):
    model, positive, negative = fig2fig()
    with pytest.raises(ValueError, match="A node samples a part of 4x8 cells of the latent, and the figure masks"):
        graph.sample(windows(model, 4, 0, dim=3), positive, negative)


def test_rebatched_latents_beside_a_batch_of_sketches_are_told(pack, graph, loaded):
    """Each part of the list would get the first sketches: ComfyUI says nothing, this does."""
    from comfy_extras.nodes_rebatch import LatentRebatch

    sketches = graph.sketch(batch=4)[0]
    model, positive, negative = graph.conditioned(loaded, sketch=sketches)
    parts = LatentRebatch.execute([{"samples": torch.zeros(4, 4, 8, 8)}], [2])[0]
    with pytest.raises(ValueError, match="There are 4 sketches for 2 pictures. .*Rebatch"):
        graph.sample(model, positive, negative, latent=parts[0])
    plain = graph.sample(*graph.conditioned(loaded, sketch=sketches), batch=4)
    one = graph.conditioned(loaded, sketch=sketches[2:])
    assert (graph.sample(*one, latent=parts[1]) - plain[2:]).abs().max() < 1e-4
