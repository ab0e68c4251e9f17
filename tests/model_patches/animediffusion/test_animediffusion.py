"""AnimeDiffusion inside ComfyUI: every file layout, core samplers, and the paper's walks against the plain ones."""

import importlib
import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from colorize.animediffusion.sampling import ancestral_step, deterministic_forward, sample_ddim
from colorize.animediffusion.schedule import AnimeSchedule
from colorize.animediffusion.unet import AnimeUNet, AnimeUNetConfig
from tests import tiny
from tests.workflows import shipped

SIZE = 16
CONFIG = AnimeUNetConfig(channels=64, channel_mult=(1, 2), residual_blocks=1)
LOADER, CONDITIONING, SAMPLER = (
    f"Colorize{name}" for name in ("LoadAnimeDiffusion", "AnimeDiffusionConditioning", "AnimeDiffusionSampler")
)


@pytest.fixture(scope="module")
def network() -> AnimeUNet:
    """The tiny network; its answers have about the spread of noise, so that walks stay in range."""
    network = AnimeUNet(CONFIG)
    network.load_state_dict(tiny.randomised(network))
    return network.eval()


@pytest.fixture(scope="module")
def ours(network) -> dict[str, torch.Tensor]:
    """The tensors of an exported file."""
    return {**tiny.prefixed("denoise_fn.", network.state_dict()), **AnimeSchedule().buffers()}


@pytest.fixture
def loaded(pack, folders, ours):
    """(MODEL, VAE) of the tiny checkpoint."""
    save_file(ours, folders.checkpoints / "anime.safetensors")
    return pack.run(LOADER, ckpt_name="anime.safetensors")


def pictures(count=1, height=SIZE, width=SIZE, seed=0):
    return torch.rand(count, height, width, 3, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def condition(pack):
    """condition(count, references) -> (conditioning, latent, lines, reference (B, 3, H, W))."""

    def build(count=1, references=1, **inputs):
        sketch, reference = tiny.drawing(SIZE, SIZE, count), pictures(references, seed=7)
        size = dict(width=SIZE, height=SIZE) | {k: inputs.pop(k) for k in ("width", "height") if k in inputs}
        out = pack.run(CONDITIONING, sketch=sketch, reference=reference, lines="as_drawn", **size, **inputs)
        return out[0], out[2], out[3], reference.movedim(-1, 1) * 2 - 1

    return build


def sample(pack, model, conditioning, latent, **inputs):
    with torch.inference_mode():
        out = pack.run(SAMPLER, model=model, positive=conditioning, latent=latent, seed=3, **inputs)[0]
    return out["samples"].clone()


def predictor(network, conditioning, count):
    lines, reference = (conditioning[0][1][f"animediffusion_{name}"] for name in ("lines", "reference"))
    given = torch.cat([part.expand(count, -1, -1, -1) for part in (lines, reference)], dim=1)

    @torch.no_grad()
    def predict(x, t):
        return network(torch.cat([x, given], dim=1), t)

    return predict


def test_every_file_layout_loads(pack, folders, ours, network):
    bare = network.state_dict()
    files = {
        "ep_299.model.pth": ours,
        "bare.pt": bare,
        "wrapped.pkl": tiny.prefixed("module.", ours),
        "without_buffers.pth": tiny.prefixed("denoise_fn.", bare),
    }
    x, t = torch.randn(1, 7, SIZE, SIZE), torch.tensor([500.0])
    for name, tensors in files.items():
        torch.save(tensors, Path(folders.checkpoints) / name)
        model = pack.run(LOADER, ckpt_name=name)[0].model.diffusion_model
        assert asdict(model.config) == asdict(CONFIG)
        with torch.no_grad():
            assert (model(x, t) - network(x, t)).abs().max() < 1e-5


def test_files_of_other_kinds_are_refused(pack, folders, tiny_file, ours):
    with pytest.raises(ValueError, match="Load ColorizeDiffusion Checkpoint"):
        pack.run(LOADER, ckpt_name=tiny_file)
    save_file(ours, folders.checkpoints / "anime.safetensors")
    with pytest.raises(ValueError, match="Load AnimeDiffusion"):
        pack.run("ColorizeLoadCheckpoint", ckpt_name="anime.safetensors")
    fewer = {key: value for key, value in ours.items() if "decoder_block.2.conv2.3" not in key}
    save_file(fewer, folders.checkpoints / "fewer.safetensors")
    with pytest.raises(ValueError, match="lacks 2 tensors"):
        pack.run(LOADER, ckpt_name="fewer.safetensors")
    broken = ours | {"denoise_fn.output.2.bias": torch.full((3,), float("nan"))}
    save_file(broken, folders.checkpoints / "broken.safetensors")
    with pytest.raises(ValueError, match="NaN"):
        pack.run(LOADER, ckpt_name="broken.safetensors")
    torch.save({"optim_dict": {}}, Path(folders.checkpoints) / "ep_0.optim.pth")
    with pytest.raises(ValueError, match="no tensors"):
        pack.run(LOADER, ckpt_name="ep_0.optim.pth")


def test_the_schedule_is_the_papers(loaded):
    sampling = loaded[0].model.model_sampling
    ours = AnimeSchedule().sigmas
    assert ((sampling.sigmas - ours).abs() / ours)[1:].max() < 2e-3  # float32 on both sides, near zero noise
    assert torch.equal(sampling.timestep(ours), torch.arange(1000))


def test_the_vae_passes_pixels(pack, loaded):
    picture = pictures()
    latent = pack.run("VAEEncode", loaded[1], picture)[0]["samples"]
    assert torch.allclose(latent, picture.movedim(-1, 1) * 2 - 1, atol=1e-5)
    assert torch.allclose(pack.run("VAEDecode", loaded[1], {"samples": latent})[0], picture, atol=1e-5)


@pytest.mark.parametrize("eta", [0.0, 0.5])
@pytest.mark.parametrize("start", ["noise", "reference"])
def test_ddim_is_the_plain_loop(pack, loaded, condition, network, eta, start):
    conditioning, latent, _, reference = condition()
    out = sample(pack, loaded[0], conditioning, latent, steps=4, eta=eta, start=start)
    walk = pack.module("model_patches.animediffusion.sampling").Walk(seed=3)
    shape, predict = (3, SIZE, SIZE), predictor(network, conditioning, 1)
    x = walk.drawn(-1, [0], shape)
    if start == "reference":
        x = deterministic_forward(predict, reference, AnimeSchedule(), 4)
    expected = sample_ddim(predict, x, AnimeSchedule(), 4, eta, lambda step: walk.drawn(step, [0], shape))
    assert expected.std() > 0.05
    assert (out - expected).abs().max() < 2e-3  # the chain amplifies rounding


def test_ddpm_is_the_plain_chain(pack, loaded, condition, network, monkeypatch):
    """Of 12 steps instead of a thousand; ComfyUI's model finds its own step for each of their noise levels."""
    module, short = pack.module("model_patches.animediffusion.sampling"), AnimeSchedule(12)
    monkeypatch.setattr(module, "AnimeSchedule", lambda: AnimeSchedule(12))
    conditioning, latent, *_ = condition()
    out = sample(pack, loaded[0], conditioning, latent, method="ddpm")
    walk, predict = module.Walk(seed=3), predictor(network, conditioning, 1)
    timestep = loaded[0].model.model_sampling.timestep
    x = walk.drawn(-1, [0], (3, SIZE, SIZE))
    for number, t in enumerate(range(11, -1, -1)):
        rows = torch.tensor([t])
        x = ancestral_step(
            short, x, predict(x, timestep(short.sigmas[rows])), rows, walk.drawn(number, [0], x.shape[1:])
        )
    assert (out - x).abs().max() < 1e-2


@pytest.mark.parametrize("sampler", ["euler", "ddim", "dpmpp_2m"])
def test_core_samplers_and_batches(pack, loaded, condition, sampler):
    conditioning, latent, *_ = condition(count=2, references=2)

    def run(positive, samples):
        with torch.inference_mode():
            return pack.run(
                "KSampler", loaded[0], 1, 3, 1.0, sampler, "normal", positive, positive, {"samples": samples}
            )[0]["samples"].clone()

    both = run(conditioning, latent["samples"])
    assert both.shape == (2, 3, SIZE, SIZE) and torch.isfinite(both).all()
    assert not torch.allclose(both[0], both[1], atol=1e-2)


def test_the_latent_of_another_size_is_followed(pack, loaded, condition):
    """A hires pass: the condition is resized with the latent."""
    conditioning, *_ = condition()
    latent = {"samples": torch.zeros(1, 3, 24, 40)}
    assert sample(pack, loaded[0], conditioning, latent, steps=2).shape == (1, 3, 24, 40)


def test_an_area_outside_the_picture_is_told(pack, loaded, condition):
    """Found by the fuzz harness, --stand-ins --seed 1 --only 529: a convolution failed on a picture without rows."""
    conditioning, latent, *_ = condition()
    outside = pack.run("ConditioningSetAreaPercentage", conditioning, 0.15, 1.0, 0.0, 1.0, 0.0)[0]
    with pytest.raises(ValueError, match="has no part inside the picture. Give it a width"):
        sample(pack, loaded[0], outside, latent, steps=2)


def test_sizes_need_no_multiple(loaded):
    network = loaded[0].model.diffusion_model
    assert network(torch.randn(2, 7, 13, 9), torch.tensor([10.0, 20.0])).shape == (2, 3, 13, 9)


def test_frames_do_not_depend_on_the_chunks(pack, loaded, condition):
    conditioning, latent, *_ = condition(count=5)
    seen = []
    whole = sample(pack, loaded[0], conditioning, latent, steps=2, at_once=8, eta=0.5)
    module = pack.module("model_patches.animediffusion.sampling")
    with torch.inference_mode():
        walk = module.Walk(steps=2, seed=3, eta=0.5, chunk=2)
        parts = module.sample(
            loaded[0], conditioning, latent["samples"], walk, lambda picture, done, total: seen.append((done, total))
        )
    assert torch.allclose(whole, parts, atol=1e-4)
    assert seen == [(2, 10), (4, 10), (6, 10), (8, 10), (9, 10), (10, 10)]


def test_equal_drawings_give_equal_frames_from_one_noise(pack, loaded, condition):
    conditioning, latent, *_ = condition(count=1, references=1)
    latent = {"samples": latent["samples"].repeat(2, 1, 1, 1)}
    same = sample(pack, loaded[0], conditioning, latent, steps=2, eta=0.5)
    assert torch.allclose(same[0], same[1], atol=1e-5)
    different = sample(pack, loaded[0], conditioning, latent, steps=2, eta=0.5, batch_noise="different")
    assert torch.allclose(different[0], same[0], atol=1e-5) and not torch.allclose(different[1], same[1], atol=1e-2)


def test_mistakes_are_named(pack, loaded, condition, tiny_file):
    conditioning, latent, *_ = condition(count=2)
    model = loaded[0]
    other = pack.run("ColorizeLoadCheckpoint", ckpt_name=tiny_file)[0]
    with pytest.raises(ValueError, match="not an AnimeDiffusion model"):
        sample(pack, other, conditioning, latent)
    with pytest.raises(ValueError, match="AnimeDiffusion Conditioning"):
        sample(pack, model, [[torch.zeros(1, 1, 1), {}]], latent)
    with pytest.raises(ValueError, match="for frame 3"):
        sample(pack, model, conditioning, {"samples": torch.zeros(3, 3, SIZE, SIZE)})
    with pytest.raises(ValueError, match="wants pixels"):
        sample(pack, model, conditioning, {"samples": torch.zeros(2, 4, 2, 2)})
    with pytest.raises(ValueError, match="starts from noise"):
        sample(pack, model, conditioning, latent, method="ddpm", start="reference")
    with pytest.raises(ValueError, match="2 references for 3 sketches"):
        condition(count=3, references=2)
    for name in ("steps", "chunk"):
        with pytest.raises(ValueError, match="choose 1"):
            pack.module("model_patches.animediffusion.sampling").Walk(**{name: 0})
    with (
        torch.inference_mode(),
        pytest.raises(ValueError, match="carries no line drawing"),
    ):
        bare = [[torch.zeros(1, 1, 1), {}]]
        pack.run("KSampler", model, 1, 1, 1.0, "euler", "normal", bare, bare, latent)


def test_saved_by_comfyui_it_loads_again(pack, folders, loaded, ours):
    saved = loaded[0].model.state_dict_for_saving(loaded[0].model.diffusion_model.state_dict())
    torch.save(saved, Path(folders.checkpoints) / "saved.pt")
    again = pack.run(LOADER, ckpt_name="saved.pt")[0].model.diffusion_model.state_dict()
    assert all(torch.equal(again[k], ours[f"denoise_fn.{k}"]) for k in again)


def test_as_many_steps_as_the_file_says(pack, folders, condition, ours):
    """steps 0; what Save Checkpoint writes says it as well."""
    marker = pack.module("colorize.animediffusion.markers").STEPS_MARKER
    save_file(ours, Path(folders.checkpoints) / "student.safetensors", metadata={marker: "3"})
    model = pack.run(LOADER, ckpt_name="student.safetensors")[0]
    conditioning, latent, *_ = condition()
    made = sample(pack, model, conditioning, latent)
    assert torch.equal(made, sample(pack, model, conditioning, latent, steps=3))
    assert not torch.equal(made, sample(pack, model, conditioning, latent, steps=10))
    saved = model.model.state_dict_for_saving(model.model.diffusion_model.state_dict())
    torch.save(saved, Path(folders.checkpoints) / "saved.pt")
    assert pack.run(LOADER, ckpt_name="saved.pt")[0].model.chain_steps == 3


def test_without_a_word_it_takes_the_papers_steps(pack, loaded, condition):
    conditioning, latent, *_ = condition()
    made = sample(pack, loaded[0], conditioning, latent)
    assert torch.equal(made, sample(pack, loaded[0], conditioning, latent, steps=10))


def test_half_precision_and_clones(pack, loaded, condition, ours, folders):
    half = {key: value.half() for key, value in ours.items()}
    save_file(half, folders.checkpoints / "half.safetensors")
    model = pack.run(LOADER, ckpt_name="half.safetensors")[0]
    conditioning, latent, *_ = condition()
    out = sample(pack, model, conditioning, latent, steps=2)
    assert (out - sample(pack, loaded[0], conditioning, latent, steps=2)).abs().mean() < 0.05
    factory, arguments = model.cached_patcher_init[:2]
    assert asdict(factory(*arguments).model.diffusion_model.config) == asdict(CONFIG)


def test_lines_are_black_on_white_and_fitted(pack):
    """A white-on-black drawing, padded: the lines come out dark on light, the margin white."""
    drawing = 1 - tiny.drawing(32, 32)
    inputs = dict(sketch=drawing, reference=pictures(1, 20, 40), width=64, height=32, fit="pad")
    for kind in ("as_drawn", "xdog"):
        out = pack.run(CONDITIONING, lines=kind, **inputs)
        options = out[0][0][1]
        lines, frame = options["animediffusion_lines"], out[4]
        assert lines.shape == (1, 1, 32, 64) and options["animediffusion_reference"].shape == (1, 3, 32, 64)
        assert (lines[..., :16] == 1).all() and (lines[..., 48:] == 1).all()
        assert lines.mean() > 0.3 and lines.min() < 0
        assert (frame.left, frame.box_width, frame.source_width) == (16, 32, 32)


def test_a_picture_is_taken_apart_for_recolouring(pack):
    colours = torch.full((1, 24, 24, 3), 0.8)
    colours[:, 8:16, 8:16] = torch.tensor([0.7, 0.1, 0.1])
    out = pack.run(
        CONDITIONING, sketch=colours, reference=pictures(), width=24, height=24, lines="xdog_of_picture"
    )  # fmt: skip
    lines = out[0][0][1]["animediffusion_lines"]
    assert set(lines.unique().tolist()) <= {-1.0, 1.0} and (lines < 0).any() and (lines > 0).float().mean() > 0.5


def test_the_shipped_workflow_runs(pack, folders, ours):
    """Node by node as it is shipped, with the tiny network in place of the bundled one."""
    import folder_paths

    workflow = json.loads(shipped.api("animediffusion").read_text(encoding="utf-8"))
    save_file(ours, folders.checkpoints / "workflow_anime.safetensors")
    Path(folder_paths.get_input_directory()).mkdir(exist_ok=True)
    results = {}
    with torch.inference_mode():
        for number in sorted(workflow, key=int):
            node = workflow[number]
            inputs = {k: results[v[0]][v[1]] if isinstance(v, list) else v for k, v in node["inputs"].items()}
            if node["class_type"] == "LoadImage":
                there = Path(folder_paths.get_input_directory()) / inputs["image"]
                shutil.copy(shipped.example(inputs["image"]), there)
            if "ckpt_name" in inputs:
                inputs["ckpt_name"] = "workflow_anime.safetensors"
            results[number] = pack.run(node["class_type"], **inputs)
    lines, picture = results["4"][3], results["8"][0]
    assert lines.shape == (1, 64, 64, 3) and 0.5 < lines.mean() < 0.98
    assert picture.shape == (1, 512, 512, 3) and torch.isfinite(picture).all()


@pytest.mark.parametrize(
    "node, inputs", [("sag.SelfAttentionGuidance", (1.0, 2.0)), ("pag.PerturbedAttentionGuidance", (1.0,))]
)
def test_patches_it_has_no_layers_for_are_told(pack, loaded, condition, node, inputs):
    """Found by the fuzz harness, --stand-ins --seed 102 --only 25: SAG failed with NoneType has no attribute shape."""
    file, _, name = node.partition(".")
    patch = getattr(importlib.import_module(f"comfy_extras.nodes_{file}"), name)
    conditioning, latent, _, _ = condition()
    with pytest.raises(ValueError, match="Another node patches attn1 of the model, .*Remove it"):
        sample(pack, patch.execute(loaded[0], *inputs)[0], conditioning, latent, steps=2)


def test_guidance_of_other_nodes_is_told(pack, loaded, condition):
    """Found by the fuzz harness, --stand-ins --seed 1 --only 5535. Guided away from zeros, colours changed silently."""
    conditioning, latent, _, _ = condition()
    for file, name, inputs in (("lumina2", "RenormCFG", (100.0, 1.0)), ("model_advanced", "RescaleCFG", (0.7,))):
        node = getattr(importlib.import_module(f"comfy_extras.nodes_{file}"), name)
        patched = (
            node.execute(loaded[0], *inputs)[0] if hasattr(node, "execute") else node().patch(loaded[0], *inputs)[0]
        )
        with pytest.raises(ValueError, match="Another node guides the sampling .*Remove it"):
            sample(pack, patched, conditioning, latent, steps=2)


def test_a_controlnet_is_told(pack):
    check = pack.module("model_patches.animediffusion.model").check_unpatched
    check({"patches": {"attn1_patch": []}, "patches_replace": {}}, {"input": [None], "middle": []})
    with pytest.raises(ValueError, match="ControlNet .*AnimeDiffusion Conditioning"):
        check({}, {"input": [torch.zeros(1)]})
