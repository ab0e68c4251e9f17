"""Reference cards: what is saved comes back, and what does not fit is refused."""

import json
import logging
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from colorize.reference import card
from colorize.reference.types import LevelStrengths, Reference, Region
from tests import tiny

GENERATOR = torch.Generator().manual_seed(0)


def tokens(batch=1, count=17, width=48):
    return torch.randn(batch, count, width, generator=GENERATOR)


def full_reference():
    """A reference with everything in it."""
    return Reference(
        tokens=tokens(2),
        image_size=56,
        fit="pad",
        background_tokens=tokens(2, 16)[:1].expand(2, -1, -1),
        background_is_picture=True,
        background_threshold=0.3,
        regions=(
            Region(tokens(1, 16), (torch.rand(1, 9, 7, generator=GENERATOR) * 255).round() / 255, 0.5),
            Region(tokens(2, 16), torch.rand(2, 5, 5, generator=GENERATOR)),
        ),
        levels=LevelStrengths(low=0.4, layers=(1.0, 0.5)),
        edits=("global: target 'sunset' at 8", "local: target '金髪' at 6"),
        tags=("1girl", "金髪"),
        palette=("#ff0000", "#00ff00"),
        encoder_mark=torch.randn(64, generator=GENERATOR),
    )


def same(one, two):
    """Whether two references hold the same."""
    for name in ("tokens", "background_tokens", "encoder_mark"):
        a, b = getattr(one, name), getattr(two, name)
        assert (a is None) == (b is None) and (a is None or torch.equal(a, b)), name
    for name in ("image_size", "fit", "background_is_picture", "background_threshold", "edits", "tags", "palette"):
        assert getattr(one, name) == getattr(two, name), name
    assert asdict(one.levels) == asdict(two.levels) and len(one.regions) == len(two.regions)
    for a, b in zip(one.regions, two.regions, strict=True):
        assert torch.equal(a.tokens, b.tokens) and a.strength == b.strength
        torch.testing.assert_close(a.mask, b.mask, atol=1e-6, rtol=0)
    return True


# -- the file ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reference", [full_reference(), Reference(tokens(), 56, "stretch")])
def test_everything_comes_back(tmp_path, reference):
    path = tmp_path / "a.safetensors"
    card.save_card(reference, str(path))
    assert same(card.load_card(str(path)), reference)
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]


def test_masks_are_bytes_where_nothing_is_lost(tmp_path):
    path = tmp_path / "a.safetensors"
    card.save_card(full_reference(), str(path))
    stored = load_file(path)
    assert stored["regions.0.mask"].dtype == torch.uint8 and stored["regions.1.mask"].dtype == torch.float32


def rewritten(path, change=lambda tensors: None, describe=lambda facts: None):
    """The card with its tensors and its description changed in place."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        facts = json.loads(file.metadata()[card.ENTRY])
    tensors = load_file(path)
    change(tensors)
    describe(facts)
    save_file(tensors, path, metadata={card.ENTRY: json.dumps(facts)})


@pytest.mark.parametrize(
    ("change", "describe", "message"),
    [
        (lambda t: t.pop("tokens"), None, "not complete.*tokens.*Save it again with Save Reference"),
        (lambda t: t.update(tokens=t["tokens"] * float("nan")), None, "tokens holds NaN"),
        (lambda t: t.update(tokens=t["tokens"][0]), None, r"tokens has the shape \(17, 48\)"),
        (lambda t: t.update(background_tokens=torch.zeros(1, 16, 3)), None, "background_tokens has the shape"),
        (lambda t: t.pop("regions.1.mask"), None, "regions.1.mask"),
        (lambda t: t.update({"regions.0.mask": torch.zeros(3)}), None, "the mask of region 0 has the shape"),
        (None, lambda f: f.pop("levels"), "not complete.*levels"),
        (None, lambda f: f.update(fit="tile"), "fit is 'tile'"),
        (None, lambda f: f.update(edits=[1, 2]), "expected a list of words"),
        (None, lambda f: f.update(regions=[{"strength": "strong"}]), "not complete"),
        (None, lambda f: f.update(format=2), "has the format 2, this version of the node pack reads 1. Update"),
        (None, lambda f: f.update(format="x"), "its description cannot be read"),
        (None, lambda f: f.update(image_size=224), "made with another preprocessing.*Encode the reference again"),
        (None, lambda f: f.update(fit="crop"), "made with another preprocessing"),
        (None, lambda f: f.pop("preprocessing"), "made with another preprocessing"),
    ],
)
def test_cards_that_are_not_right(tmp_path, change, describe, message):
    path = tmp_path / "odd.safetensors"
    card.save_card(full_reference(), str(path))
    rewritten(path, change or (lambda tensors: None), describe or (lambda facts: None))
    with pytest.raises(card.CardError, match=message):
        card.load_card(str(path))


def test_files_that_are_no_cards(tmp_path):
    with pytest.raises(card.CardError, match="There is no reference card 'gone.safetensors'. Refresh"):
        card.load_card(str(tmp_path / "gone.safetensors"))
    for name, content in (("empty", b""), ("text", b"hello" * 10), ("html", b"<html>")):
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(content)
        with pytest.raises(card.CardError, match="cannot be read as a reference card: it is damaged"):
            card.load_card(str(path))
    path = tmp_path / "lora.safetensors"
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(card.CardError, match="'lora.safetensors' is no reference card"):
        card.load_card(str(path))
    path = tmp_path / "cut.safetensors"
    card.save_card(full_reference(), str(path))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(card.CardError, match="it is damaged"):
        card.load_card(str(path))


# -- which encoder -----------------------------------------------------------------------------------------------------


def test_an_encoder_is_recognised_in_every_precision():
    encoder, other = tiny.reference_encoder(), tiny.reference_encoder(seed=4)
    mark = card.encoder_mark(encoder)
    for dtype in (torch.float16, torch.bfloat16):
        half = tiny.reference_encoder().to(dtype)
        assert card.same_encoder(mark, card.encoder_mark(half))
    assert not card.same_encoder(mark, card.encoder_mark(other)) and not card.same_encoder(mark, mark[:3])
    made = replace(Reference(tokens(), 56, "stretch"), encoder_mark=mark)
    card.check_encoder(made, encoder, "card", "tiny")
    with pytest.raises(card.CardError, match="card was made with another encoder .56 pixels, 17 tokens of width 48"):
        card.check_encoder(made, other, "card", "tiny")
    card.check_encoder(replace(made, encoder_mark=None), other, "card", "tiny")  # only sizes are known
    with pytest.raises(card.CardError, match="another encoder .224 pixels"):
        card.check_encoder(replace(made, image_size=224, encoder_mark=None), encoder, "card", "tiny")


def test_description():
    text = card.describe(full_reference())
    assert "references: 2, 17 tokens of width 48, 56 pixels, pad" in text and "edit 2: local" in text
    assert "strengths: low 0.4, layers (1.0, 0.5)" in text and "palette: #ff0000, #00ff00" in text
    assert "strengths" not in card.describe(Reference(tokens(), 56, "stretch"))


# -- the nodes ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def nodes(pack):
    module = pack.module("nodes.card")

    def call(name, **kwargs):
        return getattr(module, name).EXECUTE_NORMALIZED(**kwargs)

    return call


@pytest.fixture
def reference(pack, tiny_encoder):
    image = torch.rand(1, 40, 30, 3, generator=torch.Generator().manual_seed(1))
    return pack.run("ColorizeEncodeReference", encoder=tiny_encoder, image=image)[0]


def test_card_has_the_palette_of_palette_from_reference(pack, nodes, reference):
    picture = torch.ones(1, 40, 60, 3)
    for number, colour in enumerate(torch.rand(10, 3, generator=torch.Generator().manual_seed(2))):
        picture[:, :30, 6 * number : 6 * number + 6] = colour
    (name,) = nodes("ColorizeSaveReference", reference=reference, image=picture).result
    (loaded, _) = nodes("ColorizeLoadReference", card_name=name).result
    palette, text, _ = pack.run("ColorizePaletteFromReference", image=picture)
    assert len(palette.entries) > 8
    assert pack.run("ColorizePaletteFromReference", reference=loaded)[1] == text


def test_save_and_load(pack, nodes, reference, tiny_encoder):
    red = torch.zeros(1, 8, 8, 4)
    red[..., 0] = red[..., 3] = 1
    out = nodes(
        "ColorizeSaveReference", reference=reference, filename_prefix="shots/hero", image=red, encoder=tiny_encoder,
        tags="1girl, 金髪、smile\n1girl",
    )  # fmt: skip
    (name,) = out.result
    assert name == "references/shots/hero_00001_.safetensors [output]"
    saved = out.ui["references"][0]
    assert saved == {"filename": "hero_00001_.safetensors", "subfolder": "references/shots", "type": "output"}
    assert name in out.ui["text"][0]
    assert name in pack.module("nodes.card").card_files()
    loaded, text = nodes("ColorizeLoadReference", card_name=name, encoder=tiny_encoder).result
    assert torch.equal(loaded.tokens, reference.tokens) and isinstance(loaded, type(reference))
    assert loaded.tags == ("1girl", "金髪", "smile") and loaded.palette == ("#ff0000 red 100.0%",)
    assert "tags: 1girl, 金髪, smile" in text and "palette: #ff0000" in text
    assert nodes("ColorizeSaveReference", reference=reference, filename_prefix="shots/hero").result == (
        "references/shots/hero_00002_.safetensors [output]",
    )


def test_load_refuses_another_encoder(pack, nodes, reference, tiny_encoder, caplog):
    marked = nodes("ColorizeSaveReference", reference=reference, encoder=tiny_encoder).result[0]
    plain = nodes("ColorizeSaveReference", reference=replace(reference, encoder_mark=None)).result[0]
    other = replace(tiny_encoder, encoder=tiny.reference_encoder(seed=9), file_name="other")
    with pytest.raises(ValueError, match="was made with another encoder .* than other .*encode the reference again"):
        nodes("ColorizeLoadReference", card_name=marked, encoder=other)
    with caplog.at_level(logging.WARNING):
        nodes("ColorizeLoadReference", card_name=plain, encoder=other)
    assert "does not say which encoder made it" in caplog.text
    with pytest.raises(ValueError, match="The reference was made with another encoder"):
        nodes("ColorizeSaveReference", reference=replace(reference, image_size=224), encoder=tiny_encoder)


def test_load_refuses_another_models_tokens(pack, nodes, reference):
    families, parts = pack.module("colorize.families"), pack.module("model_patches.checkpoint.colorizer")
    name = nodes("ColorizeSaveReference", reference=reference).result[0]
    for width in (48, 1024):
        colorizer = parts.Colorizer(families.Family("v1", "", "v", "choice", 32, width, 32), "model.safetensors")
        if width == reference.width:
            nodes("ColorizeLoadReference", card_name=name, colorizer=colorizer)
            continue
        with pytest.raises(ValueError, match="width 48, the model model.safetensors reads width 1024.*another encoder"):
            nodes("ColorizeLoadReference", card_name=name, colorizer=colorizer)


def test_cards_from_the_input_folder(pack, nodes, reference):
    import folder_paths

    folder = Path(folder_paths.get_input_directory())
    folder.mkdir(parents=True, exist_ok=True)
    pack.module("colorize.reference.card").save_card(reference, str(folder / "given.safetensors"))
    module = pack.module("nodes.card")
    assert "given.safetensors" in module.card_files()
    assert torch.equal(nodes("ColorizeLoadReference", card_name="given.safetensors").result[0].tokens, reference.tokens)
    node = module.ColorizeLoadReference
    assert node.validate_inputs("given.safetensors") is True
    assert "There is no reference card 'gone.safetensors'" in node.validate_inputs("gone.safetensors")
    before = node.fingerprint_inputs("given.safetensors")
    pack.module("colorize.reference.card").save_card(replace(reference, tags=("a",)), str(folder / "given.safetensors"))
    assert node.fingerprint_inputs("given.safetensors") != before
    for name in ("../../etc/passwd", "../output/references/x.safetensors", "given.safetensors [temp]"):
        with pytest.raises(ValueError):
            nodes("ColorizeLoadReference", card_name=name)


def test_an_edited_reference_keeps_its_history(pack, nodes, reference):
    edited = replace(reference, edits=("local: target 'blonde hair' at 8",))
    name = nodes("ColorizeSaveReference", reference=edited).result[0]
    loaded, text = nodes("ColorizeLoadReference", card_name=name).result
    assert loaded.edits == edited.edits and "edit 1: local: target 'blonde hair' at 8" in text
