"""`python -m trainer cache`: the store, its keys, and runs that read it instead of encoding."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from colorize import names
from spread.crew import ALONE, Crew
from tests.training_log import losses
from trainer import config as configuration
from trainer.__main__ import main
from trainer.cache import recipes
from trainer.cache.encodings import CachedParts, TensorCache
from trainer.cache.store import Store, StoreWriter, digest, store_folder
from trainer.commands import cache
from trainer.config import ConfigError
from trainer.draws import Draws
from trainer.models import autoencoder
from trainer.models.frozen import FrozenAutoencoder, FrozenReferenceEncoder, OnDemand, borrowed
from trainer.run import loop
from trainer.run.datasets import build_dataset
from trainer.stages import table
from trainer.workers import Team

RECIPE = {"kind": "latents", "version": 1}


def key(number: int) -> bytes:
    return digest(str(number).encode())


# -- the store ---------------------------------------------------------------------------------------------------------


def test_rows_come_back_from_several_shards_and_sizes(tmp_path):
    rows = {key(n): torch.randn(4, 2, 2 + n % 2) for n in range(20)}
    with StoreWriter(tmp_path, RECIPE, shard_bytes=200) as writer:
        for name, row in rows.items():
            writer.add(name, row)
    store = Store(store_folder(tmp_path, RECIPE))
    assert len(store) == 20 and len(list(store.folder.glob("rows-*.safetensors"))) > 2
    assert all(torch.equal(store.get(name), row) for name, row in rows.items())
    assert store.get(key(99)) is None and key(99) not in store
    copied = pickle.loads(pickle.dumps(store))  # to a loader process
    assert torch.equal(copied.get(key(7)), rows[key(7)])


def test_keys_that_start_alike_are_told_apart(tmp_path):
    alike = [bytes(8) + bytes([n] * 8) for n in range(5)]
    with StoreWriter(tmp_path, RECIPE) as writer:
        for n, name in enumerate(alike):
            writer.add(name, torch.full((2,), float(n)))
    store = Store(store_folder(tmp_path, RECIPE))
    assert [store.get(name)[0].item() for name in alike] == [0, 1, 2, 3, 4]
    assert store.get(bytes(8) + bytes([9] * 8)) is None


def test_an_interrupted_writer_keeps_what_it_has_and_goes_on(tmp_path):
    with pytest.raises(KeyboardInterrupt), StoreWriter(tmp_path, RECIPE) as writer:
        writer.add(key(1), torch.ones(3))
        raise KeyboardInterrupt
    with StoreWriter(tmp_path, RECIPE) as writer:
        assert key(1) in writer and key(2) not in writer
        writer.add(key(1), torch.zeros(3))  # there already: left as it is
        writer.add(key(2), torch.zeros(3))
    store = Store(store_folder(tmp_path, RECIPE))
    assert len(store) == 2 and store.get(key(1)).sum() == 3
    assert not list(store.folder.glob("*.part"))


def test_bf16_rows_take_half_the_space(tmp_path):
    with StoreWriter(tmp_path, RECIPE, torch.bfloat16) as writer:
        writer.add(key(1), torch.tensor([1.0, 1.001]))
    row = Store(store_folder(tmp_path, RECIPE)).get(key(1))
    assert row.dtype == torch.bfloat16 and row.tolist() == [1.0, 1.0]


def test_a_damaged_shard_is_named_with_what_to_do(tmp_path):
    with StoreWriter(tmp_path, RECIPE) as writer:
        writer.add(key(1), torch.ones(300))
    shard = next(store_folder(tmp_path, RECIPE).glob("rows-*"))
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(ConfigError, match=f"{shard.name}.*delete this file"):
        Store(shard.parent)


def test_digest_keeps_its_parts_apart():
    assert digest(b"ab", b"c") != digest(b"a", b"bc") != digest(b"abc")


# -- keys --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def cached(values, tmp_path, monkeypatch) -> dict:
    """Configuration of a v1 run whose references are other poses, with a cache folder."""
    values["run"]["steps"] = 4
    values["report"] |= {"log_every": 1, "save_every": 100}
    values["data"] |= {"cache_folder": str(tmp_path / "cache")}
    return values


def test_an_autoencoder_has_one_hash_wherever_it_lies(frozen, tmp_path):
    tensors = load_file(frozen["vae"])
    inside = {names.VAE + name: value for name, value in tensors.items()}
    save_file(inside | {"model.other": torch.ones(2)}, tmp_path / "model.safetensors")
    alone = recipes.autoencoder_digest(frozen["vae"])
    assert recipes.autoencoder_digest(str(tmp_path / "model.safetensors")) == alone
    torch.save(tensors, tmp_path / "model.ckpt")
    assert recipes.autoencoder_digest(str(tmp_path / "model.ckpt")) == alone
    name = next(iter(tensors))
    tensors[name] = tensors[name] + 1e-3
    save_file(tensors, tmp_path / "other.safetensors")
    assert recipes.autoencoder_digest(str(tmp_path / "other.safetensors")) != alone


def test_the_encoders_hash_knows_its_head_width(frozen, tmp_path):
    save_file(load_file(frozen["encoder"]), tmp_path / "e.safetensors", metadata={"colorize.head_width": "8"})
    assert recipes.encoder_digest(frozen["encoder"]) != recipes.encoder_digest(str(tmp_path / "e.safetensors"))


def recipes_of(config):
    return recipes.recipes(config, table.row(config).encodings(config))


def test_every_change_is_another_key_or_store(cached, pictures, tmp_path):
    """File, size and encoder: what a cache must not confuse."""
    copy = Path(shutil.copytree(pictures, tmp_path / "copy"))
    cached["data"]["folder"] = str(copy)

    def state(**data) -> tuple[set, set]:
        config = configuration.build(cached | {"data": cached["data"] | data})
        samples = [build_dataset(config)[position] for position in range(8)]
        keys = {bytes(sample["color_key"].tolist()) for sample in samples}
        return keys, {str(store_folder(tmp_path, recipe)) for recipe in recipes_of(config).values()}

    keys, stores = state()
    assert len(keys) == 8 and state() == (keys, stores)
    assert not state(size=128)[0] & keys
    path = copy / "color" / "00_0.png"
    image = Image.open(path).convert("RGB")
    image.putpixel((5, 5), (1, 2, 3))
    times = path.stat()
    image.save(path)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # the content decides, not the time
    assert len(state()[0] & keys) == 7
    assert not state(cache_values="bf16")[1] & stores
    cached["system"]["precision"] = "bf16"
    assert len(state()[1] & stores) == 1  # tokens are computed in float32 always, latents are not
    for part in ("vae", "encoder"):
        tensors = load_file(cached["model"][part])
        name = next(iter(tensors))
        changed, metadata = tensors | {name: tensors[name] * 1.01}, {"colorize.head_width": "16"}
        save_file(changed, tmp_path / f"{part}.safetensors", metadata)
        cached["model"][part] = str(tmp_path / f"{part}.safetensors")
    assert not state()[1] & stores


# -- runs --------------------------------------------------------------------------------------------------------------


def build_cache(values: dict) -> cache.Summary:
    return cache.build_cache(configuration.build(values), torch.device("cpu"), progress=False)


def without_cache(values: dict) -> dict:
    return values | {"data": {k: v for k, v in values["data"].items() if not k.startswith("cache")}}


def forbid_encoders(monkeypatch) -> None:
    """From now on, reading a frozen network's weights into memory is an error."""
    monkeypatch.setattr(
        OnDemand, "network", property(lambda self: pytest.fail(f"{type(self).__name__} was loaded into memory"))
    )


def test_a_cached_run_has_the_same_losses_to_the_bit_and_no_encoder(cached, tmp_path, monkeypatch):
    plain = losses(without_cache(cached), tmp_path / "plain")
    summary = build_cache(cached)
    assert summary.written == {"latents": 8, "tokens": 8}
    monkeypatch.setattr("trainer.stages.v1.ColorizerStage.export", lambda self, weights: (dict(weights), {}))
    forbid_encoders(monkeypatch)
    assert losses(cached, tmp_path / "cached") == plain and len(plain) == 4


@pytest.fixture
def regions(cached, tmp_path) -> dict:
    """Configuration of a cached v1_5 run with bleaching; its v1 checkpoint is trained for one step."""
    start = without_cache(cached) | {"run": cached["run"] | {"output": str(tmp_path / "v1"), "steps": 1}}
    cached["model"] |= {"init": str(loop.train(configuration.build(start))), "recovery_layers": 2}
    cached["model"].pop("vae")
    cached["run"]["stage"] = "v1_5"
    cached["loss"] = {"background_bleach": 0.5, "reference_drop": 0.3}
    return cached


def test_a_cached_v1_5_run_too_with_bleaching_and_masked_references(regions, tmp_path, monkeypatch):
    plain = losses(without_cache(regions), tmp_path / "plain")
    summary = build_cache(regions)
    assert summary.written == dict.fromkeys(("latents", "white_latents", "tokens", "background_tokens"), 8)
    forbid_encoders(monkeypatch)
    assert losses(regions, tmp_path / "cached") == plain and len(plain) == 4


def test_grey_masks_are_computed_in_every_step(regions, pictures, tmp_path):
    """What depends on the threshold is left out, and only that; the run is the same."""
    copy = Path(shutil.copytree(pictures, tmp_path / "grey"))
    mask = Image.open(copy / "mask" / "01_0.png").convert("L")
    mask.putpixel((3, 3), 100)
    mask.save(copy / "mask" / "01_0.png")
    regions["data"]["folder"] = str(copy)
    plain = losses(without_cache(regions), tmp_path / "plain")
    summary = build_cache(regions)
    assert summary.left_out == {"latents": 0, "tokens": 0, "white_latents": 1, "background_tokens": 1}
    assert any("grey masks" in line for line in summary.lines())
    assert losses(regions, tmp_path / "cached") == plain


def test_building_again_adds_what_is_new_only(cached, pictures, tmp_path):
    copy = Path(shutil.copytree(pictures, tmp_path / "copy"))
    cached["data"]["folder"] = str(copy)
    assert build_cache(cached).written == {"latents": 8, "tokens": 8}
    again = build_cache(cached)
    assert again.written == {"latents": 0, "tokens": 0} and again.there == {"latents": 8, "tokens": 8}
    image = Image.open(copy / "color" / "00_0.png").convert("RGB")
    image.putpixel((5, 5), (1, 2, 3))
    image.save(copy / "color" / "00_0.png")
    assert build_cache(cached).written == {"latents": 1, "tokens": 1}


def test_what_is_missing_is_computed_and_said(cached, tmp_path, caplog):
    """A half-built cache: the same losses, with one warning per kind."""
    plain = losses(without_cache(cached), tmp_path / "plain")
    cache.build_cache(configuration.build(cached), torch.device("cpu"), Team(0, 2), progress=False)
    assert losses(cached, tmp_path / "cached") == plain
    assert sum("computed as they come" in record.message for record in caplog.records) == 2


def test_two_of_a_team_make_the_whole(cached):
    config = configuration.build(cached)
    for index in (0, 1):
        summary = cache.build_cache(config, torch.device("cpu"), Team(index, 2), progress=False)
        assert summary.written["latents"] == 4
    assert len(TensorCache(config, torch.device("cpu"), ("latents",)).stores["latents"]) == 8


@pytest.mark.slow
def test_processes_write_the_files_of_one(cached, tmp_path):
    config, made = configuration.build(cached), []
    for crew in (ALONE, Crew(2)):
        cache.build_cache(config, torch.device("cpu"), crew=crew, progress=False)
        folder = Path(cached["data"]["cache_folder"])
        made.append({path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*.*"))})
        shutil.rmtree(folder)
    assert made[0] == made[1] and len(made[0]) == 4  # recipe and rows of two kinds


def test_flips_are_kept_both_ways_and_held_out_pictures_too(cached, pictures, tmp_path, monkeypatch):
    cached["augment"] = {"flip": 0.5}
    cached["data"]["holdout"] = str(pictures)
    cached["report"] |= {"validate_every": 2, "validate_count": 2, "validate_bins": 2}
    summary = build_cache(cached)
    assert summary.written == {"latents": 16, "tokens": 16} and summary.there == {"latents": 16, "tokens": 16}
    monkeypatch.setattr("trainer.stages.v1.ColorizerStage.export", lambda self, weights: (dict(weights), {}))
    forbid_encoders(monkeypatch)
    losses(cached, tmp_path / "cached")


def test_bent_references_keep_only_their_latents(cached, tmp_path):
    cached["data"] |= {"reference": "self", "deform": 0.5}
    plain = losses(without_cache(cached), tmp_path / "plain")
    assert build_cache(cached).written == {"latents": 8}
    assert losses(cached, tmp_path / "cached") == plain


def test_a_sheet_shows_the_pictures_and_lets_the_encoders_go(cached, tmp_path):
    """The data set does not decode what is in the cache, but a sheet is to be looked at."""
    cached["report"]["sample_every"] = 4
    sheets = []
    for name, values in (("plain", without_cache(cached)), ("cached", cached)):
        if name == "cached":
            build_cache(cached)
        losses(values, tmp_path / name)
        sheets.append(Image.open(tmp_path / name / "samples" / "step-00000004.png").tobytes())
    assert sheets[0] == sheets[1]


def test_pictures_in_the_cache_are_not_decoded(cached):
    config = configuration.build(cached)
    assert build_dataset(config)[0]["color"].any()
    build_cache(cached)
    dataset = build_dataset(config)
    sample, whole = dataset[0], dataset.whole()[0]
    assert not sample["color"].any() and not sample["reference"].any() and sample["sketch"].any()
    assert whole["color"].any() and torch.equal(whole["color_key"], sample["color_key"])
    keys = {part: bytes(sample[f"{part}_key"].tolist()) for part in ("color", "reference")}
    kinds = table.row(config).encodings(config)
    parts = pickle.loads(pickle.dumps(CachedParts(config, kinds)))  # as it reaches a loader process
    assert parts.encoded(keys) == {"color", "reference"} and parts.whole().encoded(keys) == set()
    assert parts.encoded(keys | {"color": bytes(16)}) == {"reference"}


def test_mask_changes_and_other_stages_and_wrong_combinations(cached):
    with pytest.raises(ConfigError, match="augment.zoom"):
        configuration.build(cached | {"augment": {"zoom": 1.1}})
    with pytest.raises(ConfigError, match="bucket_order"):
        configuration.build(cached | {"data": cached["data"] | {"bucket_step": 64, "bucket_order": "released"}})
    with pytest.raises(ConfigError, match="not to vae"):
        table.checked(configuration.build(cached | {"run": cached["run"] | {"stage": "vae"}}))
    cached["run"]["stage"], cached["model"]["init"], cached["loss"] = "v1_5", "x.safetensors", {}
    config = configuration.build(cached | {"augment": {"mask_dilation": 21}})
    kinds = table.row(config).encodings(config)
    assert kinds == ("latents", "tokens")  # a mask that changes has no constant background


def test_command(cached, write_toml, capsys):
    folder = cached["data"].pop("cache_folder")
    assert main(["cache", "--config", write_toml(cached)]) == 2
    assert "data.cache_folder is empty" in capsys.readouterr().err
    assert main(["cache", "--config", write_toml(cached), "--data.cache_folder", folder]) == 0
    assert "8 new" in capsys.readouterr().out
    written = json.loads(next(Path(folder).glob("latents-*/recipe.json")).read_text())
    assert written["precision"] == "fp32" and not any("/" in str(value) for value in written.values())


# -- the parts ---------------------------------------------------------------------------------------------------------


def test_latents_are_means_or_samples_of_the_moments():
    moments = torch.randn(2, 8, 3, 3)
    mean, log_variance = moments[:, :4], moments[:, 4:]
    assert torch.equal(autoencoder.latents_of(moments, 4), mean * autoencoder.SCALE)
    noise = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(3))
    drawn = autoencoder.latents_of(moments, 4, Draws.plain(3))
    expected = (mean + torch.sqrt(torch.exp(log_variance)) * noise) * autoencoder.SCALE
    assert torch.allclose(drawn, expected, atol=1e-6)
    assert torch.equal(autoencoder.latents_of(mean, 4, Draws.plain(0)), mean * autoencoder.SCALE)  # no variances


def test_frozen_encoders_answer_as_the_files_do(frozen):
    device = torch.device("cpu")
    vae, encoder = (
        FrozenAutoencoder(frozen["vae"], device, True),
        FrozenReferenceEncoder(frozen["encoder"], device, False),
    )
    assert not vae.loaded and not encoder.loaded
    assert (encoder.output_dim, encoder.token_count) == (32, 5)  # known from the header
    pictures = torch.rand(1, 3, 16, 16) * 2 - 1
    with borrowed(vae, encoder):
        assert torch.allclose(vae.encode(pictures), autoencoder.load(frozen["vae"]).encode(pictures), atol=1e-6)
        assert encoder.encode(pictures).shape == (1, 5, 32)
        assert vae.loaded and encoder.loaded
    assert not vae.loaded and not encoder.loaded
    assert vae.network is vae.network  # read once
    with borrowed(vae):
        pass
    assert vae.loaded  # it was there before


def test_a_broken_encoder_file_is_named(tmp_path):
    path = tmp_path / "vae.safetensors"
    path.write_bytes(b"not a file of tensors")
    with pytest.raises(ConfigError, match="vae.safetensors is not a whole safetensors file"):
        recipes.autoencoder_digest(str(path))
    with pytest.raises(ConfigError, match="missing.safetensors does not exist"):
        recipes.encoder_digest(str(tmp_path / "missing.safetensors"))
    with pytest.raises(ConfigError, match="vae.safetensors is not a whole safetensors file"):
        FrozenReferenceEncoder(str(path), torch.device("cpu"), False)
