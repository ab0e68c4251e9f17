"""The small frozen tower for small XL models, and which colouriser a command loads."""

from __future__ import annotations

import pytest
import torch

from colorize.reference.tag_lists import TagList
from colorize.reference.wd_tagger import WDTagger
from trainer.__main__ import main
from trainer.commands.tiny_tagger import SIZES, tiny_tagger
from trainer.config import ConfigError
from trainer.models import checkpoint, xl_colorizer
from trainer.models.xl_colorizer import read_tagger, tagger_tokens


def test_the_command_writes_a_tagger_of_the_published_layout(tmp_path, capsys):
    path = tmp_path / "tagger.safetensors"
    assert main(["tiny-tagger", "--output", str(path)]) == 0
    assert "features of width 64" in capsys.readouterr().out
    network = read_tagger(str(path))
    _, metadata = checkpoint.read_tensors(path)
    assert len(TagList.parse(metadata["colorize.selected_tags"])) == network.classes == SIZES["classes"]
    references = torch.rand(2, 3, 64, 80) * 2 - 1
    assert tagger_tokens(network, references).shape == (2, 196, 64)


def test_weights_follow_from_the_seed_and_leave_torch_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    one, again, other = tiny_tagger(0)[0], tiny_tagger(0)[0], tiny_tagger(1)[0]
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(one[key], again[key]) for key in one)
    assert not torch.equal(one["patch_embed.proj.weight"], other["patch_embed.proj.weight"])


@torch.no_grad()
def test_its_features_tell_colours_apart():
    tensors, metadata = tiny_tagger()
    network = WDTagger.from_state_dict(tensors, metadata)
    flat = [torch.full((1, 3, 112, 112), 0.0) for _ in range(3)]
    for channel, picture in enumerate(flat):
        picture[:, channel] = 1.0
    red, green, blue = (tagger_tokens(network, picture)[0, 50] for picture in flat)
    assert min((red - green).norm(), (green - blue).norm(), (red - blue).norm()) > 1


def test_an_xl_model_needs_its_tagger(tmp_path):
    path = tmp_path / "xl.safetensors"
    checkpoint.write_tensors(path, {"proj.proj.0.weight": torch.zeros(2, 2)}, {})
    with pytest.raises(ConfigError, match="is an XL model: name its tagger with --tagger"):
        xl_colorizer.load(str(path), "encoder.safetensors", "", torch.device("cpu"))
    with pytest.raises(ConfigError, match="does not exist"):
        xl_colorizer.load(str(tmp_path / "none.safetensors"), "encoder.safetensors", "", torch.device("cpu"))
