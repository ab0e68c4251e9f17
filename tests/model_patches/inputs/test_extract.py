"""Line extractor files in ComfyUI's models folder, and the networks as managed models."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests import tiny_extractors as tiny


@pytest.fixture(scope="module")
def folder(pack):
    import folder_paths

    found = Path(folder_paths.get_folder_paths("colorize_extractors")[0])
    found.mkdir(parents=True, exist_ok=True)
    assert found == Path(pack.base) / "models" / "colorize_extractors"
    return found


@pytest.fixture
def load(pack, folder):
    def run(name, weights=None, suffix=".safetensors"):
        path = folder / f"{name}{suffix}"
        weights = tiny.weights(name) if weights is None else weights
        save_file(weights, path) if suffix == ".safetensors" else torch.save(weights, path)
        return pack.run("ColorizeLoadLineExtractor", extractor_name=path.name)[0]

    return run


def picture(height=40, width=56, batch=1):
    return (tiny.picture(height, width, batch).movedim(1, -1) + 1) / 2


@pytest.mark.parametrize("name", tiny.NAMES)
def test_files_of_all_kinds_give_the_same_drawing(pack, load, name):
    weights = tiny.weights(name)
    drawings = [
        pack.run("ColorizeExtractSketch", image=picture(), extractor=extractor, resolution=64)[0]
        for extractor in (
            load(name),
            load(name, weights, ".pth"),
            load(name, {"state_dict": {f"module.{key}": value for key, value in weights.items()}}, ".ckpt"),
        )
    ]
    assert drawings[0].shape == (1, 40, 56, 3) and drawings[0].min() >= 0 and drawings[0].max() <= 1
    assert drawings[0].std() > 0
    assert torch.equal(drawings[0], drawings[1]) and torch.equal(drawings[0], drawings[2])


@pytest.mark.parametrize("name", tiny.NAMES)
def test_drawings_are_inverted_model_sketches(pack, load, name):
    """The node shows what networks.extractors computes, dark on white."""
    working = pack.module("colorize.sketch.extractors.working")
    extractor = load(name)
    for variant in ("paper", "released"):
        drawing = pack.run(
            "ColorizeExtractSketch", image=picture(), extractor=extractor, resolution=64, variant=variant
        )[0]
        with torch.no_grad():
            sketch = working.extract(extractor.network, picture().movedim(-1, 1) * 2 - 1, 64, variant)
        assert torch.allclose(drawing[..., 0], ((1 - sketch[:, 0]) / 2).clamp(0, 1), atol=1e-4)


def test_default_working_size(pack, load):
    extractor, sizes = load("lineart_sk"), []
    handle = extractor.network.register_forward_pre_hook(lambda _, args: sizes.append(tuple(args[0].shape[-2:])))
    try:
        pack.run("ColorizeExtractSketch", image=picture(30, 120), extractor=extractor)
        pack.run("ColorizeExtractSketch", image=picture(30, 120), extractor=extractor, variant="released")
    finally:
        handle.remove()
    assert sizes == [(384, 1536), (768, 768)]


def test_batches_run_with_progress(pack, load):
    import comfy.utils

    extractor, counts, steps = load("anime2sketch"), [], []
    handle = extractor.network.register_forward_pre_hook(lambda _, args: counts.append(len(args[0])))
    comfy.utils.set_progress_bar_global_hook(lambda value, total, *rest, **kw: steps.append((value, total)))
    try:
        drawings = pack.run("ColorizeExtractSketch", image=picture(batch=5), extractor=extractor, resolution=768)[0]
    finally:
        handle.remove()
        comfy.utils.set_progress_bar_global_hook(None)
    assert len(drawings) == 5 and sum(counts) == 5 and steps[-1] == (len(counts), len(counts))


def test_other_methods_leave_the_extractor_alone(pack, load):
    extractor = load("sketchkeras")
    with_extractor, without = (
        pack.run("ColorizeExtractSketch", image=picture(), method="xdog", **kwargs)[0]
        for kwargs in ({"extractor": extractor}, {})
    )
    assert torch.equal(with_extractor, without)


def test_memory_is_managed(pack, load):
    import comfy.model_management
    import comfy.model_patcher

    extractor = load("lineart_sk")
    assert isinstance(extractor.patcher, comfy.model_patcher.ModelPatcher)
    extractor.extract(torch.zeros(1, 3, 8, 8), 32)
    assert extractor.patcher in [loaded.model for loaded in comfy.model_management.current_loaded_models]


def test_interruption_stops_a_long_batch(pack, load):
    import comfy.model_management

    comfy.model_management.interrupt_current_processing()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        load("lineart_sk").extract(torch.zeros(3, 3, 8, 8), 32)
    comfy.model_management.interrupt_current_processing(False)


def test_missing_files_name_folder_and_address(pack):
    node = pack.node("ColorizeLoadLineExtractor")
    address = "https://huggingface.co/lllyasviel/Annotators/resolve/main/netG.pth"
    text = node.validate_inputs("netG.pth")
    assert "'netG.pth' is not in models/colorize_extractors" in text and address in text and "erika" not in text
    with pytest.raises(FileNotFoundError, match=address):
        pack.run("ColorizeLoadLineExtractor", extractor_name="netG.pth")
    unknown = node.validate_inputs("mine.safetensors")
    assert all(name in unknown for name in ("model.pth", "netG.pth", "erika.pth", "sk_model.pth"))
    with pytest.raises(Exception, match="outside|passwd"):
        pack.run("ColorizeLoadLineExtractor", extractor_name="../../../../../../../../etc/passwd")


def test_wrong_files(load):
    with pytest.raises(
        ValueError, match="'other.safetensors' cannot be used as line extractor: .*fit none of.*netG.pth"
    ):
        load("other", {"some.thing": torch.ones(1)})
    weights = tiny.weights("manga_line")
    weights["conv15.model.2.bias"][0] = torch.nan
    with pytest.raises(ValueError, match="'broken.safetensors' has NaN or infinite values in 1"):
        load("broken", weights)
    weights = tiny.weights("lineart_sk")
    del weights["model4.1.bias"]
    with pytest.raises(ValueError, match="'half.pth'.*lacks 1 tensors of lineart_sk.*model4.1.bias"):
        load("half", weights, ".pth")
    with pytest.raises(ValueError, match="holds Python objects besides tensors"):
        load("evil", {"a": torch.ones(1), "b": Path("x")}, ".pth")


def test_folder_is_added_to_what_the_user_has(pack, tmp_path):
    import folder_paths

    extractors = pack.module("model_patches.inputs.extractors")
    folder_paths.add_model_folder_path(extractors.FOLDER, str(tmp_path))
    try:
        extractors.register_folder()
        save_file({"a": torch.ones(1)}, tmp_path / "mine.safetensors")
        (tmp_path / "notes.txt").write_text("no weights")
        names = folder_paths.get_filename_list(extractors.FOLDER)
        assert "mine.safetensors" in names and "notes.txt" not in names
        assert str(tmp_path) in folder_paths.get_folder_paths(extractors.FOLDER)
    finally:
        folder_paths.folder_names_and_paths[extractors.FOLDER][0].remove(str(tmp_path))
