"""The environment: what its name depends on, half-made ones, reuse, extras, stale ones, the lock, a damaged one."""

import io
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from quickstart_lib import environment, inspect_environment, torch_source
from quickstart_lib.errors import QuickstartError
from quickstart_lib.lock import locked
from quickstart_lib.requirements import environment_key, requirement_lists
from quickstart_lib.terminal import Status


def quiet() -> Status:
    """A status that nobody reads."""
    return Status(io.StringIO())


@pytest.fixture
def pack(tmp_path, root):
    """A pack folder with copies of the files that decide an environment."""
    folder = tmp_path / "pack"
    folder.mkdir()
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(root / name, folder / name)
    return folder


@pytest.fixture
def quick(monkeypatch):
    """No venv, no pip, no network: returns the list of what would have been installed."""
    done = []
    monkeypatch.setattr(environment, "choose", lambda choice: torch_source.choose(choice, lambda _index: False))

    def run(self, title, command, help_text):
        folder = environment.interpreter(self.folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.touch()

    def pip(self, title, *arguments, expected=None):
        done.append([str(argument) for argument in arguments])

    monkeypatch.setattr(environment.Installer, "run", run)
    monkeypatch.setattr(environment.Installer, "pip", pip)
    monkeypatch.setattr(
        environment, "inspect", lambda *_: {"torch": "2", "device": "cpu", "problems": [], "missing": []}
    )
    return done


def test_reader_agrees_with_tomllib(root):
    tomllib = pytest.importorskip("tomllib")
    text = (root / "pyproject.toml").read_text(encoding="utf-8")
    project = tomllib.loads(text)["project"]
    assert requirement_lists(text) == {"": project["dependencies"], **project["optional-dependencies"]}


def test_runtime_never_pins_what_comfyui_brings(root):
    for text in (
        requirement_lists((root / "pyproject.toml").read_text())[""],
        (root / "requirements.txt").read_text().split(),
    ):
        assert not {"torch", "torchvision", "torchaudio", "numpy"} & set(environment.package_names(text))


def test_requirements_txt_is_the_runtime_list(root):
    assert (root / "requirements.txt").read_text().split() == requirement_lists((root / "pyproject.toml").read_text())[
        ""
    ]


@pytest.mark.parametrize("changed", ["constraints.txt", "pyproject.toml", "requirements.txt"])
def test_key_changes_with_each_input(pack, make_comfyui, changed):
    comfy = make_comfyui("c")
    before = environment_key(comfy, pack)
    assert environment_key(comfy, pack) == before and environment.OURS.fullmatch(f"env-{before}")
    file = (comfy if changed == "requirements.txt" else pack) / changed
    text = file.read_text()
    changes = text.replace('dependencies = ["', 'dependencies = ["six", "')
    file.write_text(changes if changed == "pyproject.toml" else text + "six\n")
    assert environment_key(comfy, pack) != before


def test_key_changes_with_python(pack, make_comfyui, monkeypatch):
    comfy = make_comfyui("c")
    before = environment_key(comfy, pack)
    monkeypatch.setattr(sys, "version_info", (3, 99, 0, "final", 0))
    assert environment_key(comfy, pack) != before


def test_key_ignores_the_rest_of_pyproject(pack, make_comfyui):
    comfy = make_comfyui("c")
    before = environment_key(comfy, pack)
    file = pack / "pyproject.toml"
    file.write_text(file.read_text().replace('version = "', 'version = "9'))
    assert environment_key(comfy, pack) == before


def test_made_once_then_reused_then_extended(tmp_path, pack, make_comfyui, quick):
    comfy, cache = make_comfyui("c"), tmp_path / "cache"
    first = environment.prepare(comfy, pack, (), cache, quiet())
    assert [step[0] for step in quick] == ["torch", "-r"] and first.device == "cpu"
    quick.clear()
    assert environment.prepare(comfy, pack, (), cache, quiet()) == first and quick == []
    environment.prepare(comfy, pack, ("trainer", "dev"), cache, quiet())
    assert len(quick) == 2 and any("pytest" in text for text in quick[1])


def test_a_changed_extra_is_installed_again_and_nothing_else(tmp_path, pack, make_comfyui, quick):
    """A new test package must not cost 7 GB."""
    comfy, cache = make_comfyui("c"), tmp_path / "cache"
    environment.prepare(comfy, pack, ("dev",), cache, quiet())
    quick.clear()
    file = pack / "pyproject.toml"
    file.write_text(file.read_text().replace('dev = ["', 'dev = ["six", "'))
    environment.prepare(comfy, pack, ("dev",), cache, quiet())
    assert len(quick) == 1 and "six" in quick[0]


def test_half_made_one_is_rebuilt(tmp_path, pack, make_comfyui, quick):
    comfy, cache = make_comfyui("c"), tmp_path / "cache"
    made = environment.prepare(comfy, pack, (), cache, quiet())
    folder = made.python.parents[1]
    (folder / environment.MARKER).unlink()
    (folder / "half").touch()
    quick.clear()
    environment.prepare(comfy, pack, (), cache, quiet())
    assert quick and not (folder / "half").exists()


def test_interrupted_installation_leaves_nothing(tmp_path, pack, make_comfyui, quick, monkeypatch):
    def interrupt(self, title, *arguments, expected=None):
        raise KeyboardInterrupt

    monkeypatch.setattr(environment.Installer, "pip", interrupt)
    with pytest.raises(KeyboardInterrupt):
        environment.prepare(make_comfyui("c"), pack, (), tmp_path / "cache", quiet())
    assert [file.suffix for file in (tmp_path / "cache").iterdir()] == [".lock"]


def test_damaged_one_is_told_and_rebuilt_next_time(tmp_path, pack, make_comfyui, quick, monkeypatch):
    report = {"torch": "2", "device": "cpu", "problems": [], "missing": ["einops"]}
    monkeypatch.setattr(environment, "inspect", lambda *_: report)
    comfy, cache = make_comfyui("c"), tmp_path / "cache"
    with pytest.raises(QuickstartError, match="einops.*rebuilt"):
        environment.prepare(comfy, pack, (), cache, quiet())
    assert environment.read_marker(cache / f"env-{environment_key(comfy, pack)}") is None


def test_an_import_that_fails_is_no_damage(tmp_path, pack, make_comfyui, quick, monkeypatch):
    """A memory limit and an OOM kill look like a broken torch; 7 GB are not thrown away for them."""
    comfy, cache = make_comfyui("c"), tmp_path / "cache"
    report = {"torch": "2", "device": "cpu", "problems": ["torch cannot be imported: no memory"], "missing": []}
    monkeypatch.setattr(environment, "inspect", lambda *_: report)
    with pytest.raises(QuickstartError, match="(?s)no memory.*kept.*--rebuild"):
        environment.prepare(comfy, pack, (), cache, quiet())
    assert environment.read_marker(cache / f"env-{environment_key(comfy, pack)}")
    report["problems"] = []
    quick.clear()
    environment.prepare(comfy, pack, (), cache, quiet())
    assert quick == []
    environment.prepare(comfy, pack, (), cache, quiet(), environment.Wishes(rebuild=True))
    assert [step[0] for step in quick] == ["torch", "-r"]


def test_the_inspection_is_remembered_while_the_machine_stays_the_same(
    tmp_path, pack, make_comfyui, quick, monkeypatch
):
    looks, comfy, cache = [], make_comfyui("c"), tmp_path / "cache"
    report = {"torch": "2", "device": "cuda", "problems": [], "missing": []}
    monkeypatch.setattr(environment, "inspect", lambda *_: looks.append(1) or report)
    first = environment.prepare(comfy, pack, (), cache, quiet())
    assert environment.prepare(comfy, pack, (), cache, quiet()) == first and len(looks) == 1
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    environment.prepare(comfy, pack, (), cache, quiet())
    assert len(looks) == 2
    environment.forget_report(first.python)
    environment.prepare(comfy, pack, (), cache, quiet())
    assert len(looks) == 3


def test_nobody_waits_for_a_check(tmp_path, pack, make_comfyui, quick):
    comfy, cache = make_comfyui("c"), tmp_path / "cache"
    made = environment.prepare(comfy, pack, (), cache, quiet())
    with locked(cache / (made.python.parents[1].name + ".lock")):
        assert environment.prepare(comfy, pack, (), cache, quiet()) == made


def test_a_search_path_of_another_python_is_ignored(tmp_path, monkeypatch):
    (tmp_path / "torch.py").write_text("raise SystemExit('planted')")
    (tmp_path / "requirements.txt").write_text("pytest\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    report = environment.inspect(Path(sys.executable), tmp_path)
    assert "planted" not in str(report) and report["missing"] == []


def test_a_killed_inspection_says_so(tmp_path):
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\nkill -9 $$\n")
    script.chmod(0o755)
    (problem,) = environment.inspect(script, tmp_path)["problems"]
    assert "signal 9" in problem


def fake_environment(cache: Path, digit: str, idle_days: float, complete: bool = True) -> Path:
    folder = cache / f"env-{digit * 16}"
    environment.interpreter(folder).parent.mkdir(parents=True)
    environment.interpreter(folder).touch()
    if complete:
        environment.write_marker(folder, {"groups": {"": "key"}})
        then = time.time() - idle_days * 86400
        os.utime(folder / environment.MARKER, (then, then))
    return folder


def test_stale_ones_are_removed(tmp_path):
    keep = fake_environment(tmp_path, "0", 0)
    second = fake_environment(tmp_path, "1", 5)
    third = fake_environment(tmp_path, "2", 6)
    old = fake_environment(tmp_path, "3", 31)
    half = fake_environment(tmp_path, "4", 0, complete=False)
    by_hand = tmp_path / "env-dev"
    by_hand.mkdir()
    assert set(environment.remove_stale(tmp_path, keep)) == {third, old, half}
    assert keep.exists() and second.exists() and by_hand.exists()
    assert not third.exists() and not old.exists() and not half.exists()


def test_recently_used_ones_stay(tmp_path):
    keep, *others = [fake_environment(tmp_path, digit, 0.5) for digit in "0123"]
    assert environment.remove_stale(tmp_path, keep) == [] and all(folder.exists() for folder in others)


def test_one_that_another_release_made_is_no_half_made_one(tmp_path):
    """Its marker reads otherwise; somebody may be working in it."""
    keep, other = fake_environment(tmp_path, "0", 0), fake_environment(tmp_path, "1", 0.5)
    environment.write_marker(other, {"groups": [""]})
    assert environment.read_marker(other) is None
    assert environment.remove_stale(tmp_path, keep) == [] and other.exists()


def test_old_one_goes_even_among_the_newest_two(tmp_path):
    keep, old = fake_environment(tmp_path, "0", 0), fake_environment(tmp_path, "1", 31)
    assert environment.remove_stale(tmp_path, keep) == [old]


def test_one_being_built_is_left_alone(tmp_path):
    keep, half = fake_environment(tmp_path, "0", 0), fake_environment(tmp_path, "1", 0, complete=False)
    with locked(tmp_path / (half.name + ".lock")):
        assert environment.remove_stale(tmp_path, keep) == [] and half.exists()


def test_lock_is_free_again_when_its_holder_dies(tmp_path, root):
    code = (
        f"import sys, os; sys.path.insert(0, {str(root)!r})\nfrom pathlib import Path\n"
        f"from quickstart_lib.lock import locked\nwith locked(Path({str(tmp_path / 'l')!r})):\n"
        "    print('held', flush=True)\n    import time; time.sleep(60)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with locked(tmp_path / "l", wait=False) as held:
            assert not held
        holder.kill()
        holder.wait()
        with locked(tmp_path / "l", wait=False) as held:
            assert held
    finally:
        holder.kill()
        holder.stdout.close()


def test_failed_step_shows_the_end_of_the_output(tmp_path):
    log = tmp_path / "logs" / "l.log"
    installer = environment.Installer(tmp_path / "env", tmp_path / "c.txt", log, quiet())
    command = [sys.executable, "-c", "print('reason of the failure'); raise SystemExit(3)"]
    with pytest.raises(QuickstartError, match="(?s)Making it failed.*reason of the failure.*Do this"):
        installer.run("Making it", command, "Do this.")
    assert "reason of the failure" in log.read_text()


def test_full_disk_is_told_before_work(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=10**9))
    installer = environment.Installer(tmp_path / "env", tmp_path / "c", tmp_path / "l", quiet())
    with pytest.raises(QuickstartError, match="1.0 GB are free.*needs 10.0 GB.*COLORIZE_CACHE"):
        installer.make(7)


def test_cache_folder(tmp_path):
    moved = environment.cache_folder({"COLORIZE_CACHE": str(tmp_path / "x")}, tmp_path)
    assert moved == tmp_path / "x"
    if os.name != "nt":
        assert environment.cache_folder({}, tmp_path) == tmp_path / ".cache" / "colorize-diffusion"


def test_requirement_names():
    text = "torch\nnumpy>=1.25.0\n#non essential\ncomfy-kitchen==0.2.31\npydantic~=2.0 # x\n\n"
    assert inspect_environment.requirement_names(text) == ["torch", "numpy", "comfy-kitchen", "pydantic"]
    assert inspect_environment.missing(["pytest", "surely-not-installed"]) == ["surely-not-installed"]


def test_mismatch_in_the_current_environment_names_the_tested_set(tmp_path, pack, make_comfyui, monkeypatch):
    report = {
        "torch": "2.15.0",
        "device": "cpu",
        "missing": [],
        "problems": ["torchaudio 2.11.0 does not fit torch 2.15.0"],
    }
    monkeypatch.setattr(environment, "inspect", lambda *_: report)
    with pytest.raises(QuickstartError, match="(?s)torchaudio 2.11.0 does not fit.*pip install torch==.*torchaudio=="):
        environment.current(make_comfyui("c"), pack, ())


def test_missing_packages_in_the_current_environment_are_named(tmp_path, pack, make_comfyui, monkeypatch):
    report = {"torch": "2.14.1", "device": "cpu", "problems": [], "missing": ["torchsde", "einops"]}
    monkeypatch.setattr(environment, "inspect", lambda *_: report)
    with pytest.raises(QuickstartError, match="pip install torchsde einops"):
        environment.current(make_comfyui("c"), pack, ())


def test_inspection_of_a_broken_torchaudio(tmp_path):
    """The real script, where torchaudio refuses to load as it does beside a torch of another CUDA version."""
    pytest.importorskip("torch")
    (tmp_path / "torchaudio.py").write_text("raise RuntimeError('compiled with different CUDA versions')\n")
    (tmp_path / "torchaudio-2.11.0.dist-info").mkdir()
    (tmp_path / "torchaudio-2.11.0.dist-info" / "METADATA").write_text("Name: torchaudio\nVersion: 2.11.0\n")
    (tmp_path / "requirements.txt").write_text("torch\ntorchaudio\n")
    result = subprocess.run(
        [sys.executable, inspect_environment.__file__, str(tmp_path / "requirements.txt")],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    (problem,) = json.loads(result.stdout)["problems"]
    assert "torchaudio 2.11.0 does not fit torch" in problem and "different CUDA versions" in problem
