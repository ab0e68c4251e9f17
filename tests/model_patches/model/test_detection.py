"""ComfyUI's detection gives our files to our class, and nobody else's."""

import pytest
import torch

from colorize.unet.config import UNetConfig
from colorize.unet.unet import UNet

PREFIX = "model.diffusion_model."


def unet_keys(config, prefix=PREFIX):
    with torch.device("meta"):
        return {prefix + k: v for k, v in UNet(config).state_dict().items()}


STOCK = {
    "SD15": dict(context_dim=768, use_linear_in_transformer=False, num_heads=8),
    "SD20": dict(context_dim=1024, use_linear_in_transformer=True, num_head_channels=64),
    "SD21UnclipH": dict(
        context_dim=1024,
        use_linear_in_transformer=True,
        num_head_channels=64,
        num_classes="sequential",
        adm_in_channels=2048,
    ),
    "SDXL": dict(
        context_dim=2048,
        use_linear_in_transformer=True,
        num_head_channels=64,
        num_classes="sequential",
        adm_in_channels=2816,
        channel_mult=[1, 2, 4],
        num_res_blocks=[2, 2, 2],
        transformer_depth=[0, 0, 2, 2, 10, 10],
        transformer_depth_output=[0, 0, 0, 2, 2, 2, 10, 10, 10],
        transformer_depth_middle=10,
    ),
    "SDXLRefiner": dict(
        model_channels=384,
        context_dim=1280,
        use_linear_in_transformer=True,
        num_head_channels=64,
        num_classes="sequential",
        adm_in_channels=2560,
        transformer_depth=[0, 0, 4, 4, 4, 4, 0, 0],
        transformer_depth_output=[0, 0, 0, 4, 4, 4, 4, 4, 4, 0, 0, 0],
        transformer_depth_middle=4,
    ),
    "SD_X4Upscaler": dict(
        in_channels=7, model_channels=256, context_dim=1024, use_linear_in_transformer=True, num_heads=8
    ),
    "inpaint": dict(in_channels=9, context_dim=768, use_linear_in_transformer=False, num_heads=8),
}


@pytest.mark.parametrize("name", list(STOCK))
def test_stock_models_are_not_ours(find, name):
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    defaults = dict(
        image_size=32,
        in_channels=4,
        out_channels=4,
        model_channels=320,
        num_res_blocks=[2, 2, 2, 2],
        channel_mult=[1, 2, 4, 4],
        use_spatial_transformer=True,
        transformer_depth=[1, 1, 1, 1, 1, 1, 0, 0],
        transformer_depth_output=[1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
        transformer_depth_middle=1,
        legacy=False,
    )
    keys = UNetModel(**(defaults | STOCK[name]), device="meta").state_dict()
    assert find({PREFIX + k: v for k, v in keys.items()}) != "ColorizeV1"
    assert find(dict(keys), "") != "ColorizeV1"
    if name in ("SD15", "SD20", "SDXL", "SDXLRefiner"):
        assert find({PREFIX + k: v for k, v in keys.items()}) == name


@pytest.mark.parametrize("name", ["v1", "v1_5", "v2", "sdxl", "xlv2"])
def test_released_key_lists(find, golden_keys, name):
    found = find(golden_keys(name))
    ours = {"v1": "ColorizeV1", "v1_5": "ColorizeV1", "v2": "ColorizeV2", "sdxl": "ColorizeXL", "xlv2": "ColorizeXL"}
    assert found == ours[name]


@pytest.mark.parametrize("name", ["v1", "v1_5", "v2", "sdxl", "xlv2"])
def test_cores_before_0_28_do_not_say_where_the_unet_begins(pack, golden_keys, name):
    """They call `matches` without a prefix; the names tell it. A v2 file was taken for a U-Net alone there."""
    import comfy.model_detection
    import comfy.supported_models

    keys = golden_keys(name)
    config = comfy.model_detection.detect_unet_config(keys, PREFIX)
    ours = [entry for entry in comfy.supported_models.models if entry.__name__.startswith("Colorize")]
    found = [entry.__name__ for entry in ours if entry.matches(config, keys)]
    given = [entry.__name__ for entry in ours if entry.matches(config, keys, unet_key_prefix=PREFIX)]
    assert found == given and len(found) == 1


def test_unet_alone(find):
    """Load Diffusion Model sees bare names: the released sizes are enough, a narrow model needs its marker."""
    assert find(unet_keys(UNetConfig(), ""), "") == "ColorizeV1"
    narrow = unet_keys(
        UNetConfig(model_channels=64, channel_mult=(1, 1, 1, 2), num_head_channels=32, context_dim=48), ""
    )
    assert find(narrow, "") is None
    assert find(narrow | {"colorize.num_head_channels": torch.tensor(32)}, "") == "ColorizeV1"


def test_our_model_with_the_sizes_of_stable_diffusion_1(find):
    """The stock SD 1 entry would accept this one; ours stands before it."""
    keys = unet_keys(UNetConfig(context_dim=768))
    assert find(keys) == "SD15"
    marked = keys | {"control_encoder.zero_blocks.0.0.weight": torch.empty(320, 320, 1, 1, device="meta")}
    assert find(marked) == "ColorizeV1"


def test_registering_twice_changes_nothing(pack):
    import comfy.supported_models

    before = list(comfy.supported_models.models)
    pack.module("model_patches.model.registration").register()
    assert comfy.supported_models.models == before
    assert sum(entry.__name__ == "ColorizeV1" for entry in before) == 1


def test_diffusers_detection_is_left_alone(pack):
    """Without a state dict there is nothing to recognise us by."""
    entry = pack.module("model_patches.model.model").ColorizeV1
    assert entry.matches({"context_dim": 1024}, None) is False
    assert entry.matches({"image_model": "flux"}, {"a": 1}) is False
