"""Cases `recovery_transformer`, `scalar_embedder` and `conditions_v1_5`: the background side of v1.5."""

from __future__ import annotations

import torch

from ..ours import ours
from ..registry import case

CONTROL = "the sketch encoder's maps and their strength are compared in conditions_v1"


@case("recovery_transformer")
def recovery_transformer(golden, check):
    network = ours("colorize.reference.recovery").RecoveryTransformer.from_state_dict(golden.weights, "")
    check("tokens", network(golden.inputs["tokens"]))


@case("scalar_embedder")
def scalar_embedder(golden, check):
    network = ours("colorize.reference.recovery").ScalarEmbedder.from_state_dict(golden.weights, "")
    values = golden.inputs["thresholds"]
    embedding = ours("colorize.unet.layers").timestep_embedding
    check("sinusoid", embedding(values, golden.constructor["embed_dim"]))
    check("embedding", network(values))


@case("conditions_v1_5")
def torch_conditions(golden, check):
    encoder = ours("colorize.reference.recovery").BackgroundEncoder.from_state_dict(golden.weights)
    arguments, inputs = golden.config["args"], golden.inputs
    figure = encoder.figure(inputs["emb_reference_full"][:, 1:], arguments["mask_threshold_sketch"])
    threshold = arguments["mask_threshold_ref"]
    recovered = encoder.background(inputs["emb_masked_reference_full"][:, 1:], threshold)
    picture = encoder.background(inputs["emb_background_full"][:, 1:], threshold, recover=False)
    e = inputs["emb_reference_full"][:, 1:]
    check("plain.context", e)
    check("fg_enhance.context", torch.cat([e, e], dim=1))
    check("bg_enhance.context", torch.cat([figure, recovered], dim=1))
    check("bg_enhance_background.context", torch.cat([figure, picture], dim=1))
    check("both.context", torch.cat([figure, recovered] * 2, dim=1))  # released: both halves hold both regions
    check.skip("plain.*control*", CONTROL)
    check.skip("*.mask", "the mask is handed through unchanged: comfy side")


@case("conditions_v1_5", side="comfy")
def comfy_conditions(golden, check):
    """`condition` of Apply Reference, in the variant `released`."""
    conditioning, types = ours("model_patches.conditioning.conditioning"), ours("colorize.reference.types")
    inputs, arguments = golden.inputs, golden.config["args"]
    tokens = inputs["emb_reference_full"]
    family = ours("colorize.families").Family("v1.5", "", "v", "choice", 32, tokens.shape[-1], 32)
    background = ours("model_patches.checkpoint.recovery").LoadedBackgroundEncoder.from_state_dict(
        golden.weights, "golden"
    )
    colorizer = ours("model_patches.checkpoint.colorizer").Colorizer(family, "golden", background)
    mask = inputs["smask"][:, 0]

    def conditions(mode, background_tokens=None, picture=False):
        reference = types.Reference(
            tokens, 1, "stretch", background_tokens, picture, background_threshold=arguments["mask_threshold_ref"]
        )
        settings = conditioning.ReferenceSettings(
            mode=mode,
            mask_threshold=arguments["mask_threshold_sketch"],
            merge=arguments["merge_scale"],
            variant="released",
        )
        positive, negative = conditioning.condition(model(), colorizer, reference, settings, mask)
        assert len(positive) == len(negative) == 1 and not negative[0][0].any()
        if mode != "vanilla":
            assert not any(tokens.any() for tokens in negative[0][1]["colorize"].region_tokens)
        return positive[0]

    def joined(entry):
        return torch.cat([entry[0], *entry[1]["colorize"].region_tokens], dim=1)

    masked, picture = inputs["emb_masked_reference_full"][:, 1:], inputs["emb_background_full"][:, 1:]
    check("plain.context", conditions("vanilla")[0])
    check("fg_enhance.context", joined(conditions("bg2fig")))
    check("bg_enhance.context", joined(conditions("fig2fig", masked)))
    check("bg_enhance_background.context", joined(conditions("fig2fig", picture, True)))
    fig2fig = conditions("fig2fig", masked)
    check("both.context", joined(fig2fig).repeat(1, 2, 1))  # released: both halves hold both regions
    for name in ("bg_enhance", "bg_enhance_background", "fg_enhance", "both"):
        check(f"{name}.mask", fig2fig[1]["colorize"].masks[0][:, None])
    check.skip("plain.*control*", CONTROL)


def model():
    """What `condition` reads of a model: the places of its cross-attention layers."""
    from types import SimpleNamespace

    place = ours("colorize.unet.strengths").Place
    return SimpleNamespace(diffusion_model=SimpleNamespace(attention_places=(place("encoder", 0),) * 16))
