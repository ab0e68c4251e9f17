"""The Swin V2 tagger, pictures for it, and lines of tags. The numbers are in the golden cases."""

import numpy as np
import pytest
import torch
from PIL import Image

from colorize.reference import tag_lists, wd_tagger
from colorize.reference.tag_lists import TagList, TagOptions, line, select
from colorize.reference.wd_tagger import WDTagger, prepare
from tests.tiny import prefixed, randomised

SIZES = dict(embed_dim=8, depths=(1, 1, 2, 1), heads=(1, 1, 2, 4), image_size=128, window=4)
METADATA = {"colorize.image_size": "128", "colorize.window_size": "4"}


@pytest.fixture(scope="module")
def tagger():
    network = WDTagger(9, **SIZES).eval()
    network.model.load_state_dict(randomised(network.model))
    return network.requires_grad_(False)


# -- the network -------------------------------------------------------------------------------------------------------


def test_published_names_and_sizes(golden_keys):
    with torch.device("meta"):
        network = WDTagger(9083)
    published = {key: value.shape for key, value in golden_keys("wd_v14_swinv2_timm").items()}
    assert {key: value.shape for key, value in network.model.state_dict().items()} == published


@pytest.mark.parametrize("prefix", ["", "img_embedder.model."])
def test_files(tagger, prefix):
    """Sizes come from the tensors; half precision and buffers of older timm versions are accepted."""
    weights = {key: value.half() for key, value in tagger.model.state_dict().items()}
    weights["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(3)
    network = WDTagger.from_state_dict(prefixed(prefix, weights) | {"other": torch.ones(1)}, METADATA)
    assert network.classes == 9 and not network.training and network.model.norm.weight.dtype == torch.float32
    picture = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(0)) * 2 - 1
    probabilities, tokens = network(picture)
    assert probabilities.shape == (2, 9) and tokens.shape == (2, 16, 64)
    assert (probabilities - tagger(picture)[0]).abs().max() < 2e-2
    pooled = torch.sigmoid(network.logits(tokens.mean(dim=1, keepdim=True)))[:, 0]
    assert torch.allclose(pooled, probabilities, atol=1e-6)


def test_wrong_files(tagger):
    weights = tagger.model.state_dict()
    with pytest.raises(ValueError, match="no Swin V2 tagger in timm's layout in this file; it holds conv.weight"):
        WDTagger.from_state_dict({"conv.weight": torch.ones(1)})
    with pytest.raises(ValueError, match="1 tensors are missing in the file, for example norm.bias"):
        WDTagger.from_state_dict({k: v for k, v in weights.items() if k != "norm.bias"}, METADATA)
    with pytest.raises(ValueError, match=r"norm.bias has the shape \(3,\), expected \(64,\)"):
        WDTagger.from_state_dict(weights | {"norm.bias": torch.ones(3)}, METADATA)


# -- pictures ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kernel", "pillow"), [(wd_tagger.BICUBIC, Image.BICUBIC), (wd_tagger.LANCZOS, Image.LANCZOS)])
@pytest.mark.parametrize(("source", "target"), [((50, 37), (20, 64)), ((9, 11), (30, 8)), ((1, 40), (16, 16))])
def test_resampling_is_pillows(kernel, pillow, source, target):
    """Middle levels: where values are clipped, Pillow 12 and 13 differ themselves (other order of the directions)."""
    levels = torch.randint(70, 186, (*source, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    expected = np.array(Image.fromarray(levels.numpy()).resize(target[::-1], pillow), dtype=np.float32)
    ours = wd_tagger._resampled(levels.movedim(-1, 0)[None].float(), *target, kernel)[0].movedim(0, -1)
    assert (ours - torch.from_numpy(expected)).abs().max() <= 1


@pytest.mark.parametrize(("source", "target"), [(96, 64), (7, 3), (448, 448), (1000, 448)])
def test_area_keeps_the_mean(source, target):
    weights = wd_tagger._area_weights(source, target)
    assert torch.allclose(weights.sum(dim=1), torch.ones(target, dtype=torch.float64))
    assert torch.allclose(weights.sum(dim=0), torch.full((source,), target / source, dtype=torch.float64))


@pytest.mark.parametrize("preparation", wd_tagger.PREPARATIONS)
@pytest.mark.parametrize("size", [(1, 1), (1, 90), (90, 1), (33, 20), (64, 64)])
def test_any_size_and_bgr(preparation, size):
    red = torch.zeros(1, 3, *size)
    red[:, 0] = 1
    pixels = prepare(red, 32, preparation)
    assert pixels.shape == (1, 3, 32, 32) and torch.isfinite(pixels).all()
    if preparation == "xl" or 2 * min(size) > max(size):
        assert pixels[0, :, 16, 16].round().tolist() == [0, 0, 255]
    corner = pixels[0, :, 0, 0].round().tolist()
    assert corner == ([0, 0, 255] if preparation == "xl" or size[0] == size[1] else [255, 255, 255])
    assert wd_tagger.to_onnx(pixels).shape == (1, 32, 32, 3)
    assert wd_tagger.to_network(torch.tensor([0.0, 255.0])).tolist() == [-1, 1]


def test_unknown_preparation():
    with pytest.raises(ValueError, match="preparation is 'mine'; choose one of author, xl, wd14_node, sd_scripts"):
        prepare(torch.rand(1, 3, 8, 8), 32, "mine")


# -- tags --------------------------------------------------------------------------------------------------------------

CSV = """tag_id,name,category,count
1,general,9,10
2,explicit,9,9
3,long_hair,0,8
4,^_^,0,7
5,smile_(mood),0,6
6,hatsune_miku,4,5
"""
TAGS = TagList.parse(CSV)
PROBABILITIES = torch.tensor([0.2, 0.7, 0.5, 0.9, 0.36, 0.86])


def general(**options):
    options = TagOptions(**options)
    return line(select(PROBABILITIES, TAGS, options).general, options)


def test_tags_are_split_and_sorted():
    found = select(PROBABILITIES, TAGS, TagOptions())
    assert [name for name, _ in found.general] == ["^_^", "long_hair", "smile_(mood)"]
    assert found.characters[0][0] == "hatsune_miku" and found.rating[0] == "explicit"
    assert general() == "^_^, long hair, smile \\(mood\\)"
    assert general(order="list") == "long hair, ^_^, smile \\(mood\\)"


def test_spelling():
    assert general(spaces=False, escape=False) == "^_^, long_hair, smile_(mood)"
    assert general(keep_kaomoji=False, escape=False) == "^ ^, long hair, smile (mood)"
    assert general(scores=True, threshold=0.4) == "(^_^:0.90), (long hair:0.50)"


def test_thresholds_are_exceeded_not_met():
    assert general(threshold=0.5) == "^_^"
    assert general(threshold=1.0) == ""
    assert not select(PROBABILITIES, TAGS, TagOptions(character_threshold=0.9)).characters


def test_exclusion_does_not_mind_spelling():
    assert general(exclude=" Long Hair ,\nsmile_\\(mood\\), nothing") == "^_^"


def test_the_gap_rule():
    assert general(rule="gap") == "^_^"  # 0.9 | 0.5, 0.36
    flat = select(torch.zeros(6), TAGS, TagOptions(rule="gap"))
    assert flat.general == () and flat.characters == ()


def test_nan_is_no_tag():
    assert not select(torch.full((6,), float("nan")), TAGS, TagOptions()).general


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "name,category\nx,no\n", "<html>"])
def test_what_is_no_tag_list(text):
    with pytest.raises(ValueError, match="my.csv is no list of tags: it needs the columns name and category"):
        TagList.parse(text, "my.csv")


def test_messages():
    with pytest.raises(ValueError, match="The tagger answers 3 tags, its list has 6. Take the selected_tags.csv"):
        select(torch.rand(3), TAGS, TagOptions())
    with pytest.raises(ValueError, match="threshold is 2; it lies between 0 and 1"):
        TagOptions(threshold=2)
    with pytest.raises(ValueError, match="order is 'name'; choose one of score, list"):
        TagOptions(order="name")
    assert len(tag_lists.KAOMOJI) == 19
