"""A sketch at Apply Advanced ControlNet (pack Advanced-ControlNet), stood in for by what it does to a control."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch


def advanced_apply(control, image, mask=None, timestep_kf=None, **overrides):
    """What that node does to a control: nothing beyond ComfyUI's own to those without `sub_idxs`."""
    control = control.copy().set_cond_hint(image.movedim(-1, 1), 1.0, (0.0, 1.0), None)
    if hasattr(control, "sub_idxs"):
        control.disarm()
        assert not control.allow_condhint_latents and not control.require_vae
        if timestep_kf is not None:
            control.set_timestep_keyframes(timestep_kf)
        for name, value in overrides.items():
            setattr(control, name, value)
        control.verify_all_weights()
        if mask is not None:
            control.set_cond_hint_mask(mask.clone())
    control.set_previous_controlnet(None)
    return control


@pytest.fixture
def sketch() -> torch.Tensor:
    return torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0)) * 0.3


def maps(control, rows: int = 1, size: tuple[int, int] = (8, 8), cond=None):
    x = torch.zeros(rows, 4, *size)
    with torch.no_grad():
        out = control.get_control(x, torch.ones(rows), cond or {}, 1, {})
    return [values for values in out["input"][::-1] if values is not None]


def test_a_mask_of_zeros_is_no_sketch_and_one_of_ones_all_of_it(loaded, sketch):
    plain = maps(advanced_apply(loaded.control_net, sketch))
    assert all(values.abs().max() > 0 for values in plain)
    for values, expected in zip(maps(advanced_apply(loaded.control_net, sketch, torch.ones(1, 64, 64))), plain):
        torch.testing.assert_close(values, expected)
    assert all(not values.any() for values in maps(advanced_apply(loaded.control_net, sketch, torch.zeros(1, 64, 64))))
    assert loaded.control_net.mask is None  # a mask belongs to one Apply node


def test_a_mask_acts_where_it_is(loaded, sketch):
    """The left half, of a mask in another size than the sketch; a copy for the next sampler keeps it."""
    mask = torch.zeros(32, 32)
    mask[:, :16] = 1
    control = advanced_apply(loaded.control_net, sketch, mask)
    plain = maps(advanced_apply(loaded.control_net, sketch))
    for values in (maps(control)[0], maps(control.copy())[0]):
        torch.testing.assert_close(values[..., :3], plain[0][..., :3])
        assert not values[..., 5:].any()


def test_masks_are_as_many_as_pictures(loaded, sketch):
    two = torch.stack([torch.zeros(64, 64), torch.ones(64, 64)])
    first, second = maps(advanced_apply(loaded.control_net, sketch, two), rows=2)[0]
    assert not first.any() and second.any()
    with pytest.raises(ValueError, match="There are 2 sketches for 3 pictures"):
        maps(advanced_apply(loaded.control_net, sketch, two), rows=3)


def test_a_mask_is_cropped_with_the_area(pack, loaded, sketch):
    part = pack.module("model_patches.model.sampled_part")
    mask = torch.zeros(1, 64, 64)
    mask[..., :32] = 1
    control = advanced_apply(loaded.control_net, sketch, mask)
    for left, acts in ((0, True), (4, False)):
        cond = part.PartCond((part.Part((8, 8)),)).process_cond(batch_size=1, area=[8, 4, 0, left])
        assert bool(maps(control, size=(8, 4), cond={part.PART: cond.cond})[0].any()) == acts


def test_tiles_cut_no_mask(loaded, sketch):
    control = advanced_apply(loaded.control_net, sketch, torch.ones(1, 64, 64))
    control.cond_hint = control.cond_hint_original[..., :32, :32]
    with pytest.raises(ValueError, match="cuts the sketch, but not the mask of Apply Advanced ControlNet"):
        maps(control, size=(4, 4))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"timestep_kf": SimpleNamespace()}, "timestep keyframes"),
        ({"latent_keyframe_override": SimpleNamespace()}, "latent keyframes"),
        ({"weights_override": SimpleNamespace()}, "weights"),
        ({"sub_idxs": [0, 1]}, "context windows"),
    ],
)
def test_what_does_not_act_is_refused(loaded, sketch, options, words):
    with pytest.raises(ValueError, match=f"brings {words}, which a sketch does not take.*Sketch Strength per Level"):
        advanced_apply(loaded.control_net, sketch, **options)
