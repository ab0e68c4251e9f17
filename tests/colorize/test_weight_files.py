"""Weight files of strangers: small files that would fill the memory or never end are refused by their sizes."""

from __future__ import annotations

import time
import zipfile

import pytest
import torch

from colorize import families, names, weight_files
from colorize.animediffusion import markers as anime
from colorize.animediffusion import unet
from colorize.reference import recovery, text, vision, wd_tagger
from colorize.reference.encoder_file import load_reference_encoder
from colorize.reference.geometry_tags import is_geometry
from colorize.reference.tag_lists import TagList
from colorize.sketch import extractors
from colorize.sketch.encoder import SketchEncoder


def tower(**more: torch.Tensor) -> dict[str, torch.Tensor]:
    """A vision tower of width 16 with one block, as far as its sizes are read."""
    tensors = vision.ReferenceEncoder(16, 8, 16, 1, 8, 8).visual.state_dict()
    return {f"visual.{key}": value for key, value in tensors.items()} | more


@pytest.mark.parametrize("number", ["99999", "9" * 5000, "x", "²", "-1", ""])
def test_numbers_of_blocks_are_from_zero_without_gaps(number):
    load_reference_encoder(tower(), {"colorize.head_width": "8"})  # imports open_clip
    started = time.process_time()
    with pytest.raises(ValueError, match="expected 0 to n-1 without gaps"):
        load_reference_encoder(
            tower(**{f"visual.transformer.resblocks.{number}.ln_1.weight": torch.ones(1)}), {"colorize.head_width": "8"}
        )
    assert time.process_time() - started < 5


def test_every_network_counts_its_blocks_so():
    one = torch.ones(1)
    recovers = {"transformer.embedding": torch.ones(4, 8), "transformer.layers.99999.0.weight": one}
    with pytest.raises(ValueError, match="numbers 99999; expected"):
        recovery.BackgroundEncoder.from_state_dict(recovers)
    lines = {f"block{n}.model.0.conv1.model.2.weight": torch.ones(4, 4, 3, 3) for n in range(10)}
    lines["block3.model.88888888.conv1.model.2.weight"] = one
    with pytest.raises(ValueError, match="cannot be read"):
        extractors.load_network(lines)
    tags = {wd_tagger.PATCHES: torch.ones(4, 3, 4, 4), "head.fc.weight": torch.ones(2, 4)}
    tags |= {"layers.0.blocks.0.attn.logit_scale": one, "layers.777777.blocks.0.x": one}
    with pytest.raises(ValueError, match="levels of the tagger"):
        wd_tagger.WDTagger.from_state_dict(tags)
    faces = {"input.0.weight": torch.ones(4, 3, 3, 3), "output.2.weight": torch.ones(3, 4, 3, 3)}
    faces["encoder_block.99999.conv1.2.weight"] = one
    with pytest.raises(ValueError, match="with gaps"):
        unet.config_from_tensors(faces)
    words = {"token_embedding.weight": torch.ones(4, 8), "text_projection": torch.ones(8, 8)}
    words |= {f"transformer.resblocks.{n}.x": one for n in range(600)}
    with pytest.raises(ValueError, match="n at most 512"):
        text.load_text_encoder(words)


def test_a_network_that_is_not_in_the_file_is_not_built():
    """Two small tensors whose sizes together ask for a layer of 4 TB."""
    million = torch.ones(1_000_000, 1)
    with pytest.raises(ValueError, match="missing|shape"):
        recovery.ScalarEmbedder.from_state_dict(
            {"thresh_embedder.embed_layer.0.weight": million, "thresh_embedder.embed_layer.2.weight": million}
        )
    encoder = {"model.0.weight": torch.ones(4, 3, 3, 3), "zero_layer.0.weight": million[..., None, None]}
    with pytest.raises(ValueError, match="missing|shape"):
        SketchEncoder.from_state_dict(encoder | {"zero_blocks.0.0.weight": million[..., None, None]})


@pytest.mark.parametrize("entry", ["0", "-1", "1e9", "²", "9" * 5000, "nan", "8.0", ""])
def test_metadata_holds_whole_numbers_in_range(entry):
    for key, read in (
        ("colorize.head_width", lambda m: load_reference_encoder(tower(), m)),
        ("colorize.window_size", lambda m: wd_tagger.WDTagger.from_state_dict(_tagger(), m)),
        ("colorize.image_size", lambda m: wd_tagger.WDTagger.from_state_dict(_tagger(), m)),
        (anime.HEADS_MARKER, lambda m: anime.attention_heads({}, m)),
        (anime.STEPS_MARKER, lambda m: anime.chain_steps({}, m)),
    ):
        with pytest.raises(ValueError, match=f"metadata {key} is .*expected a whole number"):
            read({key: entry})


def _tagger() -> dict[str, torch.Tensor]:
    return {
        wd_tagger.PATCHES: torch.ones(4, 3, 4, 4),
        "head.fc.weight": torch.ones(2, 4),
        "layers.0.blocks.0.attn.logit_scale": torch.ones(1),
        "layers.0.blocks.0.mlp.fc1.weight": torch.ones(16, 4),
    }


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -3.0, 0.5, 1e30, 1 + 2j])
def test_marker_tensors_of_nonsense_are_no_width(value):
    marker = {names.HEAD_WIDTH: torch.tensor(value)}
    assert families.head_width_marker(marker) == -1
    with pytest.raises(ValueError):
        anime.attention_heads({anime.HEADS_MARKER: torch.tensor(value)})
    with pytest.raises(ValueError):
        anime.chain_steps({anime.STEPS_MARKER: torch.tensor(value)})
    assert families.head_width_marker({names.HEAD_WIDTH: torch.tensor(64)}) == 64
    assert anime.attention_heads({anime.HEADS_MARKER: torch.tensor(4)}) == 4


@pytest.mark.parametrize("shape", [(), (0,), (3,), (0, 0, 0, 0), (1, 1)])
def test_tensors_of_other_ranks_are_told(shape):
    for key in list(tower())[:12]:
        with pytest.raises(ValueError):
            load_reference_encoder(tower(**{key: torch.zeros(shape)}), {"colorize.head_width": "8"})
    state_dict = {
        "model.diffusion_model.input_blocks.0.0.weight": torch.zeros(shape),
        "control_encoder.zero_blocks.0.0.weight": torch.zeros(shape),
        "model.diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight": torch.zeros(shape),
    }
    with pytest.raises(families.CheckpointError, match="is damaged|is incomplete"):
        families.detect(state_dict, {}, "a.ckpt")


def test_tensors_larger_than_their_storage_are_refused(tmp_path):
    for tensors in (
        {"a": torch.ones(1).expand(1_000_000, 1000)},
        {str(n): torch.ones(200_000).expand(10, 200_000) for n in range(3)},
        {"shared": torch.ones(300_000)} | {f"again{n}": None for n in range(9)},
    ):
        shared = next(iter(tensors.values()))
        tensors = {key: shared if value is None else value for key, value in tensors.items()}
        torch.save(tensors, tmp_path / "a.pt")
        size = (tmp_path / "a.pt").stat().st_size
        with pytest.raises(ValueError, match="made to fill the memory"):
            weight_files.check_tensors(torch.load(tmp_path / "a.pt", weights_only=True), size, "a.pt")
    with pytest.raises(ValueError, match="empty tensor"):
        weight_files.check_tensors({"a": torch.zeros(10**9, 0)}, 1, "a.pt")
    with pytest.raises(ValueError, match="another kind"):
        weight_files.check_tensors({"a": torch.zeros(3, 3).to_sparse()}, 1, "a.pt")
    weight_files.check_tensors(
        {"v_pred": torch.tensor([]), "tied": torch.ones(4).T, "half": torch.ones(4)[:2]}, 99, "a"
    )


def test_archives_that_unpack_a_thousandfold_are_refused_unread(tmp_path):
    torch.save({"a": torch.zeros(3_000_000)}, tmp_path / "a.pt")
    weight_files.check_before_reading(tmp_path / "a.pt")
    with (
        zipfile.ZipFile(tmp_path / "a.pt") as old,
        zipfile.ZipFile(tmp_path / "b.pt", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(ValueError, match="would unpack to 120.*made to fill the memory"):
        weight_files.check_before_reading(tmp_path / "b.pt")
    (tmp_path / "c.pt").write_bytes(b"PK nothing")
    weight_files.check_before_reading(tmp_path / "c.pt")  # whoever reads it says what is wrong


# -- words -------------------------------------------------------------------------------------------------------------


def test_long_names_of_tags_take_no_time():
    started = time.process_time()
    assert is_geometry("0" * 100_000) and not is_geometry("a0b0c" + "0" * 100_000)
    assert time.process_time() - started < 1
    assert is_geometry("^_^") and is_geometry("o_o") and is_geometry(":d") and not is_geometry("...")


@pytest.mark.parametrize(
    "text_of_list, message",
    [
        ("name,category\n" + "a" * 200_000 + ",0\n", "is no list of tags"),
        ('name,category\n"two\nlines",0\n', "no tagger has"),
        ("name,category\n\x1b[2Jcleared,0\n", "no tagger has"),
        ("name,category\n" + "a" * 400 + ",0\n", "no tagger has"),
        ("name,category\na\n", "is no list of tags"),
        ("name,category\na," + "9" * 5000 + "\n", "is no list of tags"),
    ],
)
def test_lists_of_tags_of_nonsense_are_told(text_of_list, message):
    with pytest.raises(ValueError, match=message):
        TagList.parse(text_of_list, "a.csv")
