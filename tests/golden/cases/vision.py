"""Cases `clip_preprocess`, `clip_preprocess_down`, `clip_tiny`: reference and text encoder, and the preprocessing."""

from __future__ import annotations

from ..ours import ours
from ..registry import case


@case("clip_preprocess", "clip_preprocess_down")
def preprocess(golden, check):
    size = golden.config["size"]
    check(f"pixels_{size}", ours("colorize.reference.vision").preprocess(golden.inputs["image"], size))


@case("clip_tiny")
def tokens(golden, check):
    vision = ours("colorize.reference.vision")
    sizes = golden.constructor["vision"]
    prefix = golden.config["official_key_prefix"]
    weights = {prefix + key: tensor for key, tensor in golden.weights.items()}
    load = ours("colorize.reference.encoder_file").load_reference_encoder
    encoder = load(weights, {"colorize.head_width": str(sizes["head_width"])})
    image = golden.inputs["image"]

    pixels = vision.preprocess(image, encoder.image_size)
    before_norm = []
    hook = encoder.visual.transformer.register_forward_hook(lambda module, inputs, output: before_norm.append(output))
    everything = encoder.encode(image)
    hook.remove()
    check("pixels", pixels)
    check("full", everything)
    check("cls", everything[:, :1])
    check("local", everything[:, 1:])
    if "full_unnormalized" in check:
        check("full_unnormalized", before_norm[0])
    for name in check.names("full_scale_factor_*"):
        check(name, encoder.encode(image, scale=int(name.rpartition("_")[2])))
    for name in check.names("positional_embedding_scale_factor_*"):
        check(name, vision.enlarge_positions(encoder.visual.positional_embedding, int(name.rpartition("_")[2])))
    if "text" in golden.constructor:  # files without a text tower are of this case, too
        check_text(golden, check, weights)


def check_text(golden, check, weights):
    sizes, ids = golden.constructor["text"], golden.inputs["text_tokens"]
    metadata = {"colorize.text_head_width": str(sizes["width"] // sizes["heads"])}
    encoder = ours("colorize.reference.text").load_text_encoder(weights, metadata)
    check("text.projected_all_tokens", encoder.tokens(ids))
    check("text.normalized", encoder.encode_ids(ids)[:, None])
