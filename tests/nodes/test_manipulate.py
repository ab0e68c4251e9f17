"""Editing references with prompts, and seeing where the prompts act, as a graph does it."""

import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from colorize.reference import correlation, manipulation
from colorize.reference.edits import Edit, manipulate_local
from colorize.reference.types import Reference
from tests import tiny

WIDTH = tiny.CONFIG.context_dim


@pytest.fixture(scope="module")
def text_weights():
    """A tiny text tower with CLIP's whole word list, in open_clip's names. Do not change it."""
    from open_clip.transformer import TextTransformer

    tower = TextTransformer(width=32, heads=2, layers=2, output_dim=WIDTH)
    return tiny.randomised(tower, seed=11)


@pytest.fixture(scope="module")
def text_file(pack, text_weights):
    folder = Path(pack.base) / "models" / "text_encoders"
    folder.mkdir(parents=True, exist_ok=True)
    save_file(text_weights, folder / "tiny_text.safetensors", metadata={"colorize.text_head_width": "16"})
    return "tiny_text.safetensors"


@pytest.fixture(scope="module")
def run(pack):
    """run("ColorizeManipulateLocal", ...): a node of this step of the graph."""

    def call(name, **kwargs):
        return getattr(pack.module("nodes.manipulate"), name).EXECUTE_NORMALIZED(**kwargs).result

    return call


@pytest.fixture(scope="module")
def text_encoder(run, text_file):
    return run("ColorizeLoadTextEncoder", encoder_name=text_file)[0]


@pytest.fixture
def encode(pack, tiny_encoder):
    def call(image, **kwargs):
        return pack.run("ColorizeEncodeReference", encoder=tiny_encoder, image=image, **kwargs)[0]

    return call


def picture(batch=1, height=40, width=30, seed=0):
    return torch.rand(batch, height, width, 3, generator=torch.Generator().manual_seed(seed))


def vector(text_encoder, prompt):
    return text_encoder.encode([prompt])[0]


# -- Load Text Encoder -------------------------------------------------------------------------------------------------


def test_load_text_encoder(pack, text_encoder, text_file):
    assert text_encoder.width == WIDTH and text_encoder.file_name == text_file
    found = text_encoder.encode(["blonde hair", "blonde hair", "a blue sky"])
    assert found.shape == (3, WIDTH) and found.dtype == torch.float32
    torch.testing.assert_close(found.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(found[0], found[1])
    assert not torch.allclose(found[0], found[2], atol=1e-2)
    assert text_file in pack.module("nodes.manipulate").text_encoder_files()


def test_both_folders_are_listed_once(pack, run, text_weights, text_file):
    module = pack.module("nodes.manipulate")
    folder = Path(pack.base) / "models" / "clip_vision"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("whole_clip.safetensors", text_file):
        metadata = {"colorize.text_head_width": "16"}
        save_file(tiny.prefixed("text.", text_weights), folder / name, metadata=metadata)
    names = module.text_encoder_files()
    assert names.count(text_file) == 1 and "whole_clip.safetensors" in names
    assert run("ColorizeLoadTextEncoder", encoder_name="whole_clip.safetensors")[0].width == WIDTH


def test_files_that_are_no_text_encoder(pack, run, text_weights):
    folder = Path(pack.base) / "models" / "text_encoders"
    folder.mkdir(parents=True, exist_ok=True)
    tower = tiny.prefixed("visual.", tiny.reference_encoder().visual.state_dict())
    no_projection = {k: v for k, v in text_weights.items() if k != "text_projection"}
    broken = text_weights | {"ln_final.bias": torch.full((32,), float("nan"))}
    missing = {k: v for k, v in text_weights.items() if not k.startswith("ln_final")}
    cases = {
        "vision": (tower, "'vision.safetensors' cannot be used as text encoder: No CLIP text tower.*ViT-H/14"),
        "sd21": (no_projection, "no projection.*use the file of the whole CLIP"),
        "nan": (broken, "has NaN or infinite values in 1 of"),
        "half": (missing, "'half.safetensors' cannot be used as text encoder: .*ln_final"),
    }
    for name, (weights, message) in cases.items():
        save_file(weights, folder / f"{name}.safetensors", metadata={"colorize.text_head_width": "16"})
        with pytest.raises(ValueError, match=message):
            run("ColorizeLoadTextEncoder", encoder_name=f"{name}.safetensors")
    with pytest.raises(FileNotFoundError, match="no file 'gone.safetensors' in models/text_encoders or models/clip_v"):
        run("ColorizeLoadTextEncoder", encoder_name="gone.safetensors")


def test_another_word_list(pack, text_encoder, text_weights):
    module = pack.module("model_patches.reference.text")
    small = text_weights | {"token_embedding.weight": text_weights["token_embedding.weight"][:100]}
    network = pack.module("colorize.reference.text").load_text_encoder(small, {"colorize.text_head_width": "16"})
    with pytest.raises(ValueError, match="odd knows 100 tokens, CLIP's word list has 49408"):
        module.LoadedTextEncoder(network, text_encoder.patcher, "odd").encode(["hair"])


def test_long_prompts_are_cut_and_said(text_encoder, caplog):
    with caplog.at_level(logging.WARNING):
        text_encoder.encode(["very " * 100])
    assert "102 tokens, the text encoder reads 77" in caplog.text


# -- Manipulate Reference ----------------------------------------------------------------------------------------------


def test_global_edits_every_token(run, encode, text_encoder):
    reference, e = encode(picture(2)), vector(text_encoder, "sunset")
    (out,) = run("ColorizeManipulateGlobal", reference=reference, text_encoder=text_encoder, target=" sunset ")
    torch.testing.assert_close(out.tokens @ e, torch.full(out.tokens.shape[:2], 8.0), atol=1e-4, rtol=0)
    assert out.edits == ("global: target 'sunset' at 8, variant paper",) and reference.edits == ()
    assert out.background_tokens is None and (out.image_size, out.fit) == (reference.image_size, reference.fit)


def test_local_is_the_algorithm(run, encode, text_encoder):
    reference = encode(picture())
    e, a, c = text_encoder.encode(["blonde hair", "black hair", "hair"])
    inputs = dict(reference=reference, text_encoder=text_encoder, target="blonde hair", target_scale=6.0)
    (out,) = run(
        "ColorizeManipulateLocal", **inputs, anchor="black hair", control="hair", enhance=True, threshold_away=0.3,
        threshold_start=0.4, threshold_half=0.5, threshold_full=0.9, strength_ratio=1.5, variant="released",
    )  # fmt: skip
    expected = manipulation.manipulate_local(
        reference.tokens, e, a, c, 6.0, True, (0.3, 0.4, 0.5, 0.9), 1.5, "released"
    )
    torch.testing.assert_close(out.tokens, expected, atol=1e-5, rtol=1e-5)
    assert out.edits == (
        "local: target 'blonde hair' at 6, anchor 'black hair', enhance, variant released, control 'hair', thresholds "
        "0.3 0.4 0.5 0.9, strength ratio 1.5",
    )


def test_local_defaults_are_the_papers(run, encode, text_encoder):
    reference = encode(picture())
    e, c = text_encoder.encode(["blonde hair", "hair"])
    inputs = dict(reference=reference, text_encoder=text_encoder, target="blonde hair", control="hair")
    (out,) = run("ColorizeManipulateLocal", **inputs)
    torch.testing.assert_close(out.tokens, manipulation.manipulate_local(reference.tokens, e, None, c, 8.0))
    (wired,) = run("ColorizeManipulateLocal", **inputs, thresholds=(0.1, 0.2, 0.3, 0.4), threshold_away=0.99)
    expected = manipulation.manipulate_local(reference.tokens, e, None, c, 8.0, thresholds=(0.1, 0.2, 0.3, 0.4))
    torch.testing.assert_close(wired.tokens, expected)


@pytest.mark.parametrize("node", ["ColorizeManipulateGlobal", "ColorizeManipulateLocal"])
def test_sweep_through_the_node_is_monotone(run, encode, text_encoder, node):
    """17 steps of target_scale from 0 to 8, on the tokens that the edit is for."""
    reference, e = encode(picture()), vector(text_encoder, "blonde hair")
    control = {"control": "hair"} if node.endswith("Local") else {}
    band = manipulation.bands(manipulation.correlation(reference.local_tokens, vector(text_encoder, "hair")))[..., 0]
    chosen = band >= 3 if control else band >= 0
    steps = []
    for scale in torch.linspace(0, 8, 17).tolist():
        inputs = dict(reference=reference, text_encoder=text_encoder, target="blonde hair", target_scale=scale)
        (out,) = run(node, **inputs, **control)
        steps.append((out.local_tokens @ e)[chosen])
    assert chosen.any() and (torch.stack(steps).diff(dim=0) > 0).all()


def test_edits_are_a_sequence(run, encode, text_encoder):
    first = dict(target="blonde hair", control="hair")
    second = dict(target="red dress", control="dress")

    def chain(*edits):
        reference = encode(picture())
        for edit in edits:
            (reference,) = run("ColorizeManipulateLocal", reference=reference, text_encoder=text_encoder, **edit)
        return reference

    one, two = chain(first, second), chain(second, first)
    assert (one.tokens - two.tokens).abs().max() > 1e-3
    assert len(one.edits) == 2 and one.edits == two.edits[::-1]
    assert torch.equal(one.tokens[:, 0], two.tokens[:, 0])  # local edits leave the class token


def test_what_counts_as_no_anchor_and_as_everything(run, encode, text_encoder):
    reference = encode(picture())
    inputs = dict(reference=reference, text_encoder=text_encoder, target="blonde hair", control="hair")

    def tokens(**kwargs):
        return run("ColorizeManipulateLocal", **(inputs | kwargs))[0].tokens

    none = tokens()
    assert torch.equal(tokens(anchor="none"), none) and torch.equal(tokens(anchor=" None "), none)
    released = tokens(anchor="none", variant="released")
    assert not torch.equal(tokens(anchor="", variant="released"), released)  # B10: an empty box is the empty text
    everywhere = tokens(control="")
    assert torch.equal(tokens(control="everything"), everywhere)
    e = vector(text_encoder, "blonde hair")
    torch.testing.assert_close(everywhere[:, 1:], reference.local_tokens + 8.0 * e)
    assert not torch.allclose(tokens(control="everything", variant="released"), everywhere)  # B9: a plain prompt


def test_parts(run, encode, text_encoder):
    half = torch.zeros(1, 40, 30)
    half[..., :15] = 1
    reference = encode(picture(), figure_mask=half)
    inputs = dict(reference=reference, text_encoder=text_encoder, target="night sky", control="sky")
    for node in ("ColorizeManipulateGlobal", "ColorizeManipulateLocal"):
        own = inputs if node.endswith("Local") else {k: v for k, v in inputs.items() if k != "control"}
        (front,), (back,), (both,) = (run(node, **own, part=part) for part in ("reference", "background", "both"))
        assert torch.equal(front.background_tokens, reference.background_tokens)
        assert torch.equal(back.tokens, reference.tokens)
        assert torch.equal(both.tokens, front.tokens) and torch.equal(both.background_tokens, back.background_tokens)
        assert (back.background_tokens - reference.background_tokens).abs().max() > 0.1
    with pytest.raises(ValueError, match="part is 'both', but the reference has no background.*Connect figure_mask"):
        run("ColorizeManipulateLocal", **(inputs | {"reference": encode(picture())}), part="both")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(target="  "), "The prompt is empty. Write one or a few English words"),
        (dict(target_scale=float("nan")), "target_scale is nan, which is no number"),
        (dict(target_scale=-1.0), "target_scale is -1.0; choose"),
        (dict(strength_ratio=99.0), "strength_ratio is 99.0; choose"),
        (dict(threshold_half=0.1), "thresholds are 0.5, 0.55, 0.1, 0.95; expected four numbers"),
        (dict(variant="beta"), "variant 'beta' is unknown"),
        (dict(part="sky"), "part is 'sky'; choose one of reference, background, both"),
    ],
)
def test_messages(run, encode, text_encoder, change, message):
    inputs = dict(reference=encode(picture()), text_encoder=text_encoder, target="blonde hair", control="hair")
    with pytest.raises(ValueError, match=message):
        run("ColorizeManipulateLocal", **(inputs | change))


def test_another_clip(run, encode, text_encoder, pack):
    reference = encode(picture())
    narrow = type(reference)(reference.tokens[..., :32], reference.image_size, reference.fit)
    for node in ("ColorizeManipulateGlobal", "ColorizeManipulateLocal"):
        with pytest.raises(ValueError, match="vectors of width 48, the reference has tokens of width 32.*same CLIP"):
            run(node, reference=narrow, text_encoder=text_encoder, target="blonde hair")
    broken = type(reference)(reference.tokens * float("nan"), reference.image_size, reference.fit)
    with pytest.raises(ValueError, match="NaN or infinite values. Encode it again"):
        run("ColorizeManipulateGlobal", reference=broken, text_encoder=text_encoder, target="blonde hair")


def test_an_edit_that_leads_away_is_said(run, encode, text_encoder, caplog):
    reference, e = encode(picture()), vector(text_encoder, "blonde hair")
    raised = type(reference)(reference.tokens + 9 * e, reference.image_size, reference.fit)
    inputs = dict(reference=raised, text_encoder=text_encoder, target="blonde hair", control="hair", target_scale=2.0)
    with caplog.at_level(logging.WARNING):
        run("ColorizeManipulateLocal", **inputs)
    assert "target_scale" not in caplog.text  # without an anchor the paper goes the whole scale
    with caplog.at_level(logging.WARNING):
        run("ColorizeManipulateLocal", **inputs, anchor="black hair")
    assert "target_scale 2.00 is below" in caplog.text


# -- Correlation Preview -----------------------------------------------------------------------------------------------


def test_preview_of_a_sequence(run, encode, text_encoder):
    """Three edits, each with its heat map; the thresholds of a preview go into the edit that follows."""
    image = picture(height=60, width=20)
    reference = encode(image)
    for prompt in ("hair", "dress", "sky"):
        shown, thresholds, text = run(
            "ColorizeCorrelationPreview", reference=reference, text_encoder=text_encoder, control=prompt, image=image
        )
        assert shown.ndim == 4 and shown.shape[0] == 1 and shown.shape[-1] == 3
        assert shown.min() >= 0 and shown.max() <= 1 and shown.std() > 0.1
        assert thresholds == manipulation.check_thresholds(thresholds)
        lines = text.splitlines()
        assert lines[0] == f'prompt: "{prompt}"' and len(lines) == 8
        assert sum(int(line.split("%")[0].split()[-1]) for line in lines[2:7]) in range(97, 104)
        (reference,) = run(
            "ColorizeManipulateLocal", reference=reference, text_encoder=text_encoder, target=f"red {prompt}",
            control=prompt, thresholds=thresholds,
        )  # fmt: skip
    assert len(reference.edits) == 3


def test_preview_shows_itself(pack, encode, text_encoder):
    node = pack.module("nodes.manipulate").ColorizeCorrelationPreview
    out = node.EXECUTE_NORMALIZED(reference=encode(picture()), text_encoder=text_encoder, control="hair")
    (file,) = out.ui["images"] if isinstance(out.ui, dict) else out.ui.as_dict()["images"]
    assert file["type"] == "temp" and file["filename"].endswith(".png")
    assert node.GET_SCHEMA().is_output_node


def test_preview_of_a_batch_and_of_a_background(run, encode, text_encoder):
    half = torch.zeros(1, 40, 30)
    half[..., :15] = 1
    reference = encode(picture(2), figure_mask=half)
    inputs = dict(reference=reference, text_encoder=text_encoder, control="hair")
    chosen = dict(thresholds_from="widgets", threshold_away=0.2, threshold_start=0.4, threshold_half=0.6)
    shown, thresholds, text = run("ColorizeCorrelationPreview", **inputs, **chosen)
    assert len(shown) == 2 and thresholds == (0.2, 0.4, 0.6, 0.95) and "reference 2" in text
    behind, _, _ = run("ColorizeCorrelationPreview", **inputs, **chosen, part="background")
    assert not torch.equal(behind, shown)
    assert len(run("ColorizeCorrelationPreview", **inputs, image=picture())[0]) == 2
    with pytest.raises(ValueError, match="There are 3 pictures for 2 references"):
        run("ColorizeCorrelationPreview", **inputs, image=picture(3))
    with pytest.raises(ValueError, match="The prompt is empty"):
        run("ColorizeCorrelationPreview", **(inputs | {"control": ""}))
    odd = type(reference)(reference.tokens[:, :16], reference.image_size, reference.fit)
    with pytest.raises(ValueError, match="15 local tokens, which form no square"):
        run("ColorizeCorrelationPreview", **(inputs | {"reference": odd}))


def found(m, seed=0):
    return correlation.Correlation(m, -1.0, 2.0, 1.5)


def test_heat_map_cells_have_the_colour_of_their_band():
    m = torch.tensor([0.1, 0.52, 0.6, 0.8, 1.0, 0.0, 0.3, 0.9, 0.51])
    drawn = (correlation.draw(found(m), "hair", manipulation.THRESHOLDS) * 255).round().int()
    bands = manipulation.bands(m)
    for index, band in enumerate(bands.tolist()):
        row, column = divmod(index, 3)
        y, x = ((side * 2 + 1) * correlation.SIDE // 6 + correlation.MARGIN for side in (row, column))
        colour = correlation.BAND_COLOURS[band].lstrip("#")
        assert drawn[y, x].tolist() == list(bytes.fromhex(colour)), index


@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (3000, 10), (200, 300)])
@pytest.mark.parametrize("fit", ["stretch", "pad", "crop"])
def test_every_picture_can_lie_under_the_map(size, fit):
    drawn = correlation.draw(found(torch.rand(16)), "髪 " * 80, manipulation.THRESHOLDS, torch.zeros(3, *size), fit)
    assert drawn.shape[1] == correlation.SIDE + correlation.PANEL + 3 * correlation.MARGIN


def test_suggested_thresholds_separate_two_groups():
    generator = torch.Generator().manual_seed(0)
    hair, rest = torch.randn(56, generator=generator) * 0.06 + 0.2, torch.randn(200, generator=generator) * 0.07 + 0.8
    m = manipulation.min_max(torch.cat([hair, rest])[None, :, None]).flatten()
    t0, t1, t2, t3 = correlation.suggest_thresholds(m)
    assert t0 < t1 and (t2, t3) == (1, 1)
    assert (m[:56] <= t0).float().mean() > 0.95 and (m[56:] > t1).float().mean() > 0.99


def test_planted_words_hold_names_colours_suggestions_and_weights_together(text_encoder):
    """31 places of 256 show hair. As v1 paper 4.2 observes, their tokens project less on "hair" than the others do."""
    (c,) = text_encoder.encode(["hair"])
    generator = torch.Generator().manual_seed(0)
    hair = torch.randperm(256, generator=generator)[:31]
    projections = torch.full((256,), 3.0) + 0.15 * torch.randn(256, generator=generator)
    projections[hair] -= 2
    local = torch.randn(256, WIDTH, generator=generator)
    local += (projections - local @ c)[:, None] * c
    reference = Reference(torch.cat([torch.zeros(1, WIDTH), local])[None], 64, "stretch")
    is_hair = torch.zeros(256, dtype=torch.bool)
    is_hair[hair] = True

    drawings, thresholds, text = correlation.preview(reference, text_encoder, "hair")
    bands = manipulation.bands(manipulation.correlation(local[None], c), thresholds).flatten()
    names = [correlation.BAND_NAMES[band] for band in bands]
    assert {names[place] for place in hair} <= {"most related", "related"}
    assert {name for name, shown in zip(names, is_hair) if not shown} == {"in between"}
    assert "-r d, 12% of the tokens, most related" in text
    cells = drawings[0][correlation.MARGIN :, correlation.MARGIN :][: correlation.SIDE, : correlation.SIDE]
    cells = cells.unfold(0, 32, 32).unfold(1, 32, 32).mean((-1, -2)).flatten(0, 1)  # 16 x 16 places
    assert torch.equal(cells[:, 2] > cells[:, 0], is_hair)  # blue on hair, warm elsewhere

    def moved(ratio):
        edit = Edit("hair", 4.0)
        out = manipulate_local(reference, text_encoder, edit, "hair", thresholds, ratio)
        return (out.local_tokens[0] - local) @ c

    plain = moved(manipulation.RATIO)
    torch.testing.assert_close(plain[is_hair], torch.full((31,), -8.0), atol=0.8, rtol=0)  # -r d
    assert (plain[~is_hair] > 0).all() and (plain[~is_hair] < 2.001).all()  # at most d / 2, the other way
    switched_off = moved(0.0)
    assert switched_off[is_hair].abs().max() < 1e-4  # the ratio is that of the related places
    torch.testing.assert_close(switched_off[~is_hair], plain[~is_hair])


@pytest.mark.parametrize(
    "m",
    [
        torch.rand(256, generator=torch.Generator().manual_seed(1)),
        torch.tensor([0.0] * 255 + [1.0]),
        torch.tensor([0.0] + [1.0] * 255),
        torch.tensor([0.0, 1.0]),
        torch.linspace(0, 1, 256) ** 8,
    ],
)
def test_suggested_thresholds_are_always_in_order(m):
    values = correlation.suggest_thresholds(m)
    assert manipulation.check_thresholds(values) == values
    assert values[0] < values[1] and all(round(value, 2) == value for value in values)


def test_nothing_to_suggest_gives_the_papers():
    assert correlation.suggest_thresholds(torch.ones(256)) == manipulation.THRESHOLDS
