"""Living with others: stock nodes and other packs' patches beside masks, strengths, sketches and batches of ours."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from conftest import ROOT
from tests.model_patches.model.conftest import with_background
from tests.tiny import half_mask

MODES = ("masked vanilla", "bg2fig", "fig2fig")


# -- two copies of the pack --------------------------------------------------------------------------------------------


def test_two_copies_are_told_with_both_folders(pack, tiny_file, monkeypatch, tmp_path):
    import comfy.supported_models

    registration = pack.module("model_patches.model.registration")
    assert registration.copies_remark() == ""
    folder = tmp_path / "folder-main" / "model_patches" / "model"
    folder.mkdir(parents=True)
    (folder / "model.py").write_text("class ColorizeV1:\n    is_colorize_family = True\n")
    other = SimpleNamespace()
    exec(compile((folder / "model.py").read_text(), str(folder / "model.py"), "exec"), other.__dict__)  # noqa: S102
    other.ColorizeV1.__module__ = "other_copy"
    monkeypatch.setitem(sys.modules, "other_copy", SimpleNamespace(__file__=str(folder / "model.py")))
    monkeypatch.setattr(comfy.supported_models, "models", [other.ColorizeV1])
    registration.register()
    with pytest.raises(Exception, match="twice, from .*folder-main and from .*Keep one: move the other") as error:
        pack.run("ColorizeLoadCheckpoint", ckpt_name=tiny_file)
    assert type(error.value).__name__ == "CheckpointError"


# -- the part that is sampled ------------------------------------------------------------------------------------------


def parts(pack, *areas, whole=(8, 8)):
    module = pack.module("model_patches.model.sampled_part")
    conds = [module.PartCond((module.Part(whole),)).process_cond(batch_size=1, area=area) for area in areas]
    return {module.PART: conds[0].concat(conds[1:])}


def hinted(loaded, batch: int = 1, size: int = 64):
    hint = torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(0)) * 0.3
    return loaded.control_net.copy().set_cond_hint(hint), hint


def control_maps(control, rows, conditions=1, size=(8, 8), cond=None):
    x = torch.zeros(rows * conditions, 4, *size)
    with torch.no_grad():
        out = control.get_control(x, torch.ones(len(x)), cond or {}, conditions, {})
    return [values for values in out["input"][::-1] if values is not None]


def test_the_sketch_is_cropped_with_the_area(pack, loaded):
    """Two conditions of one call, each of another half of the picture."""
    control, hint = hinted(loaded)
    got = control_maps(control, 1, 2, (8, 4), parts(pack, [8, 4, 0, 0], [8, 4, 0, 4]))
    with torch.no_grad():
        left, right = (control.encoder(part * 2 - 1) for part in (hint[..., :32], hint[..., 32:]))
    for level, expected in zip(got, zip(left, right, strict=True), strict=True):
        torch.testing.assert_close(level, torch.cat(expected))


def test_areas_of_a_whole_run_follow_the_drawing(pack, graph, fig2fig):
    """The whole picture as an area is the run without one; halves see their half of sketch and mask."""
    model, positive, negative = fig2fig()
    plain = graph.sample(model, positive, negative)

    def area(width, x):
        return pack.run("ConditioningSetAreaPercentage", positive, width, 1.0, x, 0.0, 1.0)[0]

    assert (graph.sample(model, area(1.0, 0.0), negative) - plain).abs().max() < 1e-4
    halves = graph.sample(model, area(0.5, 0.0) + area(0.5, 0.5), negative)
    assert torch.isfinite(halves).all() and (halves - plain).abs().max() > 1e-3


def test_an_area_outside_the_picture_is_told(pack, graph, loaded):
    """Found by the fuzz harness, --stand-ins --seed 102 --only 134: a convolution failed on a sketch without rows."""
    model, positive, negative = graph.conditioned(loaded)
    outside = pack.run("ConditioningSetAreaPercentage", positive, 1.0, 0.0, 0.0, 1.0, 1.0)[0]
    with pytest.raises(ValueError, match="has no part inside the picture. Give it a width"):
        graph.sample(model, outside, negative)


def test_a_hint_that_another_node_cut_is_honoured(pack, loaded, caplog):
    control, hint = hinted(loaded)
    control.cond_hint = torch.cat([hint[..., :32, :32], hint[..., 32:, 32:]])
    got = control_maps(control, 2, size=(4, 4), cond=parts(pack, None))
    with torch.no_grad():
        expected = control.encoder(control.cond_hint * 2 - 1)
    for level, values in zip(got, expected, strict=True):
        torch.testing.assert_close(level, values)
    control.encoder.register_forward_pre_hook(lambda *_: pytest.fail("encoded again"))
    control_maps(control, 2, size=(4, 4), cond=parts(pack, None))


def test_a_part_that_nobody_tells_is_warned_of_once(pack, loaded, caplog):
    control, _ = hinted(loaded)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            control_maps(control, 1, size=(4, 4), cond=parts(pack, None))
        control_maps(control, 1, cond=parts(pack, None))
    assert [record.message[:40] for record in caplog.records] == ["A node samples a part of the picture wit"]


class Tiles:
    """A model function wrapper that does to a call what Tiled Diffusion does: two tiles side by side, no overlap.

    It cuts the tensors that have another size than the latent by their own scale, and fails on those of its size.
    """

    def __init__(self, tile: int):
        self.tile = tile

    def cut(self, values, width):
        tile = self.tile * values.shape[-1] // width
        return torch.cat(values.split(tile, dim=-1))

    def __call__(self, apply, arguments):
        x, t, c, width = arguments["input"], arguments["timestep"], dict(arguments["c"]), arguments["input"].shape[-1]
        tiles = width // self.tile
        for name, values in c.items():
            if isinstance(values, torch.Tensor):
                assert values.ndim != 4 or values.shape[-1] != width, f"{name}: 'int' object has no attribute 'slicer'"
                rows = self.cut(values, width) if values.ndim == 4 else values
                c[name] = rows if len(rows) == tiles * len(x) else rows.repeat(tiles, *(1 for _ in rows.shape[1:]))
        control = self.control
        hint = control.cond_hint_original.repeat(len(x) // len(control.cond_hint_original), 1, 1, 1)
        control.cond_hint = self.cut(hint, width)
        cut = self.cut(x, width)
        conditions = len(arguments["cond_or_uncond"])
        c["control"] = control.get_control(cut, t.repeat(tiles), c, conditions, c["transformer_options"])
        out = apply(cut, t.repeat(tiles), **c)
        return torch.cat(out.split(len(x)), dim=-1)


def tiled(model, positive, tile):
    model, wrapper = model.clone(), Tiles(tile)
    wrapper.control = positive[0][1]["control"]
    model.set_model_unet_function_wrapper(wrapper)
    return model


def test_one_tile_is_the_run_without_tiles(graph, fig2fig):
    model, positive, negative = fig2fig()
    plain = graph.sample(model, positive, negative)
    assert (graph.sample(tiled(model, positive, 8), positive, negative) - plain).abs().max() < 1e-4


def test_tiles_see_their_part_of_sketch_and_mask(graph, fig2fig):
    """The mask's edge lies between the tiles: each is a run of one region, on its half of the drawing."""
    model, positive, negative = fig2fig()
    got = graph.sample(tiled(model, positive, 4), positive, negative, cfg=1.0, steps=1)
    calls = []
    unet = model.model.diffusion_model
    handle = unet.register_forward_pre_hook(lambda module, given: calls.append(given[0].shape))
    graph.sample(tiled(model, positive, 4), positive, negative, cfg=1.0, steps=1)
    handle.remove()
    assert torch.isfinite(got).all() and {tuple(shape) for shape in calls} == {(2, 4, 8, 4)}


def test_masks_that_were_not_cropped_are_refused(pack, graph, fig2fig):
    model, positive, negative = fig2fig()
    model = model.clone()

    def quarter(apply, arguments):
        x = arguments["input"]
        out = apply(x[..., :4, :4], arguments["timestep"], **arguments["c"])
        return torch.nn.functional.pad(out, (0, 4, 0, 4))

    model.set_model_unet_function_wrapper(quarter)
    with pytest.raises(ValueError, match="part of 4x4 cells of the latent, and the figure masks of 8x8 cells were not"):
        graph.sample(model, positive, negative)


# -- other packs' patches of cross-attention ---------------------------------------------------------------------------


def replaced(model, patch):
    model = model.clone()
    for name, numbers in (("input", range(12)), ("middle", (0,)), ("output", range(12))):
        for number in numbers:
            model.set_model_attn2_replace(patch, name, number)
    return model


def same_attention(q, k, v, extra):
    from comfy.ldm.modules.attention import optimized_attention

    return optimized_attention(q, k, v, extra["n_heads"])


@pytest.mark.parametrize("settings", [{}, {"strength": 0.0}, {"strength": 0.5}, {"end_percent": 0.4}])
@pytest.mark.parametrize("mode", ["vanilla", "fig2fig"])
def test_a_replaced_layer_keeps_regions_strength_and_window(graph, fig2fig, mode, settings):
    """Packs that replace cross-attention turned fig2fig into vanilla and strength 0 into 1, silently."""
    mask = {"figure_mask": None} if mode == "vanilla" else {}
    model, positive, negative = fig2fig(mode=mode, **settings, **mask)
    plain = graph.sample(model, positive, negative)
    assert (graph.sample(replaced(model, same_attention), positive, negative) - plain).abs().max() < 1e-4


def test_what_a_replacement_adds_is_added(graph, fig2fig):
    model, positive, negative = fig2fig()
    plain = graph.sample(model, positive, negative)
    more = replaced(model, lambda q, k, v, extra: same_attention(q, k, v, extra) + 0.1)
    assert (graph.sample(more, positive, negative) - plain).abs().max() > 1e-3


def test_a_replacement_of_another_shape_is_told(graph, fig2fig):
    def halves(q, k, v, extra):
        return same_attention(q, k, v, extra)[:, :1]

    model, positive, negative = fig2fig()
    with pytest.raises(ValueError, match="The patch .*halves .*test_others.* of another node answers"):
        graph.sample(replaced(model, halves), positive, negative)


def test_a_patch_of_the_tokens_meets_every_region(graph, fig2fig):
    """Zero tokens, however they come: by a patch or from the start."""
    model, positive, negative = fig2fig()
    patched = model.clone()
    patched.set_model_attn2_patch(lambda n, context, value, extra: (n, context * 0.0, value * 0.0))
    got = graph.sample(patched, positive, negative, cfg=1.0)
    expected = graph.sample(model, negative, negative, cfg=1.0)
    assert (got - expected).abs().max() < 1e-4
    values = model.clone()
    values.set_model_attn2_patch(lambda n, context, value, extra: (n, context, value * 0.5))
    assert (graph.sample(values, positive, negative) - graph.sample(model, positive, negative)).abs().max() > 1e-3


# -- sizes after other patches -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["injection", "hypertile"])
@pytest.mark.parametrize("variant", ["even", "released"])
def test_hypertile_goes_with_attention_injection(pack, graph, loaded, first, variant):
    model, positive, negative = graph.conditioned(loaded, sketch=graph.sketch(size=128)[0])
    latent = {"samples": torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1))}

    def inject(model):
        return pack.run("ColorizeAttentionInjection", model=model, reference_latent=latent, variant=variant)[0]

    def tile(model):
        from comfy_extras.nodes_hypertile import HyperTile

        return HyperTile.execute(model, 32, 2, 0, False)[0]

    plain = graph.sample(inject(model), positive, negative, size=128)
    both = inject(tile(model)) if first == "hypertile" else tile(inject(model))
    got = graph.sample(both, positive, negative, size=128)
    without = graph.sample(tile(model), positive, negative, size=128)
    assert torch.isfinite(got).all() and (got - without).abs().max() > 1e-3 and (got - plain).abs().max() > 1e-3


def test_deep_shrink_keeps_every_map_of_the_sketch(pack, graph, loaded, caplog):
    """ComfyUI left out three of five: their size is not the shrunken picture's."""
    model, positive, negative = graph.conditioned(loaded, sketch=graph.sketch(size=128)[0])
    from comfy_extras.nodes_model_downscale import PatchModelAddDownscale

    shrunk = PatchModelAddDownscale.execute(model, 3, 2.0, 0.0, 1.0, True, "bicubic", "bicubic").result[0]
    with caplog.at_level(logging.WARNING):
        got = graph.sample(shrunk, positive, negative, size=128)
    assert torch.isfinite(got).all() and not [r for r in caplog.records if "control" in r.message]


def test_a_patch_that_shrinks_nothing_changes_nothing(graph, loaded):
    """The maps are added by our patch then: to the bit as ComfyUI adds them."""
    model, positive, negative = graph.conditioned(loaded)
    patched = model.clone()
    patched.set_model_input_block_patch(lambda h, options: h)
    assert torch.equal(graph.sample(patched, positive, negative), graph.sample(model, positive, negative))


@pytest.mark.parametrize("shape", [(1, 4, 2, 8, 8), (1, 16, 8, 8), (1, 4, 0, 8)])
def test_latents_of_other_models_are_told(graph, loaded, shape):
    """Found by the fuzz harness, seed 1, number 5: HunyuanRefinerLatent before the sampler; seed 41, number 569 with
    --stand-ins: TrimVideoLatent, which leaves no row of a picture."""
    model, positive, negative = graph.conditioned(loaded)
    with pytest.raises(ValueError, match="The latent has the shape .*Connect the latent of Prepare Sketch"):
        graph.sample(model, positive, negative, latent={"samples": torch.randn(shape)})


# -- numbers that divide -----------------------------------------------------------------------------------------------


def test_sketches_and_references_are_taken_in_turn(pack, graph, loaded):
    """RepeatLatentBatch of two pictures has rows ABAB, and so has everything that goes with them."""
    sketches, references = graph.sketch(batch=2)[0], graph.reference(batch=2)
    conditioned = graph.conditioned(loaded, reference=references, sketch=sketches)
    latent = {"samples": torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(2))}
    twice = pack.run("RepeatLatentBatch", latent, 2)[0]
    got = graph.sample(*conditioned, latent=twice)
    assert got.shape[0] == 4
    control = conditioned[1][0][1]["control"]
    four = control_maps(control, 4, 2)
    two = control_maps(control, 2, 2)
    for level, pair in zip(four, two, strict=True):
        torch.testing.assert_close(level[:2], pair[:2])
        torch.testing.assert_close(level[2:4], pair[:2])
    with pytest.raises(ValueError, match="There are 2 references for 3 pictures"):
        graph.sample(*conditioned, batch=3)


def test_regions_are_taken_in_turn(graph, loaded_v1_5):
    reference, mask = with_background(graph.reference(batch=2)), torch.cat([half_mask(), 1 - half_mask()])
    conditioned = graph.conditioned(loaded_v1_5, reference=reference, mode="fig2fig", figure_mask=mask)
    assert torch.isfinite(graph.sample(*conditioned, batch=4)).all()


# -- arithmetic with conditionings -------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_zero_out_is_the_condition_without_reference(pack, graph, fig2fig, mode):
    model, positive, negative = fig2fig(mode=mode)
    zeroed = pack.run("ConditioningZeroOut", positive)[0]
    expected = graph.sample(model, negative, negative, cfg=1.0)
    assert (graph.sample(model, zeroed, negative, cfg=1.0) - expected).abs().max() < 1e-4


def test_zero_out_has_no_noise_of_noisy_sampling(pack, graph, loaded):
    model, positive, negative = graph.conditioned(loaded, noise_level=0.5)
    zeroed = pack.run("ConditioningZeroOut", positive)[0]
    assert torch.equal(graph.sample(model, positive, zeroed), graph.sample(model, positive, negative))


@pytest.mark.parametrize("node", ["ConditioningAverage", "ConditioningConcat"])
def test_half_a_change_of_a_masked_mode_is_refused(pack, graph, fig2fig, node):
    model, positive, negative = fig2fig()
    other = fig2fig(reference=with_background(graph.reference(seed=2), 3))[1]
    changed = pack.run(node, positive, other, *([0.5] if node == "ConditioningAverage" else []))[0]
    with pytest.raises(ValueError, match="changed the tokens of the conditioning .*mode vanilla without a figure mask"):
        graph.sample(model, changed, negative)


def test_arithmetic_that_changes_no_tokens_stays(pack, graph, fig2fig):
    model, positive, negative = fig2fig()
    ranged = pack.run("ConditioningSetTimestepRange", positive, 0.0, 1.0)[0]
    plain = graph.sample(model, positive, negative)
    assert (graph.sample(model, ranged, negative) - plain).abs().max() < 1e-4
    both = pack.run("ConditioningCombine", positive, positive)[0]
    assert (graph.sample(model, both, negative) - plain).abs().max() < 1e-4
    masked = pack.run("ConditioningSetMask", positive, torch.ones(1, 64, 64), "default", 1.0)[0]
    assert (graph.sample(model, masked, negative) - plain).abs().max() < 1e-4


def test_the_page_names_tests_that_are_here():
    page = (ROOT / "docs" / "COMPATIBILITY.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.endswith("` |")]
    tests = "".join(file.read_text(encoding="utf-8") for file in Path(__file__).parents[1].rglob("test_*.py"))
    assert len(rows) >= 25
    for row in rows:
        answer, test = (cell.strip() for cell in row.split("|")[3:5])
        assert answer.startswith(("works", "refused", "warned")), row
        assert test == "`test_images.py`" or f"def {test.strip('`')}(" in tests, row


def test_perturbed_attention_meets_the_middle_block(graph, fig2fig):
    """PAG replaces its self-attention by the values; by zeros here, where one cell's attention is its value."""
    model, positive, negative = fig2fig()
    plain, places = graph.sample(model, positive, negative), set()

    def perturbed(q, k, v, extra, mask=None):
        places.add((extra["block"], q.shape == v.shape))
        return torch.zeros_like(v)

    model = model.clone()
    model.set_model_attn1_replace(perturbed, "middle", 0)
    assert (graph.sample(model, positive, negative) - plain).abs().max() > 1e-5
    assert places == {(("middle", 0), True)}
