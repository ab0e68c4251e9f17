"""Correlation Preview: what it draws, what it suggests, and that names, colours, thresholds and weights agree."""

import pytest
import torch

from colorize.reference import correlation, manipulation
from colorize.reference.edits import Edit, manipulate_local
from colorize.reference.types import Reference
from tests import tiny


def test_preview_of_a_sequence(words, encode, text_encoder):
    """Three edits, each with its heat map; the thresholds of a preview go into the edit that follows."""
    image = tiny.picture(height=60, width=20)
    reference = encode(image)
    for prompt in ("hair", "dress", "sky"):
        shown, thresholds, text = words(
            "ColorizeCorrelationPreview", reference=reference, text_encoder=text_encoder, control=prompt, image=image
        )
        assert shown.ndim == 4 and shown.shape[0] == 1 and shown.shape[-1] == 3
        assert shown.min() >= 0 and shown.max() <= 1 and shown.std() > 0.1
        assert thresholds == manipulation.check_thresholds(thresholds)
        lines = text.splitlines()
        assert lines[0] == f'prompt: "{prompt}"' and len(lines) == 8
        assert sum(int(line.split("%")[0].split()[-1]) for line in lines[2:7]) in range(97, 104)
        (reference,) = words(
            "ColorizeManipulateLocal", reference=reference, text_encoder=text_encoder, target=f"red {prompt}",
            control=prompt, thresholds=thresholds,
        )  # fmt: skip
    assert len(reference.edits) == 3


def test_preview_shows_itself(pack, encode, text_encoder):
    node = pack.module("nodes.manipulate").ColorizeCorrelationPreview
    out = node.EXECUTE_NORMALIZED(reference=encode(tiny.picture()), text_encoder=text_encoder, control="hair")
    (file,) = out.ui["images"] if isinstance(out.ui, dict) else out.ui.as_dict()["images"]
    assert file["type"] == "temp" and file["filename"].endswith(".png")
    assert node.GET_SCHEMA().is_output_node


def test_preview_of_a_batch_and_of_a_background(words, encode, text_encoder):
    half = torch.zeros(1, 40, 30)
    half[..., :15] = 1
    reference = encode(tiny.picture(2), figure_mask=half)
    inputs = dict(reference=reference, text_encoder=text_encoder, control="hair")
    chosen = dict(thresholds_from="widgets", threshold_away=0.2, threshold_start=0.4, threshold_half=0.6)
    shown, thresholds, text = words("ColorizeCorrelationPreview", **inputs, **chosen)
    assert len(shown) == 2 and thresholds == (0.2, 0.4, 0.6, 0.95) and "reference 2" in text
    behind, _, _ = words("ColorizeCorrelationPreview", **inputs, **chosen, part="background")
    assert not torch.equal(behind, shown)
    assert len(words("ColorizeCorrelationPreview", **inputs, image=tiny.picture())[0]) == 2
    with pytest.raises(ValueError, match="There are 3 pictures for 2 references"):
        words("ColorizeCorrelationPreview", **inputs, image=tiny.picture(3))
    with pytest.raises(ValueError, match="The prompt is empty"):
        words("ColorizeCorrelationPreview", **(inputs | {"control": ""}))
    odd = type(reference)(reference.tokens[:, :16], reference.image_size, reference.fit)
    with pytest.raises(ValueError, match="15 local tokens, which form no square"):
        words("ColorizeCorrelationPreview", **(inputs | {"reference": odd}))


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
    local = torch.randn(256, tiny.CONFIG.context_dim, generator=generator)
    local += (projections - local @ c)[:, None] * c
    reference = Reference(torch.cat([torch.zeros(1, tiny.CONFIG.context_dim), local])[None], 64, "stretch")
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
