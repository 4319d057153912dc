"""The table of backends is what the conformance suite found, and nothing else."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conformance.recording import FEATURES, suite_tests

ROOT = Path(__file__).parents[2]
RECORD = ROOT / "docs" / "conformance.json"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("backend_table", ROOT / "scripts" / "backend_table.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["backend_table"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["backend_table"]


@pytest.fixture(scope="module")
def record():
    return json.loads(RECORD.read_text("utf-8"))


def test_the_readme_and_the_details_are_what_the_script_makes_of_the_record(script, record):
    for path, text in script.files(record).items():
        assert path.read_text("utf-8") == text, f"{path.name} is not what the record says: make table"


def test_the_record_is_not_older_than_the_suite(script, record):
    wanted = suite_tests()
    assert set(record["tests"]) == wanted
    for cases in script.COLUMNS.values():
        for case in cases:
            found = set(record["cases"][case]["outcomes"])
            assert found == wanted, f"python scripts/backend_table.py --run {case}"


def test_nothing_in_the_record_failed(record):
    failed = [
        (case, test)
        for case, entry in record["cases"].items()
        for test, outcome in entry["outcomes"].items()
        if outcome.get("failed")
    ]
    assert not failed


def test_the_script_and_the_suite_know_the_same_features(script, record):
    assert tuple(script.FEATURES) == FEATURES
    assert {feature for features in record["tests"].values() for feature in features} <= set(FEATURES)


def one_case(**outcome):
    case = {"limits": {"log_mass": "it is not shown"}, "outcomes": {"t": outcome}}
    return {"tests": {"t": ["score"]}, "cases": {"a": case}}


@pytest.mark.parametrize(
    ("outcome", "shown"),
    [
        ({"passed": 3}, "yes"),
        ({"passed": 3, "skipped": ["the other one runs the same code"]}, "yes"),
        ({"passed": 3, "limited": ["log_mass"]}, "[within limits](LINK)"),
        ({"limited": ["log_mass"]}, "no: it is not shown"),
        ({"skipped": ["llama_cpp is not installed"]}, "not run"),
        ({"passed": 3, "failed": 1}, "**1 of 4 tests fail**"),
    ],
)
def test_a_cell_says_yes_only_if_everything_passed(script, outcome, shown):
    assert script.cell(one_case(**outcome), ["a", "not-recorded"], "score").shown("LINK") == shown
    assert script.cell(one_case(**outcome), ["a"], "masks").shown("LINK") == "not run"


def test_a_readme_without_markers_is_an_error(script):
    with pytest.raises(SystemExit, match="lacks the lines"):
        script.inserted("# dcmodel\n", "|")


def test_what_stands_around_the_markers_stays(script):
    readme = f"before\n{script.BEGIN}\nold\n{script.END}\nafter\n"
    assert script.inserted(readme, "new") == readme.replace("old", "new")


def record_run(path, *arguments):
    # The surrounding run's own options must not reach this one.
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--record={path}", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        cwd=ROOT,
        env=environ,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(path.read_text("utf-8"))


def test_a_run_is_recorded_and_merged_with_earlier_ones(tmp_path):
    path = tmp_path / "record.json"
    earlier = {
        "tests": {"test_gone.py::test_x": ["score"]},
        "cases": {"other": {"limits": {}, "outcomes": {"test_gone.py::test_x": {"passed": 1}}}},
    }
    path.write_text(json.dumps(earlier))
    found = record_run(path, "tests/conformance/test_at_the_door.py", "--backend=fake")
    assert found["cases"]["other"]["outcomes"] == {}  # that test is gone
    case = found["cases"]["fake"]
    assert case["versions"]["dcmodel"]
    assert case["outcomes"]["test_at_the_door.py::test_bad_parameters_are_named"]["passed"] > 1
    assert set(case["outcomes"]) == set(found["tests"]) < suite_tests()


def test_a_run_in_several_processes_is_not_recorded(tmp_path):
    pytest.importorskip("xdist")
    path = tmp_path / "record.json"
    command = [sys.executable, "-m", "pytest", "-n", "2", f"--record={path}", "tests/conformance"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240, cwd=ROOT)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "--record needs all tests in one process" in done.stderr
    assert not path.exists()


def test_a_backend_that_is_not_there_leaves_the_record_as_it_was(tmp_path):
    if importlib.util.find_spec("llama_cpp") is not None:
        pytest.skip("llama-cpp-python is installed")
    assert (
        record_run(tmp_path / "r.json", "tests/conformance/test_at_the_door.py", "--backend=llama_cpp")[
            "cases"
        ]
        == {}
    )
