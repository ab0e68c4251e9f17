"""Which torch is installed: by system and GPU, by what the person says, and what happens when an index is silent."""

import io
import socket
import time

import pytest

from quickstart_lib import environment, torch_source
from quickstart_lib.errors import QuickstartError
from quickstart_lib.installer import Installer, Meter, size_of
from quickstart_lib.terminal import Status


@pytest.fixture
def computer(monkeypatch):
    """computer(platform, nvidia, machine): a computer of that kind."""

    def become(platform="linux", nvidia=False, machine="x86_64"):
        monkeypatch.setattr(torch_source.sys, "platform", platform)
        monkeypatch.setattr(torch_source.platform, "machine", lambda: machine)
        monkeypatch.setattr(torch_source, "has_nvidia", lambda: nvidia)

    yield become
    monkeypatch.undo()


def names(choice="auto", reachable=True):
    return [source.name for source in torch_source.choose(choice, lambda _index: reachable)]


@pytest.mark.parametrize(
    ("platform", "nvidia", "machine", "expected"),
    [
        ("linux", False, "x86_64", ["cpu", "registry"]),
        ("linux", True, "x86_64", ["registry"]),
        ("linux", False, "aarch64", ["registry"]),
        ("win32", False, "AMD64", ["registry"]),
        ("win32", True, "AMD64", ["cuda", "registry"]),
        ("darwin", False, "arm64", ["registry"]),
    ],
)
def test_auto_takes_the_small_build_where_no_gpu_is(computer, platform, nvidia, machine, expected):
    computer(platform, nvidia, machine)
    assert names() == expected
    assert names(reachable=False) == ["registry"]


def test_the_cost_is_told(computer):
    computer()
    cpu, registry = torch_source.choose("auto", lambda _index: True)
    assert cpu.cost() == "0.9 GB to download, 3 GB on disk" and registry.cost() == "3.9 GB to download, 7 GB on disk"


def test_a_person_chooses(computer, tmp_path):
    computer()
    assert names("cpu", reachable=False) == ["cpu"] and names("cuda") == ["registry"]
    (index,) = torch_source.choose("https://example.invalid/whl")
    assert index.arguments[:2] == ("--index-url", "https://example.invalid/whl") and not index.pinned
    wheel = tmp_path / "torch-9.9-cp311-none-any.whl"
    wheel.touch()
    (tmp_path / "other-1-none.whl").touch()
    for given in (wheel, tmp_path):
        (own,) = torch_source.choose(str(given))
        assert own.arguments == (str(wheel), "torchvision", "torchaudio")
    with pytest.raises(QuickstartError, match="--torch is gpu, .*neither cpu nor cuda"):
        torch_source.choose("gpu")
    computer("darwin")
    with pytest.raises(QuickstartError, match="no CUDA on macOS"):
        torch_source.choose("cuda")


def test_a_silent_index_counts_as_no():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        start = time.monotonic()
        assert not torch_source.answers(f"http://127.0.0.1:{silent.getsockname()[1]}", limit=0.3)
        assert time.monotonic() - start < 3


def test_the_registry_helps_out_and_own_builds_are_not_pinned(tmp_path, monkeypatch):
    calls, stream = [], io.StringIO()

    def pip(self, title, *arguments, expected=None):
        calls.append((arguments, self.constraints.read_text()))
        if "--index-url" in arguments and len(calls) == 1:
            raise QuickstartError("no such version")

    monkeypatch.setattr(Installer, "pip", pip)
    (tmp_path / "env").mkdir()
    (tmp_path / "c.txt").write_text("torch==1\ntorchaudio==1\ntimm==2\n")
    installer = Installer(tmp_path / "env", tmp_path / "c.txt", tmp_path / "log", Status(stream))
    source = torch_source.TorchSource("cpu", ("--index-url", "x"), "for the CPU", 0.3, 3)
    registry = torch_source.TorchSource("registry", ("torch",), "with CUDA", 3.3, 7)
    assert installer.torch([source, registry]) is registry and "taking the registry's" in stream.getvalue()
    own = torch_source.TorchSource("https://x", ("--index-url", "https://x"), "from x", None, 7, pinned=False)
    installer.torch([own])
    assert calls[1][1].startswith("torch==1") and calls[2][1] == "timm==2\n"


def test_another_torch_makes_the_environment_anew():
    marker = {"groups": {"": "key"}, "source": "cpu"}
    assert environment._fits(marker, {"": "key"}, environment.Wishes())
    assert environment._fits(marker, {"": "key"}, environment.Wishes("cpu"))
    assert not environment._fits(marker, {"": "key"}, environment.Wishes("https://x"))


def test_sizes_are_shown_while_it_installs(tmp_path):
    stream = io.StringIO()
    downloads = tmp_path / "env" / "downloads"
    downloads.mkdir(parents=True)
    (downloads / "torch.whl").write_bytes(bytes(5_000_000))
    log = tmp_path / "log"
    log.write_text("Installing collected packages: of another step\n")
    meter = Meter("Installing torch", tmp_path / "env", downloads, 3.3, log, Status(stream))
    with open(log, "a") as file:
        file.write("Downloading torch.whl (900 MB)\n")
    meter.tick(0.0)
    meter.tick(31.0)
    assert stream.getvalue().splitlines()[0] == "Installing torch"
    assert "5 MB of about 3.3 GB downloaded" in stream.getvalue()
    with open(log, "a") as file:
        file.write("Installing collected packages: torch\n  Attempting uninstall: setuptools\n")
    meter.tick(200.0)
    assert "unpacking, 0 MB on disk" in stream.getvalue() and size_of(tmp_path / "env") == 5_000_000
