"""Every name by which the parts of a checkpoint are known, once: prefixes of tensors, markers and metadata.

The layout is that of the released files. Whoever reads or writes a part of a file takes its prefix from here, so that a
name can be looked up, and changed, in one place (tests/test_house.py).
"""

from __future__ import annotations

UNET = "model.diffusion_model."
SKETCH_ENCODER = "control_encoder."
VAE = "first_stage_model."
RECOVERY = "transformer."  # recovery transformer (v1.5)
THRESHOLD = "thresh_embedder."  # threshold embedding (v1.5)
PROJECTION = "proj."  # token projection (XL)
BACKGROUND_ENCODER = "bg_encoder."  # reference net of the background plugin (XL), background encoder (v2)
STYLE_ENCODER = "style_encoder."  # style encoder (v2)

# Parts of the U-Net, below its prefix.
WARPS = "warp_modules."  # v2 only
STYLES = "style_modules."  # v2 only
UNUSED = "conv_fg."  # XL with plugin: an input for foreground latents, of a plugin that no published model has
REGION_LORA = ".lora_"  # in the name of every region weight
FIGURE_LORA = ".lora_down_fg."  # in those of the figure, v1.5 and v2
XL_FIGURE_LORA = ".lora_down_foreground."  # the same in XL files
V2_PARTS = (WARPS, STYLES)
DISTILLED = "distilled.weight"  # steps and guidance of a student (colorize/distilled.py)
LORA_UNET = "diffusion_model."  # the U-Net in the names of LoRAs

RECOVERY_PARTS = (RECOVERY, THRESHOLD)

# Facts that leave no trace in names and shapes: tensors without meaning of their own, and entries of the metadata.
V_MARKER = "v_pred"  # ComfyUI's own convention: an empty tensor of this name means v-prediction
EPS_MARKER = "eps_pred"
HEAD_WIDTH = "colorize.num_head_channels"  # a tensor of one number, and the metadata entry of the same meaning
PREDICTION = "colorize.prediction_type"
POLARITY = "colorize.sketch_polarity"
DISTILLED_FACTS = "colorize.distilled"  # metadata entry: how a student is run
SAMPLER_FACTS = "colorize.sampler"  # metadata entry: how a model is best sampled (colorize/sampler_settings.py)
TOKENS = "colorize.tokens"  # metadata entry: which tokens of a reference are read, "local" or "cls"
CLS_MARKER = "cls_tokens"  # an empty tensor: the class token alone
CLIP_PAIR = "clip_pair"  # an empty tensor: XL's projection reads a second CLIP tower in the place of the tagger
NO_RECOVERY = "no_recovery"  # an empty tensor: region weights that were trained without recovery transformer

# Parts that are neither U-Net nor VAE and that a re-saved checkpoint must keep.
COMPANIONS = (
    SKETCH_ENCODER,
    PROJECTION,
    BACKGROUND_ENCODER,
    STYLE_ENCODER,
    UNET + UNUSED,
    *RECOVERY_PARTS,
    *(CLS_MARKER, CLIP_PAIR, NO_RECOVERY),  # markers of what is absent travel with the parts
)
