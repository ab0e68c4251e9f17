"""The sketch encoder as CONTROL_NET."""

import logging

import pytest
import torch

from colorize.unet.unet import UNet
from tests import tiny

BLOCKS = (0, 3, 6, 9, 11)


@pytest.fixture
def control(loaded):
    """A CONTROL_NET that was given a sketch, and counts how often its encoder runs."""
    return prepared(loaded.control_net)


def prepared(control_net, sketch=None, strength=1.0, percent=(0.0, 1.0)):
    hint = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 0.3 if sketch is None else sketch
    return count_calls(control_net.copy().set_cond_hint(hint, strength, percent))


def count_calls(control):
    control.calls = []
    control.encoder.register_forward_pre_hook(lambda module, args: control.calls.append(tuple(args[0].shape)))
    return control


def get(control, rows=1, times=1, size=8, sigma=1.0):
    x = torch.zeros(rows * times, 4, size, size)
    with torch.no_grad():
        return control.get_control(x, torch.full((rows * times,), sigma), {}, times, {})


def test_order_of_injection(control):
    """Deepest first, because the U-Net takes from the end: maps meet blocks 0, 3, 6, 9 and 11."""
    out = get(control)
    assert out["middle"] == [] and out["output"] == [] and len(out["input"]) == 12
    by_block = out["input"][::-1]
    assert [i for i, value in enumerate(by_block) if value is not None] == list(BLOCKS)
    assert [tuple(by_block[i].shape) for i in BLOCKS] == [
        (1, 64, 8, 8), (1, 64, 4, 4), (1, 64, 2, 2), (1, 64, 1, 1), (1, 128, 1, 1)
    ]  # fmt: skip


def test_same_numbers_as_the_trainer(loaded, tiny_weights, control):
    prefix = "model.diffusion_model."
    unet = UNet(tiny.CONFIG)
    unet.load_state_dict({k.removeprefix(prefix): v for k, v in tiny_weights.items() if k.startswith(prefix)})
    x, context, t = torch.randn(1, 4, 8, 8), torch.randn(1, 16, 48), torch.tensor([411.5])
    with torch.no_grad():
        maps = control.encoder(control.cond_hint_original * 2 - 1)
        expected = unet.eval()(x, t, context, control=maps)
        ours = loaded.model.model.diffusion_model(x, t, context=context, control=get(control))
        without = loaded.model.model.diffusion_model(x, t, context=context)
    assert (ours - expected).abs().max() < 2e-5 and (ours - without).abs().max() > 0.05


def test_called_again_and_again(control):
    """The U-Net empties the lists and others may scale the tensors: the next call is not affected."""
    first = get(control)
    reference = [None if v is None else v.clone() for v in first["input"]]
    while first["input"]:
        value = first["input"].pop()
        if value is not None:
            value.mul_(0)
    for value, expected in zip(get(control)["input"], reference, strict=True):
        assert (value is None and expected is None) or torch.equal(value, expected)
    assert control.calls == [(1, 3, 64, 64)]


@pytest.mark.parametrize("strength", [0.25, 1.0, 2.0])
def test_strength_scales_every_map(loaded, strength):
    plain, scaled = get(prepared(loaded.control_net)), get(prepared(loaded.control_net, strength=strength))
    for a, b in zip(plain["input"], scaled["input"], strict=True):
        assert (a is None) == (b is None)
        assert a is None or torch.allclose(a * strength, b)


def test_percent_range(loaded):
    sampling = loaded.model.model.model_sampling
    control = prepared(loaded.control_net, percent=(0.2, 0.6))
    control.pre_run(loaded.model.model, sampling.percent_to_sigma)
    for percent, active in ((0.1, False), (0.25, True), (0.55, True), (0.65, False)):
        assert (get(control, sigma=sampling.percent_to_sigma(percent)) is not None) == active
    control.cleanup()
    assert get(control) is not None  # outside a run there is no range


def test_batches(loaded):
    """One sketch serves every row; N sketches go to N pictures, for each condition of a call."""
    one = get(prepared(loaded.control_net), rows=3, times=2)
    assert one["input"][-1].shape[0] == 1
    sketches = torch.rand(3, 3, 64, 64) * 0.3
    each = get(prepared(loaded.control_net, sketches), rows=3, times=2)["input"][-1]
    assert each.shape[0] == 6 and torch.equal(each[:3], each[3:]) and not torch.equal(each[0], each[1])
    for row in range(3):
        alone = get(prepared(loaded.control_net, sketches[row : row + 1]))["input"][-1]
        assert torch.allclose(each[row], alone[0], atol=1e-5)
    with pytest.raises(ValueError, match="3 sketches for 2 pictures.*Prepare Sketch"):
        get(prepared(loaded.control_net, sketches), rows=2, times=2)


def test_sketch_of_another_size_is_resized(control):
    assert get(control, size=16)["input"][-1].shape[-2:] == (16, 16)
    assert control.calls == [(1, 3, 128, 128)]


def test_runs_once_for_two_samplers(graph, loaded):
    """Two samplers and a second queue over the same conditioning: one run of the encoder per size."""
    model, positive, negative = graph.conditioned(loaded)
    control = count_calls(positive[0][1]["control"])
    assert negative[0][1]["control"] is control
    first = graph.sample(model, positive, negative, steps=3)
    again = graph.sample(model, positive, negative, steps=3, sampler="euler")
    assert torch.equal(first, again)
    assert len(control.calls) == 1
    graph.sample(model, positive, negative, size=128, steps=3)  # a hires pass has its own size
    graph.sample(model, positive, negative, steps=3)
    assert len(control.calls) == 2


def test_reference_encoder_runs_once(graph, loaded, encoder):
    calls = []
    handle = encoder.encoder.visual.register_forward_pre_hook(lambda module, args: calls.append(args[0].shape[0]))
    graph.run(loaded, steps=4)
    handle.remove()
    assert calls == [1]


def test_chain_with_another_control(pack, graph, loaded):
    """Two sketches add up; a chain of stock and ours keeps both parts."""
    import comfy.controlnet

    sketches = [graph.sketch(seed=s)[0] for s in (1, 2)]
    model, positive, negative = graph.conditioned(loaded, sketch=sketches[0])
    positive, negative = pack.run(
        "ControlNetApplyAdvanced", positive, negative, loaded.control_net, sketches[1], 0.5, 0.0, 1.0
    )
    chained = get(positive[0][1]["control"])["input"]
    apart = [get(prepared(loaded.control_net, s.movedim(-1, 1), strength)) for s, strength in zip(sketches, (1.0, 0.5))]
    for i, value in enumerate(chained):
        if value is not None:
            assert torch.allclose(value, apart[0]["input"][i] + apart[1]["input"][i], atol=1e-5)
    assert torch.isfinite(graph.sample(model, positive, negative)).all()

    class Stock(comfy.controlnet.ControlBase):
        def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
            out = {"middle": [torch.full_like(x_noisy[:, :1], 2.0)], "output": [torch.ones(1)], "input": []}
            previous = self.previous_controlnet
            return self.control_merge(
                out, previous and previous.get_control(x_noisy, t, cond, batched_number, {}), None
            )

    under = prepared(loaded.control_net).set_previous_controlnet(Stock())
    over = Stock().set_previous_controlnet(prepared(loaded.control_net))
    for merged in (get(under), get(over)):
        assert len(merged["input"]) == 12 and merged["middle"][0].mean() == 2 and merged["output"] == [torch.ones(1)]
    # Outside its range ours passes the other one through.
    under.timestep_range = (0.5, 0.1)
    assert get(under)["input"] == [] and get(under)["middle"]


def test_strength_zero_is_no_control(graph, loaded):
    """The core node leaves the control out; that is not a blank sketch."""
    model, positive, negative = graph.conditioned(loaded, sketch_strength=0.0)
    assert "control" not in positive[0][1]
    none = graph.sample(model, positive, negative)
    blank = graph.sample(*graph.conditioned(loaded, sketch=torch.zeros(1, 64, 64, 3)))
    assert not torch.allclose(none, blank)


def test_polarity_warning_once(loaded, caplog):
    control = prepared(loaded.control_net, torch.full((1, 3, 64, 64), 0.7))
    with caplog.at_level(logging.WARNING):
        get(control)
        get(control, size=16)
    assert caplog.text.count("Put Prepare Sketch between") == 1
    caplog.clear()
    get(prepared(loaded.control_net))
    assert not caplog.text


def test_a_raw_drawing_is_refused_where_it_is_connected(loaded):
    """At Apply ControlNet, before anything is sampled; a sketch with half of it filled with ink is none."""
    drawing = torch.ones(1, 3, 64, 64)
    drawing[..., 20:24] = 0
    with pytest.raises(ValueError, match="94% white.*Put Prepare Sketch between"):
        prepared(loaded.control_net, drawing)
    filled = torch.zeros(1, 3, 64, 64)
    filled[..., 32:] = 1
    prepared(loaded.control_net, filled)


@pytest.mark.parametrize("shape", [(1, 3, 1, 64, 64), (1, 3, 0, 64), (64, 64)])
def test_what_is_no_batch_of_pictures_is_refused_where_it_is_connected(loaded, shape):
    """Found by the fuzz harness, --stand-ins --seed 41 --only 13: too many values to unpack (expected 4)."""
    with pytest.raises(ValueError, match="at Apply ControlNet has the shape .*sketch output of Prepare Sketch"):
        prepared(loaded.control_net, torch.zeros(shape))


@pytest.mark.parametrize("channels", [1, 4])
def test_grey_and_rgba_hints(loaded, channels):
    hint = torch.rand(1, channels, 64, 64) * 0.3
    same = hint[:, :3] if channels == 4 else hint.expand(-1, 3, -1, -1)
    a, b = get(prepared(loaded.control_net, hint)), get(prepared(loaded.control_net, same))
    assert torch.equal(a["input"][-1], b["input"][-1])


def test_managed_memory(loaded, control):
    """ComfyUI places the encoder: it knows the patcher and the working memory, also through a chain."""
    import comfy.model_patcher

    assert control.get_models() == [loaded.control_net.patcher]
    assert isinstance(loaded.control_net.patcher, comfy.model_patcher.ModelPatcher)
    assert control.patcher.model is control.encoder
    need = control.inference_memory_requirements(torch.float16)
    assert need >= 64 * 64 * 64 * 4
    chained = prepared(loaded.control_net).set_previous_controlnet(control)
    assert chained.inference_memory_requirements(torch.float16) == 2 * need
    assert len(chained.get_models()) == 2


def test_copies(loaded, control):
    get(control)
    copy = control.copy()
    assert copy.encoder is control.encoder and copy.strength == control.strength
    assert copy.cond_hint_original is control.cond_hint_original and not copy._features
    device = torch.device("cpu")
    clone = control.deepclone_multigpu(device, autoregister=True)
    assert clone.encoder is not control.encoder and control.get_instance_for_device(device) is clone
    assert clone.patcher.load_device == device and clone.patcher in control.get_models()
    assert torch.equal(get(clone)["input"][0], get(control)["input"][0])


def test_new_sketch_drops_the_old_maps(control):
    before = get(control)["input"][-1]
    control.set_cond_hint(torch.zeros(1, 3, 64, 64))
    assert not torch.equal(get(control)["input"][-1], before)
    assert len(control.calls) == 2


def test_without_sketch(loaded):
    with pytest.raises(RuntimeError, match="given no sketch"):
        get(loaded.control_net.copy())


# -- strength per level ------------------------------------------------------------------------------------------------

LEVELS = {"high": 0.5, "middle": 2.0, "low": 0.0, "bottom": 3.0}
OF_MAPS = (0.5, 2.0, 0.0, 3.0, 3.0)


def by_block(control):
    return [get(control)["input"][::-1][block] for block in BLOCKS]


def test_level_strengths(loaded):
    """Each map times its level, times the strength of Apply ControlNet."""
    plain = by_block(prepared(loaded.control_net))
    scaled = by_block(prepared(loaded.control_net.with_level_strengths(**LEVELS), strength=0.5))
    for value, expected, strength in zip(scaled, plain, OF_MAPS, strict=True):
        assert torch.allclose(value, expected * strength * 0.5)
    assert by_block(prepared(loaded.control_net.with_level_strengths()))[0].equal(plain[0])


def test_level_strengths_survive_copies_and_multiply(loaded):
    control = loaded.control_net.with_level_strengths(**LEVELS)
    assert loaded.control_net.map_strengths == (1.0,) * 5
    assert control.copy().copy().map_strengths == OF_MAPS
    assert control.deepclone_multigpu(torch.device("cpu")).map_strengths == OF_MAPS
    assert control.with_level_strengths(high=3.0, low=2.0).map_strengths == (1.5, 2.0, 0.0, 3.0, 3.0)
    applied = prepared(control)
    assert torch.equal(get(applied.deepclone_multigpu(torch.device("cpu")))["input"][0], get(applied)["input"][0])


def test_level_strengths_keep_what_was_encoded(control):
    """The encoder's maps are kept unscaled: other strengths for the same sketch cost nothing."""
    get(control)
    weaker = control.with_level_strengths(high=0.25)
    assert weaker.cond_hint_original is control.cond_hint_original
    assert torch.allclose(by_block(weaker)[0], 0.25 * by_block(control)[0]) and len(control.calls) == 1


def test_level_strengths_in_a_graph(graph, loaded):
    """The node between loader and Apply ControlNet changes the picture; all levels at 0 are like no sketch."""
    node = graph.pack.module("nodes.sketch_strength").ColorizeSketchStrength
    plain = graph.run(loaded)
    same, none, fine = (
        graph.sample(*graph.conditioned(loaded, control_net=node.execute(loaded.control_net, *levels).args[0]))
        for levels in ((1, 1, 1, 1), (0, 0, 0, 0), (1, 0, 0, 0))
    )
    assert torch.equal(same, plain) and not torch.allclose(fine, plain) and not torch.allclose(fine, none)
    without = graph.sample(*graph.conditioned(loaded, sketch_strength=0.0))
    assert torch.allclose(none, without, atol=1e-5)


def test_level_strengths_of_something_else(graph, loaded):
    import comfy.controlnet

    node = graph.pack.module("nodes.sketch_strength").ColorizeSketchStrength
    with pytest.raises(ValueError, match="control_net is ControlBase, not the sketch encoder.*Load ColorizeDiffusion"):
        node.execute(comfy.controlnet.ControlBase())
    for value in (-0.1, 3.1):
        with pytest.raises(ValueError, match=f"middle is {value}; choose a strength between 0 and 3"):
            node.execute(loaded.control_net, middle=value)
    with pytest.raises(ValueError, match="middle is nan, which is no number"):
        node.execute(loaded.control_net, middle=float("nan"))
    schema = node.define_schema()
    assert schema.node_id == "ColorizeSketchStrength"
    assert all(socket.tooltip for socket in (*schema.inputs, *schema.outputs))


def test_blank_sketch(loaded):
    """What the network sees as blank is -1, one row for any batch, with the settings of the sketch it stands for."""
    sketches = prepared(loaded.control_net.with_level_strengths(**LEVELS), torch.rand(3, 3, 64, 64), 0.5, (0.1, 0.6))
    blank = sketches.blank()
    black = prepared(loaded.control_net.with_level_strengths(**LEVELS), torch.zeros(1, 3, 64, 64), 0.5)
    for value, expected in zip(by_block(blank), by_block(black), strict=True):
        assert torch.equal(value, expected)
    assert blank.timestep_percent_range == (0.1, 0.6) and len(sketches.cond_hint_original) == 3
    assert get(blank, rows=3, times=2)["input"][-1].shape[0] == 1
    assert loaded.control_net.blank().cond_hint_original is None
