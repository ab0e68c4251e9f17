"""References with backgrounds, regions and strengths, as a graph makes them."""

import logging

import pytest
import torch

from tests import tiny

NAN = float("nan")


@pytest.fixture
def encode(pack, tiny_encoder):
    def run(image, **kwargs):
        return pack.run("ColorizeEncodeReference", encoder=tiny_encoder, image=image, **kwargs)[0]

    return run


@pytest.fixture
def add(pack):
    def run(reference, region_reference, mask, **kwargs):
        return pack.run(
            "ColorizeAddRegion", reference=reference, region_reference=region_reference, mask=mask, **kwargs
        )[0]

    return run


def picture(batch=1, height=40, width=30, seed=0):
    return torch.rand(batch, height, width, 3, generator=torch.Generator().manual_seed(seed))


def left_half(height=40, width=30, batch=1):
    mask = torch.zeros(batch, height, width)
    mask[..., : width // 2] = 1
    return mask


# -- Encode Reference --------------------------------------------------------------------------------------------------


def test_a_plain_reference_has_no_background(encode):
    reference = encode(picture())
    assert reference.background_tokens is None and reference.regions == ()
    assert not reference.background_is_picture and reference.levels.of([]) == ()


@pytest.mark.parametrize("fit", ["stretch", "pad", "crop"])
def test_background_is_the_reference_with_a_white_figure(encode, fit):
    image, mask = picture(), left_half()
    reference = encode(image, fit=fit, figure_mask=mask)
    painted = image.clone()
    painted[:, :, :15] = 1
    assert (reference.tokens - encode(image, fit=fit).tokens).abs().max() < 1e-5
    assert (reference.background_tokens - encode(painted, fit=fit).local_tokens).abs().max() < 1e-5
    assert reference.background_tokens.shape == (1, tiny.TOKENS - 1, 48) and not reference.background_is_picture


@pytest.mark.parametrize("scene", [None, picture(seed=1)], ids=["own background", "background picture"])
def test_a_cut_out_figure_is_the_reference_on_white(encode, scene):
    image, mask = picture(), left_half()
    reference = encode(image, figure_mask=mask, background=scene, figure="cut out")
    painted = image.clone()
    painted[:, :, 15:] = 1
    assert (reference.tokens - encode(painted).tokens).abs().max() < 1e-5
    whole = encode(image, figure_mask=mask, background=scene)
    assert (reference.background_tokens - whole.background_tokens).abs().max() < 1e-5
    assert reference.edits == ("figure cut out at 0.5",) and whole.edits == ()


def test_a_cut_out_figure_needs_a_figure(encode):
    with pytest.raises(ValueError, match="figure is set to cut out, but there is no figure_mask. Connect the mask"):
        encode(picture(), figure="cut out")
    with pytest.raises(ValueError, match="figure_mask marks nothing in a reference at mask_threshold 0.5"):
        encode(picture(), figure_mask=left_half() * 0.4, figure="cut out")


def test_threshold_decides_and_is_remembered(encode):
    image, mask = picture(), left_half() * 0.4
    low, high = (encode(image, figure_mask=mask, mask_threshold=value) for value in (0.3, 0.5))
    assert (low.background_threshold, high.background_threshold) == (0.3, 0.5)
    assert torch.allclose(high.background_tokens, high.local_tokens, atol=1e-5)  # nothing reaches 0.5
    assert not torch.allclose(low.background_tokens, low.local_tokens, atol=1e-3)


def test_a_background_picture_wins(encode):
    image, scene = picture(), picture(height=9, width=70, seed=1)
    reference = encode(image, background=scene, figure_mask=torch.full((5, 2, 2), NAN))
    assert reference.background_is_picture
    assert (reference.background_tokens - encode(scene).local_tokens).abs().max() < 1e-5
    see_through = torch.cat([scene, torch.zeros(1, 9, 70, 1)], dim=-1)
    white = encode(image, background=see_through).background_tokens
    assert (white - encode(torch.ones(1, 9, 70, 3)).local_tokens).abs().max() < 1e-5


def test_references_and_backgrounds_run_together(encode, tiny_encoder):
    sizes = []
    handle = tiny_encoder.encoder.visual.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    try:
        encode(picture(3), figure_mask=left_half())
        encode(picture(3), background=picture(3, 11, 22))
        encode(picture(6), background=picture(1, 11, 22))
        encode(picture(6), figure_mask=left_half())
    finally:
        handle.remove()
    assert sizes == [6, 6, 7, 8, 4]


def test_batches(encode):
    images, masks = picture(2), torch.cat([left_half(), 1 - left_half()])
    together = encode(images, figure_mask=masks)
    shared = encode(images, background=picture(seed=4))
    assert shared.background_tokens.shape == together.background_tokens.shape == (2, tiny.TOKENS - 1, 48)
    assert torch.equal(shared.background_tokens[0], shared.background_tokens[1])
    for row in range(2):
        alone = encode(images[row : row + 1], figure_mask=masks[row : row + 1])
        assert (together.background_tokens[row] - alone.background_tokens[0]).abs().max() < 1e-5


def test_counts_that_do_not_agree(encode):
    with pytest.raises(ValueError, match="There are 3 figure masks for 2 references. Connect one mask"):
        encode(picture(2), figure_mask=left_half(batch=3))
    with pytest.raises(ValueError, match="3 background pictures for 2 references. Connect one background"):
        encode(picture(2), background=picture(3))


def test_bad_masks_and_backgrounds_are_named(encode):
    with pytest.raises(ValueError, match="figure_mask has 1 of 1200 values that are NaN"):
        mask = left_half()
        mask[0, 3, 3] = NAN
        encode(picture(), figure_mask=mask)
    with pytest.raises(ValueError, match="figure_mask has the shape"):
        encode(picture(), figure_mask=picture())
    with pytest.raises(ValueError, match="background has the shape"):
        encode(picture(), background=left_half())


@pytest.mark.parametrize(("value", "word"), [(1.0, "covers a whole reference"), (0.0, "marks nothing")])
def test_masks_of_one_value_are_allowed(encode, caplog, value, word):
    with caplog.at_level(logging.WARNING):
        reference = encode(picture(), figure_mask=torch.full((1, 64, 64), value))
    assert word in caplog.text and torch.isfinite(reference.background_tokens).all()


# -- Add Region --------------------------------------------------------------------------------------------------------


def test_regions_lie_in_the_order_of_the_chain(encode, add):
    base, red, blue = (encode(picture(seed=seed)) for seed in range(3))
    once = add(base, red, left_half())
    twice = add(once, blue, 1 - left_half(), strength=0.5)
    assert base.regions == () and len(once.regions) == 1 and len(twice.regions) == 2
    assert torch.equal(twice.regions[0].tokens, red.local_tokens) and torch.equal(
        twice.regions[1].tokens, blue.local_tokens
    )
    assert [region.strength for region in twice.regions] == [1.0, 0.5]
    assert torch.equal(twice.regions[1].mask, 1 - left_half()) and torch.equal(twice.tokens, base.tokens)


def test_region_keeps_background_and_strengths_of_the_reference(pack, encode, add):
    base = encode(picture(), figure_mask=left_half(), mask_threshold=0.3)
    (base,) = pack.run("ColorizeReferenceStrength", reference=base, low=0.5)
    out = add(base, encode(picture(seed=1), background=picture()), left_half())
    assert out.background_tokens is base.background_tokens and out.background_threshold == 0.3
    assert out.levels == base.levels and not out.background_is_picture


def test_region_with_a_frame(pack, encode, add):
    drawing = tiny.drawing(90, 40)
    _, _, frame = pack.run("ColorizePrepareSketch", image=drawing, width=128, height=64)
    out = add(encode(picture()), encode(picture(seed=1)), torch.ones(1, 90, 40), frame=frame)
    mask = out.regions[0].mask
    assert mask.shape == (1, 64, 128)
    assert mask[..., : frame.left].eq(0).all() and mask[..., frame.left + 1 : frame.left + 20].gt(0.9).all()


def test_region_messages(encode, add, pack, caplog):
    base, other = encode(picture()), encode(picture(seed=1))
    narrow = type(base)(base.tokens[..., :32], base.image_size, base.fit)
    with pytest.raises(ValueError, match="tokens of width 32, the reference it is added to 48.*same Load Reference"):
        add(base, narrow, left_half())
    with pytest.raises(ValueError, match="region_reference has 1 added figures of its own.*chain"):
        add(base, add(base, other, left_half()), left_half())
    with pytest.raises(ValueError, match="mask has 1200 of 1200 values that are NaN"):
        add(base, other, left_half() * NAN)
    with pytest.raises(ValueError, match="There are 2 references, 1 references of the region and 3 masks"):
        add(encode(picture(2)), other, left_half(batch=3))
    with caplog.at_level(logging.WARNING):
        out = add(base, other, torch.zeros(1, 64, 64))
    assert len(out.regions) == 1 and "mask of an added region is empty" in caplog.text


# -- Reference Strength per Level --------------------------------------------------------------------------------------


def test_strengths(pack, encode, add):
    base = add(encode(picture()), encode(picture(seed=1)), left_half())
    (out,) = pack.run("ColorizeReferenceStrength", reference=base, high=0.1, low=0.2, encoder=0.5)
    assert (out.levels.high, out.levels.middle, out.levels.low, out.levels.bottom) == (0.1, 1, 0.2, 1)
    assert (out.levels.encoder, out.levels.decoder, out.levels.layers) == (0.5, 1, ())
    assert out.regions == base.regions and base.levels.high == 1
    (again,) = pack.run("ColorizeReferenceStrength", reference=out)
    assert again.levels == base.levels  # in place of the earlier ones


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("", ()),
        ("  \n", ()),
        ("1, 0.5,2", (1, 0.5, 2)),
        ("1 .5\n2,", (1, 0.5, 2)),
        ("1，0.5、2", (1, 0.5, 2)),
    ],
)
def test_list_of_layers(pack, encode, text, values):
    (out,) = pack.run("ColorizeReferenceStrength", reference=encode(picture()), layers=text)
    assert out.levels.layers == values


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1, one, 1", "layers holds '1, one, 1', which is not a list of numbers. Write one number per cross-attention"),
        ("1, -0.5, 3", r"layers holds -0.5, 3. Every number must be between 0 \(off\) and 2"),
        ("1, nan", "layers holds nan. Every"),
        ("inf", "layers holds inf. Every"),
    ],
)
def test_list_of_layers_messages(pack, encode, text, message):
    with pytest.raises(ValueError, match=message):
        pack.run("ColorizeReferenceStrength", reference=encode(picture()), layers=text)


def test_strength_messages(pack, encode):
    with pytest.raises(ValueError, match="low is -1; choose a strength between 0 and 2"):
        pack.run("ColorizeReferenceStrength", reference=encode(picture()), low=-1)


# -- Apply Reference ---------------------------------------------------------------------------------------------------


@pytest.fixture
def applied(pack, monkeypatch):
    """Runs Apply Reference on stand-ins; gives (settings, figure_mask) as `condition` receives them."""
    module, seen = pack.module("nodes.apply"), []
    monkeypatch.setattr(module, "check_match", lambda *args: None)
    monkeypatch.setattr(module, "condition", lambda *args: seen.append(args) or (["positive"], ["negative"]))

    class Model:
        model = "m"

        def clone(self):
            return "clone"

    def run(**kwargs):
        stand_ins = (object(), object())
        out = pack.run(
            "ColorizeApplyReference", model=Model(), colorizer=stand_ins[0], reference=stand_ins[1], **kwargs
        )
        assert out == ("clone", ["positive"], ["negative"])
        model, colorizer, reference, settings, mask = seen.pop()
        assert model == "m" and (colorizer, reference) == stand_ins
        return settings, mask

    return run


def test_prompts_from_before_the_modes_keep_working(pack, applied):
    """Model, colorizer and reference are all that is required; the rest has the settings' own defaults."""
    settings, mask = applied()
    assert settings == pack.module("model_patches.conditioning.conditioning").ReferenceSettings() and mask is None
    assert list(pack.node("ColorizeApplyReference").INPUT_TYPES()["required"]) == ["model", "colorizer", "reference"]
    assert list(pack.node("ColorizeEncodeReference").INPUT_TYPES()["required"]) == ["encoder", "image", "fit"]


def test_every_widget_reaches_the_conditioning(applied):
    values = dict(
        mode="fig2fig", strength=0.9, figure_strength=0.8, background_strength=0.7, merge=0.6, mask_threshold=0.5,
        mask_edges="soft", off_start=0.4, off_end=0.45, noise_level=0.3, variant="released",
    )  # fmt: skip
    settings, mask = applied(**values, start_percent=0.1, end_percent=0.95, figure_mask=left_half()[0])
    assert {name: getattr(settings, name) for name in values} == values
    assert (settings.start, settings.end) == (0.1, 0.95) and torch.equal(mask, left_half())


def test_figure_mask_of_the_drawing(pack, applied):
    _, _, frame = pack.run("ColorizePrepareSketch", image=tiny.drawing(90, 40), width=128, height=64)
    _, mask = applied(mode="masked vanilla", figure_mask=torch.ones(1, 90, 40), frame=frame)
    assert mask.shape == (1, 64, 128) and mask[..., : frame.left].eq(0).all()
    with pytest.raises(ValueError, match="figure_mask has 1200 of 1200 values that are NaN"):
        applied(mode="masked vanilla", figure_mask=left_half() * NAN)
