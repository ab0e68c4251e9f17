"""The whole command against a pretended ComfyUI: the picture, the messages, nothing left running however it ends."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from quickstart_lib import command, options, output, plan
from quickstart_lib.errors import QuickstartError
from tests.quickstart.conftest import V1_TENSORS

posix_only = pytest.mark.skipif(os.name == "nt", reason="POSIX signals")


@posix_only
def test_picture_path_seed_and_seconds(start, tmp_path):
    run = start("finish", "--seed", "0", "--steps", "5", "--reference-scale", "3.5", "--width", "128")
    code, out, err = run.end()
    assert code == 0, err
    assert (tmp_path / "colorized.png").read_bytes() == b"\x89PNG picture"
    assert f"Picture: {tmp_path / 'colorized.png'}" in out and "Seed: 0" in out
    assert re.search(r"Seconds: set-up [\d.]+, server start [\d.]+, picture [\d.]+", out)
    prompt = json.loads(Path(f"{run.pids_file}.prompt").read_text())["prompt"]
    sampler = next(node["inputs"] for node in prompt.values() if node["class_type"] == "KSampler")
    assert (sampler["seed"], sampler["steps"], sampler["cfg"]) == (0, 5, 3.5)
    images = [node["inputs"]["image"] for node in prompt.values() if node["class_type"] == "LoadImage"]
    assert images == ["quickstart_sketch.png", "quickstart_reference.png"]
    assert "Sketch: " in out and "the bundled example" in out and "working at 128 x 128, 5 steps" in out
    assert "  PROBLEM (sketch): The sketch is blank." in out and "NOTE" not in out
    assert run.still_running() == [] and run.leftovers() == [] and list((tmp_path / "cache" / "logs").iterdir()) == []


@posix_only
def test_two_file_names_and_jpeg(start, tmp_path, root):
    sketch = shutil.copy(root / "workflows/examples/quickstart_sketch.png", tmp_path / "s.png")
    reference = shutil.copy(root / "workflows/examples/quickstart_reference.png", tmp_path / "r.png")
    code, out, err = start("finish", str(sketch), str(reference), "--output", "x.jpg", "--size", "128").end()
    assert code == 0, err
    assert (tmp_path / "x.jpg").read_bytes() == b"\xff\xd8 picture" and f"Sketch: {tmp_path / 's.png'}\n" in out


@posix_only
def test_layers_and_palette(start, tmp_path):
    (tmp_path / "hero.GPL").write_text("GIMP Palette\n255 0 0 coat\n", encoding="utf-8")
    run = start("finish", "--palette", "hero.GPL", "--layers", "out.psd", "--width", "128")
    code, out, err = run.end()
    assert code == 0, err
    assert (tmp_path / "out.psd").read_bytes() == b"8BPS layers" and f"Layers: {tmp_path / 'out.psd'}" in out
    assert (tmp_path / "colorized.png").read_bytes() == b"\x89PNG picture"
    prompt = json.loads(Path(f"{run.pids_file}.prompt").read_text())["prompt"]
    inputs = {node["class_type"]: node["inputs"] for node in prompt.values()}
    assert inputs["ColorizePaletteFromReference"]["file_name"] == "quickstart_palette.gpl"
    assert inputs["ColorizeSaveLayers"]["format"] == "psd" and inputs["ColorizePrepareSketch"]["width"] == 128


@pytest.mark.parametrize(
    "given, text",
    [
        (["--layers", "a.tif"], "--layers is a.tif.*PSD and OpenRaster.*.psd or .ora"),
        (["--palette", "none.gpl"], "--palette is .*none.gpl.*no such file"),
        (["--palette", "p.txt"], "--palette is p.txt.*.gpl .Krita, GIMP. or .json"),
    ],
)
def test_wrong_layers_and_palettes_are_told_first(tmp_path, monkeypatch, capsys, given, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.txt").touch()
    assert command.main(given) == 1
    assert re.search(text, capsys.readouterr().err)


def test_layers_of_many_drawings_are_named_by_their_kind(tmp_path, capsys):
    (tmp_path / "frames").mkdir()
    assert command.main(["--sketch", str(tmp_path / "frames"), "--layers", "a.psd"]) == 1
    assert "Give psd or ora: every drawing gets a document" in capsys.readouterr().err


def test_layers_and_palette_mean_flats():
    assert not options.read([])[0].flats and options.read(["--flats"])[0].flats
    assert options.read(["--palette", "a.gpl"])[0].flats and options.read(["--layers", "a.psd"])[0].flats


@posix_only
def test_a_picture_is_not_lost_when_its_folder_cannot_be_written(start, tmp_path):
    """The folder for the picture goes away while it is made."""
    (tmp_path / "home").mkdir()
    (tmp_path / "gone").mkdir()
    run = start("finish", "--output", "gone/x.png")
    run.until(run.pids_file)
    (tmp_path / "gone").rmdir()
    code, out, err = run.end()
    assert code == 0, err
    assert (tmp_path / "home" / "x.png").is_file() and "could not be written" in out


@posix_only
def test_own_checkpoint_is_offered_to_the_server(start, tmp_path, write_header):
    content = write_header(tmp_path / "mine.safetensors", V1_TENSORS).read_bytes()
    run = start("finish", "--checkpoint", "mine.safetensors")
    code, _, err = run.end()
    assert code == 0, err
    prompt = json.loads(Path(f"{run.pids_file}.prompt").read_text())["prompt"]
    assert (
        next(n["inputs"] for n in prompt.values() if n["class_type"] == "ColorizeLoadCheckpoint")["ckpt_name"]
        == "mine.safetensors"
    )
    assert (tmp_path / "mine.safetensors").read_bytes() == content


@posix_only
@pytest.mark.parametrize(
    ("mode", "text"),
    [
        ("refuse", "Load ColorizeDiffusion Checkpoint (node 1): Value not in list: ckpt_name"),
        ("fail", "Encode Reference (node 6) stopped with an error:\n  bad picture"),
        ("die", "out of memory"),
        ("crash", "RuntimeError: no such device"),
    ],
)
def test_failures_are_one_message_and_leave_nothing_running(start, mode, text):
    run = start(mode)
    code, _, err = run.end()
    assert code == 1 and text in err and err.startswith("quickstart: ") and "Traceback" not in err
    assert run.still_running() == [] and run.leftovers() == []
    (log,) = (run.folder / "cache" / "logs").iterdir()
    assert mode == "refuse" or str(log) in err


@posix_only
def test_taken_port_is_tried_again(start):
    code, out, err = start("port").end()
    assert code == 0, err


@posix_only
@pytest.mark.parametrize("mode", ["hang", "deaf"])
@pytest.mark.parametrize(
    ("number", "status"),
    [
        (signal.SIGINT, 130),
        (signal.SIGTERM, 143),
        (signal.SIGHUP, 129),
        (signal.SIGKILL, -9),
    ]
    if os.name != "nt"
    else [],
)
def test_nothing_is_left_after_a_signal(start, mode, number, status):
    run = start(mode)
    run.until(Path(f"{run.pids_file}.prompt"))
    assert run.pids_file.read_text().split()
    run.process.send_signal(number)
    code, _, err = run.end()
    assert code == status and "Traceback" not in err
    assert run.still_running() == []
    if number != signal.SIGKILL:
        assert run.leftovers() == []


@posix_only
def test_ctrl_c_while_the_server_starts(start):
    run = start("hang")
    run.until(run.pids_file)
    run.process.send_signal(signal.SIGINT)
    assert run.end()[0] == 130 and run.still_running() == [] and run.leftovers() == []


@pytest.mark.parametrize(
    "options",
    [
        ["--width", "100"],
        ["--width", "0"],
        ["--height", "x"],
        ["--steps", "0"],
        ["--seed", "-1"],
        ["--seed", "1.5"],
        ["--reference-scale", "nan"],
        ["--reference-scale", "-1"],
        ["--unknown"],
        ["--tes"],
        ["a.png", "b.png", "c.png"],
        ["a.png", "--sketch", "b.png"],
        ["--size", "256", "--width", "256"],
    ],
)
def test_wrong_options_end_with_2(options, capsys):
    with pytest.raises(SystemExit) as exit_:
        command.main(options)
    assert exit_.value.code == 2 and "usage:" in capsys.readouterr().err


def test_wrong_files_are_told_before_any_work(tmp_path, make_comfyui, monkeypatch, capsys, write_header):
    monkeypatch.setenv("COMFYUI_PATH", str(make_comfyui("c")))
    monkeypatch.setattr(command.environment, "prepare", lambda *_: pytest.fail("work was done"))
    good = str(write_header(tmp_path / "good.safetensors", V1_TENSORS))
    for arguments, text in (
        (["--sketch", str(tmp_path / "none.png")], "no such file"),
        (["--reference", str(tmp_path)], "no such file"),
        (["--reference", __file__], "--reference is .*is no picture"),
        (["--output", str(tmp_path / "none" / "x.png")], "does not exist"),
        (["--output", str(tmp_path / "x.gif")], "PNG, JPEG and WebP"),
        (["--checkpoint", "none.safetensors"], "no such file"),
        (["--checkpoint", good, "--encoder", "none.safetensors"], "no such file"),
        (["--checkpoint", good, "--encoder", good], "is a ColorizeDiffusion v1 checkpoint: give it with --checkpoint"),
    ):
        assert command.main(arguments) == 1
        assert re.search(text, capsys.readouterr().err)


def test_a_refusal_of_the_system_is_one_message(monkeypatch, capsys):
    def refuse(*_):
        raise PermissionError(13, "Permission denied", "/somewhere")

    monkeypatch.setattr(command, "colour", refuse)
    assert command.main([]) == 1
    err = capsys.readouterr().err
    assert err.startswith("quickstart: ") and "/somewhere" in err and err.count("\n") == 1


def test_what_follows_test_and_trainer_belongs_to_them():
    assert options.read(["--cpu", "--test", "-k", "x"])[1:] == ("tests", ["-k", "x"])
    chosen, mode, rest = options.read(["--torch", "cpu", "--trainer", "train", "--config", "demo-v1"])
    assert (chosen.torch, mode, rest) == ("cpu", "trainer", ["train", "--config", "demo-v1"])


def test_the_trainer_gets_its_packages(monkeypatch, tmp_path, make_comfyui):
    asked = []
    monkeypatch.setenv("COMFYUI_PATH", str(make_comfyui("c")))
    ready = command.environment.Environment(Path(sys.executable), "cpu", "2")
    monkeypatch.setattr(command.environment, "prepare", lambda *a: asked.append(a[2]) or ready)
    monkeypatch.setattr(command.testing, "call", lambda *a: asked.append(a[0][1:]) or 7)
    assert command.main(["--trainer", "train"]) == 7
    assert asked == [("trainer",), ["-m", "trainer", "train"]]


def test_output_is_never_overwritten(tmp_path):
    file = tmp_path / "a.b.png"
    assert output.output_file(file) == file
    file.touch()
    assert output.output_file(file) == tmp_path / "a.b-2.png"
    (tmp_path / "a.b-2.png").touch()
    assert output.output_file(file) == tmp_path / "a.b-3.png"
    assert output.output_file(tmp_path) == tmp_path / "colorized.png"
    assert output.output_file(tmp_path / "plain") == tmp_path / "plain.png"
    assert output.write(b"x", file) == tmp_path / "a.b-3.png" and file.read_bytes() == b""


def test_a_picture_is_whole_or_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr(output.os, "fsync", lambda _fd: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        output.write(b"x" * 100, tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


def test_seed_words():
    assert options.seed("0") == 0 and options.seed(str(2**64 - 1)) == 2**64 - 1 and 0 <= options.seed("random") < 2**32


def test_model_by_name(tmp_path, make_comfyui, write_header):
    comfy = make_comfyui("c")
    (comfy / "models" / "checkpoints").mkdir(parents=True)
    a = write_header(comfy / "models" / "checkpoints" / "a.safetensors", V1_TENSORS)
    write_header(a.with_name("flux.safetensors"), {"x": [1]})
    assert plan.model_file("checkpoint", "a.safetensors", "bundled.safetensors", comfy) == a
    with pytest.raises(QuickstartError, match=r"can be used: .*a.safetensors") as raised:
        plan.model_file("checkpoint", "b.safetensors", "bundled.safetensors", comfy)
    assert "flux" not in str(raised.value) and "animediffusion" not in str(raised.value)
    with pytest.raises(QuickstartError, match="The bundled file .*bundled.safetensors is missing"):
        plan.model_file("checkpoint", None, "bundled.safetensors", comfy)


def test_old_python_gets_one_sentence(root):
    """The entry file must parse everywhere: nothing newer than Python 3.6 in it."""
    import ast

    ast.parse((root / "quickstart.py").read_text(encoding="utf-8"), feature_version=(3, 6))


def test_an_isolated_python_starts_it(root):
    """python -I leaves the script's folder out of the search path."""
    result = subprocess.run(
        [sys.executable, "-I", str(root / "quickstart.py"), "--help"], capture_output=True, check=False
    )
    assert result.returncode == 0, result.stderr


def test_it_needs_the_standard_library_only(root):
    """Also where it asks the pack's table of families: no site-packages here."""
    code = (
        f"import sys; sys.path.insert(0, {str(root)!r}); from quickstart_lib import command, models; models.families()"
    )
    result = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
