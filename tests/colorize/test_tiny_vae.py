"""The tiny autoencoder: sizes, scales, and that ComfyUI's stock VAE reads it."""

from __future__ import annotations

import pytest
import torch

from colorize.tiny_vae import TinyVAE


@torch.no_grad()
def test_sizes_and_scale():
    vae = TinyVAE(width=16)
    picture = torch.rand(2, 3, 32, 24) * 2 - 1
    latent = vae.encode(picture)
    assert latent.shape == (2, 4, 4, 3)
    assert vae.decode(latent).shape == picture.shape
    vae.vae_scale.fill_(0.18215)
    vae.vae_shift.fill_(0.5)
    torch.testing.assert_close(vae.encode(picture), latent / 0.18215 + 0.5, atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.comfyui
def test_stock_vae_reads_it(pack):
    """Names, shapes and numbers are those of the class ComfyUI builds for such files."""
    import comfy.sd

    vae = TinyVAE()
    vae.vae_scale.fill_(0.5)
    stock = comfy.sd.VAE(sd={key: value.clone() for key, value in vae.state_dict().items()})
    theirs, own = stock.first_stage_model.state_dict(), vae.state_dict()
    assert {k: v.shape for k, v in theirs.items()} == {k: v.shape for k, v in own.items()}
    picture = torch.rand(1, 64, 64, 3)
    ours = vae.encode(picture.movedim(-1, 1) * 2 - 1)
    torch.testing.assert_close(stock.encode(picture), ours, atol=1e-4, rtol=1e-4)
    decoded = ((vae.decode(ours) + 1) / 2).clamp(0, 1).movedim(1, -1)
    torch.testing.assert_close(stock.decode(ours), decoded, atol=1e-4, rtol=1e-4)
