"""Family detection: from tensor names and sizes, with messages that name the next step."""

import logging

import pytest
import torch

from colorize import families
from colorize.sketch.encoder import SketchEncoder
from colorize.unet.config import UNetConfig
from colorize.unet.unet import UNet


def meta(*shape):
    return torch.empty(shape, device="meta")


@pytest.fixture(scope="module")
def v1():
    """Names and sizes of a full-size v1 checkpoint, without memory."""
    with torch.device("meta"):
        unet, encoder = UNet(UNetConfig()), SketchEncoder()
    keys = {f"model.diffusion_model.{k}": v for k, v in unet.state_dict().items()}
    keys |= {f"control_encoder.{k}": v for k, v in encoder.state_dict().items()}
    return keys | {"first_stage_model.decoder.conv_in.weight": meta(512, 4, 3, 3), "betas": meta(1000)}


def test_full_size_v1(v1):
    family = families.detect(v1)
    assert family == families.Family("v1", "ColorizeDiffusion v1", "v", "default", 320, 1024, 64)


def test_narrow_v1_with_metadata():
    with torch.device("meta"):
        unet = UNet(UNetConfig(model_channels=96, channel_mult=(1, 2, 3, 4), num_head_channels=32, context_dim=384))
        encoder = SketchEncoder((96, 192, 288, 384), 96)
    keys = {f"model.diffusion_model.{k}": v for k, v in unet.state_dict().items()}
    keys |= {f"control_encoder.{k}": v for k, v in encoder.state_dict().items()}
    family = families.detect(keys, {"colorize.num_head_channels": "32", "colorize.prediction_type": "eps"})
    assert (family.model_channels, family.context_dim, family.num_head_channels) == (96, 384, 32)
    assert (family.prediction_type, family.prediction_source) == ("eps", "metadata")
    keys["colorize.num_head_channels"] = torch.tensor(32)
    assert families.detect(keys).num_head_channels == 32
    del keys["colorize.num_head_channels"]
    with pytest.raises(families.CheckpointError, match="64 channels do not divide.*96.*trainer convert"):
        families.detect(keys)


LORA = "model.diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_q.lora_down_fg.weight"


def test_v1_5_is_v1_with_region_weights(v1):
    assert not families.detect(v1).has_regions
    family = families.detect(v1 | {LORA: meta(4, 1280)})
    assert (family.name, family.has_regions) == ("v1.5", True)


@pytest.mark.parametrize("part", ["thresh_embedder.embed_layer.0.weight", "transformer.layers.0.0.weight"])
def test_v1_5_without_region_weights_is_incomplete(v1, part):
    with pytest.raises(families.CheckpointError, match="no region weights"):
        families.detect(v1 | {part: meta(1024, 256)})


@pytest.mark.parametrize(
    ("part", "missing"),
    [
        ("model.diffusion_model.warp_modules.", "no warp modules"),
        ("model.diffusion_model.style_modules.", "no style modules"),
        (".lora_", "no region weights"),
        ("style_encoder.", "no style encoder"),
        ("bg_encoder.", "no background encoder"),
    ],
)
def test_v2_without_a_part_is_incomplete(golden_keys, part, missing):
    """Named, not half loaded as a file of another family."""
    keys = {key: value for key, value in golden_keys("v2").items() if part not in key}
    with pytest.raises(families.CheckpointError, match=f"incomplete v2 checkpoint: it has {missing}.*Download"):
        families.detect(keys)


@pytest.mark.parametrize("prefix", ["denoise_fn.", "module.denoise_fn.", "model.diffusion_model.", ""])
def test_animediffusion_is_sent_to_its_own_loader(prefix):
    keys = (f"{prefix}{k}.weight" for k in ("encoder_block.0.conv1.2", "bottom_block.1.attention.1"))
    with pytest.raises(families.CheckpointError, match="'face.pth' is an AnimeDiffusion .*Load AnimeDiffusion"):
        families.detect({key: meta(1) for key in keys}, file_name="face.pth")


@pytest.mark.parametrize("name", ["v1", "v1_5", "v2", "sdxl", "xlv2", "animediffusion", "clip_vit_h"])
def test_released_key_lists(golden_keys, name):
    keys = golden_keys(name)
    ours = {"v1": "v1", "v1_5": "v1.5", "v2": "v2", "sdxl": "xl", "xlv2": "xl-plugin"}
    if name in ours:
        assert families.detect(keys).name == ours[name]
        return
    title = {"animediffusion": "AnimeDiffusion"}
    with pytest.raises(families.CheckpointError, match=title.get(name, "not a.* ColorizeDiffusion")):
        families.detect(keys)


@pytest.mark.parametrize(
    ("key", "what"),
    [
        ("conditioner.embedders.0.transformer.x", "SDXL"),
        ("cond_stage_model.transformer.text_model.x", "Stable Diffusion 1"),
        ("cond_stage_model.model.x", "Stable Diffusion 2"),
        ("lora_unet_input_blocks_1.lora_down.weight", "models/loras"),
        ("visual.transformer.resblocks.0.x", "models/clip_vision"),
        ("decoder.conv_in.weight", "Load VAE"),
        ("module.model.diffusion_model.x", "trainer convert"),
    ],
)
def test_strangers_are_told_where_they_belong(key, what):
    with pytest.raises(families.CheckpointError, match=what):
        families.detect({key: meta(1)}, file_name="x.safetensors")


def test_unknown_file_lists_ten_names():
    with pytest.raises(families.CheckpointError) as error:
        families.detect({f"tensor{i:02d}": meta(1) for i in range(30)}, file_name="面白い.pt")
    text = str(error.value)
    assert "面白い.pt" in text and "tensor09" in text and "tensor10" not in text and "30 tensors" in text
    with pytest.raises(families.CheckpointError, match="First names: none"):
        families.detect({})


def test_unet_without_sketch_encoder(v1):
    keys = {k: v for k, v in v1.items() if not k.startswith("control_encoder.")}
    keys["colorize.num_head_channels"] = torch.tensor(64)
    with pytest.raises(families.CheckpointError, match="no sketch encoder"):
        families.detect(keys)


def test_incomplete_and_mixed_files(v1):
    keys = dict(v1)
    del keys["model.diffusion_model.input_blocks.0.0.weight"]
    with pytest.raises(families.CheckpointError, match="incomplete.*input_blocks.0.0.weight"):
        families.detect(keys)
    keys = v1 | {"control_encoder.zero_layer.0.weight": meta(96, 96, 1, 1)}
    with pytest.raises(families.CheckpointError, match="320 channels wide.*96"):
        families.detect(keys)


def test_bad_head_width_metadata(v1):
    with pytest.raises(families.CheckpointError, match="not a whole number"):
        families.detect(v1, {"colorize.num_head_channels": "wide"})


def test_other_sketch_polarity(v1):
    with pytest.raises(families.CheckpointError, match="'black_on_white'; this release gives a model 'white_on_black'"):
        families.detect(v1, {"colorize.sketch_polarity": "black_on_white"})
    assert families.detect(v1, {"colorize.sketch_polarity": "white_on_black"}).name == "v1"


# -- prediction type: choice, metadata, marker, file name, default -----------------------------------------------------


def test_prediction_type_order():
    both = {"v_pred": meta(0)}
    decide = families.prediction_type
    assert decide(both, {"colorize.prediction_type": "eps"}, "a_eps.pt", "v") == ("v", "choice")
    assert decide(both, {"colorize.prediction_type": "eps"}, "a.pt") == ("eps", "metadata")
    assert decide(both, {"modelspec.predict_key": "epsilon"}) == ("eps", "metadata")
    assert decide({"eps_pred": meta(0)}, {"modelspec.prediction_type": "v"}) == ("v", "metadata")
    assert decide(both, None, "a_eps.pt") == ("v", "marker tensor")
    assert decide({"eps_pred": meta(0)}, {}, "a.pt", "auto") == ("eps", "marker tensor")
    assert decide({}, {}, "mult.pt") == ("v", "default")


@pytest.mark.parametrize(
    "name, expected",
    [
        ("my_character_20000steps.safetensors", "v"),
        ("reps.pt", "v"),
        ("epsilon-wave.ckpt", "v"),
        ("mult-eps.safetensors", "eps"),
        ("a_eps_20000steps.pt", "eps"),
        ("EPS.ckpt", "eps"),
    ],
)
def test_eps_counts_as_a_whole_word_only(name, expected):
    """The steps of a training run in a file's name burnt its pictures."""
    assert families.prediction_type({}, {}, name)[0] == expected


def test_eps_in_the_file_name_warns(caplog):
    with caplog.at_level(logging.WARNING):
        assert families.prediction_type({}, {}, "/eps/mult-EPS.safetensors") == ("eps", "file name")
    assert "set prediction_type to v" in caplog.text
    caplog.clear()
    assert families.prediction_type({}, {}, "/eps/mult.safetensors") == ("v", "default")
    assert not caplog.text


def test_prediction_type_errors():
    with pytest.raises(families.CheckpointError, match="both prediction types"):
        families.prediction_type({"v_pred": meta(0), "eps_pred": meta(0)})
    with pytest.raises(families.CheckpointError, match="'x0' is unknown; choose auto, v or eps"):
        families.prediction_type({}, {}, None, "x0")
