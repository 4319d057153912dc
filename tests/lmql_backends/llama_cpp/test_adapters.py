"""An adapter gives what weights give into which it was merged."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import rows_of, span_of
from gguf_files import save_adapter
from gguf_models import with_tensor

from dcmodel.errors import InvalidRequestError, ModelLoadError, ModelNotFoundError

TOLERANCE = 1e-4
TEXT = [*range(5, 40)]
WIDTH, KV_WIDTH, INNER = 64, 32, 128
RANK, ALPHA = 4, 6.0
SHAPES = {
    "blk.0.attn_q.weight": (WIDTH, WIDTH),
    "blk.1.attn_v.weight": (KV_WIDTH, WIDTH),
    "blk.2.ffn_down.weight": (WIDTH, INNER),
}


def random_pairs(seed, names=tuple(SHAPES), rank=RANK):
    rng = np.random.default_rng(seed)
    return {
        name: (
            rng.standard_normal((rank, SHAPES[name][1])) * 0.2,
            rng.standard_normal((SHAPES[name][0], rank)) * 0.2,
        )
        for name in names
    }


@pytest.fixture
def merged(llama, tmp_path):
    """Writes the random Llama with ``(pairs, factor)`` added to its weights."""

    def merge(*parts):
        path = llama[1]
        for index, (pairs, factor) in enumerate(parts):
            for number, (name, (a, b)) in enumerate(pairs.items()):

                def change(data, delta=factor * (b @ a)):
                    data += delta.astype(np.float32)

                path = with_tensor(path, tmp_path / f"merged-{index}-{number}.gguf", name, change)
        return path

    return merge


def logits(open_engine, path=None, *, lora=None):
    extra = {"n_threads": 1, **({} if lora is None else {"lora": lora})}
    engine = open_engine(path, extra=extra, max_sequences=4, kv_tokens=256)
    (rows,) = rows_of(engine, span_of(engine.allocate(len(TEXT)), TEXT))
    return rows


def test_an_adapter_is_the_merged_weights(open_engine, merged, tmp_path):
    pairs = random_pairs(0)
    path = save_adapter(tmp_path / "lora.gguf", pairs, alpha=ALPHA)
    expected = logits(open_engine, merged((pairs, ALPHA / RANK)))
    plain = logits(open_engine)
    assert np.abs(expected - plain).max() > 0.1
    for lora in (path, str(path), [path], [(str(path), 1.0)], [[path, 1]]):
        np.testing.assert_allclose(logits(open_engine, lora=lora), expected, atol=TOLERANCE, rtol=0)


def test_without_an_alpha_the_product_itself_is_added(open_engine, merged, tmp_path):
    pairs = random_pairs(1)
    path = save_adapter(tmp_path / "lora.gguf", pairs)
    found = logits(open_engine, lora=path)
    np.testing.assert_allclose(found, logits(open_engine, merged((pairs, 1.0))), atol=TOLERANCE, rtol=0)


def test_a_scale_is_a_factor(open_engine, merged, tmp_path):
    pairs = random_pairs(2)
    path = save_adapter(tmp_path / "lora.gguf", pairs, alpha=ALPHA)
    for scale in (0.5, -1.0):
        expected = logits(open_engine, merged((pairs, scale * ALPHA / RANK)))
        found = logits(open_engine, lora=[(path, scale)])
        np.testing.assert_allclose(found, expected, atol=TOLERANCE, rtol=0)
    for nothing in ([(path, 0)], []):
        found = logits(open_engine, lora=nothing)
        np.testing.assert_allclose(found, logits(open_engine), atol=TOLERANCE, rtol=0)


def test_several_adapters_add_up(open_engine, merged, tmp_path):
    first, second = random_pairs(3), random_pairs(4, ["blk.0.attn_q.weight"], rank=2)
    one = save_adapter(tmp_path / "one.gguf", first, alpha=ALPHA)
    two = save_adapter(tmp_path / "two.gguf", second)
    expected = logits(open_engine, merged((first, ALPHA / RANK), (second, 0.25)))
    found = logits(open_engine, lora=[one, (two, 0.25)])
    np.testing.assert_allclose(found, expected, atol=TOLERANCE, rtol=0)


def test_a_file_that_is_not_there_is_named(open_engine, tmp_path):
    with pytest.raises(ModelNotFoundError, match=r"no file .*none\.gguf"):
        open_engine(extra={"lora": tmp_path / "none.gguf"})
    with pytest.raises(ModelNotFoundError, match="no file"):
        open_engine(extra={"lora": tmp_path})


def test_a_file_that_is_no_adapter_is_refused(open_engine, llama, tmp_path):
    text = tmp_path / "text.gguf"
    text.write_text("no adapter")
    with pytest.raises(ModelLoadError, match=r"text\.gguf is no GGUF file"):
        open_engine(extra={"lora": text})
    with pytest.raises(ModelLoadError, match=r"no LoRA adapter for model\.gguf: .*general\.type"):
        open_engine(extra={"lora": llama[1]})
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(save_adapter(tmp_path / "lora.gguf", random_pairs(0)).read_bytes()[:-2000])
    with pytest.raises(ModelLoadError, match=r"cut\.gguf is no LoRA adapter"):
        open_engine(extra={"lora": cut})


def test_an_adapter_of_another_model_is_refused(open_engine, tmp_path):
    def refused(reason, pairs, **more):
        path = save_adapter(tmp_path / "lora.gguf", pairs, **more)
        with pytest.raises(ModelLoadError, match=reason) as caught:
            open_engine(extra={"lora": path})
        assert "convert_lora_to_gguf.py" in str(caught.value)

    name = "blk.0.attn_q.weight"
    a, b = random_pairs(0)[name]
    refused("arch mismatch", {name: (a, b)}, architecture="qwen2")
    refused("incorrect shape", {name: (a[:, :32], b)})
    refused("not transposed", {name: (a[:2], b)})
    refused("does not exist", {"blk.9.attn_q.weight": (a, b)})


@pytest.mark.parametrize(
    "lora",
    [7, {"file": 1.0}, [3], [("a.gguf", "half")], [("a.gguf", True)], [("a.gguf", 1.0, 2)], [(None, 1.0)]],
)
def test_values_that_name_no_adapter_are_refused(open_engine, lora):
    with pytest.raises(InvalidRequestError, match=r"lora is .*\(file, scale\)"):
        open_engine(extra={"lora": lora})
