"""The XL cases inside ComfyUI: U-Net, split attention, background plugin, whole conditioning of both wrappers."""

from __future__ import annotations

import torch

from ..ours import ours
from ..registry import case
from .unet import probe
from .xl_unet import Layer, controls, plugin_split, split_attention
from .xl_wrapper import Network, Wrapper, loaded_patcher


@case("xl_unet", "xl_unet_explicit", side="comfy")
def unet(golden, check):
    network, inputs, seen = Network(golden, golden.constructor), golden.inputs, {}
    probe(network.network, f"input_blocks.{len(network.network.input_blocks) - 1}", "input8", seen)
    probe(network.network, "middle_block", "middle", seen)
    for run in check.names("v_*"):
        number = run.removeprefix("v_")
        answer = network(inputs["x"], inputs[f"t_{number}"], inputs["context"], controls(inputs), inputs["y"])
        check(run, answer)
        check(f"mid_input8_{number}", seen["input8"])
        check(f"mid_middle_{number}", seen["middle"])


@case("xl_unet_reference_scale", side="comfy")
def reference_scale(golden, check):
    network, inputs = Network(golden, golden.constructor["unet"]), golden.inputs
    for run, strengths in golden.constructor["scales"].items():
        guide = network.guide(tuple(strengths), None, False)
        x, t, context, y = (inputs[name] for name in ("x", "t_0", "context", "y"))
        check(run, network(x, t, context, controls(inputs), y, guide))


class ComfyLayer(Layer):
    """One cross-attention of the case `xl_split_attention` as ComfyUI has it."""

    def __init__(self, golden, weights):
        super().__init__(golden, weights)
        self.attention = ComfyAttention(self.attention, golden.constructor)


class ComfyAttention:
    """Our cross-attention class with the weights of a pure-torch one, behind the same methods."""

    def __init__(self, source, sizes: dict):
        import comfy.ops
        from comfy.ldm.modules.attention import CrossAttention

        lora, unet = ours("colorize.unet.region_lora"), ours("model_patches.model.attention")
        operations, heads = comfy.ops.disable_weight_init, source.heads
        plain = CrossAttention(
            sizes["query_dim"], sizes["context_dim"], heads, sizes["dim_head"], operations=operations
        )
        weights = {f"attn2.{key}": value for key, value in source.state_dict().items()}
        ranks = {key.removeprefix("attn2."): both for key, both in lora.region_ranks(weights).items()}
        self.layer = unet.ReferenceAttention(plain, 0, ranks, None, torch.float32, operations)
        renamed = {key.removeprefix("attn2."): value for key, value in lora.to_module_names(weights).items()}
        self.layer.load_state_dict(renamed)
        self.to_k = self.layer.to_k

    def __call__(self, x, context):
        return self.layer(x, context=context)

    def forward_split(self, x, split, size, strength):
        guide = ours("model_patches.payload").Guide((strength,), split, False)
        options = {"colorize": guide, "activations_shape": [len(x), 0, *size]}
        return self.layer(x, context=split.tokens[0], transformer_options=options)

    def get_submodule(self, name: str):
        """A low-rank layer by its official name, such as to_q.lora_up_fg."""
        projection, _, low_rank = name.partition(".lora_")
        way, kind = low_rank.split("_")
        return self.layer.get_submodule(f"lora_{kind}.{projection}.{way}")


@case("xl_split_attention", side="comfy")
def comfy_split_attention(golden, check):
    split_attention(golden, check, ComfyLayer)


@case("xl_reference_net", side="comfy")
def reference_net(golden, check):
    inputs, sizes = golden.inputs, golden.constructor
    plugin = ours("model_patches.checkpoint.plugin").LoadedPlugin.from_state_dict(
        golden.weights, sizes["reference_net"]["num_head_channels"], golden.path.name
    )
    tensors = tuple(plugin.patcher.model(inputs["ref_x"], inputs["ref_y"]))
    for number, bank in enumerate(tensors):
        check(f"bank_{number}", bank)
    network, banks = Network(golden, sizes["unet"]), ours("model_patches.features").Banks(tensors)
    x, mask = inputs["x"], inputs["mask"]

    def run(with_banks: bool, **options):
        split = plugin_split(inputs["context"], mask, **options) if options else None
        feature_maps = network.model._sizes(x)
        bank_options = ours("colorize.unet.split_attention").BANK_OPTIONS
        read = banks.read(len(x), mask if options else None, feature_maps, bank_options) if with_banks else {}
        guide = network.guide(None, split, False, **read)
        return network(x, inputs["t_0"], inputs["context"], controls(inputs), inputs["y"], guide)

    check("v_nobank_nomask", run(False))
    check("v_bank_nomask", run(True))
    check("v_nobank_mask", run(False, kinds=(None, None)))
    check("v_bank_mask", run(True, kinds=(None, None)))
    check("v_bank_mask_lora", run(True, kinds=("bg", "bg")))
    check("v_bank_mask_lora_fg0p9_bg0p7_merge0p25_thr0p5", run(True, merge=0.25, strengths=(0.9, 0.7)))


# -- the whole conditioning --------------------------------------------------------------------------------------------


def check_contexts(check, wrapper, run: str, positive, negative) -> None:
    """The three conditions of a run: reference, no reference, no sketch."""
    check(f"{run}.cond.context", wrapper.context(positive))
    check(f"{run}.uc_ref.context", wrapper.context(negative))
    check(f"{run}.uc_sketch.context", wrapper.context(positive))


def check_plain(check, wrapper, run: str, positive, negative) -> None:
    """Contexts, y and hints of a run without regions."""
    check_contexts(check, wrapper, run, positive, negative)
    for condition in ("cond", "uc_ref", "uc_sketch"):
        check(f"{run}.{condition}.y", wrapper.y(positive))
        for level, hint in enumerate(wrapper.hints(blank=condition == "uc_sketch")):
            check(f"{run}.{condition}.control_{level}", hint)


SKIPPED = {
    "*.frozen.*": "inputs of ours: the encoders have cases of their own",
    "*.mask": "recorded by nearest neighbour; ours is bicubic for every family, as the levels of the U-Net are",
    "*.threshold": "an option of the run, not a result",
    "*.inpaint_bg": "ComfyUI's inpainting takes a latent and a mask",
}


@case("xl_prepare_sdxl", side="comfy")
def prepare_sdxl(golden, check):
    wrapper = Wrapper(golden)
    for run in ("plain", "bg", "bg_image", "inpaint"):
        if check.names(f"{run}.cond.context"):
            positive, negative = wrapper.conditions(run)
            (check_plain if run == "plain" else check_contexts)(check, wrapper, run, positive, negative)
    if check.names("noreference.cond.context"):
        _, negative = wrapper.conditions("noreference")
        check_contexts(check, wrapper, "noreference", negative, negative)
    for pattern, reason in SKIPPED.items():
        check.skip(pattern, reason)


@case("xl_prepare_xlv2", side="comfy")
def prepare_xlv2(golden, check):
    wrapper, inputs = Wrapper(golden), golden.inputs
    hints = wrapper.hints()
    positive, negative = wrapper.conditions("plain")
    check_plain(check, wrapper, "plain", positive, negative)
    check("plain.v", wrapper.velocity(positive, hints))
    plugin, features = ours("model_patches.conditioning.background_plugin"), ours("model_patches.features")
    for run, source, mask in (("bg", "reference", "rmask"), ("bg_image", "background", "rmask_bg")):
        positive, negative = wrapper.conditions(run, mask_edges="soft", variant="released")
        check_contexts(check, wrapper, run, positive, negative)
        seen = []
        network = wrapper.colorizer.plugin.patcher.model
        hook = network.register_forward_pre_hook(lambda module, arguments, seen=seen: seen.extend(arguments))
        banks = wrapper.colorizer.plugin.read(
            golden.outputs[f"{run}.frozen.latent_0"], inputs["smask"], inputs[mask], tuple(inputs[source].shape[-2:])
        )
        hook.remove()
        check(f"{run}.plugin_input", seen[0])
        check(f"{run}.plugin_y", seen[1])
        check(f"{run}.v", wrapper.velocity(plugin.with_banks(positive, features.Banks(banks)), hints))
    for pattern, reason in SKIPPED.items():
        check.skip(pattern, reason)


# -- sampling ----------------------------------------------------------------------------------------------------------


@case("xl_cfg_dual", side="comfy")
def dual_guidance(golden, check):
    """Our guider on what our MODEL makes of the three conditions; one scale alone is ComfyUI's own guidance."""
    import comfy.samplers

    from .conditions import tiny_model
    from .guidance import TOKEN_WIDTH, guided_by_both

    network, inputs, scales = Network(golden, golden.constructor["unet"]), golden.inputs, golden.constructor["scales"]
    sampling, x, sigma = network.model.model_sampling, inputs["x"], inputs["sigma"]
    t = sampling.timestep(sigma)
    check("t_of_sigma", t)

    def denoised(condition: str):
        context, y = inputs[f"{condition}.context"], inputs[f"{condition}.y"]
        answer = network(sampling.calculate_input(sigma, x), t, context, controls(inputs, f"{condition}."), y)
        return sampling.calculate_denoised(sigma, answer, x)

    def single(cond, uncond, scale):
        return comfy.samplers.cfg_function(None, cond, uncond, scale, x, sigma, model_options={}, cond=[], uncond=[])

    cond, no_reference, no_sketch = answers = [denoised(name) for name in ("cond", "uc_ref", "uc_sketch")]
    check("none", cond)
    check("reference_4", single(cond, no_reference, scales["reference"]))
    check("sketch_2", single(cond, no_sketch, scales["sketch"]))
    both = (scales["reference"], scales["sketch"])
    check("both_4_2", guided_by_both(tiny_model(TOKEN_WIDTH), answers, both, x, sigma))


@case("xl_guidance_interval", side="comfy")
def guidance_interval(golden, check):
    payload, network = ours("model_patches.payload"), Network(golden, golden.constructor["unet"])
    inputs = golden.inputs
    for run, t, window, off_window, _ in golden.constructor["table"]:
        if run == "sticky_then_inside":
            continue
        step = torch.tensor([float(t)])
        settings = payload.StepSettings(window=tuple(window), off_window=tuple(off_window))
        sizes = network.model._sizes(inputs["x"])
        guide, context = payload.StepInputs(settings).guide(inputs["cond.context"], step, step, sizes)
        check(run, network(inputs["x"], step, context, controls(inputs, "cond."), inputs["cond.y"], guide))
    check.skip("sticky_then_inside", "released bug: after a step outside the interval the reference is gone for good")


@case("xl_attention_injection", side="comfy")
def attention_injection(golden, check):
    """A step of the MODEL with the released variant; the rows are one with and one without reference."""
    reference_pass, injection = (
        ours("model_patches.reference_pass.reference_pass"),
        ours("model_patches.reference_pass.attention_injection"),
    )
    control = ours("model_patches.model.sketch_control").entries_of
    inputs, sizes = golden.inputs, golden.constructor
    network = Network(golden, sizes["unet"])
    model = loaded_patcher(network.model)
    rows = [int(row in sizes["uc_rows"]) for row in range(len(inputs["x"]))]
    answers = []
    network.network.register_forward_hook(lambda module, given, answer: answers.append(answer))

    def step(patched, t):
        """The U-Net's last raw answer in one step of the model."""
        sigma = network.model.model_sampling.sigma(t)
        x = inputs["x"] * (1 + sigma**2).sqrt().view(-1, 1, 1, 1)  # the model divides by it again
        hints = [hint.clone() for hint in controls(inputs, "cond2.")]
        options = {"wrappers": patched.wrappers, "cond_or_uncond": rows}
        network.model.apply_model(
            x, sigma, c_crossattn=inputs["cond2.context"], y=inputs["cond2.y"], control={"input": control(hints)},
            transformer_options=options,
        )  # fmt: skip
        return answers[-1]

    for output in check.names("no_injection_t*.v"):
        t = float(output.removeprefix("no_injection_t").removesuffix(".v"))
        check(output, step(model, torch.full((len(rows),), t)))
    for output in check.names():
        run = output.removesuffix(".v")
        if run.startswith("no_injection"):
            continue
        fidelity = run.partition("_")[0].removeprefix("style").replace("p", ".")
        noise = inputs.get(f"{run}.noise")
        maps = tuple(values[:1] for values in controls(inputs, f"{run}.write_"))  # equal for both rows
        source = at_whole_steps(reference_pass.Source)(inputs["reference_latent"], maps, noise)
        effect = injection.Injection(
            source, fidelity=float(fidelity) if run.startswith("style") else 0.5, variant="released",
            start=sizes["start_step"].get(run, 0.0),
        )  # fmt: skip
        check(output, step(reference_pass.attach(model, effect), inputs[f"{run}.t"]))


def at_whole_steps(source: type) -> type:
    """The released code noises the reference at the rounded step; ours keeps the picture's own noise level."""

    def noised(self, model_sampling, sigma, pictures, seed):
        whole = model_sampling.sigma(model_sampling.timestep(sigma).round())
        # The model divides by the root of 1 + sigma^2 of its own step.
        scale = ((1 + sigma**2) / (1 + whole**2)).sqrt().view(-1, 1, 1, 1)
        return scale * source.noised(self, model_sampling, whole, pictures, seed)

    return type("RoundedSource", (source,), {"noised": noised})
