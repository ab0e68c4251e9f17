"""Stage v1: what its strategies do to the reference."""

import pytest
import torch

from trainer import config as configuration
from trainer.config import ConfigError
from trainer.draws import Draws
from trainer.stages.table import build_stage


@pytest.mark.parametrize("variant", ["tokens", "patches"])
def test_shuffled_patches_change_the_tokens_of_stage_v1(values, variant):
    values["loss"] |= {"latent_shuffle": 1.0, "shuffle_variant": variant, "noisy_reference": 0.0, "reference_drop": 0.0}
    stage = build_stage(configuration.build(values), torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    batch = {
        "color": torch.randint(0, 256, (2, 3, 64, 64), generator=generator).byte(),
        "reference": torch.randint(0, 256, (2, 3, 64, 64), generator=generator).byte(),
    }
    _, tokens = stage.latents_and_tokens(batch, Draws.plain(0))
    plain = stage.tokens_only(batch)
    assert torch.equal(tokens, plain) == (variant == "tokens")
    moved = stage.condition(tokens, torch.tensor([5, 5]), Draws.plain(0))
    assert torch.equal(moved, tokens) == (variant == "patches")  # one of the two, never both


def test_shuffled_patches_and_cached_tokens_do_not_go_together(values):
    values["loss"] |= {"latent_shuffle": 1.0, "shuffle_variant": "patches"}
    values["data"] |= {"cache_folder": "cache"}
    with pytest.raises(ConfigError, match='loss.shuffle_variant = "patches" changes references before the encoder'):
        configuration.build(values)
