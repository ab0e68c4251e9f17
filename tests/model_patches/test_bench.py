"""`python -m tests.bench unet`: what our network is compared with."""

from __future__ import annotations

import torch


def test_the_stock_network_has_the_weights_of_ours_and_gives_its_answer(pack, loaded, loaded_v1_5):
    """Whatever of a file is ours alone (region weights, the mark of a student) is left out."""
    stock_model = pack.module("tests.bench.run").stock_model
    x, tokens = torch.randn(1, 4, 8, 8), torch.randn(1, 5, loaded.model.model.context_dim)
    for each in (loaded, loaded_v1_5):
        ours = each.model.model
        ours.diffusion_model.float()
        stock = stock_model(ours)
        stock.diffusion_model.float()
        with torch.inference_mode():
            answers = [
                network(x, torch.tensor([600.0]), tokens, transformer_options={})
                for network in (ours.diffusion_model, stock.diffusion_model)
            ]
        assert torch.allclose(*answers, atol=1e-4)
