"""The background plugin of XL: read once per picture, heard by the decoder's self-attention, and by nobody else."""

import dataclasses

import pytest
import torch

from colorize.unet.config import unet_weights
from colorize.unet.split_attention import Split, SplitOptions
from colorize.unet.unet import UNet
from tests import tiny_xl
from tests.model_patches.model.test_xl_model import random, recorded_calls
from tests.tiny import half_mask

LATENT = {"samples": torch.zeros(1, 4, 8, 8)}


def scene(batch=1, seed=3):
    return torch.rand(batch, 40, 52, 3, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def masked(xl_graph, loaded_plugin):
    """(MODEL, positive, negative) with sketch, regions and a background picture."""
    reference = xl_graph.reference(background=scene())
    return xl_graph.conditioned(loaded_plugin, reference, mode="masked vanilla", figure_mask=half_mask())


@pytest.fixture
def apply(pack, loaded_plugin):
    """apply(positive, negative, image, ...) -> (positive, negative) behind the node."""

    def run(positive, negative, image=None, latent=LATENT, loaded=loaded_plugin, **inputs):
        image = scene() if image is None else image
        return pack.run(
            "ColorizeApplyBackgroundPlugin", loaded.colorizer, loaded.vae, positive, negative, image, latent, **inputs
        )

    return run


@pytest.fixture
def passes(loaded_plugin, monkeypatch):
    """Sizes of the inputs of every run of the reference net."""
    seen, network = [], loaded_plugin.colorizer.plugin.patcher.model
    forward = network.forward
    monkeypatch.setattr(network, "forward", lambda x, y: seen.append(tuple(x.shape)) or forward(x, y))
    return seen


def banks_of(conditioning):
    return conditioning[0][1]["colorize"].features


# -- what it computes --------------------------------------------------------------------------------------------------


def test_same_answer_as_the_trainers_networks(loaded_plugin, masked, apply):
    """Banks, split and background weights: the velocity of the pure-torch U-Net with the pure-torch plugin."""
    import dataclasses

    weights = tiny_xl.checkpoint_plugin()
    pure = UNet(dataclasses.replace(tiny_xl.CONFIG, region_ranks=(0, 4)))
    pure.load_state_dict(unet_weights(weights, "model.diffusion_model."))
    model, positive, negative = masked
    positive, _ = apply(positive, negative)
    banks = banks_of(positive)
    x, t, y = random(1, 4, 8, 8), torch.tensor([612.25]), random(1, 32, seed=1)
    payload = positive[0][1]["colorize"]
    tokens = (positive[0][0], *payload.region_tokens)
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :4] = 1
    options = SplitOptions(kinds=("bg", "bg"), strengths=(1.0, 1.0), threshold=0.05)
    assert payload.settings.split.kinds == ("bg", "bg")
    with torch.no_grad():
        expected = pure.eval()(x, t, None, split=Split(tokens, mask, options), y=y, banks=list(banks.tensors))
        sampling = model.model.model_sampling
        sigma = sampling.sigma(t)
        answer = model.model.apply_model(
            x * (1 + sigma**2) ** 0.5, sigma, c_crossattn=tokens[0], y=y, transformer_options={},
            colorize_settings=payload.settings, colorize_tokens=list(tokens[1:]), colorize_masks=mask,
            colorize_features=banks,
        )  # fmt: skip
        expected = sampling.calculate_denoised(sigma, expected, x * (1 + sigma**2) ** 0.5)
    assert (answer - expected).abs().max() < 1e-3 * expected.abs().max()


def test_what_the_reference_net_reads(pack, loaded_plugin, masked, apply, monkeypatch):
    """The squashed background's latent, where the drawing's figure is, where the background's is, and the crop."""
    seen, network = [], loaded_plugin.colorizer.plugin.patcher.model
    forward = network.forward
    monkeypatch.setattr(network, "forward", lambda x, y: seen.extend((x, y)) or forward(x, y))
    figure = torch.zeros(1, 40, 52)
    figure[:, 20:] = 1
    _, positive, negative = masked
    positive, _ = apply(positive, negative, figure_mask=figure)
    x, y = seen
    assert x.shape == (1, 6, 8, 8) and y.shape == (1, tiny_xl.PLUGIN_Y)
    drawing = torch.zeros(8, 8)
    drawing[:, :4] = 1
    assert torch.equal(x[0, 4], drawing)
    assert torch.equal(x[0, 5] > 0.5, torch.arange(8)[:, None].expand(8, 8) >= 4)
    painted = scene().clone()
    painted[:, 20:] = 1
    images = pack.module("colorize.pictures.images")
    squashed = images.resize(painted.movedim(-1, 1), 64, 64).clamp(0, 1).movedim(1, -1)
    expected = loaded_plugin.vae.encode(squashed) * 0.13025
    assert torch.allclose(x[:, :4], expected, atol=1e-4)
    banks = banks_of(positive)
    assert len(banks.tensors) == 9 and banks.count == 1
    assert {tuple(bank.shape[1:]) for bank in banks.tensors} == {(4, 128), (16, 64)}


def test_only_the_background_hears_it(xl_graph, masked, apply):
    """The banks change the picture; with the whole drawing a figure nobody reads them."""
    model, positive, negative = masked
    plain = xl_graph.sample(model, positive, negative)
    first, second = (xl_graph.sample(model, *apply(positive, negative, scene(seed=seed))) for seed in (3, 4))
    assert (first - plain).abs().max() > 1e-2 and (first - second).abs().max() > 1e-2


def test_a_figure_everywhere_hears_nothing(xl_graph, loaded_plugin, apply):
    reference = xl_graph.reference(background=scene())
    model, positive, negative = xl_graph.conditioned(
        loaded_plugin, reference, mode="masked vanilla", figure_mask=torch.ones(1, 64, 64)
    )
    first, second = (xl_graph.sample(model, *apply(positive, negative, scene(seed=seed))) for seed in (3, 4))
    assert torch.equal(first, second)


def test_it_is_off_where_the_reference_is(xl_graph, loaded_plugin, apply):
    reference = xl_graph.reference(background=scene())
    apply_reference = dict(mode="masked vanilla", figure_mask=half_mask(), off_start=0.0, off_end=1.0)
    model, positive, negative = xl_graph.conditioned(loaded_plugin, reference, **apply_reference)
    plain = xl_graph.sample(model, positive, negative)
    assert torch.equal(xl_graph.sample(model, *apply(positive, negative)), plain)


def test_cut_self_attention_is_refused_with_a_mask(xl_graph, masked, apply):
    from comfy_extras.nodes_hypertile import HyperTile

    model, positive, negative = masked
    tiled = HyperTile.execute(model, 32, 2, 1, False)[0]
    with pytest.raises(ValueError, match="cuts or merges the tokens of self-attention .*Remove that node"):
        xl_graph.sample(tiled, *apply(positive, negative), size=128)


# -- what it costs -----------------------------------------------------------------------------------------------------


def test_runs_once_per_picture(xl_graph, masked, apply, passes):
    model, positive, negative = masked
    both = apply(positive, negative)
    assert passes == [(1, 6, 8, 8)] and banks_of(both[0]) is banks_of(both[1])
    for seed in (1, 2):
        xl_graph.sample(model, *both, seed=seed, steps=3)
    assert len(passes) == 1


def test_positive_and_negative_run_in_one_call(xl_graph, masked, apply):
    model, positive, negative = masked
    calls, model = recorded_calls(model)
    xl_graph.sample(model, *apply(positive, negative), steps=2)
    assert [len(call["c_crossattn"]) for call in calls] == [2, 2]


def test_banks_leave_the_device_after_a_run(pack):
    """All conditions of a run share one copy, which goes with them."""
    banks = pack.module("model_patches.features").Banks((torch.zeros(1, 4, 8),))
    assert banks.on(torch.device("cpu")) is banks
    copy = banks.on(torch.device("meta"))
    assert banks.on(torch.device("meta")) is copy and copy.tensors[0].is_meta and not banks.tensors[0].is_meta
    del copy
    assert not list(banks._copies.values())


def test_keys_and_values_of_a_bank_are_made_once(xl_graph, loaded_plugin, masked, apply, plainly):
    model, *both = masked
    both = apply(*both)
    layer = next(m for m in model.model.diffusion_model.modules() if type(m).__name__ == "BankAttention")
    asked = []
    hook = layer.to_k.register_forward_hook(lambda module, given, out: asked.append(len(given[0])))
    shared = xl_graph.sample(model, *both, steps=3)
    assert asked == [1, 2, 2, 2]  # the bank; then the picture's own rows, step by step
    plain = plainly(xl_graph, model, *both, steps=3)
    hook.remove()
    assert (shared - plain).abs().max() < 1e-4 * plain.abs().max()


def test_the_network_is_built_when_it_is_used(pack, plugin_file):
    colorizer = pack.run("ColorizeLoadCheckpoint", ckpt_name=plugin_file)[3]
    assert "patcher" not in vars(colorizer.plugin)
    assert type(colorizer.plugin.patcher.model).__name__ == "ReferenceNet"
    assert colorizer.plugin.patcher is colorizer.plugin.patcher


# -- together with other things ----------------------------------------------------------------------------------------


def test_stacks_with_attention_injection(pack, xl_graph, masked, apply):
    """Neither takes the other's place: both change the picture, and off is off (the released code overwrites banks)."""
    model, positive, negative = masked
    with_plugin = apply(positive, negative)
    latent = {"samples": 3 * random(1, 4, 8, 8)}

    def inject(**settings):
        return pack.run("ColorizeAttentionInjection", model=model, reference_latent=latent, **settings)[0]

    plugin = xl_graph.sample(model, *with_plugin)
    injected = xl_graph.sample(inject(), positive, negative)
    both = xl_graph.sample(inject(), *with_plugin)
    for other in (plugin, injected):
        assert (both - other).abs().max() > 1e-2
    assert torch.allclose(xl_graph.sample(inject(fidelity=1.0), *with_plugin), plugin, atol=1e-4)


def test_the_reference_of_the_injection_reads_no_banks(pack, masked, apply, xl_graph):
    """Its run keeps what its own picture shows: the banks are the drawing's background, not its."""
    model, positive, negative = masked
    module = pack.module("model_patches.reference_pass.reference_pass")
    source = module.Source(torch.zeros(1, 4, 8, 8))
    payload = pack.module("model_patches.payload")
    banks, settings = pack.module("model_patches.features").Banks((torch.zeros(1, 4, 8),)), payload.StepSettings()
    conditions = {**payload.StepInputs(settings, features=banks).keywords(), "y": 2}
    assert len(conditions) == 3
    own = module.conditions_at(conditions, source)
    assert payload.StepInputs.take(own).features is None and own == {"y": 2} and len(conditions) == 3


def test_two_models_do_not_share_banks(pack, plugin_file, xl_graph, masked, apply):
    """A second instance and a second background leave the first as it was (released: class attributes)."""
    model, positive, negative = masked
    both = apply(positive, negative)
    first = xl_graph.sample(model, *both)
    other = pack.run("ColorizeLoadCheckpoint", ckpt_name=plugin_file)[0]
    again = apply(positive, negative, scene(seed=9))
    xl_graph.sample(other, *again)
    assert torch.equal(xl_graph.sample(model, *both), first)
    plain = xl_graph.sample(model, positive, negative)
    assert torch.equal(xl_graph.sample(other, positive, negative), plain)


def test_cast_with_plugin(pack, xl_graph, loaded_plugin, apply):
    """Every figure reads the picture, the rest the bank; the background weights are on for all regions."""
    reference = xl_graph.reference(background=scene())
    (cast,) = pack.run(
        "ColorizeAddRegion", reference=reference, region_reference=xl_graph.reference(seed=8), mask=half_mask(False)
    )
    model, positive, negative = xl_graph.conditioned(
        loaded_plugin, cast, mode="masked vanilla", figure_mask=half_mask(True)
    )
    positive, negative = apply(positive, negative)
    assert positive[0][1]["colorize"].settings.split.kinds == ("bg", "bg", "bg")
    first = xl_graph.sample(model, positive, negative)
    _, *others = xl_graph.conditioned(loaded_plugin, cast, mode="masked vanilla", figure_mask=half_mask(True))
    assert torch.equal(first, xl_graph.sample(model, *apply(*others, scene(seed=4))))  # no background is left


def test_batches(xl_graph, loaded_plugin, apply, passes):
    """One background for all, or one for each picture; a batch gives what its rows give alone."""
    reference = xl_graph.reference(background=scene())
    sketch = xl_graph.sketch(batch=2)[0]
    model, positive, negative = xl_graph.conditioned(
        loaded_plugin, reference, sketch, mode="masked vanilla", figure_mask=half_mask()
    )
    latent = {"samples": random(2, 4, 8, 8), "batch_index": [0, 1]}
    each = xl_graph.sample(model, *apply(positive, negative, scene(batch=2)), latent=latent)
    assert passes == [(1, 6, 8, 8)] * 2
    for row in range(2):
        one = apply(positive, negative, scene(batch=2)[row : row + 1])
        shared = xl_graph.sample(model, *one, latent=latent)
        assert (each[row] - shared[row]).abs().max() < 1e-3
    with pytest.raises(ValueError, match="2 backgrounds of the plugin for 1 pictures"):
        _, *single = xl_graph.conditioned(loaded_plugin, reference, mode="masked vanilla", figure_mask=half_mask())
        xl_graph.sample(model, *apply(*single, scene(batch=2)))


def test_after_the_sketch_or_before(pack, xl_graph, loaded_plugin, apply, masked):
    """Apply ControlNet may stand on either side."""
    model, positive, negative = masked
    behind = xl_graph.sample(model, *apply(positive, negative))
    reference = xl_graph.reference(background=scene())
    _, *bare = pack.run(
        "ColorizeApplyReference", model=loaded_plugin.model, colorizer=loaded_plugin.colorizer, reference=reference,
        mode="masked vanilla", figure_mask=half_mask(),
    )  # fmt: skip
    control = loaded_plugin.control_net, xl_graph.sketch()[0], 1.0, 0.0, 1.0
    before = pack.run("ControlNetApplyAdvanced", *apply(*bare), *control)
    assert torch.equal(xl_graph.sample(model, *before[:2]), behind)


# -- bad input ---------------------------------------------------------------------------------------------------------


def test_no_plugin_in_the_file(xl_graph, loaded_xl, apply):
    reference = xl_graph.reference(background=scene())
    _, positive, negative = xl_graph.conditioned(loaded_xl, reference, mode="masked vanilla", figure_mask=half_mask())
    with pytest.raises(
        ValueError, match="tiny_xl.safetensors is ColorizeDiffusion XL, without background plugin.*xlv2"
    ):
        apply(positive, negative, loaded=loaded_xl)


def test_no_figure_mask(xl_graph, loaded_plugin, apply):
    for options in ({}, {"noise_level": 0.5}):
        _, positive, negative = xl_graph.conditioned(loaded_plugin, **options)
        with pytest.raises(ValueError, match="masked vanilla.*connect figure_mask"):
            apply(positive, negative)


def test_missing_plugin_weights(pack, loaded_plugin):
    plugin = loaded_plugin.colorizer.plugin
    cut = {
        key: value for key, value in plugin.weights.items() if not key.endswith("output_blocks.3.0.in_layers.0.bias")
    }
    broken = dataclasses.replace(plugin, weights=cut)
    with pytest.raises(ValueError, match="plugin in 'tiny_xlv2.safetensors' is not complete.*Download or convert"):
        _ = broken.patcher


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        ({"latent": {"samples": torch.zeros(1, 4, 1, 8, 8)}}, "latent is not of the form"),
        ({"image": torch.zeros(9, 9)}, "image"),
        ({"figure_mask": torch.zeros(3, 9, 9)}, "3 figure masks for"),
        ({"figure_mask": torch.full((1, 9, 9), torch.nan)}, "figure_mask has 81 of 81 values that are NaN"),
        ({"image": scene(batch=3)}, "3 backgrounds and 2 figure masks"),
    ],
)
def test_bad_inputs(xl_graph, loaded_plugin, apply, inputs, text):
    reference = xl_graph.reference(background=scene())
    _, positive, negative = xl_graph.conditioned(
        loaded_plugin, reference, mode="masked vanilla", figure_mask=half_mask().expand(2, -1, -1)
    )
    with pytest.raises(ValueError, match=text):
        apply(positive, negative, **inputs)
