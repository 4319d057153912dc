"""Names become files: paths, folders, and what lies in the Hub's cache. Nothing is downloaded."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from dcmodel.errors import MissingDependencyError, ModelLoadError, ModelNotFoundError
from lmql_backends.llama_cpp.hub import local_file

huggingface_hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
errors = pytest.importorskip("huggingface_hub.errors")

RESPONSE = SimpleNamespace(headers={}, request=None)
# The last ones look like names on the Hub and cannot be any.
NOWHERE = [
    *("none.gguf", "none", "org/none.gguf", "/a/b/c/d/none.gguf", "a b/c/d.gguf"),
    *("../x/y/d.gguf", "a--b/c/d.gguf", "x/-y/d.gguf"),
]
COMMIT, OLDER = "c" * 40, "d" * 40
PROGRAM = """
import sys
from dcmodel.errors import ModelNotFoundError
from lmql_backends.llama_cpp.hub import local_file
for argument in sys.argv[1:]:
    name, _, revision = argument.partition("@")
    try:
        print(local_file(name, {"revision": revision} if revision else {}))
    except ModelNotFoundError as error:
        print(error)
"""


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"GGUF")
    return folder


def lay_out(home, repo, files, *, commit=COMMIT, branch="main"):
    """`files` as the Hub's client keeps them in its cache, under one commit and the branch that names it."""
    folder = home / "hub" / f"models--{repo.replace('/', '--')}"
    touch(folder / "snapshots" / commit, *files)
    reference = folder / "refs" / branch
    reference.parent.mkdir(parents=True, exist_ok=True)
    reference.write_text(commit)
    return folder / "snapshots" / commit


def offline(home, *names):
    """What `local_file` says of each name (and ``@revision``) in a process that cannot reach the Hub.

    One of its own, because the Hub's client reads its settings when it is imported.
    """
    hidden = ("HF_", "HUGGINGFACE_")
    settings = {key: value for key, value in os.environ.items() if not key.startswith(hidden)}
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, *names],
        env={**settings, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1"},
        cwd=home,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


def test_a_path_is_itself(tmp_path, monkeypatch):
    touch(tmp_path, "model.gguf", "no-suffix")
    for name in ("model.gguf", "no-suffix"):
        assert local_file(str(tmp_path / name), {}) == tmp_path / name
    monkeypatch.chdir(tmp_path)
    assert local_file("model.gguf", {}) == Path("model.gguf")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert local_file("~/model.gguf", {}) == tmp_path / "model.gguf"


def test_a_local_file_comes_before_the_hub(tmp_path, monkeypatch):
    touch(tmp_path, "org/repo/model.gguf")
    monkeypatch.chdir(tmp_path)
    assert local_file("org/repo/model.gguf", {}) == Path("org/repo/model.gguf")


@pytest.mark.parametrize("name", NOWHERE)
def test_a_path_that_leads_nowhere_is_named(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelNotFoundError, match=f"there is no file {name}.*org/repo/file.gguf"):
        local_file(name, {})


def test_a_missing_file_in_a_folder_that_exists_is_not_asked_of_the_hub(tmp_path, monkeypatch):
    touch(tmp_path, "models/llama/here.gguf")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelNotFoundError, match=r"there is no file models/llama/gone\.gguf"):
        local_file("models/llama/gone.gguf", {})


@pytest.mark.parametrize(
    ("files", "chosen"),
    [
        (["model.gguf"], "model.gguf"),
        (["model.gguf", "mmproj-model.gguf", "README.md", "config.json"], "model.gguf"),
        (
            ["a-00001-of-00003.gguf", "a-00002-of-00003.gguf", "a-00003-of-00003.gguf"],
            "a-00001-of-00003.gguf",
        ),
    ],
)
def test_a_folder_with_one_model_is_that_model(tmp_path, files, chosen):
    touch(tmp_path, *files)
    assert local_file(str(tmp_path), {}) == tmp_path / chosen


def test_a_folder_without_a_model_says_what_makes_one(tmp_path):
    touch(tmp_path, "model.safetensors", "mmproj.gguf")
    with pytest.raises(ModelNotFoundError, match=r"no GGUF file in .*convert_hf_to_gguf\.py"):
        local_file(str(tmp_path), {})


@pytest.mark.parametrize(
    "files", [["a.gguf", "b.gguf"], ["a.gguf", "b-00001-of-00002.gguf", "b-00002-of-00002.gguf"]]
)
def test_a_folder_with_several_models_lists_them(tmp_path, files):
    touch(tmp_path, *files)
    with pytest.raises(ModelNotFoundError, match=rf"holds 2 models: a\.gguf, {files[1]}\. Name one"):
        local_file(str(tmp_path), {})


def test_a_file_that_is_not_in_the_cache_says_so(tmp_path):
    (found,) = offline(tmp_path, "org/repo/model.gguf")
    assert found.startswith("org/repo/model.gguf is not in the cache")
    assert "HF_HUB_OFFLINE" in found


def test_a_file_in_the_cache_needs_no_network(tmp_path):
    files = ["model.gguf", "Q4_K_M/model.Q4_K_M.gguf"]
    folder = lay_out(tmp_path, "org/repo", files)
    *found, other = offline(tmp_path, *(f"org/repo/{file}" for file in [*files, "other.gguf"]))
    assert found == [str(folder / file) for file in files]
    assert "org/repo/other.gguf is not in the cache" in other


def test_a_revision_is_a_branch_or_a_commit(tmp_path):
    newer = lay_out(tmp_path, "org/repo", ["model.gguf"])
    older = lay_out(tmp_path, "org/repo", ["model.gguf"], commit=OLDER, branch="v1")
    revisions = ("", "@main", "@v1", f"@{OLDER}", "@v2")
    *found, missing = offline(tmp_path, *(f"org/repo/model.gguf{revision}" for revision in revisions))
    assert found == [str(folder / "model.gguf") for folder in (newer, newer, older, older)]
    assert "is not in the cache" in missing


def test_all_parts_of_a_model_are_fetched_and_the_first_is_given(tmp_path):
    files = [f"q8/model-{part:05}-of-00003.gguf" for part in (1, 2, 3)]
    folder = lay_out(tmp_path, "org/repo", files)
    whole = offline(tmp_path, *(f"org/repo/{file}" for file in files))
    assert whole == [str(folder / files[0])] * 3
    (folder / files[1]).unlink()
    (cut,) = offline(tmp_path, f"org/repo/{files[0]}")
    assert f"org/repo/{files[1]} is not in the cache" in cut


@pytest.mark.parametrize(
    ("failure", "error", "reason"),
    [
        (errors.EntryNotFoundError, ModelNotFoundError, "the Hub has no org/repo/model.gguf"),
        (errors.RepositoryNotFoundError, ModelNotFoundError, "private and gated models run: hf auth login"),
        (errors.GatedRepoError, ModelNotFoundError, "hf auth login"),
        (errors.LocalEntryNotFoundError, ModelNotFoundError, "the Hub cannot be reached"),
        (errors.HfHubHTTPError, ModelLoadError, "cannot be downloaded: it is so"),
        (OSError, ModelLoadError, "cannot be downloaded: it is so"),
    ],
)
def test_what_the_client_raises_is_one_of_our_errors(tmp_path, monkeypatch, failure, error, reason):
    def fail(repo, file, *, revision):
        assert (repo, file, revision) == ("org/repo", "model.gguf", "v1")
        is_answer = issubclass(failure, errors.HfHubHTTPError)
        raise failure("it is so", response=RESPONSE) if is_answer else failure("it is so")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(error, match=reason):
        local_file("org/repo/model.gguf", {"revision": "v1"})


def test_without_the_hubs_client_its_install_command_is_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingDependencyError, match="pip install huggingface_hub"):
        local_file("org/repo/model.gguf", {})
