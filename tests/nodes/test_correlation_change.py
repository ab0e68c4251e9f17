"""Correlation Preview with a reference before: dscale of v1's paper, against its formula taken place by place."""

import pytest
import torch

from colorize.reference import correlation_change
from colorize.reference.correlation import MARGIN, SIDE
from colorize.reference.types import Reference
from tests import tiny

D = tiny.CONFIG.context_dim


def reference(rows=1, tokens=16, width=D, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Reference(torch.randn(rows, 1 + tokens, width, generator=generator), 64, "stretch")


def test_it_is_the_papers_formula():
    after, before, e = reference(2, seed=1), reference(1, seed=2), torch.randn(D)
    found = correlation_change.measure(after, before, e)
    for row, change in enumerate(found):
        for place in range(16):
            wanted = sum(
                float((after.tokens[row, 1 + place, i] - before.tokens[0, 1 + place, i]) * e[i]) for i in range(D)
            )
            assert change.local[place].item() == pytest.approx(wanted, abs=1e-4)
        wanted = float(((after.tokens[row, 0] - before.tokens[0, 0]) * e).sum())
        assert change.whole == pytest.approx(wanted, abs=1e-4)
        assert change.before == pytest.approx(float((before.tokens[0, 0] * e).sum()), abs=1e-4)


def test_what_shows_more_of_the_words_is_blue():
    before, e = reference(), torch.nn.functional.normalize(torch.randn(D), dim=0)
    tokens = before.tokens.clone()
    tokens[:, 1 + 5] -= 2 * e  # a place that shows more of it loses
    tokens[:, 1 + 9] += e
    tokens[:, 0] += 3 * e
    (change,) = correlation_change.measure(Reference(tokens, 64, "stretch"), before, e)
    assert (change.largest, change.whole) == (pytest.approx(2, abs=1e-4), pytest.approx(3, abs=1e-4))
    drawn = (correlation_change.draw(change, "hair") * 255).round().int()

    def cell(place):
        row, column = divmod(place, 4)
        y, x = ((side * 2 + 1) * SIDE // 8 + MARGIN for side in (row, column))
        return drawn[y, x].tolist()

    assert cell(5) == list(bytes.fromhex(correlation_change.LOSS[1:]))
    assert cell(0) == list(bytes.fromhex(correlation_change.NONE[1:]))
    red, green, blue = cell(9)
    assert red > blue and red < 247, "half of the way to red"
    text = correlation_change.report(change, "hair")
    assert "(+3.00)" in text[1] and "-2.00 to +1.00" in text[2]


def test_no_change_is_drawn_white():
    same = reference()
    (change,) = correlation_change.measure(same, same, torch.randn(D))
    assert not change.local.any() and change.whole == 0
    shown = correlation_change.draw(change, "hair")[MARGIN + 8 : MARGIN + SIDE - 8, MARGIN + 8 : MARGIN + SIDE - 8]
    assert torch.equal((shown * 255).round().unique(), torch.tensor([247.0]))


def test_references_that_cannot_be_compared_are_told():
    e = torch.randn(D)
    with pytest.raises(ValueError, match="16 local tokens .* those before 25"):
        correlation_change.measure(reference(), reference(tokens=25), e)
    with pytest.raises(ValueError, match="There are 2 references before for 3 references"):
        correlation_change.measure(reference(3), reference(2), e)


def test_an_edit_seen_by_the_node(words, encode, text_encoder):
    """The place of an edit loses on its words; thresholds stay those of the reference."""
    image = tiny.picture(height=60, width=20)
    before = encode(image)
    inputs = {"text_encoder": text_encoder, "control": "hair"}
    _, thresholds, _ = words("ColorizeCorrelationPreview", reference=before, **inputs)
    (after,) = words(
        "ColorizeManipulateLocal", reference=before, text_encoder=text_encoder, target="hair", control="hair",
        thresholds=thresholds,
    )  # fmt: skip
    plain, kept, _ = words("ColorizeCorrelationPreview", reference=after, **inputs)
    shown, same, text = words("ColorizeCorrelationPreview", reference=after, before=before, image=image, **inputs)
    assert kept == same and not torch.equal(plain, shown)
    assert text.startswith('prompt: "hair", change from the reference before')
    assert shown.min() >= 0 and shown.max() <= 1
