"""Tiny models inside ComfyUI."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from tests import tiny, tiny_xl


@pytest.fixture(scope="session")
def folders(pack) -> SimpleNamespace:
    """The model folders of this run's ComfyUI, ready to put files in."""
    out = SimpleNamespace()
    for kind in ("checkpoints", "clip_vision", "loras", "diffusion_models"):
        folder = Path(pack.base) / "models" / kind
        folder.mkdir(parents=True, exist_ok=True)
        setattr(out, kind, folder)
    return out


@pytest.fixture(scope="session")
def tiny_weights() -> dict[str, torch.Tensor]:
    """State dict of the tiny checkpoint. Do not change it."""
    return tiny.checkpoint()


@pytest.fixture(scope="session")
def tiny_file(folders, tiny_weights) -> str:
    """Name of the tiny v checkpoint with metadata, in models/checkpoints."""
    save_file(tiny_weights, folders.checkpoints / "tiny.safetensors", metadata=tiny.METADATA)
    return "tiny.safetensors"


@pytest.fixture(scope="session")
def encoder(pack, folders):
    """The tiny REFERENCE_ENCODER, loaded from a file."""
    weights = tiny.prefixed("visual.", tiny.reference_encoder().visual.state_dict())
    save_file(weights, folders.clip_vision / "tiny_vision.safetensors", metadata={"colorize.head_width": "16"})
    return pack.run("ColorizeLoadReferenceEncoder", encoder_name="tiny_vision.safetensors")[0]


@pytest.fixture
def loaded(pack, tiny_file) -> SimpleNamespace:
    """model, vae, control_net, colorizer, fresh from the tiny checkpoint."""
    return _loaded(pack, tiny_file)


@pytest.fixture
def graph(pack, encoder):
    return Graph(pack, encoder)


@pytest.fixture(scope="session")
def regions_file(folders) -> str:
    """Name of the tiny v1.5 checkpoint: the tiny v1 checkpoint with the v1.5 parts."""
    save_file(tiny.checkpoint_v1_5(), folders.checkpoints / "tiny_v1_5.safetensors", metadata=tiny.METADATA_V1_5)
    return "tiny_v1_5.safetensors"


@pytest.fixture
def loaded_v1_5(pack, regions_file) -> SimpleNamespace:
    """model, vae, control_net, colorizer, fresh from the tiny v1.5 checkpoint."""
    return _loaded(pack, regions_file)


@pytest.fixture(scope="session")
def v2_file(folders) -> str:
    """Name of the tiny v2 checkpoint; what it shares with v1 is the tiny v1 checkpoint's."""
    save_file(tiny.checkpoint_v2(), folders.checkpoints / "tiny_v2.safetensors", metadata=tiny.METADATA_V2)
    return "tiny_v2.safetensors"


@pytest.fixture
def loaded_v2(pack, v2_file) -> SimpleNamespace:
    """model, vae, control_net, colorizer, fresh from the tiny v2 checkpoint."""
    return _loaded(pack, v2_file)


@pytest.fixture(scope="session")
def xl_file(folders) -> str:
    """Name of the tiny XL checkpoint."""
    save_file(tiny_xl.checkpoint(), folders.checkpoints / "tiny_xl.safetensors", metadata=tiny_xl.METADATA)
    return "tiny_xl.safetensors"


@pytest.fixture(scope="session")
def plugin_file(folders) -> str:
    """Name of the tiny XL checkpoint with background plugin; its other weights are those of `xl_file`."""
    save_file(tiny_xl.checkpoint_plugin(), folders.checkpoints / "tiny_xlv2.safetensors", metadata=tiny_xl.METADATA)
    return "tiny_xlv2.safetensors"


@pytest.fixture(scope="session")
def xl_encoder(pack, folders):
    """The REFERENCE_ENCODER that fits the tiny XL files."""
    weights = tiny.prefixed("visual.", tiny.reference_encoder(tiny_xl.CLIP_WIDTH).visual.state_dict())
    save_file(weights, folders.clip_vision / "tiny_xl_vision.safetensors", metadata={"colorize.head_width": "16"})
    return pack.run("ColorizeLoadReferenceEncoder", encoder_name="tiny_xl_vision.safetensors")[0]


@pytest.fixture(scope="session")
def xl_tagger(pack, folders):
    """The tagger that fits them, from models/colorize_taggers."""
    folder = Path(pack.base) / "models" / "colorize_taggers"
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tiny_xl.tagger_weights(), folder / "tiny_tagger.safetensors", metadata=tiny_xl.TAGGER_METADATA)
    (folder / "tiny_tagger.csv").write_text(tiny_xl.tag_list(), encoding="utf-8")
    return pack.run("ColorizeLoadTagger", tagger_name="tiny_tagger.safetensors")[0]


def _loaded(pack, name) -> SimpleNamespace:
    names = ("model", "vae", "control_net", "colorizer")
    return SimpleNamespace(**dict(zip(names, pack.run("ColorizeLoadCheckpoint", ckpt_name=name), strict=True)))


@pytest.fixture
def loaded_xl(pack, xl_file) -> SimpleNamespace:
    """model, vae, control_net, colorizer, fresh from the tiny XL checkpoint."""
    return _loaded(pack, xl_file)


@pytest.fixture
def loaded_plugin(pack, plugin_file) -> SimpleNamespace:
    """The same of the tiny XL checkpoint with background plugin."""
    return _loaded(pack, plugin_file)


@pytest.fixture
def xl_graph(pack, xl_encoder, xl_tagger):
    return Graph(pack, xl_encoder, xl_tagger)


class Graph:
    """The standard graph, in steps: a test changes what it is about."""

    def __init__(self, pack, encoder, tagger=None):
        self.pack, self.encoder, self.tagger = pack, encoder, tagger

    def reference(self, batch: int = 1, seed: int = 1, **encode):
        """A REFERENCE; `encode`: further inputs of Encode Reference."""
        generator = torch.Generator().manual_seed(seed)
        image = torch.rand(batch, 40, 30, 3, generator=generator)
        inputs = {"encoder": self.encoder, "image": image, "tagger": self.tagger} | encode
        return self.pack.run("ColorizeEncodeReference", **inputs)[0]

    def sketch(self, batch: int = 1, size: int = 64, seed: int = 0):
        image = tiny.drawing(size, size, batch, seed)
        return self.pack.run("ColorizePrepareSketch", image=image, width=size, height=size)

    def conditioned(
        self, loaded, reference=None, sketch=None, sketch_strength=1.0, start=0.0, end=1.0, control_net=None, **apply
    ):
        """(MODEL, positive, negative) with the sketch applied; `apply`: further inputs of Apply Reference.

        sketch_strength, start, end: of the sketch.
        """
        model, positive, negative = self.pack.run(
            "ColorizeApplyReference",
            model=loaded.model,
            colorizer=loaded.colorizer,
            reference=reference or self.reference(),
            **apply,
        )
        positive, negative = self.pack.run(
            "ControlNetApplyAdvanced",
            positive,
            negative,
            control_net or loaded.control_net,
            self.sketch()[0] if sketch is None else sketch,
            sketch_strength,
            start,
            end,
        )
        return model, positive, negative

    def sample(
        self, model, positive, negative, batch=1, size=64, seed=5, steps=2, cfg=2.0, sampler="euler",
        scheduler="normal", latent=None,
    ):  # fmt: skip
        """Latent (B, 4, size/8, size/8) of the core KSampler."""
        latent = latent or {"samples": torch.zeros(batch, 4, size // 8, size // 8)}
        with torch.inference_mode():  # as in ComfyUI's execution
            out = self.pack.run("KSampler", model, seed, steps, cfg, sampler, scheduler, positive, negative, latent)[0]
        return out["samples"].clone()

    def run(self, loaded, **kwargs):
        """The whole graph with default settings."""
        return self.sample(*self.conditioned(loaded), **kwargs)


@pytest.fixture
def find(pack):
    """find(state_dict, prefix) -> name of the class ComfyUI picks, or None."""
    import comfy.model_detection

    def run(state_dict, prefix="model.diffusion_model."):
        config = comfy.model_detection.model_config_from_unet(state_dict, prefix)
        return None if config is None else type(config).__name__

    return run


@pytest.fixture
def fresh_compiler():
    """torch.compile keeps traces per code object: under ComfyUI's weaker guards one of another test may fit."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def compiled(fresh_compiler):
    """compiled(model) -> a copy whose network runs through torch.compile (eager), with the guards ComfyUI sets."""
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    def run(model):
        model = model.clone(disable_dynamic=True)
        set_torch_compile_wrapper(
            model=model,
            backend="eager",
            options={"guard_filter_fn": lambda e: ["transformer_options" not in g.name for g in e]},
        )
        return model

    return run


@pytest.fixture
def plainly(pack, monkeypatch):
    """plainly(graph, ...) samples as graph.sample does, every step and row computing everything anew."""

    def run(graph, *arguments, **inputs):
        with monkeypatch.context() as patch:
            patch.setattr(pack.module("model_patches.model.model"), "may_share", lambda *given: False)
            return graph.sample(*arguments, **inputs)

    return run
