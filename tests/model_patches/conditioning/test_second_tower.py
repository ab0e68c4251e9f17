"""XL files of two CLIP towers (the baseline of the XL paper's Fig. 5) in the nodes, from the file to the picture."""

import dataclasses

import pytest
import torch
from safetensors.torch import load_file, save_file

from colorize.reference.token_projection import TokenProjection
from tests import tiny, tiny_xl
from tests.model_patches.conftest import Graph, _loaded
from tests.tiny import half_mask
from trainer.models.xl_colorizer import XLColorizer

SECOND_WIDTH = 24
FILE = "two_towers.safetensors"


@pytest.fixture(scope="module")
def second(pack, folders):
    """A second tower of 17 tokens, 24 wide, as it comes out of Load Reference Encoder."""
    weights = tiny.prefixed("visual.", tiny.reference_encoder(SECOND_WIDTH).visual.state_dict())
    save_file(weights, folders.clip_vision / "second_tower.safetensors", metadata={"colorize.head_width": "16"})
    return pack.run("ColorizeLoadReferenceEncoder", encoder_name="second_tower.safetensors")[0]


@pytest.fixture(scope="module")
def two_towers(pack, folders):
    """The loaded parts of a file whose projection reads them."""
    projection = tiny.randomised(TokenProjection(tiny_xl.CLIP_WIDTH, SECOND_WIDTH, tiny_xl.CONFIG.context_dim), 2)
    weights = tiny_xl.checkpoint() | tiny.prefixed("proj.", projection) | {"clip_pair": torch.zeros(0)}
    save_file(weights, folders.checkpoints / FILE, metadata=tiny_xl.METADATA)
    return _loaded(pack, FILE)


@pytest.fixture
def two_graph(pack, xl_encoder):
    return Graph(pack, xl_encoder)


def test_the_nodes_read_what_the_trainer_reads_and_colour(two_graph, two_towers, second, folders):
    assert two_towers.colorizer.family.second_tower == "clip"
    reference = two_graph.reference(second_encoder=second)
    assert reference.tagger_tokens.shape == (1, 17, SECOND_WIDTH) and reference.second_tower == "clip"
    towers = (folders.clip_vision / f"{name}.safetensors" for name in ("tiny_xl_vision", "second_tower"))
    ours = XLColorizer.from_files(*map(str, (folders.checkpoints / FILE, *towers)), torch.device("cpu"))
    image = torch.rand(1, 40, 30, 3, generator=torch.Generator().manual_seed(1))  # that of Graph.reference
    model, positive, negative = two_graph.conditioned(two_towers, reference)
    torch.testing.assert_close(positive[0][0], ours.tokens(image.movedim(-1, 1) * 2 - 1), atol=1e-4, rtol=0)
    first = two_graph.sample(model, positive, negative)
    other = two_graph.sample(*two_graph.conditioned(two_towers, two_graph.reference(seed=2, second_encoder=second)))
    assert torch.isfinite(first).all() and not torch.allclose(first, other, atol=1e-3)


def test_backgrounds_and_further_figures_have_the_second_tower_s_tokens(pack, two_graph, two_towers, second):
    reference = two_graph.reference(second_encoder=second, figure_mask=half_mask())
    assert reference.background_tagger_tokens.shape == (1, 17, SECOND_WIDTH)
    given = dict(reference=reference, mask=half_mask())
    (more,) = pack.run(
        "ColorizeAddRegion", region_reference=two_graph.reference(seed=9, second_encoder=second), **given
    )
    apply = dict(mode="masked vanilla", figure_mask=half_mask(False))
    first, second_run = (
        two_graph.sample(*two_graph.conditioned(two_towers, shown, **apply)) for shown in (reference, more)
    )
    assert not torch.allclose(first, second_run, atol=1e-3)


def test_wrong_and_missing_networks_are_named(pack, two_graph, xl_graph, two_towers, loaded_xl, second):
    """Widths cannot tell them apart: ViT-H's tokens and the tagger's features are both 1024 wide."""
    right = two_graph.reference(second_encoder=second)
    tagged = dataclasses.replace(xl_graph.reference(), tagger_tokens=right.tagger_tokens)
    with pytest.raises(ValueError, match="also reads the tokens of a second CLIP.*second_encoder of Encode Reference"):
        two_graph.conditioned(two_towers, two_graph.reference())
    with pytest.raises(
        ValueError, match="reads the tokens of a second CLIP, but the reference has a tagger's features"
    ):
        two_graph.conditioned(two_towers, tagged)
    with pytest.raises(
        ValueError, match="reads a tagger's features, but the reference has the tokens of a second CLIP"
    ):
        xl_graph.conditioned(loaded_xl, right)
    with pytest.raises(ValueError, match="tagger and second_encoder are both connected"):
        xl_graph.reference(second_encoder=second)
    with pytest.raises(ValueError, match="encoded with a clip, region_reference with a tagger"):
        pack.run("ColorizeAddRegion", reference=right, region_reference=tagged, mask=half_mask())
    with pytest.raises(ValueError, match="different taggers"):
        pack.run("ColorizeBlendReferences", reference=right, other=tagged, share=0.5)

    def report(reference):
        inputs = dict(model=two_towers.model, colorizer=two_towers.colorizer, width=256, height=256)
        return pack.run("ColorizePreflight", reference=reference, **inputs)[0]

    assert "The second encoder fits: features of width 24" in report(right)
    assert "also reads a second CLIP's tokens; there are none" in report(two_graph.reference())
    assert "also reads a second CLIP's tokens; there are others" in report(tagged)


def test_cards_keep_it(pack, two_graph, xl_graph, two_towers, loaded_xl, second, tmp_path):
    module, path = pack.module("colorize.reference.card"), str(tmp_path / "card.safetensors")
    reference = two_graph.reference(second_encoder=second)
    module.save_card(reference, path)
    again = module.load_card(path)
    assert again.second_tower == "clip" and torch.equal(again.tagger_tokens, reference.tagger_tokens)
    assert "second encoder: 17 tokens of width 24" in module.describe(again)
    module.check_family(again, two_towers.colorizer.family, "The card", "two towers")
    with pytest.raises(ValueError, match="tokens of a second CLIP of width 24, the model xl reads tagger features of"):
        module.check_family(again, loaded_xl.colorizer.family, "The card", "xl")
    with pytest.raises(
        ValueError, match="no tokens of a second CLIP, the model two reads width 24.*that second encoder"
    ):
        module.check_family(two_graph.reference(), two_towers.colorizer.family, "The card", "two")
    with pytest.raises(ValueError, match="made with another tagger"):
        module.check_tagger(again, xl_graph.tagger.network, "The card", "tagger.safetensors")


def test_save_checkpoint_keeps_the_marker(pack, two_towers, folders):
    import comfy.sd

    path = folders.checkpoints / "saved_two.safetensors"
    comfy.sd.save_checkpoint(str(path), two_towers.model, vae=two_towers.vae)
    assert "clip_pair" in load_file(path)
    assert _loaded(pack, path.name).colorizer.family.second_tower == "clip"
