"""Dual guidance: the formula on a tiny model, what it costs, and what people combine it with."""

from types import SimpleNamespace

import pytest
import torch

from tests.model_patches.model.test_control import count_calls


@pytest.fixture
def parts(graph, loaded):
    return Parts(graph, loaded)


class Parts:
    """model, positive and negative of the standard graph, and the positive with a black sketch."""

    def __init__(self, graph, loaded, batch=1, **settings):
        self.graph, self.pack = graph, graph.pack
        reference = graph.reference(batch)
        sketch = graph.sketch(batch)[0]
        self.model, self.positive, self.negative = graph.conditioned(loaded, reference, sketch, **settings)
        _, self.no_sketch, _ = graph.conditioned(loaded, reference, torch.zeros_like(sketch), **settings)

    def guider(self, reference_scale, sketch_scale, **conds):
        module = self.pack.module("model_patches.model.dual_guidance")
        given = {"positive": self.positive, "negative": self.negative} | conds
        return module.DualGuider(self.model, *given.values(), reference_scale, sketch_scale)


def single(model, positive, negative, scale):
    """ComfyUI's own guider."""
    import comfy.samplers

    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, negative)
    guider.set_cfg(scale)
    return guider


def denoised(guider, sigma=3.0, batch=1, size=8, patches=None):
    """The guided prediction at one noise level: what a sampler gets from its model."""
    import comfy.samplers

    x = sigma * torch.randn(batch, 4, size, size, generator=torch.Generator().manual_seed(1))
    seen = []

    def once(model, noise, sigmas, extra_args, callback, disable):
        extra_args["model_options"] = extra_args["model_options"] | (patches or {})
        seen.append(model(x, sigmas[0].expand(batch), **extra_args))
        return noise

    levels = torch.tensor([sigma, 0.0])
    with torch.inference_mode():
        guider.sample(x, torch.zeros_like(x), comfy.samplers.KSAMPLER(once), levels, disable_pbar=True, seed=0)
    return seen[0].clone()


def predictions(model, positive, negative, no_sketch, **kwargs):
    """(c, u_r, u_s) in float64, evaluated by ComfyUI's own guider.

    c and u_r come out of one call of the U-Net, as in a dual step: another number of rows rounds differently by a few
    1e-6, and a scale multiplies that.
    """
    pair = []

    def post(args):
        pair.extend((args["cond_denoised"].clone(), args["uncond_denoised"].clone()))
        return args["denoised"]

    denoised(single(model, positive, negative, 2.0), patches={"sampler_post_cfg_function": [post]}, **kwargs)
    return [p.double() for p in (*pair, denoised(single(model, no_sketch, no_sketch, 1.0), **kwargs))]


def by_formula(c, u_r, u_s, s_r, s_s):
    """The mean of both guided predictions, as the paper writes it."""
    return 0.5 * ((u_r + s_r * (c - u_r)) + (u_s + s_s * (c - u_s)))


def sample(guider, steps=2, sampler="euler", scheduler="normal", batch=1, size=8, seed=5):
    """Latent (B, 4, size, size) of SamplerCustomAdvanced."""
    import comfy.samplers
    from comfy_extras import nodes_custom_sampler as custom

    model = guider.model_patcher
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), scheduler, steps)
    latent = {"samples": torch.zeros(batch, 4, size, size)}
    with torch.inference_mode():
        noise = custom.Noise_RandomNoise(seed)
        out = custom.SamplerCustomAdvanced.execute(
            noise, guider, comfy.samplers.sampler_object(sampler), sigmas, latent
        )
    return out.args[0]["samples"].clone()


def rows_of(model):
    """A list that fills with the number of rows of every call of the U-Net."""
    rows = []
    model.model.diffusion_model.register_forward_pre_hook(lambda module, args: rows.append(args[0].shape[0]))
    return rows


# -- the formula -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prediction", ["v", "eps"])
@pytest.mark.parametrize("scales", [(4.0, 1.3), (2.0, 5.0), (7.5, 1.05)])
def test_formula(pack, graph, loaded, tiny_file, prediction, scales):
    """FACTS: 0.5 [u_r + s_r (c - u_r) + u_s + s_s (c - u_s)], u_r without reference, u_s with a blank sketch."""
    loaded.model = pack.run("ColorizeLoadCheckpoint", ckpt_name=tiny_file, prediction_type=prediction)[0]
    parts = Parts(graph, loaded)
    c, u_r, u_s = predictions(parts.model, parts.positive, parts.negative, parts.no_sketch)
    guided = denoised(parts.guider(*scales)).double()
    assert (guided - by_formula(c, u_r, u_s, *scales)).abs().max() < 1e-5
    assert (c - u_r).abs().max() > 0.01 and (c - u_s).abs().max() > 0.01 and (u_r - u_s).abs().max() > 0.01


def test_sketch_scale_one_is_plain_guidance(graph, parts):
    """The same picture as KSampler with cfg, bit for bit."""
    stock = graph.sample(parts.model, parts.positive, parts.negative, steps=3, cfg=2.5)
    assert torch.equal(sample(parts.guider(2.5, 1.0), steps=3), stock)


def test_reference_scale_one_is_sketch_guidance(parts):
    """Single guidance with the blank sketch as negative (FACTS: only the sketch scale is on)."""
    expected = denoised(single(parts.model, parts.positive, parts.no_sketch, 2.5))
    assert (denoised(parts.guider(1.0, 2.5)) - expected).abs().max() < 1e-5


def test_both_scales_one_is_no_guidance(parts):
    expected = denoised(single(parts.model, parts.positive, parts.negative, 1.0))
    assert torch.equal(denoised(parts.guider(1.0, 1.0)), expected)


# -- cost --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scales", "rows"), [((4.0, 1.3), [2, 1]), ((4.0, 1.0), [2]), ((1.0, 1.3), [1, 1]), ((1.0, 1.0), [1])]
)
def test_rows_of_a_step(parts, scales, rows):
    """Conditions with the same sketch share a call of the U-Net; a scale of 1 saves its branch."""
    found = rows_of(parts.model)
    sample(parts.guider(*scales), steps=3)
    assert found == rows * 3


def test_a_sketch_is_encoded_once_and_so_is_the_blank_one(parts):
    control = count_calls(parts.positive[0][1]["control"])
    guider = parts.guider(4.0, 1.3)
    first = sample(guider, steps=3)
    assert len(control.calls) == 2
    assert torch.equal(sample(guider, steps=3), first) and len(control.calls) == 2


def test_the_blank_sketch_is_managed_like_the_other(parts):
    """ComfyUI sees one encoder to load, and the working memory of both."""
    from comfy.sampler_helpers import get_additional_models

    guider = parts.guider(4.0, 1.3)
    models, memory = get_additional_models(guider.original_conds, torch.float32)
    assert set(models) == {parts.positive[0][1]["control"].patcher}
    _, plain = get_additional_models(parts.guider(4.0, 1.0).original_conds, torch.float32)
    assert memory == 2 * plain


# -- runs do not touch each other --------------------------------------------------------------------------------------


def test_nothing_leaks(parts):
    first = parts.guider(4.0, 1.3)
    alone, options = sample(first), dict(parts.positive[0][1])
    sample(parts.guider(2.0, 3.0), sampler="dpmpp_2m")
    sample(single(parts.model, parts.positive, parts.negative, 3.0))
    assert torch.equal(sample(first), alone) and torch.equal(sample(parts.guider(4.0, 1.3)), alone)
    assert parts.positive[0][1] == options and options["control"].cond_hint_original.any()
    assert not hasattr(first, "inner_model")


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "euler_ancestral", "euler_cfg_pp", "dpmpp_2m_sde", "uni_pc"])
def test_samplers(parts, sampler):
    guider = parts.guider(3.0, 1.5)
    first = sample(guider, steps=3, sampler=sampler, scheduler="karras")
    assert torch.isfinite(first).all() and torch.equal(sample(guider, 3, sampler, "karras"), first)


def test_batches(graph, loaded):
    """Three references for three sketches."""
    parts = Parts(graph, loaded, batch=3)
    together = denoised(parts.guider(3.0, 1.5), batch=3)
    rows = predictions(parts.model, parts.positive, parts.negative, parts.no_sketch, batch=3)
    assert (together - by_formula(*rows, 3.0, 1.5)).abs().max() < 1e-5
    assert not torch.allclose(together[0], together[1])


# -- conditions that people build --------------------------------------------------------------------------------------


def with_area(pack, conditioning, x=0):
    return pack.run("ConditioningSetArea", conditioning, 64, 128, x, 0, 0.8)[0]


def test_areas(parts):
    """Areas of the positive are those of the blank sketch too."""
    pack = parts.pack

    def combined(conditioning):
        return pack.run("ConditioningCombine", conditioning, with_area(pack, conditioning))[0]

    positive, negative, no_sketch = (combined(c) for c in (parts.positive, parts.negative, parts.no_sketch))
    expected = by_formula(*predictions(parts.model, positive, negative, no_sketch, size=16), 3.0, 1.5)
    found = rows_of(parts.model)
    guided = denoised(parts.guider(3.0, 1.5, positive=positive, negative=negative), size=16)
    assert (guided - expected).abs().max() < 1e-5
    assert sorted(found) == [1, 1, 2, 2]  # twice the whole picture, twice the area


def test_an_area_of_the_negative_only(parts, monkeypatch):
    """ComfyUI copies it, with its sketch, into the other lists; in the blank one the sketch stays blank."""
    import comfy.samplers

    lists = []
    stock = comfy.samplers.calc_cond_batch

    def recorded(model, conds, *args):
        lists.append([cond for part in conds for cond in part or []])
        return stock(model, conds, *args)

    monkeypatch.setattr(comfy.samplers, "calc_cond_batch", recorded)
    negative = parts.pack.run("ConditioningCombine", parts.negative, with_area(parts.pack, parts.negative, 64))[0]
    denoised(parts.guider(3.0, 1.5, negative=negative), size=16)
    pair, blank = lists
    assert len(pair) == 4 and len(blank) == 2
    assert all(cond["control"].cond_hint_original.any() for cond in pair)
    assert not any(cond["control"].cond_hint_original.any() for cond in blank)


def test_everything_but_the_sketch_stays(parts):
    """Tokens, settings of the reference and strengths of the sketch are those of the positive."""
    strong = parts.positive[0][1]["control"].with_level_strengths(high=0.5)
    tokens, options = parts.positive[0]
    positive = [[tokens, {**options, "control": strong, "colorize_test": object()}]]
    guider = parts.guider(4.0, 1.3, positive=positive)
    (blank,) = guider.original_conds["no_sketch"]
    (own,) = guider.original_conds["positive"]
    assert {k for k in own if own[k] is not blank[k]} == {"control", "uuid", "model_conds"}
    assert blank["control"].map_strengths == strong.map_strengths and blank["control"].strength == strong.strength
    assert blank["control"].cond_hint_original.shape == (1, 3, 64, 64)


def test_sketch_that_ends_early(graph, loaded):
    """After its end percent there is no sketch on either side, and its guidance has nothing to say."""
    parts = Parts(graph, loaded, end=0.3)
    late = 0.5  # a noise level beyond it
    plain = denoised(single(parts.model, parts.positive, parts.negative, 3.0), late)
    c = denoised(single(parts.model, parts.positive, parts.negative, 1.0), late)
    assert (denoised(parts.guider(3.0, 2.0), late) - (plain + c) / 2).abs().max() < 1e-5


def test_other_controls_stay(parts):
    """In a chain only the sketches of ours become blank, wherever they stand; the chain itself is not touched."""
    import comfy.controlnet

    class Stock(comfy.controlnet.ControlBase):
        def copy(self):
            c = Stock()
            self.copy_to(c)
            return c

    blank_chain = parts.pack.module("model_patches.model.dual_guidance").blank_chain
    ours = parts.positive[0][1]["control"]
    alone = Stock()
    assert blank_chain(alone) is alone and blank_chain(None) is None
    under = ours.copy().set_cond_hint(ours.cond_hint_original).set_previous_controlnet(alone)
    assert blank_chain(under).previous_controlnet is alone
    over = Stock().set_previous_controlnet(ours)
    over.strength = 0.7
    blank = blank_chain(over)
    assert blank is not over and blank.strength == 0.7 and not blank.previous_controlnet.cond_hint_original.any()
    assert over.previous_controlnet is ours and ours.cond_hint_original.any()
    two = ours.copy().set_cond_hint(ours.cond_hint_original).set_previous_controlnet(ours)
    twins = blank_chain(two)
    assert not twins.cond_hint_original.any() and not twins.previous_controlnet.cond_hint_original.any()


# -- patches of the model ----------------------------------------------------------------------------------------------


def test_patches_of_guidance(parts):
    """Each is called once a step, with one scale and one negative that give the dual result by the plain formula."""
    calls = SimpleNamespace(batch=[], pre=[], cfg=[], post=[])

    def batch(args):
        import comfy.samplers

        calls.batch.append(args["conds"])
        return comfy.samplers.calc_cond_batch(
            args["model"], args["conds"], args["input"], args["sigma"], args["model_options"]
        )

    def pre(args):
        calls.pre.append(args)
        return args["conds_out"]

    def cfg(args):
        calls.cfg.append(args)
        return args["uncond"] + args["cond_scale"] * (args["cond"] - args["uncond"])

    def post(args):
        calls.post.append(args)
        return args["denoised"] + 1

    plain = denoised(parts.guider(4.0, 1.5))
    patches = {
        "sampler_calc_cond_batch_function": batch,
        "sampler_pre_cfg_function": [pre],
        "sampler_cfg_function": cfg,
        "sampler_post_cfg_function": [post],
    }
    patched = denoised(parts.guider(4.0, 1.5), patches=patches)
    assert (patched - 1 - plain).abs().max() < 1e-4
    assert [len(found) for found in vars(calls).values()] == [1, 1, 1, 1]
    assert len(calls.batch[0]) == 2 and len(calls.pre[0]["conds_out"]) == 2
    (args,) = calls.post
    assert args["cond_scale"] == 2.75
    plainly = args["uncond_denoised"] + 2.75 * (args["cond_denoised"] - args["uncond_denoised"])
    assert (plainly - plain).abs().max() < 1e-5


def test_patches_that_need_a_negative(parts):
    """Without any guidance they still get one, when they ask for it."""
    negatives = []

    def post(args):
        negatives.append(args["uncond_denoised"].abs().max().item())
        return args["denoised"]

    found = rows_of(parts.model)
    asked = {"sampler_post_cfg_function": [post], "disable_cfg1_optimization": True}
    guided = denoised(parts.guider(1.0, 1.0), patches=asked)
    assert found == [2] and negatives[0] > 0
    assert torch.allclose(guided, denoised(parts.guider(1.0, 1.0)), atol=1e-4)  # two rows round unlike one


# -- the node ----------------------------------------------------------------------------------------------------------


def test_node(pack, parts):
    node = pack.module("nodes.guidance").ColorizeDualGuidance
    guider = node.execute(parts.model, parts.positive, parts.negative, 4.0, 1.3).args[0]
    assert torch.equal(denoised(guider), denoised(parts.guider(4.0, 1.3)))
    schema = node.define_schema()
    assert schema.node_id == "ColorizeDualGuidance" and schema.outputs[0].io_type == "GUIDER"
    assert all(socket.tooltip for socket in (*schema.inputs, *schema.outputs))


def test_bad_input(graph, loaded, parts):
    plain = graph.conditioned(loaded, sketch_strength=0.0)[1]
    with pytest.raises(ValueError, match=r"sketch scale is 1.5, but positive carries no sketch.*Put Apply ControlNet"):
        parts.guider(4.0, 1.5, positive=plain)
    assert torch.isfinite(denoised(parts.guider(4.0, 1.0, positive=plain))).all()
    for scales, name in (((0.5, 1.5), "reference_scale is 0.5"), ((4.0, float("nan")), "sketch_scale is nan")):
        with pytest.raises(ValueError, match=rf"{name}; choose 1 \(no guidance\) or more"):
            parts.guider(*scales)
