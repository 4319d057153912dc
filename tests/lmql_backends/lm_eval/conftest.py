"""lm_eval's ``hf`` and ours on the same weights, and a folder of tasks over generated data."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conformance.backends import save_random_llama

from dcmodel.registry import Registry

pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed: pip install dcmodel[lm-eval]")
pytest.importorskip("accelerate", reason="lm_eval's hf model needs accelerate")

OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
MODELS = ("embedded", "random")


@dataclass(frozen=True)
class Pair:
    """Both models over one checkpoint."""

    path: str
    theirs: Any
    ours: Any


@pytest.fixture(scope="session", autouse=True)
def offline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Nothing may ask the network; datasets are kept in a folder of this run (read when it is imported)."""
    variables = {**OFFLINE, "HF_DATASETS_CACHE": str(tmp_path_factory.mktemp("datasets"))}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        yield variables


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {
        "embedded": str(Registry().embedded_path()),
        "random": save_random_llama(tmp_path_factory.mktemp("random")),
    }


@pytest.fixture(scope="session")
def open_ours() -> Iterator[Callable[..., Any]]:
    """Makes a model of ours by its registered name, as lm_eval does it; closed at the end."""
    from lm_eval.api.registry import get_model

    from lmql_backends.lm_eval import register

    register()
    opened: list[Any] = []

    def open_model(path: str, **arguments: Any) -> Any:
        given = {"pretrained": path, "device": "cpu", **arguments}
        opened.append(get_model("dcmodel").create_from_arg_obj(given, {"batch_size": 1}))
        return opened[-1]

    yield open_model
    for model in opened:
        model.close()


@pytest.fixture(scope="session")
def open_theirs() -> Callable[..., Any]:
    import torch
    from lm_eval.models.huggingface import HFLM

    torch.set_num_threads(1)
    return lambda path, **arguments: HFLM(
        pretrained=path, device="cpu", dtype="float32", batch_size=4, **arguments
    )


@pytest.fixture(scope="session", params=MODELS)
def pair(
    request: pytest.FixtureRequest,
    checkpoints: dict[str, str],
    open_ours: Callable[..., Any],
    open_theirs: Callable[..., Any],
) -> Pair:
    path = checkpoints[request.param]
    return Pair(path, open_theirs(path), open_ours(path))


@pytest.fixture(scope="session")
def task_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``--include_path`` for four tasks, one of each kind of request."""
    folder = tmp_path_factory.mktemp("tasks")
    for name, (config, documents) in TASKS.items():
        data = folder / f"{name}.jsonl"
        data.write_text("".join(json.dumps(document) + "\n" for document in documents), encoding="utf-8")
        task = {
            "task": f"dc_{name}",
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(data)}},
            "test_split": "test",
            "metadata": {"version": 1},
            **config,
        }
        # JSON is YAML.
        (folder / f"{name}.yaml").write_text(json.dumps(task), encoding="utf-8")
    return folder


def _metrics(*names: str) -> list[dict[str, Any]]:
    return [{"metric": name} for name in names]


QUESTIONS = [
    {"context": context, "choices": choices, "label": number % 2}
    for number, (context, choices) in enumerate(
        [
            ("Mira lives in", [" Velden", " Velden and", " the"]),
            ("Question: is 3 more than 2?\nAnswer:", [" yes", " no"]),
            ("It is either ", ["true", "false", "tru"]),
            ("", ["yes", "yes yes"]),
            ("Question: is 3 more than 2?\nAnswer:", [" yes", " no"]),
            ("No border", ["s", "less world", " here"]),
        ]
    )
]
TEXTS = [
    {"text": text}
    for text in ["The quick brown fox jumps.", 'A {"name": "Mira"} and more\n\n' * 12, "x", "ein Käse 🙂"]
]
WORDS = [
    {"text": f"{left} plus {right} is", "answer": str(left + right)}
    for left, right in [(1, 2), (3, 4), (5, 5)]
]
TASKS: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "choices": (
        {
            "output_type": "multiple_choice",
            "doc_to_text": "{{context}}",
            "doc_to_choice": "{{choices}}",
            "doc_to_target": "label",
            "target_delimiter": "",
            "metric_list": _metrics("acc", "acc_norm"),
        },
        QUESTIONS,
    ),
    "rolling": (
        {
            "output_type": "loglikelihood_rolling",
            "doc_to_text": "",
            "doc_to_target": "{{text}}",
            "metric_list": _metrics("word_perplexity", "byte_perplexity", "bits_per_byte"),
        },
        TEXTS,
    ),
    "lastword": (
        {
            "output_type": "loglikelihood",
            "doc_to_text": "{{text}}",
            "doc_to_target": "{{answer}}",
            "metric_list": _metrics("perplexity", "acc"),
        },
        WORDS,
    ),
    "generate": (
        {
            "output_type": "generate_until",
            "fewshot_split": "test",
            "num_fewshot": 1,
            "doc_to_text": "{{text}}",
            "doc_to_target": "{{answer}}",
            "generation_kwargs": {"until": ["\n\n", "."], "max_gen_toks": 12, "do_sample": False},
            "metric_list": _metrics("exact_match"),
        },
        WORDS,
    ),
}
