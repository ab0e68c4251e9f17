"""A CLS model in ComfyUI: it reads the class token, global edits reach it, and Save Checkpoint keeps what it is."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from colorize.reference.edits import Edit, manipulate_global, manipulate_local
from tests import tiny
from tests.tiny import half_mask


class Text:
    """A text encoder of one random direction for every text."""

    width, file_name = tiny.CONFIG.context_dim, "text"

    def encode(self, texts):
        rows = [torch.randn(self.width, generator=torch.Generator().manual_seed(len(text))) for text in texts]
        return torch.stack([row / row.norm() for row in rows])


@pytest.fixture
def loaded_cls(pack, folders) -> SimpleNamespace:
    """model, vae, control_net, colorizer of the tiny v1 weights as a CLS model."""
    metadata = tiny.METADATA | {"colorize.tokens": "cls"}
    save_file(tiny.checkpoint(), folders.checkpoints / "tiny_cls.safetensors", metadata=metadata)
    return load(pack, "tiny_cls.safetensors")


def load(pack, name) -> SimpleNamespace:
    names = ("model", "vae", "control_net", "colorizer")
    return SimpleNamespace(**dict(zip(names, pack.run("ColorizeLoadCheckpoint", ckpt_name=name), strict=True)))


def test_it_reads_the_class_token_alone(graph, loaded_cls, loaded):
    reference = graph.reference()
    assert loaded_cls.colorizer.family.title == "ColorizeDiffusion v1 (CLS)"
    _, positive, negative = graph.conditioned(loaded_cls, reference)
    assert torch.equal(positive[0][0], reference.tokens[:, :1])
    assert negative[0][0].shape == (1, 1, reference.width) and not negative[0][0].any()
    assert not torch.allclose(graph.run(loaded_cls), graph.run(loaded), atol=1e-3)


def test_global_edits_reach_it_and_local_ones_do_not(graph, loaded_cls):
    """Algorithm 1 moves the class token, Algorithm 2 leaves it."""
    reference, edit = graph.reference(), Edit("blonde hair", 8.0)
    moved = manipulate_global(reference, Text(), edit)
    direction, token = Text().encode(["blonde hair"])[0], reference.tokens[:, 0]
    expected = token + (8.0 - (token @ direction)[:, None]) * direction  # Eq. 5, not enhanced
    _, positive, _ = graph.conditioned(loaded_cls, moved)
    torch.testing.assert_close(positive[0][0][:, 0], expected, atol=1e-4, rtol=1e-4)
    local = manipulate_local(reference, Text(), edit)
    assert torch.equal(graph.conditioned(loaded_cls, local)[1][0][0], reference.tokens[:, :1])


def test_the_background_and_added_figures_have_class_tokens_too(pack, graph, loaded_cls):
    mask = half_mask()
    reference = graph.reference(figure_mask=mask, mask_threshold=0.5)
    assert reference.background_class_token.shape == (1, 1, reference.width)
    both = manipulate_global(reference, Text(), Edit("blonde hair", 8.0, part="both"))
    assert not torch.equal(both.background_class_token, reference.background_class_token)
    two = pack.run("ColorizeAddRegion", reference=reference, region_reference=graph.reference(seed=3), mask=mask)[0]
    result = graph.sample(*graph.conditioned(loaded_cls, two, mode="masked vanilla", figure_mask=mask))
    assert torch.isfinite(result).all()
    other = manipulate_global(two, Text(), Edit("blonde hair", 8.0, part="background"))
    changed = graph.sample(*graph.conditioned(loaded_cls, other, mode="masked vanilla", figure_mask=1 - mask))
    assert not torch.equal(result, changed)


def test_an_older_card_says_what_it_lacks(graph, loaded_cls):
    reference = graph.reference(figure_mask=half_mask())
    old = dataclasses.replace(reference, background_class_token=None)
    with pytest.raises(ValueError, match="the card does not hold that of its background"):
        graph.conditioned(loaded_cls, old, mode="masked vanilla", figure_mask=half_mask())


def test_cards_keep_the_class_tokens(graph, loaded_cls, tmp_path):
    from colorize.reference.card import load_card, save_card

    reference = graph.reference(figure_mask=half_mask())
    save_card(reference, str(tmp_path / "card.safetensors"))
    again = load_card(str(tmp_path / "card.safetensors"))
    assert torch.equal(again.background_class_token, reference.background_class_token)
    found = (graph.conditioned(loaded_cls, values)[1][0][0] for values in (again, reference))
    assert torch.equal(*found)


def test_save_checkpoint_keeps_what_it_reads(pack, folders, loaded_cls):
    import comfy.sd

    path = folders.checkpoints / "saved_cls.safetensors"
    comfy.sd.save_checkpoint(str(path), loaded_cls.model, vae=loaded_cls.vae)
    assert "cls_tokens" in load_file(path)
    assert load(pack, path.name).colorizer.family.tokens == "cls"
