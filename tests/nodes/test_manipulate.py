"""Editing references with prompts, as a graph does it."""

import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from colorize.reference import manipulation
from tests import tiny

WIDTH = tiny.CONFIG.context_dim


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


def test_both_folders_are_listed_once(pack, words, text_weights, text_file):
    module = pack.module("nodes.manipulate")
    folder = Path(pack.base) / "models" / "clip_vision"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("whole_clip.safetensors", text_file):
        metadata = {"colorize.text_head_width": "16"}
        save_file(tiny.prefixed("text.", text_weights), folder / name, metadata=metadata)
    names = module.text_encoder_files()
    assert names.count(text_file) == 1 and "whole_clip.safetensors" in names
    assert words("ColorizeLoadTextEncoder", encoder_name="whole_clip.safetensors")[0].width == WIDTH


def test_files_that_are_no_text_encoder(pack, words, text_weights):
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
            words("ColorizeLoadTextEncoder", encoder_name=f"{name}.safetensors")
    with pytest.raises(FileNotFoundError, match="no file 'gone.safetensors' in models/text_encoders or models/clip_v"):
        words("ColorizeLoadTextEncoder", encoder_name="gone.safetensors")


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


def test_global_edits_every_token(words, encode, text_encoder):
    reference, e = encode(tiny.picture(2)), vector(text_encoder, "sunset")
    (out,) = words("ColorizeManipulateGlobal", reference=reference, text_encoder=text_encoder, target=" sunset ")
    torch.testing.assert_close(out.tokens @ e, torch.full(out.tokens.shape[:2], 8.0), atol=1e-4, rtol=0)
    assert out.edits == ("global: target 'sunset' at 8, variant paper",) and reference.edits == ()
    assert out.background_tokens is None and (out.image_size, out.fit) == (reference.image_size, reference.fit)


def test_local_is_the_algorithm(words, encode, text_encoder):
    reference = encode(tiny.picture())
    e, a, c = text_encoder.encode(["blonde hair", "black hair", "hair"])
    inputs = dict(reference=reference, text_encoder=text_encoder, target="blonde hair", target_scale=6.0)
    (out,) = words(
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


def test_local_defaults_are_the_papers(words, encode, text_encoder):
    reference = encode(tiny.picture())
    e, c = text_encoder.encode(["blonde hair", "hair"])
    inputs = dict(reference=reference, text_encoder=text_encoder, target="blonde hair", control="hair")
    (out,) = words("ColorizeManipulateLocal", **inputs)
    torch.testing.assert_close(out.tokens, manipulation.manipulate_local(reference.tokens, e, None, c, 8.0))
    (wired,) = words("ColorizeManipulateLocal", **inputs, thresholds=(0.1, 0.2, 0.3, 0.4), threshold_away=0.99)
    expected = manipulation.manipulate_local(reference.tokens, e, None, c, 8.0, thresholds=(0.1, 0.2, 0.3, 0.4))
    torch.testing.assert_close(wired.tokens, expected)


@pytest.mark.parametrize("node", ["ColorizeManipulateGlobal", "ColorizeManipulateLocal"])
def test_sweep_through_the_node_is_monotone(words, encode, text_encoder, node):
    """17 steps of target_scale from 0 to 8, on the tokens that the edit is for."""
    reference, e = encode(tiny.picture()), vector(text_encoder, "blonde hair")
    control = {"control": "hair"} if node.endswith("Local") else {}
    band = manipulation.bands(manipulation.correlation(reference.local_tokens, vector(text_encoder, "hair")))[..., 0]
    chosen = band >= 3 if control else band >= 0
    steps = []
    for scale in torch.linspace(0, 8, 17).tolist():
        inputs = dict(reference=reference, text_encoder=text_encoder, target="blonde hair", target_scale=scale)
        (out,) = words(node, **inputs, **control)
        steps.append((out.local_tokens @ e)[chosen])
    assert chosen.any() and (torch.stack(steps).diff(dim=0) > 0).all()


def test_edits_are_a_sequence(words, encode, text_encoder):
    first = dict(target="blonde hair", control="hair")
    second = dict(target="red dress", control="dress")

    def chain(*edits):
        reference = encode(tiny.picture())
        for edit in edits:
            (reference,) = words("ColorizeManipulateLocal", reference=reference, text_encoder=text_encoder, **edit)
        return reference

    one, two = chain(first, second), chain(second, first)
    assert (one.tokens - two.tokens).abs().max() > 1e-3
    assert len(one.edits) == 2 and one.edits == two.edits[::-1]
    assert torch.equal(one.tokens[:, 0], two.tokens[:, 0])  # local edits leave the class token


def test_what_counts_as_no_anchor_and_as_everything(words, encode, text_encoder):
    reference = encode(tiny.picture())
    inputs = dict(reference=reference, text_encoder=text_encoder, target="blonde hair", control="hair")

    def tokens(**kwargs):
        return words("ColorizeManipulateLocal", **(inputs | kwargs))[0].tokens

    none = tokens()
    assert torch.equal(tokens(anchor="none"), none) and torch.equal(tokens(anchor=" None "), none)
    released = tokens(anchor="none", variant="released")
    assert not torch.equal(tokens(anchor="", variant="released"), released)  # B10: an empty box is the empty text
    everywhere = tokens(control="")
    assert torch.equal(tokens(control="everything"), everywhere)
    e = vector(text_encoder, "blonde hair")
    torch.testing.assert_close(everywhere[:, 1:], reference.local_tokens + 8.0 * e)
    assert not torch.allclose(tokens(control="everything", variant="released"), everywhere)  # B9: a plain prompt


def test_parts(words, encode, text_encoder):
    half = torch.zeros(1, 40, 30)
    half[..., :15] = 1
    reference = encode(tiny.picture(), figure_mask=half)
    inputs = dict(reference=reference, text_encoder=text_encoder, target="night sky", control="sky")
    for node in ("ColorizeManipulateGlobal", "ColorizeManipulateLocal"):
        own = inputs if node.endswith("Local") else {k: v for k, v in inputs.items() if k != "control"}
        (front,), (back,), (both,) = (words(node, **own, part=part) for part in ("reference", "background", "both"))
        assert torch.equal(front.background_tokens, reference.background_tokens)
        assert torch.equal(back.tokens, reference.tokens)
        assert torch.equal(both.tokens, front.tokens) and torch.equal(both.background_tokens, back.background_tokens)
        assert (back.background_tokens - reference.background_tokens).abs().max() > 0.1
    with pytest.raises(ValueError, match="part is 'both', but the reference has no background.*Connect figure_mask"):
        words("ColorizeManipulateLocal", **(inputs | {"reference": encode(tiny.picture())}), part="both")


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
def test_messages(words, encode, text_encoder, change, message):
    inputs = dict(reference=encode(tiny.picture()), text_encoder=text_encoder, target="blonde hair", control="hair")
    with pytest.raises(ValueError, match=message):
        words("ColorizeManipulateLocal", **(inputs | change))


def test_another_clip(words, encode, text_encoder, pack):
    reference = encode(tiny.picture())
    narrow = type(reference)(reference.tokens[..., :32], reference.image_size, reference.fit)
    for node in ("ColorizeManipulateGlobal", "ColorizeManipulateLocal"):
        with pytest.raises(ValueError, match="vectors of width 48, the reference has tokens of width 32.*same CLIP"):
            words(node, reference=narrow, text_encoder=text_encoder, target="blonde hair")
    broken = type(reference)(reference.tokens * float("nan"), reference.image_size, reference.fit)
    with pytest.raises(ValueError, match="NaN or infinite values. Encode it again"):
        words("ColorizeManipulateGlobal", reference=broken, text_encoder=text_encoder, target="blonde hair")


def test_an_edit_that_leads_away_is_said(words, encode, text_encoder, caplog):
    reference, e = encode(tiny.picture()), vector(text_encoder, "blonde hair")
    raised = type(reference)(reference.tokens + 9 * e, reference.image_size, reference.fit)
    inputs = dict(reference=raised, text_encoder=text_encoder, target="blonde hair", control="hair", target_scale=2.0)
    with caplog.at_level(logging.WARNING):
        words("ColorizeManipulateLocal", **inputs)
    assert "target_scale" not in caplog.text  # without an anchor the paper goes the whole scale
    with caplog.at_level(logging.WARNING):
        words("ColorizeManipulateLocal", **inputs, anchor="black hair")
    assert "target_scale 2.00 is below" in caplog.text
