"""What fails, fails alone, and the engine goes on."""

from __future__ import annotations

import asyncio
import os

import numpy as np
import pytest
from gguf_models import save_mamba, with_tensor

from dcmodel import LLM
from dcmodel.backend import LoadedEngine, LoadOptions
from dcmodel.engine import Branches, GenerateBatch
from dcmodel.errors import (
    EngineError,
    InvalidRequestError,
    ModelLoadError,
    ModelNotFoundError,
    NonFiniteLogitsError,
)
from dcmodel.local import LocalDcModel
from dcmodel.types import GenerateRequest
from lmql_backends.llama_cpp import BACKEND

from .conftest import EXACT, rows_of, span_of

TOLERANCE = 1e-4
POISON = 77


class Aborting:
    """The library's own abort callback: it stops a decode in the middle, as often as it is told."""

    def __init__(self, engine):
        context = engine._context
        c = context.model.lib.c
        self.times = 0
        self.nodes = 0
        self._callback = c.ggml_abort_callback(self._is_over)
        c.llama_set_abort_callback(context.handle, self._callback, None)

    def _is_over(self, _):
        """Asked before each node of the graph: some are computed, then it stops."""
        self.nodes += 1
        if not self.times or self.nodes % 8:
            return False
        self.times -= 1
        return True


def test_a_decode_that_stops_in_the_middle_changes_nothing(engine, reference):
    a, b = engine.allocate(30), engine.allocate(30)
    first, second = list(range(5, 15)), list(range(40, 60))
    rows_of(engine, span_of(a, first), span_of(b, second[:8]))
    aborting = Aborting(engine)
    for _ in range(3):
        aborting.times = 1
        tree = Branches([9, 8, 7], [-1, 0, 0], [0, 1, 2])
        with pytest.raises(EngineError, match="was aborted"):
            rows_of(engine, span_of(a, [*first, 3], 10, branches=tree), span_of(b, second, 8))
    found = rows_of(engine, span_of(a, [*first, 3], 10), span_of(b, second, 8))
    np.testing.assert_allclose(found[0], reference([*first, 3])[10:], atol=TOLERANCE, rtol=0)
    np.testing.assert_allclose(found[1], reference(second)[8:], atol=TOLERANCE, rtol=0)


async def test_a_request_that_the_engine_cannot_compute_fails_alone(llama):
    loaded = BACKEND.load(os.fspath(llama[1]), LoadOptions(**EXACT))
    aborting, forward = Aborting(loaded.engine), loaded.engine.forward

    def forward_unless_poisoned(batch: GenerateBatch):
        aborting.times = sum(POISON in span.token_ids for span in batch.spans)
        return forward(batch)

    async def generate(model, prompt):
        return await model.generate(GenerateRequest(prompt_ids=prompt, max_tokens=12)).completion()

    prompts = [(5, 6, 7), (POISON, 6), (9, 10, 11, 12)]
    alone = LocalDcModel(BACKEND.load(os.fspath(llama[1]), LoadOptions(**EXACT)))
    expected = [await generate(alone, prompt) for prompt in (prompts[0], prompts[2])]
    await alone.aclose()
    loaded.engine.forward = forward_unless_poisoned
    model = LocalDcModel(loaded)
    found = await asyncio.gather(*(generate(model, prompt) for prompt in prompts), return_exceptions=True)
    await model.aclose()
    assert isinstance(found[1], EngineError)
    assert [found[0].token_ids, found[2].token_ids] == [item.token_ids for item in expected]


def _spoil(data):
    data[POISON] = np.nan


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_nan_in_one_sequence_spoils_no_other(open_engine, llama, reference, tmp_path, dtype):
    path = with_tensor(llama[1], tmp_path / "nan.gguf", "token_embd.weight", _spoil)
    engine = open_engine(path, dtype=dtype, max_sequences=8, kv_tokens=512)
    tolerance = TOLERANCE if dtype == "float32" else 0.1
    texts = [[*range(5, 25)], [4, POISON, 6, 9], [*range(30, 40)]]
    a, b, c = (engine.allocate(40) for _ in texts)
    found = rows_of(engine, span_of(a, texts[0]), span_of(b, texts[1]), span_of(c, texts[2]))
    assert np.isnan(found[1][-1]).all()
    for rows, text in ((found[0], texts[0]), (found[2], texts[2])):
        np.testing.assert_allclose(rows, reference(text), atol=tolerance, rtol=0)
    engine.free(b)
    d = engine.allocate(40)
    found = rows_of(
        engine, span_of(a, [*texts[0], 8], 20), span_of(d, texts[2]), span_of(c, [*texts[2], 9], 10)
    )
    np.testing.assert_allclose(found[0], reference([*texts[0], 8])[20:], atol=tolerance, rtol=0)
    np.testing.assert_allclose(found[1], reference(texts[2]), atol=tolerance, rtol=0)
    np.testing.assert_allclose(found[2], reference([*texts[2], 9])[10:], atol=tolerance, rtol=0)


def test_a_nan_that_nobody_asked_for_is_found_when_it_spoils_others(open_engine, llama, reference, tmp_path):
    path = with_tensor(llama[1], tmp_path / "nan.gguf", "token_embd.weight", _spoil)
    engine = open_engine(path, max_sequences=8, kv_tokens=512)
    a, b = engine.allocate(40), engine.allocate(40)
    rows_of(engine, span_of(b, [4, POISON, 6], wanted=[]))
    text = list(range(5, 25))
    for length in (10, 12, 20):
        start = {10: 0, 12: 10, 20: 12}[length]
        (rows,) = rows_of(engine, span_of(a, text[:length], start))
        np.testing.assert_allclose(rows, reference(text[:length])[start:], atol=TOLERANCE, rtol=0)


def test_a_prompt_with_a_nan_is_an_error_and_its_neighbours_finish(llama, tmp_path):
    path = with_tensor(llama[1], tmp_path / "nan.gguf", "token_embd.weight", _spoil)
    options = {"dtype": "float32", "device": "cpu"}
    prompts = [[5, 6, 7], [5, POISON, 7], [9, 10]]
    with LLM(path, **options) as llm, LLM(llama[1], **options) as plain:
        found = llm.generate(prompts, max_tokens=9, return_exceptions=True)
        expected = plain.generate([prompts[0], prompts[2]], max_tokens=9)
    assert isinstance(found[1], NonFiniteLogitsError)
    assert [found[0].token_ids, found[2].token_ids] == [item.token_ids for item in expected]


def test_a_recurrent_model_is_exact_too(open_engine, tmp_path):
    """Its state cannot be cut: what is taken back or copied in part is computed again."""
    engine = open_engine(save_mamba(tmp_path / "mamba.gguf"))
    assert not engine.capabilities.can_copy
    assert engine.capabilities.max_branch_tokens == 0
    rng = np.random.default_rng(0)
    texts = [rng.integers(0, 63, count).tolist() for count in (20, 7, 13)]

    def alone(text):
        sequence = engine.allocate(len(text))
        (rows,) = rows_of(engine, span_of(sequence, text))
        engine.free(sequence)
        return rows

    whole = [alone(text) for text in texts]
    a, b, c = (engine.allocate(40) for _ in texts)
    pairs = list(zip((a, b, c), texts, strict=True))
    starts = rows_of(engine, *(span_of(handle, text[:5]) for handle, text in pairs))
    ends = rows_of(engine, *(span_of(handle, text, 5) for handle, text in pairs))
    for rows, start, end in zip(whole, starts, ends, strict=True):
        np.testing.assert_allclose(np.concatenate([start, end]), rows, atol=TOLERANCE, rtol=0)
    engine.truncate(a, 10)
    part, all_of_it = engine.allocate(40), engine.allocate(40)
    engine.copy(a, part, 6)
    engine.copy(b, all_of_it, 7)
    spans = (span_of(a, texts[0], 10), span_of(part, texts[0], 6), span_of(all_of_it, [*texts[1], 3], 7))
    for rows, expected in zip(
        rows_of(engine, *spans), (whole[0][10:], whole[0][6:], alone([*texts[1], 3])[7:]), strict=True
    ):
        np.testing.assert_allclose(rows, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(
    ("content", "error", "reason"),
    [
        (None, ModelNotFoundError, "there is no file"),
        (b"", ModelLoadError, "no GGUF file"),
        (b"PK\x03\x04 a zip file", ModelLoadError, "no GGUF file"),
        (b"GGUF", ModelLoadError, "cannot load"),
        (b"GGUF\x03\x00\x00\x00 and nothing sensible", ModelLoadError, "cannot load"),
        ("cut", ModelLoadError, "cannot load"),
    ],
)
def test_a_file_that_is_none_is_named(llama, tmp_path, content, error, reason):
    path = tmp_path / "model.gguf"
    if content == "cut":
        path.write_bytes(llama[1].read_bytes()[:-5000])
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(error, match=reason) as caught, LLM(path) as llm:
        llm.generate("a")
    assert "model.gguf" in str(caught.value)


def test_a_context_beyond_the_memory_is_refused_before_it_is_made(open_engine):
    with pytest.raises(ModelLoadError, match=r"tokens of KV take .* GB"):
        open_engine(kv_tokens=1 << 29)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"max_sequences": 300}, "at most 256"),
        ({"dtype": "int8"}, "dtype is 'int8'"),
        ({"device": "cuda:x"}, "number of a device"),
        ({"extra": {"n_thread": 2}}, "no option 'n_thread'"),
        ({"extra": {"n_threads": 0}}, "at least 1"),
        ({"extra": {"n_threads": "two"}}, "a whole number"),
        ({"extra": {"type_k": "q9"}}, "one of f32"),
        ({"extra": {"flash_attn": "off", "type_v": "q8_0"}}, "flash attention"),
        ({"extra": {"rope_freq_scale": "half"}}, "a number"),
        ({"extra": {"offload_kqv": 1}}, "True or False"),
        ({"extra": {"tensor_split": "1,2"}}, "list of numbers"),
    ],
)
def test_options_that_cannot_be_are_refused(open_engine, options, reason):
    with pytest.raises(InvalidRequestError, match=reason):
        open_engine(**options)


def test_a_device_that_the_build_lacks_is_named(open_engine):
    import llama_cpp

    if llama_cpp.llama_supports_gpu_offload():
        pytest.skip("this build has a GPU")
    with pytest.raises(ModelLoadError, match="built for the CPU only"):
        open_engine(device="cuda")


@pytest.mark.parametrize("kv", ["f16", "bf16"])
def test_other_kinds_of_kv_are_near(open_engine, reference, kv):
    engine = open_engine(dtype=None, extra={"n_threads": 1, "type_k": kv, "type_v": kv})
    text = list(range(5, 60))
    (rows,) = rows_of(engine, span_of(engine.allocate(60), text))
    assert np.abs(rows - reference(text)).max() < 0.3
    assert np.abs(rows - reference(text)).max() > 0


def test_close_gives_the_memory_back(llama):
    loaded = BACKEND.load(os.fspath(llama[1]), LoadOptions(**EXACT))
    assert isinstance(loaded, LoadedEngine)
    model = loaded.engine._context.model
    loaded.engine.close()
    assert not model._finalizer.alive
    assert not loaded.engine._context._finalizer.alive
    assert loaded.tokenizer.encode("still there")


def test_files_and_folders_of_gguf_are_claimed_and_others_are_not(llama, tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    for name in ("model.gguf", "MODEL.GGUF", "org/repo/model.gguf", str(tmp_path)):
        assert BACKEND.claims(name), name
    # `llama` is a checkpoint that also holds its GGUF.
    for name in ("org/repo", "embedded", str(llama[0]), str(tmp_path / "none")):
        assert not BACKEND.claims(name), name
