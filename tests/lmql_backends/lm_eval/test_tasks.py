"""Whole evaluations: lm_eval's own `simple_evaluate` and its command, over a folder of tasks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TASKS = ["dc_choices", "dc_rolling", "dc_lastword", "dc_generate"]
TOLERANCE = 1e-3

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def evaluated(model: Any, folder: Path) -> dict[str, Any]:
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    tasks = TaskManager(include_path=str(folder), include_defaults=False)
    results = simple_evaluate(model=model, tasks=TASKS, task_manager=tasks, bootstrap_iters=0)
    assert results is not None
    return results


def assert_same_metrics(theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    for task in TASKS:
        expected, found = theirs["results"][task], ours["results"][task]
        assert found.keys() == expected.keys()
        numbers = {name: value for name, value in expected.items() if isinstance(value, float)}
        assert numbers
        assert {name: found[name] for name in numbers} == pytest.approx(numbers, rel=TOLERANCE)


def assert_same_samples(theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    for task in TASKS:
        assert len(theirs["samples"][task]) == len(ours["samples"][task]) > 0
        for expected, found in zip(theirs["samples"][task], ours["samples"][task], strict=True):
            assert found["doc"] == expected["doc"]
            assert_same(expected["filtered_resps"], found["filtered_resps"])


def assert_same(expected: Any, found: Any) -> None:
    """Nested lists of log-likelihoods, greedy flags and texts (in a file, lm_eval writes all as texts)."""
    if isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for left, right in zip(expected, found, strict=True):
            assert_same(left, right)
    elif isinstance(expected, float):
        assert float(found) == pytest.approx(expected, abs=TOLERANCE)
    else:
        assert str(found) == str(expected)


def test_an_evaluation_gives_the_same_results(checkpoints, open_theirs, open_ours, task_folder):
    path = checkpoints["random"]
    theirs, ours = evaluated(open_theirs(path), task_folder), evaluated(open_ours(path), task_folder)
    assert_same_metrics(theirs, ours)
    assert_same_samples(theirs, ours)
    assert ours["config"]["model_backend"] == "transformers"


def logged_samples(folder: Path, task: str) -> list[dict[str, Any]]:
    (file,) = folder.rglob(f"samples_{task}_*.jsonl")
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_the_command_gives_the_same_results(checkpoints, open_theirs, task_folder, tmp_path, offline):
    path = checkpoints["embedded"]
    command = [sys.executable, "-m", "lmql_backends.lm_eval", "--model", "dcmodel"]
    command += ["--model_args", f"model={path},device=cpu", "--tasks", ",".join(TASKS)]
    command += ["--include_path", str(task_folder), "--output_path", str(tmp_path), "--log_samples"]
    done = subprocess.run(
        command,
        env={**os.environ, **offline, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "dc_choices" in done.stdout
    (file,) = tmp_path.rglob("results_*.json")
    ours = json.loads(file.read_text(encoding="utf-8"))
    ours["samples"] = {task: logged_samples(tmp_path, task) for task in TASKS}
    theirs = evaluated(open_theirs(path), task_folder)
    assert_same_metrics(theirs, ours)
    assert_same_samples(theirs, ours)
    assert ours["config"]["model"] == "dcmodel"
