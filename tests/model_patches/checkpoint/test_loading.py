"""Checkpoint files in every format, through our loader and through ComfyUI's own, and broken ones."""

import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import tiny


@pytest.fixture
def save(folders, tiny_weights):
    """save(name, metadata, change) -> name; change(state dict) may edit or replace it before it is written."""

    def run(name, metadata=None, change=None, base=None):
        weights = dict(base or tiny_weights)
        weights = (change(weights) or weights) if change else weights
        path = folders.checkpoints / name
        if name.endswith(".safetensors"):
            save_file(weights, path, metadata=metadata)
        else:
            torch.save(weights, path)
        return name

    return run


def load(pack, name, prediction_type="auto"):
    return pack.run("ColorizeLoadCheckpoint", ckpt_name=name, prediction_type=prediction_type)


def weight_of(model, key="middle_block.1.proj_in.weight"):
    return model.model.diffusion_model.state_dict()[key]


def with_markers(weights):
    return weights | {"v_pred": torch.tensor([]), "colorize.num_head_channels": torch.tensor(32)}


# -- formats -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["safetensors", "ckpt", "pt"])
def test_formats(pack, save, tiny_weights, dtype, kind):
    def change(weights):
        weights = {k: v.to(dtype) for k, v in weights.items()}
        if kind == "safetensors":
            return weights
        weights = with_markers(weights)
        return {"state_dict": weights, "epoch": 3} if kind == "ckpt" else weights

    name = save(f"f_{str(dtype)[6:]}.{kind}", tiny.METADATA, change)
    model, vae, control, colorizer = load(pack, name)
    key = "model.diffusion_model.middle_block.1.proj_in.weight"
    assert torch.equal(weight_of(model).float(), tiny_weights[key].to(dtype).float())
    assert torch.equal(
        control.encoder.zero_layer[0].weight.float(),
        tiny_weights["control_encoder.zero_layer.0.weight"].to(dtype).float(),
    )
    assert vae.decode(torch.zeros(1, 4, 2, 2)).shape == (1, 16, 16, 3)
    assert colorizer.file_name == name and colorizer.family.num_head_channels == 32
    attention = model.model.diffusion_model.middle_block[1].transformer_blocks[0].attn1
    assert (attention.heads, attention.dim_head) == (4, 32)


def test_training_leftovers_are_ignored(pack, save):
    extra = {
        "betas": torch.ones(1000),
        "model_ema.x": torch.ones(3),
        "cond_stage_model.visual.model.proj": torch.ones(2, 2),
    }
    model, *_ = load(pack, save("leftovers.safetensors", tiny.METADATA, lambda w: w | extra))
    assert type(model.model).__name__ == "ColorizeModel"


def test_checkpoint_without_vae(pack, save):
    name = save(
        "no_vae.safetensors",
        tiny.METADATA,
        lambda w: {k: v for k, v in w.items() if not k.startswith("first_stage_model.")},
    )
    model, vae, *_ = load(pack, name)
    with pytest.raises(RuntimeError, match="VAE is invalid"):
        vae.decode(torch.zeros(1, 4, 2, 2))


# -- prediction type ---------------------------------------------------------------------------------------------------


def prediction(pack, model):
    import comfy.model_sampling

    if isinstance(model.model.model_sampling, comfy.model_sampling.V_PREDICTION):
        return "v"
    assert isinstance(model.model.model_sampling, comfy.model_sampling.EPS)
    return "eps"


def test_prediction_type_order(pack, save):
    bare = {"colorize.num_head_channels": "32"}
    cases = [
        ("plain", bare, {}, "auto", "v", "default"),
        ("plain_eps", bare, {}, "auto", "eps", "file name"),
        ("marked_eps", bare, {"v_pred": torch.tensor([])}, "auto", "v", "marker tensor"),
        ("marked", bare, {"eps_pred": torch.tensor([])}, "auto", "eps", "marker tensor"),
        ("told", bare | {"colorize.prediction_type": "v"}, {"eps_pred": torch.tensor([])}, "auto", "v", "metadata"),
        ("told", bare | {"colorize.prediction_type": "v"}, {"eps_pred": torch.tensor([])}, "eps", "eps", "choice"),
    ]
    for name, metadata, extra, asked, expected, source in cases:
        name = save(f"p_{name}.safetensors", metadata, lambda w, extra=extra: w | extra)
        model, _, _, colorizer = load(pack, name, asked)
        assert (prediction(pack, model), colorizer.family.prediction_source) == (expected, source), name


def test_stock_load_checkpoint(pack, save, graph, loaded):
    """The same file through Load Checkpoint: same MODEL, VAE, no CLIP; types and head width come from the markers."""
    name = save("stock.safetensors", None, with_markers)
    model, clip, vae = pack.run("CheckpointLoaderSimple", name)
    assert clip is None and prediction(pack, model) == "v"
    latent = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(vae.decode(latent), loaded.vae.decode(latent))
    ours = graph.run(loaded)
    loaded.model = model
    assert torch.equal(graph.run(loaded), ours)

    name = save("stock_eps.safetensors", None, lambda w: with_markers(w) | {"eps_pred": torch.tensor([])})
    with pytest.raises(ValueError, match="both prediction types"):
        pack.run("CheckpointLoaderSimple", name)


def test_stock_load_diffusion_model(pack, folders, tiny_weights):
    """A bare U-Net is recognised by the head width marker."""
    prefix = "model.diffusion_model."
    weights = {k.removeprefix(prefix): v for k, v in tiny_weights.items() if k.startswith(prefix)}
    save_file(weights | {"colorize.num_head_channels": torch.tensor(32)}, folders.diffusion_models / "unet.safetensors")
    (model,) = pack.run("UNETLoader", "unet.safetensors", "default")
    assert type(model.model).__name__ == "ColorizeModel"


# -- saving and copies -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["v", "eps"])
@pytest.mark.parametrize("metadata", [True, False])
def test_save_checkpoint_round_trip(pack, save, folders, kind, metadata, graph):
    """Core Save Checkpoint writes a file that our loader and the stock one read again, with and without metadata."""
    import comfy.sd

    name = save("to_save.safetensors", {"colorize.num_head_channels": "32", "colorize.prediction_type": kind})
    first = load(pack, name)
    path = folders.checkpoints / "saved.safetensors"
    comfy.sd.save_checkpoint(
        str(path),
        first[0],
        vae=first[1],
        metadata={"modelspec.predict_key": {"v": "v", "eps": "epsilon"}[kind]} if metadata else {},
    )
    again = load(pack, path.name)
    stock = pack.run("CheckpointLoaderSimple", path.name)
    for model in (again[0], stock[0]):
        assert prediction(pack, model) == kind
        assert model.model.model_config.unet_config["num_head_channels"] == 32
        assert torch.equal(weight_of(model), weight_of(first[0]))
    for key, value in first[2].encoder.state_dict().items():
        assert torch.equal(again[2].encoder.state_dict()[key], value)
    saved, original = load_file(path), load_file(folders.checkpoints / name)
    assert set(original) <= set(saved)
    assert set(saved) - set(original) == {"v_pred" if kind == "v" else "eps_pred", "colorize.num_head_channels"}


def test_fresh_copies_from_the_file(loaded):
    """torch.compile and other devices ask for copies with their own weights."""
    if not hasattr(loaded.model, "deepclone_multigpu"):
        pytest.skip("this ComfyUI makes no copies for other devices (0.21 does not)")
    copy = loaded.model.deepclone_multigpu()
    assert copy.model is not loaded.model.model
    assert torch.equal(weight_of(copy), weight_of(loaded.model))
    factory, arguments = loaded.model.cached_patcher_init
    assert type(factory(*arguments, disable_dynamic=True)).__name__ == "ModelPatcher"
    factory, arguments = loaded.vae.patcher.cached_patcher_init
    assert factory(*arguments).model is not loaded.vae.first_stage_model


# -- broken files ------------------------------------------------------------------------------------------------------


class Surprise:
    def __reduce__(self):
        return (print, ("code from a checkpoint ran",))


def test_pickles_run_no_code(pack, folders, capsys):
    for name, writer in (("evil.ckpt", torch.save), ("evil.pt", lambda x, p: p.write_bytes(pickle.dumps(x)))):
        writer({"state_dict": Surprise()}, folders.checkpoints / name)
        with pytest.raises(ValueError, match=f"'{name}' holds Python objects.*safetensors version"):
            load(pack, name)
    assert "ran" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("short.safetensors", None),
        ("garbage.safetensors", b"this is no checkpoint at all"),
        ("garbage.ckpt", b"this is no checkpoint at all"),
        ("cut.ckpt", None),
    ],
)
def test_damaged_files(pack, folders, save, name, content):
    if content is None:
        save(name, tiny.METADATA)
        content = (folders.checkpoints / name).read_bytes()[:200_000]
    (folders.checkpoints / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"'{name}' cannot be read.*download it again"):
        load(pack, name)


def test_web_page_instead_of_a_file(pack, folders):
    for name in ("page.pt", "page.safetensors"):
        (folders.checkpoints / name).write_bytes(b"\n<!DOCTYPE html><html>Please log in</html>")
        with pytest.raises(ValueError, match=f"'{name}' is a web page.*in the browser"):
            load(pack, name)


def test_empty_and_wrong_contents(pack, folders):
    (folders.checkpoints / "empty.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="'empty.safetensors' is empty.*download it again"):
        load(pack, "empty.safetensors")
    torch.save([1, 2], folders.checkpoints / "list.pt")
    with pytest.raises(ValueError, match="not named tensors|cannot be read"):
        load(pack, "list.pt")
    torch.save({"lr": 0.1, "step": 5}, folders.checkpoints / "numbers.pt")
    with pytest.raises(ValueError, match="holds no tensors"):
        load(pack, "numbers.pt")
    with pytest.raises(Exception, match="nowhere.safetensors"):
        load(pack, "nowhere.safetensors")


def test_nan_weights(pack, save):
    key = "model.diffusion_model.out.2.weight"
    name = save("nan.safetensors", tiny.METADATA, lambda w: w | {key: w[key] * torch.nan})
    with pytest.raises(ValueError, match="'nan.safetensors' has NaN.*out.2.weight.*download it again"):
        load(pack, name)


def test_missing_unet_tensors(pack, save):
    """Half a U-Net is not run, neither by our loader nor by the stock one."""

    def change(weights):
        weights = with_markers(weights)
        del weights["model.diffusion_model.output_blocks.5.1.proj_out.bias"]
        return weights

    name = save("half.safetensors", tiny.METADATA, change)
    for node in ("ColorizeLoadCheckpoint", "CheckpointLoaderSimple"):
        with pytest.raises(ValueError, match="1 of .* U-Net tensors are missing.*output_blocks.5.1.proj_out.bias"):
            pack.run(node, name)


def test_other_layouts(pack, save):
    """Something else with a sketch encoder of the right names: said clearly, not run."""

    def linear(weights):
        return {k: v[:, :, 0, 0] if "proj_in.weight" in k else v for k, v in weights.items()}

    with pytest.raises(ValueError, match="another layout than ColorizeDiffusion v1"):
        load(pack, save("linear.safetensors", tiny.METADATA, linear))
    with pytest.raises(ValueError, match="incomplete v2 checkpoint: it has no warp modules and no style modules"):
        load(
            pack,
            save(
                "two.safetensors",
                tiny.METADATA,
                lambda w: w | {f"{part}_encoder.zero_layers.0.weight": torch.ones(2) for part in ("bg", "style")},
            ),
        )


def test_loader_leaves_no_second_copy(pack, tiny_file):
    """What stays in memory beside MODEL, VAE and sketch encoder is the mapped file's sketch encoder only."""
    model, *_ = load(pack, tiny_file)
    assert set(model.model.companions) and all(k.startswith("control_encoder.") for k in model.model.companions)
