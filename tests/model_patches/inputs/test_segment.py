"""Files of segmenters and taggers: folders, layouts, damage, .onnx with and without onnxruntime, managed memory."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.tiny import prefixed, randomised

CSV = "tag_id,name,category,count\n" + "".join(f"{i},tag_{i},{9 if i < 2 else 0},5\n" for i in range(6))


@pytest.fixture(scope="module")
def model_folders(pack):
    found = SimpleNamespace()
    for kind in ("background_removal", "colorize_taggers"):
        folder = Path(pack.base) / "models" / kind
        folder.mkdir(parents=True, exist_ok=True)
        setattr(found, kind, folder)
    return found


@pytest.fixture(scope="module")
def isnet_weights(pack):
    module = pack.module("colorize.pictures.isnet")
    network = module.ISNet({name: (2, 4) for name in module.STAGES}, stem=4)
    weights = {k: v for k, v in randomised(network).items() if not k.endswith("num_batches_tracked")}
    return {k: v.abs() + 0.5 if k.endswith("running_var") else v for k, v in weights.items()}


def segment(pack, segmenter, image):
    values = dict(edges="soft", threshold=0.5, keep_largest=0, fill_holes=0.0, grow=0, feather=0)
    return pack.run("ColorizeSegmentCharacter", segmenter=segmenter, image=image, **values)[0]


def load(pack, name, **widgets):
    return pack.run("ColorizeLoadSegmenter", segmenter_name=name, working_size=256, **widgets)[0]


# -- segmenters --------------------------------------------------------------------------------------------------------


def test_layouts_give_the_same_mask(pack, model_folders, isnet_weights):
    image, folder = torch.rand(1, 50, 70, 3), model_folders.background_removal
    save_file(isnet_weights, folder / "bare.safetensors")
    torch.save({"epoch": 1, "state_dict": prefixed("net.", isnet_weights)}, folder / "author.ckpt")
    first, second = (segment(pack, load(pack, name), image) for name in ("bare.safetensors", "author.ckpt"))
    assert torch.allclose(first, second, atol=1e-6) and first.shape == (1, 50, 70)


def test_core_remove_background_runs_it(pack, model_folders, isnet_weights):
    save_file(isnet_weights, model_folders.background_removal / "core.safetensors")
    segmenter, image = load(pack, "core.safetensors"), torch.rand(2, 20, 30, 3)
    if "RemoveBackground" not in pack.comfy_nodes.NODE_CLASS_MAPPINGS:  # core's extra nodes are not loaded here
        mask = segmenter.encode_image(image)
    else:
        (mask,) = pack.run("RemoveBackground", segmenter, image)
    assert torch.allclose(mask, segment(pack, segmenter, image), atol=1e-6)


def test_memory_is_managed(pack, model_folders, isnet_weights):
    import comfy.model_management

    save_file(isnet_weights, model_folders.background_removal / "managed.safetensors")
    segmenter = load(pack, "managed.safetensors")
    segment(pack, segmenter, torch.rand(1, 8, 8, 3))
    assert segmenter.patcher in [loaded.model for loaded in comfy.model_management.current_loaded_models]


def test_names_are_listed_with_onnx_and_looked_up_again(pack, model_folders):
    module = pack.module("model_patches.inputs.segment")
    (model_folders.background_removal / "listed.onnx").write_bytes(b"x")
    assert "listed.onnx" in module.segmenter_files()
    import folder_paths

    assert "listed.onnx" not in folder_paths.get_filename_list("background_removal")
    with pytest.raises(ValueError, match="'gone.safetensors' is not in models/background_removal.*huggingface.co"):
        load(pack, "gone.safetensors")


def test_wrong_and_damaged_files(pack, model_folders, isnet_weights):
    folder = model_folders.background_removal
    save_file({"bb.layers.0.weight": torch.ones(1)}, folder / "birefnet.safetensors")
    with pytest.raises(
        ValueError, match="'birefnet.safetensors' cannot be used as segmenter: .*Load Background Removal"
    ):
        load(pack, "birefnet.safetensors")
    (folder / "half.safetensors").write_bytes(b"\x10\x00")
    with pytest.raises(ValueError, match="'half.safetensors' cannot be read.*download it again"):
        load(pack, "half.safetensors")
    save_file(isnet_weights | {"side1.bias": torch.tensor([float("nan")])}, folder / "nan.safetensors")
    with pytest.raises(ValueError, match="'nan.safetensors' has NaN or infinite values in 1"):
        load(pack, "nan.safetensors")


# -- taggers -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tagger_weights(pack):
    module = pack.module("colorize.reference.wd_tagger")
    return randomised(
        module.WDTagger(6, embed_dim=8, depths=(1, 1, 1, 1), heads=(1, 1, 2, 4), image_size=128, window=4).model
    )


METADATA = {"colorize.image_size": "128", "colorize.window_size": "4"}


def tag(pack, tagger):
    values = dict(threshold=0.0, character_threshold=0.85, exclude="", underscores=True)
    return pack.run("ColorizeTagReference", tagger=tagger, image=torch.rand(1, 20, 20, 3), **values)


def test_a_tagger_and_its_list(pack, model_folders, tagger_weights):
    folder = model_folders.colorize_taggers
    save_file(tagger_weights, folder / "swin.safetensors", metadata=METADATA)
    (tagger,) = pack.run("ColorizeLoadTagger", tagger_name="swin.safetensors")
    assert tagger.features(torch.rand(1, 3, 20, 20)).shape == (1, 16, 64)  # all that XL models read
    with pytest.raises(ValueError, match="list of 'swin.safetensors' is missing.*put it beside the file as swin.csv"):
        tag(pack, tagger)
    (folder / "swin.csv").write_text(CSV, encoding="utf-8")
    (tagger,) = pack.run("ColorizeLoadTagger", tagger_name="swin.safetensors")
    tags, _, rating, report, features = tag(pack, tagger)
    assert sorted(tags[0].split(", ")) == ["tag_2", "tag_3", "tag_4", "tag_5"] and rating[0] in ("tag_0", "tag_1")
    assert "torch, cpu" in report and features.tokens.shape == (1, 16, 64)
    (folder / "swin.csv").write_text("\n".join(CSV.splitlines()[:-1]), encoding="utf-8")
    with pytest.raises(ValueError, match="'swin.safetensors' answers 6 tags, its list has 5"):
        pack.run("ColorizeLoadTagger", tagger_name="swin.safetensors")


def test_the_list_may_be_in_the_file(pack, model_folders, tagger_weights):
    metadata = METADATA | {"colorize.selected_tags": CSV}
    save_file(tagger_weights, model_folders.colorize_taggers / "whole.safetensors", metadata=metadata)
    (tagger,) = pack.run("ColorizeLoadTagger", tagger_name="whole.safetensors")
    assert len(tagger.tags) == 6


def test_other_architectures_are_explained(pack, model_folders):
    save_file({"patch_embed.proj.weight": torch.ones(1)}, model_folders.colorize_taggers / "vit.safetensors")
    with pytest.raises(ValueError, match="'vit.safetensors' cannot be used as tagger: .*use model.onnx"):
        pack.run("ColorizeLoadTagger", tagger_name="vit.safetensors")
    with pytest.raises(ValueError, match="'none.safetensors' is not in models/colorize_taggers.*selected_tags.csv"):
        pack.run("ColorizeLoadTagger", tagger_name="none.safetensors")


# -- onnxruntime -------------------------------------------------------------------------------------------------------


class FakeOnnxruntime:
    """Enough of the module onnxruntime: one network per kind of input, and drivers that may be missing."""

    def __init__(self, shape, compute, offered=("CPUExecutionProvider",), broken=(), silent=()):
        self.shape, self.compute, self.offered = shape, compute, list(offered)
        self.broken, self.silent, self.batches = broken, silent, []

    def get_available_providers(self):
        return self.offered

    def InferenceSession(self, path, providers):  # noqa: N802 - onnxruntime's name
        if any(name in self.broken for name in providers):
            raise RuntimeError("CUDA could not be loaded")

        def run(outputs, feed):
            (picture,) = feed.values()
            self.batches.append(len(picture))
            return [self.compute(picture)]

        used = [name for name in providers if name not in self.silent]
        entry = SimpleNamespace(name="img", shape=self.shape)
        return SimpleNamespace(get_inputs=lambda: [entry], get_providers=lambda: used, run=run)


def mask_of(picture):
    return (picture.mean(axis=1, keepdims=True) > 0.5).astype(np.float32)


@pytest.fixture
def onnx(pack, model_folders, monkeypatch):
    """Puts a fake onnxruntime and the given builds in place, and a file to load."""
    for folder, name in ((model_folders.background_removal, "isnetis"), (model_folders.colorize_taggers, "wd")):
        (folder / f"{name}.onnx").write_bytes(b"onnx")
    (model_folders.colorize_taggers / "wd.csv").write_text(CSV, encoding="utf-8")

    def use(module, builds=("onnxruntime",)):
        def version(name):
            if name in builds:
                return "1.20"
            raise importlib.metadata.PackageNotFoundError(name)

        monkeypatch.setattr(importlib.metadata, "version", version)
        monkeypatch.setitem(sys.modules, "onnxruntime", module)
        return module

    return use


def test_onnx_segmenter(pack, onnx):
    fake = onnx(FakeOnnxruntime((1, 3, 64, 64), mask_of))
    segmenter = load(pack, "isnetis.onnx")
    assert segmenter.size == 64 and segmenter.provider == "onnxruntime, CPU"
    image = torch.zeros(2, 40, 80, 3)
    image[:, 10:30, 20:60] = 1
    figure = segment(pack, segmenter, image)
    assert fake.batches == [1, 1] and figure[:, 20, 40].eq(1).all() and figure[:, 2, 2].eq(0).all()


def test_onnx_tagger_reads_bgr_levels(pack, onnx):
    seen = []

    def compute(picture):
        seen.append(picture)
        return np.linspace(0, 1, 6, dtype=np.float32)[None].repeat(len(picture), 0)

    onnx(FakeOnnxruntime(("N", 448, 448, 3), compute))
    (tagger,) = pack.run("ColorizeLoadTagger", tagger_name="wd.onnx")
    tags, _, _, report, features = tag(pack, tagger)
    assert tags == ["tag_5, tag_4, tag_3, tag_2"] and features is None and "onnxruntime, CPU" in report
    assert seen[0].shape == (1, 448, 448, 3) and seen[0].max() > 100


CUDA = ("CUDAExecutionProvider", "CPUExecutionProvider")


def test_providers(pack, onnx, caplog):
    onnx(FakeOnnxruntime((1, 3, 64, 64), mask_of, offered=CUDA), ("onnxruntime-gpu",))
    assert load(pack, "isnetis.onnx").provider == "onnxruntime, CUDA"
    assert load(pack, "isnetis.onnx", provider="cpu").provider == "onnxruntime, CPU"
    onnx(FakeOnnxruntime((1, 3, 64, 64), mask_of, offered=CUDA, broken=CUDA[:1]), ("onnxruntime-gpu",))
    caplog.clear()
    assert load(pack, "isnetis.onnx").provider == "onnxruntime, CPU"
    assert "cannot use CUDAExecutionProvider (CUDA could not be loaded); the CPU computes instead" in caplog.text
    onnx(FakeOnnxruntime((1, 3, 64, 64), mask_of, offered=CUDA, silent=CUDA[:1]), ("onnxruntime-gpu",))
    assert load(pack, "isnetis.onnx").network.note.startswith("CUDAExecutionProvider is offered but does not start")


def test_two_builds_are_named(pack, onnx):
    compute = lambda picture: np.zeros((len(picture), 6), dtype=np.float32)  # noqa: E731
    onnx(FakeOnnxruntime(("N", 448, 448, 3), compute), ("onnxruntime", "onnxruntime-gpu"))
    (tagger,) = pack.run("ColorizeLoadTagger", tagger_name="wd.onnx")
    assert (
        "Note: onnxruntime and onnxruntime-gpu are installed together and overwrite each other" in tag(pack, tagger)[3]
    )
    assert "pip uninstall -y onnxruntime onnxruntime-gpu, then: pip install onnxruntime-gpu" in tagger.note


def test_without_onnxruntime(pack, onnx):
    onnx(None, ())
    with pytest.raises(RuntimeError, match="'isnetis.onnx' needs onnxruntime, which is not installed.*safetensors"):
        load(pack, "isnetis.onnx")
    onnx(None, ("onnxruntime", "onnxruntime-gpu"))
    with pytest.raises(RuntimeError, match="cannot be imported.*pip uninstall -y onnxruntime onnxruntime-gpu"):
        pack.run("ColorizeLoadTagger", tagger_name="wd.onnx")


def test_wrong_onnx_files(pack, onnx):
    onnx(FakeOnnxruntime((1, 1, 64, 64), mask_of))
    with pytest.raises(ValueError, match=r"'isnetis.onnx' reads \(1, 1, 64, 64\), not pictures"):
        load(pack, "isnetis.onnx")
    onnx(FakeOnnxruntime((1, 3, 64, 64), mask_of, broken=("CPUExecutionProvider",)))
    with pytest.raises(ValueError, match="'isnetis.onnx' cannot be read by onnxruntime: CUDA could.*download it again"):
        load(pack, "isnetis.onnx")
