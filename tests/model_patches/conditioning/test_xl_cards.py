"""Reference cards and Preflight of XL."""

import dataclasses

import pytest
import torch
from safetensors.torch import save_file

from colorize.reference import wd_tagger
from tests import tiny, tiny_xl
from tests.tiny import half_mask


@pytest.fixture
def card_file(pack, tmp_path, xl_graph, figure_reference):
    """(path, reference) of a card with background, a region and both token sets."""
    module = pack.module("colorize.reference.card")
    (reference,) = pack.run(
        "ColorizeAddRegion",
        reference=figure_reference,
        region_reference=xl_graph.reference(seed=9),
        mask=half_mask(),
    )
    path = str(tmp_path / "card.safetensors")
    module.save_card(reference, path)
    return path, reference


def test_cards_keep_both_token_sets(pack, card_file, xl_graph, loaded_xl):
    path, reference = card_file
    module = pack.module("colorize.reference.card")
    again = module.load_card(path)
    for name in ("tokens", "background_tokens", *module.XL_TENSORS):
        assert torch.equal(getattr(again, name), getattr(reference, name)), name
    for name in ("tokens", *module.XL_REGION_TENSORS):
        assert torch.equal(getattr(again.regions[0], name), getattr(reference.regions[0], name)), name
    assert "tagger: 16 tokens of width 64" in module.describe(again)
    apply = dict(mode="masked vanilla", figure_mask=half_mask(False))
    first, second = (xl_graph.sample(*xl_graph.conditioned(loaded_xl, given, **apply)) for given in (reference, again))
    assert torch.equal(first, second)


def test_cards_refuse_the_wrong_encoders(pack, card_file, xl_graph, loaded, loaded_xl, folders):
    _, reference = card_file
    module, name = pack.module("colorize.reference.card"), "The card"
    family, tagger = loaded_xl.colorizer.family, xl_graph.tagger
    module.check_family(reference, family, name, "xl")
    module.check_tagger(reference, tagger.network, name, tagger.file_name)
    module.check_encoder(reference, xl_graph.encoder.encoder, name, "vision")
    with pytest.raises(ValueError, match="tokens of width 40, the model v1 reads width 48"):
        module.check_family(reference, loaded.colorizer.family, name, "v1")
    bare = xl_graph.reference(tagger=None)
    with pytest.raises(ValueError, match="no tagger features, the model xl reads width 64"):
        module.check_family(bare, family, name, "xl")
    with pytest.raises(ValueError, match="no tagger features. Encode the reference again"):
        module.check_tagger(bare, tagger.network, name, tagger.file_name)
    stranger = wd_tagger.WDTagger.from_state_dict(tiny_xl.tagger_weights(seed=5), tiny_xl.TAGGER_METADATA)
    with pytest.raises(ValueError, match="another tagger than other.safetensors"):
        module.check_tagger(reference, stranger, name, "other.safetensors")
    half = wd_tagger.WDTagger.from_state_dict(
        {k: v.half().float() for k, v in tiny_xl.tagger_weights().items()}, tiny_xl.TAGGER_METADATA
    )
    module.check_tagger(reference, half, name, "half.safetensors")


def test_card_nodes(pack, card_file, xl_graph, loaded_xl, loaded):
    import folder_paths

    _, reference = card_file
    (name,) = pack.run("ColorizeSaveReference", reference=reference, encoder=xl_graph.encoder)
    assert name in pack.module("nodes.card").card_files()
    inputs = dict(card_name=name, colorizer=loaded_xl.colorizer, encoder=xl_graph.encoder, tagger=xl_graph.tagger)
    (again, text) = pack.run("ColorizeLoadReference", **inputs)
    assert torch.equal(again.tagger_tokens, reference.tagger_tokens) and "tagger" in text
    with pytest.raises(ValueError, match="made with another encoder"):
        pack.run("ColorizeLoadReference", **(inputs | {"colorizer": loaded.colorizer, "encoder": None}))
    assert folder_paths.get_output_directory()


def test_broken_card(pack, card_file):
    from safetensors.torch import load_file

    path, _ = card_file
    module = pack.module("colorize.reference.card")
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    save_file(tensors | {"tagger_tokens": tensors["tagger_tokens"] * torch.nan}, path, metadata=metadata)
    with pytest.raises(ValueError, match="tagger_tokens holds NaN"):
        module.load_card(path)


def test_preflight(pack, xl_graph, loaded_xl, loaded_plugin, figure_reference):
    def report(loaded=loaded_xl, **inputs):
        text, _, problems = pack.run(
            "ColorizePreflight", model=loaded.model, colorizer=loaded.colorizer, width=256, height=256, **inputs
        )
        return text, problems

    text, problems = report(reference=figure_reference, sketch=tiny.drawing())
    assert problems == 0 and "The tagger fits: features of width 64" in text
    text, problems = report(reference=xl_graph.reference(tagger=None))
    assert problems == 1 and "also reads a tagger's features; there are none" in text
    other = dataclasses.replace(figure_reference, tagger_tokens=torch.zeros(1, 16, 72))
    assert "features of width 72; this model reads 64" in report(reference=other)[0]
    text, _ = report(loaded_plugin, reference=figure_reference, mode="fig2fig", figure_mask=half_mask())
    assert "choose masked vanilla, which needs none (with Apply Background Plugin" in text


def test_preflight_knows_the_size_of_xl(pack, loaded_xl):
    module = pack.module("colorize.preflight.examine")
    family = dataclasses.replace(loaded_xl.colorizer.family, model_channels=320)
    colorizer = dataclasses.replace(loaded_xl.colorizer, family=family)

    def found(side):
        inputs = module.Inputs(sketch=tiny.drawing(), width=side, height=side, colorizer=colorizer)
        return " ".join(finding.text for finding in module.examine(inputs))

    assert "far below the size this model was trained at (1024x1024)" in found(512)
    assert "far above" not in found(1024) and "far above the size of this model (1024" in found(2048)
