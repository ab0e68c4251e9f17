"""Our U-Nets inside ComfyUI: classes, prediction type, noise schedule, registration with the stock loaders.

What v1, v1.5, v2 and XL share, and v1 itself; the own parts of v2 and XL are v2_unet.py and xl_unet.py. `register()`
puts our families into ComfyUI's list of known models. From then on Load Checkpoint, Load Diffusion Model and every
loader built on them read our files; LoRA, fp8, low-memory modes, previews and torch.compile follow, because the network
is ComfyUI's own `UNetModel` with the released tensor names. Only its attention layers are ours, and what v2 adds.
"""

from __future__ import annotations

import logging

import comfy.conds
import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_sampling
import comfy.supported_models
import comfy.supported_models_base
import torch
from comfy.ldm.modules.attention import BasicTransformerBlock, CrossAttention, SpatialTransformer, optimized_attention
from comfy.ldm.modules.diffusionmodules.openaimodel import Downsample, UNetModel, Upsample

from ...colorize import families, names
from ...colorize.sampling.schedule import fractional_step
from ...colorize.unet.region_lora import KINDS, LowRank, Ranks, region_ranks, to_module_names, to_official_names
from ...colorize.unet.split_attention import split_attention
from ...colorize.unet.strengths import attention_places
from ..conditioning.conditioning import PAYLOAD, Guide, conds_of, guide_of

MODEL_TYPES = {"v": comfy.model_base.ModelType.V_PREDICTION, "eps": comfy.model_base.ModelType.EPS}


def stored_attention(layer: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """The argument that hands on which attention a file asks for in this layer (such as int8).

    Newer cores (seen in 0.38) keep it as `comfy_attention` in every attention layer; older ones know no such argument.
    """
    stored = getattr(layer, "comfy_attention", None)
    return {} if stored is None else {"preferred_attention": stored}


class ReferenceAttention(CrossAttention):
    """ComfyUI's cross-attention, which also follows a `Guide` in transformer_options and knows region weights.

    Without a guide it is exactly the layer it replaces.
    """

    def __init__(self, plain: CrossAttention, place: int, ranks: dict[str, Ranks], device, dtype, operations):
        """Takes over the layers and attributes of `plain`. place: number of this layer among the cross-attentions.

        ranks: "to_q", "to_k", "to_v" -> ranks of their region terms.
        """
        torch.nn.Module.__init__(self)
        self.__dict__.update(plain.__dict__)  # everything that this ComfyUI's CrossAttention has, whatever its version
        self.place = place
        for number, kind in enumerate(KINDS):
            terms = {
                name: LowRank(*_sides(getattr(self, name)), both[number], device, dtype, operations)
                for name, both in ranks.items()
                if both[number]
            }
            if terms:
                self.add_module(f"lora_{kind}", torch.nn.ModuleDict(terms))

    def forward(self, x, context=None, value=None, mask=None, transformer_options={}):  # noqa: B006 - as inherited
        guide: Guide | None = transformer_options.get(PAYLOAD)
        if guide is None:
            return super().forward(x, context, value=value, mask=mask, transformer_options=transformer_options)
        strength = 1.0 if guide.strengths is None else guide.strengths[self.place]

        def attend(q, k, v):
            return optimized_attention(
                q, k, v, self.heads, mask=mask, attn_precision=self.attn_precision,
                transformer_options=transformer_options, **stored_attention(self),
            )  # fmt: skip

        if guide.off or strength == 0:
            attended = x.new_zeros(*x.shape[:-1], self.heads * self.dim_head)
        elif guide.split is None:
            context = x if context is None else context
            attended = attend(self.to_q(x), self.to_k(context), self.to_v(context if value is None else value))
        else:
            size = tuple(transformer_options["activations_shape"][-2:])
            attended = split_attention(self, x, guide.split, size, attend)
        return self.to_out(attended if strength == 1 else attended * strength)

    def project(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """The plain projection `name` (see colorize.unet.split_attention.Layer)."""
        return getattr(self, name)(x)

    def term(self, name: str, x: torch.Tensor, kind: str | None) -> torch.Tensor | None:
        """The region term beside it, or None (see colorize.unet.split_attention.Layer)."""
        terms = getattr(self, f"lora_{kind}", None) if kind else None
        return terms[name](x) if terms is not None and name in terms else None


def _sides(linear) -> tuple[int, int]:
    return linear.in_features, linear.out_features


class ColorizeUNet(UNetModel):
    """ComfyUI's U-Net with `ReferenceAttention` as its cross-attention.

    region_ranks: ranks of the region terms by layer name, empty without any.
    """

    def __init__(self, *args, region_ranks: dict[str, Ranks] | None = None, device=None, operations=None, **kwargs):
        super().__init__(*args, device=device, operations=operations, **kwargs)
        self.attention_places = attention_places(self, SpatialTransformer, Downsample, Upsample)
        blocks = [(name, m) for name, m in self.named_modules() if isinstance(m, BasicTransformerBlock)]
        for place, (name, block) in enumerate(blocks):
            own = f"{name}.attn2."
            ranks = {k.removeprefix(own): both for k, both in (region_ranks or {}).items() if k.startswith(own)}
            block.attn2 = ReferenceAttention(block.attn2, place, ranks, device, self.dtype, operations)


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
    """The diffusion model of the v1 and v1.5 families, and the part of v2's and XL's that is the same.

    Reference tokens arrive as cross-attention context (B, N, D), the sketch as a control, regions and settings of the
    reference as the payload of Apply Reference (conditioning.py).
    """

    network_class = ColorizeUNet
    region_names = KINDS  # of the region weights, in files of this family
    banks_node: str | None = None  # name of the node whose banks this model reads, see plugin.Banks

    def __init__(self, model_config, model_type, device=None, unet_model=None):
        super().__init__(model_config, model_type, device=device, unet_model=unet_model or self.network_class)
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
        conds = super().extra_conds(**kwargs)
        payload = kwargs.get(PAYLOAD)
        if payload is not None:
            conds.update(conds_of(payload, tokens, noise, kwargs.get("seed")))
        if payload is not None and payload.banks is not None:
            payload.banks.check_model(self)
            payload.banks.check_count(noise.shape[0])
            conds["colorize_banks"] = comfy.conds.CONDConstant(payload.banks.on(kwargs["device"]))
        return conds

    def _apply_model(
        self,
        x,
        t,
        c_concat=None,
        c_crossattn=None,
        control=None,
        transformer_options={},  # noqa: B006 - as inherited
        **kwargs,
    ):
        own = {name: kwargs.pop(f"colorize_{name}", None) for name in ("settings", "tokens", "masks", "noise", "banks")}
        if own["settings"] is not None:
            device, dtype = x.device, self.get_dtype_inference()
            tokens = [
                comfy.model_management.cast_to_device(values, device, dtype)
                for values in (c_crossattn, *(own["tokens"] or ()))
            ]
            masks = None if own["masks"] is None else own["masks"].to(device)
            guide, tokens = guide_of(
                own["settings"], tokens, masks, own["noise"], t, self.model_sampling.timestep(t), self._sizes(x),
                own["banks"], transformer_options.get("sample_sigmas"),
            )  # fmt: skip
            c_crossattn, transformer_options = tokens[0], {**transformer_options, PAYLOAD: guide}
        return super()._apply_model(x, t, c_concat, c_crossattn, control, transformer_options, **kwargs)

    def _sizes(self, x: torch.Tensor) -> list[tuple[int, int]]:
        """(height, width) of every feature map that has cross-attention, for a latent x (B, C, h, w)."""
        levels = {place.level for place in self.diffusion_model.attention_places}
        return [tuple(-(-side // 2**level) for side in x.shape[-2:]) for level in sorted(levels)]

    def load_model_weights(self, sd, unet_prefix="", **kwargs):
        """Load the U-Net strictly and remember the file's companions. sd loses the U-Net's tensors."""
        self.companions = {k: v for k, v in sd.items() if k.startswith(names.COMPANIONS)}
        given = {key.removeprefix(unet_prefix) for key in sd if key.startswith(unet_prefix)}
        expected = set(to_official_names(self.diffusion_model.state_dict(), self.region_names))
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
            out[names.EPS_MARKER] = torch.tensor([])
        out[names.HEAD_WIDTH] = torch.tensor(self.model_config.unet_config["num_head_channels"])
        out.update(self.companions)
        return out


class ColorizeBase(comfy.supported_models_base.BASE):
    """What the entries of our families in ComfyUI's model table share."""

    unet_extra_config = {"num_heads": -1, "num_head_channels": families.DEFAULT_HEAD_WIDTH}
    is_colorize_family = True
    model_class = ColorizeModel

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
        if ranks := region_ranks(state_dict, prefix):
            self.unet_config["region_ranks"] = ranks
        return self.model_class(self, self.model_type(state_dict, prefix), device=device)

    def process_unet_state_dict(self, state_dict):
        return to_module_names(state_dict)

    def process_unet_state_dict_for_saving(self, state_dict):
        names = self.model_class.region_names
        return super().process_unet_state_dict_for_saving(to_official_names(state_dict, names))

    def clip_target(self, state_dict=None):
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

    @classmethod
    def matches(cls, unet_config, state_dict=None, unet_key_prefix=None):
        return families.is_v1_unet(unet_config, state_dict, unet_key_prefix)


def register() -> None:
    """Make ComfyUI's loaders know our families. Safe to call again.

    The entries go to the front of the table because the first match wins: a narrow model of ours can have the sizes
    that the Stable Diffusion 1 entry asks for, while `matches` accepts nothing that is not ours.
    """
    from .v2 import ColorizeV2
    from .xl import ColorizeXL

    table = comfy.supported_models.models
    known = {entry.__name__ for entry in table if getattr(entry, "is_colorize_family", False)}
    table[:0] = [entry for entry in (ColorizeV1, ColorizeV2, ColorizeXL) if entry.__name__ not in known]
