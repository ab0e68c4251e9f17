"""The v1 U-Net inside ComfyUI: classes, prediction type, noise schedule, and their registration with the stock loaders.

`register()` puts `ColorizeV1` into ComfyUI's list of known models. From then on Load Checkpoint, Load Diffusion Model
and every loader built on them read our files; LoRA, fp8, low-memory modes, previews and torch.compile follow, because
the network is ComfyUI's own `UNetModel` with the released tensor names.
"""

from __future__ import annotations

import logging

import comfy.latent_formats
import comfy.model_base
import comfy.model_sampling
import comfy.supported_models
import comfy.supported_models_base
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

from . import families
from .networks.schedule import fractional_step

MODEL_TYPES = {"v": comfy.model_base.ModelType.V_PREDICTION, "eps": comfy.model_base.ModelType.EPS}


class ColorizeUNet(UNetModel):
    """ComfyUI's U-Net. A class of its own, so that later families can add parts and others can recognise it."""


class FractionalTimesteps(comfy.model_sampling.ModelSamplingDiscrete):
    """The scaled-linear schedule, with the step of a noise level interpolated in log sigma instead of rounded.

    The released models are sampled with unrounded steps (the k-diffusion path); rounding shifts a step by up to half.
    """

    def timestep(self, sigma: torch.Tensor) -> torch.Tensor:
        """Fractional step of each sigma, same shape and device; outside the schedule its ends."""
        return fractional_step(self.log_sigmas.to(sigma.device), sigma.float())


class VSampling(FractionalTimesteps, comfy.model_sampling.V_PREDICTION):
    pass


class EpsSampling(FractionalTimesteps, comfy.model_sampling.EPS):
    pass


class ColorizeModel(comfy.model_base.BaseModel):
    """The diffusion model of the v1 family.

    Reference tokens arrive as cross-attention context (B, N, D), the sketch as a control.
    """

    def __init__(self, model_config, model_type, device=None, unet_model=ColorizeUNet):
        super().__init__(model_config, model_type, device=device, unet_model=unet_model)
        sampling = VSampling if model_type == MODEL_TYPES["v"] else EpsSampling
        self.model_sampling = sampling(model_config)
        # Sketch encoder and token projection of the same file: unused here, kept so that Save Checkpoint writes them.
        self.companions: dict[str, torch.Tensor] = {}

    @property
    def context_dim(self) -> int:
        """Width of the reference tokens this model reads."""
        return self.model_config.unet_config["context_dim"]

    def extra_conds(self, **kwargs):
        tokens, noise = kwargs.get("cross_attn"), kwargs.get("noise")
        if tokens is not None and tokens.shape[-1] != self.context_dim:
            raise ValueError(
                f"The conditioning has tokens of width {tokens.shape[-1]}, this ColorizeDiffusion model reads "
                f"{self.context_dim}. Text prompts do not work here: connect positive and negative of Apply "
                "Reference to the sampler."
            )
        if tokens is not None and noise is not None and tokens.shape[0] not in (1, noise.shape[0]):
            raise ValueError(
                f"There are {tokens.shape[0]} references for {noise.shape[0]} pictures. "
                "Use one reference, or as many as sketches (Repeat Image Batch and Image From Batch change the number)."
            )
        return super().extra_conds(**kwargs)

    def load_model_weights(self, sd, unet_prefix="", **kwargs):
        """Load the U-Net strictly and remember the file's companions. sd loses the U-Net's tensors."""
        self.companions = {k: v for k, v in sd.items() if k.startswith(families.COMPANION_PREFIXES)}
        given = {key.removeprefix(unet_prefix) for key in sd if key.startswith(unet_prefix)}
        expected = set(self.diffusion_model.state_dict())
        if missing := sorted(expected - given):
            raise families.CheckpointError(
                f"This ColorizeDiffusion checkpoint is incomplete: {len(missing)} of {len(expected)} U-Net tensors "
                f"are missing, for example {', '.join(missing[:3])}. Download or convert it again."
            )
        return super().load_model_weights(sd, unet_prefix, **kwargs)

    def state_dict_for_saving(self, unet_state_dict, *args, **kwargs):
        """The tensors of Save Checkpoint, with the markers from which every loader reads type and head width again."""
        out = super().state_dict_for_saving(unet_state_dict, *args, **kwargs)
        if self.model_type == MODEL_TYPES["eps"]:
            out[families.EPS_MARKER] = torch.tensor([])
        out[families.HEAD_WIDTH_MARKER] = torch.tensor(self.model_config.unet_config["num_head_channels"])
        out.update(self.companions)
        return out


class ColorizeV1(comfy.supported_models_base.BASE):
    """ColorizeDiffusion v1 for ComfyUI's model table."""

    unet_config = {"use_linear_in_transformer": False, "adm_in_channels": None}
    unet_extra_config = {
        "num_heads": -1,
        "num_head_channels": families.DEFAULT_HEAD_WIDTH,
        # A Stable Diffusion 2 network: without fused attention its products can leave the range of fp16.
        "attn_precision": torch.float32,
    }
    latent_format = comfy.latent_formats.SD15
    memory_usage_factor = 1.0
    is_colorize_family = True

    @classmethod
    def matches(cls, unet_config, state_dict=None, unet_key_prefix=""):
        return families.is_v1_unet(unet_config, state_dict, unet_key_prefix)

    def model_type(self, state_dict, prefix=""):
        prediction, source = families.prediction_type(state_dict)
        if source == "default":
            logging.info(
                "ColorizeDiffusion: the file says nothing about its prediction type, v is assumed. "
                "Load ColorizeDiffusion Checkpoint also reads metadata and lets you choose."
            )
        return MODEL_TYPES[prediction]

    def get_model(self, state_dict, prefix="", device=None):
        head_width = families.head_width_marker(state_dict)
        if head_width is not None:
            self.unet_config["num_head_channels"] = head_width
        return ColorizeModel(self, self.model_type(state_dict, prefix), device=device)

    def clip_target(self, state_dict=None):
        """These models have no text encoder."""
        return None


def register() -> None:
    """Make ComfyUI's loaders know our families. Safe to call again.

    The entry goes to the front of the table because the first match wins: a narrow model of ours can have the sizes
    that the Stable Diffusion 1 entry asks for, while `matches` accepts nothing that is not ours.
    """
    table = comfy.supported_models.models
    if not any(getattr(entry, "is_colorize_family", False) for entry in table):
        table.insert(0, ColorizeV1)
