"""The colours of sampling previews, fitted again to the bundled autoencoder."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests import tiny

BUNDLED = Path(__file__).parents[3] / "models" / "checkpoints" / "colorize_small.safetensors"


@pytest.fixture(scope="module")
def pictures_and_latents():
    """Held-out pictures and what the bundled autoencoder makes of them, both (pixels, channels)."""
    from trainer.models import autoencoder
    from trainer.world import pose

    if not BUNDLED.is_file():
        pytest.skip("the bundled model was left out")
    drawn = [torch.from_numpy(pose(index, 0, "heldout", 64).picture.copy()) for index in range(20, 26)]
    pictures = torch.stack(drawn).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.inference_mode():
        latents = autoencoder.from_tensors(load_file(BUNDLED), str(BUNDLED)).encode(pictures)
    return tuple(x.movedim(1, -1).flatten(0, 2) for x in (torch.nn.functional.avg_pool2d(pictures, 8), latents))


def error(shown, wanted):
    return (shown - wanted).square().mean().sqrt().item()


def test_factors_of_the_bundled_autoencoder(pack, pictures_and_latents):
    import comfy.latent_formats

    ours = pack.module("model_patches.model.previews").SmallLatents()
    wanted, latents = pictures_and_latents

    def shown(factors, bias=(0.0, 0.0, 0.0)):
        return latents @ torch.tensor(factors) + torch.tensor(bias)

    fitted = torch.linalg.lstsq(torch.cat([latents, torch.ones(len(latents), 1)], 1), wanted).solution
    best = error(shown(fitted[:4].tolist(), fitted[4].tolist()), wanted)
    found = error(shown(ours.latent_rgb_factors, ours.latent_rgb_factors_bias), wanted)
    assert found < 1.3 * best and found < 0.2
    assert found < 0.4 * error(shown(comfy.latent_formats.SD15().latent_rgb_factors), wanted)


def test_only_files_with_that_autoencoder(pack, folders):
    from safetensors.torch import save_file

    load = pack.module("model_patches.checkpoint.loading").load_checkpoint
    assert any(".taesd_decoder." in key for key in tiny.checkpoint())
    path = folders.checkpoints / "previews.safetensors"
    save_file({k: v.contiguous() for k, v in tiny.checkpoint().items()}, path, metadata=tiny.METADATA)
    assert type(load(str(path), "auto")[0].model.latent_format).__name__ == "SmallLatents"
    check = pack.module("model_patches.model.previews").has_small_latents
    assert not check({"first_stage_model.decoder.conv_in.weight": torch.zeros(1)})
