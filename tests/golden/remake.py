"""Golden files of our own making: some cases again with other seeds and sizes, computed by the literal transcriptions.

They show that the runner reads sizes from the files, and they keep a part of the golden layer alive where the recorded
files are not at hand.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.literal import training as literal_training
from tests.literal import unet as literal_unet
from tests.literal.sketch_encoder import sketch_encoder
from tests.literal.vision import normalised, tower
from tests.literal.weights import Weights

from . import weights as recipes

TOLERANCE = {"atol": 5e-5, "rtol": 1e-4}


def write(path: Path, config: dict, tensors: dict[str, torch.Tensor], **metadata: str) -> None:
    """Save one file; `tensors` carry their group in the name (`inputs.x`)."""
    tensors = {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}
    save_file(tensors, path, metadata={"config": json.dumps(config), **metadata})


def grouped(group: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{group}.{name}": tensor for name, tensor in tensors.items()}


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def unet(folder: Path, seed: int = 5) -> None:
    """`unet_v1` with wider deep levels, heads of 8 channels, a batch of 3, an upright latent; weights in two shards."""
    sizes = dict(model_channels=32, channel_mult=(1, 2, 1, 3), num_head_channels=8)
    constructor = {
        **sizes,
        "in_channels": 4,
        "out_channels": 4,
        "channel_mult": list(sizes["channel_mult"]),
        "attention_resolutions": [4, 2, 1],
        "num_res_blocks": 2,
        "context_dim": 24,
    }
    x, context = normal(seed, 3, 4, 16, 8), normal(seed + 1, 3, 5, 24)
    control = [
        normal(seed + 2 + k, 3, 32 * mult, 16 // 2**down, 8 // 2**down)
        for k, (mult, down) in enumerate(((1, 0), (1, 1), (2, 2), (1, 3), (3, 3)))
    ]
    runs = {"early": [950, 12, 333.25], "zero_context": [500, 500, 500]}
    weights = Weights(seed=seed)
    outputs = {}
    for run, timesteps in runs.items():
        tokens = torch.zeros_like(context) if run == "zero_context" else context
        outputs[run] = literal_unet.unet(weights, x, torch.tensor(timesteps), tokens, control, **sizes)
    probes = dict.fromkeys(("input_blocks.6", "middle_block", "output_blocks.11"))
    literal_unet.unet(weights, x, torch.tensor(runs["early"]), context, control, probes=probes, **sizes)
    outputs.update(grouped("probe", probes))

    names = sorted(weights.tensors)
    shards = {"unet_v1.weights1.safetensors": names[::2], "unet_v1.weights2.safetensors": names[1::2]}
    for shard, keys in shards.items():
        write(folder / shard, {}, {f"weights.{key}": weights.tensors[key] for key in keys})
    config = {
        "case": "unet_v1",
        "weights_files": list(shards),
        "constructor": constructor,
        "runs": {**{run: {"timesteps": t} for run, t in runs.items()}, "probe.*": {"timesteps": runs["early"]}},
        "suggested_tol": TOLERANCE,
    }
    inputs = {"x": x, "context": context, **{f"control.{i}": c for i, c in enumerate(control)}}
    write(folder / "unet_v1.safetensors", config, {**grouped("inputs", inputs), **grouped("outputs", outputs)})


def multi_encoder(folder: Path, seed: int = 6) -> None:
    """`multi_encoder` with three different widths on an oblong sketch; weights rebuilt from names and a seed."""
    sizes = dict(widths=(32, 96, 64, 128), model_channels=64)
    shapes = Weights(device="meta")
    sketch_encoder(shapes, torch.empty(1, 3, 64, 64, device="meta"), **sizes)
    weights = Weights(recipes.stream_weights(shapes.shapes(), seed))
    sketch = normal(seed, 1, 3, 64, 128).tanh()
    maps = sketch_encoder(weights, sketch, **sizes)
    total = sum(tensor.double().sum().item() for tensor in weights.tensors.values())
    absolute = sum(tensor.double().abs().sum().item() for tensor in weights.tensors.values())
    count = sum(tensor.numel() for tensor in weights.tensors.values())
    config = {
        "case": "multi_encoder",
        "weights": {
            "kind": "procedural",
            "seed": seed,
            "gains": {},
            "check": {"params": count, "sum": total, "abs_sum": absolute},
        },
        "suggested_tol": TOLERANCE,
    }
    tensors = {"inputs.sketch": sketch, **{f"outputs.hint.{i}": m for i, m in enumerate(maps)}}
    write(folder / "multi_encoder.safetensors", config, tensors, weights_shapes=json.dumps(shapes.shapes()))


def clip(folder: Path, seed: int = 7) -> None:
    """`clip_tiny` with another patch, depth and head width; weights by the numbered recipe with its key list."""
    sizes = dict(width=48, layers=3, head_width=12, output_dim=20, patch_size=8)
    shapes = Weights(device="meta")
    tower(shapes, torch.empty(1, 3, 32, 32, device="meta"), **sizes)
    prefix = "visual.model."
    listed = {prefix + key: shape for key, shape in shapes.shapes().items()}
    (folder / "keys").mkdir(exist_ok=True)
    (folder / "keys" / "clip_remade.json").write_text(json.dumps(listed), encoding="utf-8")
    rebuilt = recipes.numbered_weights(listed, 400 + seed, 0.9)
    first = torch.tensor([rebuilt[key].double().flatten()[0] for key in sorted(rebuilt)], dtype=torch.float64)
    sums = torch.tensor([rebuilt[key].double().sum() for key in sorted(rebuilt)], dtype=torch.float64)
    recipes.apply_extra(rebuilt, f"add 0.5 to {prefix}ln_post.bias after the recipe")
    weights = Weights({key.removeprefix(prefix): value for key, value in rebuilt.items()})
    image = normal(seed, 3, 3, 32, 32).tanh()  # of the encoder's size, so nothing is resampled
    pixels = normalised(image)
    tokens = tower(weights, pixels, **sizes)
    config = {
        "case": "clip_tiny",
        "official_key_prefix": "cond_stage_model.",
        "constructor": {"vision": {"head_width": 12}},
        "weights": {
            "kind": "recipe",
            "base_seed": 400 + seed,
            "gain": 0.9,
            "keys": "keys/clip_remade.json",
            "extra": f"add 0.5 to {prefix}ln_post.bias after the recipe",
        },
        "suggested_tol": TOLERANCE,
    }
    outputs = {"pixels": pixels, "full": tokens, "cls": tokens[:, :1], "local": tokens[:, 1:]}
    outputs |= {"recipe_first": first, "recipe_sum": sums}
    write(folder / "clip_tiny.safetensors", config, {"inputs.image": image, **grouped("outputs", outputs)})


def training_losses(folder: Path, seed: int = 8) -> None:
    """`training_losses` with a batch of 3 and another gamma, number by number."""
    shape = (3, 4, 2, 3)
    t = [3, 640, 999]
    x0, noise, answer = (normal(seed + k, *shape) for k in range(3))
    mask = (normal(seed + 3, 3, 1, 2, 3) > 0).float()
    flat = [tensor.flatten(1).double().tolist() for tensor in (answer, x0, noise)]
    flat_mask = mask.expand(shape).flatten(1).tolist()
    table = literal_training.alphas_cumprod()
    runs, outputs = {}, {}
    for prediction in ("eps", "v"):
        for kind, extra in (("plain", {}), ("snr2", {"snr_gamma": 2.0}), ("masked", {"masked_loss": True})):
            run = f"{prediction}.{kind}"
            runs[run] = {"parameterization": prediction, **extra}
            value = literal_training.loss(
                *flat, t, prediction, extra.get("snr_gamma", 0.0), flat_mask if kind == "masked" else None
            )
            outputs[f"{run}.loss"] = torch.tensor(value, dtype=torch.float32)
        weights = [literal_training.min_snr(table[step], 2.0, prediction) for step in t]
        outputs[f"weights.{prediction}.gamma2"] = torch.tensor(weights)
    config = {"case": "training_losses", "runs": runs, "suggested_tol": {"atol": 1e-5, "rtol": 1e-5}}
    inputs = {"x_start": x0, "noise": noise, "model_output": answer, "loss_mask": mask, "t": torch.tensor(t)}
    write(folder / "training_losses.safetensors", config, {**grouped("inputs", inputs), **grouped("outputs", outputs)})


def cfg(folder: Path, seed: int = 9) -> None:
    """`cfg` for one eps run with a batch of 1 and another scale; only some of the recorded case's outputs."""
    x, rows, sigma = normal(seed, 1, 4, 3, 2) * 5, normal(seed + 1, 3, 4, 3, 2), 3.75
    denoised = [x - sigma * row for row in rows[:, None]]
    outputs = {
        "eps.single_7": denoised[1] + 7 * (denoised[0] - denoised[1]),
        "model_input": (x / (1 + sigma**2) ** 0.5).repeat(3, 1, 1, 1),
        "model_t": torch.full((3,), literal_training.sigma_to_t(sigma)),
    }
    config = {
        "case": "cfg",
        "runs": {"eps.single_7": {"parameterization": "eps", "cond_scale": 7.0}},
        "suggested_tol": {"atol": 1e-4, "rtol": 1e-5},
    }
    inputs = {"x": x, "sigma": torch.tensor([sigma]), "model_outputs": rows}
    write(folder / "cfg.safetensors", config, {**grouped("inputs", inputs), **grouped("outputs", outputs)})


def everything(folder: Path) -> None:
    """All remade cases."""
    for make in (unet, multi_encoder, clip, training_losses, cfg):
        make(folder)
