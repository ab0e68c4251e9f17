"""Split attention, strengths, windows and noisy sampling inside ComfyUI: real loader, real sampler, tiny v1.5 model."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from safetensors.torch import load_file, save_file

from colorize.reference.recovery import BackgroundEncoder
from colorize.unet.split_attention import Split, SplitOptions, to_latent_size
from colorize.unet.unet import UNet
from tests import tiny
from tests.tiny import half_mask

MODES = ("masked vanilla", "bg2fig", "fig2fig")


def with_background(reference, seed: int = 9):
    tokens = torch.randn(reference.local_tokens.shape, generator=torch.Generator().manual_seed(seed))
    return dataclasses.replace(reference, background_tokens=tokens)


def counting(loaded):
    """The number of U-Net rows of every call."""
    rows = []
    unet = loaded.model.model.diffusion_model
    handle = unet.register_forward_pre_hook(lambda module, given: rows.append(given[0].shape[0]))
    return rows, handle


# -- files -------------------------------------------------------------------------------------------------------------


def test_v1_5_is_recognised_and_complete(loaded_v1_5):
    family = loaded_v1_5.colorizer.family
    assert family.name == "v1.5" and family.has_regions
    unet = loaded_v1_5.model.model.diffusion_model
    names = [name for name, _ in unet.named_modules() if name.endswith(".lora_bg.to_k.up")]
    assert len(names) == 16
    assert loaded_v1_5.colorizer.background_encoder is not None


def test_region_weights_are_managed_like_any_weight(loaded, loaded_v1_5):
    """They are leaf modules of the patcher, so they count, move, cast and are offloaded with the model."""
    more = loaded_v1_5.model.model_size() - loaded.model.model_size()
    named = loaded_v1_5.model.model.named_parameters()
    lora = sum(p.numel() * p.element_size() for n, p in named if ".lora_fg." in n or ".lora_bg." in n)
    assert more == lora > 0
    listed = {entry[-2] for entry in loaded_v1_5.model._load_list()}  # modules whose weights ComfyUI places
    leaves = {m for n, m in loaded_v1_5.model.model.named_modules() if n.endswith((".down", ".up")) and ".lora_" in n}
    assert leaves and leaves <= listed


def test_vanilla_of_a_v1_5_file_is_the_v1_file(graph, loaded, loaded_v1_5):
    assert torch.equal(graph.run(loaded), graph.run(loaded_v1_5))


def test_save_checkpoint_keeps_everything(pack, folders, loaded_v1_5, regions_file, tmp_path):
    import comfy.sd

    path = folders.checkpoints / "saved_v1_5.safetensors"
    comfy.sd.save_checkpoint(str(path), loaded_v1_5.model, vae=loaded_v1_5.vae)
    before, after = load_file(folders.checkpoints / regions_file), load_file(path)
    assert set(before) <= set(after)
    for key, value in before.items():
        torch.testing.assert_close(after[key].float(), value.float(), atol=1e-6, rtol=0)
    again = pack.run("ColorizeLoadCheckpoint", ckpt_name=path.name)
    assert again[3].family.name == "v1.5" and again[3].background_encoder is not None


def test_incomplete_v1_5_files_say_what_is_missing(pack, folders, regions_file, graph):
    weights = tiny.checkpoint_v1_5(vae=False)
    cases = {
        "no_lora": ({k: v for k, v in weights.items() if ".lora_" not in k}, "no region weights"),
        "half_recovery": (
            {k: v for k, v in weights.items() if "layers.1.3" not in k},
            "Under 'transformer.': 4 tensors are missing",
        ),
        "no_up": ({k: v for k, v in weights.items() if "lora_up_bg" not in k}, "U-Net tensors are missing"),
    }
    for name, (content, message) in cases.items():
        save_file(content, folders.checkpoints / f"{name}.safetensors", metadata=tiny.METADATA_V1_5)
        with pytest.raises(ValueError, match=message):
            pack.run("ColorizeLoadCheckpoint", ckpt_name=f"{name}.safetensors")


def test_stock_loader_reads_v1_5(pack, regions_file, graph, loaded_v1_5):
    model = pack.run("CheckpointLoaderSimple", regions_file)[0]
    assert type(model.model) is pack.module("model_patches.model.model").ColorizeModel
    expected = loaded_v1_5.model.model.diffusion_model.state_dict()
    assert model.model.diffusion_model.state_dict().keys() == expected.keys()


# -- modes -------------------------------------------------------------------------------------------------------------


def test_same_numbers_as_the_trainer_s_network(graph, loaded_v1_5, pack):
    """fig2fig through nodes, conditioning and sampler against one hand-made call of the pure network."""
    weights = tiny.checkpoint_v1_5()
    prefix = "model.diffusion_model."
    network = UNet(dataclasses.replace(tiny.CONFIG, region_ranks=(4, 0.5))).eval()
    network.load_state_dict({k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)})
    background = BackgroundEncoder.from_state_dict(weights).eval()

    reference = with_background(graph.reference())
    mask = torch.rand(1, 64, 128, generator=torch.Generator().manual_seed(3))
    seen = []
    unet = loaded_v1_5.model.model.diffusion_model
    hook = unet.register_forward_hook(lambda module, given, out: seen.append((given, out)))
    model, positive, negative = pack.run(
        "ColorizeApplyReference", model=loaded_v1_5.model, colorizer=loaded_v1_5.colorizer, reference=reference,
        mode="fig2fig", figure_mask=mask, mask_threshold=0.5, figure_strength=0.8, background_strength=0.6, merge=0.3,
        strength=0.7,
    )  # fmt: skip
    latent = {"samples": torch.zeros(1, 4, 8, 16)}
    graph.sample(model, positive, negative, latent=latent, steps=1, cfg=1.0)
    hook.remove()
    given, out = seen[0]
    options = SplitOptions(("fg", "bg"), (0.8, 0.6), threshold=0.5, merge=0.3)
    tokens = [reference.local_tokens, background.background(reference.background_tokens, 0.5)]
    split = Split(tokens, to_latent_size(mask[:, None], 8, 16), options)
    with torch.no_grad():
        expected = network(given[0], given[1], None, split=split, strengths=[0.7] * 16)
    torch.testing.assert_close(out, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_modes_differ_and_repeat(graph, loaded_v1_5, mode):
    reference = with_background(graph.reference())
    run = lambda **apply: graph.sample(*graph.conditioned(loaded_v1_5, reference, **apply))  # noqa: E731
    one = run(mode=mode, figure_mask=half_mask())
    assert torch.isfinite(one).all() and torch.equal(one, run(mode=mode, figure_mask=half_mask()))
    assert not torch.equal(one, run())
    for other in set(MODES) - {mode}:
        assert not torch.equal(one, run(mode=other, figure_mask=half_mask()))


@pytest.mark.parametrize("mode", MODES)
def test_no_mask_at_all_and_full_masks(graph, loaded_v1_5, mode):
    """All-one: the background has no say; all-zero: the figure has none."""
    reference, other = with_background(graph.reference()), with_background(graph.reference(seed=4), seed=5)
    mixed = dataclasses.replace(reference, background_tokens=other.background_tokens)
    run = lambda ref, mask: graph.sample(*graph.conditioned(loaded_v1_5, ref, mode=mode, figure_mask=mask))  # noqa: E731
    ones, zeros = torch.ones(1, 64, 64), torch.zeros(1, 64, 64)
    assert torch.equal(run(reference, ones), run(mixed, ones))
    if mode == "fig2fig":
        swapped = dataclasses.replace(other, background_tokens=reference.background_tokens)
        assert torch.equal(run(reference, zeros), run(swapped, zeros))


def test_v1_files_have_a_masked_mode_only(graph, loaded):
    reference = with_background(graph.reference())
    out = graph.sample(*graph.conditioned(loaded, reference, mode="masked vanilla", figure_mask=half_mask()))
    assert torch.isfinite(out).all() and not torch.equal(out, graph.run(loaded))
    for mode in ("bg2fig", "fig2fig"):
        with pytest.raises(ValueError, match="v1.5"):
            graph.conditioned(loaded, reference, mode=mode, figure_mask=half_mask())


def test_masked_vanilla_without_background_tokens_is_vanilla(graph, loaded):
    masked = graph.sample(*graph.conditioned(loaded, mode="masked vanilla", figure_mask=half_mask()))
    torch.testing.assert_close(masked, graph.run(loaded), atol=2e-4, rtol=2e-4)


def test_rows_of_a_batch_have_masks_of_their_own(graph, loaded_v1_5):
    reference = with_background(graph.reference())
    masks = torch.cat([half_mask(), 1 - half_mask()])
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(2))

    def run(mask, rows):
        latent = {"samples": noise[rows], "batch_index": list(range(2))[rows]}
        return graph.sample(
            *graph.conditioned(loaded_v1_5, reference, mode="fig2fig", figure_mask=mask), latent=latent, steps=1
        )

    both = run(masks, slice(0, 2))
    torch.testing.assert_close(both[:1], run(masks[:1], slice(0, 1)), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(both[1:], run(masks[1:], slice(1, 2)), atol=1e-4, rtol=1e-4)


def test_guided_rows_run_in_one_call(graph, loaded_v1_5, monkeypatch):
    """cond and uncond share one U-Net call, and separate calls give the same picture."""
    rows, hook = counting(loaded_v1_5)
    reference = with_background(graph.reference())
    arguments = dict(mode="fig2fig", figure_mask=half_mask(), noise_level=0.5)
    together = graph.sample(*graph.conditioned(loaded_v1_5, reference, **arguments))
    assert rows == [2, 2]
    monkeypatch.setattr("comfy.samplers.can_concat_cond", lambda a, b: a is b)
    rows.clear()
    apart = graph.sample(*graph.conditioned(loaded_v1_5, reference, **arguments))
    hook.remove()
    assert rows == [1, 1, 1, 1]
    torch.testing.assert_close(together, apart, atol=1e-4, rtol=1e-4)


def test_any_aspect_ratio_and_mask_size(graph, loaded_v1_5):
    reference = with_background(graph.reference())
    for size in ((3, 5), (640, 200), (64, 192)):
        parts = graph.conditioned(loaded_v1_5, reference, mode="fig2fig", figure_mask=half_mask(True, *size))
        latent = {"samples": torch.zeros(1, 4, 8, 24)}
        assert torch.isfinite(graph.sample(*parts, latent=latent)).all()


def test_cast_of_two_is_fig2fig(graph, loaded_v1_5):
    """The same figure twice, half of the mask each, is the figure once."""
    types = graph.pack.module("colorize.reference.types")
    reference = with_background(graph.reference())
    left, right = half_mask(), 1 - half_mask()
    mask = torch.ones(1, 64, 64)
    mask[:, 32:] = 0
    once = graph.sample(*graph.conditioned(loaded_v1_5, reference, mode="fig2fig", figure_mask=mask))
    parts = tuple(types.Region(reference.local_tokens, mask * side) for side in (left, right))
    cast = dataclasses.replace(reference, regions=parts)
    twice = graph.sample(*graph.conditioned(loaded_v1_5, cast, mode="fig2fig"))
    torch.testing.assert_close(twice, once, atol=2e-4, rtol=2e-4)
    stranger = types.Region(graph.reference(seed=8).local_tokens, mask * right)
    other = dataclasses.replace(cast, regions=(parts[0], stranger))
    assert not torch.allclose(graph.sample(*graph.conditioned(loaded_v1_5, other, mode="fig2fig")), once, atol=1e-2)


def test_nothing_is_left_behind(graph, loaded_v1_5):
    before = graph.run(loaded_v1_5)
    reference = with_background(graph.reference())
    graph.sample(*graph.conditioned(loaded_v1_5, reference, mode="fig2fig", figure_mask=half_mask()))
    assert torch.equal(graph.run(loaded_v1_5), before)


def test_compiled(graph, loaded_v1_5, fresh_compiler):
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    model, positive, negative = graph.conditioned(
        loaded_v1_5, with_background(graph.reference()), mode="fig2fig", figure_mask=half_mask()
    )
    plain = graph.sample(model, positive, negative, steps=1)
    set_torch_compile_wrapper(model, backend="eager")
    torch.testing.assert_close(graph.sample(model, positive, negative, steps=1), plain, atol=1e-4, rtol=1e-4)


def test_plans_are_kept_for_the_same_masks_and_options_only(pack):
    """A cache may outlive a run (Attention Injection keeps its reference): the next run may compose otherwise."""
    cache = pack.module("model_patches.payload").PlanCache()
    options = pack.module("colorize.unet.split_attention").SplitOptions
    masks, tokens = half_mask(True, 8, 8)[:, None], [torch.zeros(1, 3, 4)] * 2
    first = cache.split(tokens, masks, options(("fg", "bg"), (1.0, 1.0)), [(8, 8)])
    again = cache.split(tokens, masks.clone(), options(("fg", "bg"), (1.0, 1.0)), [(8, 8)])
    assert again.plan(8, 8) is first.plan(8, 8)
    merged = cache.split(tokens, masks, options((None, None), (1.0, 1.0), merge=0.5), [(8, 8)])
    assert merged.options.merge == 0.5 and merged.plan(8, 8) is not first.plan(8, 8)
    assert cache.split(tokens, 1 - masks, merged.options, [(8, 8)]).plan(8, 8) is not merged.plan(8, 8)


# -- strengths, windows, noise -----------------------------------------------------------------------------------------


def test_strength_one_is_the_stock_path(graph, loaded):
    positive = graph.conditioned(loaded, strength=1.0)[1]
    assert "colorize" not in positive[0][1]


def test_strength_zero_is_no_reference(graph, loaded):
    types = graph.pack.module("colorize.reference.types")
    zero = dataclasses.replace(graph.reference(), levels=types.LevelStrengths(layers=(0.0,) * 16))
    model, positive, negative = graph.conditioned(loaded, zero)
    off = graph.sample(model, positive, negative)
    model, _, negative = graph.conditioned(loaded)
    assert torch.equal(off, graph.sample(model, negative, negative))


def test_window_switches_the_reference(graph, loaded):
    run = lambda **apply: graph.sample(*graph.conditioned(loaded, **apply), steps=4)  # noqa: E731
    plain = run()
    assert torch.equal(plain, run(start_percent=0.0, end_percent=1.0))
    model, _, negative = graph.conditioned(loaded)
    without = graph.sample(model, negative, negative, steps=4)
    assert torch.equal(run(off_start=0.0, off_end=1.0), without)
    early, late = run(end_percent=0.5), run(start_percent=0.5)
    assert not torch.equal(early, late) and not torch.equal(early, plain) and not torch.equal(early, without)
    assert torch.equal(late, run(off_start=0.0, off_end=0.4999))


def test_window_steps(pack):
    settings = pack.module("model_patches.payload").StepSettings(window=(0.2, 0.8), off_window=(0.4, 0.6))
    on = [settings.is_on(999 * (1 - progress)) for progress in (0.1, 0.3, 0.5, 0.7, 0.9)]
    assert on == [False, True, False, True, False]


@pytest.mark.parametrize("mode", ["vanilla", "fig2fig"])
def test_noisy_sampling(graph, loaded_v1_5, mode):
    reference = with_background(graph.reference())
    arguments = {} if mode == "vanilla" else {"mode": mode, "figure_mask": half_mask()}
    run = lambda **more: graph.sample(*graph.conditioned(loaded_v1_5, reference, **arguments, **more), steps=3)  # noqa: E731
    off, noisy = run(), run(noise_level=0.6)
    assert torch.equal(off, run(noise_level=0.0))
    assert torch.equal(noisy, run(noise_level=0.6)) and not torch.equal(noisy, off)
    assert not torch.equal(noisy, run(noise_level=0.3))


@pytest.mark.parametrize("scheduler", ["karras", "normal"])
def test_noisy_sampling_acts_in_the_first_share_of_the_samplers_steps(pack, graph, loaded_v1_5, monkeypatch, scheduler):
    module = pack.module("model_patches.payload")
    real, noisy = module.noisy_sampling_tokens, {}

    def spy(tokens, noise, sigma, *rest):
        out = real(tokens, noise, sigma, *rest)
        if noise.any():  # not the condition without reference
            noisy[sigma[0].item()] = not torch.equal(out, tokens)
        return out

    monkeypatch.setattr(module, "noisy_sampling_tokens", spy)
    graph.sample(*graph.conditioned(loaded_v1_5, noise_level=0.8), steps=5, scheduler=scheduler)
    assert [noisy[sigma] for sigma in sorted(noisy, reverse=True)] == [True] * 4 + [False]


def test_noise_does_not_depend_on_the_batch(pack):
    noise = pack.module("model_patches.payload").token_noise
    one, three = noise([(4, 6), (5, 6)], 1, seed=7), noise([(4, 6), (5, 6)], 3, seed=7)
    assert torch.equal(one[0], three[0][:1]) and torch.equal(one[1], three[1][:1])
    assert not torch.equal(three[0][0], three[0][1])
    assert not torch.equal(noise([(4, 6)], 1, seed=8)[0], one[0])
    assert not noise([(4, 6)], 2, seed=8, empty=True)[0].any()


def test_noisy_batch_rows_are_the_single_pictures(graph, loaded):
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(2))

    def run(rows):
        latent = {"samples": noise[rows], "batch_index": list(range(2))[rows]}
        return graph.sample(*graph.conditioned(loaded, noise_level=0.8), latent=latent, steps=2)

    torch.testing.assert_close(run(slice(0, 2))[:1], run(slice(0, 1)), atol=1e-4, rtol=1e-4)


# -- bad input ---------------------------------------------------------------------------------------------------------


def test_bad_settings_are_explained(graph, loaded_v1_5, loaded):
    reference = with_background(graph.reference())
    mask = half_mask()
    cases = [
        (dict(mode="fig2fig"), "where the figure is"),
        (dict(mode="sideways", figure_mask=mask), "choose one of"),
        (dict(mode="fig2fig", figure_mask=mask.new_full((1, 8, 8), float("nan"))), "NaN"),
        (dict(start_percent=0.8, end_percent=0.2), "before that"),
        (dict(mode="fig2fig", figure_mask=mask, mask_threshold=1.5), "between 0 and 1"),
    ]
    for apply, message in cases:
        with pytest.raises(ValueError, match=message):
            graph.conditioned(loaded_v1_5, reference, **apply)
    with pytest.raises(ValueError, match="reference's background"):
        graph.conditioned(loaded_v1_5, graph.reference(), mode="fig2fig", figure_mask=mask)
    three = graph.conditioned(loaded_v1_5, reference, mode="bg2fig", figure_mask=mask.expand(3, -1, -1))
    with pytest.raises(ValueError, match="3 figure masks for 2 pictures"):
        graph.sample(*three, latent={"samples": torch.zeros(2, 4, 8, 8)})


def test_regions_want_a_masked_mode(graph, loaded_v1_5):
    types = graph.pack.module("colorize.reference.types")
    reference = graph.reference()
    cast = dataclasses.replace(reference, regions=(types.Region(reference.local_tokens, half_mask()),))
    with pytest.raises(ValueError, match="Add Region"):
        graph.conditioned(loaded_v1_5, cast)
