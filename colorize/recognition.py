"""Is this U-Net one of ours? The strict tests with which ComfyUI's own loaders recognise our files.

Pure Python: no ComfyUI, no tensor mathematics. What a whole file is, families.py says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import names
from .families import XL_NAMES, find_layout


def _prefix_of_unet(state_dict: Mapping[str, Any], given: str | None) -> str:
    """What stands before the U-Net's names: as `given` (ComfyUI from 0.28 on says it), else read from the names."""
    if given is not None:
        return given
    return names.UNET if any(key.startswith(names.UNET) for key in state_dict) else ""


def is_v1_unet(
    unet_config: Mapping[str, Any], state_dict: Mapping[str, Any] | None, unet_prefix: str | None = None
) -> bool:
    """Whether ComfyUI should give this U-Net to our class: true for v1 and v1.5 files only, never for stock models.

    unet_config: what ComfyUI's detection read from the U-Net. A v1 U-Net is a Stable Diffusion 2 U-Net with
    convolutional projections; that shape alone is ambiguous, so the file must also carry a mark of ours: the sketch
    encoder, the head width marker, or the exact sizes of the released files, which no stock model has.
    """
    if state_dict is None or not _is_v1_shape(unet_config):
        return False
    unet_prefix = _prefix_of_unet(state_dict, unet_prefix)
    foreign = (*names.V2_PARTS, names.UNUSED)
    if any(key.startswith(unet_prefix + name) for key in state_dict for name in foreign):
        return False
    layout = find_layout(state_dict)
    if layout is not None:
        return layout.name in ("v1", "v1.5")
    released = dict(context_dim=1024, model_channels=320, channel_mult=[1, 2, 4, 4])
    return names.HEAD_WIDTH in state_dict or all(unet_config.get(k) == v for k, v in released.items())


def is_v2_unet(
    unet_config: Mapping[str, Any], state_dict: Mapping[str, Any] | None, unet_prefix: str | None = None
) -> bool:
    """Whether ComfyUI should give this U-Net to our v2 class: a v1 U-Net with the modules that only v2 has."""
    if state_dict is None or not _is_v1_shape(unet_config):
        return False
    unet_prefix = _prefix_of_unet(state_dict, unet_prefix)
    return all(any(key.startswith(unet_prefix + name) for key in state_dict) for name in names.V2_PARTS)


def _is_v1_shape(unet_config: Mapping[str, Any]) -> bool:
    shape = dict(
        in_channels=4,
        out_channels=4,
        num_res_blocks=[2, 2, 2, 2],  # the sketch enters after input blocks 0, 3, 6, 9 and 11
        transformer_depth_middle=1,
        use_linear_in_transformer=False,
        adm_in_channels=None,
        use_temporal_attention=False,
        use_temporal_resblock=False,
    )
    if any(unet_config.get(key, "absent") != value for key, value in shape.items()):
        return False
    return {0, 1}.issuperset(unet_config.get("transformer_depth", [2]))


def is_xl_unet(
    unet_config: Mapping[str, Any], state_dict: Mapping[str, Any] | None, unet_prefix: str | None = None
) -> bool:
    """Whether ComfyUI should give this U-Net to our XL class: true for XL files only, never for stock SDXL models.

    An XL U-Net is a Stable Diffusion XL U-Net with a small label embedding. Besides that shape the file must carry a
    mark of ours: the sketch encoder, the head width marker, or the exact sizes of the released files.
    """
    if state_dict is None:
        return False
    shape = dict(
        in_channels=4,
        out_channels=4,
        num_classes="sequential",
        num_res_blocks=[2, 2, 2],  # the sketch enters after input blocks 0, 3, 6 and 8
        use_linear_in_transformer=True,
        use_temporal_attention=False,
        use_temporal_resblock=False,
    )
    if any(unet_config.get(key, "absent") != value for key, value in shape.items()):
        return False
    layout = find_layout(state_dict)
    if layout is not None:
        return layout.name in XL_NAMES
    released = dict(context_dim=2048, model_channels=320, adm_in_channels=512, channel_mult=[1, 2, 4])
    return names.HEAD_WIDTH in state_dict or all(unet_config.get(k) == v for k, v in released.items())
