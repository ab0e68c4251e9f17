"""`evaluate --views`: the maps are those of the sampling run, with the reference and without; a sheet per pair."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from colorize.unet.place_views import lowest_blocks, place_of
from tests import tiny, tiny_xl
from trainer.__main__ import main
from trainer.config import ConfigError
from trainer.evaluate.views import Look, Views
from trainer.models.colorizer import V1Colorizer
from trainer.models.denoising import Denoising

POINT = (0.2, 0.7)


def test_the_maps_are_those_of_the_run_and_the_pictures_stay(v1_file, frozen, tmp_path):
    colorizer = V1Colorizer.from_files(v1_file, frozen["encoder"], torch.device("cpu"))
    draw = torch.Generator().manual_seed(1)
    sketches, references = (torch.rand(2, 3, 64, 64, generator=draw) * 2 - 1 for _ in range(2))
    tokens, how, calls = colorizer.tokens(references), Denoising(steps=4, guidance=3.0), []

    def run() -> torch.Tensor:
        return colorizer.generate(sketches, tokens, how, torch.Generator().manual_seed(0))

    plain = run()
    handle = colorizer.unet.register_forward_pre_hook(lambda _, given: calls.append(given))
    with Views(Look(*POINT, 0.5), tmp_path).watching(colorizer.unet, how) as seen:
        assert torch.equal(run(), plain)
    handle.remove()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in colorizer.unet.modules())
    assert [name for name, _ in seen] == ["with reference", "without"] and len(calls) == 4

    x, t, context, control = calls[2]  # half of four steps lie before it; rows: two with tokens, two without
    unet, numbers = colorizer.unet, lowest_blocks(colorizer.unet.attention_places)
    for kind in ("output", "normed"):
        keep = dict.fromkeys(numbers, kind)
        with torch.no_grad():
            _, kept = unet.finish(unet.begin(x, t, control), unet.readings(context, keep=keep))
        for part, values in enumerate(kept):
            height, width = seen[0][1][part].gram.shape[1:]
            place = place_of(POINT, (height, width))
            for (_, views), rows in zip(seen, values.chunk(2), strict=True):
                if kind == "output":
                    wanted = torch.cosine_similarity(rows, rows[:, place : place + 1], dim=-1)
                    torch.testing.assert_close(views[part].gram.flatten(1), wanted, atol=1e-5, rtol=0)
                else:
                    assert rows.shape[1] == height * width
                    torch.testing.assert_close(views[part].attention.sum((1, 2)), torch.ones(2), atol=1e-4, rtol=0)
    assert not torch.allclose(seen[0][1][1].gram, seen[1][1][1].gram, atol=1e-4)


def test_without_guidance_there_is_no_run_without_reference(v1_file, frozen, tmp_path):
    colorizer = V1Colorizer.from_files(v1_file, frozen["encoder"], torch.device("cpu"))
    sketches, how = torch.zeros(2, 3, 64, 64), Denoising(steps=1, guidance=1.0)
    views = Views(Look(0.5, 0.5, 1.0), tmp_path)
    with views.watching(colorizer.unet, how) as seen:
        result = colorizer.generate(sketches, colorizer.tokens(sketches), how, torch.Generator().manual_seed(0))
    assert [name for name, _ in seen] == ["with reference"]
    views.keep("vanilla at 1.0", result, seen)
    views.write("random", ["a", "b"])
    assert (tmp_path / "random-a.png").is_file() and not views.found


def test_the_command_draws_a_sheet_per_pair_also_of_the_plugin_and_of_a_second_model(tmp_path, pictures):
    names = ("model", "encoder", "tagger")
    model, encoder, tagger = (str(tmp_path / f"{name}.safetensors") for name in names)
    save_file(tiny_xl.checkpoint_plugin(), model, tiny_xl.METADATA | {"colorize.family": "xl-plugin"})
    save_file(tiny.reference_encoder(tiny_xl.CLIP_WIDTH).state_dict(), encoder, {"colorize.head_width": "16"})
    save_file(tiny_xl.tagger_weights(), tagger, tiny_xl.TAGGER_METADATA)
    command = ["evaluate", "--checkpoint", model, "--encoder", encoder, "--tagger", tagger, "--against", model]
    small = ["--count", "4", "--batch", "3", "--steps", "1", "--intervals", "none", "--precision", "bf16"]
    pairs = ["--data", str(pictures), "--protocol", "random", "--mode", "vanilla", "masked", "no-reference"]
    out = tmp_path / "out"
    assert main([*command, *pairs, *small, "--views", "0.5", "0.4", "--output", str(out)]) == 0
    found = sorted(path.name for path in (out / "views").iterdir())
    shown = sorted(path.stem for path in (Path(pictures) / "color").iterdir())
    assert len(found) == 6 and sum(name.endswith("-against.png") for name in found) == 3
    assert {name.removeprefix("random-").removesuffix(".png").removesuffix("-against") for name in found} <= set(shown)
    with Image.open(out / "views" / found[0]) as sheet:
        assert sheet.width > 4 * 320 and sheet.height > 4 * 320  # two modes, two rows each


@pytest.mark.parametrize("numbers", [(1.1, 0, 0.5), (0, -0.1, 0.5), (0, 0, 2)])
def test_a_point_lies_in_the_picture(numbers):
    with pytest.raises(ConfigError, match="lies between 0 and 1"):
        Look(*numbers)
