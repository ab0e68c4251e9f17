"""Two references as one: every part of them, and what cannot be mixed."""

from dataclasses import replace

import pytest
import torch

from colorize.reference.blend import TOKENS, blend
from colorize.reference.types import Reference, Region


def reference(seed: int, count: int = 1, **given) -> Reference:
    """One with everything that XL and v1.5 models read."""
    generator = torch.Generator().manual_seed(seed)

    def tokens(number: int, width: int = 8) -> torch.Tensor:
        return torch.randn(count, number, width, generator=generator)

    values = {
        "tokens": tokens(5),
        "image_size": 224,
        "fit": "stretch",
        "background_tokens": tokens(4),
        "background_class_token": tokens(1),
        "tagger_tokens": tokens(9, 6),
        "background_tagger_tokens": tokens(9, 6),
        "encoder_mark": torch.ones(64),
        "tagger_mark": torch.ones(64),
        "tags": (f"tag {seed}", "both"),
        "palette": ("#ff0000",),
    }
    return Reference(**values | given)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_every_token_is_a_mixture(share):
    first, second = reference(1, edits=("a",), background_threshold=0.2), reference(2, edits=("b",))
    mixed = blend(first, second, share)
    for name in ("tokens", *TOKENS):
        expected = (1 - share) * getattr(first, name) + share * getattr(second, name)
        torch.testing.assert_close(getattr(mixed, name), expected)
    assert mixed.background_threshold == pytest.approx(0.2 + 0.3 * share)
    assert mixed.edits == ("a", "other: b", f"blend: {share:g} of another reference")
    assert mixed.tags == ("tag 1", "both", "tag 2") and mixed.palette == ()


def test_one_goes_with_many_and_added_figures_stay():
    region = Region(torch.zeros(1, 4, 8), torch.ones(1, 8, 8))
    mixed = blend(reference(1, regions=(region,)), reference(2, count=3), 0.5)
    assert mixed.count == 3 and mixed.background_tokens.shape[0] == 3 and mixed.regions == (region,)


def test_plain_references_and_cards_without_marks():
    bare = dict.fromkeys((*TOKENS, "encoder_mark", "tagger_mark"))
    mixed = blend(replace(reference(1), **bare), replace(reference(2), **bare | {"encoder_mark": torch.ones(64)}), 0.5)
    assert mixed.background_tokens is None and mixed.tagger_tokens is None
    assert torch.equal(mixed.encoder_mark, torch.ones(64))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (
            {"tokens": torch.zeros(1, 5, 16)},
            "different encoders .5 tokens of width 8, and 5 of 16.*the same Load",
        ),
        ({"encoder_mark": -torch.ones(64)}, "different encoders"),
        ({"tokens": torch.zeros(2, 5, 8)}, "There are 3 references and 2 other references"),
        ({"regions": (Region(torch.zeros(1, 4, 8), torch.ones(1, 8, 8)),)}, "1 added figures.*Blend first"),
        ({"background_tokens": None}, "Only the reference has a background.*for both, or for none"),
        ({"background_is_picture": True}, "One background is a picture of its own"),
        ({"tagger_tokens": None}, "Only one of the references has a tagger's features"),
        ({"tagger_mark": -torch.ones(64)}, "tagged by different taggers"),
        ({"tagger_tokens": torch.zeros(1, 4, 6)}, "tagged by different taggers"),
    ],
)
def test_what_does_not_go_together_is_told(changed, words):
    with pytest.raises(ValueError, match=words):
        blend(reference(1, count=3), reference(2, **changed), 0.5)


def test_a_share_out_of_range_is_told():
    with pytest.raises(ValueError, match="share is 1.5. Choose a number from 0"):
        blend(reference(1), reference(2), 1.5)
