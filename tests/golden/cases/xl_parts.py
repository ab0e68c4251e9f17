"""Cases `xl_sketch_encoder`, `xl_proj`, `xl_scalar_embedding`: the parts around the U-Net of ColorizeDiffusion XL."""

from __future__ import annotations

import torch

from ..ours import ours
from ..registry import Tolerance, case

WHOLE_LEVELS = Tolerance(8.0)
"""Of 255. The record resizes with Pillow, which rounds and clips to whole levels after each direction; we do not."""


def xl_sketch_encoder(weights, constructor: dict):
    """Our sketch encoder with a golden file's weights."""
    module = ours("colorize.sketch.xl_encoder")
    return module.XLSketchEncoder.from_state_dict(weights, "control_encoder.", head_width=constructor["dim_head"])


@case("xl_sketch_encoder")
def sketch_encoder(golden, check):
    module = ours("colorize.sketch.xl_encoder")
    encoder, sketch = xl_sketch_encoder(golden.weights, golden.constructor), golden.inputs["x"]
    tokens, grids = encoder.tokens(sketch)
    check("mid_tokens", tokens)
    check("mid_attention", encoder.attn_layer(tokens, grids))
    length = max(side for grid in grids for side in grid)
    cosine, sine = module.rotary_table(length, golden.constructor["dim_head"] // 4)
    check("rope_cos", cosine)
    check("rope_sin", sine)
    for prefix, encoder.attn_layer.cosine_only in (("", False), ("cosrope_", True)):
        for level, hint in enumerate(encoder(sketch)):
            check(f"{prefix}hint_{level}", hint)


@case("xl_proj")
def token_projection(golden, check):
    module = ours("colorize.reference.token_projection")
    clip, tagger, logits = (golden.inputs[name] for name in ("clip_tokens", "wd_tokens", "wd_logits"))
    heads = golden.constructor["common"]["dim_head"]

    def projection(name: str):
        return module.from_state_dict(golden.weights, f"{name}.", head_width=heads)

    cluster, recovery = projection("cluster"), projection("recovery")
    check("cluster", cluster(clip, tagger))
    # The released flag `fgbg` joins the halves of the batch along tokens: two sets of one picture.
    check("cluster_fgbg", torch.cat(cluster(clip, tagger).chunk(2), dim=1))
    check("recovery", recovery(clip, tagger))
    check("recovery_bg", recovery.background(clip, tagger))
    logit = projection("logit")
    check("logit", logit(clip, logits))
    mlp = module.AdaptiveMLP(logits.shape[-1], tagger.shape[-1], golden.constructor["mlp_layers"])
    mlp.load_state_dict({k.removeprefix("mlp."): v for k, v in golden.weights.items() if k.startswith("mlp.")})
    check("mlp", mlp(logits))


@case("xl_scalar_embedding")
def scalar_embedding(golden, check):
    module = ours("colorize.unet.size_embedding")
    width = golden.constructor["embed_dim"]
    check(f"embedding_{width}", module.embed(golden.inputs["scalars"][:, None], width))
    for name in check.names("y_inference_*"):
        height, wide = golden.inputs[name.replace("y_inference", "size")].tolist()
        check(name, module.embed(module.picture_scalars(height, wide), width))
    crop = tuple(golden.inputs["train_image_hw"].tolist())
    scalars = module.training_scalars(golden.inputs["train_size"], crop, golden.inputs["train_score"], "released")
    check("train_scalars", scalars.T.flatten())  # recorded: all sizes, then all scores
    check("train_y", module.embed(scalars, width))
    rows = golden.inputs["plugin_hwbhbw"].tolist()
    crops = torch.cat([module.crop_scalars((bh, bw), (h, w)) for h, w, bh, bw in rows])
    check("plugin_ch_cw", crops[:, 2:])
    check("plugin_y", module.embed(crops, width))


@case("xl_clip_tokens")
def clip_tokens(golden, check):
    vision, sizes = ours("colorize.reference.vision"), golden.constructor
    heads = sizes["hidden_size"] // sizes["num_attention_heads"]
    prefix = next(key for key in golden.weights if "patch_embedding" in key).partition("vision_model.")[0]
    weights = {key.removeprefix(prefix): value for key, value in golden.weights.items()}
    load = ours("colorize.reference.encoder_file").load_reference_encoder
    encoder, image = load(weights, {"colorize.head_width": str(heads)}), golden.inputs["image"]
    before_norm = []
    encoder.visual.transformer.register_forward_hook(lambda module, inputs, output: before_norm.append(output))
    tokens = encoder.encode(image)
    check("preprocessed", vision.preprocess(image, encoder.image_size))
    check("preprocessed_224_every_8", vision.preprocess(image, 224)[..., ::8, ::8])
    check("hf_last_hidden_state", before_norm[0])
    check("full", tokens)
    check("cls", tokens[:, :1])
    check("local", tokens[:, 1:])
    check("hf_image_embeds", tokens[:, 0])


@case("xl_sigmas")
def sigmas(golden, check):
    schedule = ours("colorize.sampling.schedule").NoiseSchedule()
    check("alphas_cumprod", schedule.alphas_cumprod)
    check("t_to_sigma", schedule.t_to_sigma(golden.inputs["t"]))
    for name in check.names("t.*"):
        levels = golden.outputs[name.replace("t.", "sigmas.", 1)]
        check(name, schedule.sigma_to_t(levels[:-1]))
    check.skip("sigmas.*", "noise levels of k-diffusion's samplers: ComfyUI has its own")


@case("xl_ui_preprocess")
def ui_preprocess(golden, check):
    images, masks = ours("colorize.pictures.images"), ours("colorize.pictures.masks")
    for picture in ("tall", "wide"):
        given = golden.inputs[f"{picture}.image"].float()[None] / 255
        size = golden.inputs[f"{picture}.resolution_hw"].tolist()
        sketch, frame = images.place(images.comfy_image_to_sketch(given, polarity="dark_on_light"), *size, fit="pad")
        levels = (sketch.clamp(-1, 1) + 1) * 127.5
        check(f"{picture}.invert.sketch_u8", levels, WHOLE_LEVELS)
        box = torch.tensor((frame.left, frame.top, frame.box_width, frame.box_height))
        check(f"{picture}.invert.left_top_w_h", box)
        check(f"{picture}.none.left_top_w_h", box)
    check.skip(
        "*.none.sketch_u8", "released: white around a drawing that is white on black already; ours is black there"
    )
    side, picture = golden.constructor["s"], golden.inputs["seg.image"]

    def network(pixels):  # what the record used in place of a segmentation network
        return torch.sigmoid(4 * (pixels.mean(dim=1, keepdim=True) - 0.5))

    check.skip("*.padded_reference_*", "white side margins of the reference are not offered")
    size = golden.outputs["seg.nocrop"].shape[-2:]
    check("seg.nocrop", masks.sketch_figure_mask(network, picture, *size, size=side))
    check("seg.crop", masks.figure_mask(network, picture, side))
    check("seg.crop_dilate", masks.figure_mask(network, picture, side, 21))
