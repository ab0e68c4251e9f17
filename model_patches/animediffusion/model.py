"""AnimeDiffusion inside ComfyUI: a diffusion model whose latents are the pixels themselves.

Latents have three channels and the picture's size (ComfyUI's own pixel-space VAE converts), the noise schedule is the
paper's, and the line drawing and the reference are stacked onto the noisy colours. So ComfyUI's samplers, previews,
batches, areas and masks work on it; `animediffusion_sampling.py` adds the paper's own walks.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import comfy.conds
import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.supported_models_base
import comfy.utils
import torch
import torch.nn.functional as F
from comfy.patcher_extension import WrapperExecutor, WrappersMP, get_all_wrappers

from ...colorize.animediffusion.markers import (
    HEADS_MARKER,
    PAPER_STEPS,
    STEPS_MARKER,
    attention_heads,
    chain_steps,
)
from ...colorize.animediffusion.schedule import LINEAR_END, LINEAR_START
from ...colorize.animediffusion.unet import (
    AnimeUNet,
    AnimeUNetConfig,
    check_names,
    config_from_tensors,
    network_prefix,
    network_tensors,
)
from ...colorize.counts import check_count
from ...colorize.families import CheckpointError
from ..checkpoint.files import check_finite, read_weights
from ..model.sampled_part import check_area

LINES = "animediffusion_lines"
"""In a conditioning: line drawings (B, 1, H, W) in -1..1, black on white, on the CPU."""
REFERENCE = "animediffusion_reference"
"""In a conditioning: references (B or 1, 3, H, W) in -1..1, of the drawings' size, on the CPU."""
MEMORY_FACTOR = 0.1
"""Working memory in ComfyUI's units at 64 channels on the first level: about a dozen maps of the picture's size."""


class PixelUNet(AnimeUNet):
    """The noise predictor with the signature of ComfyUI's diffusion models. Any picture size."""

    def __init__(
        self,
        config: AnimeUNetConfig,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        operations: Any = None,
    ) -> None:
        super().__init__(config, device=device, dtype=dtype, operations=operations)
        self.dtype = dtype

    def forward(  # type: ignore[override]  # as ComfyUI calls its networks
        self,
        x: torch.Tensor,
        timesteps: torch.Tensor,
        context: torch.Tensor | None = None,
        control: Any = None,
        transformer_options: dict[str, Any] = {},  # noqa: B006 - as inherited
        **kwargs: Any,
    ) -> torch.Tensor:
        wrappers = get_all_wrappers(WrappersMP.DIFFUSION_MODEL, transformer_options)
        executor = WrapperExecutor.new_class_executor(self._forward, self, wrappers)
        return executor.execute(x, timesteps, context, control, transformer_options, **kwargs)

    def _forward(
        self,
        x: torch.Tensor,
        timesteps: torch.Tensor,
        context: torch.Tensor | None = None,
        control: Any = None,
        transformer_options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """x (B, 7, H, W), timesteps (B,) -> (B, 3, H, W). Sides are padded to the multiple the network needs."""
        check_unpatched(transformer_options or {}, control)
        height, width = x.shape[-2:]
        step = self.config.multiple
        x = F.pad(x, (0, -width % step, 0, -height % step), mode="replicate")
        return AnimeUNet.forward(self, x, timesteps)[..., :height, :width]


def check_unpatched(options: Mapping[str, Any], control: Any) -> None:
    """Raise ValueError where nodes before the sampler patch what this network has not. options: transformer_options."""
    held = [(options.get(kind) or {}).items() for kind in ("patches", "patches_replace")]
    kinds = sorted(name for every in held for name, patches in every if patches)
    if kinds:
        raise ValueError(
            f"Another node patches {', '.join(kinds)} of the model, which AnimeDiffusion's network does not have. "
            "Remove it (Self-Attention or Perturbed-Attention Guidance, HyperTile, FreeU, Deep Shrink, their like)."
        )
    if control and any(values is not None for maps in control.values() for values in maps):
        raise ValueError(
            "A ControlNet is applied, which AnimeDiffusion's network cannot read. Remove it: the lines come from "
            "AnimeDiffusion Conditioning."
        )


class _Condition(comfy.conds.CONDNoiseShape):
    """Lines and reference (B, 4, H, W), cut by areas as the noise is."""

    def process_cond(self, batch_size: int, area: Sequence[int] | None = None, **kwargs: Any) -> _Condition:
        check_area(area)
        return super().process_cond(batch_size=batch_size, area=area, **kwargs)


class AnimeDiffusionModel(comfy.model_base.BaseModel):
    """The diffusion model of the family. Its conditioning comes from AnimeDiffusion Conditioning."""

    def __init__(self, model_config: Any, device: torch.device | str | None = None) -> None:
        super().__init__(model_config, comfy.model_base.ModelType.EPS, device=device, unet_model=PixelUNet)
        self.chain_steps: int = model_config.chain_steps
        """DDIM steps that the network was trained for."""

    def extra_conds(self, **kwargs: Any) -> dict[str, Any]:
        lines, reference, noise = kwargs.get(LINES), kwargs.get(REFERENCE), kwargs["noise"]
        if lines is None or reference is None:
            raise ValueError(
                "This conditioning carries no line drawing for AnimeDiffusion. Connect positive and negative of "
                "AnimeDiffusion Conditioning; text prompts do not work here."
            )
        if noise.ndim != 4 or noise.shape[1] != self.latent_format.latent_channels or not noise.numel():
            raise ValueError(
                f"AnimeDiffusion samples pictures of 3 channels, the latent has the shape {tuple(noise.shape)}. "
                "Connect latent of AnimeDiffusion Conditioning, or VAE Encode with the vae of Load AnimeDiffusion."
            )
        parts = [_fitted(part, noise, name) for part, name in ((lines, "drawings"), (reference, "references"))]
        return {"c_concat": _Condition(torch.cat(parts, dim=1))}

    def load_model_weights(self, sd: dict[str, torch.Tensor], unet_prefix: str = "", **kwargs: Any) -> Any:
        """Load strictly. sd: bare names."""
        try:
            check_names(sd, self.diffusion_model)
        except ValueError as error:
            raise CheckpointError(f"{error} Download or export it again.") from None
        return super().load_model_weights(sd, unet_prefix, **kwargs)

    def state_dict_for_saving(
        self, unet_state_dict: dict[str, torch.Tensor], *args: Any, **kwargs: Any
    ) -> dict[str, torch.Tensor]:
        """The tensors of Save Checkpoint; the numbers of heads and steps go along, for Load AnimeDiffusion."""
        saved = super().state_dict_for_saving(unet_state_dict, *args, **kwargs)
        heads = self.diffusion_model.config.attention_heads
        return saved | {HEADS_MARKER: torch.tensor(heads), STEPS_MARKER: torch.tensor(self.chain_steps)}


def _fitted(part: torch.Tensor, noise: torch.Tensor, name: str) -> torch.Tensor:
    """A part of the condition with the batch and size of the noise (B, 3, H, W)."""
    check_count(name, part.shape[0], noise.shape[0])
    if part.shape[-2:] != noise.shape[-2:]:
        part = comfy.utils.common_upscale(part, noise.shape[-1], noise.shape[-2], "bilinear", "disabled")
    return part.expand(noise.shape[0], -1, -1, -1)


class AnimeDiffusion(comfy.supported_models_base.BASE):
    """The family as ComfyUI describes models; not in the table of stock loaders, whose detection reads other names."""

    unet_extra_config: dict[str, Any] = {}
    latent_format = comfy.latent_formats.ChromaRadiance  # three channels, ratio 1, previews show the pixels
    # bfloat16 is left out: the first steps divide by a twelfth, and its 8 bits would show.
    supported_inference_dtypes = [torch.float16, torch.float32]
    # ComfyUI's name for evenly spaced betas is sqrt_linear; its "linear" is another schedule.
    sampling_settings = {
        "beta_schedule": "sqrt_linear",
        "linear_start": LINEAR_START,
        "linear_end": LINEAR_END,
        "timesteps": 1000,
    }

    def __init__(self, config: AnimeUNetConfig, chain_steps: int = PAPER_STEPS) -> None:
        super().__init__({"config": config})
        self.chain_steps = chain_steps
        self.memory_usage_factor = MEMORY_FACTOR * config.channels / 64

    def get_model(
        self, state_dict: dict[str, torch.Tensor], prefix: str = "", device: torch.device | str | None = None
    ) -> Any:
        return AnimeDiffusionModel(self, device=device)


def load_animediffusion(path: str) -> tuple:
    """(MODEL patcher, VAE) of an AnimeDiffusion file in any known layout. Raises families.CheckpointError."""
    return load_model_patcher(path), comfy.sd.VAE(sd={"pixel_space_vae": torch.tensor(1.0)})


def load_model_patcher(path: str, disable_dynamic: bool = False) -> comfy.model_patcher.ModelPatcher:
    """The MODEL, fresh from the file: ComfyUI also calls this for torch.compile and for copies on other devices."""
    name = os.path.basename(path)
    tensors, metadata = read_weights(path)
    if network_prefix(tensors) is None:
        raise CheckpointError(
            f"The file {name!r} is not an AnimeDiffusion checkpoint: none of its {len(tensors)} tensors is named "
            "...encoder_block.0.conv1.2.weight. ColorizeDiffusion models are loaded with Load ColorizeDiffusion "
            "Checkpoint; AnimeDiffusion models come from its trainer (ep_N.model.pth, trained.model.pth) or from "
            "`python -m trainer`."
        )
    weights = network_tensors(tensors)
    check_finite(weights, name)
    try:
        config = config_from_tensors(weights, attention_heads(tensors, metadata))
        steps = chain_steps(tensors, metadata)
    except ValueError as error:
        raise CheckpointError(f"The file {name!r}: {error}") from None
    logging.info("%s: AnimeDiffusion for %d steps, %s", name, steps, dataclasses.asdict(config))
    patcher = _build(weights, AnimeDiffusion(config, steps), disable_dynamic)
    patcher.cached_patcher_init = (load_model_patcher, (path,))
    return patcher


def _build(weights: dict[str, torch.Tensor], model_config: AnimeDiffusion, disable_dynamic: bool) -> Any:
    """The model in a patcher, with the type and the devices ComfyUI's own loaders would choose."""
    management = comfy.model_management
    kinds = model_config.supported_inference_dtypes
    count = comfy.utils.calculate_parameters(weights)
    device = management.get_torch_device()
    dtype = management.unet_dtype(
        model_params=count, supported_dtypes=kinds, weight_dtype=comfy.utils.weight_dtype(weights)
    )
    model_config.set_inference_dtype(dtype, management.unet_manual_cast(dtype, device, kinds))
    model = model_config.get_model(weights, device=management.unet_inital_load_device(count, dtype))
    kind = comfy.model_patcher.ModelPatcher if disable_dynamic else comfy.model_patcher.CoreModelPatcher
    patcher = kind(model, load_device=device, offload_device=management.unet_offload_device())
    model.load_model_weights(weights, assign=patcher.is_dynamic())
    return patcher
