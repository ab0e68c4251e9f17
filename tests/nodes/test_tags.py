"""Tag Reference on a tiny tagger: lines per picture, options, features, the report."""

import pytest
import torch

from tests.tiny import randomised

TAGS = ("general", "explicit", "long_hair", "^_^", "smile_(mood)", "hatsune_miku")
CATEGORIES = (9, 9, 0, 0, 0, 4)


@pytest.fixture(scope="module")
def tagger(pack):
    """A Swin V2 of 128 pixels and 16 tokens whose classifier is all bias, so that its answers are known."""
    import comfy.model_patcher

    network = pack.module("colorize.reference.wd_tagger").WDTagger(
        6, embed_dim=8, depths=(1, 1, 1, 1), heads=(1, 1, 2, 4), image_size=128, window=4
    )
    weights = randomised(network.model)
    weights["head.fc.weight"].zero_()
    weights["head.fc.bias"] = torch.logit(torch.tensor([0.2, 0.7, 0.5, 0.9, 0.36, 0.86]))
    network.model.load_state_dict(weights)
    cpu = torch.device("cpu")
    module = pack.module("model_patches.reference.tagger")
    patcher = comfy.model_patcher.CoreModelPatcher(network.eval(), load_device=cpu, offload_device=cpu)
    tags = pack.module("colorize.reference.tag_lists").TagList(TAGS, CATEGORIES)
    return module.LoadedTagger(network, patcher, tags, "tiny.safetensors", 128)


@pytest.fixture
def tag(pack, tagger):
    def run(image=None, **widgets):
        image = torch.rand(1, 40, 30, 3) if image is None else image
        values = dict(threshold=0.35, character_threshold=0.85, exclude="", underscores=False) | widgets
        return pack.run("ColorizeTagReference", tagger=tagger, image=image, **values)

    return run


def test_a_line_per_picture(tag):
    tags, characters, rating, report, features = tag(torch.rand(2, 40, 30, 4))
    assert tags == ["^_^, long hair, smile \\(mood\\)"] * 2
    assert characters == ["hatsune miku"] * 2 and rating == ["explicit"] * 2
    assert report.startswith("tiny.safetensors (torch, cpu)\nPicture 1: rating explicit 0.70\n")
    assert "  hatsune_miku 0.86 (character)\n" in report and "Picture 2" in report
    assert features.tokens.shape == (2, 16, 64) and features.preparation == "author"


def test_widgets(tag):
    assert tag(underscores=True, escape_brackets=False)[0] == ["^_^, long_hair, smile_(mood)"]
    assert tag(exclude="Long Hair, ^_^")[0] == ["smile \\(mood\\)"]
    assert tag(threshold=0.4, scores=True)[0] == ["(^_^:0.90), (long hair:0.50)"]
    assert tag(order="list")[0] == ["long hair, ^_^, smile \\(mood\\)"]
    assert tag(rule="gap")[0] == ["^_^"] and tag(character_threshold=0.9)[1] == [""]


def test_the_picture_matters_and_the_batch_does_not(tag):
    images = torch.rand(9, 40, 30, 3)  # more than a chunk
    together = tag(images)[4].tokens
    assert (together[8:] - tag(images[8:])[4].tokens).abs().max() < 1e-4
    assert not torch.allclose(together[0], together[1], atol=1e-3)
    squashed = tag(images, preparation="xl")[4]
    assert squashed.preparation == "xl" and not torch.allclose(squashed.tokens, together, atol=1e-3)


def test_transparent_parts_are_white(tag):
    image = torch.rand(1, 30, 30, 3)
    mask = torch.zeros(1, 30, 30)
    mask[:, :15] = 1
    white = image.clone()
    white[:, :15] = 1
    assert torch.allclose(tag(image, mask=mask)[4].tokens, tag(white)[4].tokens, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 1, 1, 3), (1, 1, 300, 1), (1, 500, 2, 4)])
def test_any_picture(tag, shape):
    for image in (torch.rand(shape), torch.full(shape, float("nan"))):
        assert torch.isfinite(tag(image)[4].tokens).all()


def test_messages(tag):
    with pytest.raises(ValueError, match="expected a picture batch"):
        tag(torch.rand(4, 4, 3))
    with pytest.raises(ValueError, match="preparation is 'mine'"):
        tag(preparation="mine")
