"""Our U-Nets inside ComfyUI: model classes, prediction type and what a file must bring.

What v1, v1.5, v2 and XL share, and v1 itself; the own parts of v2 and XL are v2.py and xl.py. The network is ComfyUI's
own `UNetModel` with the released tensor names: only its attention layers are ours (attention.py), and what v2 adds.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import comfy.latent_formats
import comfy.model_base
import comfy.supported_models_base
import torch

from ...colorize import families, names, recognition
from ...colorize.counts import check_count
from ...colorize.distilled import Distilled
from ...colorize.unet.region_lora import KINDS, region_ranks, to_module_names, to_official_names
from ..payload import Guide, Payload, StepInputs, StepSettings
from ..run_memory import MEMORY, MemoryCond, Pairs, RunMemory, may_share
from . import compiled, context_windows, sampled_part
from .attention import ColorizeUNet
from .others import with_control, with_others
from .previews import SmallLatents, has_small_latents
from .schedule import EpsSampling, VSampling

NEGATIVE = 1  # in ComfyUI's cond_or_uncond
MODEL_TYPES = {"v": comfy.model_base.ModelType.V_PREDICTION, "eps": comfy.model_base.ModelType.EPS}


class ColorizeModel(comfy.model_base.BaseModel):
    """The diffusion model of the v1 and v1.5 families, and the part of v2's and XL's that is the same.

    Reference tokens arrive as cross-attention context (B, N, D), the sketch as a control, regions and settings of the
    reference as the payload of Apply Reference (payload.py).
    """

    network_class = ColorizeUNet
    region_names = KINDS  # of the region weights, in files of this family
    features_node: str | None = None  # the node whose features this model reads, see payload.PictureFeatures

    def __init__(
        self, model_config: Any, model_type: Any, device: torch.device | str | None = None, unet_model: Any = None
    ) -> None:
        super().__init__(model_config, model_type, device=device, unet_model=unet_model or self.network_class)
        sampling = VSampling if model_type == MODEL_TYPES["v"] else EpsSampling
        self.model_sampling = sampling(model_config)
        # Sketch encoder and token projection of the same file: unused here, kept so that Save Checkpoint writes them.
        self.companions: dict[str, torch.Tensor] = {}
        self._guided_run: tuple[torch.Tensor | None] = (None,)  # noise levels of the last run that was guided

    @property
    def context_dim(self) -> int:
        """Width of the reference tokens this model reads."""
        return self.model_config.unet_config["context_dim"]

    def extra_conds(self, **kwargs: Any) -> dict[str, Any]:
        tokens, noise = kwargs.get("cross_attn"), kwargs.get("noise")
        if tokens is not None and tokens.shape[-1] != self.context_dim:
            raise ValueError(
                f"The conditioning has tokens of width {tokens.shape[-1]}, this ColorizeDiffusion model reads "
                f"{self.context_dim}. Text prompts do not work here: connect positive and negative of Apply "
                "Reference to the sampler."
            )
        channels = self.latent_format.latent_channels
        if noise is not None and (noise.ndim != 4 or noise.shape[1] != channels or not noise.numel()):
            raise ValueError(
                f"The latent has the shape {tuple(noise.shape)}, this ColorizeDiffusion model samples (pictures, "
                f"{channels}, height, width), each at least 1. Connect the latent of Prepare Sketch, or of VAE Encode "
                "with this model's vae; latents of video models do not work, nor does what their nodes make of one."
            )
        if tokens is not None and noise is not None:
            check_count("references", tokens.shape[0], noise.shape[0], repeats=True)
        conds = super().extra_conds(**kwargs)
        if noise is not None:
            conds[sampled_part.PART] = sampled_part.PartCond((sampled_part.Part(tuple(noise.shape[-2:])),))
        payload = Payload.of(kwargs)
        if tokens is not None:
            conds[MEMORY] = MemoryCond(RunMemory())
        if payload is not None and tokens is not None and noise is not None:
            inputs = payload.inputs(tokens, noise, kwargs.get("seed"), kwargs["device"], self.features_node)
            conds.update(inputs.conds())
        return conds

    def resize_cond_for_context_window(
        self, cond_key: str, cond_value: Any, window: Any, x_in: torch.Tensor, device: Any, **kwargs: Any
    ) -> Any:
        numbers = context_windows.pictures(window, x_in)
        return None if numbers is None else context_windows.cut(cond_key, cond_value, numbers)

    def _apply_model(
        self,
        x: torch.Tensor,
        t: torch.Tensor,
        c_concat: torch.Tensor | None = None,
        c_crossattn: torch.Tensor | None = None,
        control: Any = None,
        transformer_options: dict[str, Any] = {},  # noqa: B006 - as inherited
        **kwargs: Any,
    ) -> torch.Tensor:
        inputs, memory = StepInputs.take(kwargs), kwargs.pop(MEMORY, None)
        kwargs.pop(sampled_part.PART, None)  # told the sketch where it is
        network = self.diffusion_model
        if memory is not None and not may_share(memory, self.current_patcher, network, transformer_options):
            memory = None
        if inputs is None and memory is not None:
            inputs = StepInputs(StepSettings())
        if inputs is not None and c_crossattn is not None:
            inputs.check_size(x.shape[-2:])
            step, sigmas = self.model_sampling.timestep(t), transformer_options.get("sample_sigmas")
            dtype = self.get_dtype_inference()
            guide, c_crossattn = inputs.guide(c_crossattn, t, step, self._sizes(x), sigmas, dtype, memory, network)
            if memory is not None and inputs.features is not None:
                guide = _with_pairs(guide, memory, network, inputs.features, dtype)
            transformer_options = with_others(guide.into(transformer_options), guide, network)
        control, transformer_options = with_control(control, transformer_options)
        if NEGATIVE in transformer_options.get("cond_or_uncond", ()):
            self.tell_guided_student(transformer_options.get("sample_sigmas"))
        if compiled.is_compiled(self.diffusion_model):
            kwargs["trace"] = compiled.outline(transformer_options)
        return super()._apply_model(x, t, c_concat, c_crossattn, control, transformer_options, **kwargs)

    def tell_guided_student(self, sigmas: torch.Tensor | None) -> None:
        """Warn once a run that a student is guided a second time. sigmas: the run's noise levels, which tell runs apart
        without a look at their values, for which a GPU would have to wait."""
        if sigmas is not None and sigmas is self._guided_run[0]:
            return
        self._guided_run = (sigmas,)
        if student := self.diffusion_model.distilled.student():
            logging.warning("ColorizeDiffusion: %s", student.guided_twice())

    def _sizes(self, x: torch.Tensor) -> list[tuple[int, int]]:
        """(height, width) of every feature map that has cross-attention, for a latent x (B, C, h, w)."""
        levels = {place.level for place in self.diffusion_model.attention_places}
        return [tuple(-(-side // 2**level) for side in x.shape[-2:]) for level in sorted(levels)]

    def load_model_weights(self, sd: dict[str, torch.Tensor], unet_prefix: str = "", **kwargs: Any) -> Any:
        """Load the U-Net strictly and remember the file's companions. sd loses the U-Net's tensors."""
        self.companions = {k: v for k, v in sd.items() if k.startswith(names.COMPANIONS)}
        given = {key.removeprefix(unet_prefix) for key in sd if key.startswith(unet_prefix)}
        expected = set(to_official_names(self.diffusion_model.state_dict(), self.region_names)) - {names.DISTILLED}
        if missing := sorted(expected - given):
            raise families.CheckpointError(
                f"This ColorizeDiffusion checkpoint is incomplete: {len(missing)} of {len(expected)} U-Net tensors "
                f"are missing, for example {', '.join(missing[:3])}. Download or convert it again."
            )
        return super().load_model_weights(sd, unet_prefix, **kwargs)

    def state_dict_for_saving(
        self, unet_state_dict: dict[str, torch.Tensor], *args: Any, **kwargs: Any
    ) -> dict[str, torch.Tensor]:
        """The tensors of Save Checkpoint, with the markers from which every loader reads type and head width again."""
        out = super().state_dict_for_saving(unet_state_dict, *args, **kwargs)
        if self.model_type == MODEL_TYPES["eps"]:
            out[names.EPS_MARKER] = torch.tensor([])
        out[names.HEAD_WIDTH] = torch.tensor(self.model_config.unet_config["num_head_channels"])
        if Distilled.from_values(out.get(names.UNET + names.DISTILLED)) is None:
            out.pop(names.UNET + names.DISTILLED, None)
        out.update(self.companions)
        return out


def _with_pairs(guide: Guide, memory: RunMemory, network: Any, features: Any, dtype: torch.dtype) -> Guide:
    """The guide with keys and values of what the network reads of pictures."""

    def pairs(read: Sequence[torch.Tensor]) -> Pairs:
        return memory.features(network, features, [values.to(dtype) for values in read])

    if guide.banks:
        return replace(guide, bank_pairs=pairs(guide.banks))
    if guide.decoder is None or not guide.decoder.backgrounds:
        return guide
    return replace(guide, decoder=replace(guide.decoder, pairs=pairs(guide.decoder.backgrounds)))


class ColorizeBase(comfy.supported_models_base.BASE):
    """What the entries of our families in ComfyUI's model table share."""

    unet_extra_config: dict[str, Any] = {"num_heads": -1, "num_head_channels": families.DEFAULT_HEAD_WIDTH}
    is_colorize_family = True
    model_class = ColorizeModel

    def model_type(self, state_dict: dict[str, torch.Tensor], prefix: str = "") -> Any:
        prediction, source = families.prediction_type(state_dict)
        if source == families.BY_DEFAULT:
            logging.warning(
                "ColorizeDiffusion: the file says nothing about its prediction type, v is assumed. "
                "Load ColorizeDiffusion Checkpoint also reads the file's name and lets you choose."
            )
        return MODEL_TYPES[prediction]

    def get_model(
        self, state_dict: dict[str, torch.Tensor], prefix: str = "", device: torch.device | str | None = None
    ) -> Any:
        head_width = families.head_width_marker(state_dict)
        if head_width is not None:
            self.unet_config["num_head_channels"] = head_width
        if ranks := region_ranks(state_dict, prefix):
            self.unet_config["region_ranks"] = ranks
        return self.model_class(self, self.model_type(state_dict, prefix), device=device)

    def process_unet_state_dict(self, state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return to_module_names(state_dict)

    def process_unet_state_dict_for_saving(self, state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        names = self.model_class.region_names
        return super().process_unet_state_dict_for_saving(to_official_names(state_dict, names))

    def clip_target(self, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        """These models have no text encoder."""
        return None


class ColorizeV1(ColorizeBase):
    """ColorizeDiffusion v1 and v1.5 for ComfyUI's model table; v1.5 is v1 with region weights."""

    unet_config = {"use_linear_in_transformer": False, "adm_in_channels": None}
    unet_extra_config = {
        **ColorizeBase.unet_extra_config,
        # A Stable Diffusion 2 network: without fused attention its products can leave the range of fp16.
        "attn_precision": torch.float32,
    }
    latent_format = comfy.latent_formats.SD15
    memory_usage_factor = 1.0

    def get_model(
        self, state_dict: dict[str, torch.Tensor], prefix: str = "", device: torch.device | str | None = None
    ) -> Any:
        if has_small_latents(state_dict):
            self.latent_format = SmallLatents()
        return super().get_model(state_dict, prefix, device)

    @classmethod
    def matches(
        cls,
        unet_config: dict[str, Any],
        state_dict: dict[str, torch.Tensor] | None = None,
        unet_key_prefix: str | None = None,
    ) -> bool:
        return recognition.is_v1_unet(unet_config, state_dict, unet_key_prefix)
