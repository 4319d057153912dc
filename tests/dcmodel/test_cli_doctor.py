from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from fakes.scripted_model import ScriptedModel

from dcmodel.cli import doctor, main
from dcmodel.cli.doctor import Check, Status
from dcmodel.registry import Registry

ROOT = Path(__file__).parents[2]


def test_the_tested_versions_are_those_of_the_constraints_file():
    pinned = dict(re.findall(r"^([\w-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    assert doctor.TESTED.items() <= pinned.items()


def test_python_versions_outside_the_tested_ones_are_noted():
    assert doctor.check_python((3, 12)).status is Status.OK
    assert doctor.check_python((3, 14)).status is Status.NOTE


@pytest.mark.parametrize(
    ("version", "status", "text"),
    [
        ("2.13.0", Status.OK, "2.13.0"),
        ("2.13.0+cpu", Status.OK, "2.13.0+cpu"),
        ("2.11.0", Status.NOTE, "tested with 2.13.0"),
        (None, Status.NOTE, "not installed"),
    ],
)
def test_versions_are_compared_with_the_tested_ones(version, status, text):
    check = doctor.check_distribution("torch", "2.13.0", Registry(version_of=lambda name: version))
    assert check.status is status
    assert text in check.detail
    if version is None:
        assert check.next_command == 'pip install "dcmodel[transformers]"'


def test_a_missing_required_package_is_a_failure():
    check = doctor.check_distribution("numpy", "2.4.6", Registry(version_of=lambda name: None))
    assert check.status is Status.FAILED
    assert check.next_command.startswith("pip install")


def test_settings_are_shown_and_misspelt_ones_noted(monkeypatch):
    monkeypatch.setenv("DCMODEL_DEVISE", "cpu")
    monkeypatch.setenv("DCMODEL_DTYPE", "float16")
    note, summary = doctor.check_settings()
    assert note.status is Status.NOTE
    assert "did you mean DCMODEL_DEVICE" in note.detail
    assert "dtype=float16" in summary.detail


def test_a_bad_setting_is_a_failure(monkeypatch):
    monkeypatch.setenv("DCMODEL_DTYPE", "float7")
    (check,) = doctor.check_settings()
    assert check.status is Status.FAILED
    assert "DCMODEL_DTYPE" in check.detail


def test_an_embedded_model_that_does_not_load_is_a_failure_with_its_remedy():
    registry = Registry(version_of=lambda name: None)
    check = doctor.check_embedded(registry)
    assert check.status is Status.FAILED
    assert "pip install" in check.next_command


@pytest.fixture(autouse=True)
def no_loading_bar(monkeypatch):
    """What the command sets for itself must not stay in this process."""
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")


@pytest.fixture
def checks(monkeypatch):
    def replace(*items):
        monkeypatch.setattr(doctor, "run_checks", lambda: iter(items))

    return replace


def test_the_exit_code_tells_whether_anything_failed(checks, capsys):
    checks(Check("a", Status.OK, "fine"), Check("b", Status.NOTE, "so so", "try this"))
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "next: try this" in out
    assert "Everything works." in out
    checks(Check("a", Status.FAILED, "broken", "pip install it"))
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "FAILED  a: broken" in out
    assert "next: pip install it" in out
    assert "Everything works." not in out


def test_json_lists_all_checks(checks, capsys):
    checks(Check("a", Status.OK, "fine"), Check("b", Status.FAILED, "broken", "pip install it"))
    assert main(["doctor", "--json"]) == 1
    result = json.loads(capsys.readouterr().out)
    assert result["ok"] is False
    assert result["checks"][1] == {
        "name": "b",
        "status": "FAILED",
        "detail": "broken",
        "next_command": "pip install it",
    }


def test_all_checks_run_on_this_installation(monkeypatch):
    monkeypatch.setattr(Registry, "load", lambda self, *_, **__: ScriptedModel())
    names = [check.name for check in doctor.run_checks()]
    assert names[0] == "python"
    assert {"numpy", "torch", "settings", "device", "choice"} <= set(names)
    assert names[-1] == "embedded model"
