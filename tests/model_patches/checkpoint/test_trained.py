"""What the trainer writes, the nodes load: same networks, same numbers."""

import pytest
import torch
from safetensors.torch import save_file

from colorize.sampling.schedule import NoiseSchedule
from colorize.tiny_vae import TinyVAE
from tests import tiny
from trainer import config as configuration
from trainer.models import checkpoint
from trainer.models.colorizer import V1Colorizer
from trainer.stages.table import build_stage


@pytest.fixture(scope="module", params=["v", "eps"])
def trained(request, folders, tmp_path_factory):
    """Names of an exported checkpoint and its encoder in ComfyUI's folders, and the prediction type."""
    folder = tmp_path_factory.mktemp("trained")
    save_file(tiny.randomised(TinyVAE()), folder / "vae.safetensors")
    tower = tiny.prefixed("visual.", tiny.reference_encoder().visual.state_dict())
    encoder = folders.clip_vision / "trained_vision.safetensors"
    save_file(tower, encoder, metadata={"colorize.head_width": "16"})
    sizes = {"model_channels": 64, "channel_mult": [1, 1, 1, 2], "num_head_channels": 32}
    config = configuration.build(
        {
            "run": {"output": str(folder / "run")},
            "model": {
                "vae": str(folder / "vae.safetensors"),
                "encoder": str(encoder),
                "prediction_type": request.param,
                **sizes,
            },
            "data": {"folder": "unused", "size": 64},
        }
    )
    stage = build_stage(config, torch.device("cpu"))
    tensors, metadata = stage.export(tiny.randomised(stage))
    file = folders.checkpoints / f"trained_{request.param}.safetensors"
    checkpoint.write_tensors(file, tensors, metadata)
    return file, encoder, request.param


def test_nodes_and_trainer_compute_the_same(pack, trained):
    """Reference tokens, sketch features, denoised latent and decoded picture agree."""
    file, encoder, prediction = trained
    ours = V1Colorizer.from_files(str(file), str(encoder), torch.device("cpu"))
    assert ours.prediction_type == prediction
    model, vae, control, colorizer = pack.run("ColorizeLoadCheckpoint", ckpt_name=file.name)
    assert (colorizer.family.prediction_type, colorizer.family.prediction_source) == (prediction, "metadata")
    loaded = pack.run("ColorizeLoadReferenceEncoder", encoder_name=encoder.name)[0]
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 40, 30, 3, generator=generator)
    reference = pack.run("ColorizeEncodeReference", encoder=loaded, image=image)[0]
    tokens = ours.tokens(image.movedim(-1, 1) * 2 - 1)
    assert torch.allclose(reference.local_tokens, tokens, atol=1e-5)

    sketch = pack.run("ColorizePrepareSketch", image=tiny.drawing(64, 64, 1, 0), width=64, height=64)[0]
    features = ours.sketch_encoder(sketch.movedim(-1, 1) * 2 - 1)
    hinted = control.copy().set_cond_hint(sketch.movedim(-1, 1))
    for theirs, feature in zip(hinted.features(64, 64, torch.device("cpu")), features, strict=True):
        assert torch.allclose(theirs, feature, atol=1e-5)

    schedule, t = NoiseSchedule(), torch.tensor([500])
    noise = torch.randn(1, 4, 8, 8, generator=generator)
    sigma = schedule.sigmas[t]
    with torch.inference_mode():
        x = noise * sigma  # ComfyUI's latents are scaled by the noise level, the trainer's have unit variance
        entries: list[torch.Tensor | None] = [None] * 12
        for block, feature in zip((0, 3, 6, 9, 11), features, strict=True):
            entries[block] = feature.clone()
        theirs = model.model.apply_model(x, sigma, c_crossattn=tokens, control={"input": entries[::-1]})
        x_t = x / (1 + sigma**2).sqrt()
        answer = ours.unet(x_t, t.float(), tokens, features)
        x0 = schedule.x0_from(answer, x_t, t, prediction)
        assert torch.allclose(theirs, x0, atol=1e-3 * x0.abs().max().item())
        picture = vae.decode(theirs / 0.18215)  # comfy's VAE takes latents as the file's autoencoder makes them
        expected = ((ours.autoencoder.decode(theirs) + 1) / 2).clamp(0, 1).movedim(1, -1)
        assert torch.allclose(picture, expected, atol=1e-3)


def test_stock_loader_reads_the_same_type(pack, trained):
    file, _, prediction = trained
    model = pack.run("CheckpointLoaderSimple", file.name)[0]
    assert type(model.model).__name__ == "ColorizeModel"
    assert model.model.model_type.name == {"v": "V_PREDICTION", "eps": "EPS"}[prediction]


def test_fig2fig_is_the_same_in_nodes_and_trainer(pack, trained, folders, tmp_path):
    """A file of stage v1_5: masked reference, recovered tokens, latent masks and the denoised latent agree."""
    file, encoder, prediction = trained
    config = configuration.build(
        {
            "run": {"stage": "v1_5", "output": str(tmp_path / "regions")},
            "model": {"init": str(file), "encoder": str(encoder), "prediction_type": prediction, "recovery_layers": 2},
            "data": {"folder": "unused", "size": 64},
        }
    )
    stage = build_stage(config, torch.device("cpu"))
    learned = {name for name, parameter in stage.named_parameters() if parameter.requires_grad}
    weights = {name: value for name, value in tiny.randomised(stage, 5).items() if name in learned}
    tensors, metadata = stage.export(weights)
    v1_5 = folders.checkpoints / f"trained_v1_5_{prediction}.safetensors"
    checkpoint.write_tensors(v1_5, tensors, metadata)

    ours = V1Colorizer.from_files(str(v1_5), str(encoder), torch.device("cpu"))
    model, _, _, colorizer = pack.run("ColorizeLoadCheckpoint", ckpt_name=v1_5.name)
    loaded = pack.run("ColorizeLoadReferenceEncoder", encoder_name=encoder.name)[0]
    generator = torch.Generator().manual_seed(0)
    image, figure = torch.rand(1, 40, 30, 3, generator=generator), torch.zeros(1, 40, 30)
    figure[:, 10:30, 5:20] = 1
    drawn = torch.zeros(1, 64, 64)
    drawn[:, 20:, 10:50] = 1
    reference = pack.run("ColorizeEncodeReference", encoder=loaded, image=image, figure_mask=figure)[0]
    _, positive, _ = pack.run(
        "ColorizeApplyReference", model=model, colorizer=colorizer, reference=reference, mode="fig2fig",
        figure_mask=drawn,
    )  # fmt: skip
    pictures = image.movedim(-1, 1) * 2 - 1
    tokens, regions = ours.tokens(pictures), ours.regions("fig2fig", pictures, drawn[:, None], figure[:, None])
    payload = positive[0][1]["colorize"]
    assert torch.allclose(positive[0][0], tokens, atol=1e-5)
    assert torch.allclose(payload.region_tokens[0], regions.background, atol=1e-4)

    schedule, t = NoiseSchedule(), torch.tensor([500])
    noise = torch.randn(1, 4, 8, 8, generator=generator)
    sigma = schedule.sigmas[t]
    with torch.inference_mode():
        x = noise * sigma
        theirs = model.model.apply_model(
            x, sigma, c_crossattn=positive[0][0], colorize_settings=payload.settings,
            colorize_tokens=list(payload.region_tokens), colorize_masks=regions.masks,
        )  # fmt: skip
        x_t = x / (1 + sigma**2).sqrt()
        x0 = schedule.x0_from(ours.unet(x_t, t.float(), None, split=regions.split(tokens)), x_t, t, prediction)
        assert torch.allclose(theirs, x0, atol=1e-3 * x0.abs().max().item())
        plain = schedule.x0_from(ours.unet(x_t, t.float(), tokens), x_t, t, prediction)
        assert not torch.allclose(theirs, plain, atol=1e-2 * x0.abs().max().item())
