"""From a checkpoint file to MODEL, VAE, CONTROL_NET and COLORIZER.

The MODEL goes through ComfyUI's own loader, which finds our class in its table (model/registration.py); what the
file's metadata says is handed over as marker tensors, so there is one way in and no second set of rules.
"""

from __future__ import annotations

import logging
import os
from typing import Any

import comfy.model_patcher
import comfy.sd
import torch

from ...colorize import families, names
from ...colorize.weight_files import reads_strange_sizes
from ..model.model import ColorizeModel
from ..model.registration import copies_remark, register
from ..model.sketch_control import SketchControl
from .colorizer import Colorizer
from .files import check_finite, read_weights
from .picture_encoders import LoadedPictureEncoders, parts_of
from .plugin import LoadedPlugin
from .projection import LoadedProjection
from .recovery import LoadedBackgroundEncoder

# Parts of a checkpoint that are used; schedule buffers, EMA copies and frozen encoders are left aside.
USED_PREFIXES = (names.UNET, names.VAE, *names.COMPANIONS)


def load_checkpoint(path: str, prediction: str = "auto") -> tuple:
    """(MODEL patcher, VAE, SketchControl, Colorizer) of a checkpoint. Raises families.CheckpointError.

    path: of a v1, v1.5, v2 or XL file. prediction: "auto" (metadata, markers, file name, else v), "v" or "eps".
    """
    state_dict, metadata, family = _read(path, prediction)
    logging.info(
        "%s: %s, %s prediction (%s), width %d, heads of %d",
        os.path.basename(path), family.title, family.prediction_type, family.prediction_source,
        family.model_channels, family.num_head_channels,
    )  # fmt: skip
    name = os.path.basename(path)
    try:
        control = SketchControl.from_state_dict(state_dict, names.SKETCH_ENCODER)
        background = LoadedBackgroundEncoder.from_state_dict(state_dict, f"The file {name!r}")
        projection = LoadedProjection.from_state_dict(state_dict, name) if family.is_xl else None
        plugin = LoadedPlugin.from_state_dict(state_dict, family.num_head_channels, name) if family.has_plugin else None
        pictures = LoadedPictureEncoders(parts_of(state_dict), family.num_head_channels, name) if family.is_v2 else None
        model, vae = _build(state_dict, metadata)
    except families.CheckpointError:
        raise
    except ValueError as error:
        raise families.CheckpointError(f"The file {name!r} cannot be used as checkpoint: {error}") from error
    _remember_origin(model, vae, path, prediction)
    return model, vae, control, Colorizer(family, name, background, projection, plugin, pictures)


def load_model_patcher(
    path: str, prediction: str = "auto", disable_dynamic: bool = False
) -> comfy.model_patcher.ModelPatcher:
    """The MODEL alone, fresh from the file: ComfyUI calls this for torch.compile and for copies on other devices."""
    state_dict, metadata, _ = _read(path, prediction)
    return _build(state_dict, metadata, vae=False, disable_dynamic=disable_dynamic)[0]


def load_vae_patcher(path: str, disable_dynamic: bool = False) -> comfy.model_patcher.ModelPatcher:
    """The VAE's patcher alone, fresh from the file; see `load_model_patcher`."""
    state_dict, metadata = read_weights(path)
    weights = {k.removeprefix(names.VAE): v for k, v in state_dict.items() if k.startswith(names.VAE)}
    return comfy.sd.VAE(sd=weights, metadata=metadata).patcher


def _read(path: str, prediction: str) -> tuple:
    """Read, recognise and check; the state dict comes back with markers for what metadata or the user decided."""
    name = os.path.basename(path)
    state_dict, metadata = read_weights(path)
    family = families.detect(state_dict, metadata, name, prediction)
    state_dict = {key: value for key, value in state_dict.items() if key.startswith(USED_PREFIXES)}
    check_finite(state_dict, name)
    marker = names.V_MARKER if family.prediction_type == "v" else names.EPS_MARKER
    state_dict[marker] = torch.tensor([])
    state_dict[names.HEAD_WIDTH] = torch.tensor(family.num_head_channels)
    if family.tokens == "cls":
        state_dict[names.CLS_MARKER] = torch.tensor([])
    return state_dict, metadata, family


@reads_strange_sizes("U-Net and VAE")
def _build(
    state_dict: dict[str, torch.Tensor], metadata: dict[str, str], vae: bool = True, disable_dynamic: bool = False
) -> Any:
    register()
    if remark := copies_remark():
        raise families.CheckpointError(remark)
    found = comfy.sd.load_state_dict_guess_config(
        state_dict,
        output_vae=vae and any(key.startswith(names.VAE) for key in state_dict),
        output_clip=False,
        metadata=metadata,
        disable_dynamic=disable_dynamic,
    )
    if found is None or not isinstance(found[0].model, ColorizeModel):
        raise families.CheckpointError(
            "The U-Net of this checkpoint has another layout than ColorizeDiffusion v1, v1.5 and v2 (4 levels of "
            "2 blocks, convolutional projections, no class embedding) and XL (3 levels of 2 blocks, linear "
            "projections, label embedding), so it cannot be run. Use a v1, v1.5, v2 or XL checkpoint."
        )
    # Without a VAE in the file: an empty one, which says so when it is used, as in ComfyUI's own loaders.
    return found[0], found[2] if found[2] is not None or not vae else comfy.sd.VAE(sd={})


def _remember_origin(model: Any, vae: Any, path: str, prediction: str) -> None:
    model.cached_patcher_init = (load_model_patcher, (path, prediction))
    if getattr(vae, "patcher", None) is not None:
        vae.patcher.cached_patcher_init = (load_vae_patcher, (path,))
