from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path
from typing import ClassVar

import pytest
from fakes.scripted_model import ScriptedModel

from dcmodel.backend import Backend, LoadOptions
from dcmodel.env import Settings
from dcmodel.errors import (
    BackendNotFoundError,
    MissingDependencyError,
    ModelNotFoundError,
    SetupError,
)
from dcmodel.registry import EMBEDDED, Registry, installed_version, pip_line


class Plain(Backend):
    """Stands for the transformers backend: claims nothing by form."""

    name = "transformers"
    summary = "checkpoints"
    extra = "transformers"
    distributions = ("torch", "transformers")
    guarantees: ClassVar = {"masks": "exact"}

    def __init__(self):
        self.loaded = []

    def claims(self, model):
        return False

    def load(self, model, options):
        self.loaded.append((model, options))
        return ScriptedModel()


class Suffix(Plain):
    name = "suffix"
    extra = ""
    distributions = ("left-pad",)

    def claims(self, model):
        return model.endswith(".gguf")


class Gguf(Plain):
    name = "llama_cpp"
    extra = "llamacpp"
    distributions = ("llama-cpp-python",)
    model_format = "gguf"

    def claims(self, model):
        return model.endswith(".gguf")


class Fast(Plain):
    name = "vllm"
    extra = "vllm"
    distributions = ("vllm",)


class Unimportable(Plain):
    def load(self, model, options):
        raise ImportError("libtorch.so: cannot open shared object file")


PLAIN = Plain()
SUFFIX = Suffix()
FAST = Fast()
GGUF = Gguf()
UNIMPORTABLE = Unimportable()
NOT_A_BACKEND = 3
MODEL_DIR = Path("/models/tiny")
EVERYTHING = {"torch": "2.13.0", "transformers": "5.23.0", "left-pad": "1", "vllm": "0.33"}


def make_gguf():
    return Path("/cache/tiny.gguf")


def registry(*, installed=EVERYTHING, engines=(("transformers", "PLAIN"),), embedded=True, device=False):
    groups = {
        "dcmodel.engines": [
            EntryPoint(name, f"{__name__}:{attribute}", "dcmodel.engines") for name, attribute in engines
        ],
        "dcmodel.embedded": [
            EntryPoint("safetensors", f"{__name__}:MODEL_DIR", "dcmodel.embedded"),
            EntryPoint("gguf", f"{__name__}:make_gguf", "dcmodel.embedded"),
        ]
        * embedded,
    }
    return Registry(
        entry_points=lambda group: groups.get(group, []),
        version_of=installed.get,
        has_accelerator=lambda: device,
    )


ALL = (("transformers", "PLAIN"), ("suffix", "SUFFIX"), ("vllm", "FAST"))


def test_an_explicit_backend_wins_over_everything():
    decision = registry(engines=ALL).choose(
        "model.gguf", explicit="transformers", settings=Settings(backend="vllm")
    )
    assert decision.backend == "transformers"
    assert "asked for" in decision.reasons[0]


def test_the_environment_wins_over_the_form_of_the_name():
    decision = registry(engines=ALL).choose("model.gguf", settings=Settings(backend="vllm"))
    assert decision.backend == "vllm"
    assert "DCMODEL_BACKEND" in decision.reasons[0]


def test_the_form_of_the_name_wins_over_what_is_installed():
    decision = registry(engines=ALL, device=True).choose("model.gguf")
    assert decision.backend == "suffix"
    assert "model.gguf" in decision.reasons[-1]


def test_vllm_is_chosen_where_it_is_installed_and_has_a_device():
    assert registry(engines=ALL, device=True).choose("org/model").backend == "vllm"


@pytest.mark.parametrize(
    ("options", "settings", "why"),
    [
        ({"device": False}, Settings(), "no device"),
        ({"device": True}, Settings(device="cpu"), "no device"),
        ({"device": True, "installed": {"torch": "1", "transformers": "1"}}, Settings(), "not installed"),
        ({"device": True, "engines": ALL[:2]}, Settings(), "not registered"),
    ],
)
def test_else_transformers_with_the_reason_why_not_vllm(options, settings, why):
    decision = registry(**{"engines": ALL, **options}).choose("org/model", settings=settings)
    assert decision.backend == "transformers"
    assert why in " ".join(decision.reasons)


def test_the_embedded_model_is_a_transformers_checkpoint_and_found_by_entry_point():
    chosen = registry(engines=ALL, device=True)
    assert chosen.choose(EMBEDDED).backend == "transformers"
    chosen.load(EMBEDDED, LoadOptions())
    assert PLAIN.loaded[-1][0] == str(MODEL_DIR)


WITH_GGUF = (("transformers", "PLAIN"), ("suffix", "SUFFIX"), ("llama_cpp", "GGUF"))


def test_the_embedded_model_is_given_in_the_form_that_a_backend_takes():
    chosen = registry(engines=WITH_GGUF, installed={**EVERYTHING, "llama-cpp-python": "0.3.36"})
    chosen.load(EMBEDDED, LoadOptions(), explicit="llama_cpp")
    assert GGUF.loaded[-1][0] == str(make_gguf())


@pytest.mark.parametrize(
    ("installed", "backend", "why"),
    [
        ({"llama-cpp-python": "0.3.36"}, "llama_cpp", "transformers is not installed"),
        ({"llama-cpp-python": "0.3.36", "torch": "2.13.0"}, "llama_cpp", "runs the embedded model"),
        ({"llama-cpp-python": "0.3.36", **EVERYTHING}, "transformers", "a transformers checkpoint"),
        ({}, "transformers", "a transformers checkpoint"),
    ],
)
def test_the_embedded_model_runs_on_what_is_installed(installed, backend, why):
    decision = registry(engines=WITH_GGUF, installed=installed).choose(EMBEDDED)
    assert decision.backend == backend
    assert why in " ".join(decision.reasons)


def test_a_gguf_file_without_llama_cpp_gives_the_line_that_installs_it():
    with pytest.raises(MissingDependencyError, match="llama-cpp-python") as caught:
        registry(engines=WITH_GGUF[::2]).load("model.gguf", LoadOptions())
    assert 'pip install "dcmodel[llamacpp]"' in str(caught.value)


def test_a_form_that_is_not_there_is_an_error():
    with pytest.raises(ModelNotFoundError, match="'onnx'"):
        registry().embedded_path("onnx")


def test_without_an_embedded_model_the_error_says_what_to_do():
    with pytest.raises(ModelNotFoundError, match="name a model"):
        registry(embedded=False).embedded_path()


def test_an_unknown_backend_is_an_error_that_lists_the_known_ones():
    with pytest.raises(BackendNotFoundError, match=r"'nope' \(registered: suffix, transformers, vllm\)"):
        registry(engines=ALL).load("model", LoadOptions(), explicit="nope")


def test_a_missing_extra_is_an_error_with_the_pip_line():
    with pytest.raises(MissingDependencyError) as caught:
        registry(installed={"torch": "2.13.0"}).load("model", LoadOptions())
    assert "needs transformers, which is not installed" in str(caught.value)
    assert 'pip install "dcmodel[transformers]"' in str(caught.value)


def test_a_plug_in_without_an_extra_names_its_packages():
    with pytest.raises(MissingDependencyError, match="pip install left-pad"):
        registry(installed={}, engines=ALL).load("model.gguf", LoadOptions())
    assert pip_line(SUFFIX) == "pip install left-pad"


def test_a_broken_plug_in_is_named_and_only_fatal_when_asked_for():
    broken = registry(engines=(*ALL, ("broken", "no_such_name")))
    assert broken.choose("org/model").backend == "transformers"
    assert any(reason.startswith("broken was left out") for reason in broken.choose("org/model").reasons)
    assert "no_such_name" in broken.status("broken").error
    with pytest.raises(SetupError, match=r"'broken'.*cannot be imported"):
        broken.load("org/model", LoadOptions(), explicit="broken")


def test_an_entry_point_that_is_no_backend_is_named():
    with pytest.raises(SetupError, match="'wrong' is a int"):
        registry(engines=(("wrong", "NOT_A_BACKEND"),)).backend("wrong")


def test_a_library_that_is_installed_and_cannot_be_imported_is_a_setup_error():
    with pytest.raises(SetupError, match="libtorch"):
        registry(engines=(("transformers", "UNIMPORTABLE"),)).load("model", LoadOptions())


def test_naming_the_backends_imports_none():
    assert registry(engines=(*ALL, ("broken", "no_such_name"))).names() == (
        "broken",
        "suffix",
        "transformers",
        "vllm",
    )


def test_packages_are_found_by_their_metadata_not_by_a_folder_of_the_same_name(monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])
    assert installed_version("tokenizers") is not None
    assert installed_version("dcmodel-no-such-package") is None


def test_our_backends_are_registered_like_anybodys():
    names = Registry().names()
    assert "transformers" in names
    for name in names:
        status = Registry().status(name)
        assert not status.error
        assert status.backend is not None
        assert status.backend.name == name
        assert status.backend.summary
        assert status.backend.guarantees
