"""LoRA adapters, against a model whose weights were merged with numpy."""

from __future__ import annotations

import numpy as np
import pytest
from gguf_adapters import NAMES, RANK, merged, random_adapter, save_adapter
from gguf_models import save_mamba

from dcmodel.errors import InvalidRequestError, ModelLoadError, ModelNotFoundError

from .conftest import rows_of, span_of

TOKENS = list(range(5, 25))


def logits(open_engine, path, **extra):
    engine = open_engine(path, extra={"n_threads": 1, **extra})
    (rows,) = rows_of(engine, span_of(engine.allocate(64), TOKENS))
    return rows


@pytest.fixture(scope="module")
def adapters(llama, tmp_path_factory):
    """Two adapters: what is in them, and their files."""
    folder = tmp_path_factory.mktemp("adapters")
    both = [random_adapter(llama[1], seed) for seed in (0, 1)]
    return both, [save_adapter(folder / f"{i}.gguf", factors) for i, factors in enumerate(both)]


def test_an_adapter_gives_what_merged_weights_give(llama, adapters, open_engine, tmp_path):
    (first, _), (path, _) = adapters
    expected = logits(open_engine, merged(llama[1], tmp_path / "m.gguf", (first, 1.0)))
    for form in (str(path), [path], [(str(path), 1)]):
        np.testing.assert_allclose(logits(open_engine, llama[1], lora=form), expected, atol=1e-4, rtol=0)
    assert np.abs(expected - logits(open_engine, llama[1])).max() > 0.1


def test_many_adapters_add_up_each_with_its_scale(llama, adapters, open_engine, tmp_path):
    (first, second), paths = adapters
    target = merged(llama[1], tmp_path / "m.gguf", (first, 0.5), (second, -0.25))
    found = logits(open_engine, llama[1], lora=[(paths[0], 0.5), (paths[1], -0.25)])
    np.testing.assert_allclose(found, logits(open_engine, target), atol=1e-4, rtol=0)


def test_a_file_that_is_not_there_is_named(llama, open_engine, tmp_path):
    with pytest.raises(ModelNotFoundError, match=r"none\.gguf"):
        logits(open_engine, llama[1], lora=str(tmp_path / "none.gguf"))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"architecture": "gemma"}, "arch"),
        ({"general_type": "model"}, "adapter"),
        ({"adapter_type": "control_vector"}, "lora"),
    ],
)
def test_a_file_that_is_no_adapter_for_this_model_is_refused(
    llama, adapters, open_engine, tmp_path, options, reason
):
    path = save_adapter(tmp_path / "bad.gguf", adapters[0][0], **options)
    with pytest.raises(ModelLoadError, match=rf"bad\.gguf is no LoRA adapter for model\.gguf: .*{reason}"):
        logits(open_engine, llama[1], lora=path)


def test_an_adapter_of_another_shape_or_of_other_tensors_is_refused(llama, open_engine, tmp_path):
    zeros = np.zeros((8, RANK), np.float32), np.zeros((RANK, 8), np.float32)
    for name in (NAMES[0], "blk.99.attn_q.weight"):
        path = save_adapter(tmp_path / "bad.gguf", {name: zeros})
        with pytest.raises(ModelLoadError, match=r"bad\.gguf.*(shape|no tensor)"):
            logits(open_engine, llama[1], lora=path)


def test_a_model_is_no_adapter(llama, open_engine, tmp_path):
    with pytest.raises(ModelLoadError, match="no LoRA adapter"):
        logits(open_engine, llama[1], lora=llama[1])
    (tmp_path / "text.gguf").write_text("no GGUF at all")
    with pytest.raises(ModelLoadError, match=r"text\.gguf is no GGUF file"):
        logits(open_engine, llama[1], lora=tmp_path / "text.gguf")
    with pytest.raises(ModelLoadError, match="no LoRA adapter"):
        logits(open_engine, llama[1], lora=save_mamba(tmp_path / "mamba.gguf"))


@pytest.mark.parametrize(
    "lora", [5, [5], [("a.gguf", "strong")], [("a.gguf", float("nan"))], {"a.gguf": 1}, b"a"]
)
def test_what_is_no_list_of_files_is_refused(llama, open_engine, lora):
    with pytest.raises(InvalidRequestError, match="lora"):
        logits(open_engine, llama[1], lora=lora)
