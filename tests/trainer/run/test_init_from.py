"""Starting from other models: fitting of shapes, names of other layouts, and the report."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import save_file

from colorize.unet.unet import UNet
from tests import tiny
from trainer import config as configuration
from trainer.config import ConfigError
from trainer.run import init_from, loop
from trainer.stages import table


def plainly_fitted(weight: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """The released rule, value by value."""
    out = torch.zeros(shape)
    for place in torch.cartesian_prod(*[torch.arange(side) for side in shape]).reshape(-1, len(shape)).tolist():
        source = [n % side for n, side in zip(place[:2], weight.shape[:2], strict=False)] + place[2:]
        value = weight[tuple(source)]
        if weight.ndim > 1:
            value = value / sum(column % weight.shape[1] == source[1] for column in range(shape[1]))
        out[tuple(place)] = value
    return out


@pytest.mark.parametrize(
    ("old", "new"), [((3,), (7,)), ((4,), (2,)), ((3, 3), (5, 8)), ((4, 5), (2, 3)), ((4, 2, 3, 3), (6, 5, 3, 3))]
)
def test_fitting_follows_the_released_rule(old, new):
    weight = torch.randn(old, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(init_from.fit(weight, new), plainly_fitted(weight, new))


def test_a_wider_layer_answers_the_same_for_repeated_inputs():
    """Why the columns are divided: the sum over the inputs stays."""
    weight, x = torch.randn(5, 4), torch.randn(4)
    wider = init_from.fit(weight, (5, 12))
    assert torch.allclose(wider @ x.repeat(3), weight @ x, atol=1e-6)


@pytest.mark.parametrize(("old", "new"), [((3, 3), (3,)), ((4, 4, 3, 3), (4, 4, 1, 1)), ((), (3,))])
def test_what_cannot_be_fitted_says_so(old, new):
    with pytest.raises(ValueError, match="first two axes"):
        init_from.fit(torch.zeros(old), new)


def stable_diffusion(context_dim: int = 24) -> dict[str, torch.Tensor]:
    """A U-Net file in Stable Diffusion 2's layout: linear projections, a text context, no sketch encoder."""
    config = dataclasses.replace(tiny.CONFIG, context_dim=context_dim)
    weights = tiny.randomised(UNet(config))
    linear = {k: v[:, :, 0, 0] if k.endswith(("proj_in.weight", "proj_out.weight")) else v for k, v in weights.items()}
    return tiny.prefixed(init_from.UNET, linear)


def diffusers_name(name: str, blocks: int = 2) -> str:
    """The name diffusers gives a tensor of our layout (four levels, attention on the first three)."""
    outside = {ours: theirs for theirs, ours in init_from.OUTSIDE.items()}
    resnet = {ours: theirs for theirs, ours in init_from.RESNET.items()}
    stem, _, last = name.rpartition(".")
    if stem in outside:
        return f"{outside[stem]}.{last}"
    half, *rest = name.split(".")
    if half == "middle_block":
        number, rest = int(rest[0]), ".".join(rest[1:])
        kind, place = ("attentions", 0) if number == 1 else ("resnets", number // 2)
        head = f"mid_block.{kind}.{place}"
    else:
        number, place, rest = int(rest[0]), int(rest[1]), ".".join(rest[2:])
        if half == "input_blocks":
            level, inside = divmod(number - 1, blocks + 1)
            if inside == blocks:
                return f"down_blocks.{level}.downsamplers.0.conv.{last}"
            head = f"down_blocks.{level}.{('resnets', 'attentions')[place]}.{inside}"
        else:
            level, inside = divmod(number, blocks + 1)
            if rest.startswith("conv."):
                return f"up_blocks.{level}.upsamplers.0.{rest}"
            head = f"up_blocks.{level}.{('resnets', 'attentions')[place]}.{inside}"
    if ".resnets." in head:
        layer, _, last = rest.rpartition(".")
        rest = f"{resnet[layer]}.{last}"
    return f"{head}.{rest}"


def test_every_diffusers_name_comes_back():
    ours = tiny.randomised(UNet(tiny.CONFIG))
    theirs = {diffusers_name(name): tensor for name, tensor in ours.items()}
    assert len(theirs) == len(ours)
    back = init_from.our_names(theirs)
    assert back.keys() == {init_from.UNET + name for name in ours}
    assert all(back[init_from.UNET + name] is tensor for name, tensor in ours.items())


@pytest.mark.parametrize("layout", ["prefixed", "bare", "diffusers"])
def test_a_model_starts_from_stable_diffusion(layout, tmp_path):
    file, source = tmp_path / "sd.safetensors", stable_diffusion()
    bare = {name.removeprefix(init_from.UNET): tensor for name, tensor in source.items()}
    tensors = {
        "prefixed": source | {"cond_stage_model.model.positional_embedding": torch.zeros(77, 8)},
        "bare": bare,
        "diffusers": {diffusers_name(name): tensor for name, tensor in bare.items()},
    }[layout]
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)
    stage = torch.nn.Module()
    stage.model = torch.nn.ModuleDict({"diffusion_model": UNet(tiny.CONFIG)})
    stage.control_encoder = torch.nn.Linear(2, 2)
    kept = stage.control_encoder.weight.clone()
    report = init_from.start(stage, str(file), tmp_path)

    taken = dict(stage.named_parameters())
    same = "model.diffusion_model.input_blocks.1.0.in_layers.2.weight"
    assert torch.equal(taken[same], source[same])
    projection = "model.diffusion_model.input_blocks.1.1.proj_in.weight"
    assert torch.equal(taken[projection][:, :, 0, 0], source[projection])
    context = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
    assert torch.equal(taken[context], init_from.fit(source[context], taken[context].shape))
    assert torch.equal(stage.control_encoder.weight, kept)
    assert report.random == ["control_encoder.weight", "control_encoder.bias"]
    assert all("attn2.to_" in name for name in report.fitted) and context in report.fitted
    assert len(report.taken) + len(report.fitted) == len(source)
    assert report.unused == (1 if layout == "prefixed" else 0)
    written = json.loads((tmp_path / init_from.REPORT).read_text())
    assert written["fitted"][context] == "(64, 24) -> (64, 48)" and written["source"] == "sd.safetensors"
    assert "2 left random" in str(report) and "random: control_encoder" in str(report)


def test_a_model_with_fewer_levels_takes_the_finest_ones(tmp_path):
    """Four levels -> three: the decoder's last blocks are those of the finest level, and the coarsest ones are left."""
    source = stable_diffusion()
    file = tmp_path / "sd.safetensors"
    save_file(source, file)
    config = dataclasses.replace(
        tiny.CONFIG, channel_mult=tiny.CONFIG.channel_mult[:3], attention_levels=(0, 2), context_dim=24
    )
    stage = torch.nn.ModuleDict({"model": torch.nn.ModuleDict({"diffusion_model": UNet(config)})})
    report = init_from.start(stage, str(file))
    taken = dict(stage.named_parameters())
    for ours, theirs in (("output_blocks.1.0", "output_blocks.4.0"), ("output_blocks.8.0", "output_blocks.11.0"),
                         ("input_blocks.4.0", "input_blocks.4.0"), ("output_blocks.2.2", "output_blocks.5.2"),
                         ("output_blocks.5.1", "output_blocks.8.2")):  # fmt: skip
        name = "conv.weight" if ours[-1] != "0" else "in_layers.2.weight"  # level 1 upsamples without attention here
        assert torch.equal(taken[f"{init_from.UNET}{ours}.{name}"], source[f"{init_from.UNET}{theirs}.{name}"])
    assert not any("output_blocks" in name for name in report.random) and report.unused > 0


def test_a_run_starts_from_another_model_and_resumes_itself(values, tmp_path):
    """The file is read at the first start only; a resumed run has its own weights, and another file is another run."""
    source = stable_diffusion()
    source |= {f"first_stage_model.{k}": v for k, v in init_from.checkpoint.read_tensors(
        init_from.Path(values["model"]["vae"]))[0].items()}  # fmt: skip
    file = tmp_path / "sd.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in source.items()}, file)
    values["model"] |= {"init_from": str(file), "vae": ""}  # the autoencoder inside it serves
    values["run"] |= {"steps": 2}
    values["optimizer"] |= {"lr": 0.0, "ema": 0.0, "weight_decay": 0.0}
    exported = loop.train(configuration.build(values))
    assert (exported.parent / init_from.REPORT).is_file()
    tensors = init_from.checkpoint.read_tensors(exported)[0]
    name = "model.diffusion_model.out.2.weight"
    assert torch.allclose(tensors[name], init_from.fit(source[name], tensors[name].shape))
    (exported.parent / init_from.REPORT).unlink()
    values["run"] |= {"steps": 3}
    loop.train(configuration.build(values))
    assert not (exported.parent / init_from.REPORT).exists()


def test_what_has_a_file_of_its_own_is_neither_taken_nor_random(tmp_path):
    """A reference encoder that is trained too comes from model.encoder; the report called it random."""
    net = torch.nn.ModuleDict({"body": torch.nn.Linear(2, 2), "visual": torch.nn.Linear(2, 2)})
    net.own_files = ("visual.",)
    before = net["visual"].weight.clone()
    tensors = {f"{part}.weight": torch.full((2, 2), 3.0) for part in ("body", "visual")}
    save_file(tensors, tmp_path / "a.safetensors")
    report = init_from.start(net, str(tmp_path / "a.safetensors"))
    assert (report.taken, report.random, report.unused) == (["body.weight"], ["body.bias"], 1)
    assert torch.equal(net["visual"].weight, before)


def test_files_of_nothing_we_know_are_refused(tmp_path):
    save_file({"weights": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(ConfigError, match="no tensor this model could take.*weights"):
        init_from.start(torch.nn.Linear(2, 2), str(tmp_path / "other.safetensors"))
    save_file({"weight": torch.full((2, 2), torch.nan)}, tmp_path / "nan.safetensors")
    with pytest.raises(ConfigError, match="not finite"):
        init_from.start(torch.nn.Linear(2, 2), str(tmp_path / "nan.safetensors"))


@pytest.mark.parametrize(
    ("changes", "hint"),
    [
        ({"model": {"init": "a.safetensors", "init_from": "b.safetensors"}}, "are both set"),
        ({"model": {"init_from": "b.safetensors"}, "run": {"stage": "vae"}}, "model.init_from belongs to stages v1"),
    ],
)
def test_contradictions_are_refused(values, changes, hint):
    with pytest.raises(ConfigError, match=hint):
        changed = {section: {**content, **changes.get(section, {})} for section, content in values.items()}
        table.checked(configuration.build(changed))
