"""Cases `xl_gram`, `xl_training_step`, `xl_adapter_step`: losses and steps of the XL trainer."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from ..ours import ours
from ..registry import case
from .xl_parts import xl_sketch_encoder
from .xl_unet import xl_unet


@case("xl_gram")
def gram(golden, check):
    module, inputs = ours("trainer.losses.gram"), golden.inputs
    misaligned = [inputs[f"target_{layer}"] for layer in range(2)]
    aligned = [inputs[f"anchor_{layer}"] for layer in range(2)]
    for layer in range(2):
        check(f"gram_anchor_{layer}", module.gram(aligned[layer]))
        check(f"gram_target_{layer}", module.gram(misaligned[layer]))
    check("gram_raw_anchor_0", module.gram(aligned[0], cosine=False))
    check("gram_dist_anchor_0", module.gram(module.standardised(aligned[0])))

    def loss(layers=2, **options):
        return module.gram_loss(misaligned[:layers], aligned[:layers], **options)

    check("mse_loss", loss())
    check("mse_loss_weight2p5", 2.5 * loss())
    check("mse_loss_l2norm", loss(normalise_rows=True))
    check("kl_loss", loss(variant="kl"))
    check("kl_loss_temp0p5", loss(variant="kl", temperature=0.5))
    check("ranking_loss", loss(variant="ranking"))
    check("bce_loss", loss(variant="bce"))
    figure = inputs["smask"]
    check("normalized_mask", module.figure_tokens(figure, aligned[0].shape[1]))
    check("mse_loss_maskweight_one_layer", loss(1, figure=figure))
    with torch.enable_grad():
        leaves = [x.clone().requires_grad_() for x in (*misaligned, *aligned)]
        module.gram_loss(leaves[:2], leaves[2:]).backward()
    for layer in range(2):
        check(f"grad_target_{layer}", leaves[layer].grad)
    check("grad_anchor_is_none", torch.tensor(int(leaves[2].grad is None)))


class Step:
    """The trained networks of a recorded step, and our stage's losses around them."""

    def __init__(self, golden, settings: dict):
        self.trainer = golden.constructor["trainer"]
        sizes = {
            name: part["params"] for name, part in self.trainer.items() if name.endswith("_config") and "params" in part
        }
        self.unet = xl_unet(golden.weights, sizes["unet_config"])
        self.encoder = xl_sketch_encoder(golden.weights, sizes["control_encoder_config"])
        heads = sizes["proj_config"]["dim_head"]
        self.projection = ours("colorize.reference.token_projection").from_state_dict(golden.weights, head_width=heads)
        self.width = sizes["scalar_embedder_config"]["embed_dim"]
        self.schedule = ours("colorize.sampling.schedule").NoiseSchedule()
        self.stage = SimpleNamespace(
            config=ours("trainer.config").build(settings),
            colorizer=SimpleNamespace(unet=self.unet),
            schedule=self.schedule,
            device=torch.device("cpu"),
        )

    def losses(self, *inputs):
        return ours("trainer.stages.xl").XLBackboneStage.losses(self.stage, *inputs)

    def parameter(self, name: str) -> torch.nn.Parameter:
        """By its official name."""
        heads = {"model.diffusion_model.": self.unet, "control_encoder.": self.encoder, "proj.": self.projection}
        prefix = next(prefix for prefix in heads if name.startswith(prefix))
        return heads[prefix].get_parameter(name.removeprefix(prefix))

    def y(self, batch: dict, variant: str = "released") -> torch.Tensor:
        module = ours("colorize.unet.size_embedding")
        crop = tuple(batch["image"].shape[-2:])
        return module.embed(module.training_scalars(batch["size"], crop, batch["aesthetic_score"], variant), self.width)


def settings_of(**gram) -> dict:
    """A configuration of the released losses; its files are never opened."""
    return {
        "run": {"stage": "xl"},
        "model": {"encoder": "-", "tagger": "-", "vae": "-", "channel_mult": [1, 2, 4]},
        "data": {"folder": "-"},
        "gram": gram,
    }


def inputs_of(golden, group: str) -> dict:
    """The inputs `group.*`, for draws without their numbers in front."""
    return {k.removeprefix(f"{group}."): v for k, v in golden.inputs.items() if k.startswith(f"{group}.")}


def inpainted(batch: dict, chosen: torch.Tensor, levels: torch.Tensor, offset: int = 4) -> torch.Tensor:
    """References, the chosen ones without what lies inside the figure mask of the sample `offset` places before."""
    elsewhere = batch["rmask"].roll(offset, dims=0)
    cut = ours("colorize.pictures.masks").without_figure(batch["reference"], elsewhere, levels)
    return torch.where(chosen.view(-1, 1, 1, 1), cut, batch["reference"])


NO_VAE = "a sample of the released autoencoder, which is given to the case"


@case("xl_training_step")
def training_step(golden, check):
    options = dict(weight=1.0, start=0.0, blocks="released", other="batch")
    step, batch = Step(golden, settings_of(**options)), inputs_of(golden, "batch")
    given, count = golden.constructor["get_input"], len(batch["image"])
    draw = inputs_of(golden, "draws_input")

    low, high = step.trainer["thresh_min"], 0.99
    levels = low + (high - low) * draw["00_rand"][count:]  # of the sketches, then of the references
    chosen = draw["01_rand"] < given["inpaint_p"]
    check("reference_after_inpaint", inpainted(batch, chosen, levels, given["merge_offset"]))
    check("smask", batch["smask"])
    keep = torch.stack([draw[f"0{3 + level}_bernoulli"] for level in range(4)], dim=1)
    drop_levels = ours("trainer.stages.xl").drop_levels
    shift_name = next(name for name in inputs_of(golden, "draws_before") if name.endswith("_randn"))
    diffusion, drop = ours("trainer.losses.diffusion"), ours("trainer.losses.reference_drop")
    t, latent, y = golden.inputs["t"], golden.outputs["latent"], step.y(batch)
    check("y", y)
    for run in ("before", "after", "after_clip"):
        draws = inputs_of(golden, f"draws_{run}")
        with torch.enable_grad():
            step.unet.zero_grad(), step.encoder.zero_grad(), step.projection.zero_grad()
            hints = drop_levels(step.encoder(batch["control"]), keep)
            whole = step.projection(golden.outputs["clip_tokens"], golden.outputs["wd_tokens"])
            context = drop.drop_references(whole, draws["03_bernoulli"])
            noise = diffusion.add_offset(golden.inputs["noise"], draws[shift_name], step.trainer["offset_noise_level"])
            other = None if run == "before" else context.roll(1, dims=0)
            other = other.detach() if run == "after_clip" else other
            terms = step.losses(latent, noise, t, hints, y, context, other)
            sum(terms.values()).backward()
        check("context", whole)
        for level, hint in enumerate(hints):
            check(f"control_{level}", hint)
        check(f"{run}.context_after", context if other is None else other)  # of the last pass
        check(f"{run}.diffusion_loss", terms["denoising"])
        check(f"{run}.total", sum(terms.values()))
        check(f"{run}.total_loss", sum(terms.values()))
        noisy = step.schedule.add_noise(latent, noise, t)
        for branch, tokens in enumerate((context, other)):
            if tokens is not None:
                check(f"{run}.x_noisy_{branch}", noisy)
                check(f"{run}.v_pred_{branch}", step.unet(noisy, t, tokens, hints, y=y))
        if other is not None:
            check(f"{run}.gram_loss", terms["gram"])
            module = ours("trainer.losses.gram")
            blocks = module.hooked_blocks(step.unet, "released")
            assert tuple(number + 1 for number in blocks) == tuple(golden.constructor["gram_ids"])
            _, *features = module.two_branches(step.unet, noisy, t, hints, y, context, other, blocks)
            for name, maps in zip(("aligned", "misaligned"), features):
                for layer, features_of in enumerate(maps):
                    check(f"{run}.gram_{name}_{layer}", module.gram(features_of))
        for name in check.names(f"{run}.gradnorm.*"):
            check(name, step.parameter(name.removeprefix(f"{run}.gradnorm.")).grad.norm())
    with torch.enable_grad():
        contexts = [context.detach().requires_grad_(), context.detach().roll(1, dims=0).requires_grad_()]
        hints = [hint.detach() for hint in hints]
        _, aligned, misaligned = module.two_branches(step.unet, noisy, t, hints, y, *contexts, blocks)
        module.gram_loss(misaligned, aligned).backward()
    # Both branches are one batch here, so that "no gradient" is one of zeros.
    check("gram_only.aligned_context_has_gradient", torch.tensor(int(contexts[0].grad.abs().max() > 0)))
    check.skip("gram_only.*", "a pass whose noise and steps the file does not say; the gradients above cover it")
    for name in ("latent", "clip_tokens", "wd_tokens"):
        check.skip(name, NO_VAE if name == "latent" else "answers of the frozen encoders, which are given to the case")


@case("xl_adapter_step")
def adapter_step(golden, check):
    """Stage 2: plugin and background LoRA."""
    step, batch = Step(golden, settings_of()), inputs_of(golden, "batch")
    draw, lost = inputs_of(golden, "draws_input"), inputs_of(golden, "draws_loss")
    bleach, module = ours("trainer.losses.bleach"), ours("colorize.background.reference_net")
    sizes, count = ours("colorize.unet.size_embedding"), len(batch["image"])
    low, high = step.trainer["thresh_min"], 0.99
    levels = low + (high - low) * draw["00_rand"]
    ours_level, theirs = levels[:count], levels[count:]
    bleached = draw["02_rand"] < step.trainer["p_white_bg"]
    figure = batch["smask"] > ours_level.view(-1, 1, 1, 1)
    check("image_after_bleaching", bleach.whiten_background(batch["image"], figure, bleached, 1.0))
    erased = bleach.whiten_background(batch["control"], figure, torch.ones_like(bleached), -1.0)
    check("sketch_after_bleaching", erased)
    shown = batch["rmask"] >= theirs.view(-1, 1, 1, 1)
    reference = inpainted(batch, draw["01_rand"] < step.trainer["inpaint_p"], theirs)
    background = bleach.background_reference(reference, shown, bleached, draw["03_rand"])
    check("reference_background", background)
    given = golden.outputs["plugin_input"]
    check("plugin_input", module.plugin_input(given[:, :4], batch["smask"], batch["rmask"], "trainer"))
    params = step.trainer["bg_encoder_config"]["params"]
    plugin = module.ReferenceNet.from_state_dict(golden.weights, num_head_channels=params["num_head_channels"])
    y = sizes.embed(batch["crop"], step.width)
    check("plugin_y", y)
    check("y", step.y(batch))
    mask = ours("trainer.models.colorizer").latent_masks(batch["smask"])
    check("mask", mask)
    check("attn2_mask_threshold", ours_level)
    unet_module = ours("colorize.unet.split_attention")
    check("attn1_mask_threshold", torch.tensor(unet_module.BANK_OPTIONS.threshold))
    context, t = golden.outputs["context"], golden.inputs["t"]
    for parameters in (step.unet.parameters(), step.encoder.parameters(), step.projection.parameters()):
        for parameter in parameters:
            parameter.requires_grad_(False)
    for name, parameter in step.unet.named_parameters():
        parameter.requires_grad_(".lora_" in name)
    keep = torch.stack([draw[f"0{5 + level}_bernoulli"] for level in range(4)], dim=1)
    hints = ours("trainer.stages.xl").drop_levels(step.encoder(erased), keep)
    split_module = ours("colorize.unet.split_attention")
    with torch.enable_grad():
        banks = plugin(given, y)
        dropped = ours("trainer.losses.reference_drop").drop_references(context, lost["01_bernoulli"])
        options = ours("trainer.stages.xl_regions").XLPluginStage.options
        split = split_module.Split(dropped.chunk(2, dim=1), mask, options, ours_level)
        diffusion = ours("trainer.losses.diffusion")
        noise = diffusion.add_offset(golden.inputs["noise"], lost["02_randn"], step.trainer["offset_noise_level"])
        latent = golden.outputs["latent"]
        noisy = step.schedule.add_noise(latent, noise, t)
        answer = step.unet(noisy, t, None, hints, split=split, y=step.y(batch), banks=banks)
        loss = diffusion.denoising_loss(answer, diffusion.target(step.schedule, latent, noise, t, "v"))
        loss.backward()
    check("bank_0", banks[0])
    check("loss", loss)
    for name in check.names("gradnorm.*"):
        path = name.removeprefix("gradnorm.")
        if path.startswith("bg_encoder."):
            gradient = plugin.get_parameter(path.removeprefix("bg_encoder.")).grad
        else:
            gradient = step.parameter(path.replace("_background", "_bg")).grad
        check(name, torch.tensor(-1.0) if gradient is None else gradient.norm())
    check.skip("latent", NO_VAE)
    check.skip("context", "made of answers of the frozen encoders, which are not in the file")
