"""Cases of v2: its picture encoders, their size condition, the U-Net that reads what they saw, and the conditions."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from ..ours import ours
from ..registry import case
from .background import model
from .split_attention import split_of
from .unet import unet_config


@case("v2_bg_encoder", "v2_style_encoder")
def encoders(golden, check):
    module, inputs = ours("colorize.background.picture_encoder"), golden.inputs
    network = module.PictureEncoder.from_state_dict(golden.weights, "", golden.constructor["num_head_channels"])
    assert not inputs["timesteps"].any()
    for number, answer in enumerate(network(inputs["z"], inputs["context"], inputs["y"])):
        check(f"hint.{number}", answer)


@case("v2_size_embedding")
def size_embedding(golden, check):
    module = ours("colorize.unet.size_embedding")
    for run, settings in golden.runs.items():
        scalars = module.ratio_scalars(tuple(settings["image_hw"]), tuple(settings["target_hw"]))
        check(run, module.embed(scalars, settings["embed_dim"]))


class TorchNetwork:
    """Our pure-torch U-Net with a golden file's weights."""

    def __init__(self, golden):
        module, constructor = ours("colorize.unet.unet"), golden.constructor
        ranks = tuple(constructor["lora_on_output_blocks"][kind] for kind in ("fr", "br"))
        config = unet_config(constructor)
        self.network = module.UNet(type(config)(**{**vars(config), "region_ranks": ranks, "v2": True})).eval()
        self.network.load_state_dict(golden.weights)

    def __call__(self, x, timesteps, context, control, split, decoder):
        # The recorded network has one sketch feature; ours has one more place for it, behind the last input block.
        control = [*control, torch.zeros(())]
        return self.network(x, timesteps, context, control, split=split, decoder=decoder)


class ComfyNetwork:
    """ComfyUI's U-Net with our decoder. It is built by hand: no level of the recorded one has a residual block."""

    def __init__(self, golden):
        from comfy.ops import manual_cast

        sizes, lora = golden.constructor, ours("colorize.unet.region_lora")
        self.network = ours("model_patches.model.v2").V2UNet(
            image_size=32,
            num_res_blocks=[0, 0],
            transformer_depth=[],
            transformer_depth_middle=1,
            transformer_depth_output=[0, 1],  # coarsest level last
            use_spatial_transformer=True,
            legacy=False,
            region_ranks=lora.region_ranks(golden.weights),
            operations=manual_cast,
            **{key: sizes[key] for key in ("in_channels", "out_channels", "model_channels", "channel_mult")},
            **{key: sizes[key] for key in ("num_head_channels", "context_dim")},
        )
        self.network.load_state_dict(lora.to_module_names(golden.weights))

    def __call__(self, x, timesteps, context, control, split, decoder):
        guide = ours("model_patches.payload").Guide(strengths=None, split=split, off=False, decoder=decoder)
        context = split.tokens[0] if split is not None else context
        control = {"input": [None, control[0]], "middle": [], "output": []}  # the last is taken first
        options = {"colorize": guide}
        return self.network(x, timesteps, context=context, control=control, transformer_options=options)


def check_unet(golden, check, network):
    inputs = golden.inputs
    module, context = ours("colorize.unet.decoder_guide"), inputs["context2"]
    for run, settings in golden.runs.items():
        split = decoder = None
        if settings["mask"]:
            split = split_of(settings | {"mask_threshold": settings["threshold"]}, context, inputs["mask"])
        if settings["hs_bg"] or settings["style"]:
            scale = settings["hs_bg_scale"]
            decoder = module.DecoderGuide(
                [tokens * scale for tokens in golden.listed("hs_bg")] if settings["hs_bg"] else (),
                golden.listed("style_modulations") if settings["style"] else (),
                module.figure_split(inputs["mask"], settings["threshold"]) if settings["mask"] else None,
            )
        timesteps = torch.tensor(settings.get("timesteps", golden.config["timesteps"]), dtype=torch.float32)
        check(run, network(inputs["x"], timesteps, context, golden.listed("control"), split, decoder))
    warp = network.network.warp_modules[0]
    check("warp_module_0", warp(inputs["warp_x"], inputs["hs_bg.0"]))
    check("warp_module_0_self", warp(inputs["warp_x"]))


@case("v2_unet")
def torch_unet(golden, check):
    check_unet(golden, check, TorchNetwork(golden))


@case("v2_unet", side="comfy")
def comfy_unet(golden, check):
    check_unet(golden, check, ComfyNetwork(golden))


CONTROL = "the sketch encoder's maps and their strength are compared in conditions_v1"
RUNS = ("style", "bg", "fg", "bg_style", "bg_background", "style_background", "bg_style_background")


def pooled(picture: torch.Tensor) -> torch.Tensor:
    """What stands in for the VAE in the record."""
    return torch.nn.functional.avg_pool2d(picture, 8)


@case("conditions_v2")
def torch_conditions(golden, check):
    inputs, arguments = golden.inputs, golden.config["args"]
    module, sizes = ours("colorize.background.picture_encoder"), ours("colorize.unet.size_embedding")
    masks, size = ours("colorize.pictures.masks"), (arguments["height"], arguments["width"])
    e, e_m, e_g = (inputs[f"emb_{name}_full"][:, 1:] for name in ("reference", "masked_reference", "background"))
    masked = masks.without_figure(inputs["reference"], inputs["rmask"], arguments["mask_threshold_ref"])

    def encoder_inputs(picture):
        squashed = masks.squash(picture, *size)
        scalars = sizes.ratio_scalars(tuple(picture.shape[-2:]), size)
        return squashed, pooled(squashed), sizes.embed(scalars, arguments["ratio_embed_dim"])

    def check_call(name, pictures, tokens):
        calls = [encoder_inputs(picture) for picture in pictures]
        check(f"{name}.x", torch.cat([x for _, x, _ in calls]))
        check(f"{name}.y", torch.cat([y for *_, y in calls]))
        check(f"{name}.context", torch.cat(tokens))
        return calls[0][0]

    check("plain.context", e)
    for run in RUNS:
        style, warped, own = "style" in run, run.startswith("bg"), "background" in run
        regions = {"bg": [e, e_g if own else e_m], "fg": [e, e]}.get(run[:2], [e])
        check(f"{run}.context", torch.cat(regions, dim=1))
        check(f"{run}.mask", inputs["smask"])
        if style:
            pictures, tokens = [inputs["reference"]], [e]
            vectors = [both[:1] for both in golden.listed("style_encoder_returns")]
            if own:
                pictures, tokens = [*pictures, inputs["background"]], [*tokens, e_g]
                other = [both[1:] for both in golden.listed("style_encoder_returns")]
                vectors = module.merged_styles(vectors, other, arguments["merge_scale"])
            squashed = check_call(f"{run}.style_encoder", pictures, tokens)
            check(f"{run}.vae_input_image", squashed)
            for number, vector in enumerate(vectors):
                check(f"{run}.style_modulations.{number}", vector)
        if warped:
            tokens = module.background_context(e, e_g if own else None, style, variant="released")
            squashed = check_call(f"{run}.bg_encoder", [inputs["background"] if own else masked], [tokens])
            check(f"{run}.vae_input_image", squashed)
            for number, values in enumerate(golden.listed("bg_encoder_returns")):
                check(f"{run}.hs_bg.{number}", values * arguments["mask_scale"])
    check.skip("plain.*control*", CONTROL)


class Recorder(torch.nn.Module):
    """Stands in for a picture encoder: keeps what it reads, answers the recorded values."""

    def __init__(self, answers: list[torch.Tensor], ratio_width: int):
        super().__init__()
        self.time_embed = torch.nn.Sequential(torch.nn.Linear(1, 1))
        self.config = SimpleNamespace(y_width=2 * ratio_width)
        self.answers, self.calls = answers, []

    def forward(self, latent, tokens, y):
        row = len(self.calls)
        self.calls.append((latent, tokens, y))
        return [answer[row : row + 1] for answer in self.answers]


class PooledVAE:
    """Stands in for the VAE: the mean of 8 x 8 pixels, in ComfyUI's scale of latents."""

    def encode(self, image):
        return pooled(image.movedim(-1, 1) * 2 - 1) / 0.18215


@case("conditions_v2", side="comfy")
def comfy_conditions(golden, check):
    """`condition` of Apply Reference and the node for style and background, in the variant `released`."""
    conditioning, types = ours("model_patches.conditioning.conditioning"), ours("colorize.reference.types")
    guides, inputs, arguments = (
        ours("model_patches.conditioning.style_background"),
        golden.inputs,
        golden.config["args"],
    )
    managed, payload_of = ours("model_patches.checkpoint.managed").managed, ours("model_patches.payload")
    tokens, size = inputs["emb_reference_full"], (arguments["height"], arguments["width"])
    family = ours("colorize.families").Family("v2", "", "v", "choice", 32, tokens.shape[-1], 32)
    latent = {"samples": torch.zeros(1, 4, *(side // 8 for side in size))}
    comfy_image = {name: (inputs[name] + 1).movedim(1, -1) / 2 for name in ("reference", "background")}

    def run(name):
        style, warped, own = "style" in name, name.startswith("bg"), "background" in name
        recorders = {
            kind: Recorder(golden.listed(f"{kind}_encoder_returns"), arguments["ratio_embed_dim"])
            for kind in ("style", "bg")
        }
        encoders = SimpleNamespace(style=managed(recorders["style"]), background=managed(recorders["bg"]))
        colorizer = ours("model_patches.checkpoint.colorizer").Colorizer(family, "golden", picture_encoders=encoders)
        background = inputs[f"emb_{'background' if own else 'masked_reference'}_full"][:, 1:] if warped or own else None
        reference = types.Reference(tokens, 1, "stretch", background, own)
        mode = "fig2fig" if warped else "masked vanilla" if name == "fg" else "vanilla"
        settings = conditioning.ReferenceSettings(mode=mode, mask_threshold=arguments["mask_threshold_sketch"])
        mask = inputs["smask"][:, 0]
        positive, negative = conditioning.condition(model(), colorizer, reference, settings, mask)
        seen = guides.read_pictures(
            colorizer,
            PooledVAE(),
            positive,
            reference,
            latent,
            guides.Pictures(
                comfy_image["reference"] if style else None,
                comfy_image["background" if own else "reference"] if warped or own else None,
                inputs["rmask"][:, 0] if warped and not own else None,
            ),
            guides.StyleSettings(
                arguments["mask_threshold_ref"], arguments["mask_scale"], arguments["merge_scale"], "released"
            ),
        )
        positive = guides.with_features(positive, seen)
        payload = positive[0][1].get("colorize") or payload_of.Payload(payload_of.StepSettings())
        check(f"{name}.context", torch.cat([positive[0][0], *payload.region_tokens], dim=1))
        assert not any(t.any() for entry in negative for t in entry[:1])
        if payload.masks:
            check(f"{name}.mask", payload.masks[0][:, None])
            assert payload.settings.split.kinds == (("fg", "bg") if warped else (None, None))
        for kind, recorder in recorders.items():
            for part, values in zip(("x", "context", "y"), zip(*recorder.calls)):
                check(f"{name}.{kind}_encoder.{part}", torch.cat(values))
        if seen is not None:
            for number, values in enumerate(seen.tensors[: seen.backgrounds]):
                check(f"{name}.hs_bg.{number}", values)
            for number, values in enumerate(seen.tensors[seen.backgrounds :]):
                check(f"{name}.style_modulations.{number}", values)

    for name in ("plain", *RUNS):
        run(name)
    check.skip("plain.*control*", CONTROL)
    check.skip("*.vae_input_image", "squashing is compared on the torch side, and here through the encoders' x")
